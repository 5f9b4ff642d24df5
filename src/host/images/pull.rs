//! Pulls an image: manifest, configuration, then each missing layer downloaded, verified and
//! unpacked, a few at a time.
//!
//! Threads: at most `parallel_max` of its own, joined before it returns; events reach the
//! caller's thread through a bounded channel, which slows the download when nobody reads.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;

use super::auth::Credentials;
use super::decode::digest_of;
use super::error::{ErrorKind, ImageError, Result};
use super::manifest::{self, Configuration, Descriptor, Document, Manifest};
use super::platform::Platform;
use super::record::{ImageRecord, LayerRecord, StoredImage};
use super::registry::{Fetched, Session};
use super::store::{Claim, ImageStore, Inner};
use crate::model::digest::Digest;
use crate::model::image_ref::Reference;

/// One line of Docker's progress stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullEvent {
    /// The layer, or the tag in the first line; none in the last ones.
    pub id: Option<String>,
    /// `Pulling fs layer`, `Downloading`, …
    pub status: String,
    /// Bytes done and bytes in all.
    pub progress: Option<(u64, u64)>,
}

/// Events on their way from the threads of a pull to its caller.
const EVENTS_MAX: usize = 64;

/// Between two events of one layer's progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

impl PullEvent {
    pub(super) fn new(id: Option<String>, status: impl Into<String>) -> Self {
        Self { id, status: status.into(), progress: None }
    }
}

/// What a pull's threads share.
#[derive(Clone)]
pub(super) struct Pull<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) session: &'a Session<'a>,
    events: SyncSender<PullEvent>,
    failed: &'a AtomicBool,
}

/// One layer to be made.
struct LayerTask {
    blob: Descriptor,
    diff_id: Digest,
}

impl ImageStore {
    /// Makes the image that the reference names on its registry be here, under that name.
    ///
    /// # Errors
    /// The registry does not have it, or what it gives is not what it says; nothing is left of
    /// it then, save for whole layers after a broken connection, which another try goes on from.
    pub fn pull(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<ImageRecord> {
        self.pull_for(None, reference, credentials, progress)
    }

    /// The same for another platform than this machine's, as `pull --platform`.
    ///
    /// # Errors
    /// As [`pull`](Self::pull), or there is none for that platform.
    pub fn pull_for(
        &self,
        platform: Option<&Platform>,
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<ImageRecord> {
        let reference = reference.clone().with_default_tag();
        if reference.is_hello() {
            return self.pull_hello(platform, &reference, progress);
        }
        let result = self.inner.pull(platform, &reference, credentials, progress);
        let may_go_on = |e: &ImageError| e.kind() == ErrorKind::Unavailable;
        if result.as_ref().is_err_and(|e| !may_go_on(e)) {
            self.inner.collect_orphans()?;
        }
        result
    }

    /// The program's own image comes from no registry.
    fn pull_hello(
        &self,
        platform: Option<&Platform>,
        reference: &Reference,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<ImageRecord> {
        let record = self.ensure_hello()?;
        if !record.repo_tags.contains(&reference.to_string()) {
            return Err(ImageError::ManifestUnknown { name: reference.to_string() });
        }
        fits(platform, &record.platform, reference)?;
        let status = format!("Status: Image is up to date for {reference}");
        progress(PullEvent::new(None, status));
        Ok(record)
    }
}

impl Inner {
    fn pull(
        self: &Arc<Self>,
        platform: Option<&Platform>,
        reference: &Reference,
        credentials: Option<&Credentials>,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<ImageRecord> {
        let session = Session::open(&self.registry, reference, credentials)?;
        let top = session.manifest(reference)?;
        let shown_tag = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        progress(PullEvent::new(Some(shown_tag), format!("Pulling from {}", reference.path())));
        let what = format!("manifest of {reference}");
        let (manifest_bytes, manifest) = self.choose_manifest(&session, &top, &what, platform)?;
        let id = manifest.config.digest;
        let manifest_digest = digest_of(&manifest_bytes);
        let before = self.lock().find(&reference.canonical()).ok();

        let mut pins = self.pin([id, manifest_digest]);
        pins.add(manifest.layers.iter().map(|layer| layer.digest));
        let config_bytes = match self.read_blob(&id) {
            Ok(bytes) => bytes,
            Err(_not_here) => session.document(&manifest.config)?,
        };
        let configuration = check_configuration(&config_bytes, &manifest, &what)?;
        if manifest_digest == top.digest {
            // No index has said what it is for.
            fits(platform, &configuration.platform, reference)?;
        }
        pins.add(configuration.diff_ids.iter().copied());
        self.fetch_layers(&session, &manifest, &configuration, progress)?;

        self.store_blob(&id, &config_bytes)?;
        self.store_blob(&manifest_digest, &manifest_bytes)?;
        let image = self.image_of(id, configuration, &manifest, Some(manifest_digest))?;
        let record = self.commit(image, &names_of(reference, top.digest))?;
        drop(pins);
        progress(PullEvent::new(None, format!("Digest: {}", top.digest)));
        let status = if before == Some(id) {
            format!("Status: Image is up to date for {reference}")
        } else {
            format!("Status: Downloaded newer image for {reference}")
        };
        progress(PullEvent::new(None, status));
        Ok(record)
    }

    /// The manifest for this machine, through an index if there is one.
    fn choose_manifest(
        &self,
        session: &Session<'_>,
        top: &Fetched,
        what: &str,
        platform: Option<&Platform>,
    ) -> Result<(Vec<u8>, Manifest)> {
        match manifest::read_document(&top.bytes, what, self.limits())? {
            Document::Image(manifest) => Ok((top.bytes.clone(), manifest)),
            Document::Index(index) => {
                let chosen = manifest::choose(&index, platform.unwrap_or(&self.platform))?;
                let bytes = session.child_manifest(chosen)?;
                match manifest::read_document(&bytes, what, self.limits())? {
                    Document::Image(manifest) => Ok((bytes, manifest)),
                    Document::Index(_) => {
                        Err(ImageError::manifest(what, "an index inside an index"))
                    }
                }
            }
        }
    }

    /// The record of an image whose layers are all here.
    pub(super) fn image_of(
        &self,
        id: Digest,
        configuration: Configuration,
        manifest: &Manifest,
        manifest_digest: Option<Digest>,
    ) -> Result<StoredImage> {
        let mut layers = Vec::with_capacity(configuration.diff_ids.len());
        for (diff_id, blob) in configuration.diff_ids.iter().zip(&manifest.layers) {
            let layer = self.layer(diff_id)?;
            let gone = || super::store::not_found(&format!("layer {diff_id}"));
            let bytes = layer.ok_or_else(gone)?.bytes;
            let blob = self.has_blob(&blob.digest).then_some(blob.digest);
            layers.push(LayerRecord { diff_id: *diff_id, blob, bytes });
        }
        Ok(StoredImage {
            id,
            created: configuration.created,
            platform: configuration.platform,
            config: configuration.config,
            layers,
            manifest: manifest_digest,
            has_config_blob: true,
        })
    }

    /// Makes every layer be here; the first error ends them all.
    fn fetch_layers(
        self: &Arc<Self>,
        session: &Session<'_>,
        manifest: &Manifest,
        configuration: &Configuration,
        progress: &mut dyn FnMut(PullEvent),
    ) -> Result<()> {
        let mut tasks = Vec::new();
        let mut seen = BTreeSet::new();
        for (blob, diff_id) in manifest.layers.iter().zip(&configuration.diff_ids) {
            if !seen.insert(*diff_id) {
                continue;
            }
            let id = Some(blob.digest.short());
            if self.layer(diff_id)?.is_some() {
                progress(PullEvent::new(id, "Already exists"));
            } else {
                progress(PullEvent::new(id, "Pulling fs layer"));
                tasks.push(LayerTask { blob: blob.clone(), diff_id: *diff_id });
            }
        }
        let (sender, receiver) = sync_channel(EVENTS_MAX);
        let failed = AtomicBool::new(false);
        let pull = Pull { inner: self, session, events: sender, failed: &failed };
        let next = AtomicUsize::new(0);
        let first_error = Mutex::new(None);
        let work = |pull: &Pull<'_>| {
            while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                if pull.failed.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(e) = pull.layer(task) {
                    pull.failed.store(true, Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(e);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..tasks.len().min(self.registry.parallel_max.max(1)) {
                let own = pull.clone();
                let work = &work;
                scope.spawn(move || work(&own));
            }
            // The loop ends when the last thread has dropped its sender.
            drop(pull);
            receiver.iter().for_each(&mut *progress);
        });
        first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

impl Session<'_> {
    /// A manifest that an index names, checked.
    fn child_manifest(&self, chosen: &Descriptor) -> Result<Vec<u8>> {
        let fetched = self.manifest_of(&chosen.digest.to_string(), Some(chosen.digest))?;
        let what = format!("manifest {}", chosen.digest);
        let size = fetched.bytes.len() as u64;
        super::blobs::verify(&what, chosen.digest, chosen.size, fetched.digest, size)?;
        Ok(fetched.bytes)
    }
}

impl Pull<'_> {
    fn layer(&self, task: &LayerTask) -> Result<()> {
        let id = task.blob.digest.short();
        let inner = self.inner;
        let _claimed = inner.claim(Claim::Layer(task.diff_id));
        if inner.layer(&task.diff_id)?.is_some() {
            self.tell(PullEvent::new(Some(id), "Already exists"));
            return Ok(());
        }
        // Whoever has a slot waits for no claim, so one that is held for long keeps no slot from others.
        let _blob_claimed = inner.claim(Claim::Blob(task.blob.digest));
        let mut slot = Some(inner.fetch_slot());
        if self.has_failed() {
            return Err(self.given_up(&task.blob));
        }
        self.download(&task.blob, &mut slot)?;
        self.tell(PullEvent::new(Some(id.clone()), "Download complete"));
        let path = inner.blob_path(&task.blob.digest);
        let file = File::open(&path).map_err(|e| ImageError::io("open", &path, e))?;
        let source = Watched {
            inner: file,
            pull: self,
            progress: Progress::new(&id, "Extracting", task.blob.size),
            done: 0,
        };
        inner.make_layer(task.diff_id, source)?;
        self.tell(PullEvent::new(Some(id), "Pull complete"));
        Ok(())
    }

    pub(super) fn given_up(&self, blob: &Descriptor) -> ImageError {
        ImageError::Download { what: blob.digest, why: "another layer failed".to_owned() }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn tell(&self, event: PullEvent) {
        // The receiver lives until every thread is done.
        if self.events.send(event).is_err() {
            debug!("nobody listens to this pull any more");
        }
    }
}

/// Tells how far something is, not too often.
pub(super) struct Progress {
    id: String,
    status: &'static str,
    total: u64,
    last: Option<Instant>,
    /// Bytes at the last try.
    pub(super) mark: u64,
}

impl Progress {
    pub(super) fn new(id: &str, status: &'static str, total: u64) -> Self {
        Self { id: id.to_owned(), status, total, last: None, mark: 0 }
    }

    pub(super) fn tell(&mut self, pull: &Pull<'_>, done: u64) {
        if self.last.is_some_and(|last| last.elapsed() < PROGRESS_EVERY) && done < self.total {
            return;
        }
        self.last = Some(Instant::now());
        let progress = Some((done, self.total));
        let (id, status) = (Some(self.id.clone()), self.status.to_owned());
        pull.tell(PullEvent { id, status, progress });
    }
}

/// Tells how much of a blob is unpacked.
struct Watched<'a> {
    inner: File,
    pull: &'a Pull<'a>,
    progress: Progress,
    done: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        self.progress.tell(self.pull, self.done);
        Ok(count)
    }
}

/// Refuses an image that is not for the platform that was asked for.
fn fits(asked: Option<&Platform>, is: &Platform, reference: &Reference) -> Result<()> {
    match asked {
        Some(asked) if asked.rank(is).is_none() => Err(ImageError::OtherPlatform {
            name: reference.to_string(),
            asked: asked.to_string(),
            is: is.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Reads a configuration and checks that it fits the manifest.
pub(super) fn check_configuration(
    bytes: &[u8],
    manifest: &Manifest,
    what: &str,
) -> Result<Configuration> {
    let configuration = manifest::read_configuration(bytes, what)?;
    if configuration.diff_ids.len() != manifest.layers.len() {
        let (told, has) = (configuration.diff_ids.len(), manifest.layers.len());
        let why = format!("its configuration names {told} layers, but it has {has}");
        return Err(ImageError::manifest(what, why));
    }
    Ok(configuration)
}

/// The names a pulled image gets: its tag and the digest it was pulled by.
fn names_of(reference: &Reference, digest: Digest) -> Vec<String> {
    let by_digest = reference.clone().without_tag().with_digest(digest).canonical();
    let by_tag = reference.clone().without_digest();
    let mut names = vec![by_digest];
    if by_tag.tag().is_some() && reference.digest().is_none() {
        names.push(by_tag.canonical());
    }
    names
}
