//! The worker on a host that does anything at any time: what must hold after each step, and that
//! everything is gone when everything was taken away.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::Worker;
use super::io::{Action, Exit, Found, FoundContainer, Input, Outcome, Output, RefusedPort};
use super::tests::{config, fence, network, task};
use crate::base::id::TaskId;
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::fixture;
use crate::logic::manager::io::{Assignments, Report};
use crate::logic::orchestrator::status;
use crate::model::service::PublishMode;
use crate::model::task::{Task, TaskState};

/// What happens next; tasks by number.
#[derive(Clone, Debug)]
enum Event {
    Assign { task: u8, desired: usize },
    Removed { task: u8 },
    Acted { task: u8, result: Result<(), bool> },
    Exited { task: u8, code: i32 },
    Applied { refused: bool },
    Advance { seconds: u64 },
    Restart { rebooted: bool, silent: bool },
}

const DESIRED: [TaskState; 4] =
    [TaskState::Ready, TaskState::Running, TaskState::Shutdown, TaskState::Remove];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    None,
    Made,
    Running,
    Ended,
}

/// One task as manager and host have it.
#[derive(Debug)]
struct Both {
    task: Task,
    container: Container,
    code: i32,
    doing: Option<Action>,
    signalled: bool,
}

struct World {
    worker: Worker,
    now: Time,
    index: u64,
    tasks: BTreeMap<TaskId, Both>,
    generation: u64,
    table: usize,
    ticks: u32,
}

impl World {
    fn new() -> Self {
        let worker = Worker::new(config(Vec::new(), fence(0)), Now::default());
        let tasks = BTreeMap::new();
        Self { worker, now: Time(0), index: 1, tasks, generation: 0, table: 0, ticks: 0 }
    }

    fn now(&self) -> Now {
        Now { mono: self.now, wall: Wall(1_000_000_000 + self.now.0) }
    }

    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        let now = self.now();
        self.worker.step(now, input, &mut out);
        for output in out {
            match output {
                Output::Act { task, action } => self.begin(task, action),
                Output::Routes { generation, ports } => {
                    assert!(generation > self.generation, "generations grow");
                    (self.generation, self.table) = (generation, ports.len());
                    for backend in ports.iter().flat_map(|port| &port.backends) {
                        let both = &self.tasks[&backend.task];
                        assert_eq!(both.container, Container::Running, "{both:#?}");
                        assert!(both.task.desired <= TaskState::Running, "{both:#?}");
                    }
                }
                Output::Report(report) => self.report(report),
            }
        }
    }

    fn begin(&mut self, task: TaskId, action: Action) {
        let both = self.tasks.get_mut(&task).expect("no action for what is gone");
        assert!(both.doing.is_none(), "two actions at once: {both:#?} {action:?}");
        let over = both.task.status.state.is_terminal();
        let fits = match &action {
            Action::Prepare(_) => both.container != Container::Running && !over,
            Action::Start => {
                let made = both.container == Container::Made;
                made && both.task.desired == TaskState::Running && !over
            }
            Action::Stop | Action::Kill => {
                let stops = both.task.desired > TaskState::Running || over;
                both.container == Container::Running && stops
            }
            Action::Clean | Action::Remove => both.container != Container::Running,
        };
        assert!(fits, "{action:?} does not fit {both:#?}");
        both.doing = Some(action);
    }

    fn report(&mut self, report: Report) {
        for (id, status) in report.statuses {
            let Some(both) = self.tasks.get_mut(&id) else { continue };
            let before = both.task.status.state;
            assert!(status.state >= before, "told {:?} after {before:?}", status.state);
            let dead = status.state.is_terminal();
            assert!(!dead || status.pid == 0, "no process is left: {status:?}");
            both.task.status = status;
        }
        for id in report.cleaned {
            let both = &self.tasks[&id];
            assert!(both.task.status.state.is_terminal() && both.doing.is_none(), "{both:#?}");
        }
        for id in report.removed {
            let both = self.tasks.remove(&id);
            let left = both.filter(|both| both.container != Container::None);
            assert!(left.is_none(), "removed: {left:#?}");
        }
    }

    fn assign(&mut self, complete: bool, tasks: Vec<TaskId>, removed: Vec<TaskId>) {
        self.index += 1;
        let tasks = tasks.iter().map(|id| Arc::new(self.tasks[id].task.clone())).collect();
        let networks = vec![Arc::new(network())];
        let fence = fence(self.index);
        let assignments = Assignments { fence, complete, tasks, removed, networks };
        self.step(Input::Assignments(assignments));
    }

    /// An action ends; `Err(temporary)` when it did not work.
    fn acted(&mut self, id: TaskId, result: Result<(), bool>) {
        let Some(both) = self.tasks.get_mut(&id) else { return };
        let Some(action) = both.doing.take() else { return };
        let mut outcome = match (&action, result) {
            (_, Err(temporary)) => Outcome::Failed { err: "no luck".to_owned(), temporary },
            (Action::Prepare(_), Ok(())) => {
                both.container = Container::Made;
                Outcome::Prepared
            }
            (Action::Start, Ok(())) => {
                if both.container == Container::Made {
                    both.container = Container::Running;
                }
                Outcome::Started { pid: 5 }
            }
            (Action::Stop | Action::Kill, Ok(())) => {
                both.signalled = true;
                Outcome::Signalled
            }
            (Action::Clean, Ok(())) => Outcome::Cleaned,
            (Action::Remove, Ok(())) => Outcome::Removed,
        };
        match outcome {
            Outcome::Cleaned | Outcome::Removed => both.container = Container::None,
            // It ran and has ended: that start worked.
            Outcome::Failed { .. }
                if matches!(action, Action::Start) && both.container == Container::Ended =>
            {
                outcome = Outcome::Started { pid: 5 };
            }
            _ => {}
        }
        self.step(Input::Acted { task: id, outcome });
    }

    fn exited(&mut self, id: TaskId, code: i32) {
        let at = self.now().wall;
        let Some(both) = self.tasks.get_mut(&id) else { return };
        let starts = matches!(both.doing, Some(Action::Start));
        if both.container == Container::Running || (both.container == Container::Made && starts) {
            (both.container, both.code) = (Container::Ended, code);
            let exit = Exit { code, oom: false, shim_lost: false, at };
            self.step(Input::Exited { task: id, exit });
        }
    }

    fn restart(&mut self, rebooted: bool, silent: bool) {
        let at = self.now().wall;
        let found = self.tasks.values_mut().map(|both| {
            both.doing = None;
            both.signalled = false;
            if rebooted && both.container == Container::Running {
                both.container = Container::Ended;
            }
            let status = status(TaskState::Assigned, Wall(0), "");
            let (code, oom, shim_lost) = (both.code, false, false);
            let container = match both.container {
                Container::None => FoundContainer::None,
                Container::Made => FoundContainer::Created,
                Container::Running => FoundContainer::Running { pid: 5 },
                Container::Ended => FoundContainer::Exited(Exit { code, oom, shim_lost, at }),
            };
            Found { task: Task { status, ..both.task.clone() }, container, rebooted }
        });
        let found = found.collect();
        self.worker = Worker::new(config(found, fence(self.index)), self.now());
        (self.generation, self.table) = (0, 0);
        if silent {
            self.advance(Span::from_secs(2));
        }
        self.assign(true, self.tasks.keys().copied().collect(), Vec::new());
    }

    fn advance(&mut self, span: Span) {
        let end = self.now + span;
        while let Some(at) = self.worker.deadline().filter(|at| *at <= end) {
            assert!(at > self.now || self.ticks == 0, "a deadline that has passed twice");
            self.ticks = if at > self.now { 0 } else { self.ticks + 1 };
            self.now = self.now.max(at);
            self.step(Input::Tick);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        let id = |task: u8| TaskId::new(u128::from(task));
        match event {
            Event::Assign { task: number, desired } => {
                let new = || {
                    let mut task = task(number);
                    // Two of one service, one with a port of its own, one without.
                    let port = |number| fixture::port(number, PublishMode::Ingress);
                    let published = [vec![], vec![port(80)], vec![port(80)], vec![port(81)]];
                    task.ports = published[usize::from(number % 4)].clone();
                    let (container, code) = (Container::None, 0);
                    Both { task, container, code, doing: None, signalled: false }
                };
                let both = self.tasks.entry(id(number)).or_insert_with(new);
                both.task.desired = both.task.desired.max(DESIRED[desired]);
                self.assign(false, vec![id(number)], Vec::new());
            }
            Event::Removed { task } => {
                if let Some(both) = self.tasks.get_mut(&id(task)) {
                    both.task.desired = TaskState::Remove;
                    self.assign(false, Vec::new(), vec![id(task)]);
                }
            }
            Event::Acted { task, result } => self.acted(id(task), result),
            Event::Exited { task, code } => self.exited(id(task), code),
            Event::Applied { refused } => {
                let (protocol, host_ip) = (Default::default(), None);
                let reason = "taken".to_owned();
                let port = RefusedPort { protocol, published: 80, host_ip, reason };
                let refused = if refused { vec![port] } else { Vec::new() };
                self.step(Input::RoutesApplied { generation: self.generation, refused });
            }
            Event::Advance { seconds } => self.advance(Span::from_secs(seconds)),
            Event::Restart { rebooted, silent } => self.restart(rebooted, silent),
        }
    }

    /// Takes everything away on a host where everything works.
    fn end(&mut self) {
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for both in self.tasks.values_mut() {
            both.task.desired = TaskState::Remove;
        }
        self.assign(false, ids.clone(), Vec::new());
        for _ in 0..40 {
            self.step(Input::RoutesApplied { generation: self.generation, refused: Vec::new() });
            for id in &ids {
                self.acted(*id, Ok(()));
                if self.tasks.get(id).is_some_and(|both| both.signalled) {
                    self.exited(*id, 143);
                }
            }
            self.advance(Span::from_secs(2));
        }
        assert!(self.tasks.is_empty(), "{:#?}", self.tasks);
        assert_eq!((self.table, self.worker.deadline()), (0, None));
    }
}

fn event() -> impl Strategy<Value = Event> {
    let task = || 1..5u8;
    let result = prop_oneof![6 => Just(Ok(())), 1 => any::<bool>().prop_map(Err)];
    prop_oneof![
        6 => (task(), 0..4usize).prop_map(|(task, desired)| Event::Assign { task, desired }),
        1 => task().prop_map(|task| Event::Removed { task }),
        16 => (task(), result).prop_map(|(task, result)| Event::Acted { task, result }),
        3 => (task(), 0..2i32).prop_map(|(task, code)| Event::Exited { task, code }),
        5 => proptest::bool::weighted(0.1).prop_map(|refused| Event::Applied { refused }),
        3 => (0..70u64).prop_map(|seconds| Event::Advance { seconds }),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(rebooted, silent)| Event::Restart { rebooted, silent }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_rules_hold_and_everything_can_be_taken_away(
        events in proptest::collection::vec(event(), 0..80)
    ) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.end();
    }
}
