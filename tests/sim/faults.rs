//! What goes wrong in a run: a plan made from the seed alone, so that parts of it can be left out
//! and the rest stays as it was.

use std::collections::BTreeMap;

use skep::base::rng::Rng;
use skep::base::time::{Span, Time, Wall};
use skep::logic::raft::io::Body;

use crate::clock::DRIFT_PPM_MAX;
use crate::net::{Parted, Quality};

/// How often something went wrong.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// Adds one.
pub(crate) fn count(counts: &mut Counts, what: &'static str, by: u64) {
    if by > 0 {
        *counts.entry(what).or_default() += by;
    }
}

/// Where a machine may die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FailPoint {
    /// Just before it is done, or just behind.
    pub after: bool,
    /// What.
    pub what: &'static str,
}

/// A machine that will die at a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Armed {
    pub point: FailPoint,
    pub times: u64,
    pub power: bool,
    pub down: Span,
}

/// Name of the place where this is sent.
pub(crate) const fn body_point(body: &Body) -> &'static str {
    match body {
        Body::Vote { .. } => "send vote",
        Body::VoteReply { .. } => "send vote reply",
        Body::Append { .. } => "send append",
        Body::AppendOk { .. } => "send append ok",
        Body::AppendRejected { .. } => "send append rejected",
        Body::Heartbeat { .. } => "send heartbeat",
        Body::HeartbeatReply { .. } => "send heartbeat reply",
        Body::Snapshot { .. } => "send snapshot",
        Body::SnapshotReply { .. } => "send snapshot reply",
        Body::Read { .. } => "send read",
        Body::ReadReply { .. } => "send read reply",
        Body::TimeoutNow => "send timeout now",
        Body::GivenUp => "send given up",
    }
}

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A machine dies now and is down for a while.
    Crash { node: usize, power: bool, down: Span },
    /// It dies when it gets to a place for the `times`-th time.
    CrashAt { node: usize, point: FailPoint, times: u64, power: bool, down: Span },
    /// The network parts for a while.
    Part { parted: Parted, span: Span },
    /// It parts and heals again and again.
    Flap { parted: Parted, period: Span, times: u64 },
    /// The network is bad for a while.
    Weather { quality: Quality, span: Span },
    /// A disk is full for a while.
    Full { node: usize, span: Span },
    /// A disk's fdatasync takes this long for a while.
    Slow { node: usize, fsync: Span, span: Span },
    /// Nothing ends on a disk for a while.
    Stall { node: usize, span: Span },
    /// The machine dies, and the last entries of its log, acknowledged ones, are gone.
    LoseTail { node: usize, entries: u64, vote: bool, down: Span },
    /// The machine dies and its log cannot be read: it comes back as a new member.
    LoseDisk { node: usize, down: Span },
    /// A wall clock is set.
    WallJump { node: usize, wall: Wall },
    /// A monotonic clock runs at another rate.
    Drift { node: usize, ppm: i64 },
    /// A process does not run for a while; what is sent to it waits.
    Freeze { node: usize, span: Span },
}

impl Fault {
    /// Its name in the counts.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Crash { power: false, .. } => "kill",
            Self::Crash { power: true, .. } => "power cut",
            Self::CrashAt { .. } => "crash at a fail point",
            Self::Part { parted: Parted::Halves { .. }, .. } => "halves",
            Self::Part { parted: Parted::OneWay { .. }, .. } => "one-way",
            Self::Part { parted: Parted::Ring, .. } => "ring",
            Self::Flap { .. } => "flapping",
            Self::Weather { .. } => "bad network",
            Self::Full { .. } => "full disk",
            Self::Slow { .. } => "slow disk",
            Self::Stall { .. } => "disk stall",
            Self::LoseTail { .. } => "lost tail",
            Self::LoseDisk { .. } => "lost disk",
            Self::WallJump { .. } => "wall jump",
            Self::Drift { .. } => "clock drift",
            Self::Freeze { .. } => "frozen process",
        }
    }
}

/// What a plan may hold.
#[derive(Clone, Debug)]
pub(crate) struct Mix {
    /// Machines that have a disk with a log: these are the first ones.
    pub managers: usize,
    /// All machines.
    pub machines: usize,
    /// Where machines may die.
    pub points: &'static [&'static str],
    /// Faults happen from here …
    pub from: Span,
    /// … to here.
    pub to: Span,
    /// So many.
    pub faults: u64,
}

/// The plan of a run.
pub(crate) fn plan(seed: u64, mix: &Mix) -> Vec<(Time, Fault)> {
    let mut rng = Rng::new(seed ^ 0xfa17_5000);
    // A run has a character: which kinds of faults it has, so that some are met alone.
    let kinds = rng.next_u64() | rng.next_u64();
    let mut plan = Vec::new();
    for _ in 0..mix.faults {
        let at = Time(mix.from.0 + rng.below(mix.to.0 - mix.from.0));
        let kind = rng.below(FAULT_KINDS);
        if kinds >> kind & 1 == 1 {
            plan.push((at, fault(&mut rng, kind, mix)));
        }
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}

const FAULT_KINDS: u64 = 15;

fn between(rng: &mut Rng, from: u64, to: u64) -> Span {
    // Long spans are rarer than short ones.
    let from = from.max(1);
    let ratio = to as f64 / from as f64;
    let chance = rng.below(1_000) as f64 / 1_000.0;
    Span::from_millis((from as f64 * ratio.powf(chance)) as u64)
}

fn some_of(rng: &mut Rng, machines: usize) -> u32 {
    let all = (1u64 << machines) - 1;
    let one = 1u64 << rng.below(machines as u64);
    let set = if rng.one_in(2) { one } else { rng.below(all) | one };
    u32::try_from(set).unwrap()
}

fn fault(rng: &mut Rng, kind: u64, mix: &Mix) -> Fault {
    let node = usize::try_from(rng.below(mix.machines as u64)).unwrap();
    let manager = usize::try_from(rng.below(mix.managers as u64)).unwrap();
    let down = between(rng, 50, 20_000);
    match kind {
        0 | 1 => Fault::Crash { node, power: rng.one_in(2), down },
        2 | 3 => {
            let what = mix.points[usize::try_from(rng.below(mix.points.len() as u64)).unwrap()];
            let point = FailPoint { after: rng.one_in(2), what };
            let times = 1 + rng.below(3);
            Fault::CrashAt { node, point, times, power: rng.one_in(2), down }
        }
        4 | 5 => {
            let side = some_of(rng, mix.machines);
            Fault::Part { parted: Parted::Halves { side }, span: between(rng, 200, 30_000) }
        }
        6 => {
            let mute = some_of(rng, mix.machines);
            Fault::Part { parted: Parted::OneWay { mute }, span: between(rng, 200, 30_000) }
        }
        7 if rng.one_in(2) => Fault::Part { parted: Parted::Ring, span: between(rng, 500, 20_000) },
        7 => {
            let side = some_of(rng, mix.machines);
            let period = between(rng, 50, 2_000);
            Fault::Flap { parted: Parted::Halves { side }, period, times: 2 + rng.below(8) }
        }
        8 => {
            let quality = Quality {
                delay_min: between(rng, 1, 30),
                delay_more: between(rng, 1, 100),
                loss: rng.below(200),
                twice: rng.below(100),
                late: rng.below(50),
            };
            Fault::Weather { quality, span: between(rng, 1_000, 30_000) }
        }
        9 => Fault::Full { node: manager, span: between(rng, 500, 20_000) },
        10 => {
            let fsync = between(rng, 20, 500);
            Fault::Slow { node: manager, fsync, span: between(rng, 1_000, 20_000) }
        }
        11 => Fault::Stall { node: manager, span: between(rng, 500, 5_000) },
        12 => Fault::Freeze { node, span: between(rng, 50, 5_000) },
        13 if rng.one_in(2) => Fault::WallJump { node, wall: Wall(rng.below(1 << 51)) },
        13 => {
            let ppm = i64::try_from(rng.below(20_001)).unwrap() - DRIFT_PPM_MAX;
            Fault::Drift { node, ppm }
        }
        _ if rng.one_in(2) => Fault::LoseDisk { node: manager, down },
        _ => {
            let (entries, vote) = (1 + rng.below(4), rng.one_in(2));
            Fault::LoseTail { node: manager, entries, vote, down }
        }
    }
}
