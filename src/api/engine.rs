//! What the API needs of the daemon: the seam at which tests put a twin.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::errors::ApiError;
use crate::base::id::NodeId;
use crate::daemon::handle::{
    Command, Facts, Failure, Handle, InitRequest, JoinRequest, Lines, LockChange, Reply, SwarmState, Tokens,
    TrustChange, View,
};
use crate::daemon::logs::LinesNext;
use crate::daemon::shown::{ImageStore, InUse, Volume};
use crate::model::engine::Labels;
use crate::model::node::Role;
use crate::model::unlock_key::UnlockKey;
use crate::model::peer::AskedLogs;

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

    /// Becomes a node of a cluster.
    ///
    /// # Errors
    /// When it is in one already, or no manager lets it join.
    fn join(&self, request: JoinRequest) -> Result<Role, Failure>;

    /// What machines need to join.
    ///
    /// # Errors
    /// When this node is no manager.
    fn tokens(&self) -> Result<Tokens, Failure>;

    /// Changes tokens, or what certificates hang on.
    ///
    /// # Errors
    /// As [`command`](Self::command), or for a life of certificates that is too short.
    fn change_trust(&self, change: TrustChange) -> Result<(), Failure>;

    /// The key that unlocks managers, where they need one.
    ///
    /// # Errors
    /// As [`tokens`](Self::tokens).
    fn unlock_key(&self) -> Result<Option<UnlockKey>, Failure>;

    /// Changes whether managers need a key, or which one.
    ///
    /// # Errors
    /// As [`command`](Self::command), or because there is no key to be replaced.
    fn change_lock(&self, change: LockChange) -> Result<(), Failure>;

    /// Unlocks this manager.
    ///
    /// # Errors
    /// When it is not locked, or with another key.
    fn unlock(&self, key: UnlockKey) -> Result<(), Failure>;

    /// Leaves the cluster.
    ///
    /// # Errors
    /// When it is in none, or is the last manager and `force` is false.
    fn leave(&self, force: bool) -> Result<(), Failure>;

    /// Stops what runs here, because the machine goes down.
    ///
    /// # Errors
    /// When the daemon stops already.
    fn go_down(&self) -> Result<(), Failure>;

    /// Facts about this machine and this daemon.
    fn facts(&self) -> &Facts;

    /// The images of this node.
    fn images(&self) -> &ImageStore;

    /// The images that tasks of this node need.
    ///
    /// # Errors
    /// When that cannot be told: no image may be removed then.
    fn images_in_use(&self) -> Result<InUse, Failure>;

    /// The volumes of this node.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn volumes(&self) -> Result<Vec<Volume>, ApiError>;

    /// The names of those that no task of this node uses.
    ///
    /// # Errors
    /// When that cannot be told.
    fn unused_volumes(&self) -> Result<BTreeSet<String>, ApiError>;

    /// Makes a volume, or finds the one that has the name.
    ///
    /// # Errors
    /// When the name is not legal, or the disk refuses.
    fn volume_create(&self, name: &str, labels: &Labels) -> Result<Volume, ApiError>;

    /// Removes a volume.
    ///
    /// # Errors
    /// When it is in use, or the disk refuses.
    fn volume_remove(&self, name: &str) -> Result<(), ApiError>;

    /// Opens the logs of tasks of one node.
    ///
    /// # Errors
    /// When they cannot be read.
    fn logs(&self, node: NodeId, asked: AskedLogs) -> Result<Box<dyn LogSource>, ApiError>;
}

/// The logs of one node's tasks, line by line, the oldest first.
pub trait LogSource: Send {
    /// The next line; with `follow` waits up to `wait` for one.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next(&mut self, wait: Duration) -> Result<LinesNext, ApiError>;
}

impl LogSource for Lines {
    fn next(&mut self, wait: Duration) -> Result<LinesNext, ApiError> {
        let next = match self {
            Self::Local(logs) => logs.next(wait),
            Self::Remote(logs) => logs.next(wait),
        };
        next.map_err(ApiError::from)
    }
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

    fn join(&self, request: JoinRequest) -> Result<Role, Failure> {
        Self::join(self, request)
    }

    fn tokens(&self) -> Result<Tokens, Failure> {
        Self::tokens(self)
    }

    fn change_trust(&self, change: TrustChange) -> Result<(), Failure> {
        Self::change_trust(self, change)
    }

    fn unlock_key(&self) -> Result<Option<UnlockKey>, Failure> {
        Self::unlock_key(self)
    }

    fn change_lock(&self, change: LockChange) -> Result<(), Failure> {
        Self::change_lock(self, change)
    }

    fn unlock(&self, key: UnlockKey) -> Result<(), Failure> {
        Self::unlock(self, key)
    }

    fn leave(&self, force: bool) -> Result<(), Failure> {
        Self::leave(self, force)
    }

    fn go_down(&self) -> Result<(), Failure> {
        Self::go_down(self)
    }

    fn facts(&self) -> &Facts {
        Self::facts(self)
    }

    fn images(&self) -> &ImageStore {
        Self::images(self)
    }

    fn images_in_use(&self) -> Result<InUse, Failure> {
        Self::images_in_use(self)
    }

    fn volumes(&self) -> Result<Vec<Volume>, ApiError> {
        Ok(self.runtime().volumes().list()?)
    }

    fn unused_volumes(&self) -> Result<BTreeSet<String>, ApiError> {
        Ok(self.runtime().unused_volumes()?)
    }

    fn volume_create(&self, name: &str, labels: &Labels) -> Result<Volume, ApiError> {
        Ok(self.runtime().volumes().create(name, labels)?)
    }

    fn volume_remove(&self, name: &str) -> Result<(), ApiError> {
        Ok(self.runtime().remove_volume(name)?)
    }

    fn logs(&self, node: NodeId, asked: AskedLogs) -> Result<Box<dyn LogSource>, ApiError> {
        Ok(Box::new(Self::logs(self, node, asked)?))
    }
}
