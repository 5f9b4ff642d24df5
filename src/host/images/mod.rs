//! Images of this node: pulled from a registry, loaded from an archive, or packed of the program
//! itself; kept unpacked as overlayfs layers, each once.
//!
//! On disk, below the root given to [`ImageStore::open`] (mode 0700: layers hold setuid files and
//! devices that only containers may reach):
//!
//! - `blobs/sha256/<hex>`: manifests, configurations and compressed layers as they came;
//! - `layers/<diff id>/fs`: unpacked layers, with a small state file `layer` beside it;
//! - `records/<image id>` and `names` (with its predecessor `names.prev`): state files;
//! - `tmp/`: what is being made or removed; emptied at the start.
//!
//! **Invariant:** what is outside `tmp` is whole and durable: it was synced before it was renamed
//! there. **Invariant:** what is reachable from a record, or pinned by a pull or load that runs,
//! is never removed; only `gc` removes.
//!
//! Threads: every call blocks the caller's thread; a pull adds at most three of its own. One lock
//! guards names, records, leases and pins and is never held over a download or an unpacking.

mod agent;
mod auth;
mod blobs;
mod decode;
mod distribution;
mod download;
mod error;
mod gc;
mod hello;
#[cfg(test)]
mod hostile_tests;
mod layers;
mod limits;
mod load;
mod manifest;
mod pace;
mod platform;
mod pull;
mod record;
mod recover;
mod registry;
mod store;
mod tar_stream;
mod unpack;
mod xattr;

pub use agent::certificates;
pub use auth::Credentials;
pub use distribution::Distribution;
pub use error::{ErrorKind, ImageError, Result};
pub use gc::{InUse, PruneReport, Removed};
pub use limits::Limits;
pub use load::LoadedName;
pub use pace::PaceLimits;
pub use platform::Platform;
pub use pull::PullEvent;
pub use record::{Healthcheck, ImageConfig, ImageRecord, LayerRecord};
pub use registry::RegistryConfig;
pub use store::{ImageStore, Lease};
