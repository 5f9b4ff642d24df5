//! What a registry says of a name without an image being pulled: what a tag means now, and whether it
//! takes somebody's credentials.

use std::sync::PoisonError;
use std::time::Duration;

use super::auth::Credentials;
use super::error::{ImageError, Result};
use super::manifest::{self, Document};
use super::platform::Platform;
use super::record::ImageRecord;
use super::registry::{RegistryConfig, Session};
use super::store::ImageStore;
use crate::model::digest::Digest;
use crate::model::image_ref::Reference;

/// What a registry says about a reference, for `GET /distribution/{name}/json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Of the manifest or index.
    pub media_type: String,
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it runs on.
    pub platforms: Vec<Platform>,
}

/// For each step of asking what a reference means.
const DISTRIBUTION_TIMEOUT: Duration = Duration::from_secs(5);

impl ImageStore {
    /// Asks the registry what a reference means, without pulling it. Tries once and waits for a
    /// few seconds at most: on a site without a network, the answer is that it cannot be reached.
    ///
    /// # Errors
    /// The registry cannot be reached or does not have it.
    pub fn distribution(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Distribution> {
        let reference = reference.clone().with_default_tag();
        let usual = &self.inner.registry;
        let once = RegistryConfig {
            attempts_max: 1,
            connect_timeout: usual.connect_timeout.min(DISTRIBUTION_TIMEOUT),
            read_timeout: usual.read_timeout.min(DISTRIBUTION_TIMEOUT),
            ..usual.clone()
        };
        let session = Session::open(&once, &reference, credentials)?;
        let fetched = session.manifest(&reference)?;
        let limits = &once.limits;
        let what = format!("manifest of {reference}");
        let platforms = match manifest::read_document(&fetched.bytes, &what, limits)? {
            Document::Index(index) => index.into_iter().filter_map(|d| d.platform).collect(),
            Document::Image(image) => {
                let bytes = session.document(&image.config)?;
                vec![manifest::read_configuration(&bytes, &what)?.platform]
            }
        };
        Ok(Distribution {
            media_type: fetched.media_type,
            digest: fetched.digest,
            size: fetched.bytes.len() as u64,
            platforms,
        })
    }

    /// What is known here of a reference without asking anybody, for sites without a network:
    /// the digest under which this node pulled it.
    #[must_use]
    pub fn local_distribution(&self, reference: &Reference) -> Option<Distribution> {
        let reference = reference.clone().with_default_tag();
        let state = self.inner.lock();
        let id = state.find(&reference.canonical()).ok()?;
        let image = state.images.get(&id)?;
        let names = state.references(&id).into_iter();
        let own = names.filter(|name| name.name() == reference.name());
        let digest = own.filter_map(|name| name.digest()).next()?;
        // The index itself is not kept, only the manifest that was chosen from it.
        let is_index = image.manifest != Some(digest);
        let size = self.inner.blob_path(&digest).metadata().map_or(0, |meta| meta.len());
        let media_type = if is_index { manifest::INDEX_TYPE } else { manifest::MANIFEST_TYPE };
        let platforms = vec![image.platform.clone()];
        Some(Distribution { media_type: media_type.to_owned(), digest, size, platforms })
    }

    /// Keeps credentials for pulls of a repository by [`pull_for_task`](Self::pull_for_task).
    pub fn keep_credentials(&self, reference: &Reference, credentials: Credentials) {
        let mut kept = self.inner.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        kept.put(&reference.name(), credentials);
    }

    /// Pulls an image for a task, with the credentials that came with its service to this node.
    ///
    /// # Errors
    /// As [`pull`](Self::pull).
    pub fn pull_for_task(&self, reference: &Reference) -> Result<ImageRecord> {
        let credentials = {
            let kept = self.inner.credentials.lock().unwrap_or_else(PoisonError::into_inner);
            kept.get(&reference.name()).cloned()
        };
        self.pull(reference, credentials.as_ref(), &mut |_| {})
    }

    /// Asks a registry whether it takes these credentials, for `POST /auth`.
    ///
    /// # Errors
    /// The registry cannot be reached or refuses them.
    pub fn check_login(&self, host: &str, credentials: &Credentials) -> Result<()> {
        let probe = Reference::parse(&format!("{host}/login/probe"))?;
        let session = Session::open(&self.inner.registry, &probe, Some(credentials))?;
        match session.log_in_only() {
            Ok(()) => Ok(()),
            Err(ImageError::Denied { .. }) => Err(ImageError::Unauthorized { host: host.to_owned() }),
            Err(e) => Err(e),
        }
    }
}
