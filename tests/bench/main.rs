//! Benchmarks of what decides, with no machine around it. Each prints what it measured and fails
//! beyond its budget; none runs by itself: see the scripts beside this file.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark: it reads the clock and prints, and what fails fails it"
)]

mod schedule;
