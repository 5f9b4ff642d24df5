//! A machine's two clocks. The monotonic one never jumps but runs up to one in a hundred fast or
//! slow; the wall clock jumps, also to 1970.

use skep::base::rng::Rng;
use skep::base::time::{Now, Span, Time, Wall};

/// Where the true wall clock stands when a run begins.
pub(crate) const WALL_START: u64 = 1_700_000_000_000_000;

/// Most that a monotonic clock is off, in millionths.
pub(crate) const DRIFT_PPM_MAX: i64 = 10_000;

/// Both clocks of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    /// True time at which `base` was right.
    origin: Time,
    base: u64,
    ppm: i64,
    /// Wall time less true time.
    wall: i64,
}

impl Clock {
    pub(crate) fn new(rng: &mut Rng, now: Time) -> Self {
        let mut clock = Self { origin: now, base: 0, ppm: 0, wall: 0 };
        clock.reboot(rng, now);
        clock
    }

    /// The monotonic clock begins anew, somewhere.
    pub(crate) fn reboot(&mut self, rng: &mut Rng, now: Time) {
        self.origin = now;
        self.base = 1_000_000 + rng.below(1_000_000_000);
    }

    /// From now on the clock runs this much faster.
    pub(crate) fn drift(&mut self, now: Time, ppm: i64) {
        self.base = self.mono(now).0;
        self.origin = now;
        self.ppm = ppm.clamp(-DRIFT_PPM_MAX, DRIFT_PPM_MAX);
    }

    /// The wall clock is set.
    pub(crate) fn set_wall(&mut self, now: Time, wall: Wall) {
        let truth = WALL_START + now.0;
        self.wall = i64::try_from(wall.0).unwrap() - i64::try_from(truth).unwrap();
    }

    /// The wall clock is right again.
    pub(crate) const fn right_wall(&mut self) {
        self.wall = 0;
    }

    pub(crate) fn mono(&self, now: Time) -> Time {
        let passed = i64::try_from(now.since(self.origin).0).unwrap();
        let off = i128::from(passed) * i128::from(self.ppm) / 1_000_000;
        let local = i64::try_from(self.base).unwrap() + passed + i64::try_from(off).unwrap();
        Time(u64::try_from(local).unwrap())
    }

    pub(crate) fn now(&self, now: Time) -> Now {
        let wall = i64::try_from(WALL_START + now.0).unwrap() + self.wall;
        Now { mono: self.mono(now), wall: Wall(u64::try_from(wall.max(0)).unwrap()) }
    }

    /// The first true time at which the monotonic clock shows at least `local`.
    pub(crate) fn truth(&self, local: Time) -> Time {
        let ahead = i128::from(local.0.saturating_sub(self.base));
        let span = ahead * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut at = self.origin + Span(u64::try_from(span).unwrap_or(u64::MAX / 4));
        while self.mono(at) < local {
            at = at + Span(1);
        }
        at
    }
}

pub(crate) fn the_deadline_of_a_drifting_clock_is_reached_and_not_before() {
    let mut rng = Rng::new(3);
    for _ in 0..2_000 {
        let start = Time(rng.below(1 << 40));
        let mut clock = Clock::new(&mut rng, start);
        let ppm = i64::try_from(rng.below(20_001)).unwrap() - DRIFT_PPM_MAX;
        clock.drift(start + Span(rng.below(1 << 30)), ppm);
        let local = clock.mono(start) + Span(1 << 31) + Span(rng.below(1 << 33));
        let at = clock.truth(local);
        assert!(clock.mono(at) >= local);
        assert!(clock.mono(at - Span(2)) < local, "{ppm}");
    }
}
