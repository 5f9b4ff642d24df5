//! One look at whether a container is well: a process that `runc exec` runs in it, as the user, with
//! the environment and in the folder that the container itself has.
//!
//! It runs in a cgroup of its own, `probe`, below the container's. Whatever it has started is in there
//! too, so that all of it can be killed when the look takes too long, when it is over, and when a
//! daemon starts: an earlier one may have died in the middle of a look.
//!
//! Invariant: of one container one look at a time.

use std::process::Command;
use std::time::Duration;

use super::error::RuntimeError;
use super::shim_client::is_final;
use super::{Runtime, SHIM_LIMIT};
use crate::base::id::TaskId;
use crate::base::shim_wire::Phase;
use crate::host::child::{self, ChildError};

/// Name of the cgroup below a container's.
const CGROUP: &str = "probe";

/// What is kept of what one prints, as Docker: the first so many bytes.
const OUTPUT_BYTES_MAX: usize = 4_096;

/// What runc's status is when it could not run the process, or a signal has ended runc.
const NO_STATUS: i32 = 255;

/// The kernel's flag of a process that is ending (`include/linux/sched.h`).
const PF_EXITING: u64 = 4;

/// How a look ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The process ended, or could not be started: then the output says why.
    Exited {
        /// Its status, or 128 + the signal.
        code: i32,
        /// The begin of what it printed, standard output first.
        output: String,
    },
    /// It took too long and was killed.
    Late,
    /// The container has ended: it says nothing.
    Ended,
}

impl Runtime {
    /// Runs a program in a running container, for no longer than `limit`. Nothing of it is left.
    ///
    /// # Errors
    /// When the machine cannot run it: nothing is known of the container then.
    pub fn look(
        &self,
        task: TaskId,
        argv: &[String],
        limit: Duration,
    ) -> Result<Look, RuntimeError> {
        let id = task.to_string();
        if !self.still_runs(task)? {
            return Ok(Look::Ended);
        }
        self.cgroups.make_below(&id, CGROUP)?;
        let mut command = Command::new(&self.runc.path);
        command.arg("--root").arg(&self.runc.root);
        // Its log goes nowhere: then it says on standard error, in plain words, what went wrong.
        command.args(["--log", "/dev/null", "exec", "--cgroup", CGROUP, &id]).args(argv);
        let ended = child::run_keeping(&mut command, b"", limit, OUTPUT_BYTES_MAX);
        let cleared = self.end_looks(task);
        let look = match ended {
            Ok(output) => {
                let mut bytes = output.stdout;
                bytes.extend(output.stderr);
                bytes.truncate(OUTPUT_BYTES_MAX);
                let code = output.status.code().unwrap_or(NO_STATUS);
                Look::Exited { code, output: String::from_utf8_lossy(&bytes).into_owned() }
            }
            Err(ChildError::Late(_)) => Look::Late,
            Err(ChildError::Io(source)) => {
                return Err(RuntimeError::NoRunc { path: self.runc.path.clone(), source });
            }
        };
        cleared?;
        // One that was ended by the end of its container tells nothing of it.
        let well = matches!(look, Look::Exited { code: 0, .. });
        if !well && !self.still_runs(task)? {
            return Ok(Look::Ended);
        }
        Ok(look)
    }

    /// Kills what looks have left in a container, and takes their cgroup away.
    ///
    /// # Errors
    /// When something in it cannot be killed.
    pub fn end_looks(&self, task: TaskId) -> Result<(), RuntimeError> {
        self.cgroups.remove(&format!("{task}/{CGROUP}"))
    }

    /// The container runs and is not about to end: the kernel ends what is in it before its first
    /// process, and its shim hears of that last.
    fn still_runs(&self, task: TaskId) -> Result<bool, RuntimeError> {
        let Some(client) = self.connect(&self.places(task))? else { return Ok(false) };
        client.hello()?;
        let state = client.wait_state(SHIM_LIMIT, |_| true)?;
        let state = state.filter(|state| !is_final(state) && state.phase == Phase::Running);
        Ok(state.is_some_and(|state| !is_ending(state.pid)))
    }
}

/// The process is on its way out, or gone.
fn is_ending(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| flags_say_ending(&stat))
}

/// From the text of `/proc/PID/stat`: the ninth field has the flags, and the name before may hold any
/// letter.
fn flags_say_ending(stat: &str) -> bool {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let flags = fields.split_whitespace().nth(6).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_on_its_way_out_is_told_by_its_flags() {
        assert!(!flags_say_ending("7 (a) b)) S 1 7 7 0 -1 4194560 1 2"));
        assert!(flags_say_ending("7 (a) b)) S 1 7 7 0 -1 4194564 1 2"));
        assert!(flags_say_ending("7 (a"));
        assert!(!is_ending(std::process::id()));
        assert!(is_ending(u32::MAX));
    }
}
