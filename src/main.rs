//! Picks the face of the one binary: command line, daemon, proxy, shim, init or hello.

use std::path::Path;
use std::process::ExitCode;

use skep::base::chain;
use skep::cli::{self, Hooks, StartOptions};
use skep::daemon::handle::Handle;
use skep::daemon::{Fatal, StopApi};
use skep::host::start::{self, DaemonOptions};

fn main() -> ExitCode {
    // Before anything else: these two come up once for each container.
    let mut raw = std::env::args_os();
    let name = raw.next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "docker-init") {
        return skep::shim::init::run(raw);
    }
    if raw.next().is_some_and(|face| face == "shim") {
        return skep::shim::run(raw);
    }
    let mut args = Vec::new();
    for arg in std::env::args_os().skip(1) {
        match arg.into_string() {
            Ok(arg) => args.push(arg),
            Err(arg) => return cli::refuse_argument(&arg),
        }
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&"proxy", rest)) => skep::proxy::run(rest),
        Some((&"hello", _)) => skep::hello::run(),
        Some(_) | None => cli::run(args, Hooks { start_daemon, run_daemon }),
    }
}

fn run_daemon(args: Vec<String>) -> ExitCode {
    skep::daemon::run(&args, start_api)
}

fn start_daemon(options: &StartOptions) -> Result<(), String> {
    let exe = std::env::current_exe()
        .map_err(|err| format!("cannot tell which program this is: {err}"))?;
    let options = DaemonOptions {
        exe,
        host: options.host.clone(),
        data_root: options.data_root.clone(),
        exec_root: options.exec_root.clone(),
    };
    start::start_daemon(&options).map_err(|err| chain::text(&err))
}

fn start_api(handle: Handle, socket: &Path, internal: &Path) -> Result<StopApi, Fatal> {
    let config = skep::api::Config {
        socket: socket.to_owned(),
        internal: internal.to_owned(),
        limits: skep::api::front::Limits::default(),
    };
    let running = skep::api::start(config, Box::new(handle))
        .map_err(|err| Fatal::new(format!("cannot serve the API on {}", socket.display()), err))?;
    Ok(Box::new(|| running.stop()))
}
