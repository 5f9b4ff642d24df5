//! Logs of a node's tasks, as a manager asks for them and is told them.

use serde::{Deserialize, Serialize};

use crate::base::id::TaskId;

/// Tasks whose logs are asked for at once; a node refuses to read more.
pub const LOG_TASKS_MAX: usize = 256;

/// Which logs, and what of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedLogs {
    /// Whose; at most [`LOG_TASKS_MAX`].
    pub tasks: Vec<TaskId>,
    /// Go on with what is written from here on, until all of the containers have ended.
    pub follow: bool,
    /// Only so many of the last lines of each.
    pub tail: Option<u64>,
    /// Only lines at or after this: nanoseconds since 1970.
    pub since_ns: Option<i128>,
    /// Only lines before this: nanoseconds since 1970.
    pub until_ns: Option<i128>,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskLine {
    /// Whose.
    pub task: TaskId,
    /// It came from standard error.
    pub is_stderr: bool,
    /// When: nanoseconds since 1970.
    pub time_ns: i128,
    /// What, with the line's end where it had one.
    pub text: String,
}
