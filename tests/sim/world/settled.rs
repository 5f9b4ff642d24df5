//! Whether the node is as it should be, and what it looks like when it is not.

use std::collections::BTreeMap;

use skep::base::time::Span;
use skep::logic::worker::Worker;
use skep::model::task::TaskState;

use super::{HEAL, World};
use crate::host::Container;

impl World {
    /// Every slot that can run does, and the host agrees.
    pub(super) fn is_settled(&self) -> bool {
        let Some(manager) = &self.manager else { return false };
        if !self.client.is_done() || !manager.is_bootstrapped() {
            return false;
        }
        let store = manager.store();
        self.client.expect.values().all(|expect| {
            if !matches!(expect.image.as_str(), "run" | "stubborn") {
                return true;
            }
            let runs = store.tasks_of_service(expect.id).filter(|task| {
                let container = self.host.folders.get(&task.id).map(|folder| &folder.container);
                let wanted = task.desired == TaskState::Running;
                let runs = matches!(container, Some(Container::Running { .. }));
                wanted && runs && task.status.state == TaskState::Running
            });
            runs.count() as u64 == expect.replicas
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        let Some(manager) = &self.manager else { return false };
        let store = manager.store();
        let stored = store.tasks_len() + store.services().count();
        self.client.is_done() && stored == 0 && self.host.folders.is_empty()
    }

    pub(super) fn invariant_one_container_per_slot(&self) {
        let mut slots = BTreeMap::new();
        for folder in self.host.folders.values() {
            let task = &folder.task;
            let wanted = self.manager.as_ref().and_then(|manager| {
                let task = manager.store().task(task.id)?;
                Some(task.desired == TaskState::Running)
            });
            if wanted == Some(true) && matches!(folder.container, Container::Running { .. }) {
                let other = slots.insert((task.service, task.slot), task.id);
                assert!(other.is_none(), "slot {} runs twice: {other:?} {}", task.slot, task.id);
            }
        }
    }

    /// With nothing to do nothing happens: no deadline, no write, no message.
    pub(super) fn invariant_idle_is_silent(&mut self) {
        self.until(self.now + HEAL, |_| false);
        let before = (self.disk.writes, self.outputs);
        assert_eq!(self.next_time(), None, "invariant: idle has no deadline: {}", self.describe());
        self.until(self.now + Span::from_secs(3_600), |_| false);
        assert_eq!((self.disk.writes, self.outputs), before, "invariant: idle writes nothing");
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("at {:?}\n", self.now);
        if let Some(manager) = &self.manager {
            for service in manager.store().services() {
                let status = service.update_status.as_ref().map(|status| &status.message);
                text += &format!("{} {:?} {status:?}\n", service.spec.name, service.spec.mode);
            }
            for task in manager.store().tasks() {
                let container = self.host.folders.get(&task.id).map(|folder| &folder.container);
                text += &format!(
                    "{}.{} {} wanted {:?} is {:?} {} {:?} {:?} host {container:?}\n",
                    task.service_name,
                    task.slot,
                    task.id,
                    task.desired,
                    task.status.state,
                    task.status.message,
                    task.status.err,
                    task.addresses,
                );
            }
            text += &format!("manager's deadline {:?}\n", manager.deadline());
        }
        text += &format!("folders {:?}\n", self.host.folders.keys().collect::<Vec<_>>());
        text += &format!("worker's deadline {:?}", self.worker.as_ref().map(Worker::deadline));
        text
    }
}
