//! The data plane, a process of its own: listeners, connections, UDP sessions.
//!
//! One per exec root, one thread. It gets its routes from the daemon over a control socket
//! (`crate::model::control`) and keeps the last table while the daemon is away; a newer binary
//! takes its sockets over while it drains. It is not told about services or nodes: a listener and
//! the tasks behind it is all it knows.

mod balance;
mod control;
mod datagram;
mod dial;
mod engine;
mod flow;
mod pump;
mod slab;
mod socket;
mod start;
mod takeover;

pub use start::run;
