//! What becomes of a cluster whose majority is lost for good, and of the epoch that it then has.

use crate::base::id::{ClusterId, NodeId, RequestId};
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::manager::Manager;
use crate::logic::manager::io::{Command, Config, Input, Output, Report};
use crate::logic::orchestrator::status;
use crate::logic::raft::io::{Body, Entry, Message, Payload, Recovered, Timing, Write};
use crate::logic::{codec, fixture};
use crate::model::cluster::Founding;
use crate::model::entry::{self, Change};
use crate::model::node::{Availability, NodeDescription, Role};
use crate::model::object::Object;
use crate::model::task::TaskState;
use crate::model::wire::HardState;

pub(super) const ME: u128 = 7;

pub(super) fn config() -> Config {
    Config {
        node: NodeId::new(ME),
        cluster: ClusterId::new(1),
        seed: [1; 32],
        report_batch: Span::from_millis(100),
        snapshot_after_bytes: 1 << 20,
        advertise: "10.0.0.7:2377".to_owned(),
        timing: Timing::default(),
    }
}

/// A manager and its disk; what is sent is kept.
struct Lab {
    manager: Manager,
    now: Time,
    log: Vec<Entry>,
    hard_state: HardState,
    sent: Vec<(NodeId, Message)>,
}

impl Lab {
    /// A cluster of one with two more managers; 8 has its vote, 9 is about to get one.
    fn new() -> Self {
        let manager = Manager::new(config(), Recovered::default(), now(Time(0))).unwrap();
        let (log, hard_state) = (Vec::new(), HardState::default());
        let mut lab = Self { manager, now: Time(0), log, hard_state, sent: Vec::new() };
        let mut out = Vec::new();
        lab.manager.bootstrap(now(Time(0)), NodeDescription::default(), &mut out);
        lab.perform(out);
        for id in [8, 9] {
            lab.step(Input::Command { request: RequestId::new(id), command: add(id) });
            for _ in 0..4 {
                lab.follow(8);
                lab.follow(id);
            }
        }
        assert_eq!(lab.voters(), [7, 8, 9], "three managers have a vote");
        lab
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.manager.step(now(self.now), input, &mut out);
        self.perform(out);
    }

    fn perform(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Persist { ticket, write, .. } => {
                    let Write::Log { hard_state, entries, .. } = write else {
                        unreachable!("nobody sends a snapshot")
                    };
                    self.hard_state = hard_state.unwrap_or(self.hard_state);
                    if let Some(first) = entries.first() {
                        self.log.retain(|entry| entry.index < first.index);
                    }
                    self.log.extend(entries);
                    self.step(Input::Persisted { ticket });
                }
                Output::Send { to, message } => self.sent.push((to, message)),
                _ => {}
            }
        }
    }

    /// A manager has all that the leader has.
    fn follow(&mut self, id: u128) {
        let last = self.log.last().map_or(0, |entry| entry.index);
        let (epoch, term) = (self.manager.raft.epoch(), self.manager.raft.term());
        let message = Message { epoch, term, body: Body::AppendOk { index: last } };
        self.step(Input::Peer { from: NodeId::new(id), message });
    }

    fn force(&mut self) {
        let mut out = Vec::new();
        self.manager.force_new_cluster(now(self.now), &mut out);
        self.perform(out);
    }

    fn restart(&mut self, hard_state: HardState) {
        let entries = self.log.clone();
        let recovered = Recovered { hard_state, entries, ..Recovered::default() };
        self.manager = Manager::new(config(), recovered, now(self.now)).unwrap();
    }

    fn voters(&self) -> Vec<u128> {
        self.manager.raft.members().voters.iter().map(|id| id.0.0).collect()
    }

    fn stored_epoch(&self) -> u64 {
        self.manager.store().cluster().map_or(0, |cluster| cluster.epoch)
    }

    fn role(&self, id: u128) -> Role {
        self.manager.store().node(NodeId::new(id)).unwrap().spec.role
    }
}

const fn now(mono: Time) -> Now {
    Now { mono, wall: Wall(1) }
}

fn add(id: u128) -> Command {
    Command::AddNode {
        id: NodeId::new(id),
        description: Box::new(NodeDescription::default()),
        role: Role::Manager,
        address: format!("10.0.0.{id}"),
        manager: Some(format!("10.0.0.{id}:2377")),
    }
}

#[test]
fn one_that_is_left_of_three_goes_on_alone_in_a_new_epoch() {
    let mut lab = Lab::new();
    lab.now = Time(0) + Span::from_secs(60);
    lab.step(Input::Tick);
    assert!(!lab.manager.is_leader(), "nobody answers");
    lab.force();
    assert!(lab.manager.is_leader());
    assert_eq!(lab.voters(), [ME]);
    assert_eq!(lab.stored_epoch(), 2);
    assert_eq!(
        [lab.role(7), lab.role(8), lab.role(9)],
        [Role::Manager, Role::Worker, Role::Worker]
    );
    let other = lab.manager.store().node(NodeId::new(8)).unwrap();
    assert_eq!(other.manager, None, "nobody dials a manager that is none");
    // It writes, and it is the same after a restart.
    lab.step(Input::Command { request: RequestId::new(20), command: add(10) });
    assert!(lab.manager.store().node(NodeId::new(10)).is_some());
    lab.restart(lab.hard_state);
    assert_eq!((lab.voters()[0], lab.manager.raft.epoch()), (ME, 2));
    assert_eq!(lab.stored_epoch(), 2, "all of it was committed before");
}

#[test]
fn what_a_lost_manager_says_in_the_old_epoch_changes_nothing() {
    let mut lab = Lab::new();
    lab.force();
    let (term, index) = (lab.manager.raft.term(), lab.manager.store().index());
    let body = Body::AppendOk { index: index + 100 };
    let message = Message { epoch: 1, term: term + 5, body };
    lab.sent.clear();
    lab.step(Input::Peer { from: NodeId::new(8), message });
    assert!(lab.manager.is_leader());
    assert_eq!((lab.manager.raft.term(), lab.manager.store().index()), (term, index));
    let told: Vec<u64> = lab.sent.iter().map(|(_, message)| message.epoch).collect();
    assert!(told.iter().all(|epoch| *epoch == 2), "what it is told names the new epoch: {told:?}");
}

#[test]
fn an_epoch_that_is_in_the_log_and_not_known_to_be_committed_is_not_used_again() {
    let mut lab = Lab::new();
    // A leader of a new epoch wrote it here; the power went before the others told they have it.
    let last = lab.log.last().unwrap().clone();
    let mut cluster = lab.manager.store().cluster().unwrap().as_ref().clone();
    cluster.epoch = 5;
    let entry = entry::Entry {
        request: RequestId::new(99),
        time: Wall(1),
        preconditions: Vec::new(),
        changes: vec![Change::Put(Object::Cluster(Box::new(cluster)))],
    };
    let payload = Payload::Command(codec::encode_entry(&entry).unwrap().into());
    lab.log.push(Entry { index: last.index + 1, term: last.term, payload });
    let commit = last.index;
    lab.restart(HardState { commit, ..lab.hard_state });
    assert_eq!(lab.stored_epoch(), 1);
    assert_eq!(lab.manager.raft.epoch(), 5, "somebody may have heard of it");
    lab.force();
    assert_eq!((lab.manager.raft.epoch(), lab.stored_epoch()), (6, 6));
}

#[test]
fn a_worker_is_told_no_term_that_a_full_disk_makes_the_only_manager_forget() {
    let mut manager = Manager::new(config(), Recovered::default(), now(Time(0))).unwrap();
    let mut out = Vec::new();
    manager.bootstrap(now(Time(0)), NodeDescription::default(), &mut out);
    let mut terms = Vec::new();
    for round in 0..3 {
        let Command::AddNode { id, description, address, .. } = add(20 + round) else {
            unreachable!()
        };
        let role = Role::Worker;
        let command = Command::AddNode { id, description, role, address, manager: None };
        let request = RequestId::new(round);
        manager.step(now(Time(0)), Input::Command { request, command }, &mut out);
        // The first write is taken, those after it are not.
        while let Some(at) = out.iter().position(|it| matches!(it, Output::Persist { .. })) {
            let Output::Persist { ticket, .. } = out.remove(at) else { unreachable!() };
            let reason = "no space left on device".to_owned();
            let input = match round {
                0 => Input::Persisted { ticket },
                _ => Input::PersistRefused { ticket, reason },
            };
            manager.step(now(Time(0)), input, &mut out);
        }
        let (node, description) = (NodeId::new(20), NodeDescription::default());
        manager.step(now(Time(0)), Input::WorkerJoined { node, description }, &mut out);
        for output in out.drain(..) {
            if let Output::Assign { node: to, assignments } = output
                && to == node
            {
                terms.push((manager.raft.term(), assignments.fence.term));
            }
        }
    }
    terms.dedup();
    assert_eq!(terms, [(1, 1), (2, 1), (3, 1)], "the manager's own term, and what it tells");
}

#[test]
fn nothing_is_forced_where_there_is_no_cluster() {
    let mut manager = Manager::new(config(), Recovered::default(), now(Time(0))).unwrap();
    let mut out = Vec::new();
    manager.force_new_cluster(now(Time(0)), &mut out);
    assert!(out.is_empty(), "{out:?}");
    assert!(!manager.is_leader());
}

#[test]
fn what_a_worker_tells_while_leadership_is_handed_over_is_logged_when_that_came_to_nothing() {
    let mut lab = Lab::new();
    let spec = fixture::spec("web", "image", 1).validate().unwrap();
    let command = Command::CreateService { spec: Box::new(spec) };
    lab.step(Input::Command { request: RequestId::new(30), command });
    let (node, description) = (NodeId::new(ME), NodeDescription::default());
    lab.step(Input::WorkerJoined { node, description });
    (0..4).for_each(|_| lab.follow(8));
    let task = lab.manager.store().tasks().next().unwrap().as_ref().clone();
    assert_eq!(task.node, Some(node));
    // The other manager takes too long: the hand-over is given up.
    let command = Command::Transfer { to: Some(NodeId::new(9)) };
    lab.step(Input::Command { request: RequestId::new(31), command });
    let status = status(TaskState::Running, Wall(2), "started");
    let statuses = vec![(task.id, status)];
    lab.step(Input::Report { node, report: Report { statuses, ..Report::default() } });
    for _ in 0..20 {
        lab.now = lab.now + Span::from_millis(150);
        lab.step(Input::Tick);
        lab.follow(8);
    }
    assert!(lab.manager.is_leader());
    assert_eq!(lab.manager.store().task(task.id).unwrap().status.state, TaskState::Running);
}

#[test]
fn a_cluster_begins_as_its_founder_wants() {
    let mut lab = Lab {
        manager: Manager::new(config(), Recovered::default(), now(Time(0))).unwrap(),
        now: Time(0),
        log: Vec::new(),
        hard_state: HardState::default(),
        sent: Vec::new(),
    };
    let founding = Founding { availability: Availability::Drain, task_history_limit: Some(2) };
    lab.manager.set_founding(founding);
    let mut out = Vec::new();
    lab.manager.bootstrap(now(Time(0)), NodeDescription::default(), &mut out);
    lab.perform(out);
    let store = &lab.manager.lead.planned;
    assert_eq!(store.cluster().unwrap().task_history_limit, 2);
    let node = store.nodes().next().unwrap();
    assert_eq!(node.spec.availability, Availability::Drain);
}
