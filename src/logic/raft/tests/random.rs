//! A network of members driven by chance: loss, duplicates, reordering, crashes at any point of a
//! write, lost tails, refused writes, changes of the members, snapshots, hand-overs.

use super::member::id;
use super::net::{NODES, Net, Truth};
use crate::base::time::Span;
use crate::logic::raft::io::MemberChange;

fn run(seed: u64, loud: bool) -> [u64; 4] {
    let mut net = Net::new(seed, NODES, loud);
    net.faults = false;
    net.run(Span::from_millis(200));
    for number in 2..=(if seed.is_multiple_of(2) { 3 } else { NODES }) {
        net.change(id(1), MemberChange::Add(id(number)));
        net.run(Span::from_millis(800));
    }
    net.faults = true;
    net.run(Span::from_secs(10));
    net.heal();
    let Truth { reads_ready, stuck, committed, leaders, .. } = net.truth;
    [reads_ready, committed.len() as u64, leaders.len() as u64, stuck]
}

#[test]
fn chance_breaks_nothing() {
    let mut sum = [0; 4];
    for seed in seeds() {
        let done = std::panic::catch_unwind(|| run(seed, false));
        let counts = done.unwrap_or_else(|_| {
            println!("seed {seed}, once more:");
            run(seed, true)
        });
        sum = std::array::from_fn(|at| sum[at] + counts[at]);
    }
    let [reads, entries, leaders, stuck] = sum;
    println!("{reads} reads, {entries} entries, {leaders} leaders, {stuck} stuck");
    // The runs are about something.
    assert!(reads > 800 && entries > 6_000 && leaders > 400, "{sum:?}");
    assert!(stuck * 100 < reads, "a member in doubt seldom matters: {sum:?}");
}

/// More of them by hand, as the compiler finds them: `RAFT_SEED_START` and `RAFT_SEEDS`.
fn seeds() -> std::ops::Range<u64> {
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    let start = number(option_env!("RAFT_SEED_START")).unwrap_or(0);
    start..start + number(option_env!("RAFT_SEEDS")).unwrap_or(200)
}

/// From the leader's death to the next committed entry, with links of 1 ms and such a disk.
#[test]
#[ignore = "a measurement: 300 elections of three members for each disk"]
fn election_times() {
    for disk in [300, 20_000, 60_000] {
        let mut times: Vec<u64> = (0..300).map(|seed| election_time(seed, disk)).collect();
        times.sort_unstable();
        println!("fsync {disk} µs: p50 {} ms, p99 {} ms", times[150] / 1_000, times[297] / 1_000);
        assert!(times[297] < 1_100_000);
    }
}

fn election_time(seed: u64, disk: u64) -> u64 {
    let mut net = Net::new(seed, NODES, false);
    (net.faults, net.disk) = (false, Some(disk));
    net.run(Span::from_secs(1));
    for number in 2..=3 {
        net.change(id(1), MemberChange::Add(id(number)));
        net.run(Span::from_millis(1_500));
        net.change(id(1), MemberChange::Promote(id(number)));
        net.run(Span::from_millis(500));
    }
    net.run(Span(net.numbers % 97 * 1_000));
    let (died, before) = (net.now, net.truth.committed.len());
    net.members.get_mut(&id(1)).expect("a member").raft = None;
    while net.truth.committed.len() == before {
        assert!(net.next(died + Span::from_secs(20)), "a leader is found");
    }
    net.now.since(died).0
}
