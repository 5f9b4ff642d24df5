//! Waiting, on async-io's timers.

use std::time::Duration;

use async_io::Timer;

pub use std::time::Instant;

/// A tick that comes later than this after its time moves those that follow.
const LATE: Duration = Duration::from_millis(5);

/// Waits that long.
pub async fn sleep(span: Duration) {
    Timer::after(span).await;
}

/// Ticks at once, and then each `period`.
#[must_use]
pub fn interval(period: Duration) -> Interval {
    Interval { next: Instant::now(), period }
}

/// Ticks that are `period` apart. A tick that is late puts the others off (tokio's
/// `MissedTickBehavior::Delay`): after a stall a node must not send all at once what it missed,
/// as the others would then take it for one that beats faster.
#[derive(Debug)]
pub struct Interval {
    next: Instant,
    period: Duration,
}

impl Interval {
    /// Waits for the next tick. May be dropped while it waits; the tick is not lost then.
    pub async fn tick(&mut self) -> Instant {
        let due = self.next;
        if Instant::now() < due {
            Timer::at(due).await;
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(due) > LATE;
        self.next = if late { now } else { due } + self.period;
        due
    }
}
