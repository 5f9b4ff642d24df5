//! One member: the machine, its disk and clock, and what was applied.

use std::collections::BTreeMap;

use skep::base::id::{NodeId, RequestId};
use skep::base::rng::Rng;
use skep::base::time::{Span, Time};
use skep::logic::raft::Raft;
use skep::logic::raft::io::{Config, Output, Timing, Write};

use super::check::App;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::faults::{Armed, body_point};

/// Where a member may die: before and behind each.
pub(crate) const POINTS: &[&str] = &[
    "persist log",
    "persist vote",
    "persist snapshot",
    "fdatasync",
    "save",
    "send vote",
    "send vote reply",
    "send append",
    "send append ok",
    "send append rejected",
    "send heartbeat",
    "send heartbeat reply",
    "send snapshot",
    "send snapshot reply",
    "send read",
    "send read reply",
    "send timeout now",
    "committed",
    "restored",
    "leads",
    "follows",
    "propose",
    "change members",
];

/// Name of the place where this is done.
pub(crate) const fn point_of(output: &Output) -> &'static str {
    match output {
        Output::Persist { write: Write::Log { entries, .. }, .. } if entries.is_empty() => {
            "persist vote"
        }
        Output::Persist { write: Write::Log { .. }, .. } => "persist log",
        Output::Persist { write: Write::Snapshot { .. }, .. } => "persist snapshot",
        Output::Send { message, .. } => body_point(&message.body),
        Output::Committed { .. } => "committed",
        Output::Restored { .. } => "restored",
        Output::Leads { .. } => "leads",
        Output::Follows { .. } => "follows",
        Output::ReadReady { .. } | Output::ReadFailed { .. } => "read ready",
        Output::WantSnapshot { .. } => "want snapshot",
        Output::CaughtUp { .. } => "caught up",
        Output::Removed => "removed",
    }
}

/// One member.
pub(crate) struct Node {
    pub id: NodeId,
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub clock: Clock,
    /// Number of the process: what is meant for another one is dropped.
    pub life: u64,
    /// Nothing runs before this time.
    pub frozen: Time,
    /// True time of the machine's deadline.
    pub wake: Option<Time>,
    pub app: App,
    pub armed: Option<Armed>,
    /// Proposals that wait to be committed: index → term.
    pub pending: BTreeMap<u64, u64>,
    /// Reads that wait, and what they must see.
    pub reads: BTreeMap<RequestId, u64>,
    /// A snapshot is being saved.
    pub saving: bool,
    pub leads: bool,
    /// It was removed and is to come back as another member.
    pub leaving: bool,
    pub identities: u128,
}

impl Node {
    pub(crate) fn new(index: usize, rng: &mut Rng, fsync: Span) -> Self {
        Self {
            id: NodeId::new(index as u128 + 1),
            raft: None,
            disk: Disk::new(fsync),
            clock: Clock::new(rng, Time(0)),
            life: 0,
            frozen: Time(0),
            wake: None,
            app: App::default(),
            armed: None,
            pending: BTreeMap::new(),
            reads: BTreeMap::new(),
            saving: false,
            leads: false,
            leaving: false,
            identities: 0,
        }
    }

    /// The process starts with what is on the disk.
    pub(crate) fn start(&mut self, rng: &mut Rng, now: Time) {
        let seed = std::array::from_fn(|_| u8::try_from(rng.below(256)).unwrap());
        let config = Config {
            id: self.id,
            seed,
            epoch: 1,
            timing: Timing::default(),
            uncommitted_bytes_max: 4 << 20,
            in_flight_bytes_max: 1 << 20,
        };
        let recovered = self.disk.recover();
        self.app = recovered.snapshot.as_ref().map_or_else(App::default, App::restore);
        let raft = Raft::new(config, recovered, self.clock.mono(now));
        self.raft = Some(raft.expect("the log can be read"));
        self.pending.clear();
        self.reads.clear();
        (self.saving, self.leads) = (false, false);
        self.note_deadline(now);
    }

    /// The process is gone.
    pub(crate) fn stop(&mut self) {
        self.raft = None;
        self.wake = None;
        self.life += 1;
        self.armed = None;
        self.frozen = Time(0);
    }

    /// Everything on it is gone; what starts next is another member.
    pub(crate) fn wipe(&mut self, index: usize, fsync: Span) {
        self.identities += 1;
        self.id = NodeId::new(self.identities * 100 + index as u128 + 1);
        self.disk.wipe(fsync);
        self.leaving = false;
    }

    /// Reckons the true time of the machine's deadline anew.
    pub(crate) fn note_deadline(&mut self, now: Time) {
        let deadline = self.raft.as_ref().and_then(Raft::deadline);
        self.wake = deadline.map(|local| self.clock.truth(local).max(now).max(self.frozen));
    }
}
