//! One machine: its daemon (a worker, and a manager where it is one), disk, clock and containers.

use std::collections::BTreeMap;

use skep::base::id::{ClusterId, NodeId, RequestId};
use skep::base::rng::Rng;
use skep::base::time::{Span, Time};
use skep::logic::manager::Manager;
use skep::logic::manager::io as mio;
use skep::logic::membership::Membership;
use skep::logic::raft::io::{Entry, Timing, Write};
use skep::logic::worker::Worker;
use skep::logic::worker::io as wio;
use skep::model::node::{NodeDescription, Platform};

use super::host::Host;
use super::session::Session;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::faults::Armed;

/// A manager saves a snapshot after so many bytes of entries.
const SNAPSHOT_BYTES: u64 = 20_000;

/// One machine.
pub(crate) struct Machine {
    pub id: NodeId,
    /// It may be a manager, and its users want it to be one now and then.
    pub can_manage: bool,
    /// Its daemon starts a manager: what its certificate says.
    pub is_manager: bool,
    pub manager: Option<Manager>,
    pub worker: Option<Worker>,
    pub disk: Disk,
    pub host: Host,
    pub clock: Clock,
    /// Its power is on; its containers may run without a daemon.
    pub power: bool,
    /// Number of the daemon's process.
    pub life: u64,
    /// How often its manager has stopped to lead.
    pub reign: u64,
    pub frozen: Time,
    /// Since when its daemon has run without a break.
    pub running_since: Time,
    pub wake: Option<Time>,
    pub armed: Option<Armed>,
    /// The manager's log as it wants it, written or not.
    pub log: BTreeMap<u64, Entry>,
    /// Index through which the log was seen to be committed.
    pub seen: u64,
    /// It has joined the cluster.
    pub joined: bool,
    /// Whom its manager holds for the leader.
    pub leader: Option<NodeId>,
    /// Its worker's session.
    pub session: Option<Session>,
    /// When the worker last had a session and when the one that it has began.
    pub session_since: Option<Time>,
    /// When a leader last held it for anything but ready.
    pub doubted: Option<Time>,
    /// What its manager knows of the workers while it leads.
    pub membership: Membership,
    /// Clients that wait for its manager: request → client.
    pub waiting: BTreeMap<RequestId, usize>,
    pub saving: bool,
    pub identities: u128,
}

impl Machine {
    pub(crate) fn new(index: usize, is_manager: bool, rng: &mut Rng, fsync: Span) -> Self {
        Self {
            id: NodeId::new(index as u128 + 1),
            can_manage: is_manager,
            is_manager,
            manager: None,
            worker: None,
            disk: Disk::new(fsync),
            host: Host::default(),
            clock: Clock::new(rng, Time(0)),
            power: false,
            life: 0,
            reign: 0,
            frozen: Time(0),
            running_since: Time(0),
            wake: None,
            armed: None,
            log: BTreeMap::new(),
            seen: 0,
            joined: false,
            leader: None,
            session: None,
            session_since: None,
            doubted: None,
            membership: Membership::default(),
            waiting: BTreeMap::new(),
            saving: false,
            identities: 0,
        }
    }

    pub(crate) fn description(&self) -> NodeDescription {
        let platform =
            Platform { os: "linux".to_owned(), arch: "arm64".to_owned(), variant: "v8".to_owned() };
        NodeDescription {
            hostname: format!("pi-{:?}", self.id.0.0),
            platform,
            nano_cpus: 4_000_000_000,
            memory_bytes: 4 << 30,
            ..NodeDescription::default()
        }
    }

    pub(crate) fn advertise(&self) -> String {
        format!("10.9.0.{}:2377", self.id.0.0 % 200)
    }

    /// The daemon starts with what it finds.
    pub(crate) fn start(&mut self, rng: &mut Rng, now: Time, alone: bool) {
        self.power = true;
        self.running_since = now;
        let both = self.clock.now(now);
        if self.is_manager {
            self.start_manager(rng, now);
        }
        let config = wio::Config {
            node: self.id,
            description: self.description(),
            seed: seed(rng),
            found: self.host.found(),
            fence: self.host.fence(),
            alone,
        };
        self.worker = Some(Worker::new(config, both));
        self.saving = false;
        self.note_deadline(now);
    }

    /// A manager starts with what it finds.
    pub(crate) fn start_manager(&mut self, rng: &mut Rng, now: Time) {
        let config = mio::Config {
            node: self.id,
            cluster: ClusterId::new(1),
            seed: seed(rng),
            report_batch: Span::from_millis(100),
            snapshot_after_bytes: SNAPSHOT_BYTES,
            advertise: self.advertise(),
            timing: Timing::default(),
        };
        let recovered = self.disk.recover();
        self.log = recovered.entries.iter().map(|e| (e.index, e.clone())).collect();
        self.seen = recovered.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
        let manager = Manager::new(config, recovered, self.clock.now(now));
        self.manager = Some(manager.expect("the log can be read"));
        self.is_manager = true;
    }

    /// It is no manager any more: what its manager kept goes.
    pub(crate) fn drop_manager(&mut self, fsync: Span) {
        (self.manager, self.leader) = (None, None);
        self.is_manager = false;
        self.disk.wipe(fsync);
        self.membership = Membership::default();
        self.waiting.clear();
    }

    /// The daemon is gone; containers run on.
    pub(crate) fn stop(&mut self) {
        (self.manager, self.worker, self.session) = (None, None, None);
        (self.wake, self.armed, self.leader) = (None, None, None);
        self.life += 1;
        self.frozen = Time(0);
        self.session_since = None;
        self.membership = Membership::default();
        self.waiting.clear();
        self.host.probing.clear();
    }

    /// For how long it has had a session with nobody in doubt of it.
    pub(crate) fn undoubted_for(&self, now: Time) -> Option<Span> {
        let since = self.session_since?;
        Some(now.since(self.doubted.map_or(since, |doubted| since.max(doubted))))
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.worker.is_some()
    }

    pub(crate) fn leads(&self) -> bool {
        self.manager.is_some() && self.leader == Some(self.id)
    }

    /// Whether its manager is the only one with a vote.
    pub(crate) fn is_sole_manager(&self) -> bool {
        let members = self.manager.as_ref().map(|manager| manager.raft().members());
        members.is_some_and(|it| it.voters.len() == 1 && it.voters.contains(&self.id))
    }

    pub(crate) fn note_deadline(&mut self, now: Time) {
        let manager = self.manager.as_ref().and_then(Manager::deadline);
        let worker = self.worker.as_ref().and_then(Worker::deadline);
        let first = [manager, worker].into_iter().flatten().min();
        self.wake = first.map(|local| self.clock.truth(local).max(now).max(self.frozen));
    }

    /// The manager wants this written.
    pub(crate) fn note_write(&mut self, write: &Write) {
        match write {
            Write::Log { entries, .. } => {
                if let Some(first) = entries.first() {
                    self.log.split_off(&first.index);
                }
                self.log.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
            }
            Write::Snapshot { snapshot, .. } => {
                let holds = self.log.get(&snapshot.index).is_some_and(|e| e.term == snapshot.term);
                self.log.retain(|index, _| holds && *index > snapshot.index);
            }
        }
    }
}

fn seed(rng: &mut Rng) -> [u8; 32] {
    std::array::from_fn(|_| u8::try_from(rng.below(256)).unwrap())
}
