//! How long elections take, and when there are none: figures, run by `tests/bench/election.sh`.

use skep::base::rng::Rng;
use skep::base::time::Span;

use super::World;
use crate::net::{LAN, Quality};
use crate::runner::say;

/// Leaders that die, for each speed of the disk.
const SEEDS: u64 = 1_000;

/// A day.
const HOURS: u64 = 24;

impl World {
    fn elections(&self) -> u64 {
        self.counts.get("elections").copied().unwrap_or(0)
    }

    /// Runs until somebody leads and has committed something.
    fn until_led(&mut self) -> usize {
        for _ in 0..1_000 {
            self.until(self.now + Span::from_millis(100));
            if let Some(leader) = self.leader().filter(|_| self.check.acknowledged > 0) {
                return leader;
            }
        }
        panic!("liveness: nobody leads: {}", self.describe());
    }
}

/// From the leader's death to the next accepted write.
fn failover(seed: u64, fsync: Span) -> Span {
    let mut world = World::bare(seed, 3, LAN, fsync);
    let leader = world.until_led();
    let more = Rng::new(seed).below(1_000_000);
    world.until(world.now + Span(more));
    let (died, before) = (world.now, world.check.committed_index());
    world.crash(leader, true, Span::from_secs(10_000));
    let term = world.nodes.iter().filter_map(|it| it.raft.as_ref()).map(|it| it.term()).max();
    let acknowledged = world.check.acknowledged;
    while world.check.acknowledged <= acknowledged.max(before) {
        world.until(world.now + Span::from_millis(1));
        if let Some(leader) = world.leader() {
            world.propose(leader);
        }
        assert!(world.now.since(died) < Span::from_secs(60), "liveness: {}", world.describe());
    }
    let now = world.nodes.iter().filter_map(|it| it.raft.as_ref()).map(|it| it.term()).max();
    assert!(now > term, "a new leader has a new term");
    world.now.since(died)
}

/// Milliseconds at p50, p99 and the most.
pub(crate) fn after_a_leaders_death() -> Result<(), String> {
    for (name, fsync) in
        [("0.3", Span(300)), ("20", Span::from_millis(20)), ("60", Span::from_millis(60))]
    {
        let mut all: Vec<u64> = (0..SEEDS).map(|seed| failover(seed, fsync).0 / 1_000).collect();
        all.sort_unstable();
        let at = |part: usize| all[(all.len() - 1) * part / 1_000];
        say(&format!(
            "election, fsync {name} ms, {SEEDS} leaders' deaths: p50 {} ms, p99 {} ms, most {} ms",
            at(500),
            at(990),
            at(1_000)
        ));
        if at(990) > 1_000 {
            return Err(format!("p99 is above a second with an fsync of {name} ms"));
        }
    }
    Ok(())
}

/// A day with 5 % loss and 50 ± 30 ms of delay elects nobody.
pub(crate) fn none_in_a_lossy_day() -> Result<(), String> {
    let quality = Quality {
        delay_min: Span::from_millis(20),
        delay_more: Span::from_millis(60),
        loss: 50,
        ..LAN
    };
    let mut world = World::bare(1, 3, quality, Span(300));
    world.until_led();
    let before = world.elections();
    for _ in 0..HOURS * 4 {
        world.until(world.now + Span::from_secs(900));
    }
    let more = world.elections() - before;
    say(&format!("election, {HOURS} h with 5 % loss and 50 ± 30 ms of delay: {more} elections"));
    if more == 0 { Ok(()) } else { Err(format!("{more} elections")) }
}

/// A follower's disk stands still for 5 s: no election. The leader's: one, by handing over.
pub(crate) fn a_stalled_disk_hands_over_once() -> Result<(), String> {
    let mut wrong = 0;
    for seed in 0..100 {
        for leads in [false, true] {
            let mut world = World::bare(seed, 3, LAN, Span(300));
            let leader = world.until_led();
            world.until(world.now + Span::from_secs(1));
            let before = world.elections();
            let node = if leads { leader } else { (leader + 1) % 3 };
            world.nodes[node].disk.stalled = world.now + Span::from_secs(5);
            world.until(world.now + Span::from_secs(10));
            let more = world.elections() - before;
            wrong += u64::from(more != u64::from(leads));
        }
    }
    say(&format!("election, 5 s without an fsync: wrong in {wrong} of 200 runs"));
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} runs")) }
}
