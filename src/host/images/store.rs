//! The store: which images there are, what they are called, and who needs them.
//!
//! Not here: how images come (`pull`, `load`, `hello`) and go (`gc`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use log::warn;

use super::auth::Kept;
use super::error::{ImageError, Result};
use super::hello::Hello;
use super::limits::Limits;
use super::platform::Platform;
use super::record::{self, ImageRecord, LayerRecord, StoredImage, StoredNames};
use super::registry::RegistryConfig;
use crate::host::failpoint::{self, Point};
use crate::host::tree::remove_tree;
use crate::model::digest::Digest;
use crate::model::image_ref::Reference;

/// The images of one data root. Clones share it.
#[derive(Clone)]
pub struct ImageStore {
    pub(super) inner: Arc<Inner>,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    pub(super) root: PathBuf,
    pub(super) platform: Platform,
    pub(super) registry: RegistryConfig,
    pub(super) hello: Mutex<Option<Hello>>,
    pub(super) credentials: Mutex<Kept>,
    state: Mutex<State>,
    changed: Condvar,
    temp_counter: AtomicU64,
}

/// Names, records and what keeps them.
#[derive(Default)]
pub(super) struct State {
    pub(super) names: BTreeMap<String, Digest>,
    pub(super) images: BTreeMap<Digest, Arc<StoredImage>>,
    pub(super) leases: BTreeMap<Digest, u32>,
    /// Blobs and layers that a pull or load in flight counts on.
    pub(super) pins: BTreeMap<Digest, u32>,
    /// Blobs and layers that are being made right now, each by one thread.
    busy: BTreeSet<Claim>,
    /// Layers that are being fetched, over all pulls.
    fetching: usize,
}

/// What only one thread makes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    Blob(Digest),
    Layer(Digest),
}

/// Keeps an image while it lives. Whoever creates a container takes one before its folder exists
/// and drops it after.
pub struct Lease {
    inner: Arc<Inner>,
    id: Digest,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ImageStore {
    /// Opens the store below `root` (made if missing) for images of `platform`.
    ///
    /// # Errors
    /// The directories cannot be made or read. Damaged files are recovered or put aside with a
    /// message in the log that names them.
    pub fn open(root: &Path, platform: Platform, registry: RegistryConfig) -> Result<Self> {
        for name in ["blobs/sha256", "layers", "records"] {
            make_directory(&root.join(name))?;
        }
        let temp = root.join("tmp");
        remove_tree(&temp).map_err(|e| ImageError::io("empty", &temp, e))?;
        make_directory(&temp)?;
        let inner = Arc::new(Inner {
            root: root.to_owned(),
            platform: platform.in_oci_words(),
            registry,
            hello: Mutex::new(None),
            credentials: Mutex::default(),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            temp_counter: AtomicU64::new(0),
        });
        let images = inner.read_records()?;
        let names = inner.read_names(&images)?;
        {
            let mut state = inner.lock();
            state.images = images;
            state.names = names;
        }
        let store = Self { inner };
        store.inner.collect_orphans()?;
        Ok(store)
    }

    /// The image that `name` means: a reference, an id, or a prefix of an id that is unique.
    /// The image that the program packs of itself is made if need be.
    ///
    /// # Errors
    /// There is none, or the prefix is ambiguous.
    pub fn resolve(&self, name: &str) -> Result<ImageRecord> {
        let reference = Reference::parse(name).ok().map(Reference::with_default_tag);
        if reference.as_ref().is_some_and(|r| r.is_hello() && r.digest().is_none()) {
            self.ensure_hello()?;
        }
        let state = self.inner.lock();
        let id = state.find(name)?;
        state.record(&id).ok_or_else(|| not_found(name))
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<ImageRecord> {
        let state = self.inner.lock();
        state.images.keys().filter_map(|id| state.record(id)).collect()
    }

    /// Keeps the image from being removed while the lease lives.
    ///
    /// # Errors
    /// There is no such image (any more): resolve it again.
    pub fn lease(&self, id: Digest) -> Result<Lease> {
        let mut state = self.inner.lock();
        if !state.images.contains_key(&id) {
            return Err(not_found(&id.to_string()));
        }
        *state.leases.entry(id).or_default() += 1;
        Ok(Lease { inner: self.inner.clone(), id })
    }

    /// The image's unpacked layers as overlayfs wants them: top first. A missing one is unpacked
    /// again if its blob is here.
    ///
    /// # Errors
    /// A layer is gone and cannot be made again.
    pub fn layers(&self, image: &ImageRecord) -> Result<Vec<PathBuf>> {
        let each = |layer: &LayerRecord| {
            let path = self.inner.layer_fs(&layer.diff_id);
            if !path.is_dir() {
                self.inner.restore_layer(layer)?;
            }
            Ok(path)
        };
        image.layers.iter().rev().map(each).collect()
    }

    /// The bytes of the image's configuration, as `image inspect` and `history` want them; none
    /// for the image that the program packs of itself.
    ///
    /// # Errors
    /// The blob cannot be read or is damaged.
    pub fn configuration(&self, id: Digest) -> Result<Option<Vec<u8>>> {
        if self.inner.lock().images.get(&id).is_none_or(|image| !image.has_config_blob) {
            return Ok(None);
        }
        self.inner.read_blob(&id).map(Some)
    }

    /// Gives the image a further name.
    ///
    /// # Errors
    /// There is no such image, or the reference has a digest.
    pub fn tag(&self, name: &str, reference: &Reference) -> Result<()> {
        if reference.digest().is_some() {
            return Err(ImageError::Reference(crate::model::image_ref::BadReference::Format));
        }
        let name_to_add = reference.clone().with_default_tag().canonical();
        let mut state = self.inner.lock();
        let id = state.find(name)?;
        let mut names = state.names.clone();
        names.insert(name_to_add, id);
        self.inner.save_names(&mut state, names)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        decrement(&mut self.inner.lock().leases, &self.id);
    }
}

impl Lease {
    /// The image that is kept.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.id
    }
}

impl State {
    /// The image that `name` means.
    pub(super) fn find(&self, name: &str) -> Result<Digest> {
        let reference = Reference::parse(name).ok().map(Reference::with_default_tag);
        if let Some(reference) = &reference {
            let key = match reference.digest() {
                Some(_) => reference.clone().without_tag().canonical(),
                None => reference.canonical(),
            };
            if let Some(id) = self.names.get(&key) {
                return Ok(*id);
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let shown = reference.map_or_else(|| name.to_owned(), |r| r.to_string());
        if prefix.is_empty() || prefix.len() > 64 || !prefix.chars().all(is_hex) {
            return Err(ImageError::NotFound { name: shown });
        }
        let matches: Vec<_> = self.images.keys().filter(|id| id.hex().starts_with(prefix)).collect();
        match matches[..] {
            [] => Err(ImageError::NotFound { name: shown }),
            [id] => Ok(*id),
            _ => Err(ImageError::Ambiguous {
                prefix: name.to_owned(),
                matches: matches.iter().map(|id| id.short()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// One image with its names.
    pub(super) fn record(&self, id: &Digest) -> Option<ImageRecord> {
        let image = self.images.get(id)?;
        let mut record = ImageRecord {
            id: *id,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            created: image.created.clone(),
            size: image.layers.iter().map(|layer| layer.bytes).sum(),
            platform: image.platform.clone(),
            config: image.config.clone(),
            layers: image.layers.clone(),
        };
        for reference in self.references(id) {
            if reference.digest().is_some() {
                record.repo_digests.push(reference.to_string());
            } else {
                record.repo_tags.push(reference.to_string());
            }
        }
        Some(record)
    }

    /// What an image is called.
    pub(super) fn references(&self, id: &Digest) -> Vec<Reference> {
        let own = self.names.iter().filter(|(_, named)| *named == id);
        own.filter_map(|(name, _)| Reference::parse(name).ok()).collect()
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.registry.limits
    }

    pub(super) fn layer_fs(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex()).join("fs")
    }

    /// A path in `tmp` that nothing else uses; what is there is removed on drop.
    pub(super) fn temp(&self, what: &str) -> Temp {
        let number = self.temp_counter.fetch_add(1, Ordering::Relaxed);
        Temp(self.root.join("tmp").join(format!("{what}-{number}")))
    }

    /// Publishes an image and points `names` at it.
    pub(super) fn commit(&self, image: StoredImage, new_names: &[String]) -> Result<ImageRecord> {
        let id = image.id;
        let mut state = self.lock();
        if state.images.get(&id).is_none_or(|known| **known != image) {
            record::write(&self.root.join("records").join(id.hex()), &image)?;
            state.images.insert(id, Arc::new(image));
        }
        let mut names = state.names.clone();
        names.extend(new_names.iter().map(|name| (name.clone(), id)));
        self.save_names(&mut state, names)?;
        state.record(&id).ok_or_else(|| not_found(&id.to_string()))
    }

    /// Renames a synced file or directory into place and makes that durable.
    pub(super) fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        failpoint::hit(Point::ImageBeforeRename);
        fs::rename(from, to).map_err(|e| ImageError::io("rename to", to, e))?;
        failpoint::hit(Point::ImageAfterRename);
        record::sync_directory(to.parent().unwrap_or(&self.root))
    }

    /// Replaces the names; the last ones stay beside them as a copy.
    pub(super) fn save_names(
        &self,
        state: &mut State,
        names: BTreeMap<String, Digest>,
    ) -> Result<()> {
        if names == state.names {
            return Ok(());
        }
        let stored = StoredNames { names };
        record::write_keeping_previous(&self.root.join("names"), &stored)?;
        failpoint::hit(Point::ImageNamesKept);
        state.names = stored.names;
        Ok(())
    }

    /// Waits until no other thread makes this, then claims it.
    pub(super) fn claim(&self, what: Claim) -> Claimed<'_> {
        let mut state = self.lock();
        while !state.busy.insert(what) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Claimed { inner: self, what }
    }

    /// Waits for one of the slots that all pulls share.
    pub(super) fn fetch_slot(&self) -> FetchSlot<'_> {
        let mut state = self.lock();
        while state.fetching >= self.registry.parallel_max.max(1) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.fetching += 1;
        FetchSlot { inner: self }
    }

    /// Keeps blobs and layers of these digests, whether they exist yet or not.
    pub(super) fn pin(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Pins {
        let mut pins = Pins { inner: self.clone(), digests: Vec::new() };
        pins.add(digests);
        pins
    }
}

/// Something in `tmp`, removed on drop unless it was renamed away.
pub(super) struct Temp(pub(super) PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        if let Err(e) = remove_tree(&self.0) {
            warn!("cannot remove {}: {e}", self.0.display());
        }
    }
}

/// A claim, given up on drop.
pub(super) struct Claimed<'a> {
    inner: &'a Inner,
    what: Claim,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.inner.lock().busy.remove(&self.what);
        self.inner.changed.notify_all();
    }
}

/// A slot, given back on drop.
pub(super) struct FetchSlot<'a> {
    inner: &'a Inner,
}

impl Drop for FetchSlot<'_> {
    fn drop(&mut self) {
        self.inner.lock().fetching -= 1;
        self.inner.changed.notify_all();
    }
}

/// Digests that are kept, until drop.
pub(super) struct Pins {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Pins {
    pub(super) fn add(&mut self, digests: impl IntoIterator<Item = Digest>) {
        let mut state = self.inner.lock();
        for digest in digests {
            *state.pins.entry(digest).or_default() += 1;
            self.digests.push(digest);
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.inner.lock();
        for digest in &self.digests {
            decrement(&mut state.pins, digest);
        }
    }
}

fn decrement(counts: &mut BTreeMap<Digest, u32>, digest: &Digest) {
    if let Some(count) = counts.get_mut(digest) {
        *count -= 1;
        if *count == 0 {
            counts.remove(digest);
        }
    }
}

pub(super) fn not_found(name: &str) -> ImageError {
    ImageError::NotFound { name: name.to_owned() }
}

fn make_directory(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| ImageError::io("make the directory", path, e))
}

pub(super) fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
