//! What makes a cluster one: its root with its key, the join tokens' secrets, the gossip's keys.
//!
//! It is kept in the store as one resource, so it is on every manager and in every snapshot, sealed
//! with the log. Here are only shape and codec; `host::pki` gives the bytes their meaning.
//!
//! **Invariant:** nothing secret of it is in its `Debug`.

use serde::{Deserialize, Serialize};

use super::node::Role;
use super::wire::{self, Kind, WireError};
use crate::base::time::Span;

/// The resource's kind.
pub const RESOURCE_KIND: &str = "trust";

/// Its name.
pub const RESOURCE_NAME: &str = "cluster";

/// The largest record, in bytes.
pub const CLUSTER_TRUST_BYTES_MAX: usize = 64 << 10;

const VERSION: u16 = 1;

/// The record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterTrust {
    /// Roots that are trusted (DER), the one that issues first.
    pub roots: Vec<Vec<u8>>,
    /// The issuing root's key (PKCS#8).
    pub key: Vec<u8>,
    /// Who says this joins as a worker.
    pub worker_secret: u128,
    /// Who says this joins as a manager.
    pub manager_secret: u128,
    /// Keys of the gossip, the one to seal with first.
    pub gossip_keys: Vec<[u8; 32]>,
    /// Life of a node's certificate.
    pub life: Span,
}

impl ClusterTrust {
    /// As what a secret lets a machine join; `None` for one that is not, or not any more, valid.
    /// Takes the same time for each.
    #[must_use]
    pub const fn role_of(&self, secret: u128) -> Option<Role> {
        let (worker, manager) = (self.worker_secret ^ secret, self.manager_secret ^ secret);
        match (worker, manager) {
            (0, _) => Some(Role::Worker),
            (_, 0) => Some(Role::Manager),
            (_, _) => None,
        }
    }

    /// The secret that lets a machine join as this.
    #[must_use]
    pub const fn secret(&self, role: Role) -> u128 {
        match role {
            Role::Worker => self.worker_secret,
            Role::Manager => self.manager_secret,
        }
    }

    /// For the store.
    ///
    /// # Errors
    /// When it is above [`CLUSTER_TRUST_BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        wire::encode(Kind::CLUSTER_TRUST, VERSION, self, CLUSTER_TRUST_BYTES_MAX)
    }

    /// From the store.
    ///
    /// # Errors
    /// When this release does not know its version, or it has another shape.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (frame, _rest) = wire::split(bytes, CLUSTER_TRUST_BYTES_MAX)?;
        frame.decode(Kind::CLUSTER_TRUST, VERSION)
    }
}

impl std::fmt::Debug for ClusterTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterTrust").field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_frozen_and_shows_no_secret() {
        let trust = ClusterTrust {
            roots: vec![vec![1, 2]],
            key: vec![77],
            worker_secret: 300,
            manager_secret: 301,
            gossip_keys: vec![[9; 32]],
            life: Span::from_secs(90),
        };
        let bytes = trust.encode().unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect_file!["../../tests/data/wire/cluster-trust-1.hex"]
            .assert_eq(&(hex + "\n"));
        assert_eq!(ClusterTrust::decode(&bytes), Ok(trust.clone()));
        assert!(ClusterTrust::decode(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(trust.role_of(300), Some(Role::Worker));
        assert_eq!(trust.role_of(trust.secret(Role::Manager)), Some(Role::Manager));
        assert_eq!(trust.role_of(0), None);
        let shown = format!("{trust:?}");
        assert!(!shown.contains("77") && !shown.contains("30"), "{shown}");
    }
}
