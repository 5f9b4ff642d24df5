//! `node …`.

use argh::{ArgsInfo, FromArgs};

use crate::cli::parse::value::{self, Filter};

/// Manage Swarm nodes
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "node")]
pub struct Node {
    #[argh(subcommand)]
    /// the command
    pub command: NodeCommand,
}

/// Below `node`.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(missing_docs, reason = "each variant carries the documented arguments of one command")]
pub enum NodeCommand {
    Demote(Demote),
    Inspect(Inspect),
    Ls(Ls),
    Promote(Promote),
    Ps(Ps),
    Rm(Rm),
    Update(Update),
}

/// Demote one or more nodes from manager in the swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "demote", note = "NODE [NODE...]")]
pub struct Demote {
    /// the nodes
    #[argh(positional)]
    pub nodes: Vec<String>,
}

/// Promote one or more nodes to manager in the swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "promote", note = "NODE [NODE...]")]
pub struct Promote {
    /// the nodes
    #[argh(positional)]
    pub nodes: Vec<String>,
}

/// Remove one or more nodes from the swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "rm", note = "NODE [NODE...]")]
pub struct Rm {
    /// force remove a node from the swarm
    #[argh(switch, short = 'f')]
    pub force: bool,
    /// the nodes
    #[argh(positional)]
    pub nodes: Vec<String>,
}

/// Update a node
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "update", note = "NODE")]
pub struct Update {
    /// availability of the node ("active", "pause", "drain")
    #[argh(option, arg_name = "string")]
    pub availability: Option<String>,
    /// add or update a node label (key=value)
    #[argh(option, arg_name = "list")]
    pub label_add: Vec<String>,
    /// remove a node label if exists
    #[argh(option, arg_name = "list")]
    pub label_rm: Vec<String>,
    /// role of the node ("worker", "manager")
    #[argh(option, arg_name = "string")]
    pub role: Option<String>,
    /// the node
    #[argh(positional)]
    pub node: String,
}

/// Display detailed information on one or more nodes
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "inspect", note = "self|NODE [NODE...]")]
pub struct Inspect {
    /// format output using a Go template, or "json"
    #[argh(option, arg_name = "string", short = 'f')]
    pub format: Option<String>,
    /// print the information in a human friendly format
    #[argh(switch)]
    pub pretty: bool,
    /// the nodes
    #[argh(positional)]
    pub nodes: Vec<String>,
}

/// List nodes in the swarm
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "ls")]
pub struct Ls {
    /// filter output based on conditions provided
    #[argh(option, arg_name = "filter", from_str_fn(value::filter), short = 'f')]
    pub filter: Vec<Filter>,
    /// format output: "table", "table TEMPLATE", "json" or a Go template
    #[argh(option, arg_name = "string")]
    pub format: Option<String>,
    /// only display IDs
    #[argh(switch, short = 'q')]
    pub quiet: bool,
}

/// List tasks running on one or more nodes, defaults to current node
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "ps", note = "[NODE...]")]
pub struct Ps {
    /// filter output based on conditions provided
    #[argh(option, arg_name = "filter", from_str_fn(value::filter), short = 'f')]
    pub filter: Vec<Filter>,
    /// format output: "table", "table TEMPLATE", "json" or a Go template
    #[argh(option, arg_name = "string")]
    pub format: Option<String>,
    /// do not map IDs to Names
    #[argh(switch)]
    pub no_resolve: bool,
    /// do not truncate output
    #[argh(switch)]
    pub no_trunc: bool,
    /// only display task IDs
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// the nodes
    #[argh(positional)]
    pub nodes: Vec<String>,
}
