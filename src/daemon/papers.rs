//! The cluster's trust as managers use it, and the files of it that a node keeps.
//!
//! A leader that finds none in the store makes it ([`new_trust`]); from then on it is what the store
//! says. A node's own certificate is in a file of its own, and so is where managers were reached.

use std::path::PathBuf;

use super::gossiping::Kept;
use crate::base::id::{ClusterId, NodeId};
use crate::base::time::{Span, Wall};
use crate::host::clock;
use crate::host::disk::layout::DataRoot;
use crate::host::disk::ledger::{self, LedgerError};
use crate::host::entropy;
use crate::host::vault;
use crate::host::pki::{Authority, Credentials, NodeKey, PkiError, Request, Root};
use crate::logic::store::Store;
use crate::model::cluster_trust::{ClusterTrust, RESOURCE_KIND, RESOURCE_NAME};
use crate::model::join_token::{JoinSecret, JoinToken, RootDigest};
use crate::model::node::Role;
use crate::model::peer::{Certified, MANAGERS_MAX, ManagerAddress};
use crate::model::validity::{CERTIFICATE_LIFE, Times, Validity};
use crate::model::wire::Kind;

/// Version of the file of managers.
const MANAGERS_VERSION: u16 = 1;

/// Dates of certificates have whole seconds.
const SECOND: Span = Span::from_secs(1);

/// Version of the file of gossip's keys.
const GOSSIP_KEYS_VERSION: u16 = 1;

/// The cluster's trust, with its root's key ready to sign.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) trust: ClusterTrust,
    authority: Authority,
    digest: RootDigest,
    /// Version of the resource that it is of.
    pub(super) version: u64,
    updated: Wall,
}

impl Issuer {
    /// From the store, when there is a newer one than `had`.
    ///
    /// # Errors
    /// With a text, when what the store holds cannot be used.
    pub(super) fn newer(store: &Store, had: Option<u64>) -> Result<Option<Self>, String> {
        let Some(resource) = store.resource_named(RESOURCE_KIND, RESOURCE_NAME) else {
            return Ok(None);
        };
        let version = resource.meta.version;
        if had == Some(version) {
            return Ok(None);
        }
        let trust = ClusterTrust::decode(&resource.payload).map_err(|err| err.to_string())?;
        let key = NodeKey::from_pkcs8(trust.key.clone()).map_err(|err| err.to_string())?;
        let root = trust.roots.first().cloned().unwrap_or_default();
        let authority = Authority::from_parts(root, key).map_err(|err| err.to_string())?;
        let (digest, updated) = (authority.root().digest(), resource.meta.updated);
        Ok(Some(Self { trust, authority, digest, version, updated }))
    }

    /// The roots that nodes are to trust.
    pub(super) fn roots(&self) -> Result<Vec<Root>, PkiError> {
        self.trust.roots.iter().cloned().map(Root::parse).collect()
    }

    /// A certificate for the key of a request.
    pub(super) fn issue(
        &self,
        csr: &[u8],
        node: NodeId,
        role: Role,
        store: &Store,
    ) -> Result<Vec<u8>, PkiError> {
        // Its date has whole seconds: one more tells it from all that was issued before.
        let base = Wall(self.base(store).0.saturating_add(SECOND.0));
        let validity = Validity::from_base(base, self.trust.life);
        self.authority.issue(&Request::parse(csr)?, node, role, validity)
    }

    /// The time that certificates are issued from: not before anything that the store has.
    pub(super) fn base(&self, store: &Store) -> Wall {
        let nodes = store.nodes().map(|node| node.meta.updated);
        let newest = nodes.max().unwrap_or_default().max(self.updated).max(self.trust.renew_since);
        times(&self.authority, newest).base()
    }

    /// Whether a certificate is to be renewed before its time: another root has issued it, or it is
    /// not surely newer than what was asked for.
    pub(super) fn is_stale(&self, certified: &Certified) -> bool {
        let since = Wall(self.trust.renew_since.0.saturating_add(SECOND.0));
        certified.root != self.digest
            || (self.trust.renew_since > Wall(0) && certified.issued <= since)
    }

    /// Whether nothing of it has changed for this long, by a wall clock that says something.
    pub(super) fn is_older(&self, now: Wall, age: Span) -> bool {
        now >= clock::build() && now.0.saturating_sub(self.updated.0) >= age.0
    }

    /// What a machine that is to join says.
    pub(super) fn token(&self, role: Role) -> JoinToken {
        let secret = JoinSecret(self.trust.secret(role));
        JoinToken { root: self.authority.root().digest(), secret }
    }
}

fn times(authority: &Authority, newest_in_log: Wall) -> Times {
    Times {
        system: clock::wall(),
        build: clock::build(),
        root_not_before: authority.root().validity().not_before,
        newest_in_log,
    }
}

/// A root for a cluster that has none.
pub(super) fn new_authority(cluster: ClusterId) -> Result<Authority, PkiError> {
    Authority::generate(cluster, clock::wall().max(clock::build()))
}

/// All that goes with a new root.
///
/// # Errors
/// When the kernel gives no random numbers.
pub(super) fn new_trust(authority: &Authority, life: Span) -> std::io::Result<ClusterTrust> {
    Ok(ClusterTrust {
        roots: vec![authority.root().der().to_vec()],
        key: authority.key().pkcs8().to_vec(),
        worker_secret: entropy::u128()?,
        manager_secret: entropy::u128()?,
        gossip_keys: vec![entropy::bytes32()?],
        life,
        next_key: None,
        renew_since: Wall(0),
        removed: Vec::new(),
    })
}

/// The papers of the manager that makes a cluster.
pub(super) fn found(authority: &Authority, node: NodeId) -> Result<Credentials, PkiError> {
    let key = NodeKey::generate()?;
    let validity = Validity::from_base(times(authority, Wall(0)).base(), CERTIFICATE_LIFE);
    let request = Request::parse(&key.request()?)?;
    let certificate = authority.issue(&request, node, Role::Manager, validity)?;
    Credentials::new(key, certificate, vec![authority.root().clone()], clock::wall())
}

fn managers_path(data: &DataRoot) -> PathBuf {
    data.node().join("managers")
}

/// Where managers were reached last. Empty on a node that made its cluster and is alone in it.
pub(super) fn read_managers(data: &DataRoot) -> Result<Vec<ManagerAddress>, LedgerError> {
    let kept = ledger::read(&managers_path(data), Kind::MANAGERS, MANAGERS_VERSION)?;
    Ok(kept.unwrap_or_default())
}

/// Keeps where managers are; further ones than [`MANAGERS_MAX`] are left out.
pub(super) fn write_managers(
    data: &DataRoot,
    managers: &[ManagerAddress],
) -> Result<(), LedgerError> {
    let some = &managers[..managers.len().min(MANAGERS_MAX)];
    ledger::write(&managers_path(data), Kind::MANAGERS, MANAGERS_VERSION, some)
}

fn gossip_path(data: &DataRoot) -> PathBuf {
    data.node().join("gossip")
}

/// What was kept of gossip.
pub(super) fn read_gossip(data: &DataRoot) -> Result<Kept, LedgerError> {
    let kept = ledger::read(&gossip_path(data), Kind::GOSSIP_KEYS, GOSSIP_KEYS_VERSION)?;
    Ok(kept.unwrap_or_default())
}

/// Keeps the keys of gossip, and where others are.
pub(super) fn write_gossip(data: &DataRoot, kept: &Kept) -> Result<(), LedgerError> {
    ledger::write(&gossip_path(data), Kind::GOSSIP_KEYS, GOSSIP_KEYS_VERSION, kept)
}

/// The same where only addresses are new: they may be lost.
pub(super) fn write_gossip_lazily(data: &DataRoot, kept: &Kept) -> Result<(), LedgerError> {
    ledger::write_lazily(&gossip_path(data), Kind::GOSSIP_KEYS, GOSSIP_KEYS_VERSION, kept)
}

/// Removes papers, keys and addresses.
pub(super) fn remove(data: &DataRoot) -> Result<(), LedgerError> {
    ledger::remove(&gossip_path(data))?;
    ledger::remove(&managers_path(data))?;
    ledger::remove(&Credentials::path(data.path()))?;
    vault::remove(data)
}
