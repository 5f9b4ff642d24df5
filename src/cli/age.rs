//! Times of the Engine API as ages and dates for people.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::base::duration::human_duration;

/// Microseconds since 1970 of an RFC 3339 time; nothing for a time that is not set.
#[must_use]
pub fn micros(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `5 minutes ago`, seen from `now` in seconds since 1970.
#[must_use]
pub fn ago(time: &str, now: u64) -> String {
    match micros(time).and_then(|micros| u64::try_from(micros / 1_000_000).ok()) {
        Some(secs) => format!("{} ago", human_duration(now.saturating_sub(secs))),
        None => String::new(),
    }
}

/// `2026-11-22 10:21:42.297617547 +0000 utc`, as `node inspect --pretty` prints it.
#[must_use]
pub fn date(time: &str) -> String {
    time.trim_end_matches('Z').replacen('T', " ", 1) + " +0000 utc"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_counted_from_now() {
        assert_eq!(ago("1970-01-01T00:01:00.5Z", 180), "2 minutes ago");
        assert_eq!(ago("1970-01-01T00:01:00Z", 0), "Less than a second ago");
        assert_eq!(ago("", 5), "");
        assert_eq!(date("2026-11-22T10:21:42.29Z"), "2026-11-22 10:21:42.29 +0000 utc");
    }
}
