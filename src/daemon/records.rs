//! What the worker remembers of each task, in `tasks/ID/task`: written before anything else of the
//! task is made, so that whatever is found has an owner, and read when a daemon starts.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::id::TaskId;
use crate::host::disk::layout::DataRoot;
use crate::host::disk::ledger::{self, LedgerError};
use crate::host::images::InUse;
use crate::logic::manager::io::Fence;
use crate::model::digest::Digest;
use crate::model::task::Task;
use crate::model::wire::Kind;

/// Version of [`TaskRecord`].
const RECORD_VERSION: u16 = 1;

/// One task's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TaskRecord {
    /// The task as it was assigned.
    pub(super) task: Task,
    /// Fence of the assignment.
    pub(super) fence: Fence,
    /// Id of the image that its container is made from: keeps it from being pruned.
    pub(super) image: Digest,
    /// Boot of the machine in which its container was made.
    pub(super) boot: String,
}

impl TaskRecord {
    fn path(data: &DataRoot, task: TaskId) -> PathBuf {
        data.task(task).join("task")
    }

    /// Reads the record of a task; `None` when there is none.
    pub(super) fn read(data: &DataRoot, task: TaskId) -> Result<Option<Self>, LedgerError> {
        ledger::read(&Self::path(data, task), Kind::TASK, RECORD_VERSION)
    }

    /// Makes the record durable. Its folder is there.
    pub(super) fn write(&self, data: &DataRoot) -> Result<(), LedgerError> {
        ledger::write(&Self::path(data, self.task.id), Kind::TASK, RECORD_VERSION, self)
    }
}

/// Tasks that have a folder, in order. What is no task's is left alone.
pub(super) fn folders(data: &DataRoot) -> std::io::Result<Vec<TaskId>> {
    let entries = match std::fs::read_dir(data.tasks()) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut tasks = Vec::new();
    for entry in entries {
        if let Some(task) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            tasks.push(task);
        }
    }
    tasks.sort_unstable();
    Ok(tasks)
}

/// The images that tasks are made from, each with the id of one of its tasks. A record that cannot be
/// read is told: nobody can say which image it needs, so the caller must not remove any.
pub(super) fn images_in_use(data: &DataRoot) -> Result<InUse, RecordsError> {
    let tasks = folders(data).map_err(RecordsError::List)?;
    let mut used = InUse::new();
    for task in tasks {
        match TaskRecord::read(data, task) {
            Ok(Some(record)) => {
                used.insert(record.image, task.to_string());
            }
            Ok(None) => {}
            Err(source) => return Err(RecordsError::Read { task, source }),
        }
    }
    Ok(used)
}

/// Why it is not known which images are in use.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordsError {
    /// The folder of all tasks.
    #[error("cannot list the task folders")]
    List(#[source] std::io::Error),
    /// One task's record.
    #[error("cannot tell which image task {task} needs")]
    Read {
        /// Which task.
        task: TaskId,
        /// Why not.
        #[source]
        source: LedgerError,
    },
}
