//! The manager machine.

pub mod io;
