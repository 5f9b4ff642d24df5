//! What the log holds: a request's preconditions and the objects it writes.

use serde::{Deserialize, Serialize};

use super::object::{Object, ObjectId};
use crate::base::id::RequestId;
use crate::base::time::Wall;

/// Most objects one entry may write; a larger batch becomes several entries.
pub const ENTRY_CHANGES_MAX: usize = 1_000;

/// One entry of the log: all of it is applied, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// A retried request is told its first answer.
    pub request: RequestId,
    /// Wall-clock time when it was proposed: becomes `created` and `updated`.
    pub time: Wall,
    /// All must hold when it is applied.
    pub preconditions: Vec<Precondition>,
    /// Written in this order.
    pub changes: Vec<Change>,
}

impl Entry {
    /// It only takes away, or tells tasks to end: what gives a full disk room again.
    #[must_use]
    pub fn makes_room(&self) -> bool {
        self.changes.iter().all(Change::makes_room)
    }
}

/// What must hold for an entry to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// The object is there, at this version.
    Version(ObjectId, u64),
    /// No such object is there.
    Absent(ObjectId),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Makes or replaces an object; its index becomes the version.
    Put(Object),
    /// Removes an object; one that is not there is no error.
    Remove(ObjectId),
}

impl Change {
    /// It takes away, or tells a task to end.
    #[must_use]
    pub fn makes_room(&self) -> bool {
        match self {
            Self::Remove(_) => true,
            Self::Put(Object::Task(task)) => !task.is_wanted(),
            Self::Put(_) => false,
        }
    }
}
