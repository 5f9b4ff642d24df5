//! Turns SIGTERM, SIGINT and SIGHUP (a terminal that is closed) into an event, on a thread that waits for nothing else.

use std::io;
use std::thread::Builder;

use nix::sys::signal::{SigSet, Signal};

use super::brain::Events;
use super::handle::Event;

fn stopping() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// Blocks these signals in this thread and all it starts from now on. Comes before the first other
/// thread: one in which they are not blocked would take them, and with them the process its end.
pub(super) fn block() -> io::Result<()> {
    Ok(stopping().thread_block()?)
}

/// Waits for the blocked signals on a thread of its own. A second signal ends the process at once.
pub(super) fn watch(events: Events) -> io::Result<()> {
    let set = stopping();
    Builder::new().name("signals".to_owned()).stack_size(64 << 10).spawn(move || {
        let mut asked = false;
        loop {
            match set.wait() {
                Ok(signal) if asked => {
                    log::warn!("{signal} again: ending at once");
                    std::process::abort();
                }
                Ok(signal) => {
                    log::info!("{signal}: stopping");
                    asked = true;
                    if events.send_blocking(Event::Stop).is_err() {
                        return;
                    }
                }
                Err(err) => log::error!("cannot wait for signals: {err}"),
            }
        }
    })?;
    Ok(())
}
