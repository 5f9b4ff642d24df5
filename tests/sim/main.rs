//! The whole swarm in deterministic simulation: the machines that run in production, with the time,
//! the network, the disks, the clocks and the containers made up.
//!
//! `SEED=n cargo test --profile sim --test sim NAME` repeats one seed, `SEED_START=a SEEDS=n` runs
//! n seeds from a, `FAULTS=1,4` leaves only these faults of a seed's plan. The last line says how
//! many ran, how long they were and what failed. Not here: real disks and real containers
//! (`tests/it`).

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::exit,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test: what fails fails the test, and seeds come from the environment"
)]

mod clock;
mod disk;
mod faults;
mod net;
mod queue;
mod raft_alone;
mod runner;
mod swarm;
mod trace;

/// Seeds of a normal run of the consensus machine alone.
const RAFT_SEEDS: u64 = 150;

/// Seeds of a normal run of the whole swarm.
const SWARM_SEEDS: u64 = 150;

type Test = (&'static str, fn() -> Result<(), String>);

const TESTS: &[Test] = &[
    ("clock", || {
        clock::the_deadline_of_a_drifting_clock_is_reached_and_not_before();
        Ok(())
    }),
    ("net", || {
        net::a_partition_cuts_what_its_name_says();
        Ok(())
    }),
    ("swarm_same", || runner::same_seed_same_run("swarm_same", swarm::run)),
    ("swarm", || runner::each_seed("swarm", SWARM_SEEDS, swarm::run)),
    ("raft_same", || runner::same_seed_same_run("raft_same", raft_alone::run)),
    ("raft_alone", || runner::each_seed("raft_alone", RAFT_SEEDS, raft_alone::run)),
];

/// Figures: run only when they are named.
const FIGURES: &[Test] = &[
    ("election_time", raft_alone::election::after_a_leaders_death),
    ("election_none", raft_alone::election::none_in_a_lossy_day),
    ("election_stall", raft_alone::election::a_stalled_disk_hands_over_once),
];

fn main() {
    runner::catch_panics();
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let names: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let exact = words.iter().any(|word| word == "--exact");
    let figures = FIGURES.iter().filter(|(name, _)| names.iter().any(|word| word == name));
    let chosen = TESTS.iter().filter(|(name, _)| {
        let said =
            |word: &&String| if exact { *word == name } else { name.contains(word.as_str()) };
        names.is_empty() || names.iter().any(said)
    });
    let mut failed = Vec::new();
    for (name, test) in chosen.chain(figures) {
        if let Err(reason) = runner::one(*test) {
            runner::say(&format!("{name} FAILED: {reason}"));
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        runner::say(&format!("failed: {}", failed.join(", ")));
        std::process::exit(1);
    }
}
