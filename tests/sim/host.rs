//! The host: task folders and containers. What a container does is in the name of its image.

use std::collections::BTreeMap;

use skep::base::id::TaskId;
use skep::base::rng::Rng;
use skep::base::time::{Span, Wall};
use skep::logic::manager::io::Fence;
use skep::logic::worker::io::{Action, Exit, Found, FoundContainer, Outcome, Record};
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
    pub task: Task,
    pub fence: Fence,
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
    pub folders: BTreeMap<TaskId, Folder>,
    pub boot: u64,
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
            let temporary = !matches!(action, Action::Start);
            return (
                Outcome::Failed { err: "injected".to_owned(), temporary, starting: false },
                None,
            );
        }
        match action {
            Action::Prepare(prepare) => (self.prepare(id, &prepare.task, prepare.fence), None),
            Action::Start => self.start(id),
            Action::Stop | Action::Kill => (Outcome::Signalled, None),
            Action::Clean => {
                if let Some(folder) = self.folders.get_mut(&id) {
                    let runs = matches!(folder.container, Container::Running { .. });
                    assert!(!runs, "invariant: a running container is not cleaned away");
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
                    assert!(!runs, "invariant: a running container is not removed");
                }
                (Outcome::Removed, None)
            }
            Action::Remember => (Outcome::Remembered, None),
        }
    }

    /// Writes a task's record anew.
    pub(crate) fn remember(&mut self, id: TaskId, record: Record) {
        if let Some(folder) = self.folders.get_mut(&id) {
            (folder.task, folder.fence) = (record.task, record.fence);
        }
    }

    fn prepare(&mut self, id: TaskId, task: &Task, fence: Fence) -> Outcome {
        if task.spec.container.image == "noimage" {
            self.folders.entry(id).or_insert_with(|| folder(task, fence, self.boot));
            let err = "No such image: noimage".to_owned();
            return Outcome::Failed { err, temporary: false, starting: false };
        }
        let address = task.addresses.first().expect("a task has an address");
        let twice = self.folders.values().find(|other| {
            other.network && other.task.id != id && other.task.addresses.first() == Some(address)
        });
        assert!(twice.is_none(), "invariant: an address is on the machine once: {twice:?}");
        let folder = self.folders.entry(id).or_insert_with(|| folder(task, fence, self.boot));
        let runs = matches!(folder.container, Container::Running { .. });
        assert!(!runs, "invariant: a running container is not made again");
        folder.container = Container::Created;
        folder.network = true;
        folder.boot = self.boot;
        Outcome::Prepared
    }

    fn start(&mut self, id: TaskId) -> (Outcome, Option<Fate>) {
        let folder = self.folders.get_mut(&id).expect("a task is prepared before it is started");
        assert_eq!(folder.container, Container::Created, "invariant: made once, started once");
        let image = folder.task.spec.container.image.as_str();
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
            task: folder.task.clone(),
            networks: Vec::new(),
            own: None,
            container: match &folder.container {
                Container::None => FoundContainer::None,
                Container::Created => FoundContainer::Created,
                Container::Running { pid } => FoundContainer::Running { pid: *pid },
                Container::Exited(exit) => FoundContainer::Exited(exit.clone()),
            },
            rebooted: folder.boot != self.boot,
        };
        self.folders.values().map(found).collect()
    }

    pub(crate) fn fence(&self) -> Fence {
        self.folders.values().map(|folder| folder.fence).max().unwrap_or_default()
    }
}

fn folder(task: &Task, fence: Fence, boot: u64) -> Folder {
    Folder { task: task.clone(), fence, container: Container::None, network: false, boot }
}
