//! A machine's task folders and containers. What a container does is in the name of its image.

use std::collections::{BTreeMap, BTreeSet};

use skep::base::id::TaskId;
use skep::base::rng::Rng;
use skep::base::time::{Span, Wall};
use skep::logic::manager::io::Fence;
use skep::logic::worker::Check;
use skep::logic::worker::io::{Action, Exit, Found, FoundContainer, Outcome, Prepare, Record};
use skep::model::task::Task;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    None,
    Created,
    Running { pid: u32 },
    Exited(Exit),
}

#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub record: Record,
    pub container: Container,
    /// Its address is on the machine.
    pub network: bool,
    boot: u64,
}

/// What a container does by itself.
pub(crate) enum Fate {
    RunsOn,
    Exits { after: Span, code: i32 },
}

#[derive(Default)]
pub(crate) struct Host {
    /// Told to stop by their worker.
    pub signalled: BTreeSet<TaskId>,
    pub folders: BTreeMap<TaskId, Folder>,
    /// Probes under way; they end with the daemon.
    pub probing: BTreeSet<TaskId>,
    pub boot: u64,
    /// The fence that is kept beside the folders.
    pub fence: Fence,
    pids: u32,
}

impl Host {
    /// Does an action; what follows by itself comes back, too.
    pub(crate) fn act(
        &mut self,
        id: TaskId,
        action: &Action,
        faults: Option<&mut Rng>,
    ) -> (Outcome, Option<Fate>) {
        let fails = faults.is_some_and(|rng| rng.one_in(30));
        if fails && !matches!(action, Action::Stop | Action::Kill) {
            let temporary = !matches!(action, Action::Start { .. });
            let starting = matches!(action, Action::Start { .. });
            return (Outcome::Failed { err: "injected".to_owned(), temporary, starting }, None);
        }
        match action {
            Action::Prepare(prepare) => (self.prepare(id, prepare), None),
            Action::Start { .. } => {
                self.signalled.remove(&id);
                self.start(id)
            }
            Action::Stop | Action::Kill => {
                self.signalled.insert(id);
                (Outcome::Signalled, None)
            }
            Action::Remember => (Outcome::Remembered, None),
            Action::Clean => {
                if let Some(folder) = self.folders.get_mut(&id) {
                    let runs = matches!(folder.container, Container::Running { .. });
                    assert!(!runs, "invariant_a_running_container_is_not_cleaned_away: {id}");
                    folder.network = false;
                    if !matches!(folder.container, Container::Exited(_)) {
                        folder.container = Container::None;
                    }
                }
                (Outcome::Cleaned, None)
            }
            Action::Remove => {
                if let Some(folder) = self.folders.remove(&id) {
                    let runs = matches!(folder.container, Container::Running { .. });
                    assert!(!runs, "invariant_a_running_container_is_not_removed: {id}");
                }
                (Outcome::Removed, None)
            }
        }
    }

    /// Writes a task's record anew; without a folder there is nothing to write it into.
    pub(crate) fn remember(&mut self, id: TaskId, record: &Record) {
        if let Some(folder) = self.folders.get_mut(&id) {
            folder.record = record.clone();
        }
    }

    fn prepare(&mut self, id: TaskId, prepare: &Prepare) -> Outcome {
        let record = Record {
            task: prepare.task.clone(),
            networks: prepare.networks.clone(),
            own: prepare.own,
            fence: prepare.fence,
        };
        let addresses: Vec<_> = record.task.addresses.clone();
        let check = Check::resolve(record.task.spec.container.health.as_ref(), None);
        let no_image = record.task.spec.container.image == "noimage";
        let twice = self.folders.iter().find(|(other, folder)| {
            let theirs = &folder.record.task.addresses;
            **other != id && folder.network && theirs.iter().any(|one| addresses.contains(one))
        });
        assert!(twice.is_none(), "invariant_an_address_is_on_a_machine_once: {twice:?}");
        let boot = self.boot;
        let folder = self.folders.entry(id).or_insert_with(|| Folder {
            record: record.clone(),
            container: Container::None,
            network: false,
            boot,
        });
        folder.record = record;
        if no_image {
            let err = "No such image: noimage".to_owned();
            return Outcome::Failed { err, temporary: false, starting: false };
        }
        let runs = matches!(folder.container, Container::Running { .. });
        assert!(!runs, "invariant_a_running_container_is_not_made_again: {id}");
        folder.container = Container::Created;
        folder.network = true;
        folder.boot = boot;
        Outcome::Prepared { check }
    }

    fn start(&mut self, id: TaskId) -> (Outcome, Option<Fate>) {
        let folder = self.folders.get_mut(&id).expect("a task is prepared before it is started");
        assert_eq!(folder.container, Container::Created, "invariant_made_once_started_once: {id}");
        let image = folder.record.task.spec.container.image.as_str();
        if image == "nostart" {
            let err = "starting container failed: exec: \"/nope\"".to_owned();
            return (Outcome::Failed { err, temporary: false, starting: true }, None);
        }
        self.pids += 1;
        folder.container = Container::Running { pid: self.pids };
        let fate = match image.strip_prefix("exit-").and_then(|rest| rest.split_once('-')) {
            Some((code, millis)) => Fate::Exits {
                after: Span::from_millis(millis.parse().unwrap()),
                code: code.parse().unwrap(),
            },
            None => Fate::RunsOn,
        };
        (Outcome::Started { pid: self.pids }, Some(fate))
    }

    /// A container ends; its exit record is written by its shim.
    pub(crate) fn exit(&mut self, id: TaskId, pid: u32, code: i32, at: Wall) -> Option<Exit> {
        let folder = self.folders.get_mut(&id)?;
        if folder.container != (Container::Running { pid }) {
            return None;
        }
        let exit = Exit { code, oom: false, shim_lost: false, at };
        folder.container = Container::Exited(exit.clone());
        Some(exit)
    }

    pub(crate) fn pid(&self, id: TaskId) -> Option<u32> {
        match self.folders.get(&id)?.container {
            Container::Running { pid } => Some(pid),
            Container::None | Container::Created | Container::Exited(_) => None,
        }
    }

    /// The power went, or the machine was shut down in order: then exit records are written.
    pub(crate) fn reboot(&mut self, in_order: bool, at: Wall) {
        self.boot += 1;
        for folder in self.folders.values_mut() {
            folder.network = false;
            folder.container = match &folder.container {
                Container::Exited(exit) => Container::Exited(exit.clone()),
                Container::Running { .. } if in_order => {
                    let exit = Exit { code: 143, oom: false, shim_lost: false, at };
                    Container::Exited(exit)
                }
                Container::Running { .. } | Container::Created | Container::None => Container::None,
            };
        }
    }

    pub(crate) fn found(&self) -> Vec<Found> {
        let found = |folder: &Folder| Found {
            task: folder.record.task.clone(),
            networks: folder.record.networks.clone(),
            own: folder.record.own,
            container: match &folder.container {
                Container::None => FoundContainer::None,
                Container::Created => FoundContainer::Created,
                Container::Running { pid } => FoundContainer::Running { pid: *pid },
                Container::Exited(exit) => FoundContainer::Exited(exit.clone()),
            },
            rebooted: folder.boot != self.boot,
            check: Check::resolve(folder.record.task.spec.container.health.as_ref(), None),
        };
        self.folders.values().map(found).collect()
    }

    /// The highest fence that is kept, in a folder or beside them.
    pub(crate) fn fence(&self) -> Fence {
        let kept = self.folders.values().map(|folder| folder.record.fence);
        kept.max().unwrap_or_default().max(self.fence)
    }

    /// What a task's container is made of.
    pub(crate) fn image(&self, id: TaskId) -> &str {
        self.folders.get(&id).map_or("", |it| it.record.task.spec.container.image.as_str())
    }

    /// Containers that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        let runs = |folder: &&Folder| matches!(folder.container, Container::Running { .. });
        self.folders
            .values()
            .filter(runs)
            .map(|folder| (folder.record.task.id, &folder.record.task))
    }
}
