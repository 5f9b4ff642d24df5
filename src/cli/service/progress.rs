//! The attached wait of `create`, `update`, `scale` and `rollback`.
//!
//! [`Watch`] is pure: what the daemon says and the time go in, lines to show and the end come out.
//! [`wait`] asks every [`POLL_MILLIS`], draws, and listens for Ctrl-C, which leaves the operation
//! running. On a pipe only lines that changed are printed.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::path;
use super::watch::{End, Seen, Watch};
use crate::cli::CliError;
use crate::cli::client::Client;
use crate::cli::context::{Context, columns};
use crate::cli::error::plain;
use crate::cli::query::Filters;
use crate::model::engine::node::Node;
use crate::model::engine::service::Service;
use crate::model::engine::task::Task;

/// Milliseconds between two looks.
const POLL_MILLIS: u16 = 200;

/// Waits until a service is stable; `name` is what the user calls it.
pub fn wait(ctx: &mut Context, id: &str, name: &str, quiet: bool) -> Result<(), CliError> {
    let mut interrupted = SigSet::empty();
    interrupted.add(Signal::SIGINT);
    let signals = interrupted
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&interrupted, SfdFlags::SFD_CLOEXEC))
        .map_err(|error| plain(format!("wait for signals: {error}")))?;
    let ended = watch(ctx, id, name, quiet, &signals);
    if let Err(error) = interrupted.thread_unblock() {
        return Err(plain(format!("wait for signals: {error}")));
    }
    ended
}

fn watch(
    ctx: &mut Context,
    id: &str,
    name: &str,
    quiet: bool,
    signals: &SignalFd,
) -> Result<(), CliError> {
    let start = Instant::now();
    let mut watch = Watch::new(name);
    let mut screen = Screen::default();
    ctx.flush()?;
    loop {
        let seen = look(&ctx.client, id)?;
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let end = watch.step(millis, &seen);
        if !quiet {
            screen.draw(ctx, &watch.lines(ctx.terminal, columns()))?;
        }
        match end {
            Some(End::Converged) => return Ok(()),
            Some(End::Failed(why)) => return Err(plain(why)),
            None => {}
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(POLL_MILLIS)) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => {
                // Taken, or it would end the process as soon as it is let through again.
                signals.read_signal().map_err(|error| plain(format!("wait for signals: {error}")))?;
                if !quiet {
                    ctx.line("Operation continuing in background.")?;
                    ctx.line(&format!("Use `skep service ps {name}` to check progress."))?;
                }
                return Ok(());
            }
            Err(error) => return Err(plain(format!("wait for signals: {error}"))),
        }
    }
}

fn look(client: &Client, id: &str) -> Result<Seen, CliError> {
    let service: Service = client.get(&path(id)).map_err(|error| super::not_found(error, id))?;
    let filters = Filters::default().with("service", id).with("_up-to-date", "true");
    let tasks: Vec<Task> = client.get(&filters.on("/tasks")?)?;
    let nodes: Vec<Node> = client.get("/nodes")?;
    Ok(Seen { service, tasks, nodes })
}

/// What was drawn so far.
#[derive(Default)]
struct Screen {
    drawn: Vec<String>,
}

impl Screen {
    /// Shows lines: over the earlier ones on a terminal, else those that are new.
    fn draw(&mut self, ctx: &mut Context, lines: &[String]) -> Result<(), CliError> {
        if lines == self.drawn {
            return Ok(());
        }
        if ctx.terminal {
            if !self.drawn.is_empty() {
                ctx.print(&format!("\x1b[{}A", self.drawn.len()))?;
            }
            for line in lines {
                ctx.print(&format!("\x1b[2K{line}\n"))?;
            }
            for _ in lines.len()..self.drawn.len() {
                ctx.print("\x1b[2K\n")?;
            }
            if lines.len() < self.drawn.len() {
                ctx.print(&format!("\x1b[{}A", self.drawn.len() - lines.len()))?;
            }
        } else {
            for line in lines.iter().filter(|line| !self.drawn.contains(line)) {
                ctx.line(line)?;
            }
        }
        self.drawn = lines.to_vec();
        ctx.flush()
    }
}
