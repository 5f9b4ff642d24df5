//! What a leader alone does while its disk is full.

use std::sync::Arc;

use super::write::STATE_BYTES_MAX;
use super::{Manager, begin_tests};
use crate::base::id::{NodeId, RequestId, TaskId};
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::manager::io::{Adopted, Command, Input, Output, Report};
use crate::logic::orchestrator::status;
use crate::logic::raft::io::{Recovered, Ticket, Write};
use crate::model::node::{NodeDescription, NodeState, Role};
use crate::model::task::{Task, TaskState};

const AWAY: NodeId = NodeId::new(8);

/// What the disk does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    /// Takes all.
    Free,
    /// Takes what makes room.
    Full,
    /// Takes nothing.
    Spent,
}

struct Lab {
    manager: Manager,
    now: Time,
    disk: Disk,
    writes: u32,
}

impl Lab {
    /// A manager, and a worker that two services run on.
    fn new() -> Self {
        let at = |mono| Now { mono, wall: Wall(1) };
        let manager =
            Manager::new(begin_tests::config(), Recovered::default(), at(Time(0))).unwrap();
        let mut lab = Self { manager, now: Time(0), disk: Disk::Free, writes: 0 };
        let mut out = Vec::new();
        lab.manager.bootstrap(at(Time(0)), NodeDescription::default(), &mut out);
        lab.perform(out);
        lab.ask(
            1,
            Command::AddNode {
                id: AWAY,
                description: Box::new(NodeDescription::default()),
                role: Role::Worker,
                address: "10.0.0.8".to_owned(),
                manager: None,
            },
        );
        lab.join(AWAY);
        for (request, name) in [(2, "web"), (3, "db")] {
            let spec = fixture::spec(name, "image", 1).validate().unwrap();
            lab.ask(request, Command::CreateService { spec: Box::new(spec) });
            let task = lab.newest(name);
            assert_eq!(task.node, Some(AWAY), "this manager's own worker has no session yet");
            lab.told(AWAY, task.id, TaskState::Running);
        }
        lab.join(NodeId::new(begin_tests::ME));
        lab
    }

    fn at(&self) -> Now {
        Now { mono: self.now, wall: Wall(1 + self.now.0) }
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.manager.step(self.at(), input, &mut out);
        self.perform(out);
    }

    fn perform(&mut self, out: Vec<Output>) {
        let mut answer = None;
        for output in out {
            if let Output::Persist { ticket, urgent, write } = output {
                assert!(matches!(write, Write::Log { .. }));
                self.writes += 1;
                answer = answer.or(self.answer(ticket, urgent));
                if answer.is_none() {
                    self.step(Input::Persisted { ticket });
                }
            }
        }
        if let Some(input) = answer {
            self.step(input);
        }
    }

    fn answer(&self, ticket: Ticket, urgent: bool) -> Option<Input> {
        let reason = "no space left on device".to_owned();
        let takes = self.disk == Disk::Free || (urgent && self.disk == Disk::Full);
        (!takes).then_some(Input::PersistRefused { ticket, reason })
    }

    fn ask(&mut self, request: u128, command: Command) {
        self.step(Input::Command { request: RequestId::new(request), command });
    }

    fn join(&mut self, node: NodeId) {
        self.step(Input::WorkerJoined { node, description: NodeDescription::default() });
        self.step(Input::Health { node, state: NodeState::Ready });
    }

    fn told(&mut self, node: NodeId, id: TaskId, state: TaskState) {
        let statuses = vec![(id, status(state, self.at().wall, "told"))];
        self.step(Input::Report { node, report: Report { statuses, ..Report::default() } });
        self.now = self.now + Span::from_millis(100);
        self.step(Input::Tick);
    }

    fn newest(&self, service: &str) -> Arc<Task> {
        let tasks = self.manager.store().tasks();
        let tasks = tasks.filter(|task| task.service_name.as_str() == service);
        Arc::clone(tasks.max_by_key(|task| task.meta.created).unwrap())
    }

    fn wanted(&self, service: &str) -> usize {
        let tasks = self.manager.store().tasks();
        let of = |task: &&Arc<Task>| task.service_name.as_str() == service && task.is_wanted();
        tasks.filter(of).count()
    }

    /// The worker's node goes down, its tasks are replaced, the disk is full, and it is back, with
    /// a task that it made itself.
    fn back_on_a_full_disk(&mut self, disk: Disk) {
        let base = self.newest("db");
        self.now = self.now + Span::from_secs(60);
        self.step(Input::WorkerLeft { node: AWAY });
        self.step(Input::Health { node: AWAY, state: NodeState::Down });
        assert_eq!([self.wanted("web"), self.wanted("db")], [2, 2], "both are replaced");
        self.disk = disk;
        self.step(Input::WorkerJoined { node: AWAY, description: NodeDescription::default() });
        self.writes = 0;
        for _ in 0..10 {
            self.step(Input::Report { node: AWAY, report: successor(&base) });
        }
    }
}

/// The worker has made a successor of this one, and it runs.
fn successor(base: &Task) -> Report {
    let mut task = base.clone();
    task.id = base.id.successor(1);
    task.adopted_from = Some(base.id);
    task.status = status(TaskState::Running, Wall(2), "started");
    let ended = Some(status(TaskState::Failed, Wall(1), "ended"));
    let adopted = vec![Adopted { base: base.id, status: ended, ended: Vec::new(), task }];
    Report { adopted, ..Report::default() }
}

#[test]
fn of_two_tasks_in_a_slot_one_is_told_to_end_on_a_full_disk_too() {
    let mut lab = Lab::new();
    lab.back_on_a_full_disk(Disk::Full);
    assert_eq!(lab.wanted("web"), 1, "the reserve is there for that");
}

#[test]
fn what_a_full_disk_refuses_is_not_tried_again_with_each_word_of_a_worker() {
    for disk in [Disk::Full, Disk::Spent] {
        let mut lab = Lab::new();
        lab.back_on_a_full_disk(disk);
        assert!(lab.writes <= 4, "{}", lab.writes);
        lab.disk = Disk::Free;
        lab.now = lab.now + Span::from_secs(60);
        lab.step(Input::Tick);
        assert_eq!([lab.wanted("web"), lab.wanted("db")], [1, 1], "all of it in the end");
    }
}

#[test]
fn a_cluster_that_holds_as_much_as_a_snapshot_can_takes_only_removals() {
    let mut lab = Lab::new();
    lab.manager.state_bytes = STATE_BYTES_MAX - lab.manager.grown_bytes;
    let create = |name| {
        let spec = fixture::spec(name, "image", 1).validate().unwrap();
        Command::CreateService { spec: Box::new(spec) }
    };
    lab.ask(10, create("more"));
    let services = |lab: &Lab| lab.manager.store().services().count();
    assert_eq!(services(&lab), 3, "just at the limit");
    lab.ask(11, create("too-much"));
    assert_eq!(services(&lab), 3);
    let id = lab.newest("more").service;
    lab.ask(12, Command::RemoveService { id });
    assert_eq!(services(&lab), 2);
}
