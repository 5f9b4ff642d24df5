//! The tiny first process of a container that was asked for with `--init`: it starts the real
//! program, hands signals on and reaps what is left behind. It runs inside the container, from the
//! binary mounted at `/sbin/docker-init`, and opens nothing.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What a shell returns for a program that is not there.
const NOT_FOUND: u8 = 127;

/// The face `docker-init -- PROGRAM ARGS…`: `args` are the words after the name.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = args.into_iter().skip_while(|word| word == "--");
    let Some(program) = words.next() else { return ExitCode::from(NOT_FOUND) };
    let mut mask = SigSet::all();
    // Signals of this process's own faults stay deadly.
    for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT]
    {
        mask.remove(signal);
    }
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None).is_err() {
        return ExitCode::FAILURE;
    }
    let mut command = Command::new(program);
    command.args(words);
    super::unblock_signals(&mut command);
    let Ok(child) = command.spawn() else { return ExitCode::from(NOT_FOUND) };
    let child = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    loop {
        match mask.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return ExitCode::from(code);
                }
            }
            Ok(signal) => match kill(child, signal) {
                // It ended; its SIGCHLD is on the way.
                Ok(()) | Err(_) => {}
            },
            Err(_) => {}
        }
    }
}

/// Reaps all that ended. The program's status once it is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => {
                code = Some(u8::try_from(status & 0xff).unwrap_or(1));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(u8::try_from(128 + signal as i32).unwrap_or(255));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(_) => {}
        }
    }
}
