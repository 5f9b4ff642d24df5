//! The cluster's trust: its root, the nodes' keys and certificates, and how one is verified.
//!
//! Certificates are made with `rcgen` and their chains verified with `webpki`; what no chain tells
//! (node, role, cluster, dates) is read by [`der`] from certificates that were verified before. How
//! long one is good for is `model::validity`'s business: nothing here asks a clock. Whoever holds a
//! root's key can be any node, so it is kept sealed in the log, on managers only.
//!
//! **Invariant:** a certificate names one node of one cluster in one role (CN, O, OU), hangs on a
//! root that is trusted here, and is for an ECDSA P-256 key.
//! **Invariant:** several roots may be trusted at once, and each alone is enough: so a root is
//! replaced by trusting the new one everywhere, issuing anew, and forgetting the old one.

mod authority;
mod credentials;
mod der;
mod key;
mod trust;

pub use self::authority::Authority;
pub use self::credentials::{Credentials, CredentialsError};
pub use self::key::{NodeKey, Request};
pub(crate) use self::trust::digest_of;
pub use self::trust::{ROOTS_MAX, Root, Trust, Verified};

/// Why something of the cluster's trust cannot be made or is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// Making a key, a request or a certificate failed.
    #[error("cannot make {what}: {why}")]
    Make {
        /// What was being made.
        what: &'static str,
        /// What the library says.
        why: String,
    },
    /// Bytes that should be a key, a request or a certificate are none.
    #[error("not a usable {what}")]
    Malformed {
        /// What they should be.
        what: &'static str,
    },
    /// The request is not signed by the key that it names.
    #[error("the certificate request is not signed by its own key")]
    RequestSignature,
    /// No root that is trusted here has signed it.
    #[error("the certificate is of another cluster")]
    Untrusted,
    /// Nothing is signed by the root that the join token names.
    #[error("the join token is of another cluster")]
    OtherRoot,
}
