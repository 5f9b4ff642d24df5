//! `ca`, `init`, `join`, `join-token`, `leave`, `unlock`, `unlock-key`, `update` and their Docker names
//! below `swarm`.

use argh::{ArgsInfo, FromArgs};

/// Manage Swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "swarm")]
pub struct Swarm {
    #[argh(subcommand)]
    /// the command
    pub command: SwarmCommand,
}

/// Below `swarm`.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(missing_docs, reason = "each variant carries the documented arguments of one command")]
pub enum SwarmCommand {
    Ca(Ca),
    Init(Init),
    Join(Join),
    JoinToken(JoinToken),
    Leave(Leave),
    Unlock(Unlock),
    UnlockKey(UnlockKey),
    Update(Update),
}

/// Initialize a swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "init")]
pub struct Init {
    /// advertised address (format: "<ip|interface>[:port]")
    #[argh(option, arg_name = "string")]
    pub advertise_addr: Option<String>,
    /// enable manager autolocking (requiring an unlock key to start a stopped manager)
    #[argh(switch)]
    pub autolock: bool,
    /// availability of the node ("active", "pause", "drain") (default "active")
    #[argh(option, arg_name = "string")]
    pub availability: Option<String>,
    /// directory of the daemon's persistent state, when init starts it (default "/var/lib/skep")
    #[argh(option, arg_name = "string")]
    pub data_root: Option<String>,
    /// directory of the daemon's volatile state, when init starts it (default "/run/skep")
    #[argh(option, arg_name = "string")]
    pub exec_root: Option<String>,
    /// validity period for node certificates (ns|us|ms|s|m|h) (default 2160h0m0s)
    #[argh(option, arg_name = "duration", from_str_fn(crate::cli::parse::value::duration))]
    pub cert_expiry: Option<i64>,
    /// create a new cluster from the current state
    #[argh(switch)]
    pub force_new_cluster: bool,
    /// listen address (format: "<ip|interface>[:port]") (default 0.0.0.0:2377)
    #[argh(option, arg_name = "node-addr")]
    pub listen_addr: Option<String>,
    /// task history retention limit (default 5)
    #[argh(option, arg_name = "int", from_str_fn(crate::cli::parse::value::int))]
    pub task_history_limit: Option<i64>,
}

/// Display and rotate the root CA
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "ca")]
pub struct Ca {
    /// validity period for node certificates (ns|us|ms|s|m|h) (default 2160h0m0s)
    #[argh(option, arg_name = "duration", from_str_fn(crate::cli::parse::value::duration))]
    pub cert_expiry: Option<i64>,
    /// exit immediately instead of waiting for the root rotation to converge
    #[argh(switch, short = 'd')]
    pub detach: bool,
    /// suppress progress output
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// rotate the swarm CA
    #[argh(switch)]
    pub rotate: bool,
}

/// Join a swarm as a node and/or manager
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "join", note = "HOST:PORT")]
pub struct Join {
    /// advertised address (format: "<ip|interface>[:port]")
    #[argh(option, arg_name = "string")]
    pub advertise_addr: Option<String>,
    /// availability of the node ("active", "pause", "drain") (default "active")
    #[argh(option, arg_name = "string")]
    pub availability: Option<String>,
    /// directory of the daemon's persistent state, when join starts it (default "/var/lib/skep")
    #[argh(option, arg_name = "string")]
    pub data_root: Option<String>,
    /// directory of the daemon's volatile state, when join starts it (default "/run/skep")
    #[argh(option, arg_name = "string")]
    pub exec_root: Option<String>,
    /// listen address (format: "<ip|interface>[:port]") (default 0.0.0.0:2377)
    #[argh(option, arg_name = "node-addr")]
    pub listen_addr: Option<String>,
    /// keep trying until a manager answers
    #[argh(switch)]
    pub retry: bool,
    /// token for entry into the swarm
    #[argh(option, arg_name = "string")]
    pub token: Option<String>,
    /// file that holds the token
    #[argh(option, arg_name = "string")]
    pub token_file: Option<String>,
    /// the manager
    #[argh(positional)]
    pub manager: String,
}

/// Manage join tokens
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "join-token", note = "(worker|manager)")]
pub struct JoinToken {
    /// only display token
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// rotate join token
    #[argh(switch)]
    pub rotate: bool,
    /// worker or manager
    #[argh(positional)]
    pub role: String,
}

/// Leave the swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "leave")]
pub struct Leave {
    /// force this node to leave the swarm, ignoring warnings
    #[argh(switch, short = 'f')]
    pub force: bool,
}

/// Unlock swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "unlock")]
pub struct Unlock {}

/// Manage the unlock key
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "unlock-key")]
pub struct UnlockKey {
    /// only display token
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// rotate unlock key
    #[argh(switch)]
    pub rotate: bool,
}

/// Update the swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "update")]
pub struct Update {
    /// change manager autolocking setting (true|false)
    #[argh(option, arg_name = "bool", from_str_fn(crate::cli::parse::value::boolean))]
    pub autolock: Option<bool>,
    /// validity period for node certificates (ns|us|ms|s|m|h) (default 2160h0m0s)
    #[argh(option, arg_name = "duration", from_str_fn(crate::cli::parse::value::duration))]
    pub cert_expiry: Option<i64>,
    /// task history retention limit (default 5)
    #[argh(option, arg_name = "int", from_str_fn(crate::cli::parse::value::int))]
    pub task_history_limit: Option<i64>,
}
