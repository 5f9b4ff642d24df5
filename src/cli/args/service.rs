//! `service …`, without the long flag lists of `create` and `update`.

use argh::{ArgsInfo, FromArgs};

use super::create::Create;
use super::update::Update;
use crate::cli::parse::value::{self, Filter};

/// Manage Swarm services
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "service")]
pub struct Service {
    #[argh(subcommand)]
    /// the command
    pub command: ServiceCommand,
}

/// Below `service`.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(missing_docs, reason = "each variant carries the documented arguments of one command")]
#[allow(clippy::large_enum_variant, reason = "one value per run; argh cannot box")]
pub enum ServiceCommand {
    Create(Create),
    Inspect(Inspect),
    Logs(Logs),
    Ls(Ls),
    Ps(Ps),
    Rm(Rm),
    Rollback(Rollback),
    Scale(Scale),
    Update(Update),
}

/// Display detailed information on one or more services
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "inspect", note = "SERVICE [SERVICE...]")]
pub struct Inspect {
    /// format output using a Go template, or "json"
    #[argh(option, arg_name = "string", short = 'f')]
    pub format: Option<String>,
    /// print the information in a human friendly format
    #[argh(switch)]
    pub pretty: bool,
    /// the services
    #[argh(positional)]
    pub services: Vec<String>,
}

/// Fetch the logs of a service or task
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "logs", note = "SERVICE|TASK")]
pub struct Logs {
    /// show extra details provided to logs
    #[argh(switch)]
    pub details: bool,
    /// follow log output
    #[argh(switch, short = 'f')]
    pub follow: bool,
    /// do not map IDs to Names in output
    #[argh(switch)]
    pub no_resolve: bool,
    /// do not include task IDs in output
    #[argh(switch)]
    pub no_task_ids: bool,
    /// do not truncate output
    #[argh(switch)]
    pub no_trunc: bool,
    /// do not neatly format logs
    #[argh(switch)]
    pub raw: bool,
    /// show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42
    /// minutes)
    #[argh(option, arg_name = "string")]
    pub since: Option<String>,
    /// number of lines to show from the end of the logs (default "all")
    #[argh(option, arg_name = "string", short = 'n')]
    pub tail: Option<String>,
    /// show timestamps
    #[argh(switch, short = 't')]
    pub timestamps: bool,
    /// the service or task
    #[argh(positional)]
    pub target: String,
}

/// List services
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

/// List the tasks of one or more services
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "ps", note = "SERVICE [SERVICE...]")]
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
    /// the services
    #[argh(positional)]
    pub services: Vec<String>,
}

/// Remove one or more services
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "rm", note = "SERVICE [SERVICE...]")]
pub struct Rm {
    /// the services
    #[argh(positional)]
    pub services: Vec<String>,
}

/// Revert changes to a service's configuration
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "rollback", note = "SERVICE")]
pub struct Rollback {
    /// exit immediately instead of waiting for the service to converge
    #[argh(switch, short = 'd')]
    pub detach: bool,
    /// suppress progress output
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// the service
    #[argh(positional)]
    pub service: String,
}

/// Scale one or multiple replicated services
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "scale", note = "SERVICE=REPLICAS [SERVICE=REPLICAS...]")]
pub struct Scale {
    /// exit immediately instead of waiting for the service to converge
    #[argh(switch, short = 'd')]
    pub detach: bool,
    /// services with their number of tasks
    #[argh(positional)]
    pub scales: Vec<String>,
}
