//! Leaf helpers without I/O and without words of the domain.

pub mod chain;
pub mod duration;
pub mod id;
pub mod nearest;
pub mod rng;
pub mod shim_wire;
pub mod time;
pub mod units;
