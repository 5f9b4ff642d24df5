//! Reads the store's state files at the start, and makes damaged ones again where a good copy
//! exists: records from the image's own blobs, names from their predecessor. What cannot be made
//! again is put aside under another name and told in the log.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use log::{error, warn};

use super::decode::digest_of;
use super::error::{ImageError, Result};
use super::manifest::{self, Document};
use super::record::{self, LayerRecord, StoredImage, StoredNames};
use super::store::{Inner, ignore_missing, not_found};
use crate::model::digest::Digest;

impl Inner {
    pub(super) fn read_records(&self) -> Result<BTreeMap<Digest, Arc<StoredImage>>> {
        let directory = self.root.join("records");
        let io = |e| ImageError::io("read", &directory, e);
        let mut images = BTreeMap::new();
        for item in fs::read_dir(&directory).map_err(io)? {
            let path = item.map_err(io)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(id) = Digest::from_hex(name) else {
                drop_leftover(&path);
                continue;
            };
            let image = match record::read::<StoredImage>(&path) {
                Ok(Some(image)) if image.id == id => Some(image),
                Ok(_) => self.rebuild(id, &path, "it is of another image"),
                Err(ImageError::Damaged { why, .. }) => self.rebuild(id, &path, &why),
                Err(e) => return Err(e),
            };
            if let Some(image) = image {
                images.insert(id, Arc::new(image));
            }
        }
        Ok(images)
    }

    /// Makes a damaged record again from the blobs it was made of, or puts it aside.
    fn rebuild(&self, id: Digest, path: &Path, why: &str) -> Option<StoredImage> {
        match self.record_of_blobs(id) {
            Ok(image) => {
                warn!("{} is damaged ({why}): recovered from the image's blobs", path.display());
                if let Err(e) = record::write(path, &image) {
                    error!("cannot write {} again: {e}", path.display());
                }
                Some(image)
            }
            Err(e) => {
                error!(
                    "{} is damaged ({why}) and cannot be recovered ({e}): image {} is gone, pull \
                     or load it again",
                    path.display(),
                    id.short()
                );
                put_aside(path);
                None
            }
        }
    }

    fn record_of_blobs(&self, id: Digest) -> Result<StoredImage> {
        let configuration = manifest::read_configuration(&self.read_blob(&id)?, "configuration")?;
        let found = self.manifest_of(id)?;
        let blob_of = |index: usize| Some(found.as_ref()?.1.layers.get(index)?.digest);
        let mut layers = Vec::new();
        for (index, diff_id) in configuration.diff_ids.iter().enumerate() {
            let layer = self.layer(diff_id)?.ok_or_else(|| not_found(&diff_id.to_string()))?;
            layers.push(LayerRecord { diff_id: *diff_id, blob: blob_of(index), bytes: layer.bytes });
        }
        Ok(StoredImage {
            id,
            created: configuration.created,
            platform: configuration.platform,
            config: configuration.config,
            layers,
            manifest: found.map(|(digest, _)| digest),
            has_config_blob: true,
        })
    }

    /// Looks through the small blobs for the manifest of a configuration.
    fn manifest_of(&self, id: Digest) -> Result<Option<(Digest, manifest::Manifest)>> {
        for (digest, path, bytes) in self.list_blobs()? {
            if bytes > self.limits().document_bytes_max {
                continue;
            }
            let data = fs::read(&path).map_err(|e| ImageError::io("read", &path, e))?;
            if data.first() != Some(&b'{') || digest_of(&data) != digest {
                continue;
            }
            if let Ok(Document::Image(found)) =
                manifest::read_document(&data, "manifest", self.limits())
                && found.config.digest == id
            {
                return Ok(Some((digest, found)));
            }
        }
        Ok(None)
    }

    pub(super) fn read_names(
        &self,
        images: &BTreeMap<Digest, Arc<StoredImage>>,
    ) -> Result<BTreeMap<String, Digest>> {
        let path = self.root.join("names");
        let mut names = match record::read_with_previous::<StoredNames>(&path) {
            Ok(None) => return Ok(BTreeMap::new()),
            Ok(Some((stored, None))) => stored.names,
            Ok(Some((stored, Some(why)))) => {
                warn!("{why}: using the names before the last change");
                put_aside(&path);
                record::write(&path, &stored)?;
                stored.names
            }
            Err(ImageError::Damaged { path: _, why }) => {
                error!("{} is damaged ({why}): images have no names now", path.display());
                put_aside(&path);
                BTreeMap::new()
            }
            Err(e) => return Err(e),
        };
        names.retain(|_, id| images.contains_key(id));
        Ok(names)
    }
}


fn put_aside(path: &Path) {
    let aside = path.with_extension("damaged");
    if let Err(e) = ignore_missing(fs::rename(path, &aside)) {
        warn!("cannot rename {} to {}: {e}", path.display(), aside.display());
    }
}

/// Removes what a power cut left of a file that was being written.
fn drop_leftover(path: &Path) {
    if path.extension().is_some_and(|extension| extension == "tmp")
        && let Err(e) = fs::remove_file(path)
    {
        warn!("cannot remove {}: {e}", path.display());
    }
}
