//! Picks the face of the one binary: command line, daemon, proxy, shim, init or hello.

use std::process::ExitCode;

use skep::cli::{self, Hooks, StartOptions};

fn main() -> ExitCode {
    // Before anything else: these two come up once for each container.
    let mut raw = std::env::args_os();
    let name = raw.next().unwrap_or_default();
    if std::path::Path::new(&name).file_name().is_some_and(|name| name == "docker-init") {
        return skep::shim::init::run(raw);
    }
    if raw.next().is_some_and(|face| face == "shim") {
        return skep::shim::run(raw);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&"proxy", rest)) => skep::proxy::run(rest),
        Some((&"hello", _)) => skep::hello::run(),
        _ => cli::run(arguments, Hooks { start_daemon, run_daemon }),
    }
}

fn start_daemon(_options: &StartOptions) -> Result<(), String> {
    Err("this build has no daemon yet".to_owned())
}

fn run_daemon(_arguments: Vec<String>) -> ExitCode {
    ExitCode::FAILURE
}
