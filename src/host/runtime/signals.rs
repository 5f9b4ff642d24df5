//! Names and numbers of signals.

use super::error::RuntimeError;

/// The first and last real-time signal, as programs count them.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// The number of a signal given as `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
///
/// # Errors
/// When there is no such signal.
pub fn number(text: &str) -> Result<i32, RuntimeError> {
    let bad = || RuntimeError::Spec(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|n| (1..=RT_MAX).contains(n)).ok_or_else(bad);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str, from: i32, sign: i32| {
        let offset = if rest.is_empty() { Some(0) } else { rest[1..].parse::<i32>().ok() };
        let number = offset.map(|offset| from + sign * offset);
        number.filter(|n| (RT_MIN..=RT_MAX).contains(n)).ok_or_else(bad)
    };
    match name {
        _ if name.starts_with("RTMIN") && matches!(name.as_bytes().get(5), None | Some(b'+')) => {
            real_time(&name[5..], RT_MIN, 1)
        }
        _ if name.starts_with("RTMAX") && matches!(name.as_bytes().get(5), None | Some(b'-')) => {
            real_time(&name[5..], RT_MAX, -1)
        }
        _ => format!("SIG{name}")
            .parse::<nix::sys::signal::Signal>()
            .map(|signal| signal as i32)
            .map_err(|_einval| bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("SIGRTMAX-4", 60),
            ("SIGQUIT", 3),
        ] {
            assert_eq!(number(text).unwrap(), want, "{text}");
        }
        for bad in ["", "SIG", "0", "65", "-1", "NOPE", "RTMIN+31", "RTMIN-1", "RTMINx", "RTMAX-é"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }
}
