//! The one place that reads clocks: monotonic time for deadlines, wall time for people, and the id
//! of this boot. It never sets one and trusts the wall clock with nothing.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use crate::base::time::{Now, Time, Wall};

/// The kernel's id of this boot: 36 characters, new at each start of the machine.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// When this program was built, in seconds since 1970: what the build says (`SOURCE_DATE_EPOCH`), at
/// least the day of this source. A system clock before it is not set.
const BUILD_SECS: u64 = {
    const SOURCE: u64 = 1_793_491_200;
    let told = match option_env!("SOURCE_DATE_EPOCH") {
        Some(text) => decimal(text.as_bytes()),
        None => 0,
    };
    if told > SOURCE { told } else { SOURCE }
};

/// Clocks whose monotonic origin is the moment this was made. Copies agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts counting.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: wall() }
    }

    /// The monotonic clock.
    #[must_use]
    pub fn mono(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When the monotonic clock shows `at`; now where that is further away than can be told.
    #[must_use]
    pub fn instant(&self, at: Time) -> Instant {
        let at = self.origin.checked_add(Duration::from_micros(at.0));
        at.unwrap_or_else(Instant::now)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The wall clock; 1970 where it is set to something before.
#[must_use]
pub fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    Wall(match OFFSET.get() {
        None => micros,
        Some(path) => {
            let text = fs::read_to_string(path).unwrap_or_default();
            let secs = text.trim().parse::<i64>().unwrap_or(0);
            micros.saturating_add_signed(secs.saturating_mul(1_000_000))
        }
    })
}

/// A file of seconds that the wall clock is ahead by.
static OFFSET: OnceLock<PathBuf> = OnceLock::new();

/// Lets the wall clock of this process be wrong by the seconds in a file, which is read at each look.
/// For tests alone: of all clocks the kernel keeps, a namespace of its own has not that one.
pub fn set_wrong_by(file: PathBuf) {
    // A second file would be another test's.
    if OFFSET.set(file).is_err() {
        log::debug!("the wall clock is wrong by another file already");
    }
}

/// When this program was built.
#[must_use]
pub const fn build() -> Wall {
    Wall(BUILD_SECS * 1_000_000)
}

/// A decimal number; anything else ends the build.
const fn decimal(text: &[u8]) -> u64 {
    let (mut value, mut place) = (0, 0);
    while place < text.len() {
        assert!(text[place].is_ascii_digit(), "SOURCE_DATE_EPOCH is not a number");
        value = value * 10 + (text[place] - b'0') as u64;
        place += 1;
    }
    value
}

/// The id of this boot: what was running under another one is not running.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    fs::read_to_string(BOOT_ID_FILE).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Span;

    #[test]
    fn time_goes_on_and_the_boot_stays() {
        let clock = Clock::new();
        let copy = clock;
        let first = clock.mono();
        assert!(copy.mono() >= first);
        assert!(clock.instant(first) <= Instant::now());
        assert!(clock.instant(first + Span::from_secs(60)) > Instant::now());
        assert!(clock.now().wall > build());
        assert!(build().to_string().as_str() >= "2026-11-01T00:00:00Z");
        assert_eq!(decimal(b"1793491200"), 1_793_491_200);
        assert_eq!(boot_id().unwrap().len(), 36);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
    }
}
