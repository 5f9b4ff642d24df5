//! `info`, `version`, `system` and `daemon`.

use argh::{ArgsInfo, FromArgs};

/// Start the daemon in the foreground
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "daemon", note = "[ARG...]")]
pub struct Daemon {
    /// what the daemon reads itself
    #[argh(positional, greedy)]
    pub args: Vec<String>,
}

/// Show a swarm of three machines on this one
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "demo")]
pub struct Demo {
    /// remove the demo's machines and all that is theirs
    #[argh(switch)]
    pub clean: bool,
    /// what the machines are named after (default "skep-demo")
    #[argh(option, arg_name = "string")]
    pub name: Option<String>,
}

/// Manage skep
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "system")]
pub struct System {
    #[argh(subcommand)]
    /// the command
    pub command: SystemCommand,
}

/// Below `system`.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(missing_docs, reason = "each variant carries the documented arguments of one command")]
pub enum SystemCommand {
    Info(Info),
    Shutdown(Shutdown),
}

/// Stop this machine's containers and have them replaced, before the machine goes down
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "shutdown")]
pub struct Shutdown {
    /// only where systemd says that the system is stopping; else do nothing
    #[argh(switch)]
    pub if_stopping: bool,
}

/// Display system-wide information
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "info")]
pub struct Info {
    /// format output using a Go template, or "json"
    #[argh(option, arg_name = "string", short = 'f')]
    pub format: Option<String>,
}

/// Show the version information
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "version")]
pub struct Version {
    /// format output using a Go template, or "json"
    #[argh(option, arg_name = "string", short = 'f')]
    pub format: Option<String>,
}
