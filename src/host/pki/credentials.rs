//! What a node proves itself with, and the file that keeps it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{NodeKey, PkiError, Root, Trust, Verified};
use crate::base::time::{Span, Wall};
use crate::host::disk::ledger::{self, LedgerError};
use crate::host::disk::sealed::{Sealed, Secret};
use crate::model::node::Role;
use crate::model::validity::Held;
use crate::model::wire::{Frame, Kind};

/// Version of the open file.
const OPEN: u16 = 1;

/// Version of the file whose private key is sealed.
const SEALED: u16 = 2;

const PURPOSE: &[u8] = b"skep node key 1";

/// A node's key, the certificate of it, and the roots that the node trusts. One file, so that a
/// crash cannot leave a key with another key's certificate.
#[derive(Clone, Debug)]
pub struct Credentials {
    key: NodeKey,
    certificate: Vec<u8>,
    roots: Vec<Root>,
    received: Wall,
    verified: Verified,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read or written.
    #[error("cannot use the node's certificate")]
    Ledger(#[from] LedgerError),
    /// It is whole, but what it holds does not belong together.
    #[error("{} holds no certificate of this node (leave the swarm and join again)", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PkiError,
    },
    /// Its private key is sealed, and nothing here opens it.
    #[error("the key in {} is sealed, and node/vault does not hold what opens it (leave the swarm and join again)", path.display())]
    Sealed {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
struct File<K> {
    key: K,
    certificate: Vec<u8>,
    roots: Vec<Vec<u8>>,
    received: Wall,
}

/// The file as it was found.
enum Kept {
    Open(File<Vec<u8>>),
    /// The certificate stands beside the key, and is bound to it.
    Sealed(File<Sealed>),
}

/// What anybody may read of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whom the certificate names.
    pub verified: Verified,
    /// The private key is sealed.
    pub sealed: bool,
}

impl Credentials {
    /// Puts together what belongs together. `received` is what the system's clock said when the
    /// certificate came.
    ///
    /// # Errors
    /// When the certificate is not of this key, or none of the roots has issued it.
    pub fn new(
        key: NodeKey,
        certificate: Vec<u8>,
        roots: Vec<Root>,
        received: Wall,
    ) -> Result<Self, PkiError> {
        let verified = Trust::new(roots.clone())?.verify(&certificate)?;
        let point = key.pair()?;
        let point = rcgen::PublicKeyData::der_bytes(&point);
        if super::der::point(&certificate).is_none_or(|it| &it[..] != point) {
            return Err(PkiError::Malformed { what: "certificate of this key" });
        }
        Ok(Self { key, certificate, roots, received, verified })
    }

    /// The same with other roots.
    ///
    /// # Errors
    /// When none of them has issued the certificate.
    pub fn trusting(&self, roots: Vec<Root>) -> Result<Self, PkiError> {
        Self::new(self.key.clone(), self.certificate.clone(), roots, self.received)
    }

    /// The same, showing other roots.
    #[cfg(test)]
    pub(crate) fn with_roots(&self, roots: Vec<Root>) -> Self {
        Self { roots, ..self.clone() }
    }

    /// Where they are kept: only the owner may read the file.
    #[must_use]
    pub fn path(data_root: &Path) -> PathBuf {
        data_root.join("node/certificate")
    }

    /// Reads them; `None` when the node has none. `secret` is what may have sealed them.
    ///
    /// # Errors
    /// When the file cannot be read or opened, or what it holds does not belong together.
    pub fn read(
        data_root: &Path,
        secret: Option<&Secret>,
    ) -> Result<Option<Self>, CredentialsError> {
        let path = Self::path(data_root);
        let file = match load(&path)? {
            None => return Ok(None),
            Some(Kept::Open(file)) => file,
            Some(Kept::Sealed(file)) => {
                let opened = secret
                    .and_then(|secret| secret.open(PURPOSE, &file.certificate, &file.key));
                let Some(key) = opened else { return Err(CredentialsError::Sealed { path }) };
                let File { certificate, roots, received, .. } = file;
                File { key, certificate, roots, received }
            }
        };
        let whole = || {
            let key = NodeKey::from_pkcs8(file.key)?;
            Self::new(key, file.certificate, parsed(file.roots)?, file.received)
        };
        whole().map(Some).map_err(|source| CredentialsError::Unusable { path, source })
    }

    /// Whom they name, also where the key is sealed; `None` when the node has none.
    ///
    /// # Errors
    /// When the file cannot be read, or what it holds does not belong together.
    pub fn shown(data_root: &Path) -> Result<Option<Shown>, CredentialsError> {
        let path = Self::path(data_root);
        let (certificate, roots, sealed) = match load(&path)? {
            None => return Ok(None),
            Some(Kept::Open(file)) => (file.certificate, file.roots, false),
            Some(Kept::Sealed(file)) => (file.certificate, file.roots, true),
        };
        let verified = parsed(roots).and_then(Trust::new);
        let verified = verified.and_then(|trust| trust.verify(&certificate));
        match verified {
            Ok(verified) => Ok(Some(Shown { verified, sealed })),
            Err(source) => Err(CredentialsError::Unusable { path, source }),
        }
    }

    /// Makes them durable, in place of those that were there. `secret` seals the key of a manager; a
    /// worker's is open always: nobody could unlock it.
    ///
    /// # Errors
    /// When the file cannot be written; then those that were there are still there.
    pub fn write(
        &self,
        data_root: &Path,
        secret: Option<&Secret>,
    ) -> Result<(), CredentialsError> {
        let (certificate, received) = (self.certificate.clone(), self.received);
        let roots = self.roots.iter().map(|root| root.der().to_vec()).collect();
        let path = Self::path(data_root);
        match secret.filter(|_| self.verified.identity.role == Role::Manager) {
            Some(secret) => {
                let key = secret.seal(PURPOSE, &certificate, self.key.pkcs8());
                let file = File { key, certificate, roots, received };
                ledger::write(&path, Kind::CREDENTIALS, SEALED, &file)?;
            }
            None => {
                let file = File { key: self.key.pkcs8(), certificate, roots, received };
                ledger::write(&path, Kind::CREDENTIALS, OPEN, &file)?;
            }
        }
        Ok(())
    }

    /// Seals what is kept, or opens it for good; what is so already is left as it is.
    ///
    /// # Errors
    /// When the file cannot be read, opened or written.
    pub fn reseal(
        data_root: &Path,
        secret: Option<&Secret>,
        seal: bool,
    ) -> Result<(), CredentialsError> {
        let Some(shown) = Self::shown(data_root)? else { return Ok(()) };
        let seal = seal && shown.verified.identity.role == Role::Manager;
        if shown.sealed != seal
            && let Some(kept) = Self::read(data_root, secret)?
        {
            kept.write(data_root, secret.filter(|_| seal))?;
        }
        Ok(())
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The certificate (DER).
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The roots.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// What the system's clock said when the certificate came.
    #[must_use]
    pub const fn received(&self) -> Wall {
        self.received
    }

    /// What `model::validity` wants to know, to say when they are to be renewed. `elapsed` is how long
    /// this process has had them.
    #[must_use]
    pub const fn held(&self, elapsed: Span) -> Held {
        Held { validity: self.verified.validity, received: self.received, elapsed }
    }

    /// Whom the certificate names, and its life.
    #[must_use]
    pub const fn verified(&self) -> Verified {
        self.verified
    }
}

fn load(path: &Path) -> Result<Option<Kept>, CredentialsError> {
    let Some((version, payload)) = ledger::load(path, Kind::CREDENTIALS)? else { return Ok(None) };
    let frame = Frame { kind: Kind::CREDENTIALS, version, payload: &payload };
    let kept = if version == SEALED {
        frame.decode(Kind::CREDENTIALS, SEALED).map(Kept::Sealed)
    } else {
        frame.decode(Kind::CREDENTIALS, OPEN).map(Kept::Open)
    };
    kept.map(Some).map_err(|source| LedgerError::Decode { path: path.to_owned(), source }.into())
}

fn parsed(roots: Vec<Vec<u8>>) -> Result<Vec<Root>, PkiError> {
    roots.into_iter().map(Root::parse).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::base::id::{ClusterId, NodeId};
    use crate::host::pki::{Authority, Request};
    use crate::model::validity::{CERTIFICATE_LIFE, Validity};

    #[test]
    fn the_file_is_frozen() {
        let file = File {
            key: vec![1, 2],
            certificate: vec![3],
            roots: vec![vec![4, 5], vec![6]],
            received: Wall(300),
        };
        let bytes = postcard::to_allocvec(&file).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect_file!["../../../tests/data/wire/credentials-1.hex"]
            .assert_eq(&(hex + "\n"));
        let File { key, certificate, roots, received } = file;
        let secret = Secret::new([7; 32]);
        let key = secret.seal_with([0x22; 32], PURPOSE, &certificate, &key);
        let bytes = postcard::to_allocvec(&File { key, certificate, roots, received }).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect_file!["../../../tests/data/wire/credentials-2.hex"]
            .assert_eq(&(hex + "\n"));
    }

    fn credentials(node: NodeId, role: Role) -> Credentials {
        let authority = Authority::generate(ClusterId::new(1), Wall(5_000_000)).unwrap();
        let key = NodeKey::generate().unwrap();
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let validity = Validity::from_base(Wall(7_000_000), CERTIFICATE_LIFE);
        let der = authority.issue(&request, node, role, validity).unwrap();
        Credentials::new(key, der, vec![authority.root().clone()], Wall(9)).unwrap()
    }

    #[test]
    fn a_sealed_key_needs_its_secret_and_a_workers_is_never_sealed() {
        let dir = std::env::temp_dir().join(format!("skep-sealed-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("node")).unwrap();
        let (secret, other) = (Secret::draw(), Secret::draw());
        let node = NodeId::new(3);
        let made = credentials(node, Role::Manager);
        let in_plain = || {
            let file = std::fs::read(Credentials::path(&dir)).unwrap();
            file.windows(made.key().pkcs8().len()).any(|it| it == made.key().pkcs8())
        };
        made.write(&dir, Some(&secret)).unwrap();
        let shown = Credentials::shown(&dir).unwrap().unwrap();
        assert_eq!((shown.verified.identity.node, shown.sealed, in_plain()), (node, true, false));
        for wrong in [None, Some(&other)] {
            let refused = Credentials::read(&dir, wrong).unwrap_err();
            assert!(matches!(refused, CredentialsError::Sealed { .. }), "{refused}");
            assert!(Credentials::reseal(&dir, wrong, false).is_err());
        }
        for seal in [true, false, false, true] {
            Credentials::reseal(&dir, Some(&secret), seal).unwrap();
            assert_eq!(in_plain(), !seal);
            let read = Credentials::read(&dir, Some(&secret)).unwrap().unwrap();
            assert_eq!(read.key().pkcs8(), made.key().pkcs8());
        }
        credentials(node, Role::Worker).write(&dir, Some(&secret)).unwrap();
        Credentials::reseal(&dir, Some(&secret), true).unwrap();
        assert!(!Credentials::shown(&dir).unwrap().unwrap().sealed);
        assert!(Credentials::read(&dir, None).unwrap().is_some());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn credentials_come_back_whole_and_only_the_owner_may_read_them() {
        let dir = std::env::temp_dir().join(format!("skep-credentials-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("node")).unwrap();
        assert!(Credentials::read(&dir, None).unwrap().is_none());
        let authority = Authority::generate(ClusterId::new(1), Wall(5_000_000)).unwrap();
        let key = NodeKey::generate().unwrap();
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let validity = Validity::from_base(Wall(7_000_000), CERTIFICATE_LIFE);
        let node = NodeId::new(3);
        let der = authority.issue(&request, node, Role::Worker, validity).unwrap();
        let roots = vec![authority.root().clone()];
        let made = Credentials::new(key, der.clone(), roots.clone(), Wall(9)).unwrap();
        made.write(&dir, None).unwrap();
        let mode = std::fs::metadata(Credentials::path(&dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Credentials::read(&dir, None).unwrap().unwrap();
        assert_eq!(read.key().pkcs8(), made.key().pkcs8());
        assert_eq!((read.certificate(), read.roots()), (made.certificate(), made.roots()));
        assert_eq!((read.received(), read.verified().identity.node), (Wall(9), node));
        std::fs::remove_dir_all(&dir).unwrap();

        let other = NodeKey::generate().unwrap();
        assert!(Credentials::new(other, der.clone(), roots, Wall(9)).is_err());
        let stranger = Authority::generate(ClusterId::new(1), Wall(5_000_000)).unwrap();
        let roots = vec![stranger.root().clone()];
        let untrusted = Credentials::new(made.key().clone(), der, roots, Wall(9));
        assert_eq!(untrusted.unwrap_err(), PkiError::Untrusted);
    }
}
