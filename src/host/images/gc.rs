//! The one owner of garbage: removes images, and then the blobs and layers that nothing needs.
//!
//! What is needed: everything a record names, and what is pinned. Which images are in use is
//! asked for under the lock and after the leases were looked at: whoever creates a container
//! takes a lease, writes its folder, drops the lease, and so is seen one way or the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::{ImageError, Result};
use super::record::{self, StoredImage};
use super::store::{ImageStore, Inner, State, Temp};
use crate::host::failpoint::{self, Point};
use crate::model::digest::Digest;
use crate::model::image_ref::Reference;

/// Images that containers need, each with the id of one such container.
pub type InUse = BTreeMap<Digest, String>;

/// One step of a removal, in Docker's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removed {
    /// A name was taken away: `Untagged: nginx:alpine`.
    Untagged(String),
    /// An image or a layer was deleted: `Deleted: sha256:…`.
    Deleted(Digest),
}

impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Untagged(name) => write!(f, "Untagged: {name}"),
            Self::Deleted(digest) => write!(f, "Deleted: {digest}"),
        }
    }
}

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The steps in order.
    pub removed: Vec<Removed>,
    /// Bytes of blobs and layers that are gone.
    pub bytes: u64,
}

/// What nothing needs any more, moved to `tmp`; deleted on drop, outside the lock.
#[derive(Default)]
struct Orphans {
    trash: Vec<Temp>,
    layers: Vec<Digest>,
    bytes: u64,
}

impl ImageStore {
    /// Removes a name, and the image when it was the last one; by id, the image with its name.
    ///
    /// # Errors
    /// There is no such image, or it is in use, or has several names and `force` is not set.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: &dyn Fn() -> InUse,
    ) -> Result<Vec<Removed>> {
        let (mut removed, orphans) = {
            let mut state = self.inner.lock();
            let id = state.find(name)?;
            let reference = named_by_reference(&state, name, id);
            let removed = match reference {
                Some(reference) => {
                    self.inner.remove_name(&mut state, &reference, id, force, in_use)?
                }
                None => self.inner.remove_id(&mut state, id, force, in_use)?,
            };
            (removed, self.inner.take_orphans(&state)?)
        };
        removed.extend(orphans.layers.iter().copied().map(Removed::Deleted));
        Ok(removed)
    }

    /// Removes every image that nothing needs: those without a tag, or with `all` also tagged
    /// ones. `keep` may spare further images (Docker's filters).
    ///
    /// # Errors
    /// Something cannot be removed; what was removed before stays removed.
    pub fn prune(
        &self,
        all: bool,
        keep: &dyn Fn(&record::ImageRecord) -> bool,
        in_use: &dyn Fn() -> InUse,
    ) -> Result<PruneReport> {
        let (mut report, orphans) = {
            let mut state = self.inner.lock();
            let leased: BTreeSet<Digest> = state.leases.keys().copied().collect();
            let used = in_use();
            let ids: Vec<Digest> = state.images.keys().copied().collect();
            let mut report = PruneReport::default();
            for id in ids {
                let Some(image) = state.record(&id) else { continue };
                let is_needed = leased.contains(&id)
                    || used.contains_key(&id)
                    || state.pins.contains_key(&id)
                    || (!all && !image.repo_tags.is_empty())
                    || keep(&image);
                if !is_needed {
                    self.inner.delete(&mut state, id, &mut report.removed)?;
                }
            }
            (report, self.inner.take_orphans(&state)?)
        };
        report.removed.extend(orphans.layers.iter().copied().map(Removed::Deleted));
        report.bytes = orphans.bytes;
        Ok(report)
    }
}

/// The reference that `name` is, unless it is an id or a prefix of one.
fn named_by_reference(state: &State, name: &str, id: Digest) -> Option<Reference> {
    let reference = Reference::parse(name).ok()?.with_default_tag();
    let key = match reference.digest() {
        Some(_) => reference.clone().without_tag(),
        None => reference,
    };
    (state.names.get(&key.canonical()) == Some(&id)).then_some(key)
}

impl Inner {
    fn remove_name(
        &self,
        state: &mut State,
        reference: &Reference,
        id: Digest,
        force: bool,
        in_use: &dyn Fn() -> InUse,
    ) -> Result<Vec<Removed>> {
        let others: Vec<_> =
            state.references(&id).into_iter().filter(|other| other != reference).collect();
        let is_last = others.iter().all(|other| other.tag().is_none());
        let mut removed = Vec::new();
        if !is_last {
            let same_name = |other: &&Reference| other.name() == reference.name();
            let mut gone = vec![reference.clone()];
            // With the last tag of a repository go its digests.
            if !others.iter().filter(same_name).any(|other| other.tag().is_some()) {
                gone.extend(others.iter().filter(same_name).cloned());
            }
            self.untag(state, &gone, &mut removed)?;
            return Ok(removed);
        }
        if let Some(user) = self.user_of(state, id, in_use) {
            if !force {
                return Err(ImageError::Conflict(format!(
                    "unable to remove repository reference \"{reference}\" (must force) - {user} \
                     is using its referenced image {}",
                    id.short()
                )));
            }
            self.untag(state, std::slice::from_ref(reference), &mut removed)?;
            return Ok(removed);
        }
        self.delete(state, id, &mut removed)?;
        Ok(removed)
    }

    fn remove_id(
        &self,
        state: &mut State,
        id: Digest,
        force: bool,
        in_use: &dyn Fn() -> InUse,
    ) -> Result<Vec<Removed>> {
        if let Some(user) = self.user_of(state, id, in_use) {
            return Err(ImageError::Conflict(format!(
                "unable to delete {} (cannot be forced) - image is being used by {user}",
                id.short()
            )));
        }
        let tags = state.references(&id).iter().filter(|r| r.tag().is_some()).count();
        if tags > 1 && !force {
            return Err(ImageError::Conflict(format!(
                "unable to delete {} (must be forced) - image is referenced in multiple \
                 repositories",
                id.short()
            )));
        }
        let mut removed = Vec::new();
        self.delete(state, id, &mut removed)?;
        Ok(removed)
    }

    /// Who needs the image, in words.
    fn user_of(
        &self,
        state: &State,
        id: Digest,
        in_use: &dyn Fn() -> InUse,
    ) -> Option<String> {
        let leased = state.leases.contains_key(&id) || state.pins.contains_key(&id);
        let container = in_use().remove(&id).map(|container| {
            let short: String = container.chars().take(12).collect();
            format!("container {short}")
        });
        container.or_else(|| leased.then(|| "a container that is being created".to_owned()))
    }

    fn untag(
        &self,
        state: &mut State,
        references: &[Reference],
        removed: &mut Vec<Removed>,
    ) -> Result<()> {
        let mut names = state.names.clone();
        for reference in references {
            names.remove(&reference.canonical());
        }
        self.save_names(state, names)?;
        removed.extend(references.iter().map(|r| Removed::Untagged(r.to_string())));
        Ok(())
    }

    /// Removes an image's names and then its record.
    fn delete(&self, state: &mut State, id: Digest, removed: &mut Vec<Removed>) -> Result<()> {
        let mut references = state.references(&id);
        references.sort_by_key(|reference| reference.digest().is_some());
        self.untag(state, &references, removed)?;
        failpoint::hit(Point::ImageUntagged);
        let path = self.root.join("records").join(id.hex());
        fs::remove_file(&path).map_err(|e| ImageError::io("remove", &path, e))?;
        failpoint::hit(Point::ImageRecordRemoved);
        state.images.remove(&id);
        record::sync_directory(&self.root.join("records"))?;
        removed.push(Removed::Deleted(id));
        Ok(())
    }

    /// Removes blobs and layers that nothing needs: after a pull or load that failed, and at the
    /// start.
    pub(super) fn collect_orphans(&self) -> Result<()> {
        let state = self.lock();
        let orphans = self.take_orphans(&state);
        drop(state);
        orphans.map(drop)
    }

    /// Moves what nothing needs to `tmp`. The caller holds the lock and drops the result later.
    fn take_orphans(&self, state: &State) -> Result<Orphans> {
        let mut needed: BTreeSet<Digest> = state.pins.keys().copied().collect();
        state.images.values().for_each(|image| needed.extend(digests_of(image)));
        let mut orphans = Orphans::default();
        for (digest, path, bytes) in self.list_blobs()? {
            if !needed.contains(&digest) {
                self.trash(path, &mut orphans)?;
                orphans.bytes += bytes;
            }
        }
        let directory = self.root.join("layers");
        let io = |e| ImageError::io("read", &directory, e);
        for item in fs::read_dir(&directory).map_err(io)? {
            let item = item.map_err(io)?;
            let digest = item.file_name().to_str().and_then(Digest::from_hex);
            if digest.is_some_and(|digest| needed.contains(&digest)) {
                continue;
            }
            if let Some(digest) = digest {
                orphans.bytes += self.layer(&digest).ok().flatten().map_or(0, |l| l.bytes);
                orphans.layers.push(digest);
            }
            self.trash(item.path(), &mut orphans)?;
        }
        Ok(orphans)
    }

    fn trash(&self, path: PathBuf, orphans: &mut Orphans) -> Result<()> {
        let temp = self.temp("trash");
        fs::rename(&path, &temp.0).map_err(|e| ImageError::io("remove", &path, e))?;
        failpoint::hit(Point::ImageTrashed);
        orphans.trash.push(temp);
        Ok(())
    }
}

/// Everything on disk that an image is made of.
fn digests_of(image: &Arc<StoredImage>) -> impl Iterator<Item = Digest> + '_ {
    let layers = image.layers.iter().flat_map(|layer| [Some(layer.diff_id), layer.blob]);
    layers.chain([Some(image.id), image.manifest]).flatten()
}
