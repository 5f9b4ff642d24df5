//! The table of nodes with one decision's own tasks on top.
//!
//! Tasks that are alike are placed from one sorted tree of nodes: the first one asks all filters of
//! all nodes, each further one only those of the node that was chosen before.

use std::collections::BTreeMap;

use super::filter::{self, Refusals};
use super::info::NodeInfo;
use super::nodes::{Nodes, is_active, is_placed};
use super::rank::{Rank, Tree};
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::time::Wall;
use crate::model::node::Availability;
use crate::model::service::{Port, TaskSpec};
use crate::model::task::Task;

/// The table with own tasks on top.
#[derive(Debug)]
pub struct Overlay<'a> {
    nodes: &'a Nodes,
    now: Wall,
    /// Nodes whose tasks are not those of the table.
    own: BTreeMap<NodeId, NodeInfo>,
    /// Active tasks where they are not those of the table.
    active: BTreeMap<(ServiceId, NodeId), u64>,
    /// Tasks that are not as the table has them; `None` takes nothing.
    tasks: BTreeMap<TaskId, Option<Task>>,
    group: Option<Group>,
}

/// The tasks that were placed last, and the nodes for one more of them.
#[derive(Debug)]
struct Group {
    service: ServiceId,
    spec: TaskSpec,
    spec_version: u64,
    ports: Vec<Port>,
    tree: Tree,
    /// Why there is no node for one more, once that was asked.
    refusal: Option<String>,
}

impl Group {
    fn is_of(&self, task: &Task) -> bool {
        self.service == task.service
            && self.spec_version == task.spec_version
            && self.spec == task.spec
            && self.ports == task.ports
    }
}

impl<'a> Overlay<'a> {
    /// The table as it is.
    #[must_use]
    pub const fn new(nodes: &'a Nodes, now: Wall) -> Self {
        Self {
            nodes,
            now,
            own: BTreeMap::new(),
            active: BTreeMap::new(),
            tasks: BTreeMap::new(),
            group: None,
        }
    }

    /// A task is like this, whatever the table says of it.
    pub fn put(&mut self, task: &Task) {
        self.take_back(task.id);
        if is_placed(task) {
            self.count(task);
        }
    }

    /// A task takes nothing any more.
    pub fn take_back(&mut self, id: TaskId) {
        let old = match self.tasks.get_mut(&id) {
            Some(own) => own.take(),
            None => self.nodes.counted(id).map(|task| task.as_ref().clone()),
        };
        let Some((old, node)) = old.and_then(|task| task.node.map(|node| (task, node))) else {
            return;
        };
        self.group = None;
        self.tasks.insert(id, None);
        if let Some(info) = self.own_info(node) {
            info.remove(&old);
        }
        if is_active(&old) {
            let count = self.active(old.service, node);
            self.active.insert((old.service, node), count.saturating_sub(1));
        }
    }

    fn count(&mut self, task: &Task) {
        let Some(node) = task.node else { return };
        self.group = None;
        if let Some(info) = self.own_info(node) {
            info.add(task);
        }
        if is_active(task) {
            let count = self.active(task.service, node);
            self.active.insert((task.service, node), count + 1);
        }
        self.tasks.insert(task.id, Some(task.clone()));
    }

    fn own_info(&mut self, node: NodeId) -> Option<&mut NodeInfo> {
        if !self.own.contains_key(&node) {
            self.own.insert(node, self.nodes.infos().get(&node)?.clone());
        }
        self.own.get_mut(&node)
    }

    fn info(&self, node: NodeId) -> Option<&NodeInfo> {
        self.own.get(&node).or_else(|| self.nodes.infos().get(&node))
    }

    fn active(&self, service: ServiceId, node: NodeId) -> u64 {
        let own = self.active.get(&(service, node)).copied();
        own.unwrap_or_else(|| self.nodes.active(service, node))
    }

    /// Gives the task the best node for it, its `home` if that fits, and what it gets of that node's
    /// generic resources; or says why there is none, in swarm's words.
    ///
    /// # Errors
    /// The text for the task's status.
    pub fn place(&mut self, task: &mut Task, home: Option<NodeId>) -> Result<NodeId, String> {
        self.take_back(task.id);
        if self.group.as_ref().is_none_or(|group| !group.is_of(task)) {
            self.group = Some(self.group_of(task));
        }
        let home = home.filter(|home| self.rank(*home, task).is_some_and(|it| it.failures == 0));
        let Some(group) = &mut self.group else { return Err(String::new()) };
        let Some(node) = home.or_else(|| group.tree.best()) else {
            if group.refusal.is_none() {
                let text = self.refusal(task);
                if let Some(group) = &mut self.group {
                    group.refusal = Some(text);
                }
            }
            let refusal = self.group.as_ref().and_then(|group| group.refusal.clone());
            return Err(refusal.unwrap_or_default());
        };
        let group = self.group.take();
        self.put_on(node, task);
        let rank = self.rank(node, task);
        self.group = group;
        if let Some(group) = &mut self.group {
            group.tree.placed(node, rank);
        }
        Ok(node)
    }

    /// The same for a task that is to run on this node or nowhere.
    ///
    /// # Errors
    /// The text for the task's status.
    pub fn confirm(&mut self, node: NodeId, task: &mut Task) -> Result<NodeId, String> {
        self.take_back(task.id);
        let of_service = self.active(task.service, node);
        let mut refusals = Refusals::default();
        match self.info(node) {
            Some(info) if filter::passes(info, of_service, task) => {
                self.put_on(node, task);
                return Ok(node);
            }
            Some(info) => refusals.note(info, of_service, task),
            None => {}
        }
        Err(refusals.explain())
    }

    fn put_on(&mut self, node: NodeId, task: &mut Task) {
        self.take_back(task.id);
        task.node = Some(node);
        task.generic = self.info(node).and_then(|info| info.claim(task)).unwrap_or_default();
        self.count(task);
    }

    fn group_of(&self, task: &Task) -> Group {
        let mut tree = Tree::new();
        let spread = &task.spec.placement.spread;
        for id in self.nodes.infos().keys() {
            if let Some(info) = self.info(*id) {
                let of_service = self.active(task.service, *id);
                tree.insert(&info.node, spread, of_service, self.rank(*id, task));
            }
        }
        Group {
            service: task.service,
            spec: task.spec.clone(),
            spec_version: task.spec_version,
            ports: task.ports.clone(),
            tree,
            refusal: None,
        }
    }

    /// The node's rank for one more such task; `None` when a filter refuses it.
    fn rank(&self, node: NodeId, task: &Task) -> Option<Rank> {
        let info = self.info(node)?;
        let of_service = self.active(task.service, node);
        filter::passes(info, of_service, task).then(|| Rank {
            failures: self.nodes.failures(node, task, self.now),
            of_service,
            tasks: info.tasks,
            memory: info.memory_step(),
            node,
        })
    }

    fn refusal(&self, task: &Task) -> String {
        let mut refusals = Refusals::default();
        for id in self.nodes.infos().keys() {
            if let Some(info) = self.info(*id) {
                refusals.note(info, self.active(task.service, *id), task);
            }
        }
        refusals.explain()
    }

    /// Tasks of the task's service in the branches of its spread on the way to the node, and at
    /// last on the node: which branch, and how many.
    pub(super) fn spread_counts(&mut self, task: &Task, node: NodeId) -> Vec<(u128, u64)> {
        if self.group.as_ref().is_none_or(|group| !group.is_of(task)) {
            self.group = Some(self.group_of(task));
        }
        let branches = self.group.iter().flat_map(|group| group.tree.counts(node));
        let mut counts: Vec<(u128, u64)> =
            branches.map(|(at, count)| (u128::try_from(at).unwrap_or(0), count)).collect();
        counts.push((node.0.0, self.active(task.service, node)));
        counts
    }

    /// Whether the node is one that a global service wants to be on: it may run tasks, fulfils the
    /// constraints and platforms, and has the devices.
    #[must_use]
    pub fn eligible(&self, node: NodeId, task: &TaskSpec) -> bool {
        self.nodes.infos().get(&node).is_some_and(|info| filter::eligible(info, task))
    }

    /// Whether the user lets new tasks come to the node.
    #[must_use]
    pub fn is_active(&self, node: NodeId) -> bool {
        let active = |info: &NodeInfo| info.node.spec.availability == Availability::Active;
        self.nodes.infos().get(&node).is_some_and(active)
    }

    /// All nodes in id order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + 'a {
        self.nodes.infos().keys().copied()
    }
}
