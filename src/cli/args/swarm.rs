//! `init`, `leave` and their Docker names below `swarm`.

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
    Init(Init),
    Leave(Leave),
}

/// Initialize a swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "init")]
pub struct Init {
    /// advertised address (format: "<ip|interface>[:port]")
    #[argh(option, arg_name = "string")]
    pub advertise_addr: Option<String>,
    /// availability of the node ("active", "pause", "drain") (default "active")
    #[argh(option, arg_name = "string")]
    pub availability: Option<String>,
    /// directory of the daemon's persistent state, when init starts it (default "/var/lib/skep")
    #[argh(option, arg_name = "string")]
    pub data_root: Option<String>,
    /// directory of the daemon's volatile state, when init starts it (default "/run/skep")
    #[argh(option, arg_name = "string")]
    pub exec_root: Option<String>,
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

/// Leave the swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "leave")]
pub struct Leave {
    /// force this node to leave the swarm, ignoring warnings
    #[argh(switch, short = 'f')]
    pub force: bool,
}
