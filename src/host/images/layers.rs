//! Unpacked layers: made in `tmp`, synced, renamed. A layer that has its name is whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use log::warn;
use nix::unistd::syncfs;

use super::error::{ImageError, Result};
use super::record::{self, LayerRecord, StoredLayer};
use super::store::{Claim, Inner, not_found};
use super::unpack::unpack;
use crate::host::failpoint::{self, Point};
use crate::model::digest::Digest;

impl Inner {
    /// What is known of an unpacked layer; none when it is not here.
    pub(super) fn layer(&self, diff_id: &Digest) -> Result<Option<StoredLayer>> {
        let fs_path = self.layer_fs(diff_id);
        if !fs_path.is_dir() {
            return Ok(None);
        }
        let path = fs_path.with_file_name("layer");
        let why = match record::read::<StoredLayer>(&path) {
            Ok(Some(layer)) if layer.diff_id == *diff_id => return Ok(Some(layer)),
            Ok(Some(_)) => "it is of another layer".to_owned(),
            Ok(None) => "it is missing".to_owned(),
            Err(ImageError::Damaged { why, .. }) => why,
            Err(e) => return Err(e),
        };
        // The directory is whole (it has its name); only the note beside it has to be made again.
        warn!("{} is damaged ({why}): made again", path.display());
        let bytes = measure(&fs_path).map_err(|e| ImageError::io("measure", &fs_path, e))?;
        let layer = StoredLayer { diff_id: *diff_id, bytes };
        record::write(&path, &layer)?;
        Ok(Some(layer))
    }

    /// Unpacks a layer that is not here, by the thread that has claimed it. `want` is what the
    /// configuration says it is.
    pub(super) fn make_layer(&self, want: Digest, source: impl Read) -> Result<StoredLayer> {
        let temp = self.temp("layer");
        let fs_path = temp.0.join("fs");
        fs::create_dir_all(&fs_path).map_err(|e| ImageError::io("make", &fs_path, e))?;
        set_mode(&fs_path, 0o755)?;
        let unpacked = unpack(source, &fs_path, self.limits())?;
        failpoint::hit(Point::ImageUnpacked);
        let diff_id = unpacked.diff_id;
        if want != diff_id {
            let what = "the unpacked layer".to_owned();
            return Err(ImageError::DigestMismatch { what, want, got: diff_id });
        }
        let layer = StoredLayer { diff_id, bytes: unpacked.bytes };
        record::write_lazily(&temp.0.join("layer"), &layer)?;
        let sync = || -> io::Result<()> { Ok(syncfs(File::open(&temp.0)?)?) };
        sync().map_err(|e| ImageError::io("sync", &temp.0, e))?;
        failpoint::hit(Point::ImageSynced);
        self.publish(&temp.0, &self.root.join("layers").join(diff_id.hex()))?;
        Ok(layer)
    }

    /// Unpacks a layer again whose directory is gone.
    pub(super) fn restore_layer(&self, layer: &LayerRecord) -> Result<()> {
        let _claimed = self.claim(Claim::Layer(layer.diff_id));
        if self.layer(&layer.diff_id)?.is_some() {
            return Ok(());
        }
        let gone = || not_found(&format!("layer {}", layer.diff_id));
        let blob = layer.blob.ok_or_else(gone)?;
        let path = self.blob_path(&blob);
        warn!("layer {} is gone: unpacking it again", layer.diff_id);
        self.verify_blob(&blob)?;
        let file = File::open(&path).map_err(|e| ImageError::io("open", &path, e))?;
        self.make_layer(layer.diff_id, file).map(drop)
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|e| ImageError::io("set the mode of", path, e))
}

/// Bytes of the regular files below a directory.
fn measure(path: &Path) -> io::Result<u64> {
    let mut pending = vec![path.to_owned()];
    let mut bytes = 0;
    while let Some(directory) = pending.pop() {
        for item in fs::read_dir(directory)? {
            let item = item?;
            let meta = item.metadata()?;
            if meta.is_dir() {
                pending.push(item.path());
            } else if meta.is_file() {
                bytes += meta.len();
            }
        }
    }
    Ok(bytes)
}
