//! What the worker is told and what it wants done.
//!
//! **Order.** Outputs are performed in order, [`Output::Act`] on a bounded pool: two actions of one
//! task are never under way at once, since the worker issues the next one only after the
//! [`Input::Acted`] of the last. Every action is idempotent: the process may have died between
//! doing it and telling so.

use std::net::IpAddr;

use crate::base::id::{NodeId, TaskId};
use crate::base::time::Wall;
use crate::logic::manager::io::{Assignments, Fence, Report};
use crate::model::network::Network;
use crate::model::node::NodeDescription;
use crate::model::service::{ContainerSpec, Protocol};
use crate::model::task::{Backend, Task};

/// What the worker is told.
#[derive(Clone, Debug)]
pub enum Input {
    /// The worker's `deadline()` has passed.
    Tick,
    /// A manager's assignments.
    Assignments(Assignments),
    /// An action ended.
    Acted {
        /// Whose.
        task: TaskId,
        /// How.
        outcome: Outcome,
    },
    /// A container ended, asked to or not. May come more than once.
    Exited {
        /// Whose.
        task: TaskId,
        /// How.
        exit: Exit,
    },
    /// The proxy took the table of this generation (or refused some of its ports).
    RoutesApplied {
        /// Which table.
        generation: u64,
        /// Ports that cannot be had, with the reason as the user is to read it.
        refused: Vec<RefusedPort>,
    },
}

/// A port that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedPort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub published: u16,
    /// Its address, where not all.
    pub host_ip: Option<IpAddr>,
    /// Why.
    pub reason: String,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The image is there, the container is made.
    Prepared,
    /// The container's process runs.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// The signal was sent, or there was nobody to send it to.
    Signalled,
    /// Nothing of the task is left but its log and exit record (kept for history).
    Cleaned,
    /// Nothing at all is left.
    Removed,
    /// It did not work.
    Failed {
        /// For the user: what was being done, to what, why not.
        err: String,
        /// A second try may work (network, full disk): the worker backs off and tries again.
        temporary: bool,
    },
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, 128 + signal when a signal ended it.
    pub code: i32,
    /// The kernel ended a process of it for want of memory.
    pub oom: bool,
    /// Its shim is gone, so the code is not known.
    pub shim_lost: bool,
    /// When.
    pub at: Wall,
}

/// What the worker wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Do this to a task.
    Act {
        /// Which.
        task: TaskId,
        /// What.
        action: Action,
    },
    /// Give this table to the proxy; answered by [`Input::RoutesApplied`].
    Routes {
        /// Grows with each.
        generation: u64,
        /// All ports, in order.
        ports: Vec<PortRoute>,
    },
    /// Tell the manager.
    Report(Report),
}

/// One port that the proxy is to hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRoute {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on the node.
    pub published: u16,
    /// Only on this address.
    pub host_ip: Option<IpAddr>,
    /// Where connections go; empty while none runs: the port is held all the same.
    pub backends: Vec<Backend>,
}

/// One step of host work.
#[derive(Clone, Debug)]
pub enum Action {
    /// Fetch the image, make network, bundle and container; not started.
    Prepare(Box<Prepare>),
    /// Start the container's process.
    Start,
    /// Send the stop signal of spec or image.
    Stop,
    /// Send SIGKILL to all of its processes.
    Kill,
    /// Take away container, network and mounts; log and exit record stay.
    Clean,
    /// Take away everything.
    Remove,
}

/// What is needed to make a container.
#[derive(Clone, Debug)]
pub struct Prepare {
    /// The task.
    pub task: Task,
    /// Its container, templates replaced.
    pub container: ContainerSpec,
    /// Networks it is on.
    pub networks: Vec<Network>,
    /// Fence of the assignment, kept beside the task.
    pub fence: Fence,
}

/// A task folder found at start.
#[derive(Clone, Debug)]
pub struct Found {
    /// The task as it was assigned.
    pub task: Task,
    /// How its container is.
    pub container: FoundContainer,
    /// The machine was booted since the task was prepared: what ended, ended with the machine.
    pub rebooted: bool,
}

/// How a container was found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundContainer {
    /// No container, or only parts of one.
    None,
    /// Made, not started.
    Created,
    /// Running.
    Running {
        /// Process id.
        pid: u32,
    },
    /// Ended; the record was read.
    Exited(Exit),
}

/// What a worker is told once, before its first step.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// What it says of itself: templates use it.
    pub description: NodeDescription,
    /// Seed of its jitter.
    pub seed: [u8; 32],
    /// What was found at start.
    pub found: Vec<Found>,
    /// Highest fence it has accepted.
    pub fence: Fence,
}
