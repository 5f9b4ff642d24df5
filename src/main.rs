//! Picks the face of the one binary: command line, daemon, proxy, shim, init or hello.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use skep::base::chain;
use skep::cli::{self, Hooks, StartOptions};
use skep::daemon::handle::Handle;
use skep::daemon::{Fatal, StopApi};
use skep::host::address;
use skep::host::start::{self, DaemonOptions};
use skep::host::systemd;

fn main() -> ExitCode {
    // Before anything else: these two come up once for each container.
    let mut raw = std::env::args_os();
    let name = raw.next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == "docker-init") {
        return skep::shim::init::run(raw);
    }
    let raw: Vec<OsString> = raw.collect();
    if let [face, flag, ..] = raw.as_slice()
        && (flag == "--help" || flag == "-h")
        && let Some(usage) = usage(face)
    {
        return printed(usage);
    }
    if raw.first().is_some_and(|face| face == "shim") {
        return skep::shim::run(raw.into_iter().skip(1));
    }
    let mut args = Vec::new();
    for arg in raw {
        match arg.into_string() {
            Ok(arg) => args.push(arg),
            Err(arg) => return cli::refuse_argument(&arg),
        }
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.split_first() {
        Some((&"proxy", rest)) => skep::proxy::run(rest),
        Some((&"hello", _)) => skep::hello::run(),
        Some(_) | None => {
            let is_stopping = systemd::is_stopping;
            let run_demo = skep::demo::run;
            let hooks = Hooks { start_daemon, check_addresses, is_stopping, run_daemon, run_demo };
            cli::run(args, hooks)
        }
    }
}

/// What the faces are that nobody starts by hand.
fn usage(face: &OsStr) -> Option<&'static str> {
    match face.to_str()? {
        "shim" => Some(
            "Usage:  skep shim FOLDER

Keep one container's output and its end. The daemon starts one for each container; nobody else does.
",
        ),
        "hello" => Some(
            "Usage:  skep hello

Be the web server of the image skep/hello: tells on every path who answers.

Environment:
  PORT   Port to listen on (default 80)
",
        ),
        _ => None,
    }
}

fn printed(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
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

fn check_addresses(advertise: &str, listen: &str) -> Result<(), String> {
    address::choose(advertise, listen).map(drop)
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
