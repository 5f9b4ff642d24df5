//! Docker's flag syntaxes as pure functions from text to the shapes of the Engine API.
//!
//! Each error text is what Docker prints behind `invalid argument "…" for "--flag" flag:`. No file,
//! environment or socket is looked at here.

pub mod csv;
pub mod device;
pub mod mount;
pub mod network;
pub mod port;
pub mod value;
pub mod words;

use argh::{FlagInfo, FlagInfoKind};

/// Checks the value of one flag before argh sees it, so that the error can name the flag as Docker
/// does. Lists are told apart by the flag's name, everything else by the kind of value.
pub fn check(flag: &FlagInfo<'_>, text: &str) -> Result<(), String> {
    let FlagInfoKind::Option { arg_name } = flag.kind else {
        return value::boolean(text).map(drop);
    };
    match (arg_name, flag.long.trim_start_matches('-')) {
        ("list", "env" | "env-add" | "log-opt") => value::env(text).map(drop),
        ("list", "label" | "label-add" | "container-label" | "container-label-add") => {
            value::label(text)
        }
        ("list", "host" | "host-add") => value::host(text).map(drop),
        ("list", "dns" | "dns-add") => value::ip(text),
        ("list", "dns-search" | "dns-search-add") => value::domain(text),
        ("bool", _) => value::boolean(text).map(drop),
        ("uint", _) => value::uint(text).map(drop),
        ("int", _) => value::int(text).map(drop),
        ("float", _) => value::float(text).map(drop),
        ("duration", _) => value::duration(text).map(drop),
        ("decimal", _) => value::cpus(text).map(drop),
        ("bytes", _) => value::bytes(text).map(drop),
        ("ulimit", _) => value::ulimit(text).map(drop),
        ("filter", _) => value::filter(text).map(drop),
        ("pref", _) => value::preference(text).map(drop),
        ("command", _) => words::parse(text).map(drop),
        ("port", "publish-rm") => port::parse_removal(text).map(drop),
        ("port", _) => port::parse(text).map(drop),
        ("mount", _) => mount::parse(text).map(drop),
        ("network", _) => network::parse(text).map(drop),
        ("device", _) => device::parse(text).map(drop),
        _ => Ok(()),
    }
}
