//! A disk: what is durable, what is being written, and a process or a power supply that dies.

use skep::base::rng::Rng;
use skep::logic::manager::io::{LogEntry, Recovered};

/// A batch of entries reached the disk, or did not.
pub(crate) enum Wrote {
    Through(u64),
    Refused(u64),
    Nothing,
}

#[derive(Default)]
pub(crate) struct Disk {
    log: Vec<LogEntry>,
    snapshot: Option<(u64, u64, Vec<u8>)>,
    writing: Vec<LogEntry>,
    queued: Vec<LogEntry>,
    /// A batch was refused: nothing is written until the manager has been told.
    refused: bool,
    saving: Option<(u64, u64, Vec<u8>)>,
    pub full: bool,
    pub writes: u64,
}

impl Disk {
    /// Queues a batch; true when it is the one to be written next.
    pub(crate) fn persist(&mut self, entries: Vec<LogEntry>) -> bool {
        if self.refused {
            return false;
        }
        if self.writing.is_empty() {
            self.writing = entries;
            return true;
        }
        self.queued.extend(entries);
        false
    }

    /// The write under way is done. Whatever is queued is written next.
    pub(crate) fn wrote(&mut self) -> (Wrote, bool) {
        let batch = std::mem::take(&mut self.writing);
        let Some(last) = batch.last().map(|entry| entry.index) else {
            return (Wrote::Nothing, false);
        };
        if self.full && !batch.iter().all(|entry| entry.urgent) {
            self.queued.clear();
            self.refused = true;
            return (Wrote::Refused(batch[0].index), false);
        }
        self.writes += 1;
        self.append(batch);
        self.writing = std::mem::take(&mut self.queued);
        (Wrote::Through(last), !self.writing.is_empty())
    }

    /// What is persisted from here on follows what is there.
    pub(crate) fn resume(&mut self) {
        self.refused = false;
    }

    fn append(&mut self, batch: Vec<LogEntry>) {
        for entry in batch {
            let next = self.last() + 1;
            assert_eq!(entry.index, next, "entries are written in order");
            self.log.push(entry);
        }
    }

    fn last(&self) -> u64 {
        let below = self.snapshot.as_ref().map_or(0, |(index, _, _)| *index);
        self.log.last().map_or(below, |entry| entry.index)
    }

    pub(crate) fn save(&mut self, snapshot: (u64, u64, Vec<u8>)) {
        self.saving = Some(snapshot);
    }

    /// The snapshot is durable.
    pub(crate) fn saved(&mut self) -> Option<u64> {
        let (index, term, data) = self.saving.take()?;
        self.log.retain(|entry| entry.index > index);
        self.snapshot = Some((index, term, data));
        Some(index)
    }

    /// The process died or the power went: of what was being written a part is there.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let mut batch = std::mem::take(&mut self.writing);
        let keep = rng.below(batch.len() as u64 + 1);
        batch.truncate(usize::try_from(keep).unwrap());
        if !self.full {
            self.append(batch);
        }
        self.queued.clear();
        self.refused = false;
        self.saving = None;
    }

    pub(crate) fn recover(&self) -> Recovered {
        let below = self.snapshot.as_ref().map_or(0, |(_, term, _)| *term);
        let term = self.log.last().map_or(below, |entry| entry.term);
        Recovered { snapshot: self.snapshot.clone(), entries: self.log.clone(), term }
    }
}
