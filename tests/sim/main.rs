//! The whole node in deterministic simulation: the manager and the worker that run in production,
//! a disk that tears and fills up, containers that exit and hang, and crashes at any output.
//!
//! `SEED=n cargo test --test sim` repeats one run; `SEEDS=n` changes how many are run. A failure
//! prints the command that repeats it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test: what fails fails the test, and seeds come from the environment"
)]

mod check;
mod client;
mod disk;
mod host;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::{Crash, World};

/// Seeds of a normal run.
const SEEDS: u64 = 250;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs one seed; on a failure says how to repeat it.
fn run(test: &str, seed: u64, crash: Crash) -> u64 {
    let result = std::panic::catch_unwind(|| {
        let mut world = World::new(seed, crash);
        world.run();
        world.outputs()
    });
    match result {
        Ok(outputs) => outputs,
        Err(panic) => {
            eprintln!(
                "seed {seed}, {crash:?}; repeat with: SEED={seed} cargo test --test sim {test}"
            );
            std::panic::resume_unwind(panic)
        }
    }
}

/// Runs every seed, on all cores: the runs have nothing in common.
fn each_seed(work: impl Fn(u64) + Sync) {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(SEEDS),
    };
    let next = AtomicU64::new(seeds.start);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    work(seed);
                }
            });
        }
    });
}

#[test]
fn crashes_exits_hangs_and_full_disks() {
    each_seed(|seed| {
        run("crashes_exits_hangs_and_full_disks", seed, Crash::Random { one_in: 20 });
    });
}

#[test]
fn a_crash_at_every_output() {
    const TEST: &str = "a_crash_at_every_output";
    each_seed(|seed| {
        let outputs = run(TEST, seed, Crash::Count);
        for output in 0..outputs {
            let power = (output + seed) % 2 == 0;
            run(TEST, seed, Crash::At { output, power });
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let mut world = World::new(seed, Crash::Random { one_in: 20 });
        world.run();
        (world.outputs(), world.state_hash())
    };
    for seed in 1_000..1_005 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}
