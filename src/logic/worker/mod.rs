//! The worker machine.

pub mod io;
