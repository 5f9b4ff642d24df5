//! What a node proves itself with, and the file that keeps it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{NodeKey, PkiError, Root, Trust, Verified};
use crate::base::time::{Span, Wall};
use crate::host::disk::ledger::{self, LedgerError};
use crate::model::validity::Held;
use crate::model::wire::Kind;

/// Version of the file.
const VERSION: u16 = 1;

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
}

#[derive(Serialize, Deserialize)]
struct File {
    key: Vec<u8>,
    certificate: Vec<u8>,
    roots: Vec<Vec<u8>>,
    received: Wall,
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

    /// Reads them; `None` when the node has none.
    ///
    /// # Errors
    /// When the file cannot be read, or what it holds does not belong together.
    pub fn read(data_root: &Path) -> Result<Option<Self>, CredentialsError> {
        let path = Self::path(data_root);
        let Some(file) = ledger::read::<File>(&path, Kind::CREDENTIALS, VERSION)? else {
            return Ok(None);
        };
        let whole = || {
            let key = NodeKey::from_pkcs8(file.key)?;
            let roots = file.roots.into_iter().map(Root::parse).collect::<Result<_, _>>()?;
            Self::new(key, file.certificate, roots, file.received)
        };
        whole().map(Some).map_err(|source| CredentialsError::Unusable { path, source })
    }

    /// Makes them durable, in place of those that were there.
    ///
    /// # Errors
    /// When the file cannot be written; then those that were there are still there.
    pub fn write(&self, data_root: &Path) -> Result<(), CredentialsError> {
        let file = File {
            key: self.key.pkcs8().to_vec(),
            certificate: self.certificate.clone(),
            roots: self.roots.iter().map(|root| root.der().to_vec()).collect(),
            received: self.received,
        };
        Ok(ledger::write(&Self::path(data_root), Kind::CREDENTIALS, VERSION, &file)?)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::base::id::{ClusterId, NodeId};
    use crate::host::pki::{Authority, Request};
    use crate::model::node::Role;
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
    }

    #[test]
    fn credentials_come_back_whole_and_only_the_owner_may_read_them() {
        let dir = std::env::temp_dir().join(format!("skep-credentials-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("node")).unwrap();
        assert!(Credentials::read(&dir).unwrap().is_none());
        let authority = Authority::generate(ClusterId::new(1), Wall(5_000_000)).unwrap();
        let key = NodeKey::generate().unwrap();
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let validity = Validity::from_base(Wall(7_000_000), CERTIFICATE_LIFE);
        let node = NodeId::new(3);
        let der = authority.issue(&request, node, Role::Worker, validity).unwrap();
        let roots = vec![authority.root().clone()];
        let made = Credentials::new(key, der.clone(), roots.clone(), Wall(9)).unwrap();
        made.write(&dir).unwrap();
        let mode = std::fs::metadata(Credentials::path(&dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Credentials::read(&dir).unwrap().unwrap();
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
