//! One member with its disk, for tests: what is durable, what is on its way, what was applied.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::id::NodeId;
use crate::base::time::Time;
use crate::logic::raft::Raft;
use crate::logic::raft::io::{
    Body, Config, Entry, Input, Members, Message, Output, Payload, Recovered, Snapshot, Ticket,
    Timing, Write,
};
use crate::model::wire::HardState;

/// What is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) hard: HardState,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) entries: Vec<Entry>,
    pub(super) cut: Option<u64>,
}

impl Disk {
    pub(super) fn base(&self) -> (u64, u64) {
        self.snapshot.as_ref().map_or((0, 0), |it| (it.index, it.term))
    }

    pub(super) fn last(&self) -> (u64, u64) {
        self.entries.last().map_or(self.base(), |last| (last.index, last.term))
    }

    /// Who takes part, as of the last entry.
    pub(super) fn members(&self) -> Option<Members> {
        let of = |entry: &Entry| match &entry.payload {
            Payload::Members(members) => Some(members.clone()),
            Payload::Nothing | Payload::Command(_) => None,
        };
        let named = self.entries.iter().rev().find_map(of);
        named.or_else(|| self.snapshot.as_ref().map(|it| it.members.clone()))
    }

    pub(super) fn write(&mut self, write: Write) {
        match write {
            Write::Log { hard_state, entries, healed } => {
                self.hard = hard_state.unwrap_or(self.hard);
                if let Some(first) = entries.first() {
                    assert!(first.index <= self.last().0 + 1, "a gap on the disk");
                    assert!(first.index > self.base().0, "below the snapshot on the disk");
                    self.entries.retain(|entry| entry.index < first.index);
                }
                self.entries.extend(entries);
                if healed {
                    self.cut = None;
                }
            }
            Write::Snapshot { snapshot, hard_state } => {
                self.hard = hard_state;
                self.save(snapshot);
            }
        }
    }

    /// A snapshot takes the place of what it holds, and of all where the logs differ.
    pub(super) fn save(&mut self, snapshot: Snapshot) {
        let (index, term) = (snapshot.index, snapshot.term);
        let holds = self.base() == (index, term)
            || self.entries.iter().any(|it| (it.index, it.term) == (index, term));
        self.entries.retain(|entry| holds && entry.index > index);
        self.snapshot = Some(snapshot);
    }
}

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) raft: Option<Raft>,
    pub(super) disk: Disk,
    pub(super) under_way: VecDeque<(Ticket, Write)>,
    /// Applied through this index; the state is a fold over all that was applied.
    pub(super) applied: u64,
    pub(super) state: u64,
    /// How often it was started.
    lives: u8,
    /// Makes the chance of a run another.
    salt: u64,
}

pub(super) fn id(number: u64) -> NodeId {
    NodeId::new(u128::from(number))
}

/// One more entry in a state.
pub(super) fn fold(state: u64, entry: &Entry) -> u64 {
    let bytes = match &entry.payload {
        Payload::Nothing => 0,
        Payload::Members(members) => members.voters.len() as u64,
        Payload::Command(data) => {
            data.iter().fold(1u64, |sum, byte| sum.wrapping_mul(257).wrapping_add(u64::from(*byte)))
        }
    };
    let mixed = state.rotate_left(7) ^ bytes ^ (entry.term << 32) ^ entry.index;
    mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Member {
    pub(super) fn new(number: u64) -> Self {
        Self {
            id: id(number),
            raft: None,
            disk: Disk::default(),
            under_way: VecDeque::new(),
            applied: 0,
            state: 0,
            lives: 0,
            salt: 0,
        }
    }

    pub(super) fn salted(number: u64, salt: u64) -> Self {
        Self { salt, ..Self::new(number) }
    }

    pub(super) fn config(&self, timing: Timing) -> Config {
        let mut seed = [self.lives; 32];
        seed[0] = u8::try_from(self.id.0.0 & 0xff).unwrap_or(0);
        seed[8..16].copy_from_slice(&self.salt.to_le_bytes());
        Config {
            id: self.id,
            seed,
            epoch: 1,
            timing,
            uncommitted_bytes_max: 1 << 20,
            in_flight_bytes_max: 1 << 20,
        }
    }

    /// Starts with what is durable.
    pub(super) fn start(&mut self, now: Time, timing: Timing) {
        self.lives = self.lives.wrapping_add(1);
        self.under_way.clear();
        let Disk { hard, snapshot, entries, cut } = self.disk.clone();
        self.applied = 0;
        self.state = 0;
        if let Some(snapshot) = &snapshot {
            self.restore(snapshot);
        }
        let recovered = Recovered { hard_state: hard, snapshot, entries, doubt: cut };
        self.raft = Some(Raft::new(self.config(timing), recovered, now).expect("recovers"));
    }

    pub(super) fn raft(&mut self) -> &mut Raft {
        self.raft.as_mut().expect("it runs")
    }

    pub(super) fn step(&mut self, now: Time, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.raft().step(now, input, &mut out);
        self.take(&out);
        out
    }

    /// Does what concerns this member alone, and checks what its messages promise.
    pub(super) fn take(&mut self, out: &[Output]) {
        for output in out {
            match output {
                Output::Persist { ticket, write } => {
                    self.under_way.push_back((*ticket, write.clone()));
                }
                Output::Send { to, message } => self.check_promise(*to, message),
                Output::Committed { entries } => {
                    for entry in entries {
                        assert_eq!(entry.index, self.applied + 1, "each once and in order");
                        self.applied = entry.index;
                        self.state = fold(self.state, entry);
                    }
                }
                Output::Restored { snapshot } => {
                    assert!(snapshot.index > self.applied, "never back");
                    self.restore(snapshot);
                }
                Output::Leads { .. }
                | Output::Follows { .. }
                | Output::ReadReady { .. }
                | Output::ReadFailed { .. }
                | Output::WantSnapshot { .. }
                | Output::CaughtUp { .. }
                | Output::Removed => {}
            }
        }
    }

    fn restore(&mut self, snapshot: &Snapshot) {
        self.applied = snapshot.index;
        let bytes = snapshot.data.first_chunk().copied().unwrap_or_default();
        self.state = u64::from_le_bytes(bytes);
    }

    /// Nothing is promised that a crash could take back.
    fn check_promise(&self, to: NodeId, message: &Message) {
        let hard = self.disk.hard;
        match &message.body {
            Body::AppendOk { index } => {
                assert!(hard.term >= message.term, "acknowledged in a term that is not durable");
                assert!(self.disk.last().0 >= *index, "acknowledged what is not durable");
            }
            Body::VoteReply { pre: false, granted: true, .. } => {
                assert_eq!((hard.term, hard.vote), (message.term, Some(to)), "vote not durable");
            }
            Body::Append { .. } => {
                assert!(hard.term >= message.term, "the leader's term is not durable");
            }
            _ => {}
        }
    }

    /// A snapshot of what is applied, with `padding` bytes.
    pub(super) fn snapshot(&mut self, padding: usize) -> Option<Snapshot> {
        let (index, state) = (self.applied, self.state);
        let raft = self.raft();
        let term = raft.term_at(index).filter(|_| index > 0)?;
        let members = raft.members_at(index).clone();
        let mut data = state.to_le_bytes().to_vec();
        data.resize(8 + padding, 7);
        Some(Snapshot { index, term, members, data: Arc::from(data) })
    }

    /// The disk does its oldest write.
    pub(super) fn persist(&mut self) -> Option<Ticket> {
        let (ticket, write) = self.under_way.pop_front()?;
        self.disk.write(write);
        Some(ticket)
    }
}
