//! The order of nodes: swarm's, kept sorted while tasks are placed, and split into branches by
//! placement preferences (swarmkit `scheduler/decision_tree.go`, `nodeset.go`).

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::NodeId;
use crate::model::node::Node;

/// Placement preferences that are followed, the first ones; the rest is not looked at.
pub const SPREAD_MAX: usize = 16;

/// How good a node is for a task; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Failures of the service's version there, if they are many.
    pub(super) failures: usize,
    /// Active tasks of the service.
    pub(super) of_service: u64,
    /// Tasks.
    pub(super) tasks: u64,
    /// Steps of memory in use.
    pub(super) memory: u64,
    /// Decides in the end.
    pub(super) node: NodeId,
}

/// Nodes that a task may be placed on, by branch and rank.
///
/// The next task goes to the branch with fewest tasks of the service, level by level; among equal
/// ones to that with the best node. Placed one by one this fills the branches as evenly as swarmkit
/// does at once. Tasks on nodes that cannot take any more count, too.
#[derive(Debug)]
pub(super) struct Tree {
    root: Branch,
    /// Where each node sits: the children to go down, and its rank while it may be chosen.
    seats: BTreeMap<NodeId, (Vec<usize>, Option<Rank>)>,
}

#[derive(Debug, Default)]
struct Branch {
    /// Active tasks of the service in it.
    tasks: u64,
    /// Nodes of a branch at the bottom.
    ranks: BTreeSet<Rank>,
    /// Children of a branch above it by label value.
    names: BTreeMap<String, usize>,
    children: Vec<Branch>,
    /// Children with a node that may be chosen.
    order: BTreeSet<(u64, Rank, usize)>,
}

impl Branch {
    fn best(&self) -> Option<Rank> {
        match self.order.first() {
            Some((_, rank, _)) => Some(*rank),
            None => self.ranks.first().copied(),
        }
    }

    /// Puts a node's rank in the place of its old one, and counts tasks, from here down the path.
    fn update(&mut self, path: &[usize], old: Option<Rank>, new: Option<Rank>, more: u64) {
        self.tasks += more;
        let Some((at, rest)) = path.split_first() else {
            if let Some(old) = old {
                self.ranks.remove(&old);
            }
            self.ranks.extend(new);
            return;
        };
        let Some(child) = self.children.get_mut(*at) else { return };
        if let Some(best) = child.best() {
            self.order.remove(&(child.tasks, best, *at));
        }
        child.update(rest, old, new, more);
        if let Some(best) = child.best() {
            self.order.insert((child.tasks, best, *at));
        }
    }
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { root: Branch::default(), seats: BTreeMap::new() }
    }

    /// Adds a node with the service's tasks on it, and its rank if it may be chosen.
    pub(super) fn insert(
        &mut self,
        node: &Node,
        spread: &[String],
        tasks: u64,
        rank: Option<Rank>,
    ) {
        let mut path = Vec::new();
        let mut branch = &mut self.root;
        for value in spread.iter().filter_map(|over| value(node, over)).take(SPREAD_MAX) {
            let next = branch.children.len();
            let at = match branch.names.get(value) {
                Some(at) => *at,
                None => {
                    branch.names.insert(value.to_owned(), next);
                    branch.children.push(Branch::default());
                    next
                }
            };
            path.push(at);
            branch = &mut branch.children[at];
        }
        self.root.update(&path, None, rank, tasks);
        self.seats.insert(node.id, (path, rank));
    }

    /// The best node, if any may be chosen.
    pub(super) fn best(&self) -> Option<NodeId> {
        self.root.best().map(|rank| rank.node)
    }

    /// A task was placed on the node, which now has this rank, or cannot take one more.
    pub(super) fn placed(&mut self, node: NodeId, rank: Option<Rank>) {
        if let Some((path, seat)) = self.seats.get_mut(&node) {
            let old = std::mem::replace(seat, rank);
            self.root.update(path, old, rank, 1);
        }
    }

    /// Number of the service's tasks at the node's branches, from the top down to the branch where
    /// the nodes are.
    pub(super) fn counts(&self, node: NodeId) -> Vec<(usize, u64)> {
        let path = self.seats.get(&node).map_or(&[][..], |(path, _)| path);
        let mut branch = &self.root;
        let mut counts = Vec::new();
        for at in path {
            let Some(child) = branch.children.get(*at) else { break };
            counts.push((*at, child.tasks));
            branch = child;
        }
        counts
    }
}

/// The node's value for `node.labels.X` or `engine.labels.X`; what is not there is empty, and a
/// branch of its own. `None` for what cannot be spread over: it is skipped, as swarmkit does.
fn value<'a>(node: &'a Node, over: &str) -> Option<&'a str> {
    let label = |prefix: &str| {
        let (head, key) = over.split_at_checked(prefix.len())?;
        (head.eq_ignore_ascii_case(prefix) && !key.is_empty()).then_some(key)
    };
    let (labels, key) = match label("node.labels.") {
        Some(key) => (&node.spec.labels, key),
        None => (&node.description.engine_labels, label("engine.labels.")?),
    };
    Some(labels.get(key).map_or("", String::as_str))
}
