//! A node's key pair and the request for a certificate of it.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::{PkiError, der};

/// The largest request that is looked at, in bytes; a node's own has some 250.
const REQUEST_BYTES_MAX: usize = 4 << 10;

/// A private key (ECDSA P-256), as PKCS#8.
#[derive(Clone)]
pub struct NodeKey {
    pkcs8: Vec<u8>,
}

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel gives no random numbers.
    pub fn generate() -> Result<Self, PkiError> {
        let pair = KeyPair::generate().map_err(|err| made("a key", &err))?;
        Ok(Self { pkcs8: pair.serialize_der() })
    }

    /// From what [`Self::pkcs8`] gave.
    ///
    /// # Errors
    /// When the bytes are no such key.
    pub fn from_pkcs8(pkcs8: Vec<u8>) -> Result<Self, PkiError> {
        let key = Self { pkcs8 };
        key.pair().map(|_pair| key)
    }

    /// The key's bytes. Whoever has them is this node.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// A request for a certificate (PKCS#10, DER). It names nobody: who a node is, the manager says.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn request(&self) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair()?);
        let request = request.map_err(|err| made("a certificate request", &err))?;
        Ok(request.der().to_vec())
    }

    pub(super) fn pair(&self) -> Result<KeyPair, PkiError> {
        let pkcs8 = PrivatePkcs8KeyDer::from(&self.pkcs8[..]);
        KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_why| PkiError::Malformed { what: "private key (ECDSA P-256, PKCS#8)" })
    }
}

impl fmt::Debug for NodeKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

/// A request whose sender holds the key that it names. Nothing else of it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    point: [u8; der::POINT_BYTES],
}

impl Request {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// When it is no request for an ECDSA P-256 key, or another key has signed it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PkiError> {
        let raw = (bytes.len() <= REQUEST_BYTES_MAX).then(|| der::request(bytes)).flatten();
        let raw = raw.ok_or(PkiError::Malformed { what: "certificate request" })?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, raw.point)
            .verify(raw.signed, raw.signature)
            .map_err(|_unspecified| PkiError::RequestSignature)?;
        Ok(Self { point: *raw.point })
    }
}

impl rcgen::PublicKeyData for Request {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

pub(super) fn made(what: &'static str, err: &rcgen::Error) -> PkiError {
    PkiError::Make { what, why: err.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_proves_its_key() {
        let key = NodeKey::generate().unwrap();
        let request = key.request().unwrap();
        let parsed = Request::parse(&request).unwrap();
        assert_eq!(&parsed.point[..], key.pair().unwrap().public_key_raw());
        let again = NodeKey::from_pkcs8(key.pkcs8().to_vec()).unwrap();
        assert_eq!(Request::parse(&again.request().unwrap()).unwrap(), parsed);
        assert_eq!(format!("{key:?}"), "NodeKey");
    }

    #[test]
    fn a_request_that_was_changed_or_cut_is_refused() {
        let request = NodeKey::generate().unwrap().request().unwrap();
        for place in 0..request.len() {
            let mut changed = request.clone();
            changed[place] ^= 1;
            // What names the algorithm of the signature is not looked at: there is only one.
            if let Ok(parsed) = Request::parse(&changed) {
                assert_eq!(Ok(parsed), Request::parse(&request), "{place}");
                assert!(changed[..place].windows(4).any(|it| it == [0x2a, 0x86, 0x48, 0xce]));
            }
            assert!(Request::parse(&request[..place]).is_err(), "{place}");
        }
        assert!(Request::parse(&[request.clone(), vec![0]].concat()).is_err());
        // The other node's key with one's own signature.
        let other = NodeKey::generate().unwrap().request().unwrap();
        let (mine, theirs) = (Request::parse(&request).unwrap(), Request::parse(&other).unwrap());
        let at = request.windows(65).position(|it| it == mine.point).unwrap();
        let mut mixed = request;
        mixed[at..at + 65].copy_from_slice(&theirs.point);
        assert_eq!(Request::parse(&mixed), Err(PkiError::RequestSignature));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bytes in [Vec::new(), vec![0; 64], NodeKey::generate().unwrap().request().unwrap()] {
            assert!(matches!(NodeKey::from_pkcs8(bytes), Err(PkiError::Malformed { .. })));
        }
    }
}
