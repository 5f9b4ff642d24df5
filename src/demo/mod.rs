//! `skep demo`: a swarm of three machines on one, and a walk through what a swarm does.
//!
//! Each machine is a network namespace with a daemon in it that has its own host name and roots; a
//! fourth namespace joins their cables. Nothing of this machine's own network is touched. The walk
//! runs the commands that a user would type, as processes of their own, and shows what they print:
//! it knows no more of the swarm than they tell. It leaves the machines running.
//!
//! What is made has the demo's name: `/run/netns/NAME-*`, `/run/NAME`, `/var/lib/NAME`. `--clean`
//! removes exactly that. One thread, and a short one for each step inside a namespace.

mod machines;
mod walk;

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::base::chain;
use machines::Machines;

/// The longest name: those of links and sockets are made of it.
const NAME_BYTES_MAX: usize = 20;

/// Why the demo cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}")]
struct Failed {
    doing: String,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

type Result<T> = std::result::Result<T, Failed>;

fn failed<E: Into<Box<dyn Error + Send + Sync>>>(doing: impl Into<String>) -> impl FnOnce(E) -> Failed {
    let doing = doing.into();
    |source| Failed { doing, source: source.into() }
}

/// Shows the demo, or removes what is left of one.
#[must_use]
pub fn run(name: &str, clean: bool) -> ExitCode {
    match demo(name, clean) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if writeln!(io::stderr(), "skep demo: {}", chain::text(&error)).is_err() {
                return ExitCode::from(2);
            }
            ExitCode::FAILURE
        }
    }
}

fn demo(name: &str, clean: bool) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(fits) {
        let why = format!("use at most {NAME_BYTES_MAX} of a-z, 0-9 and '-'");
        return Err(failed(format!("take {name:?} as the demo's name"))(why));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(failed("make machines")("namespaces and containers need root (run: sudo skep demo)"));
    }
    let machines = Machines::new(name).map_err(failed("tell which program this is"))?;
    if clean {
        machines.remove()?;
        return say("The demo is gone: no process, no container, no file of it is left.\n");
    }
    machines.make()?;
    walk::walk(&machines)
}

/// Writes to standard output at once: commands that follow write there too.
fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed("write the output"))
}
