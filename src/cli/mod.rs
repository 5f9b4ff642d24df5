//! The command line: reads arguments, asks the daemon through its socket, prints what Docker prints.
//!
//! It talks to the daemon by the Engine API only and keeps no state of its own. One thread. What
//! reaches outside that (starting a daemon, being one) comes in as [`Hooks`].

pub mod absent;
pub mod age;
pub mod args;
pub mod argv;
pub mod body;
pub mod client;
pub mod context;
pub mod error;
pub mod format;
pub mod help;
pub mod image;
pub mod node;
pub mod parse;
pub mod pull_progress;
pub mod query;
pub mod service;
pub mod swarm;
pub mod system;
pub mod table;
pub mod tasks;
pub mod template;
pub mod template_functions;
pub mod unlock;
pub mod volume;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use argh::{ArgsInfo, FromArgs};

use args::{Command, Skep};
use argv::Stop;
use context::{Context, columns, error_line};
pub use error::CliError;

/// Where the daemon listens when nothing says otherwise.
pub const DEFAULT_HOST: &str = "unix:///run/skep/skep.sock";

/// What the demo's machines are named after when nothing says otherwise.
const DEMO_NAME: &str = "skep-demo";

/// The environment variable that names the daemon's socket.
pub const HOST_VARIABLE: &str = "SKEP_HOST";

/// What the command line cannot do itself.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// Starts a daemon and waits until it answers; an error says why it did not.
    pub start_daemon: fn(&StartOptions) -> Result<(), String>,
    /// Whether addresses to advertise and to listen at, each empty when none was given, are such;
    /// an error says why not.
    pub check_addresses: fn(&str, &str) -> Result<(), String>,
    /// Whether the machine is on its way down, as far as its service manager says.
    pub is_stopping: fn() -> bool,
    /// Is the daemon until it ends; gets the arguments behind `daemon` untouched.
    pub run_daemon: fn(Vec<String>) -> ExitCode,
    /// Shows the demo of this name, or removes what is left of it.
    pub run_demo: fn(&str, bool) -> ExitCode,
}

/// How `init` wants its daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOptions {
    /// The socket, as `unix:///run/skep/skep.sock`.
    pub host: String,
    /// The directory of the persistent state; the daemon's default when absent.
    pub data_root: Option<PathBuf>,
    /// The directory of the volatile state; the daemon's default when absent.
    pub exec_root: Option<PathBuf>,
}

/// Refuses an argument that is not UTF-8: Docker's API is JSON and could not carry it.
#[must_use]
pub fn refuse_argument(arg: &std::ffi::OsStr) -> ExitCode {
    eprintln!("skep: the argument {arg:?} is not UTF-8 text");
    ExitCode::from(125)
}

/// Runs one command; `args` do not hold the program's name.
pub fn run(args: Vec<String>, hooks: Hooks) -> ExitCode {
    let invocation = match argv::normalise(Skep::get_args_info(), &args) {
        Ok(invocation) => invocation,
        Err(stop) => return tell(stop),
    };
    let words: Vec<&str> = invocation.args.iter().map(String::as_str).collect();
    let skep = match Skep::from_args(&["skep"], &words) {
        Ok(skep) => skep,
        Err(exit) => return fail(&CliError::Plain(exit.output.trim_end().to_owned())),
    };
    if let Command::Daemon(daemon) = skep.command {
        return (hooks.run_daemon)(daemon.args);
    }
    if let Command::Demo(demo) = skep.command {
        return (hooks.run_demo)(demo.name.as_deref().unwrap_or(DEMO_NAME), demo.clean);
    }
    match execute(skep, &hooks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn execute(skep: Skep, hooks: &Hooks) -> Result<(), CliError> {
    let given = skep.host.or_else(|| std::env::var(HOST_VARIABLE).ok());
    let host = match given.filter(|host| !host.is_empty()) {
        Some(host) => host,
        None => swarm::default_host(&skep.command)?,
    };
    let mut context = Context::new(&host)?;
    let ctx = &mut context;
    let done = match skep.command {
        Command::Ca(ca) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::Ca(ca),
        }) => swarm::ca(&ca, ctx),
        Command::Daemon(_) | Command::Demo(_) => Ok(()),
        Command::Image(image) => image::run(image.command, ctx),
        Command::Info(info) | Command::System(args::system::System {
            command: args::system::SystemCommand::Info(info),
        }) => system::info(&info, ctx),
        Command::System(args::system::System {
            command: args::system::SystemCommand::Shutdown(shutdown),
        }) => system::shutdown(&shutdown, ctx, hooks),
        Command::Init(init) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::Init(init),
        }) => swarm::init(init, ctx, hooks),
        Command::Join(join) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::Join(join),
        }) => swarm::join(join, ctx, hooks),
        Command::JoinToken(token) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::JoinToken(token),
        }) => swarm::join_token(&token, ctx),
        Command::Leave(leave) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::Leave(leave),
        }) => swarm::leave(&leave, ctx),
        Command::Unlock(_) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::Unlock(_),
        }) => unlock::unlock(ctx),
        Command::UnlockKey(key) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::UnlockKey(key),
        }) => unlock::unlock_key(&key, ctx),
        Command::Update(update) | Command::Swarm(args::swarm::Swarm {
            command: args::swarm::SwarmCommand::Update(update),
        }) => unlock::update(&update, ctx),
        Command::Load(load) => image::load(&load, ctx),
        Command::Node(node) => node::run(node.command, ctx),
        Command::Pull(pull) => image::pull(&pull, ctx),
        Command::Service(service) => service::run(service.command, ctx),
        Command::Version(version) => system::version(&version, ctx),
        Command::Volume(volume) => volume::run(volume.command, ctx),
    };
    // What a failed command printed is shown before its error.
    let flushed = context.flush();
    done.and(flushed)
}

/// Tells why no command ran, in Docker's layout and with its exit code.
fn tell(stop: Stop) -> ExitCode {
    let (text, code) = explain(&stop, columns());
    if code == 0 && !matches!(stop, Stop::Group(_)) {
        return printed(&text);
    }
    match error_line(text.trim_end()) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::FAILURE,
    }
}

/// The text and the exit code; with code 0 the text is what was asked for.
fn explain(stop: &Stop, columns: usize) -> (String, u8) {
    match stop {
        Stop::Help(place) | Stop::Group(place) => (help::text(place, columns), 0),
        Stop::Version => (format!("skep version {}\n", env!("CARGO_PKG_VERSION")), 0),
        Stop::Flag(place, why, near) => {
            let near = near.as_ref().map(|near| format!("Did you mean {near}?\n"));
            let near = near.unwrap_or_default();
            (format!("{why}\n{near}See '{} --help'.", help::command(place)), 125)
        }
        Stop::Rule(why) => (why.clone(), 1),
        Stop::Absent(command) => {
            (format!("skep: '{command}' is a command of Docker that skep does not have yet"), 1)
        }
        Stop::Count(place, why) => {
            let (command, usage) = (help::command(place), help::usage(place));
            let what = place.info.description;
            (format!("{why}\nSee '{command} --help'.\n\n{usage}\n\n{what}"), 1)
        }
        Stop::Unknown(place, word, near) => {
            let command = help::command(place);
            let near = near.as_ref().map(|near| format!("Did you mean '{near}'?\n"));
            let near = near.unwrap_or_default();
            (format!("skep: unknown command: {command} {word}\n{near}See '{command} --help'."), 1)
        }
    }
}

fn printed(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&CliError::Output(error)),
    }
}

/// Prints an error once. A reader that went away is no error.
fn fail(error: &CliError) -> ExitCode {
    if let CliError::Output(source) = error
        && source.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    let told = match error {
        CliError::Told => Ok(()),
        error => error_line(&error.to_string()),
    };
    match told {
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests;
