//! Where a task runs: filters in swarm's order, each with its explanation, then an order of nodes.
//!
//! [`Nodes`] is the table of what is taken of each node; it follows the store's effects and is
//! never rebuilt while the manager runs. [`Overlay`] is what a decision works on: the table with
//! its own placements on top. [`rebalance()`] names a task that would be better off elsewhere.
//!
//! Not here: when to schedule, and what a task is. Invariants: the same nodes and task give the
//! same answer; the table is what a walk over the store's tasks would make of it.
//!
//! A task that writes to a named volume goes back to the node where its slot was, if it can: the
//! volume is there. That is a wish and not a filter, as in swarm, where such a task may come to any
//! node; a user who must have it pins the service with a constraint. A bind mount is no wish either:
//! its source is the user's, and may be on every node.

pub mod constraint;
mod filter;
mod generic;
mod info;
mod nodes;
#[cfg(test)]
mod order_tests;
mod overlay;
mod platform;
mod rank;
pub mod rebalance;
#[cfg(test)]
mod rebalance_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod walk_tests;

pub use self::filter::stays_at_home;
pub use self::info::{MemoryUse, NodeInfo};
pub use self::nodes::Nodes;
pub use self::overlay::Overlay;
pub use self::rank::SPREAD_MAX;
pub use self::rebalance::rebalance;

use crate::base::time::Span;

/// Most tasks that one node is given, finished ones not counted.
pub const TASKS_PER_NODE_MAX: u64 = 1_000;

/// A node where a service's version failed this often within [`FAILURES_WINDOW`] goes last
/// (swarmkit `scheduler.maxFailures`).
pub const FAILURES_MAX: usize = 5;

/// Failures older than this do not count (swarmkit `scheduler.monitorFailures`).
pub const FAILURES_WINDOW: Span = Span::from_secs(300);

/// Message of a task that waits for a node.
pub const MESSAGE_PENDING: &str = "pending task scheduling";

/// Message of a task that was given a node.
pub const MESSAGE_ASSIGNED: &str = "scheduler assigned task to node";

/// Message of a global service's task that may run on its node.
pub const MESSAGE_CONFIRMED: &str = "scheduler confirmed task can run on preassigned node";
