//! `unlock`, `unlock-key` and `update`: managers that lock themselves.

use std::io::{self, BufRead, IsTerminal, Read};

use argh::ArgsInfo;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::args::swarm::{UnlockKey as UnlockKeyArgs, Update};
use super::argv::Place;
use super::context::{Context, columns};
use super::error::{CliError, plain};
use super::help;
use crate::model::engine::swarm::{Swarm, UnlockKey};
use crate::model::engine::system::Info;

/// Bytes of a key that are read; a key has 52.
const KEY_BYTES_MAX: u64 = 4 << 10;

/// Unlocks this manager with a key from the terminal or from standard input.
pub fn unlock(ctx: &mut Context) -> Result<(), CliError> {
    let info: Info = ctx.client.get("/info")?;
    match info.swarm.local_node_state.as_str() {
        "locked" => {}
        "" | "inactive" => return Err(plain("Error: This node is not part of a swarm")),
        _ => return Err(plain("Error: swarm is not locked")),
    }
    let key = read_key(ctx)?;
    ctx.client.post("/swarm/unlock", &UnlockKey { unlock_key: key }).map(drop)
}

/// One line; what is typed into a terminal is not shown.
fn read_key(ctx: &mut Context) -> Result<String, CliError> {
    let stdin = io::stdin();
    let mut shown = None;
    if stdin.is_terminal() {
        ctx.print("Enter unlock key: ")?;
        ctx.flush()?;
        let before = tcgetattr(&stdin).map_err(|errno| CliError::Input(errno.into()))?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &silent)
            .map_err(|errno| CliError::Input(errno.into()))?;
        shown = Some(before);
    }
    let mut line = String::new();
    let read = stdin.lock().take(KEY_BYTES_MAX).read_line(&mut line);
    if let Some(before) = shown {
        tcsetattr(&stdin, OptionalActions::Now, &before)
            .map_err(|errno| CliError::Input(errno.into()))?;
        ctx.line("")?;
    }
    read.map_err(CliError::Input)?;
    Ok(line.trim().to_owned())
}

/// Shows the unlock key, or makes another one.
pub fn unlock_key(args: &UnlockKeyArgs, ctx: &mut Context) -> Result<(), CliError> {
    if args.rotate {
        let swarm: Swarm = ctx.client.get("/swarm")?;
        if !swarm.spec.encryption_config.auto_lock_managers {
            return Err(plain("cannot rotate because autolock is not turned on"));
        }
        let path =
            format!("/swarm/update?version={}&rotateManagerUnlockKey=true", swarm.version.index);
        ctx.client.post(&path, &swarm.spec)?;
        if !args.quiet {
            ctx.line("Successfully rotated manager unlock key.\n")?;
        }
    }
    if args.quiet {
        let key = key(ctx)?;
        return ctx.line(&key);
    }
    show_key(ctx)
}

fn key(ctx: &Context) -> Result<String, CliError> {
    let answer: UnlockKey = ctx.client.get("/swarm/unlockkey")?;
    if answer.unlock_key.is_empty() {
        return Err(plain("no unlock key is set"));
    }
    Ok(answer.unlock_key)
}

/// What the key is for.
pub fn show_key(ctx: &mut Context) -> Result<(), CliError> {
    let key = key(ctx)?;
    ctx.print(&format!(
        "To unlock a swarm manager after it restarts, run the `skep unlock`\ncommand and provide the \
         following key:\n\n    {key}\n\nRemember to store this key in a password manager, since \
         without it you\nwill not be able to restart the manager.\n"
    ))
}

/// Changes the cluster's settings; without any it prints the help, as Docker does.
pub fn update(args: &Update, ctx: &mut Context) -> Result<(), CliError> {
    let Update { autolock, cert_expiry, task_history_limit } = args;
    if autolock.is_none() && cert_expiry.is_none() && task_history_limit.is_none() {
        let place = Place { path: "update".to_owned(), info: Update::get_args_info() };
        return ctx.print(&help::text(&place, columns()));
    }
    let mut swarm: Swarm = ctx.client.get("/swarm")?;
    let spec = &mut swarm.spec;
    let locked_before = spec.encryption_config.auto_lock_managers;
    if let Some(expiry) = cert_expiry {
        spec.ca_config.node_cert_expiry = *expiry;
    }
    if task_history_limit.is_some() {
        spec.orchestration.task_history_retention_limit = *task_history_limit;
    }
    spec.encryption_config.auto_lock_managers = autolock.unwrap_or(locked_before);
    let locked = spec.encryption_config.auto_lock_managers;
    ctx.client.post(&format!("/swarm/update?version={}", swarm.version.index), &swarm.spec)?;
    ctx.line("Swarm updated.")?;
    if locked && !locked_before {
        ctx.line("")?;
        show_key(ctx)?;
    }
    Ok(())
}
