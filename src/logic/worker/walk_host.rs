//! The machine of the walk: folders and containers, and what happens to them by itself.

use super::io::{Action, Exit, Found, FoundContainer, Input, Outcome, Probed, Record};
use super::tests::{config, fence};
use super::walk_tests::World;
use super::{Check, Worker};
use crate::base::id::TaskId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    None,
    Made,
    Running,
    Ended,
}

/// What a machine has of one task.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) record: Record,
    pub(super) container: Container,
    /// Its address is on the machine.
    pub(super) network: bool,
    pub(super) boot: u32,
    pub(super) code: i32,
    pub(super) doing: Option<Action>,
    /// What the shim was sent last.
    pub(super) signalled: bool,
    /// Found to be unhealthy.
    pub(super) sick: bool,
    pub(super) killed: bool,
}

impl World {
    /// An action ends; `Err(temporary)` when it did not work.
    pub(super) fn acted(&mut self, id: TaskId, result: Result<(), bool>) {
        let Some(folder) = self.folders.get_mut(&id) else {
            return self.step(Input::Acted { task: id, outcome: Outcome::Removed });
        };
        let Some(action) = folder.doing.take() else { return };
        let mut outcome = match (&action, result) {
            (Action::Remember, _) => Outcome::Remembered,
            (_, Err(temporary)) => {
                let starting = matches!(action, Action::Start { .. });
                Outcome::Failed { err: "no luck".to_owned(), temporary, starting }
            }
            (Action::Prepare(_), Ok(())) => {
                folder.container = Container::Made;
                let health = folder.record.task.spec.container.health.as_ref();
                Outcome::Prepared { check: Check::resolve(health, None) }
            }
            (Action::Start { by }, Ok(())) if by.is_some_and(|by| self.now >= by) => Outcome::Late,
            (Action::Start { .. }, Ok(())) => {
                if folder.container == Container::Made {
                    folder.sick = false;
                    folder.container = Container::Running;
                }
                Outcome::Started { pid: 5 }
            }
            (Action::Stop | Action::Kill, Ok(())) => Outcome::Signalled,
            (Action::Clean, Ok(())) => Outcome::Cleaned,
            (Action::Remove, Ok(())) => Outcome::Removed,
        };
        folder.signalled |= matches!(action, Action::Stop | Action::Kill);
        match outcome {
            Outcome::Cleaned => {
                folder.network = false;
                if folder.container != Container::Ended {
                    folder.container = Container::None;
                }
            }
            Outcome::Removed => {
                self.folders.remove(&id);
            }
            // It ran and has ended: that start worked.
            Outcome::Failed { .. }
                if matches!(action, Action::Start { .. })
                    && folder.container == Container::Ended =>
            {
                outcome = Outcome::Started { pid: 5 };
            }
            _ => {}
        }
        self.step(Input::Acted { task: id, outcome });
    }

    pub(super) fn exited(&mut self, id: TaskId, code: i32) {
        let at = self.now().wall;
        let Some(folder) = self.folders.get_mut(&id) else { return };
        let starts = matches!(folder.doing, Some(Action::Start { .. }));
        let runs = folder.container == Container::Running;
        if runs || (folder.container == Container::Made && starts) {
            (folder.container, folder.code) = (Container::Ended, code);
            let exit = Exit { code, oom: false, shim_lost: false, at };
            self.probes.remove(&id);
            self.step(Input::Exited { task: id, exit });
        }
    }

    pub(super) fn probe(&mut self, id: TaskId) {
        let folder = &self.folders[&id];
        assert!(folder.container == Container::Running && !folder.signalled, "{folder:#?}");
        assert!(self.probes.insert(id), "two probes at once: {folder:#?}");
    }

    pub(super) fn probed(&mut self, id: TaskId, well: bool) {
        if !self.probes.remove(&id) {
            return;
        }
        if let Some(folder) = self.folders.get_mut(&id) {
            folder.sick |= !well;
        }
        let (code, output) = (i32::from(!well), String::new());
        self.step(Input::Probed { task: id, probed: Probed::Exited { code, output } });
    }

    /// The daemon dies, and with `rebooted` the machine; with `cut` before a folder that was to be
    /// made was there.
    pub(super) fn restart(&mut self, rebooted: bool, cut: bool, silent: bool) {
        let at = self.now().wall;
        self.boot += u32::from(rebooted);
        self.folders.retain(|_, folder| {
            let made = matches!(folder.doing, Some(Action::Prepare(_)));
            !(cut && made && folder.container == Container::None)
        });
        let found = self.folders.values_mut().map(|folder| {
            folder.doing = None;
            (folder.signalled, folder.killed, folder.sick) = (false, false, false);
            if rebooted {
                folder.network = false;
                folder.container = match folder.container {
                    Container::Running | Container::Ended => Container::Ended,
                    Container::None | Container::Made => Container::None,
                };
            }
            let (code, oom, shim_lost) = (folder.code, false, false);
            let container = match folder.container {
                Container::None => FoundContainer::None,
                Container::Made => FoundContainer::Created,
                Container::Running => FoundContainer::Running { pid: 5 },
                Container::Ended => FoundContainer::Exited(Exit { code, oom, shim_lost, at }),
            };
            let Record { task, networks, own, .. } = folder.record.clone();
            let check = Check::resolve(task.spec.container.health.as_ref(), None);
            let rebooted = folder.boot != self.boot;
            Found { task, networks, own, container, rebooted, check }
        });
        let found = found.collect();
        self.worker = Worker::new(config(found, fence(self.index)), self.now());
        (self.generation, self.table) = (0, 0);
        self.open = false;
        self.over.clear();
        self.probes.clear();
        self.sent.clear();
        (self.lost, self.heard) = (self.now, self.now);
        if !silent {
            self.join();
        }
    }
}
