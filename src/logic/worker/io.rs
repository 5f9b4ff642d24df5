//! What the worker is told and what it wants done.
//!
//! **Order.** Outputs are performed in order, [`Output::Act`] on a bounded pool: two actions of one
//! task are never under way at once, since the worker issues the next one only after the
//! [`Input::Acted`] of the last. Every action is idempotent: the process may have died between
//! doing it and telling so.
//!
//! **A session** with a leader begins with a complete set of assignments whose fence is accepted
//! and ends with [`Input::SessionLost`]. Reports leave only while one is open: what happened
//! outside of one is told at the start of the next.

use std::net::IpAddr;

use super::health::Check;
use crate::base::id::{NodeId, TaskId};
use crate::base::time::{Span, Time, Wall};
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
    /// A manager's assignments. A complete set that is accepted begins a session.
    Assignments(Assignments),
    /// The session with the leader ended, or the leader has not been heard for too long.
    SessionLost,
    /// The leader was heard, with every ping: leases count from here. Causes no output.
    LeaderHeard {
        /// When what the leader answers with this was sent to it, so that no delay on the way
        /// makes a lease longer than the leader's own count.
        at: Time,
        /// This node is the only manager: nobody else could replace its tasks, so that no lease
        /// runs out until this is said again with `false`.
        alone: bool,
    },
    /// An action ended.
    Acted {
        /// Whose.
        task: TaskId,
        /// How.
        outcome: Outcome,
    },
    /// A probe ended, or will not be run.
    Probed {
        /// Whose.
        task: TaskId,
        /// How.
        probed: Probed,
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
    Prepared {
        /// Its health check, as service and image have it together.
        check: Option<Check>,
    },
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
    /// The record that was to be written is, or cannot be.
    Remembered,
    /// A start came too late for the task's lease: nothing was done.
    Late,
    /// It did not work.
    Failed {
        /// For the user: what was being done, to what, why not.
        err: String,
        /// A second try may work (network, full disk): the worker backs off and tries again.
        temporary: bool,
        /// It was the container that could not be started, however far that got: the task failed
        /// and is not rejected.
        starting: bool,
    },
}

/// How a probe of a health check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Its process ended, or could not be started in the container.
    Exited {
        /// Exit code; 0 is well.
        code: i32,
        /// What it printed, cut to a few KiB.
        output: String,
    },
    /// It took too long and was killed with all that it has started.
    Late,
    /// The machine could not run it: nothing is known.
    NotRun,
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
        /// Write the task's record anew beside it, whether or not the action works. Where that
        /// fails nobody is told: the task is then after an offline reboot as the record says.
        record: Option<Box<Record>>,
    },
    /// Run a probe of the task's health check, beside whatever else is done to it; answered by
    /// [`Input::Probed`]. At most one of a task is under way.
    Probe {
        /// Whose.
        task: TaskId,
        /// What.
        probe: Probe,
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
    /// Keep this fence: it has a newer leader than anything that was kept. At most one for each
    /// leader; answered by nothing.
    KeepFence {
        /// The highest that was accepted.
        fence: Fence,
    },
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
    Start {
        /// Not later than this: the task's lease, as it is known now, runs out. Answered by
        /// [`Outcome::Late`] when it has.
        by: Option<Time>,
    },
    /// Send the stop signal of spec or image.
    Stop,
    /// Send SIGKILL to all of its processes.
    Kill,
    /// Take away container, network and mounts; log and exit record stay.
    Clean,
    /// Take away everything.
    Remove,
    /// Nothing but the record that comes with it.
    Remember,
}

/// One look at whether a container is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The program to run in the container and its arguments.
    pub argv: Vec<String>,
    /// How long it may take from its start.
    pub timeout: Span,
}

/// What is kept of a task beside its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The task: what is wanted of it, and its end once it has ended.
    pub task: Task,
    /// Networks it is on.
    pub networks: Vec<Network>,
    /// As in [`Prepare::own`].
    pub own: Option<u32>,
    /// Fence of the newest assignments.
    pub fence: Fence,
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
    /// Made by this worker itself while it was cut off, and no manager has adopted it: it is this
    /// successor, from 1, of `task.adopted_from`.
    pub own: Option<u32>,
}

/// A task folder found at start.
#[derive(Clone, Debug)]
pub struct Found {
    /// The task as it was recorded last.
    pub task: Task,
    /// Networks it is on.
    pub networks: Vec<Network>,
    /// As in [`Prepare::own`].
    pub own: Option<u32>,
    /// How its container is.
    pub container: FoundContainer,
    /// The machine was booted since the task was prepared: what ended, ended with the machine.
    pub rebooted: bool,
    /// As in [`Outcome::Prepared`].
    pub check: Option<Check>,
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
    /// As in [`Input::LeaderHeard`], until that says otherwise.
    pub alone: bool,
}
