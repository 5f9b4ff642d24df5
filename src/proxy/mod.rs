//! The data plane, a process of its own.
