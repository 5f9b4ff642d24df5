//! Docker's human forms of sizes, CPUs, durations and ages, read and printed byte for byte as
//! `go-units` and Go's `time.Duration` do.
//!
//! Error texts are Docker's: they reach the user behind `invalid argument "…" for "--flag" flag:`.

/// The text is not a number, size, CPU count or duration; says so in Docker's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    /// No digit at all, or a negative size.
    #[error("invalid size: '{0}'")]
    Size(String),
    /// Something that is not a unit follows the number.
    #[error("invalid suffix: '{0}'")]
    Suffix(String),
    /// A size that does not fit into 63 bits.
    #[error("size out of range: '{0}'")]
    SizeRange(String),
    /// Not a number; names Go's function as Docker does.
    #[error("strconv.{function}: parsing \"{text}\": {why}")]
    Number {
        /// Go's name of the conversion.
        function: &'static str,
        /// What was given.
        text: String,
        /// `invalid syntax` or `value out of range`.
        why: &'static str,
    },
    /// Not a count of CPUs.
    #[error("failed to parse {0} as a rational number")]
    Cpus(String),
    /// More than nine decimal places of a CPU.
    #[error("value is too precise")]
    TooPrecise,
    /// Not a duration.
    #[error("time: invalid duration \"{0}\"")]
    Duration(String),
    /// A number without its unit.
    #[error("time: missing unit in duration \"{0}\"")]
    MissingUnit(String),
    /// A unit that Go does not know.
    #[error("time: unknown unit \"{unit}\" in duration \"{text}\"")]
    UnknownUnit {
        /// The unknown unit.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// A duration below zero where only positive ones make sense.
    #[error("duration cannot be negative")]
    NegativeDuration,
}

const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size in powers of 1000 with four significant digits: `1.234MB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &DECIMAL)
}

/// A size in powers of 1000 with three significant digits, as `image ls` prints it: `133MB`.
#[must_use]
pub fn human_size_3(bytes: u64) -> String {
    scaled_digits(bytes, 1000.0, &DECIMAL, 3)
}

/// A size in powers of 1024 with four significant digits: `23.54GiB`.
#[must_use]
pub fn bytes_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &BINARY)
}

fn scaled(bytes: u64, base: f64, units: &[&str; 7]) -> String {
    scaled_digits(bytes, base, units, 4)
}

#[allow(clippy::cast_precision_loss, reason = "shown with at most four digits")]
fn scaled_digits(bytes: u64, base: f64, units: &[&str; 7], digits: usize) -> String {
    let mut value = bytes as f64;
    let mut at = 0;
    while value >= base && at + 1 < units.len() {
        value /= base;
        at += 1;
    }
    format!("{}{}", significant(value, digits), units[at])
}

/// Go's `%.Ng` for numbers from 0 up to 9999.
fn significant(value: f64, digits: usize) -> String {
    let scientific = format!("{value:.*e}", digits - 1);
    let exponent: usize =
        scientific.split_once('e').and_then(|(_, exp)| exp.parse().ok()).unwrap_or(0);
    if exponent >= digits {
        let (mantissa, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return format!("{}e+{exponent:02}", trim_zeros(mantissa));
    }
    trim_zeros(&format!("{value:.*}", digits - 1 - exponent)).to_owned()
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// Reads `512m`, `1.5g`, `64KiB`, `4096`: powers of 1024, as `--limit-memory` does.
pub fn parse_ram(text: &str) -> Result<i64, BadUnit> {
    parse_size(text, 1024.0)
}

#[allow(clippy::cast_possible_truncation, reason = "the range is checked just before")]
fn parse_size(text: &str, base: f64) -> Result<i64, BadUnit> {
    let numeric = |c: char| c.is_ascii_digit() || c == '.' || c == ' ';
    let Some(sep) = text.rfind(numeric) else {
        return Err(BadUnit::Size(text.to_owned()));
    };
    let suffix = text[sep + 1..].to_ascii_lowercase();
    let number = if text.as_bytes()[sep] == b' ' { &text[..sep] } else { &text[..=sep] };
    let value = parse_float(number)?;
    if value < 0.0 {
        return Err(BadUnit::Size(text.to_owned()));
    }
    let power = match suffix.chars().next() {
        None | Some('b') if suffix.len() <= 1 => 0,
        Some(unit) => match "kmgtp".find(unit) {
            Some(at) if matches!(&suffix[1..], "" | "b" | "ib") => at + 1,
            _ => return Err(BadUnit::Suffix(suffix)),
        },
        None => 0,
    };
    let bytes = (0..power).fold(value, |value, _| value * base);
    if bytes >= 9.223_372_036_854_775e18 {
        return Err(BadUnit::SizeRange(text.to_owned()));
    }
    Ok(bytes as i64)
}

/// Reads a floating point number with Go's error text.
pub fn parse_float(text: &str) -> Result<f64, BadUnit> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    match text.parse::<f64>() {
        Ok(value) if plain && value.is_finite() => Ok(value),
        Ok(value) if plain && value.is_infinite() => {
            Err(number_error("ParseFloat", text, "value out of range"))
        }
        _ => Err(number_error("ParseFloat", text, "invalid syntax")),
    }
}

fn number_error(function: &'static str, text: &str, why: &'static str) -> BadUnit {
    BadUnit::Number { function, text: text.to_owned(), why }
}

/// Reads an unsigned number as Go's `ParseUint(text, 0, 64)`: also `0x1f`, `0o17`, `017`, `0b1`.
pub fn parse_uint(text: &str) -> Result<u64, BadUnit> {
    parse_radix(text, text, "ParseUint")
}

/// Reads a signed number as Go's `ParseInt(text, 0, 64)`.
pub fn parse_int(text: &str) -> Result<i64, BadUnit> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let size = parse_radix(digits, text, "ParseInt")?;
    let value = if negative { -i128::from(size) } else { i128::from(size) };
    i64::try_from(value).map_err(|_why| number_error("ParseInt", text, "value out of range"))
}

fn parse_radix(digits: &str, text: &str, function: &'static str) -> Result<u64, BadUnit> {
    use std::num::IntErrorKind;
    let lower = digits.to_ascii_lowercase();
    let (radix, rest) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if rest.starts_with(['+', '-']) {
        return Err(number_error(function, text, "invalid syntax"));
    }
    u64::from_str_radix(rest, radix).map_err(|error| {
        let range = *error.kind() == IntErrorKind::PosOverflow;
        let why = if range { "value out of range" } else { "invalid syntax" };
        number_error(function, text, why)
    })
}

/// Nanoseconds of CPU time per second in one CPU.
pub const NANO_CPUS: i64 = 1_000_000_000;

/// Reads a decimal or fraction of CPUs, `0.5`, `1e-1` or `1/4`, into nano-CPUs, exactly.
pub fn parse_cpus(text: &str) -> Result<i64, BadUnit> {
    let bad = || BadUnit::Cpus(text.to_owned());
    let (numerator, denominator) = match text.split_once('/') {
        Some((above, below)) => (rational(above).ok_or_else(bad)?, plain(below).ok_or_else(bad)?),
        None => (rational(text).ok_or_else(bad)?, 1),
    };
    let (digits, places) = numerator;
    let mut above = digits.checked_mul(i128::from(NANO_CPUS)).ok_or_else(bad)?;
    let mut below = denominator;
    let scale = 10i128.checked_pow(places.unsigned_abs()).ok_or_else(bad)?;
    if places > 0 {
        below = below.checked_mul(scale).ok_or_else(bad)?;
    } else {
        above = above.checked_mul(scale).ok_or_else(bad)?;
    }
    if below == 0 {
        return Err(bad());
    }
    if above % below != 0 {
        return Err(BadUnit::TooPrecise);
    }
    i64::try_from(above / below).map_err(|_why| bad())
}

fn plain(text: &str) -> Option<i128> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// All digits as one number, and how many of them stand behind the point.
fn rational(text: &str) -> Option<(i128, i32)> {
    let lower = text.to_ascii_lowercase();
    let (mantissa, exponent) = match lower.split_once('e') {
        Some((mantissa, exp)) => (mantissa.to_owned(), exp.parse::<i32>().ok()?),
        None => (lower, 0),
    };
    let unsigned = mantissa.strip_prefix(['+', '-']).unwrap_or(&mantissa);
    let (whole, part) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let value = plain(&format!("{whole}{part}"))?;
    let signed = if mantissa.starts_with('-') { -value } else { value };
    let places = i32::try_from(part.len()).ok()?.checked_sub(exponent)?;
    Some((signed, places))
}

/// Nano-CPUs as a decimal without needless zeros: `0.5`.
#[must_use]
pub fn format_cpus(nanos: i64) -> String {
    let (whole, part) = (nanos / NANO_CPUS, nanos % NANO_CPUS);
    trim_zeros(&format!("{whole}.{:09}", part.abs())).to_owned()
}

#[cfg(test)]
#[path = "units_tests.rs"]
mod tests;
