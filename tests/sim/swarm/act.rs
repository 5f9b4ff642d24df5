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
        let it = &self.machines[machine];
        let mono = it.clock.now(self.now).mono;
        let late = matches!(action, Action::Start { by: Some(by) } if mono >= *by);
        let rng = faults.then_some(&mut self.rng);
        let (outcome, fate) = if late {
            (wio::Outcome::Late, None)
        } else {
            self.machines[machine].host.act(task, action, rng)
        };
        // What failed may have failed for the record.
        let failed = matches!(outcome, wio::Outcome::Failed { .. });
        let unwritten = record.is_some()
            && failed
            && matches!(action, Action::Clean | Action::Remember)
            && self.rng.one_in(2);
        count(&mut self.counts, "records not written", u64::from(unwritten));
        if let Some(record) = record.filter(|_| !unwritten) {
            self.machines[machine].host.remember(task, record);
        }
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

    /// A probe begins in a container that runs: how it ends is in the name of the image.
    pub(super) fn begin_probe(&mut self, machine: usize, task: TaskId, probe: &wio::Probe) {
        count(&mut self.counts, "probes", 1);
        let it = &mut self.machines[machine];
        assert!(it.host.probing.insert(task), "invariant_one_probe_of_a_task_at_a_time: {task}");
        let (pid, life) = (it.host.pid(task).unwrap_or(0), it.life);
        let luck = match it.host.image(task) {
            "sick" => 0,
            "flaps" => 2,
            _ if self.faults => 40,
            _ => u64::MAX,
        };
        let well = luck > 0 && !self.rng.one_in(luck);
        let hangs = !well && self.rng.one_in(2);
        let took = if hangs { probe.timeout } else { self.soon(200) };
        let probed = match (well, hangs) {
            (true, _) => wio::Probed::Exited { code: 0, output: String::new() },
            (false, true) => wio::Probed::Late,
            (false, false) => wio::Probed::Exited { code: 1, output: "not well".to_owned() },
        };
        trace!(self.now, "{machine} probes {task}: {probed:?}");
        self.after(took, Event::Machine(machine, life, What::Probe(task, pid, probed)));
    }

    /// A probe ended, by the end of its container or by itself.
    pub(super) fn end_probe(
        &mut self,
        machine: usize,
        task: TaskId,
        pid: u32,
        probed: wio::Probed,
    ) {
        let host = &mut self.machines[machine].host;
        host.probing.remove(&task);
        let runs = host.pid(task) == Some(pid);
        let probed = if runs { probed } else { wio::Probed::NotRun };
        self.tell_worker(machine, wio::Input::Probed { task, probed });
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
