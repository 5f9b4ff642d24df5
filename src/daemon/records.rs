//! What the worker remembers of each task, in `tasks/ID/task`: written before anything else of the
//! task is made, so that whatever is found has an owner, and read when a daemon starts. And the
//! fence of the newest leader that it heard, in `node/worker`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::id::TaskId;
use crate::host::disk::layout::DataRoot;
use crate::host::disk::ledger::{self, LedgerError};
use crate::host::images::InUse;
use crate::logic::manager::io::Fence;
use crate::model::digest::Digest;
use crate::model::network::Network;
use crate::model::task::Task;
use crate::model::v1;
use crate::model::wire::{Frame, Kind};

/// Version of [`TaskRecord`].
const RECORD_VERSION: u16 = 2;

/// The version before it, which is read, too.
const RECORD_VERSION_OLD: u16 = 1;

/// One task's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TaskRecord {
    /// The task: what is wanted of it, and its end once it has ended.
    pub(super) task: Task,
    /// Networks it is on: a node that boots without a manager has them from here.
    pub(super) networks: Vec<Network>,
    /// Number among the successors that this worker made itself, while no manager has adopted it.
    pub(super) own: Option<u32>,
    /// Fence of the assignment.
    pub(super) fence: Fence,
    /// Id of the image that its container is made from: keeps it from being pruned.
    pub(super) image: Digest,
    /// Boot of the machine in which its container was made.
    pub(super) boot: String,
}

/// Version 1 of [`TaskRecord`].
#[derive(Deserialize)]
struct TaskRecordV1 {
    task: v1::Task,
    fence: Fence,
    image: Digest,
    boot: String,
}

impl From<TaskRecordV1> for TaskRecord {
    fn from(old: TaskRecordV1) -> Self {
        // The only node of its swarm wrote it, and hears of the networks at once.
        let (networks, own) = (Vec::new(), None);
        let task = old.task.into();
        Self { task, networks, own, fence: old.fence, image: old.image, boot: old.boot }
    }
}

impl TaskRecord {
    fn path(data: &DataRoot, task: TaskId) -> PathBuf {
        data.task(task).join("task")
    }

    /// Reads the record of a task; `None` when there is none.
    pub(super) fn read(data: &DataRoot, task: TaskId) -> Result<Option<Self>, LedgerError> {
        let path = Self::path(data, task);
        let Some((version, payload)) = ledger::load(&path, Kind::TASK)? else { return Ok(None) };
        let frame = Frame { kind: Kind::TASK, version, payload: &payload };
        let record = if version == RECORD_VERSION_OLD {
            frame.decode(Kind::TASK, version).map(|old: TaskRecordV1| old.into())
        } else {
            frame.decode(Kind::TASK, RECORD_VERSION)
        };
        record.map(Some).map_err(|source| LedgerError::Decode { path, source })
    }

    /// Makes the record durable. Its folder is there.
    pub(super) fn write(&self, data: &DataRoot) -> Result<(), LedgerError> {
        ledger::write(&Self::path(data, self.task.id), Kind::TASK, RECORD_VERSION, self)
    }
}

/// Version of the fence's file.
const FENCE_VERSION: u16 = 1;

fn fence_path(data: &DataRoot) -> PathBuf {
    data.node().join("worker")
}

/// The fence that was kept; the lowest when none was.
pub(super) fn read_fence(data: &DataRoot) -> Result<Fence, LedgerError> {
    let kept = ledger::read(&fence_path(data), Kind::WORKER, FENCE_VERSION)?;
    Ok(kept.unwrap_or_default())
}

/// Keeps a fence, durably.
pub(super) fn write_fence(data: &DataRoot, fence: Fence) -> Result<(), LedgerError> {
    ledger::write(&fence_path(data), Kind::WORKER, FENCE_VERSION, &fence)
}

/// Forgets it: another cluster counts anew.
pub(super) fn remove_fence(data: &DataRoot) -> Result<(), LedgerError> {
    ledger::remove(&fence_path(data))
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

#[cfg(test)]
mod tests {
    use expect_test::{ExpectFile, expect_file};

    use super::*;
    use crate::model::sample;

    fn record(task: Task, networks: Vec<Network>, own: Option<u32>) -> TaskRecord {
        let fence = Fence { epoch: 1, term: 2, index: 300 };
        let (image, boot) = (Digest([7; 32]), "boot".to_owned());
        TaskRecord { task, networks, own, fence, image, boot }
    }

    fn bytes_of(file: &ExpectFile) -> Vec<u8> {
        let text: String = file.data().chars().filter(|c| !c.is_whitespace()).collect();
        let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    /// A difference means that tasks of an older release are lost: make a new version.
    #[test]
    fn the_frozen_bytes_of_a_record() {
        let folder = std::env::temp_dir().join(format!("skep-records-{}", std::process::id()));
        let data = DataRoot::prepare(&folder).unwrap();
        let written = record(sample::task(), vec![sample::network()], Some(3));
        let id = written.task.id;
        let path = TaskRecord::path(&data, id);
        std::fs::create_dir_all(data.task(id)).unwrap();
        written.write(&data).unwrap();
        let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let lines: Vec<String> = std::fs::read(&path).unwrap().chunks(32).map(line).collect();
        let now = expect_file!["../../tests/data/wire/task-record-2.hex"];
        now.assert_eq(&(lines.join("\n") + "\n"));
        assert_eq!(TaskRecord::read(&data, id).unwrap(), Some(written));

        let old = expect_file!["../../tests/data/wire/task-record-1.hex"];
        std::fs::write(&path, bytes_of(&old)).unwrap();
        assert_eq!(TaskRecord::read(&data, id).unwrap(), Some(record(sample::task_v1(), Vec::new(), None)));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn the_frozen_bytes_of_a_fence() {
        let folder = std::env::temp_dir().join(format!("skep-fence-{}", std::process::id()));
        let data = DataRoot::prepare(&folder).unwrap();
        assert_eq!(read_fence(&data).unwrap(), Fence::default());
        let fence = Fence { epoch: 1, term: 2, index: 300 };
        write_fence(&data, fence).unwrap();
        let bytes = std::fs::read(fence_path(&data)).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_file!["../../tests/data/wire/worker-fence-1.hex"].assert_eq(&(hex + "\n"));
        assert_eq!(read_fence(&data).unwrap(), fence);
        remove_fence(&data).unwrap();
        remove_fence(&data).unwrap();
        assert_eq!(read_fence(&data).unwrap(), Fence::default());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
