//! Picks the face of the one binary: command line, daemon, proxy, shim or hello.

use std::process::ExitCode;

use skep::cli::{self, Hooks, StartOptions};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&"proxy", rest)) => skep::proxy::run(rest),
        _ => cli::run(arguments, Hooks { start_daemon, run_daemon }),
    }
}

fn start_daemon(_options: &StartOptions) -> Result<(), String> {
    Err("this build has no daemon yet".to_owned())
}

fn run_daemon(_arguments: Vec<String>) -> ExitCode {
    ExitCode::FAILURE
}
