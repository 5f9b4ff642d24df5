//! Points in time and spans, as plain numbers that come in as arguments.
//!
//! [`Time`] is monotonic and means nothing after a reboot; [`Wall`] is what people read and may
//! jump. Nothing here asks a clock: `host::clock` does.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A monotonic point in time: microseconds since an origin that one process run agrees on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// A length of time in microseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Span(pub u64);

/// Wall-clock time: microseconds since 1970-01-01T00:00:00Z. Never decides anything by itself.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Wall(pub u64);

/// Both clocks, read once per turn of an event loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What deadlines are compared with.
    pub mono: Time,
    /// What people are shown.
    pub wall: Wall,
}

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of whole milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// From Docker's nanoseconds, rounded up so that a non-zero delay stays one.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos.div_ceil(1_000))
    }

    /// Docker's nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.saturating_mul(1_000)
    }

    /// As the standard library's type, for calls that wait.
    #[must_use]
    pub const fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0)
    }
}

impl Time {
    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Span> for Time {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Time {
    type Output = Self;
    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Wall {
    /// RFC 3339 in UTC, as Go writes it and the Engine API shows it: without zeros at the end of the
    /// fraction. `{:#}` keeps all six digits, for columns.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, micros) = (self.0 / 1_000_000, self.0 % 1_000_000);
        let (days, rest) = (secs / 86_400, secs % 86_400);
        let (year, month, day) = civil(days);
        let (h, m, s) = (rest / 3_600, rest / 60 % 60, rest % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}")?;
        let (mut digits, mut width) = (micros, 6);
        while !f.alternate() && width > 0 && digits % 10 == 0 {
            (digits, width) = (digits / 10, width - 1);
        }
        if width == 0 { f.write_str("Z") } else { write!(f, ".{digits:0width$}Z") }
    }
}

/// Year, month and day of a count of days since 1970-01-01 (Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms", `civil_from_days`).
const fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + (month <= 2) as u64, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_prints_rfc3339() {
        assert_eq!(Wall(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(format!("{:#}", Wall(0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Wall(100).to_string(), "1970-01-01T00:00:00.0001Z");
        assert_eq!(Wall(951_782_400_000_001).to_string(), "2000-02-29T00:00:00.000001Z");
        assert_eq!(Wall(1_795_343_445_500_000).to_string(), "2026-11-22T10:30:45.5Z");
    }

    #[test]
    fn a_short_delay_is_not_lost() {
        assert_eq!(Span::from_nanos(1), Span(1));
        assert_eq!(Time(5).since(Time(9)), Span::ZERO);
    }
}
