//! Picks the face of the one binary: command line, daemon, proxy, shim or hello.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.split_first() {
        Some((&"proxy", rest)) => skep::proxy::run(rest),
        _ => ExitCode::FAILURE,
    }
}
