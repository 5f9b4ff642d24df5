//! `volume …`.

use argh::{ArgsInfo, FromArgs};

use crate::cli::parse::value::{self, Filter};

/// Manage volumes
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "volume")]
pub struct Volume {
    #[argh(subcommand)]
    /// the command
    pub command: VolumeCommand,
}

/// Below `volume`.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(missing_docs, reason = "each variant carries the documented arguments of one command")]
pub enum VolumeCommand {
    Create(Create),
    Inspect(Inspect),
    Ls(Ls),
    Prune(Prune),
    Rm(Rm),
}

/// Create a volume
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "create", note = "[VOLUME]")]
pub struct Create {
    /// specify volume driver name (default "local")
    #[argh(option, arg_name = "string", short = 'd')]
    pub driver: Option<String>,
    /// set metadata for a volume
    #[argh(option, arg_name = "list")]
    pub label: Vec<String>,
    /// set driver specific options
    #[argh(option, arg_name = "map", short = 'o')]
    pub opt: Vec<String>,
    /// the name
    #[argh(positional)]
    pub name: Option<String>,
}

/// Display detailed information on one or more volumes
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "inspect", note = "VOLUME [VOLUME...]")]
pub struct Inspect {
    /// format output using a Go template, or "json"
    #[argh(option, arg_name = "string", short = 'f')]
    pub format: Option<String>,
    /// the volumes
    #[argh(positional)]
    pub volumes: Vec<String>,
}

/// List volumes
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "ls")]
pub struct Ls {
    /// provide filter values (e.g. "label=<label>")
    #[argh(option, arg_name = "filter", from_str_fn(value::filter), short = 'f')]
    pub filter: Vec<Filter>,
    /// format output: "table", "table TEMPLATE", "json" or a Go template
    #[argh(option, arg_name = "string")]
    pub format: Option<String>,
    /// only display volume names
    #[argh(switch, short = 'q')]
    pub quiet: bool,
}

/// Remove unused local volumes
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "prune")]
pub struct Prune {
    /// remove all unused volumes, not just anonymous ones
    #[argh(switch, short = 'a')]
    pub all: bool,
    /// provide filter values (e.g. "label=<label>")
    #[argh(option, arg_name = "filter", from_str_fn(value::filter))]
    pub filter: Vec<Filter>,
    /// do not prompt for confirmation
    #[argh(switch, short = 'f')]
    pub force: bool,
}

/// Remove one or more volumes. You cannot remove a volume that is in use by a container.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "rm", note = "VOLUME [VOLUME...]")]
pub struct Rm {
    /// force the removal of one or more volumes
    #[argh(switch, short = 'f')]
    pub force: bool,
    /// the volumes
    #[argh(positional)]
    pub volumes: Vec<String>,
}
