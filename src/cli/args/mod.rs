//! The command tree: every command and flag, declared once. `argv` and `help` read this table.
//!
//! A command's `note` is the form of its arguments as the usage line shows it; how many arguments
//! are needed follows from it. The `arg_name` of a flag is the kind of its value, which decides how
//! it is checked (`parse::check`).

pub mod create;
pub mod image;
pub mod node;
pub mod service;
pub mod swarm;
pub mod system;
pub mod update;
pub mod volume;

use argh::{ArgsInfo, FromArgs};

/// Docker swarm mode in one small static binary
#[derive(Debug, FromArgs, ArgsInfo)]
pub struct Skep {
    /// daemon socket to connect to (default "unix:///run/skep/skep.sock")
    #[argh(option, arg_name = "string", short = 'H')]
    pub host: Option<String>,
    #[argh(subcommand)]
    /// the command
    pub command: Command,
}

/// The top level.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(missing_docs, reason = "each variant carries the documented arguments of one command")]
#[allow(clippy::large_enum_variant, reason = "one value per run; argh cannot box")]
pub enum Command {
    Ca(swarm::Ca),
    Daemon(system::Daemon),
    Demo(system::Demo),
    Image(image::Image),
    Info(system::Info),
    Init(swarm::Init),
    Join(swarm::Join),
    JoinToken(swarm::JoinToken),
    Leave(swarm::Leave),
    Load(image::Load),
    Node(node::Node),
    Pull(image::Pull),
    Service(service::Service),
    Swarm(swarm::Swarm),
    System(system::System),
    Unlock(swarm::Unlock),
    UnlockKey(swarm::UnlockKey),
    Update(swarm::Update),
    Version(system::Version),
    Volume(volume::Volume),
}
