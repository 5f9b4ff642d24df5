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

/// Microseconds since 1970.
#[must_use]
pub fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// `5 minutes ago`, seen from `now` in microseconds since 1970: whole seconds would make an age
/// up to a second older than Docker tells it.
#[must_use]
pub fn ago(time: &str, now: i64) -> String {
    match micros(time).filter(|micros| *micros >= 0) {
        Some(micros) => {
            let seconds = now.saturating_sub(micros).max(0).unsigned_abs() / 1_000_000;
            format!("{} ago", human_duration(seconds))
        }
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
        assert_eq!(ago("1970-01-01T00:01:00.5Z", 180_500_000), "2 minutes ago");
        assert_eq!(ago("1970-01-01T00:01:00Z", 0), "Less than a second ago");
        assert_eq!(ago("1970-01-01T00:00:01.9Z", 11_800_000), "9 seconds ago");
        assert_eq!(ago("", 5), "");
        assert_eq!(date("2026-11-22T10:21:42.29Z"), "2026-11-22 10:21:42.29 +0000 utc");
    }
}
