//! The cluster's root with its key: what managers issue certificates with.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use super::key::made;
use super::{NodeKey, PkiError, Request, Root};
use crate::base::id::{ClusterId, NodeId};
use crate::base::time::Wall;
use crate::host::entropy;
use crate::model::node::Role;
use crate::model::validity::{NO_END, Validity};

/// The common name of every root (swarmkit `ca/certificates.go`).
const ROOT_NAME: &str = "swarm-ca";

/// A root and its key.
pub struct Authority {
    root: Root,
    key: NodeKey,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new root for a cluster. Its life begins at `not_before` and has no end: a board that
    /// thinks it is 1970 must not make one that is dead for everybody else.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn generate(cluster: ClusterId, not_before: Wall) -> Result<Self, PkiError> {
        let key = NodeKey::generate()?;
        let pair = key.pair()?;
        let mut params = root_params(cluster);
        set_life(&mut params, Validity { not_before, not_after: NO_END });
        params.serial_number = Some(serial()?);
        let certificate = params.self_signed(&pair).map_err(|err| made("a root", &err))?;
        Self::from_parts(certificate.der().to_vec(), key)
    }

    /// From the parts that the log keeps.
    ///
    /// # Errors
    /// When the bytes are not a root of a cluster.
    pub fn from_parts(certificate: Vec<u8>, key: NodeKey) -> Result<Self, PkiError> {
        let root = Root::parse(certificate)?;
        let issuer = Issuer::new(root_params(root.cluster()), key.pair()?);
        let authority = Self { root, key, issuer };
        authority.check_key()?;
        Ok(authority)
    }

    /// The root, to be trusted and to be told to others.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// The root's key. Whoever has it can be any node.
    #[must_use]
    pub const fn key(&self) -> &NodeKey {
        &self.key
    }

    /// Issues a certificate (DER) for the key of `request`.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn issue(
        &self,
        request: &Request,
        node: NodeId,
        role: Role,
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, self.root.cluster().to_string());
        name.push(DnType::OrganizationalUnitName, unit(role));
        name.push(DnType::CommonName, node.to_string());
        self.issue_to(name, request, validity)
    }

    fn issue_to(
        &self,
        name: DistinguishedName,
        request: &Request,
        validity: Validity,
    ) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name;
        set_life(&mut params, validity);
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let issued = params.signed_by(request, &self.issuer);
        Ok(issued.map_err(|err| made("a certificate", &err))?.der().to_vec())
    }

    /// Refuses a key that is another root's: what it signed, nobody would accept.
    fn check_key(&self) -> Result<(), PkiError> {
        let request = Request::parse(&self.key.request()?)?;
        let validity = Validity { not_before: Wall(0), not_after: NO_END };
        let probe = self.issue(&request, NodeId::new(0), Role::Worker, validity)?;
        match self.root.verify(&probe) {
            Ok(_) => Ok(()),
            Err(_) => Err(PkiError::Malformed { what: "key of this root" }),
        }
    }
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("root", &self.root).finish_non_exhaustive()
    }
}

/// The organizational unit that tells a role (swarmkit `ca/config.go`).
pub(super) const fn unit(role: Role) -> &'static str {
    match role {
        Role::Manager => "swarm-manager",
        Role::Worker => "swarm-worker",
    }
}

fn root_params(cluster: ClusterId) -> CertificateParams {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, cluster.to_string());
    name.push(DnType::CommonName, ROOT_NAME);
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// 127 random bits: positive, as serial numbers are (RFC 5280 section 4.1.2.2).
fn serial() -> Result<SerialNumber, PkiError> {
    let random = entropy::u128();
    let random = random
        .map_err(|err| PkiError::Make { what: "a serial number", why: err.to_string() })?;
    Ok(SerialNumber::from_slice(&(random >> 1 | 1).to_be_bytes()))
}

/// Sets a life. Certificates hold whole seconds.
fn set_life(params: &mut CertificateParams, validity: Validity) {
    // The library's type of dates is not ours to name.
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_micros(validity.not_before.min(NO_END).0);
    params.not_after = epoch + Duration::from_micros(validity.not_after.min(NO_END).0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::pki::Trust;
    use crate::model::peer::PeerIdentity;
    use crate::model::validity::CERTIFICATE_LIFE;

    const CLUSTER: ClusterId = ClusterId::new(7);
    const NODE: NodeId = NodeId::new(9);
    /// 2026-11-22T10:30:45Z.
    const START: Wall = Wall(1_795_343_445_000_000);

    fn authority() -> Authority {
        Authority::generate(CLUSTER, START).unwrap()
    }

    fn issue(authority: &Authority, role: Role, validity: Validity) -> Vec<u8> {
        let request = NodeKey::generate().unwrap().request().unwrap();
        authority.issue(&Request::parse(&request).unwrap(), NODE, role, validity).unwrap()
    }

    #[test]
    fn a_certificate_says_who_and_until_when() {
        let authority = authority();
        let validity = Validity::from_base(START, CERTIFICATE_LIFE);
        for role in [Role::Manager, Role::Worker] {
            let verified = authority.root().verify(&issue(&authority, role, validity)).unwrap();
            let expires = validity.not_after;
            let identity = PeerIdentity { node: NODE, role, cluster: CLUSTER, expires };
            assert_eq!((verified.identity, verified.validity), (identity, validity));
        }
    }

    #[test]
    fn any_dates_can_be_issued_and_are_verified_without_a_clock() {
        let authority = Authority::generate(CLUSTER, Wall(0)).unwrap();
        let root = authority.root().validity();
        assert_eq!((root.not_before, root.not_after), (Wall(0), NO_END));
        let years = |n: u64| Wall(n * 365 * 86_400 * 1_000_000);
        for (not_before, not_after) in
            [(Wall(0), Wall(1_000_000)), (years(70), years(71)), (years(100), NO_END)]
        {
            let validity = Validity { not_before, not_after };
            let verified = authority.root().verify(&issue(&authority, Role::Worker, validity));
            assert_eq!(verified.unwrap().validity, validity);
        }
    }

    #[test]
    fn only_what_a_trusted_root_has_issued_is_accepted() {
        let (old, new) = (authority(), authority());
        let stranger = Authority::generate(ClusterId::new(8), START).unwrap();
        let validity = Validity::from_base(START, CERTIFICATE_LIFE);
        let [by_old, by_new, by_stranger] =
            [&old, &new, &stranger].map(|it| issue(it, Role::Worker, validity));
        let trust = Trust::new(vec![old.root().clone()]).unwrap();
        assert!(trust.verify(&by_old).is_ok());
        assert_eq!(trust.verify(&by_new), Err(PkiError::Untrusted));
        assert_eq!(trust.verify(&by_stranger), Err(PkiError::Untrusted));
        // A root is no node.
        assert_eq!(trust.verify(old.root().der()), Err(PkiError::Untrusted));
        // Both, and then the new one alone: a rotation.
        trust.set_roots(vec![new.root().clone(), old.root().clone()]).unwrap();
        assert!(trust.verify(&by_old).is_ok() && trust.verify(&by_new).is_ok());
        trust.clone().set_roots(vec![new.root().clone()]).unwrap();
        assert_eq!(trust.verify(&by_old), Err(PkiError::Untrusted));
        assert!(trust.verify(&by_new).is_ok());
        for refused in [
            Vec::new(),
            vec![stranger.root().clone()],
            vec![new.root().clone(), stranger.root().clone()],
            vec![new.root().clone(); 4],
        ] {
            assert!(trust.set_roots(refused).is_err());
        }
    }

    #[test]
    fn a_name_that_no_node_has_is_refused() {
        let authority = authority();
        let request = NodeKey::generate().unwrap().request().unwrap();
        let request = Request::parse(&request).unwrap();
        let (node, ours, theirs) =
            (NODE.to_string(), CLUSTER.to_string(), ClusterId::new(8).to_string());
        let named = |cluster: &str, unit: &str, node: &str| {
            let mut name = DistinguishedName::new();
            name.push(DnType::OrganizationName, cluster);
            name.push(DnType::OrganizationalUnitName, unit);
            name.push(DnType::CommonName, node);
            let validity = Validity::from_base(START, CERTIFICATE_LIFE);
            let issued = authority.issue_to(name, &request, validity).unwrap();
            authority.root().verify(&issued).map(|_verified| ())
        };
        let malformed = Err(PkiError::Malformed { what: "certificate" });
        assert_eq!(named(&ours, "swarm-worker", &node), Ok(()));
        assert_eq!(named(&theirs, "swarm-worker", &node), Err(PkiError::Untrusted));
        assert_eq!(named(&ours, "swarm-ca", &node), malformed);
        assert_eq!(named(&ours, "", &node), malformed);
        assert_eq!(named(&ours, "swarm-worker", "swarm-ca"), malformed);
        assert_eq!(named("", "swarm-worker", &node), malformed);
    }

    #[test]
    fn a_changed_or_cut_certificate_is_refused() {
        let authority = authority();
        let validity = Validity::from_base(START, CERTIFICATE_LIFE);
        let whole = issue(&authority, Role::Worker, validity);
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            assert!(authority.root().verify(&changed).is_err(), "{place}");
            assert!(authority.root().verify(&whole[..place]).is_err(), "{place}");
            assert!(Root::parse(whole[..place].to_vec()).is_err(), "{place}");
        }
    }

    #[test]
    fn an_authority_comes_back_from_its_parts_and_not_with_another_key() {
        let first = authority();
        let (der, key) = (first.root().der().to_vec(), first.key().clone());
        let again = Authority::from_parts(der.clone(), key).unwrap();
        let validity = Validity::from_base(START, CERTIFICATE_LIFE);
        assert!(first.root().verify(&issue(&again, Role::Worker, validity)).is_ok());
        assert_eq!(again.root().digest(), first.root().digest());
        assert!(Authority::from_parts(der, NodeKey::generate().unwrap()).is_err());
    }
}
