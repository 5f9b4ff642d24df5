//! Loads images from an archive: what `docker save` writes, or an OCI layout in a tar; plain,
//! gzip or zstd. The stream is read once, from a file or a socket.
//!
//! An archive names its files in any order, so every file goes to `tmp` first, its digest taken
//! on the way; what the manifests then name becomes blobs and layers, the rest is dropped.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;

use super::blobs::{BlobWriter, Staged};
use super::decode;
use super::error::{ImageError, Result};
use super::manifest::{self, Descriptor, Document, Manifest};
use super::pull::{PullEvent, check_configuration};
use super::store::{Claim, ImageStore, Inner, Pins};
use super::tar_stream::{Kind, TarStream, read_failed};
use super::unpack::PATH_BYTES_MAX;
use crate::model::digest::Digest;
use crate::model::image_ref::Reference;

/// What one line of the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadedName {
    /// `Loaded image: nginx:alpine`.
    Tag(String),
    /// `Loaded image ID: sha256:…`: the archive gives it no name.
    Id(Digest),
}

impl std::fmt::Display for LoadedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(name) => write!(f, "Loaded image: {name}"),
            Self::Id(id) => write!(f, "Loaded image ID: {id}"),
        }
    }
}

/// How many symbolic links one file of an archive may be behind; `docker save` makes one.
const LINKS_MAX: usize = 8;

/// Bytes of the names of all files of an archive and of what its links name.
const NAMES_BYTES_MAX: usize = 16 << 20;

const ANNOTATION_NAME: &str = "io.containerd.image.name";
const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";

/// `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The files of an archive, in `tmp`.
#[derive(Default)]
struct Archive {
    files: BTreeMap<String, Staged>,
    links: BTreeMap<String, String>,
}

/// An image that an archive names; its documents have yet to be read.
enum Wanted {
    Docker(DockerManifest),
    Oci(Descriptor),
}

/// An image of an archive before it is in the store.
struct Found {
    manifest: Manifest,
    /// As it came, or made here for `docker save`'s form, which has none: other nodes and the
    /// recovery of a damaged record want one.
    manifest_bytes: Vec<u8>,
    config_bytes: Vec<u8>,
    /// Where each layer is in the archive, lowest first.
    layer_files: Vec<String>,
    names: Vec<Reference>,
}

impl ImageStore {
    /// Loads every image of the archive that `source` holds.
    ///
    /// # Errors
    /// The archive is not legal, lies about sizes, digests or paths, or exceeds a limit; nothing
    /// of it is left then.
    pub fn load(
        &self,
        source: impl Read,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<Vec<LoadedName>> {
        let result = self.inner.load(source, progress);
        if result.is_err() {
            self.inner.collect_orphans()?;
        }
        result
    }
}

impl Inner {
    fn load(
        self: &Arc<Self>,
        source: impl Read,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<Vec<LoadedName>> {
        let archive = self.stage(source)?;
        let wanted = if archive.has("manifest.json") {
            self.docker_images(&archive)?
        } else if archive.has("index.json") {
            self.oci_images(&archive)?
        } else {
            let why = "it has neither manifest.json (docker save) nor index.json (OCI layout)";
            return Err(ImageError::archive(b"", why));
        };
        if wanted.len() > self.limits().archive_images_max {
            return Err(ImageError::Limit {
                what: "the archive".to_owned(),
                limit: self.limits().archive_images_max as u64,
                unit: "images",
            });
        }
        // All of them are made before the first gets its name. The documents of one are in memory
        // at a time, so they are read twice.
        let mut pins = self.pin([]);
        for one in &wanted {
            self.make_layers(&archive, &self.found(&archive, one)?, &mut pins, progress)?;
        }
        let mut loaded = Vec::new();
        for one in &wanted {
            self.publish_found(self.found(&archive, one)?, &mut loaded, progress)?;
        }
        drop(pins);
        Ok(loaded)
    }

    /// Reads the whole archive into `tmp`.
    fn stage(&self, source: impl Read) -> Result<Archive> {
        let limits = self.limits();
        let plain = decode::plain(source).map_err(read_failed)?;
        let mut tar = TarStream::new(plain);
        let mut archive = Archive::default();
        let (mut entries, mut bytes, mut names) = (0, 0, 0);
        while let Some(entry) = tar.next_entry()? {
            entries += 1;
            if entries > limits.archive_entries_max {
                let (what, limit) = ("the archive".to_owned(), limits.archive_entries_max);
                return Err(ImageError::Limit { what, limit, unit: "entries" });
            }
            let name = clean(&entry.path)?;
            names += name.len() + entry.link.len();
            if names > NAMES_BYTES_MAX {
                let (what, limit) = ("the archive".to_owned(), NAMES_BYTES_MAX as u64);
                return Err(ImageError::Limit { what, limit, unit: "bytes of names" });
            }
            let is_known = archive.files.contains_key(&name) || archive.links.contains_key(&name);
            match entry.kind {
                Kind::Directory => {}
                _ if is_known => {
                    return Err(ImageError::archive(&entry.path, "its name is there twice"));
                }
                Kind::Regular => {
                    let mut writer = BlobWriter::new(self)?;
                    let left = limits.archive_bytes_max - bytes;
                    writer.copy_from(&mut tar, left.min(limits.blob_bytes_max), "the archive")?;
                    bytes += writer.bytes();
                    archive.files.insert(name, writer.stage());
                }
                Kind::Symlink => {
                    let target = relative(&name, &entry.link)
                        .ok_or_else(|| ImageError::archive(&entry.path, "it links out of it"))?;
                    archive.links.insert(name, target);
                }
                Kind::HardLink => {
                    archive.links.insert(name, clean(&entry.link)?);
                }
                Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                    return Err(ImageError::archive(&entry.path, "it is a device"));
                }
            }
        }
        Ok(archive)
    }

    /// The images that `manifest.json` names.
    fn docker_images(&self, archive: &Archive) -> Result<Vec<Wanted>> {
        let bytes = self.document(archive, "manifest.json")?;
        let list: Vec<DockerManifest> =
            serde_json::from_slice(&bytes).map_err(|e| ImageError::manifest("manifest.json", e))?;
        Ok(list.into_iter().map(Wanted::Docker).collect())
    }

    /// Reads and checks the documents of one image.
    fn found(&self, archive: &Archive, wanted: &Wanted) -> Result<Found> {
        match wanted {
            Wanted::Docker(manifest) => self.docker_image(archive, manifest),
            Wanted::Oci(descriptor) => self.oci_image(archive, descriptor),
        }
    }

    fn docker_image(&self, archive: &Archive, one: &DockerManifest) -> Result<Found> {
        let config_bytes = self.document(archive, &one.config)?;
        let descriptor = |name: &str| {
            let staged = archive.file(name)?;
            Ok(Descriptor {
                media_type: self.media_type(staged)?.to_owned(),
                digest: staged.digest,
                size: staged.bytes,
                platform: None,
                annotations: BTreeMap::new(),
            })
        };
        let mut config = descriptor(&one.config)?;
        manifest::CONFIG_TYPE.clone_into(&mut config.media_type);
        // Docker names the file after its digest; a name that says another digest is a lie.
        let stem = one.config.strip_suffix(".json").unwrap_or(&one.config);
        let stem = stem.rsplit('/').next().unwrap_or_default();
        if let Some(want) = Digest::from_hex(stem)
            && want != config.digest
        {
            let what = format!("configuration {}", one.config);
            return Err(ImageError::DigestMismatch { what, want, got: config.digest });
        }
        if one.layers.len() > self.limits().layers_max {
            let limit = self.limits().layers_max as u64;
            let what = "manifest.json: the number of layers".to_owned();
            return Err(ImageError::Limit { what, limit, unit: "layers" });
        }
        let layers: Vec<_> = one.layers.iter().map(|name| descriptor(name)).collect::<Result<_>>()?;
        let names = one.repo_tags.as_deref().unwrap_or_default();
        let names = names.iter().map(|name| Ok(Reference::parse(name)?.with_default_tag()));
        let manifest = Manifest { config, layers };
        Ok(Found {
            manifest_bytes: manifest.to_json(),
            manifest,
            config_bytes,
            layer_files: one.layers.clone(),
            names: names.collect::<Result<_>>()?,
        })
    }

    /// What a layer is called in a manifest.
    fn media_type(&self, staged: &Staged) -> Result<&'static str> {
        let mut magic = Vec::new();
        staged.open(self)?.take(4).read_to_end(&mut magic).map_err(read_failed)?;
        Ok(match magic[..] {
            [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
            [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => "application/vnd.oci.image.layer.v1.tar",
        })
    }

    /// The images that `index.json` names, for this machine.
    fn oci_images(&self, archive: &Archive) -> Result<Vec<Wanted>> {
        let bytes = self.document(archive, "index.json")?;
        let Document::Index(index) = manifest::read_document(&bytes, "index.json", self.limits())?
        else {
            return Err(ImageError::manifest("index.json", "it is not an index"));
        };
        let is_named = |d: &Descriptor| name_of(d).is_some();
        // Without names, the index is one image for several platforms.
        if index.len() > 1 && !index.iter().any(is_named) {
            return Ok(vec![Wanted::Oci(manifest::choose(&index, &self.platform)?.clone())]);
        }
        Ok(index.into_iter().map(Wanted::Oci).collect())
    }

    fn oci_image(&self, archive: &Archive, descriptor: &Descriptor) -> Result<Found> {
        let (manifest, manifest_bytes) = self.oci_manifest(archive, descriptor)?;
        let config_bytes = self.blob_document(archive, &manifest.config)?;
        let layer_files = manifest.layers.iter().map(|layer| blob_name(&layer.digest));
        Ok(Found {
            layer_files: layer_files.collect(),
            manifest,
            manifest_bytes,
            config_bytes,
            names: name_of(descriptor).into_iter().collect(),
        })
    }

    /// Follows a descriptor through at most one more index.
    fn oci_manifest(&self, archive: &Archive, top: &Descriptor) -> Result<(Manifest, Vec<u8>)> {
        let bytes = self.blob_document(archive, top)?;
        let what = format!("manifest {}", top.digest);
        match manifest::read_document(&bytes, &what, self.limits())? {
            Document::Image(manifest) => Ok((manifest, bytes)),
            Document::Index(index) => {
                let chosen = manifest::choose(&index, &self.platform)?;
                let bytes = self.blob_document(archive, chosen)?;
                match manifest::read_document(&bytes, &what, self.limits())? {
                    Document::Image(manifest) => Ok((manifest, bytes)),
                    Document::Index(_) => {
                        Err(ImageError::manifest(what, "an index inside an index inside an index"))
                    }
                }
            }
        }
    }

    /// Makes blobs and layers of an image be here, pinned.
    fn make_layers(
        self: &Arc<Self>,
        archive: &Archive,
        image: &Found,
        pins: &mut Pins,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<()> {
        let what = format!("image {}", image.manifest.config.digest);
        let configuration = check_configuration(&image.config_bytes, &image.manifest, &what)?;
        pins.add([image.manifest.config.digest]);
        pins.add(configuration.diff_ids.iter().copied());
        pins.add(image.manifest.layers.iter().map(|layer| layer.digest));
        pins.add([decode::digest_of(&image.manifest_bytes)]);
        let layers = image.manifest.layers.iter().zip(&image.layer_files);
        for ((layer, file), diff_id) in layers.zip(&configuration.diff_ids) {
            let staged = archive.file(file)?;
            let what = format!("layer {}", layer.digest);
            let _claimed = self.claim(Claim::Layer(*diff_id));
            super::blobs::verify(&what, layer.digest, layer.size, staged.digest, staged.bytes)?;
            if self.layer(diff_id)?.is_none() {
                let id = Some(diff_id.short());
                progress(PullEvent::new(id, "Loading layer"));
                self.make_layer(*diff_id, staged.open(self)?)?;
            }
            staged.commit(self, &what, None)?;
        }
        self.store_blob(&image.manifest.config.digest, &image.config_bytes)?;
        self.store_blob(&decode::digest_of(&image.manifest_bytes), &image.manifest_bytes)
    }

    fn publish_found(
        &self,
        image: Found,
        loaded: &mut Vec<LoadedName>,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<()> {
        let id = image.manifest.config.digest;
        let what = format!("image {id}");
        let configuration = check_configuration(&image.config_bytes, &image.manifest, &what)?;
        let manifest_digest = Some(decode::digest_of(&image.manifest_bytes));
        for name in &image.names {
            let old = self.lock().names.get(&name.canonical()).copied();
            if let Some(old) = old.filter(|old| *old != id) {
                let status = format!(
                    "The image {name} already exists, renaming the old one with ID {old} to empty \
                     string"
                );
                progress(PullEvent::new(None, status));
            }
        }
        let names: Vec<String> = image.names.iter().map(Reference::canonical).collect();
        let stored = self.image_of(id, configuration, &image.manifest, manifest_digest)?;
        self.commit(stored, &names)?;
        if image.names.is_empty() {
            loaded.push(LoadedName::Id(id));
        }
        loaded.extend(image.names.iter().map(|name| LoadedName::Tag(name.to_string())));
        Ok(())
    }

    /// A small file of the archive.
    fn document(&self, archive: &Archive, name: &str) -> Result<Vec<u8>> {
        let staged = archive.file(name)?;
        let max = self.limits().document_bytes_max;
        if staged.bytes > max {
            let what = format!("{name} in the archive");
            return Err(ImageError::Limit { what, limit: max, unit: "bytes" });
        }
        let mut bytes = Vec::new();
        staged.open(self)?.read_to_end(&mut bytes).map_err(read_failed)?;
        Ok(bytes)
    }

    /// A small blob of an OCI layout, its digest and size checked.
    fn blob_document(&self, archive: &Archive, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let name = blob_name(&descriptor.digest);
        let staged = archive.file(&name)?;
        let what = format!("blob {}", descriptor.digest);
        super::blobs::verify(
            &what,
            descriptor.digest,
            descriptor.size,
            staged.digest,
            staged.bytes,
        )?;
        self.document(archive, &name)
    }
}

impl Archive {
    fn has(&self, name: &str) -> bool {
        self.file(name).is_ok()
    }

    /// A file by its name, through the archive's own links.
    fn file(&self, name: &str) -> Result<&Staged> {
        let mut at = clean(name.as_bytes())?;
        for _ in 0..LINKS_MAX {
            if let Some(staged) = self.files.get(&at) {
                return Ok(staged);
            }
            let Some(next) = self.links.get(&at) else { break };
            at.clone_from(next);
        }
        Err(ImageError::archive(b"", format!("it names the file {name:?}, which is not in it")))
    }
}

/// A name in the archive without `.` and empty parts; `..`, odd bytes and what could be no file's
/// name are refused.
fn clean(path: &[u8]) -> Result<String> {
    if path.len() > PATH_BYTES_MAX {
        return Err(ImageError::archive(&path[..64], "its name is too long"));
    }
    let text = std::str::from_utf8(path)
        .map_err(|_odd| ImageError::archive(path, "its name is not UTF-8"))?;
    let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(ImageError::archive(path, "its path leaves the archive"));
    }
    Ok(parts.join("/"))
}

/// Where a symbolic link at `name` leads within the archive.
fn relative(name: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    if target.starts_with('/') || target.len() > PATH_BYTES_MAX {
        return None;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The name a layout gives an image; a bare tag is none.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotation = |key: &str| descriptor.annotations.get(key);
    let name = annotation(ANNOTATION_NAME)
        .or_else(|| annotation(ANNOTATION_REF).filter(|name| name.contains([':', '/'])))?;
    Reference::parse(name).ok().filter(|r| r.digest().is_none()).map(Reference::with_default_tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_archives_stay_inside() {
        assert_eq!(clean(b"./a//b/./c").unwrap(), "a/b/c");
        assert_eq!(clean(b"/a").unwrap(), "a");
        assert!(clean(b"a/../../b").is_err());
        assert!(clean(b"\xff").is_err());
        assert_eq!(clean(&[b'a'; PATH_BYTES_MAX]).unwrap().len(), PATH_BYTES_MAX);
        assert!(clean(&[b'a'; PATH_BYTES_MAX + 1]).is_err());
        assert_eq!(relative("x", &[b'a'; PATH_BYTES_MAX + 1]), None);
        assert_eq!(relative("x/layer.tar", b"../y/layer.tar").as_deref(), Some("y/layer.tar"));
        assert_eq!(relative("x/layer.tar", b"../../etc/passwd"), None);
        assert_eq!(relative("x", b"/etc/passwd"), None);
    }
}
