//! Whom this node trusts: the roots, who was removed, and who is no manager any more. Shared by all its connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::authority::unit;
use super::{PkiError, der};
use crate::base::id::{ClusterId, NodeId};
use crate::base::time::Wall;
use crate::model::join_token::RootDigest;
use crate::model::node::Role;
use crate::model::peer::PeerIdentity;
use crate::model::validity::Validity;

/// Roots that are trusted at once: the old and the new one, and one more for a rotation that is
/// begun again. More are refused.
pub const ROOTS_MAX: usize = 3;

/// The largest certificate that is looked at, in bytes; a node's has some 500.
const CERTIFICATE_BYTES_MAX: usize = 4 << 10;

/// A root certificate of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    der: Vec<u8>,
    cluster: ClusterId,
    validity: Validity,
}

/// A certificate whose chain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whom it names.
    pub identity: PeerIdentity,
    /// Its life, which nobody has judged yet.
    pub validity: Validity,
    /// The root that has issued it.
    pub root: RootDigest,
}

impl Root {
    /// Reads a root (DER).
    ///
    /// # Errors
    /// When the bytes are no certificate of a cluster's root.
    pub fn parse(der: Vec<u8>) -> Result<Self, PkiError> {
        const MALFORMED: PkiError = PkiError::Malformed { what: "root certificate" };
        if der.len() > CERTIFICATE_BYTES_MAX
            || anchor_from_trusted_cert(&CertificateDer::from(&der[..])).is_err()
        {
            return Err(MALFORMED);
        }
        let told = der::certificate(&der).ok_or(MALFORMED)?;
        let cluster = told.subject.organization.parse().map_err(|_bad| MALFORMED)?;
        Ok(Self { der, cluster, validity: told.validity })
    }

    /// The certificate (DER).
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its digest, as in the join token.
    #[must_use]
    pub fn digest(&self) -> RootDigest {
        digest_of(&self.der)
    }

    /// Whose root it is.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its life; nobody judges it.
    #[must_use]
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// Verifies that this root has issued a certificate, and reads it. Its dates are told, not
    /// judged.
    ///
    /// # Errors
    /// When the root has not, or when it names no node of the root's cluster.
    pub fn verify(&self, certificate: &[u8]) -> Result<Verified, PkiError> {
        const MALFORMED: PkiError = PkiError::Malformed { what: "certificate" };
        if certificate.len() > CERTIFICATE_BYTES_MAX {
            return Err(MALFORMED);
        }
        let der = CertificateDer::from(certificate);
        let leaf = EndEntityCert::try_from(&der).map_err(|_why| MALFORMED)?;
        let told = der::certificate(certificate).ok_or(MALFORMED)?;
        let root = CertificateDer::from(&self.der[..]);
        let anchor = anchor_from_trusted_cert(&root).map_err(|_why| MALFORMED)?;
        // The library wants a time; at its first moment every certificate is valid.
        let first = Duration::from_micros(told.validity.not_before.0);
        leaf.verify_for_usage(
            &[webpki::ring::ECDSA_P256_SHA256],
            &[anchor],
            &[],
            UnixTime::since_unix_epoch(first),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|_why| PkiError::Untrusted)?;
        let subject = &told.subject;
        let role = [Role::Manager, Role::Worker].into_iter().find(|it| unit(*it) == subject.unit);
        let cluster: ClusterId = subject.organization.parse().map_err(|_bad| MALFORMED)?;
        if cluster != self.cluster {
            return Err(PkiError::Untrusted);
        }
        let identity = PeerIdentity {
            node: subject.common_name.parse().map_err(|_bad| MALFORMED)?,
            role: role.ok_or(MALFORMED)?,
            cluster,
            expires: told.validity.not_after,
        };
        Ok(Verified { identity, validity: told.validity, root: self.digest() })
    }
}

/// sha256 of a certificate.
pub(crate) fn digest_of(der: &[u8]) -> RootDigest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, der).as_ref());
    RootDigest(bytes)
}

/// Whom a node trusts. Clones are one: what is changed here counts for every connection's next
/// look.
#[derive(Clone, Debug)]
pub struct Trust {
    state: Arc<RwLock<State>>,
}

#[derive(Debug)]
struct State {
    roots: Vec<Root>,
    removed: BTreeSet<NodeId>,
    workers: BTreeMap<NodeId, Wall>,
}

impl Trust {
    /// Trusts these roots and has nobody removed.
    ///
    /// # Errors
    /// As [`Self::set_roots`].
    pub fn new(roots: Vec<Root>) -> Result<Self, PkiError> {
        check(&roots, None)?;
        let state = State { roots, removed: BTreeSet::new(), workers: BTreeMap::new() };
        Ok(Self { state: Arc::new(RwLock::new(state)) })
    }

    /// The roots; the first is the one that issues.
    #[must_use]
    pub fn roots(&self) -> Vec<Root> {
        self.read(|state| state.roots.clone())
    }

    /// Trusts these roots and no others, from now on.
    ///
    /// # Errors
    /// When there is none, there are more than [`ROOTS_MAX`], or one is another cluster's.
    pub fn set_roots(&self, roots: Vec<Root>) -> Result<(), PkiError> {
        check(&roots, self.read(|state| state.roots.first().map(Root::cluster)))?;
        self.write(|state| state.roots = roots);
        Ok(())
    }

    /// The nodes that were removed, from now on: whatever their certificates say.
    pub fn set_removed(&self, removed: BTreeSet<NodeId>) {
        if self.read(|state| state.removed != removed) {
            self.write(|state| state.removed = removed);
        }
    }

    /// Whether a node was removed.
    #[must_use]
    pub fn is_removed(&self, node: NodeId) -> bool {
        self.read(|state| state.removed.contains(&node))
    }

    /// The nodes that are no managers, by a store that was that far then. From now on they make no
    /// manager's call with a certificate that is older than that.
    ///
    /// One that is younger counts: this store may be behind, and that node lead by now.
    pub fn set_workers(&self, workers: BTreeMap<NodeId, Wall>) {
        if self.read(|state| state.workers != workers) {
            self.write(|state| state.workers = workers);
        }
    }

    /// Whether a node was a manager when its certificate was issued, and is none any more.
    #[must_use]
    pub fn is_demoted(&self, node: NodeId, issued: Wall) -> bool {
        self.read(|state| state.workers.get(&node).is_some_and(|since| issued <= *since))
    }

    /// Verifies that a root that is trusted has issued a certificate. Neither its dates nor the
    /// removal list are judged: those refusals can be told to the peer in words.
    ///
    /// # Errors
    /// When none has, or when it names no node of the cluster.
    pub fn verify(&self, certificate: &[u8]) -> Result<Verified, PkiError> {
        let mut found = Err(PkiError::Untrusted);
        for root in self.roots() {
            found = root.verify(certificate);
            if found.is_ok() {
                break;
            }
        }
        found
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn check(roots: &[Root], cluster: Option<ClusterId>) -> Result<(), PkiError> {
    let cluster = cluster.or_else(|| roots.first().map(Root::cluster));
    let other = roots.iter().any(|root| Some(root.cluster()) != cluster);
    if roots.is_empty() || roots.len() > ROOTS_MAX || other {
        return Err(PkiError::Malformed { what: "set of roots" });
    }
    Ok(())
}
