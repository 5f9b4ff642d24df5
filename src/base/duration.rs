//! Go's durations (`1h2m3.5s`) in nanoseconds, and the ages people are shown (`2 minutes`).

use super::units::BadUnit;

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads Go's form of a duration into nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, BadUnit> {
    let bad = || BadUnit::Duration(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let (nanos, after) = one_part(text, rest)?;
        total = total.checked_add(nanos).ok_or_else(bad)?;
        rest = after;
    }
    let signed = if negative { -total } else { total };
    i64::try_from(signed).map_err(|_why| bad())
}

/// The first number with its unit, and what follows it.
fn one_part<'a>(text: &str, rest: &'a str) -> Result<(i128, &'a str), BadUnit> {
    let bad = || BadUnit::Duration(text.to_owned());
    let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (whole, part) = rest[..number_end].split_once('.').unwrap_or((&rest[..number_end], ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') {
        return Err(bad());
    }
    let after = &rest[number_end..];
    let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
    let unit = &after[..unit_end];
    if unit.is_empty() {
        return Err(BadUnit::MissingUnit(text.to_owned()));
    }
    let Some((_, size)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(BadUnit::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
    };
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_why| bad())? };
    let mut nanos = whole.checked_mul(*size).ok_or_else(bad)?;
    let mut scale = *size;
    for digit in part.bytes() {
        scale /= 10;
        nanos += i128::from(digit - b'0') * scale;
    }
    Ok((nanos, &after[unit_end..]))
}

/// Reads a duration that must not be below zero.
pub fn parse_positive_duration(text: &str) -> Result<i64, BadUnit> {
    let nanos = parse_duration(text)?;
    if nanos < 0 { Err(BadUnit::NegativeDuration) } else { Ok(nanos) }
}

/// Prints nanoseconds as Go's `Duration.String` does: `1m30s`, `1.5s`, `200ms`, `0s`.
#[must_use]
pub fn format_duration(nanos: i64) -> String {
    let size = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    if size == 0 {
        return "0s".to_owned();
    }
    if size < 1_000_000_000 {
        let (divisor, unit, places) = match size {
            0..1_000 => (1, "ns", 0),
            1_000..1_000_000 => (1_000, "µs", 3),
            _ => (1_000_000, "ms", 6),
        };
        return format!("{sign}{}{unit}", decimal(size / divisor, size % divisor, places));
    }
    let secs = size / 1_000_000_000;
    let (hours, minutes) = (secs / 3_600, secs / 60 % 60);
    let mut out = sign.to_owned();
    if hours > 0 {
        out.push_str(&format!("{hours}h"));
    }
    if secs >= 60 {
        out.push_str(&format!("{minutes}m"));
    }
    out.push_str(&decimal(secs % 60, size % 1_000_000_000, 9));
    out.push('s');
    out
}

/// `whole.part` with the part's trailing zeros cut.
fn decimal(whole: u64, part: u64, places: usize) -> String {
    if part == 0 {
        return whole.to_string();
    }
    let digits = format!("{part:0places$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

/// An approximate length of time in words, as `go-units` `HumanDuration`: `About a minute`.
#[must_use]
pub fn human_duration(seconds: u64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1_800) / 3_600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1_440) => format!("{} weeks", hours / 24 / 7),
        (.., 1_440..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3_600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_through_gos_form() {
        for (text, nanos, shown) in [
            ("0", 0, "0s"),
            ("5s", 5_000_000_000, "5s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("90m", 5_400_000_000_000, "1h30m0s"),
            ("2160h", 7_776_000_000_000_000, "2160h0m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("200ms", 200_000_000, "200ms"),
            ("1500us", 1_500_000, "1.5ms"),
            ("-3ns", -3, "-3ns"),
            (".5m", 30_000_000_000, "30s"),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
            assert_eq!(format_duration(nanos), shown, "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused_in_gos_words() {
        for (text, why) in [
            ("", "time: invalid duration \"\""),
            ("abc", "time: invalid duration \"abc\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("1s5", "time: missing unit in duration \"1s5\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), why, "{text}");
        }
        assert_eq!(parse_positive_duration("-1s"), Err(BadUnit::NegativeDuration));
    }

    #[test]
    fn ages_are_worded_as_docker_words_them() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3_599, "59 minutes"),
            (3_600, "About an hour"),
            (5_399, "About an hour"),
            (5_400, "2 hours"),
            (47 * 3_600, "47 hours"),
            (48 * 3_600, "2 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (90 * 86_400, "3 months"),
            (731 * 86_400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), words, "{seconds}");
        }
    }
}
