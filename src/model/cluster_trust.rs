//! What makes a cluster one: its root with its key, the join tokens' secrets, the gossip's keys.
//!
//! It is kept in the store as one resource, so it is on every manager and in every snapshot, sealed
//! with the log. Here are only shape and codec; `host::pki` gives the bytes their meaning.
//!
//! **Invariant:** nothing secret of it is in its `Debug`.

use serde::{Deserialize, Serialize};

use super::node::Role;
use super::wire::{self, Kind, WireError};
use crate::base::id::NodeId;
use crate::base::time::{Span, Wall};

/// The resource's kind.
pub const RESOURCE_KIND: &str = "trust";

/// Its name.
pub const RESOURCE_NAME: &str = "cluster";

/// The largest record, in bytes.
pub const CLUSTER_TRUST_BYTES_MAX: usize = 64 << 10;

/// Removed nodes that are remembered; the oldest is forgotten when one more is removed. What it could
/// do with its certificate ends with that.
pub const REMOVED_MAX: usize = 1_024;

/// The first one did not have `next`, `renew_since` and `removed`.
const VERSION: u16 = 2;

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
    /// The key of the last root (PKCS#8) while nodes learn to trust that one; then it issues.
    pub next_key: Option<Vec<u8>>,
    /// Certificates that are not newer than this are to be renewed.
    pub renew_since: Wall,
    /// Nodes that were removed, the last one last: their certificates are void.
    pub removed: Vec<NodeId>,
}

/// The first version.
#[derive(Deserialize)]
struct First {
    roots: Vec<Vec<u8>>,
    key: Vec<u8>,
    worker_secret: u128,
    manager_secret: u128,
    gossip_keys: Vec<[u8; 32]>,
    life: Span,
}

impl From<First> for ClusterTrust {
    fn from(first: First) -> Self {
        let First { roots, key, worker_secret, manager_secret, gossip_keys, life } = first;
        Self {
            roots,
            key,
            worker_secret,
            manager_secret,
            gossip_keys,
            life,
            next_key: None,
            renew_since: Wall(0),
            removed: Vec::new(),
        }
    }
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

    /// Whether the root is being replaced.
    #[must_use]
    pub const fn is_rotating(&self) -> bool {
        self.roots.len() > 1
    }

    /// A root that nodes learn to trust from now on, and its key. It issues after
    /// [`Self::issue_from_next`]. One that was on its way already is given up.
    pub fn begin_rotation(&mut self, root: Vec<u8>, key: Vec<u8>, now: Wall) {
        self.roots.truncate(1);
        self.roots.push(root);
        (self.next_key, self.renew_since) = (Some(key), now);
    }

    /// All nodes trust the next root: it issues from now on, and the one before is trusted still.
    pub fn issue_from_next(&mut self, now: Wall) {
        if let Some(key) = self.next_key.take() {
            self.roots.rotate_right(1);
            (self.key, self.renew_since) = (key, now);
        }
    }

    /// All nodes have certificates of the root that issues: the one before is trusted no more.
    pub fn end_rotation(&mut self) {
        if self.next_key.is_none() {
            self.roots.truncate(1);
        }
    }

    /// A node was removed.
    pub fn remove(&mut self, node: NodeId) {
        self.removed.retain(|it| *it != node);
        let excess = (self.removed.len() + 1).saturating_sub(REMOVED_MAX);
        self.removed.drain(..excess);
        self.removed.push(node);
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
        if frame.version == 1 {
            return frame.decode::<First>(Kind::CLUSTER_TRUST, 1).map(Self::from);
        }
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

    fn trust() -> ClusterTrust {
        ClusterTrust {
            roots: vec![vec![1, 2]],
            key: vec![77],
            worker_secret: 300,
            manager_secret: 301,
            gossip_keys: vec![[9; 32]],
            life: Span::from_secs(90),
            next_key: Some(vec![78]),
            renew_since: Wall(400),
            removed: vec![NodeId::new(5)],
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n"
    }

    #[test]
    fn the_record_is_frozen_and_shows_no_secret() {
        let trust = trust();
        let bytes = trust.encode().unwrap();
        expect_test::expect_file!["../../tests/data/wire/cluster-trust-2.hex"]
            .assert_eq(&hex(&bytes));
        assert_eq!(ClusterTrust::decode(&bytes), Ok(trust.clone()));
        assert!(ClusterTrust::decode(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(trust.role_of(300), Some(Role::Worker));
        assert_eq!(trust.role_of(trust.secret(Role::Manager)), Some(Role::Manager));
        assert_eq!(trust.role_of(0), None);
        let shown = format!("{trust:?}");
        assert!(!shown.contains("77") && !shown.contains("30"), "{shown}");
    }

    #[test]
    fn the_first_version_is_read() {
        let told = trust();
        let first = (
            &told.roots,
            &told.key,
            told.worker_secret,
            told.manager_secret,
            &told.gossip_keys,
            told.life,
        );
        let bytes = wire::encode(Kind::CLUSTER_TRUST, 1, &first, 1_000).unwrap();
        expect_test::expect_file!["../../tests/data/wire/cluster-trust-1.hex"]
            .assert_eq(&hex(&bytes));
        let want =
            ClusterTrust { next_key: None, renew_since: Wall(0), removed: Vec::new(), ..told };
        assert_eq!(ClusterTrust::decode(&bytes), Ok(want));
    }

    #[test]
    fn a_root_is_trusted_before_it_issues_and_the_old_one_longer_than_it_does() {
        let (old, new) = (vec![1, 2], vec![3]);
        let mut trust = ClusterTrust { next_key: None, ..trust() };
        trust.begin_rotation(vec![9], vec![99], Wall(4));
        trust.begin_rotation(new.clone(), vec![79], Wall(5));
        assert_eq!((&trust.roots, &trust.key), (&vec![old.clone(), new.clone()], &vec![77]));
        trust.end_rotation();
        assert!(trust.is_rotating(), "it has not issued yet");
        trust.issue_from_next(Wall(6));
        trust.issue_from_next(Wall(7));
        assert_eq!((&trust.roots, &trust.key), (&vec![new.clone(), old], &vec![79]));
        assert_eq!((trust.renew_since, &trust.next_key), (Wall(6), &None));
        trust.end_rotation();
        assert_eq!(trust.roots, [new]);
        assert!(!trust.is_rotating());
    }

    #[test]
    fn so_many_removed_nodes_are_remembered() {
        let mut trust = ClusterTrust { removed: Vec::new(), ..trust() };
        for node in 0..=1_024 {
            trust.remove(NodeId::new(node));
        }
        trust.remove(NodeId::new(7));
        assert_eq!(trust.removed.len(), REMOVED_MAX);
        assert_eq!(trust.removed.first(), Some(&NodeId::new(1)));
        assert_eq!(trust.removed.last(), Some(&NodeId::new(7)));
        assert!(trust.encode().is_ok(), "there is room for all");
    }
}
