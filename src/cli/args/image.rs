//! `image …`, `pull` and `load`.

use argh::{ArgsInfo, FromArgs};

use crate::cli::parse::value::{self, Filter};

/// Manage images
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "image")]
pub struct Image {
    #[argh(subcommand)]
    /// the command
    pub command: ImageCommand,
}

/// Below `image`.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[allow(missing_docs, reason = "each variant carries the documented arguments of one command")]
pub enum ImageCommand {
    Inspect(Inspect),
    Load(Load),
    Ls(Ls),
    Prune(Prune),
    Pull(Pull),
    Rm(Rm),
}

/// Display detailed information on one or more images
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "inspect", note = "IMAGE [IMAGE...]")]
pub struct Inspect {
    /// format output using a Go template, or "json"
    #[argh(option, arg_name = "string", short = 'f')]
    pub format: Option<String>,
    /// the images
    #[argh(positional)]
    pub images: Vec<String>,
}

/// Load an image from a tar archive or STDIN
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "load")]
pub struct Load {
    /// read from tar archive file, instead of STDIN
    #[argh(option, arg_name = "string", short = 'i')]
    pub input: Option<String>,
    /// suppress the load output
    #[argh(switch, short = 'q')]
    pub quiet: bool,
}

/// List images
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "ls", note = "[REPOSITORY[:TAG]]")]
pub struct Ls {
    /// show all images (default hides intermediate images)
    #[argh(switch, short = 'a')]
    pub all: bool,
    /// show digests
    #[argh(switch)]
    pub digests: bool,
    /// filter output based on conditions provided
    #[argh(option, arg_name = "filter", from_str_fn(value::filter), short = 'f')]
    pub filter: Vec<Filter>,
    /// format output: "table", "table TEMPLATE", "json" or a Go template
    #[argh(option, arg_name = "string")]
    pub format: Option<String>,
    /// don't truncate output
    #[argh(switch)]
    pub no_trunc: bool,
    /// only show image IDs
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// which images
    #[argh(positional)]
    pub reference: Option<String>,
}

/// Remove unused images
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "prune")]
pub struct Prune {
    /// remove all unused images, not just dangling ones
    #[argh(switch, short = 'a')]
    pub all: bool,
    /// provide filter values (e.g. "until=<timestamp>")
    #[argh(option, arg_name = "filter", from_str_fn(value::filter))]
    pub filter: Vec<Filter>,
    /// do not prompt for confirmation
    #[argh(switch, short = 'f')]
    pub force: bool,
}

/// Download an image from a registry
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "pull", note = "NAME[:TAG|@DIGEST]")]
pub struct Pull {
    /// set platform if server is multi-platform capable
    #[argh(option, arg_name = "string")]
    pub platform: Option<String>,
    /// suppress verbose output
    #[argh(switch, short = 'q')]
    pub quiet: bool,
    /// the image
    #[argh(positional)]
    pub image: String,
}

/// Remove one or more images
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(subcommand, name = "rm", note = "IMAGE [IMAGE...]")]
pub struct Rm {
    /// force removal of the image
    #[argh(switch, short = 'f')]
    pub force: bool,
    /// do not delete untagged parents
    #[argh(switch)]
    pub no_prune: bool,
    /// the images
    #[argh(positional)]
    pub images: Vec<String>,
}
