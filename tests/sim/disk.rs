//! A manager's disk: what is durable, what is being written, and what goes wrong with it.
//!
//! Writes are performed in the order of their tickets, as many at once as wait when the disk is free
//! (group commit). A crash keeps any first part of what was under way. A full disk refuses; a slow
//! one takes its time; a cut tail and a lost disk lose what was acknowledged.

use std::collections::VecDeque;

use skep::base::id::NodeId;
use skep::base::rng::Rng;
use skep::base::time::{Span, Time};
use skep::logic::raft::io::{Entry, Payload, Recovered, Snapshot, Ticket, Write};
use skep::model::wire::HardState;

/// One thing to be made durable.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    Write(Ticket, Write),
    /// A write that makes room: a full disk has a reserve for it.
    Urgent(Ticket, Write),
    /// The store's own snapshot: the log below it goes.
    Save(Snapshot),
}

/// What the machine is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Persisted(Ticket),
    Refused(Ticket),
    Saved(u64),
    SaveRefused(u64),
}

/// What is durable.
#[derive(Clone, Debug, Default)]
struct Platter {
    hard: HardState,
    snapshot: Option<Snapshot>,
    /// Behind the snapshot, consecutive.
    log: Vec<Entry>,
    /// The tail was cut here, and it is not yet known to be whole again.
    cut: Option<u64>,
}

/// The disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    platter: Platter,
    /// Term and vote as they were before the last change: what a cut tail brings back.
    before: HardState,
    queue: VecDeque<Job>,
    /// So many of the queue are being written.
    writing: usize,
    /// A write was refused: nothing is taken until the machine has been told.
    refused: bool,
    pub full: bool,
    /// Median time of one fdatasync.
    pub fsync: Span,
    /// Nothing ends before this time.
    pub stalled: Time,
    pub writes: u64,
    pub bytes: u64,
}

impl Disk {
    pub(crate) fn new(fsync: Span) -> Self {
        Self { fsync, ..Self::default() }
    }

    /// A disk on which a new member's first snapshot lies.
    pub(crate) fn format(&mut self, snapshot: Snapshot) {
        let term = snapshot.term;
        self.platter.hard = HardState { term, vote: None, commit: snapshot.index };
        self.before = self.platter.hard;
        self.platter.snapshot = Some(snapshot);
    }

    /// Everything on it is gone; the disk itself is as it was.
    pub(crate) fn wipe(&mut self, fsync: Span) {
        let (full, stalled) = (self.full, self.stalled);
        *self = Self { full, stalled, ..Self::new(fsync) };
    }

    /// Queues a job; true when the disk was idle and is to be started.
    pub(crate) fn push(&mut self, job: Job) -> bool {
        if self.refused {
            return false;
        }
        self.queue.push_back(job);
        self.writing == 0
    }

    /// Starts on all that waits; how long that takes.
    pub(crate) fn start(&mut self, rng: &mut Rng, now: Time) -> Option<Span> {
        if self.refused || self.queue.is_empty() {
            return None;
        }
        let writes = self.queue.iter().take_while(|job| !matches!(job, Job::Save(_))).count();
        self.writing = writes.max(1);
        let half = self.fsync.0 / 2 + 1;
        let took = Span(half + rng.below(2 * half));
        Some(took + self.stalled.since(now))
    }

    /// What was being written is durable, or refused.
    pub(crate) fn finish(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        let mut last = None;
        for job in self.queue.drain(..self.writing).collect::<Vec<_>>() {
            match job {
                Job::Urgent(ticket, write) => {
                    self.perform(&write, usize::MAX);
                    last = Some(ticket);
                }
                Job::Write(ticket, write) => {
                    if self.full {
                        done.extend(last.map(Done::Persisted));
                        done.push(Done::Refused(ticket));
                        self.queue.clear();
                        self.refused = true;
                        self.writing = 0;
                        return done;
                    }
                    self.perform(&write, usize::MAX);
                    last = Some(ticket);
                }
                Job::Save(snapshot) if self.full => done.push(Done::SaveRefused(snapshot.index)),
                Job::Save(snapshot) => {
                    done.push(Done::Saved(snapshot.index));
                    self.save(snapshot);
                }
            }
        }
        self.writes += 1;
        self.writing = 0;
        done.extend(last.map(Done::Persisted));
        done
    }

    /// What is persisted from here on follows what is there.
    pub(crate) fn resume(&mut self) {
        self.refused = false;
    }

    pub(crate) const fn is_idle(&self) -> bool {
        self.writing == 0
    }

    fn base(&self) -> u64 {
        self.platter.snapshot.as_ref().map_or(0, |snapshot| snapshot.index)
    }

    /// Last durable index.
    pub(crate) fn last(&self) -> u64 {
        self.platter.log.last().map_or_else(|| self.base(), |entry| entry.index)
    }

    /// Whether this very entry is durable, in the log or in the snapshot.
    pub(crate) fn holds(&self, index: u64, term: u64) -> bool {
        let base = self.base();
        if index <= base {
            return true;
        }
        let at = usize::try_from(index - base - 1).unwrap();
        self.platter.log.get(at).is_some_and(|entry| entry.term == term)
    }

    /// Term and vote as they are durable.
    pub(crate) const fn vote(&self) -> (u64, Option<NodeId>) {
        (self.platter.hard.term, self.platter.hard.vote)
    }

    /// Makes a write durable, of its entries the first `entries`.
    fn perform(&mut self, write: &Write, entries: usize) {
        match write {
            Write::Log { hard_state, entries: all, healed } => {
                // The hard state comes first in a batch: torn behind it, its term is at least the
                // entries', and what it says is committed must have been written before.
                if let Some(hard) = hard_state {
                    let held = hard.commit <= self.last();
                    assert!(held, "invariant_commit_is_in_the_log: {hard:?} of {}", self.last());
                    self.set_hard(*hard);
                }
                for entry in all.iter().take(entries) {
                    self.append(entry);
                }
                if *healed && entries == usize::MAX {
                    self.platter.cut = None;
                }
            }
            Write::Snapshot { snapshot, hard_state } => {
                // As the log's thread does it, and the power may go between the two.
                if entries > 0 {
                    let held = hard_state.commit <= self.last();
                    assert!(held, "invariant_commit_is_in_the_log: {hard_state:?}");
                    self.set_hard(*hard_state);
                }
                if entries > 1 {
                    self.install(snapshot.clone());
                }
            }
        }
    }

    fn set_hard(&mut self, hard: HardState) {
        let old = self.platter.hard;
        assert!(hard.term >= old.term, "invariant_terms_only_grow: {old:?} {hard:?}");
        let changes = hard.term == old.term && old.vote.is_some() && hard.vote != old.vote;
        assert!(!changes, "invariant_one_vote_in_a_term: {old:?} {hard:?}");
        if (old.term, old.vote) != (hard.term, hard.vote) {
            self.before = old;
        }
        self.platter.hard = hard;
    }

    fn append(&mut self, entry: &Entry) {
        let base = self.base();
        if entry.index <= base {
            return;
        }
        let at = usize::try_from(entry.index - base - 1).unwrap();
        assert!(at <= self.platter.log.len(), "entries are written without a gap");
        self.platter.log.truncate(at);
        self.bytes += 32;
        self.platter.log.push(entry.clone());
    }

    fn install(&mut self, snapshot: Snapshot) {
        let (index, term) = (snapshot.index, snapshot.term);
        let holds = self.platter.log.iter().any(|e| (e.index, e.term) == (index, term));
        self.platter.log.retain(|entry| holds && entry.index > index);
        self.platter.snapshot = Some(snapshot);
    }

    fn save(&mut self, snapshot: Snapshot) {
        if snapshot.index > self.base() {
            self.platter.log.retain(|entry| entry.index > snapshot.index);
            self.platter.snapshot = Some(snapshot);
        }
    }

    /// The process was killed or the power went: of what was being written a part is there. True
    /// when the log's tail is torn, which only happens if it `may`, and will be cut.
    pub(crate) fn crash(&mut self, rng: &mut Rng, may: bool) -> bool {
        let jobs = std::mem::take(&mut self.queue);
        let full = self.full;
        (self.writing, self.refused) = (0, false);
        let whole = usize::try_from(rng.below(jobs.len() as u64 + 1)).unwrap();
        for (n, job) in jobs.into_iter().enumerate() {
            match job {
                Job::Write(_, write) | Job::Urgent(_, write) if n < whole && !full => {
                    self.perform(&write, usize::MAX);
                }
                Job::Write(_, write) | Job::Urgent(_, write) if n == whole && !full => {
                    let Write::Log { entries, .. } = &write else {
                        self.perform(&write, usize::from(rng.one_in(2)));
                        return false;
                    };
                    let some = rng.below(entries.len() as u64 + 1);
                    self.perform(&write, usize::try_from(some).unwrap());
                    let torn = rng.one_in(2) && may;
                    if torn {
                        self.cut();
                    }
                    return torn;
                }
                Job::Save(snapshot) if n < whole && !full => self.save(snapshot),
                Job::Write(..) | Job::Urgent(..) | Job::Save(_) => return false,
            }
        }
        false
    }

    fn cut(&mut self) {
        self.platter.cut = Some(self.last());
    }

    /// The disk did not keep what it had said was durable: the last `entries`, and with `vote` the
    /// last change of term and vote.
    pub(crate) fn lose_tail(&mut self, entries: u64, vote: bool) {
        let keep = self.platter.log.len().saturating_sub(usize::try_from(entries).unwrap());
        // A member that forgets that there are others would lead alone: beyond what a log can tell.
        let members = |entry: &Entry| matches!(entry.payload, Payload::Members(_));
        let keep = keep.max(self.platter.log.iter().rposition(members).map_or(0, |at| at + 1));
        self.platter.log.truncate(keep);
        if vote {
            self.platter.hard = self.before;
        }
        self.platter.hard.commit = self.platter.hard.commit.min(self.last()).max(self.base());
        self.cut();
    }

    /// Whether the tail was cut and is not known to be whole again.
    pub(crate) const fn is_cut(&self) -> bool {
        self.platter.cut.is_some()
    }

    pub(crate) fn recover(&self) -> Recovered {
        Recovered {
            hard_state: self.platter.hard,
            snapshot: self.platter.snapshot.clone(),
            entries: self.platter.log.clone(),
            doubt: self.platter.cut,
        }
    }
}
