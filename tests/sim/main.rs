//! The whole node in deterministic simulation.
