//! Wiring: start order, loops, shutdown.

pub mod handle;
