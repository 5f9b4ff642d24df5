//! What the API needs of the daemon: the seam at which tests put a twin.

use std::sync::Arc;

use crate::base::id::NodeId;
use crate::daemon::handle::{Command, Facts, Failure, Handle, InitRequest, Reply, SwarmState, View};

/// The daemon, as far as the API asks it. Every call may block, for as long as its own deadline.
pub trait Engine: Send + Sync {
    /// Asks the manager to change something.
    ///
    /// # Errors
    /// With the manager's reason, or because there is none.
    fn command(&self, command: Command) -> Result<Reply, Failure>;

    /// The cluster's objects as of now.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    fn view(&self) -> Result<Arc<View>, Failure>;

    /// Whether this node is in a swarm.
    fn swarm(&self) -> SwarmState;

    /// Makes a cluster of this one node.
    ///
    /// # Errors
    /// When it is in one already, or the addresses cannot be used.
    fn init(&self, request: InitRequest) -> Result<NodeId, Failure>;

    /// Leaves the cluster.
    ///
    /// # Errors
    /// When it is in none, or is the last manager and `force` is false.
    fn leave(&self, force: bool) -> Result<(), Failure>;

    /// Facts about this machine and this daemon.
    fn facts(&self) -> &Facts;
}

impl Engine for Handle {
    fn command(&self, command: Command) -> Result<Reply, Failure> {
        Self::command(self, command)
    }

    fn view(&self) -> Result<Arc<View>, Failure> {
        Self::view(self)
    }

    fn swarm(&self) -> SwarmState {
        Self::swarm(self)
    }

    fn init(&self, request: InitRequest) -> Result<NodeId, Failure> {
        Self::init(self, request)
    }

    fn leave(&self, force: bool) -> Result<(), Failure> {
        Self::leave(self, force)
    }

    fn facts(&self) -> &Facts {
        Self::facts(self)
    }
}
