//! What all connections of a node share: what it proves itself with, whom it trusts, its clock.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};

use super::tls::{self, Accept};
use crate::base::id::NodeId;
use crate::base::time::Wall;
use crate::host::clock;
use crate::host::pki::{Credentials, PkiError, Trust};
use crate::model::peer::{Caller, Certified};
use crate::model::validity::{Times, standing};

/// Where an endpoint gets its times from.
#[derive(Clone)]
pub struct Clocks {
    /// The system's clock.
    pub system: Arc<dyn Fn() -> Wall + Send + Sync>,
    /// When this program was built.
    pub build: Wall,
}

impl Default for Clocks {
    /// The machine's.
    fn default() -> Self {
        Self { system: Arc::new(clock::wall), build: clock::build() }
    }
}

impl fmt::Debug for Clocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clocks").field("build", &self.build).finish_non_exhaustive()
    }
}

/// A node's end of all its connections. Clones are one.
#[derive(Clone, Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    trust: Trust,
    clocks: Clocks,
    current: RwLock<Arc<Current>>,
}

/// What belongs to one certificate. TLS sessions to be resumed are kept with it: one that was begun
/// with an older certificate would bring that one along.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) node: NodeId,
    pub(super) client: Arc<ClientConfig>,
    pub(super) server: Arc<ServerConfig>,
}

impl Endpoint {
    /// Proves itself with `credentials` and trusts `trust`, which may be changed at any time.
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn new(credentials: &Credentials, trust: Trust, clocks: Clocks) -> Result<Self, PkiError> {
        let current = RwLock::new(Arc::new(Current::new(credentials, &trust)?));
        Ok(Self { shared: Arc::new(Shared { trust, clocks, current }) })
    }

    /// Proves itself with these from the next connection on. They show their roots, but whom the
    /// node trusts is changed in [`Self::trust`].
    ///
    /// # Errors
    /// When the key cannot be used.
    pub fn replace(&self, credentials: &Credentials) -> Result<(), PkiError> {
        let current = Arc::new(Current::new(credentials, &self.shared.trust)?);
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// Whom it trusts.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.shared.trust
    }

    /// Which node it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.current().node
    }

    pub(super) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who a peer is, by the certificates that it showed; `None` when it showed none.
    pub(super) fn caller(
        &self,
        shown: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<Caller>, PkiError> {
        let Some(leaf) = shown.and_then(<[_]>::first) else { return Ok(None) };
        let trust = &self.shared.trust;
        let verified = trust.verify(leaf)?;
        let clocks = &self.shared.clocks;
        let times =
            Times { system: (clocks.system)(), build: clocks.build, ..Times::default() };
        let (node, issued) = (verified.identity.node, verified.validity.not_before);
        Ok(Some(Caller {
            identity: verified.identity,
            standing: standing(verified.validity.not_after, &times),
            removed: trust.is_removed(node),
            demoted: trust.is_demoted(node, issued),
            certified: Certified { root: verified.root, issued },
        }))
    }
}

impl Current {
    fn new(credentials: &Credentials, trust: &Trust) -> Result<Self, PkiError> {
        let failed =
            |err: rustls::Error| PkiError::Make { what: "a TLS setup", why: err.to_string() };
        let client = tls::client(Accept::Trusted(trust.clone()), Some(credentials));
        let server = tls::server(trust.clone(), credentials);
        Ok(Self {
            node: credentials.verified().identity.node,
            client: Arc::new(client.map_err(failed)?),
            server: Arc::new(server.map_err(failed)?),
        })
    }
}
