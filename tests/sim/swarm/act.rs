//! Containers: what a worker has done to them, and what they do by themselves.

use skep::base::id::TaskId;
use skep::logic::worker::io::{self as wio, Action};

use super::host::Fate;
use super::outputs::act_point;
use super::{Event, What, World};
use crate::faults::count;
use crate::trace::trace;

impl World {
    /// Performs an action; with `alive` its worker is told.
    pub(super) fn act(
        &mut self,
        machine: usize,
        task: TaskId,
        action: &Action,
        record: Option<&wio::Record>,
        alive: bool,
    ) {
        let faults = self.faults;
        if let Some(record) = record {
            self.machines[machine].host.remember(task, record);
        }
        let it = &self.machines[machine];
        let mono = it.clock.now(self.now).mono;
        let late = matches!(action, Action::Start { by: Some(by) } if mono >= *by);
        let rng = faults.then_some(&mut self.rng);
        let (outcome, fate) = if late {
            (wio::Outcome::Late, None)
        } else {
            self.machines[machine].host.act(task, action, rng)
        };
        count(&mut self.counts, "late starts", u64::from(late));
        trace!(self.now, "{machine} did {} {task}: {outcome:?}", act_point(action));
        self.note_running(machine);
        if let Some(pid) = self.machines[machine].host.pid(task) {
            self.container_goes_on(machine, task, pid, action, fate);
        }
        if alive {
            let input = Box::new(wio::Input::Acted { task, outcome });
            let life = self.machines[machine].life;
            self.after(
                skep::base::time::Span(1),
                Event::Machine(machine, life, What::Worker(input)),
            );
        }
    }

    fn container_goes_on(
        &mut self,
        machine: usize,
        task: TaskId,
        pid: u32,
        action: &Action,
        fate: Option<Fate>,
    ) {
        let image = self.machines[machine].host.image(task).to_owned();
        let (after, code) = match (action, fate) {
            (Action::Start { .. }, Some(Fate::Exits { after, code })) => (after, code),
            (Action::Start { .. }, Some(Fate::RunsOn)) if self.faults && self.rng.one_in(8) => {
                (self.soon(60_000), 1)
            }
            (Action::Stop, _) if image != "stubborn" => (self.soon(200), 0),
            (Action::Kill, _) => (self.soon(5), 137),
            (
                Action::Start { .. }
                | Action::Stop
                | Action::Prepare(_)
                | Action::Clean
                | Action::Remove
                | Action::Remember,
                _,
            ) => return,
        };
        self.after(after, Event::Exit(machine, task, pid, code));
    }

    /// A container ends.
    pub(super) fn exit(&mut self, machine: usize, task: TaskId, pid: u32, code: i32) {
        let it = &mut self.machines[machine];
        let wall = it.clock.now(self.now).wall;
        if let Some(exit) = it.host.exit(task, pid, code, wall) {
            trace!(self.now, "{machine} container {task} ends with {code}");
            self.note_running(machine);
            let life = self.machines[machine].life;
            let input = Box::new(wio::Input::Exited { task, exit });
            let wait = skep::base::time::Span(1);
            self.after(wait, Event::Machine(machine, life, What::Worker(input)));
        }
    }
}
