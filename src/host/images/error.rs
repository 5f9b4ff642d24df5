//! What can go wrong with images, in Docker's words where it has some.
//!
//! `Display` leaves the source out; whoever prints walks the chain. [`ImageError::kind`] is what
//! callers branch on.

use std::io;
use std::path::{Path, PathBuf};

use crate::host::disk::ledger::LedgerError;
use crate::model::digest::Digest;
use crate::model::image_ref::BadReference;

/// Result of everything in this module.
pub type Result<T> = std::result::Result<T, ImageError>;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such image, tag or repository (404).
    NotFound,
    /// The image is in use or the name is ambiguous (409).
    Conflict,
    /// The request, archive or manifest is not legal (400).
    Invalid,
    /// The registry wants other credentials (Docker answers 404 or 500).
    Denied,
    /// The disk is full; works again when there is space.
    NoSpace,
    /// The registry cannot be reached or does not answer as it should; worth another try.
    Unavailable,
    /// A file of the store is damaged.
    Damaged,
    /// The machine failed in another way.
    Internal,
}

/// One failed operation.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Neither a name nor an id of an image here.
    #[error("No such image: {name}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// An id prefix of several images.
    #[error("image id prefix {prefix} is ambiguous: it matches {matches}")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The images it matches.
        matches: String,
    },
    /// The image is needed by something.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The name is not a reference.
    #[error(transparent)]
    Reference(#[from] BadReference),
    /// The registry does not have the tag or digest.
    #[error("manifest for {name} not found: manifest unknown: manifest unknown")]
    ManifestUnknown {
        /// What was asked for.
        name: String,
    },
    /// The registry does not have the repository, or does not show it.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require \
         'docker login': denied: requested access to the resource is denied"
    )]
    Denied {
        /// The repository as people write it.
        repository: String,
    },
    /// The credentials are wrong.
    #[error("cannot log in to {host}: unauthorized: incorrect username or password")]
    Unauthorized {
        /// The registry.
        host: String,
    },
    /// An index without a manifest for this machine.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform {
        /// This machine.
        platform: String,
    },
    /// The image of that name is for another platform than the one that was asked for.
    #[error(
        "image with reference {name} was found but its platform ({is}) does not match the specified \
         platform ({asked})"
    )]
    OtherPlatform {
        /// What was asked for.
        name: String,
        /// For which platform.
        asked: String,
        /// What it is for.
        is: String,
    },
    /// The registry answered with a status that means nothing here.
    #[error("cannot {doing} {url}: the registry answered {status}{detail}")]
    Status {
        /// The operation.
        doing: &'static str,
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// The registry's own words, if any.
        detail: String,
    },
    /// No answer, a broken connection, a time-out, a certificate that is not trusted.
    #[error("cannot {doing} {url}")]
    Transport {
        /// The operation.
        doing: &'static str,
        /// Where.
        url: String,
        /// What the connection said.
        #[source]
        source: Box<ureq::Error>,
    },
    /// A download that stopped before its end.
    #[error("cannot download {what}: {why}")]
    Download {
        /// The blob.
        what: Digest,
        /// What happened.
        why: String,
    },
    /// A document that did not come in its time.
    #[error(
        "cannot {doing} {url}: {got} bytes came in {secs} s, and then it was given up: see to the \
         network between here and the registry, then try again"
    )]
    Slow {
        /// The operation.
        doing: &'static str,
        /// Where.
        url: String,
        /// Bytes that came.
        got: usize,
        /// The limit.
        secs: u64,
    },
    /// The bytes are not those that the digest names.
    #[error("{what} failed verification: it should have digest {want} but has {got}")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// What the manifest or the reference says.
        want: Digest,
        /// What came.
        got: Digest,
    },
    /// More or fewer bytes than told.
    #[error("{what} failed verification: it should have {want} bytes but has {got}")]
    SizeMismatch {
        /// What was read.
        what: String,
        /// What the manifest says.
        want: u64,
        /// What came.
        got: u64,
    },
    /// A manifest, configuration or index that is not legal.
    #[error("invalid {what}: {why}")]
    Manifest {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A tar stream that is not legal.
    #[error("invalid tar archive{at}: {why}")]
    Archive {
        /// ` at entry "name"`, or nothing.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// A named limit was hit.
    #[error("{what} exceeds the limit of {limit} {unit}")]
    Limit {
        /// What is too large.
        what: String,
        /// The limit.
        limit: u64,
        /// Its unit.
        unit: &'static str,
    },
    /// The disk is full, or would be.
    #[error("cannot {doing} {path}: no space left on device (remove images with `skep image prune`)", path = path.display())]
    NoSpace {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {doing} {path}", path = path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Reading the stream that the caller gave failed.
    #[error("cannot read {what}")]
    Input {
        /// Which stream.
        what: String,
        /// What reading it said.
        #[source]
        source: io::Error,
    },
    /// A file of the store has torn or flipped bytes and no good copy.
    #[error("{path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What shows it.
        why: String,
    },
    /// A state file is of another release, or a value does not fit into one.
    #[error(transparent)]
    State(LedgerError),
}

impl From<LedgerError> for ImageError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Io(failed) => Self::io(failed.doing, &failed.path, failed.source),
            LedgerError::Damaged { path, what } => Self::Damaged { path, why: what.to_owned() },
            other => Self::State(other),
        }
    }
}

impl ImageError {
    /// Wraps a failed system call; a full disk gets its own variant.
    pub(super) fn io(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::NoSpace { doing, path: path.to_owned() };
        }
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// Wraps an illegal document.
    pub(super) fn manifest(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Manifest { what: what.into(), why: why.to_string() }
    }

    /// Wraps an illegal tar stream.
    pub(super) fn archive(path: &[u8], why: impl ToString) -> Self {
        let at = if path.is_empty() {
            String::new()
        } else {
            format!(" at entry {:?}", String::from_utf8_lossy(path))
        };
        Self::Archive { at, why: why.to_string() }
    }

    /// What a caller does about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::ManifestUnknown { .. } => ErrorKind::NotFound,
            Self::NoPlatform { .. } | Self::OtherPlatform { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. } | Self::Conflict(_) => ErrorKind::Conflict,
            Self::Denied { .. } | Self::Unauthorized { .. } => ErrorKind::Denied,
            Self::Reference(_)
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::Manifest { .. }
            | Self::Archive { .. }
            | Self::Limit { .. }
            | Self::Input { .. } => ErrorKind::Invalid,
            Self::Status { .. }
            | Self::Transport { .. }
            | Self::Download { .. }
            | Self::Slow { .. } => ErrorKind::Unavailable,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Io { .. } | Self::State(_) => ErrorKind::Internal,
        }
    }
}
