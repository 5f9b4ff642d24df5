//! One task on this node: what is wanted, what the host has of it, what was told of it.
//!
//! A task machine knows no other task. What it does next is [`next`](super::next::next), a pure
//! function of it.
//!
//! **Invariant:** the state that is told only grows.

use std::sync::Arc;

use super::health::{Check, Health, state_found};
use super::io::{Exit, Found, FoundContainer};
use crate::base::time::{Now, Span, Time, Wall};
use crate::model::service::OnDisconnect;
use crate::model::task::{Task, TaskState, TaskStatus};

/// First wait before an action that failed is tried again; doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Span = Span::from_secs(1);

/// Longest such wait.
pub const RETRY_MAX: Span = Span::from_secs(60);

/// Message of a task that was started again under its own id after the machine went down.
pub const MESSAGE_RESTARTED: &str = "restarted after reboot";

/// Error of a task that was stopped because its lease ran out.
pub const ERR_CUT_OFF: &str = "stopped: no manager was heard (on-disconnect=stop)";

/// What the host has of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// Nothing at all.
    Empty,
    /// Perhaps parts of a container, nothing that ran.
    Parts,
    /// A container, not started.
    Made,
    /// A running container.
    Running,
    /// A container that has ended.
    Ended,
    /// Log and exit record.
    Cleaned,
}

/// An action under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Prepare,
    Start,
    Stop,
    Kill,
    Clean,
    Remove,
    Remember,
}

/// What the record of a task says, as far as it matters after a reboot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// It is to run and has not ended.
    runs: bool,
    own: Option<u32>,
    /// It is not wanted: after a reboot nobody makes a successor of it.
    done: bool,
}

/// How far a task is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    Gone,
    Stopped,
    Ready,
    Running,
}

/// A running container that is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping {
    /// When that was known.
    pub(super) since: Time,
    /// Table of routes without the task; none yet made.
    pub(super) generation: Option<u64>,
    /// When the stop signal was sent.
    pub(super) signalled: Option<Time>,
    /// When SIGKILL was last sent, and how often it was.
    pub(super) killed: Option<(Time, u32)>,
}

/// An action failed and is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) at: Time,
    pub(super) wait: Span,
}

/// One task on this node.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) task: Arc<Task>,
    /// A manager named it in this run, or none came in time. Before that nothing is done to it.
    pub(super) assigned: bool,
    /// No manager names it any more.
    pub(super) gone: bool,
    /// This worker made it itself and no manager has adopted it: its number in its chain.
    pub(super) own: Option<u32>,
    /// Its lease ran out: it has to be dead by then, and stays so.
    pub(super) cut_off: Option<Time>,
    /// It ran under a lease when this daemon started, and no manager has said yet that it still is to:
    /// its lease may have run out while no daemon counted.
    pub(super) uncovered: bool,
    /// What its record says; none where there is none.
    pub(super) kept: Option<Kept>,
    /// What it said before the action that was begun last.
    pub(super) kept_before: Option<Kept>,
    /// When it was last seen to start, in this run.
    pub(super) started_at: Option<Time>,
    /// When it was seen to have ended, in this run.
    pub(super) ended_at: Option<Time>,
    pub(super) status: TaskStatus,
    /// What the manager was told last.
    pub(super) told: Option<TaskStatus>,
    /// The manager was told that its addresses are free.
    pub(super) told_cleaned: bool,
    /// A manager was told that its addresses are free: it is the manager's to replace from then on.
    pub(super) freed: bool,
    pub(super) host: Host,
    pub(super) doing: Option<Doing>,
    pub(super) exit: Option<Exit>,
    pub(super) stopping: Option<Stopping>,
    pub(super) retry: Option<Retry>,
    /// The first table of routes that holds its ports, and when that was made.
    pub(super) ports_in: Option<(u64, Time)>,
    /// Number taken for each host-mode port that the user left open, by place in `task.ports`.
    pub(super) open_ports: Vec<(usize, u16)>,
    /// Why a port was refused while it was being started.
    pub(super) port_err: String,
    /// Numbers that were refused for them.
    pub(super) open_ports_tried: u32,
    /// What ended, ended with the machine: it starts again under its own id.
    pub(super) rebooted: bool,
    /// It had ended with the machine.
    went_down: bool,
    /// Its health check, once the container is made.
    pub(super) check: Option<Check>,
    /// What that has told, once the container runs.
    pub(super) health: Option<Health>,
    /// Process id as found.
    pub(super) pid: u32,
    /// When to look again.
    pub(super) wake: Option<Time>,
}

impl Machine {
    /// As a manager assigned it.
    pub(super) fn assigned(task: &Arc<Task>) -> Self {
        let mut machine = Self {
            task: Arc::clone(task),
            assigned: true,
            gone: false,
            own: None,
            cut_off: None,
            uncovered: false,
            kept: None,
            kept_before: None,
            started_at: None,
            ended_at: None,
            status: task.status.clone(),
            told: Some(task.status.clone()),
            told_cleaned: false,
            freed: false,
            host: Host::Empty,
            doing: None,
            exit: None,
            stopping: None,
            retry: None,
            ports_in: None,
            open_ports: Vec::new(),
            open_ports_tried: 0,
            port_err: String::new(),
            rebooted: false,
            went_down: false,
            check: None,
            health: None,
            pid: 0,
            wake: None,
        };
        machine.keep_open_ports();
        machine
    }

    /// As it was found at start.
    pub(super) fn found(found: &Found, now: Time) -> Self {
        let mut machine = Self::assigned(&Arc::new(found.task.clone()));
        machine.assigned = false;
        machine.told = None;
        machine.own = found.own;
        let done = machine.task.desired >= TaskState::Shutdown;
        machine.kept = Some(Kept { done, ..machine.keeps() });
        machine.rebooted = found.rebooted;
        machine.check.clone_from(&found.check);
        machine.host = match &found.container {
            FoundContainer::None => Host::Parts,
            FoundContainer::Created => Host::Made,
            FoundContainer::Running { pid } => {
                machine.pid = *pid;
                machine.uncovered = machine.is_leased();
                machine.watch_from_now(now);
                Host::Running
            }
            FoundContainer::Exited(exit) => {
                machine.went_down = found.rebooted;
                machine.exit = Some(exit.clone());
                Host::Ended
            }
        };
        machine
    }

    pub(super) fn wanted(&self) -> Wanted {
        match self.task.desired {
            TaskState::Remove => Wanted::Gone,
            _ if self.gone => Wanted::Gone,
            _ if self.cut_off.is_some() => Wanted::Stopped,
            // Once it has ended it has a successor like any other that failed.
            _ if self.is_unhealthy() && !self.is_over() => Wanted::Stopped,
            TaskState::Running | TaskState::Complete => Wanted::Running,
            TaskState::Shutdown | TaskState::Failed | TaskState::Rejected | TaskState::Orphaned => {
                Wanted::Stopped
            }
            TaskState::New
            | TaskState::Pending
            | TaskState::Assigned
            | TaskState::Accepted
            | TaskState::Preparing
            | TaskState::Ready
            | TaskState::Starting => Wanted::Ready,
        }
    }

    /// It has ended, and nothing on the node holds its addresses.
    pub(super) fn is_cleaned(&self) -> bool {
        self.is_out() && self.is_over() && !self.task.addresses.is_empty()
    }

    /// Nothing on the node holds its addresses.
    pub(super) fn is_out(&self) -> bool {
        matches!(self.host, Host::Empty | Host::Cleaned) && self.doing.is_none()
    }

    /// It must not run while no manager is heard.
    pub(super) fn is_leased(&self) -> bool {
        self.task.spec.on_disconnect == OnDisconnect::Stop
    }

    /// A manager was told that its addresses are free. Whatever runs in its slot next is not made
    /// here, nor after a reboot.
    pub(super) fn free(&mut self) {
        self.freed = true;
        if self.task.desired < TaskState::Shutdown {
            let desired = TaskState::Shutdown;
            self.task = Arc::new(Task { desired, ..self.task.as_ref().clone() });
        }
    }

    /// Its addresses are its successor's now.
    pub(super) fn hand_on(&mut self) {
        self.task = Arc::new(Task { addresses: Vec::new(), ..self.task.as_ref().clone() });
    }

    /// What its record is to say.
    pub(super) fn keeps(&self) -> Kept {
        let runs = self.wanted() == Wanted::Running && !self.is_over();
        // A manager wants it no more, or has its addresses: nobody takes it up after a reboot.
        let told = self.freed || self.task.desired >= TaskState::Shutdown;
        let done = told || self.kept.is_some_and(|kept| kept.done);
        Kept { runs, own: self.own, done }
    }

    /// The task for its record, when that says something else; from then on it does not.
    pub(super) fn record(&mut self) -> Option<Task> {
        let keeps = self.keeps();
        if self.kept.is_none_or(|kept| kept == keeps) {
            return None;
        }
        let gone = self.wanted() == Wanted::Gone;
        let desired = if gone { TaskState::Remove } else { self.task.desired };
        self.kept = Some(Kept { done: desired >= TaskState::Shutdown, ..keeps });
        let over = self.is_over();
        let status = if over { self.status.clone() } else { self.task.status.clone() };
        Some(Task { desired, status, ..self.task.as_ref().clone() })
    }

    /// Its record is old, and nothing else will bring it up to date soon. That of a leased task waits
    /// until it has ended: nothing may be under way that keeps SIGKILL from following.
    pub(super) fn is_to_remember(&self) -> bool {
        let old = self.kept.is_some_and(|kept| kept != self.keeps());
        let runs = self.host == Host::Running && self.stopping.is_none();
        let lives = runs && !self.is_leased();
        old && (lives || (self.keeps().done && self.host == Host::Cleaned))
    }

    pub(super) fn is_over(&self) -> bool {
        self.status.state.is_terminal()
    }

    /// Connections may go to it.
    pub(super) fn in_rotation(&self) -> bool {
        let runs = self.host == Host::Running && self.wanted() >= Wanted::Ready;
        runs && !self.is_over() && self.is_good()
    }

    /// A new assignment of the same task; `whole` when it is one of all that there are.
    pub(super) fn assign(&mut self, now: Now, task: &Arc<Task>, whole: bool) {
        if task.desired != self.task.desired {
            self.retry = None;
        }
        let first = !std::mem::replace(&mut self.assigned, true);
        let adopted = self.own.take().is_some();
        // All that there is is exact, also on what this worker let run by itself and does not yet.
        let exact = (first || whole) && self.host != Host::Running;
        let known = if exact { task.desired } else { self.task.desired };
        let desired = task.desired.max(known);
        self.gone = false;
        self.task = if task.desired == desired {
            Arc::clone(task)
        } else {
            Arc::new(Task { desired, ..task.as_ref().clone() })
        };
        if first || whole || adopted || task.status == self.status {
            self.told = Some(task.status.clone());
            self.told_cleaned = false;
        }
        if first && task.status.state.max(self.status.state) < TaskState::Running {
            self.distrust();
        }
        if first || whole {
            self.adopt(now, &task.status);
        } else if task.status.state.is_terminal() && !self.is_over() {
            self.status = task.status.clone();
            self.told = Some(task.status.clone());
        }
    }

    /// No manager came in time, or none has adopted it yet: it goes on as it was found.
    pub(super) fn release(&mut self, now: Now) {
        if !std::mem::replace(&mut self.assigned, true) {
            let told = self.status.clone();
            self.adopt(now, &told);
        }
    }

    /// A successor of it is there: it has ended, and how is known or is not.
    pub(super) fn supersede(&mut self, now: Now) {
        self.rebooted = false;
        self.end_as_recorded();
        let err = "its end was not recorded".to_owned();
        self.set(TaskState::Failed, now.wall, "started", err);
    }

    /// What the manager knows of a task, when the worker may know less or the manager may.
    fn adopt(&mut self, now: Now, told: &TaskStatus) {
        let ended = told.state.is_terminal() && !self.is_over();
        if ended || told.state > self.status.state {
            self.status = told.clone();
            self.keep_open_ports();
        }
        if self.is_over() {
            return;
        }
        match self.host {
            Host::Running => {
                let state = state_found(self.is_good());
                if self.status.state < state {
                    let message = if self.is_good() { "started" } else { "starting" };
                    self.set(state, now.wall, message, String::new());
                }
                if self.status.state == TaskState::Running {
                    self.status.ports = self.host_ports();
                    self.status.pid = self.pid;
                }
            }
            Host::Ended if !self.starts_again() => self.end_as_recorded(),
            Host::Empty | Host::Parts | Host::Made | Host::Ended | Host::Cleaned => {}
        }
    }

    /// What went down with the machine starts again, if it is still wanted.
    fn starts_again(&self) -> bool {
        self.rebooted && self.host == Host::Ended && self.wanted() == Wanted::Running
    }

    /// Goes to a state, unless it is already further; whether it did.
    pub(super) fn set(&mut self, state: TaskState, at: Wall, message: &str, err: String) -> bool {
        if state < self.status.state || self.is_over() {
            return false;
        }
        self.status.state = state;
        self.status.timestamp = at;
        message.clone_into(&mut self.status.message);
        self.status.err = err;
        if state.is_terminal() {
            self.status.pid = 0;
        }
        true
    }

    /// Says why it is tried again, once for each reason.
    pub(super) fn set_err(&mut self, state: TaskState, at: Wall, message: &str, err: String) {
        if self.status.state < state || self.status.err != err {
            self.set(state, at, message, err);
        }
    }

    /// Its container runs.
    pub(super) fn started(&mut self, now: Now, pid: u32) {
        self.host = Host::Running;
        self.pid = pid;
        self.started_at = Some(now.mono);
        self.watch_from_start(now.mono);
        if self.is_good() {
            self.serves(now);
        }
    }

    /// Its container runs and is well.
    pub(super) fn serves(&mut self, now: Now) {
        let again = self.status.state == TaskState::Running || self.went_down;
        let message = if again { MESSAGE_RESTARTED } else { "started" };
        let err = std::mem::take(&mut self.port_err);
        if self.set(TaskState::Running, now.wall, message, err) {
            self.status.pid = self.pid;
            self.status.ports = self.host_ports();
        }
    }

    /// Its container ended.
    pub(super) fn exited(&mut self, exit: Exit) {
        let runs = self.host == Host::Running;
        let starts = self.doing == Some(Doing::Start) || self.host == Host::Made;
        if self.exit.is_some() || !(runs || starts) {
            return;
        }
        self.exit = Some(exit);
        if runs {
            self.host = Host::Ended;
            if self.assigned {
                self.end_as_recorded();
            }
        }
    }

    /// The state that the exit record stands for.
    pub(super) fn end_as_recorded(&mut self) {
        let Some(exit) = self.exit.clone() else { return };
        let asked = self.stopping.is_some() || self.wanted() <= Wanted::Stopped;
        let failed = |text: String| (TaskState::Failed, "started", text);
        let sick = self.is_unhealthy() && !self.gone && self.cut_off.is_none();
        let (state, message, err) = if sick && self.task.desired <= TaskState::Complete {
            failed(self.unhealthy_err(exit.code))
        } else if asked {
            (TaskState::Shutdown, "shutdown", self.stop_err())
        } else if exit.shim_lost {
            failed("shim lost".to_owned())
        } else if exit.code == 0 {
            // It coped with the loss of one of its processes.
            (TaskState::Complete, "finished", String::new())
        } else if exit.oom {
            failed(format!("task: non-zero exit ({}): OOM killed", exit.code))
        } else {
            failed(format!("task: non-zero exit ({})", exit.code))
        };
        if self.set(state, exit.at, message, err) {
            self.status.exit_code = (!exit.shim_lost).then_some(exit.code);
        }
    }

    /// Why it was stopped, where nobody asked for that.
    pub(super) fn stop_err(&self) -> String {
        let lease = self.cut_off.is_some() && self.task.desired <= TaskState::Complete;
        if lease { ERR_CUT_OFF.to_owned() } else { String::new() }
    }

    /// The next try of what failed.
    pub(super) fn try_again(&mut self, now: Now) {
        let wait = self.retry.map_or(RETRY_MIN, |last| {
            Span(last.wait.0.saturating_mul(2)).clamp(RETRY_MIN, RETRY_MAX)
        });
        self.retry = Some(Retry { at: now.mono + wait, wait });
    }
}
