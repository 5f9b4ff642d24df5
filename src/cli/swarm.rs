//! `ca`, `init`, `join`, `join-token` and `leave`.

use std::path::PathBuf;
use std::time::Duration;

use super::args::swarm::{Ca, Init, Join, JoinToken, Leave};
use super::context::Context;
use super::error::{CliError, plain};
use super::args::Command;
use super::args::swarm::{Swarm, SwarmCommand};
use super::{DEFAULT_HOST, Hooks, StartOptions};
use crate::model::engine::node::Node;
use crate::model::engine::swarm::{
    CaConfig, InitRequest, JoinRequest, OrchestrationConfig, Swarm as SwarmJson, SwarmSpec,
};
use crate::model::engine::system::Info;

/// Between two tries of `join --retry`.
const RETRY_WAIT: Duration = Duration::from_secs(2);

/// The socket where none was named: with `--exec-root` of `init` and `join` that of the daemon to be started.
pub fn default_host(command: &Command) -> Result<String, CliError> {
    let exec_root = match command {
        Command::Init(init) | Command::Swarm(Swarm { command: SwarmCommand::Init(init) }) => {
            &init.exec_root
        }
        Command::Join(join) | Command::Swarm(Swarm { command: SwarmCommand::Join(join) }) => {
            &join.exec_root
        }
        Command::Ca(_)
        | Command::Daemon(_)
        | Command::Demo(_)
        | Command::Image(_)
        | Command::Info(_)
        | Command::JoinToken(_)
        | Command::Leave(_)
        | Command::Load(_)
        | Command::Node(_)
        | Command::Pull(_)
        | Command::Service(_)
        | Command::Swarm(_)
        | Command::System(_)
        | Command::Unlock(_)
        | Command::UnlockKey(_)
        | Command::Update(_)
        | Command::Version(_)
        | Command::Volume(_) => return Ok(DEFAULT_HOST.to_owned()),
    };
    match exec_root.as_deref() {
        None => Ok(DEFAULT_HOST.to_owned()),
        Some(root) if root.starts_with('/') => {
            Ok(format!("unix://{}/skep.sock", root.trim_end_matches('/')))
        }
        Some(root) => Err(plain(format!("--exec-root must be an absolute path, not {root:?}"))),
    }
}

/// Starts a daemon where none answers and makes the machine a swarm of its own.
pub fn init(args: Init, ctx: &mut Context, hooks: &Hooks) -> Result<(), CliError> {
    check_availability(args.availability.as_deref())?;
    let text = |address: &Option<String>| address.clone().unwrap_or_default();
    let (advertise, listen) = (text(&args.advertise_addr), text(&args.listen_addr));
    let check = || (hooks.check_addresses)(&advertise, &listen).map_err(plain);
    ensure_daemon(ctx, hooks, args.data_root.as_ref(), args.exec_root.as_ref(), check)?;
    let history = args.task_history_limit;
    let request = InitRequest {
        listen_addr: args.listen_addr.unwrap_or_else(|| "0.0.0.0:2377".to_owned()),
        advertise_addr: args.advertise_addr.unwrap_or_default(),
        force_new_cluster: args.force_new_cluster,
        auto_lock_managers: args.autolock,
        availability: args.availability.unwrap_or_default(),
        spec: SwarmSpec {
            orchestration: OrchestrationConfig { task_history_retention_limit: history },
            ca_config: CaConfig {
                node_cert_expiry: args.cert_expiry.unwrap_or_default(),
                ..CaConfig::default()
            },
            ..SwarmSpec::default()
        },
        ..InitRequest::default()
    };
    let id: String = ctx.client.post_for("/swarm/init", &request).map_err(advise)?;
    ctx.line(&format!("Swarm initialized: current node ({id}) is now a manager."))?;
    if let Some(line) = join_line(ctx, "worker")? {
        ctx.print(&format!(
            "\nTo add a worker to this swarm, run the following command:\n\n    {line}\n\nTo add a \
             manager to this swarm, run 'skep join-token manager' and follow the instructions.\n"
        ))?;
    }
    if args.autolock {
        ctx.line("")?;
        super::unlock::show_key(ctx)?;
    }
    ctx.print(
        "\nTo run a first service, which answers on port 80 of this machine:\n\n    \
         skep service create --name website --publish 80:80 skep/hello\n\n",
    )
}

fn check_availability(availability: Option<&str>) -> Result<(), CliError> {
    match availability {
        None | Some("active" | "pause" | "drain") => Ok(()),
        Some(other) => Err(plain(format!(
            "invalid availability {other:?}, only active, pause and drain are supported"
        ))),
    }
}

/// Starts a daemon where none answers; `check` is asked before.
fn ensure_daemon(
    ctx: &Context,
    hooks: &Hooks,
    data_root: Option<&String>,
    exec_root: Option<&String>,
    check: impl FnOnce() -> Result<(), CliError>,
) -> Result<(), CliError> {
    match ctx.client.ping() {
        Err(CliError::NotRunning { host }) => {
            check()?;
            let (data_root, exec_root) =
                (data_root.map(PathBuf::from), exec_root.map(PathBuf::from));
            (hooks.start_daemon)(&StartOptions { host, data_root, exec_root })
                .map_err(|why| plain(format!("cannot start the skep daemon: {why}")))
        }
        other => other,
    }
}

/// Makes this machine a node of a swarm.
pub fn join(args: Join, ctx: &mut Context, hooks: &Hooks) -> Result<(), CliError> {
    check_availability(args.availability.as_deref())?;
    let token = match (args.token, args.token_file) {
        (Some(_), Some(_)) => return Err(plain("name the token or its file, not both")),
        (Some(token), None) => token,
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path)
                .map_err(|err| plain(format!("cannot read the token from {path}: {err}")))?;
            text.trim().to_owned()
        }
        (None, None) => {
            return Err(plain(
                "a token is needed: --token TOKEN or --token-file FILE (a manager prints it with \
                 `skep join-token worker`)",
            ));
        }
    };
    ensure_daemon(ctx, hooks, args.data_root.as_ref(), args.exec_root.as_ref(), || Ok(()))?;
    let request = JoinRequest {
        listen_addr: args.listen_addr.unwrap_or_else(|| "0.0.0.0:2377".to_owned()),
        advertise_addr: args.advertise_addr.unwrap_or_default(),
        join_token: token,
        remote_addrs: vec![args.manager],
        availability: args.availability.unwrap_or_default(),
        ..JoinRequest::default()
    };
    loop {
        match ctx.client.post("/swarm/join", &request) {
            Ok(_) => break,
            // What a later try cannot change is told at once.
            Err(error @ CliError::Daemon { status: 503, .. })
                if args.retry && !error.to_string().contains("already part of a swarm") =>
            {
                std::thread::sleep(RETRY_WAIT);
            }
            Err(error) => return Err(error),
        }
    }
    let info: Info = ctx.client.get("/info")?;
    let role = if info.swarm.control_available { "manager" } else { "worker" };
    ctx.line(&format!("This node joined a swarm as a {role}."))
}

/// Shows a join token, or makes a new one.
pub fn join_token(args: &JoinToken, ctx: &mut Context) -> Result<(), CliError> {
    let role = args.role.as_str();
    let rotate = match role {
        "worker" => "rotateWorkerToken",
        "manager" => "rotateManagerToken",
        other => return Err(plain(format!("unknown role {other}"))),
    };
    if args.rotate {
        let swarm: SwarmJson = ctx.client.get("/swarm")?;
        let path = format!("/swarm/update?version={}&{rotate}=true", swarm.version.index);
        ctx.client.post(&path, &swarm.spec)?;
        if !args.quiet {
            ctx.line(&format!("Successfully rotated {role} join token.\n"))?;
        }
    }
    if args.quiet {
        let token = token(ctx, role)?;
        return ctx.line(&token);
    }
    match join_line(ctx, role)? {
        Some(line) => ctx.print(&format!(
            "To add a {role} to this swarm, run the following command:\n\n    {line}\n\n"
        )),
        None => Ok(()),
    }
}

fn token(ctx: &Context, role: &str) -> Result<String, CliError> {
    let swarm: SwarmJson = ctx.client.get("/swarm")?;
    let tokens = swarm.join_tokens.unwrap_or_default();
    Ok(if role == "manager" { tokens.manager } else { tokens.worker })
}

/// What is to be typed on another machine; nothing where this one has no manager.
fn join_line(ctx: &Context, role: &str) -> Result<Option<String>, CliError> {
    let info: Info = ctx.client.get("/info")?;
    let node: Node = ctx.client.get(&format!("/nodes/{}", info.swarm.node_id))?;
    let Some(status) = node.manager_status else { return Ok(None) };
    Ok(Some(format!("skep join --token {} {}", token(ctx, role)?, status.addr)))
}

/// Between two looks at whether every node has a certificate of the new root.
const ROTATION_POLL: Duration = Duration::from_millis(200);

/// Shows the root certificate, or makes a new one and waits until every node hangs on it.
pub fn ca(args: &Ca, ctx: &mut Context) -> Result<(), CliError> {
    let mut swarm: SwarmJson = ctx.client.get("/swarm")?;
    if !args.rotate {
        if args.cert_expiry.is_some() {
            return Err(plain(
                "`--cert-expiry` flag requires the `--rotate` flag to update the CA",
            ));
        }
        return show_root(&swarm, ctx);
    }
    swarm.spec.ca_config.force_rotate += 1;
    if let Some(expiry) = args.cert_expiry {
        swarm.spec.ca_config.node_cert_expiry = expiry;
    }
    ctx.client.post(&format!("/swarm/update?version={}", swarm.version.index), &swarm.spec)?;
    if args.detach {
        return Ok(());
    }
    let mut told = args.quiet;
    loop {
        let swarm: SwarmJson = ctx.client.get("/swarm")?;
        if !swarm.root_rotation_in_progress {
            return show_root(&swarm, ctx);
        }
        if !std::mem::replace(&mut told, true) {
            ctx.line("Waiting until every node has a certificate of the new root.")?;
            ctx.flush()?;
        }
        std::thread::sleep(ROTATION_POLL);
    }
}

fn show_root(swarm: &SwarmJson, ctx: &mut Context) -> Result<(), CliError> {
    match swarm.tls_info.trust_root.as_str() {
        "" => ctx.line("No CA information available"),
        root => ctx.print(root),
    }
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
