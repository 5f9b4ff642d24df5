//! Types of the host that the API shows: it may name the daemon, not the host.

pub use crate::host::images::{
    Credentials, Distribution, ErrorKind, ImageError, ImageRecord, ImageStore, InUse, Platform, PullEvent,
    Removed,
};
pub use crate::host::runtime::RuntimeError;
pub use crate::host::runtime::volume::Volume;
