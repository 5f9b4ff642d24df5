//! rustls, set up so that names are node ids, roots are the cluster's and no clock is asked.
//!
//! The verifiers accept what hangs on a trusted root and nothing else. Roles, removal and dates are
//! looked at after the handshake, by `endpoint`: those refusals are told in words, not as an alert.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
use rustls::crypto::ring::{default_provider, kx_group, sign};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme,
};

use crate::host::pki::{Credentials, PkiError, Root, Trust, digest_of};
use crate::model::join_token::RootDigest;

/// What every certificate is called where TLS wants a name and no node is expected.
pub(super) const ANY_NAME: &str = "swarm-manager";

/// Whose certificate a caller accepts.
#[derive(Clone, Debug)]
pub(super) enum Accept {
    /// Those that hang on a root that is trusted.
    Trusted(Trust),
    /// Those that hang on the root that a join token names.
    Pinned(RootDigest),
}

/// The settings of a caller. `credentials` is what it proves itself with.
pub(super) fn client(
    accept: Accept,
    credentials: Option<&Credentials>,
) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { accept, known: known() }));
    Ok(match credentials {
        Some(credentials) => {
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own(credentials)?)))
        }
        None => config.with_no_client_auth(),
    })
}

/// The settings of who answers: it shows its certificate and the roots, so that a machine that
/// joins finds the one that its token names.
pub(super) fn server(trust: Trust, credentials: &Credentials) -> Result<ServerConfig, Error> {
    let verifier = Verifier { accept: Accept::Trusted(trust), known: known() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own(credentials)?)));
    // One for each connection: the next one that the same node makes begins with it.
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// The root among what a peer shows that has this digest.
pub(super) fn pinned(digest: RootDigest, shown: &[CertificateDer<'_>]) -> Result<Root, PkiError> {
    let root = shown.iter().find(|it| digest_of(it) == digest).ok_or(PkiError::OtherRoot)?;
    Root::parse(root.to_vec())
}

fn own(credentials: &Credentials) -> Result<CertifiedKey, Error> {
    let key = PrivatePkcs8KeyDer::from(credentials.key().pkcs8().to_vec());
    let key = sign::any_ecdsa_type(&PrivateKeyDer::from(key))?;
    let roots = credentials.roots().iter().map(Root::der);
    let chain = std::iter::once(credentials.certificate()).chain(roots);
    Ok(CertifiedKey::new(chain.map(|der| CertificateDer::from(der.to_vec())).collect(), key))
}

/// One suite and one key exchange: both ends are ours. ChaCha20 needs no help from the processor,
/// which the smaller boards do not give to AES.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    }
}

fn known() -> WebPkiSupportedAlgorithms {
    default_provider().signature_verification_algorithms
}

#[derive(Debug)]
struct Verifier {
    accept: Accept,
    known: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn verify(&self, leaf: &CertificateDer<'_>, shown: &[CertificateDer<'_>]) -> Result<(), Error> {
        let verified = match &self.accept {
            Accept::Trusted(trust) => trust.verify(leaf),
            Accept::Pinned(digest) => {
                pinned(*digest, shown).and_then(|root| root.verify(leaf)).map_err(|err| match err {
                    // It shows the root, perhaps one that was replaced, and does not hang on it.
                    PkiError::Untrusted => PkiError::OtherRoot,
                    other => other,
                })
            }
        };
        verified.map(|_verified| ()).map_err(|err| match err {
            // Its alert says so to the other side, too.
            PkiError::Untrusted => CertificateError::UnknownIssuer.into(),
            PkiError::Malformed { .. } => CertificateError::BadEncoding.into(),
            PkiError::OtherRoot | PkiError::Make { .. } | PkiError::RequestSignature => {
                CertificateError::Other(OtherError(Arc::new(err))).into()
            }
        })
    }

    fn verify_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.known)
    }
}

const NO_TLS12: Error = Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Verifier {
    /// A machine that joins has none.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
