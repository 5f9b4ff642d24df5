//! How fast bytes must come: a registry that trickles them must hold neither a pull for ever nor what
//! all pulls share. No clock in here: times are arguments.

use std::time::{Duration, Instant};

/// What is asked of a download.
#[derive(Clone, Debug)]
pub struct PaceLimits {
    /// How often it is looked at.
    pub window: Duration,
    /// Fewer bytes than this in a window end the try: it has stopped.
    pub window_bytes_min: u64,
    /// Fewer bytes than this in a window, and it goes on, but counts no longer among those that
    /// [`parallel_max`](super::RegistryConfig::parallel_max) bounds: it keeps nothing busy.
    pub window_bytes_slow: u64,
    /// The longest that a manifest, a configuration or a token may take.
    pub document: Duration,
}

impl Default for PaceLimits {
    /// 1 KiB/s, which the slowest of mobile links have; slow is what three of could share 1 Mbit/s.
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            window_bytes_min: 30 * 1024,
            window_bytes_slow: 30 * 40 * 1024,
            document: Duration::from_secs(60),
        }
    }
}

/// What a look at a download tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Fast enough, or the window is not over yet.
    Fine,
    /// It goes on, but slowly.
    Slow,
    /// It brought only so many bytes in the window.
    Stopped(u64),
}

/// Watches one try of a download.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// Begins with what was there before.
    pub(super) fn new(now: Instant, bytes: u64) -> Self {
        Self { since: now, bytes }
    }

    /// Looks at it, when `bytes` are there.
    pub(super) fn look(&mut self, limits: &PaceLimits, now: Instant, bytes: u64) -> Seen {
        let took = now.saturating_duration_since(self.since);
        if took < limits.window {
            return Seen::Fine;
        }
        let came = bytes.saturating_sub(self.bytes);
        // A window that was looked at late, since one read took long, is longer, and so must bring more.
        let is_under = |window_bytes: u64| {
            u128::from(came) * limits.window.as_millis() < u128::from(window_bytes) * took.as_millis()
        };
        let seen = match (is_under(limits.window_bytes_min), is_under(limits.window_bytes_slow)) {
            (true, _) => Seen::Stopped(came),
            (false, true) => Seen::Slow,
            (false, false) => Seen::Fine,
        };
        *self = Self { since: now, bytes };
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_window_is_looked_at_by_itself() {
        let limits = PaceLimits {
            window: Duration::from_secs(10),
            window_bytes_min: 100,
            window_bytes_slow: 1_000,
            ..PaceLimits::default()
        };
        let start = Instant::now();
        let at = |secs: u64| start + Duration::from_secs(secs);
        let mut pace = Pace::new(start, 5_000);
        let mut look = |secs, bytes| pace.look(&limits, at(secs), bytes);
        assert_eq!(look(9, 5_000), Seen::Fine, "not over yet");
        assert_eq!(look(10, 6_000), Seen::Fine);
        assert_eq!(look(19, 6_000), Seen::Fine, "what an earlier window brought counts no more, but this is not over");
        assert_eq!(look(20, 6_999), Seen::Slow);
        assert_eq!(look(30, 7_098), Seen::Stopped(99));
        assert_eq!(look(40, 7_198), Seen::Slow);
        assert_eq!(look(60, 7_397), Seen::Stopped(199), "two windows in one look");
        assert_eq!(look(80, 9_397), Seen::Fine);
    }
}
