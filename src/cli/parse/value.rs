//! The small syntaxes: numbers, sizes, durations, booleans, `K=V` lists, hosts, ulimits, filters.

use std::net::IpAddr;

use crate::base::{duration, units};
use crate::model::engine::container_spec::Ulimit;

/// `key=value` of `--filter`.
pub type Filter = (String, String);

/// An unsigned number.
pub fn uint(text: &str) -> Result<u64, String> {
    units::parse_uint(text).map_err(|e| e.to_string())
}

/// A signed number.
pub fn int(text: &str) -> Result<i64, String> {
    units::parse_int(text).map_err(|e| e.to_string())
}

/// A floating point number.
pub fn float(text: &str) -> Result<f64, String> {
    units::parse_float(text).map_err(|e| e.to_string())
}

/// A duration in nanoseconds, not below zero.
pub fn duration(text: &str) -> Result<i64, String> {
    duration::parse_positive_duration(text).map_err(|e| e.to_string())
}

/// Nano-CPUs.
pub fn cpus(text: &str) -> Result<i64, String> {
    units::parse_cpus(text).map_err(|e| e.to_string())
}

/// Bytes.
pub fn bytes(text: &str) -> Result<i64, String> {
    units::parse_ram(text).map_err(|e| e.to_string())
}

/// A truth value as Go's `ParseBool` reads it.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")),
    }
}

/// `K=V`, or `K` alone, whose value the caller takes from the environment.
pub fn env(text: &str) -> Result<(&str, Option<&str>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    if key.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok((key, value))
}

/// A label: a key without blanks, perhaps with a value.
pub fn label(text: &str) -> Result<(), String> {
    let key = text.split('=').next().unwrap_or("");
    let key = key.trim_start_matches([' ', '\t', '\n', '\r']);
    if key.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if key.contains([' ', '\t', '\n', '\r']) {
        return Err(format!("label '{key}' contains whitespaces"));
    }
    Ok(())
}

/// `host:ip` or `host=ip` as host and address.
pub fn host(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = match parts {
        Some((name, address)) if !name.is_empty() && !name.contains(':') => (name, address),
        _ => return Err(format!("bad format for add-host: \"{text}\"")),
    };
    if address == "host-gateway" {
        return Ok((name.to_owned(), address.to_owned()));
    }
    let inner = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let address = inner.unwrap_or(address);
    if ip(address).is_err() {
        return Err(format!("invalid IP address in add-host: \"{address}\""));
    }
    Ok((name.to_owned(), address.trim().to_owned()))
}

/// An IP address.
pub fn ip(text: &str) -> Result<(), String> {
    let parsed = text.trim().parse::<IpAddr>();
    parsed.map(drop).map_err(|_why| format!("IP address is not correctly formatted: {text}"))
}

/// A DNS search domain; `.` switches searching off.
pub fn domain(text: &str) -> Result<(), String> {
    let name = text.trim_matches(' ');
    let labels = name.strip_suffix('.').unwrap_or(name).split('.');
    let label = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let letters = name.bytes().any(|b| b.is_ascii_alphabetic());
    if name == "." || (letters && name.len() < 255 && labels.into_iter().all(label)) {
        Ok(())
    } else {
        Err(format!("{name} is not a valid domain"))
    }
}

const ULIMITS: [&str; 15] = [
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
];

/// `name=soft[:hard]`.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    let Some((name, limits)) = text.split_once('=') else {
        return Err(format!("invalid ulimit argument: {text}"));
    };
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    if hard.contains(':') {
        return Err(format!(
            "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        ));
    }
    let (hard, soft) = (int(hard)?, int(soft)?);
    let rule = "ulimit soft limit must be less than or equal to hard limit";
    if hard != -1 && soft == -1 {
        return Err(format!("{rule}: soft: -1 (unlimited), hard: {hard}"));
    }
    if hard != -1 && soft > hard {
        return Err(format!("{rule}: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), hard, soft })
}

/// `key=value`; the key in lower case.
pub fn filter(text: &str) -> Result<Filter, String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("bad format of filter (expected name=value)".to_owned());
    };
    Ok((key.trim().to_lowercase(), value.trim().to_owned()))
}

/// `spread=node.labels.X` as the descriptor behind `spread=`.
pub fn preference(text: &str) -> Result<String, String> {
    let Some((strategy, descriptor)) = text.split_once('=') else {
        let form = "placement preference must be of the format \"<strategy>=<arg>\"";
        return Err(form.to_owned());
    };
    if strategy != "spread" {
        return Err(format!(
            "unsupported placement preference {strategy} (only spread is supported)"
        ));
    }
    Ok(descriptor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_told_in_dockers_words() {
        for (error, why) in [
            (env("=x").unwrap_err(), "invalid environment variable: =x"),
            (label("=x").unwrap_err(), "invalid label '=x': empty name"),
            (label("a b=x").unwrap_err(), "label 'a b' contains whitespaces"),
            (host("x").unwrap_err(), "bad format for add-host: \"x\""),
            (host("a:b").unwrap_err(), "invalid IP address in add-host: \"b\""),
            (ip("x").unwrap_err(), "IP address is not correctly formatted: x"),
            (domain("!").unwrap_err(), "! is not a valid domain"),
            (boolean("maybe").unwrap_err(), "strconv.ParseBool: parsing \"maybe\": invalid syntax"),
            (ulimit("x").unwrap_err(), "invalid ulimit argument: x"),
            (ulimit("x=1").unwrap_err(), "invalid ulimit type: x"),
            (
                ulimit("nofile=x").unwrap_err(),
                "strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                ulimit("nofile=2:1").unwrap_err(),
                "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
            ),
            (filter("abc").unwrap_err(), "bad format of filter (expected name=value)"),
            (
                preference("x").unwrap_err(),
                "placement preference must be of the format \"<strategy>=<arg>\"",
            ),
        ] {
            assert_eq!(error, why);
        }
    }

    #[test]
    fn good_values_are_taken_apart() {
        assert_eq!(env("A=b=c"), Ok(("A", Some("b=c"))));
        assert_eq!(env("A"), Ok(("A", None)));
        assert_eq!(host("h:::1"), Ok(("h".to_owned(), "::1".to_owned())));
        assert_eq!(host("h=[::1]"), Ok(("h".to_owned(), "::1".to_owned())));
        assert_eq!(host("h:10.0.0.1"), Ok(("h".to_owned(), "10.0.0.1".to_owned())));
        assert_eq!(ulimit("nofile=5").map(|u| (u.soft, u.hard)), Ok((5, 5)));
        assert_eq!(ulimit("core=-1:-1").map(|u| (u.soft, u.hard)), Ok((-1, -1)));
        assert_eq!(filter("Label=a=b"), Ok(("label".to_owned(), "a=b".to_owned())));
        assert_eq!(preference("spread=node.labels.x"), Ok("node.labels.x".to_owned()));
        assert_eq!((domain("."), domain("example.com"), label("a.b=c d")), (Ok(()), Ok(()), Ok(())));
    }
}
