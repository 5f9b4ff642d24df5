//! `init` and `leave`.

use std::path::PathBuf;

use super::args::swarm::{Init, Leave};
use super::context::Context;
use super::error::{CliError, plain};
use super::args::Command;
use super::args::swarm::{Swarm, SwarmCommand};
use super::{DEFAULT_HOST, Hooks, StartOptions};
use crate::model::engine::swarm::{InitRequest, OrchestrationConfig, SwarmSpec};

/// The socket where none was named: with `init --exec-root` that of the daemon to be started.
pub fn default_host(command: &Command) -> Result<String, CliError> {
    let (Command::Init(init)
    | Command::Swarm(Swarm { command: SwarmCommand::Init(init) })) = command
    else {
        return Ok(DEFAULT_HOST.to_owned());
    };
    match init.exec_root.as_deref() {
        None => Ok(DEFAULT_HOST.to_owned()),
        Some(root) if root.starts_with('/') => {
            Ok(format!("unix://{}/skep.sock", root.trim_end_matches('/')))
        }
        Some(root) => Err(plain(format!("--exec-root must be an absolute path, not {root:?}"))),
    }
}

/// Starts a daemon where none answers and makes the machine a swarm of its own.
pub fn init(args: Init, ctx: &mut Context, hooks: &Hooks) -> Result<(), CliError> {
    if let Some(availability) = &args.availability
        && !matches!(availability.as_str(), "active" | "pause" | "drain")
    {
        return Err(plain(format!(
            "invalid availability {availability:?}, only active, pause and drain are supported"
        )));
    }
    match ctx.client.ping() {
        Ok(()) => {}
        Err(CliError::NotRunning { host }) => {
            let text = |address: &Option<String>| address.clone().unwrap_or_default();
            let (advertise, listen) = (text(&args.advertise_addr), text(&args.listen_addr));
            (hooks.check_addresses)(&advertise, &listen).map_err(plain)?;
            let options = StartOptions {
                host,
                data_root: args.data_root.as_ref().map(PathBuf::from),
                exec_root: args.exec_root.as_ref().map(PathBuf::from),
            };
            (hooks.start_daemon)(&options).map_err(|why| {
                plain(format!("cannot start the skep daemon: {why}"))
            })?;
        }
        Err(error) => return Err(error),
    }
    let history = args.task_history_limit;
    let request = InitRequest {
        listen_addr: args.listen_addr.unwrap_or_else(|| "0.0.0.0:2377".to_owned()),
        advertise_addr: args.advertise_addr.unwrap_or_default(),
        force_new_cluster: args.force_new_cluster,
        availability: args.availability.unwrap_or_default(),
        spec: SwarmSpec {
            orchestration: OrchestrationConfig { task_history_retention_limit: history },
            ..SwarmSpec::default()
        },
        ..InitRequest::default()
    };
    let id: String = ctx.client.post_for("/swarm/init", &request).map_err(advise)?;
    ctx.line(&format!("Swarm initialized: current node ({id}) is now a manager."))?;
    ctx.print(
        "\nTo run a first service, which answers on port 80 of this machine:\n\n    \
         skep service create --name website --publish 80:80 skep/hello\n\n",
    )
}

/// An address that the daemon cannot choose can be named.
fn advise(error: CliError) -> CliError {
    match error {
        CliError::Daemon { status, message }
            if message.starts_with("could not choose an IP address to advertise")
                || message.starts_with("could not find the system's IP address") =>
        {
            CliError::Daemon { status, message: format!("{message} - specify one with --advertise-addr") }
        }
        error => error,
    }
}

/// Leaves the swarm.
pub fn leave(args: &Leave, ctx: &mut Context) -> Result<(), CliError> {
    ctx.client.post_empty(&format!("/swarm/leave?force={}", u8::from(args.force)))?;
    ctx.line("Node left the swarm.")
}
