//! Whether the swarm is as it should be, and what it looks like when it is not.

use std::collections::BTreeSet;
use std::sync::Arc;

use skep::base::time::Span;
use skep::model::node::Node;
use skep::model::service::{Mode, PublishMode, Service};
use skep::model::task::{Task, TaskState};

use super::World;

/// Whether a service may run on a node, by its constraint.
fn fits(service: &Service, node: &Node) -> bool {
    let zone = node.spec.labels.get("zone").map_or("", String::as_str);
    let asks = &service.spec.task.placement.constraints;
    asks.iter().all(|asked| *asked == format!("node.labels.zone=={zone}"))
}

impl World {
    /// One leader, all managers of one mind, every worker in a session, every slot that can run does.
    pub(super) fn is_settled(&self) -> bool {
        self.clients_are_done()
            && self.managers_agree()
            && self.machines.iter().all(|it| it.joined && it.session.is_some())
            && self.truth.store.services().all(|service| self.is_service_settled(service))
            && self.nothing_else_runs()
            && self.nothing_sick_serves()
    }

    fn managers_agree(&self) -> bool {
        let mut leaders = self.machines.iter().filter(|it| it.leads());
        let (Some(leader), None) = (leaders.next(), leaders.next()) else { return false };
        let Some(manager) = &leader.manager else { return false };
        let members = manager.raft().members();
        members.learners.is_empty()
            && self.machines.iter().all(|it| {
                let same = |manager: &skep::logic::manager::Manager| {
                    manager.store().index() == self.truth.store.index()
                };
                let node = self.truth.store.node(it.id);
                let wanted =
                    node.is_some_and(|node| node.spec.role == skep::model::node::Role::Manager);
                wanted == members.voters.contains(&it.id)
                    && wanted == it.manager.is_some()
                    && it.manager.as_ref().is_none_or(same)
                    && it.disk.is_idle()
            })
    }

    fn is_service_settled(&self, service: &Service) -> bool {
        let image = service.spec.task.container.image.as_str();
        let ends = service.spec.mode.is_job() && image.starts_with("exit-0-");
        if !(ends || matches!(image, "run" | "stubborn" | "well")) {
            return true;
        }
        // An update that failed stays where it is, a mix of old and new.
        let paused = service.update_status.as_ref().is_some_and(|status| {
            use skep::model::service::UpdateState;
            matches!(status.state, UpdateState::Paused | UpdateState::RollbackPaused)
        });
        if paused {
            return true;
        }
        let fitting: Vec<_> =
            self.truth.store.nodes().filter(|node| fits(service, node)).map(|it| it.id).collect();
        let tasks = || self.truth.store.tasks_of_service(service.id);
        if service.spec.mode.is_job() {
            let run = service.job.map_or(0, |job| job.iteration);
            let done = |task: &&Arc<Task>| {
                task.job_iteration == run && task.status.state == TaskState::Complete
            };
            let slots: BTreeSet<u64> = tasks().filter(done).map(|task| task.slot).collect();
            let on = |node| tasks().filter(done).any(|task| task.node == Some(node));
            return match service.spec.mode {
                Mode::ReplicatedJob { total, .. } => {
                    fitting.is_empty() || slots.len() as u64 == total
                }
                _ => fitting.into_iter().all(on),
            };
        }
        let fitting = fitting.len() as u64;
        let wanted = match service.spec.mode {
            Mode::Replicated { .. } if fitting == 0 => 0,
            Mode::Replicated { replicas } => replicas,
            _ => fitting,
        };
        let good = tasks().filter(|task| {
            task.desired == TaskState::Running
                && task.status.state == TaskState::Running
                && self.runs(task.id)
        });
        let good = good.count() as u64;
        // Of those that publish on their own node, a node takes one.
        let host = service.ports.iter().any(|port| port.mode == PublishMode::Host);
        good == wanted || (host && good < wanted && good == wanted.min(fitting))
    }

    /// What is never well does not count as running, whatever became of the daemon that looked at it.
    fn nothing_sick_serves(&self) -> bool {
        let sick = |task: &Task| task.spec.container.image == "sick";
        let mut tasks = self.truth.store.tasks().filter(|task| sick(task));
        tasks.all(|task| task.status.state != TaskState::Running)
    }

    fn nothing_else_runs(&self) -> bool {
        let wanted = |id| self.truth.store.task(id).is_some();
        self.machines.iter().all(|it| it.host.running().all(|(id, _)| wanted(id)))
    }

    pub(super) fn is_empty(&self) -> bool {
        let store = &self.truth.store;
        self.clients_are_done()
            && store.tasks_len() + store.services().count() == 0
            && self.runs_len() == 0
            && self.machines.iter().all(|it| it.host.folders.is_empty())
            && self.managers_agree()
    }

    pub(super) fn remove_all(&mut self) {
        self.removing = true;
    }

    pub(super) fn invariant_all_managers_end_the_same(&self) {
        for manager in self.machines.iter().filter_map(|it| it.manager.as_ref()) {
            self.truth.invariant_all_end_the_same(manager.store());
        }
        self.invariant_what_was_refused_changes_nothing();
    }

    /// With nothing to do nothing is written and nothing is decided: only heartbeats and pings.
    pub(super) fn invariant_idle_is_silent(&mut self) {
        self.until(self.now + Span::from_secs(60), |_| false);
        let writes = |world: &Self| world.machines.iter().map(|it| it.disk.writes).sum::<u64>();
        let before = (writes(self), self.truth.len());
        self.until(self.now + Span::from_secs(60), |_| false);
        let after = (writes(self), self.truth.len());
        assert_eq!(after, before, "invariant_idle_is_silent: writes and entries");
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!(
            "at {:?}, {} entries, clients {:?}\n",
            self.now,
            self.truth.len(),
            self.clients.iter().map(|it| it.current.is_some()).collect::<Vec<_>>()
        );
        for (n, it) in self.machines.iter().enumerate() {
            let raft = it.manager.as_ref().map(skep::logic::manager::Manager::raft);
            text += &format!(
                "{n} {} up {} leads {} term {:?} members {:?} index {:?} joined {} session {} \
                 cut {} containers {}\n",
                it.id,
                it.is_up(),
                it.leads(),
                raft.map(skep::logic::raft::Raft::term),
                raft.map(skep::logic::raft::Raft::members),
                it.manager.as_ref().map(|manager| manager.store().index()),
                it.joined,
                it.session.is_some(),
                it.disk.is_cut(),
                it.host.running().count(),
            );
        }
        for node in self.truth.store.nodes() {
            text += &format!("node {} {:?}\n", node.id, node.spec);
        }
        for service in self.truth.store.services() {
            let status = service.update_status.as_ref().map(|it| (it.state, &it.message));
            let image = &service.spec.task.container.image;
            let settled = self.is_service_settled(service);
            let (name, mode) = (&service.spec.name, service.spec.mode);
            let asks = &service.spec.task.placement.constraints;
            text += &format!("{name} {mode:?} {image} {asks:?} {status:?} settled {settled}\n");
        }
        for task in self.truth.store.tasks() {
            let at = self.machines.iter().position(|it| Some(it.id) == task.node);
            text += &format!(
                "  {}.{} {} on {at:?} wanted {:?} is {:?} {} {:?} runs {}\n",
                task.service_name,
                task.slot,
                task.id,
                task.desired,
                task.status.state,
                task.status.message,
                task.status.err,
                self.runs(task.id),
            );
        }
        text
    }
}
