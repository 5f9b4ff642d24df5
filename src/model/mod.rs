//! The domain as data: types whose constructors refuse what is not legal. No I/O.
//!
//! Everything that reaches the log or the wire is here and is encoded with postcard inside a
//! record of (kind, version, length): a shape that has landed is frozen, a change is a new version.

pub mod cluster;
pub mod cluster_trust;
pub mod control;
pub mod digest;
pub mod engine;
pub mod entry;
pub mod image_ref;
pub mod join_token;
pub mod name;
pub mod network;
pub mod node;
pub mod object;
pub mod payload;
pub mod peer;
pub mod pem;
pub mod resource;
pub mod route;
#[cfg(test)]
pub(crate) mod sample;
pub mod service;
pub mod spec_check;
pub mod task;
pub mod unlock_key;
pub mod v1;
pub mod validity;
pub mod wire;
