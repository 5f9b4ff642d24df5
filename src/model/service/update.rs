//! How an update or a rollback of a service proceeds, and how it goes.

use serde::{Deserialize, Serialize};

use crate::base::time::{Span, Wall};

/// How an update or a rollback proceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Slots at once; 0 is all.
    pub parallelism: u64,
    /// After each.
    pub delay: Span,
    /// What a failure does.
    pub on_failure: FailureAction,
    /// How long a new task is watched.
    pub monitor: Span,
    /// Tolerated failures in millionths of the slots.
    pub max_failure_ppm: u32,
    /// Which of old and new goes first.
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Span::ZERO,
            on_failure: FailureAction::Pause,
            monitor: Span::from_secs(5),
            max_failure_ppm: 0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What a failed update does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureAction {
    /// Stops and waits for the user.
    Pause,
    /// Goes on.
    Continue,
    /// Goes back to the previous spec.
    Rollback,
}

/// Which of the old and the new task goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateOrder {
    /// The old one stops before the new one starts.
    StopFirst,
    /// The new one runs before the old one stops.
    StartFirst,
}

/// How an update goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Where it is.
    pub state: UpdateState,
    /// When it began.
    pub started: Option<Wall>,
    /// When it ended.
    pub completed: Option<Wall>,
    /// Swarm's words for it.
    pub message: String,
}

/// Where an update is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateState {
    /// Tasks are being replaced.
    Updating,
    /// Stopped after a failure.
    Paused,
    /// Done.
    Completed,
    /// Going back.
    RollbackStarted,
    /// Going back stopped after a failure.
    RollbackPaused,
    /// Gone back.
    RollbackCompleted,
}
