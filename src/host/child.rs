//! Runs another program to its end, and never longer than it may take.
//!
//! A program that stands still (a dead disk, a lock that nobody frees) must not keep the thread
//! that waits for it: it is killed with all that it has started.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::process;

/// The most that is kept of what a program prints, each way; the rest is read and forgotten.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// How often it is looked whether the program has ended, on kernels that do not tell (before 5.3).
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long a killed program may take to go. One that the kernel holds is not waited for: it goes
/// when the kernel lets it, and does nothing more.
const KILLED_WAIT: Duration = Duration::from_secs(1);

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It could not be run, or not be talked to.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("it did not end within {} s and was killed", .0.as_secs())]
    Late(Duration),
}

/// Runs a program in a process group of its own, gives it `input`, and waits for its end. After
/// `limit` the group is killed.
///
/// # Errors
/// When it cannot be run or takes longer.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output, ChildError> {
    run_keeping(command, input, limit, OUTPUT_BYTES_MAX)
}

/// The same, keeping only the first `keep` bytes of each of its outputs.
///
/// # Errors
/// As [`run`].
pub fn run_keeping(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
    keep: usize,
) -> Result<Output, ChildError> {
    let until = Instant::now() + limit;
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let talked = talk(&mut child, input, until, keep);
    if !matches!(talked, Ok(Some(_))) {
        end(&mut child);
    }
    talked?.ok_or(ChildError::Late(limit))
}

/// None when the time is up.
fn talk(
    child: &mut Child,
    mut input: &[u8],
    until: Instant,
    keep: usize,
) -> io::Result<Option<Output>> {
    let end = process::pidfd(child.id()).ok();
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let pipes = [
        stdin.as_ref().map(AsFd::as_fd),
        stdout.as_ref().map(AsFd::as_fd),
        stderr.as_ref().map(AsFd::as_fd),
    ];
    for pipe in pipes.into_iter().flatten() {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        give(&mut stdin, &mut input)?;
        // Looked at first: what it wrote before its end is in the pipes now. They may stay open
        // after that, in the hands of what it has started.
        let status = child.try_wait()?;
        take(&mut stdout, &mut out, keep)?;
        take(&mut stderr, &mut err, keep)?;
        if let Some(status) = status {
            return Ok(Some(Output { status, stdout: out, stderr: err }));
        }
        let mut left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut polls = Vec::with_capacity(4);
        let mut add = |fd, flags| polls.push(PollFd::new(fd, flags));
        match &end {
            Some(end) => add(end.as_fd(), PollFlags::POLLIN),
            None => left = left.min(LOOK_EVERY),
        }
        stdin.iter().for_each(|pipe| add(pipe.as_fd(), PollFlags::POLLOUT));
        stdout.iter().for_each(|pipe| add(pipe.as_fd(), PollFlags::POLLIN));
        stderr.iter().for_each(|pipe| add(pipe.as_fd(), PollFlags::POLLIN));
        match poll(&mut polls, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Writes what fits, and closes the pipe after the last of it.
fn give(pipe: &mut Option<ChildStdin>, input: &mut &[u8]) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    match open.write(input) {
        Ok(n) => *input = &input[n..],
        Err(err) if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
        // A child that does not read to the end says why on its standard error.
        Err(err) if err.kind() == ErrorKind::BrokenPipe => *input = &[],
        Err(err) => return Err(err),
    }
    if input.is_empty() {
        *pipe = None;
    }
    Ok(())
}

/// Reads what is there, and closes the pipe at its end.
fn take<R: Read + Into<OwnedFd>>(
    pipe: &mut Option<R>,
    into: &mut Vec<u8>,
    keep: usize,
) -> io::Result<()> {
    let mut buf = [0; 4096];
    while let Some(open) = pipe {
        match open.read(&mut buf) {
            Ok(0) => *pipe = None,
            Ok(n) => {
                let room = keep.saturating_sub(into.len());
                into.extend_from_slice(&buf[..n.min(room)]);
            }
            Err(err) if err.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// Kills a child with its group. It is not reaped before, so its number is its own.
fn end(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    if let Err(err) = killpg(group, Signal::SIGKILL) {
        log::debug!("cannot kill process group {group}: {err}");
    }
    let until = Instant::now() + KILLED_WAIT;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        let pause = PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::ZERO);
        if poll(&mut [], pause).is_err() {
            // A signal came: looks again sooner.
        }
    }
}

/// A program that never ends, whatever its arguments.
#[cfg(test)]
pub(super) fn program_that_stands_still(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("skep-{name}-{}", std::process::id()));
    // By a process of its own: no other thread can then hold it open for writing (ETXTBSY).
    let script = "printf '#!/bin/sh\\nsleep 1000\\n' > $0 && chmod +x $0";
    let made = Command::new("sh").args(["-c", script]).arg(&path).status();
    assert!(made.is_ok_and(|status| status.success()), "{path:?}");
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_input_and_status() {
        let done = run(&mut shell("echo out; echo err >&2; exit 3"), b"", LONG).unwrap();
        assert_eq!((&done.stdout[..], &done.stderr[..]), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(done.status.code(), Some(3));
        let input = vec![b'x'; 1 << 20];
        assert_eq!(run(&mut Command::new("cat"), &input, LONG).unwrap().stdout, input);
        // One that does not read is no error here.
        assert!(run(&mut shell("exec <&-; sleep 0.1"), &input, LONG).unwrap().status.success());
        assert!(matches!(run(&mut Command::new("/nonexistent"), b"", LONG), Err(ChildError::Io(_))));
    }

    #[test]
    fn what_it_leaves_behind_is_not_waited_for() {
        let begun = Instant::now();
        let done = run(&mut shell("sleep 30 & echo $!"), b"", LONG).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let pid: i32 = String::from_utf8(done.stdout).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn one_that_takes_too_long_is_killed_with_all_of_its_processes() {
        let name = format!("1{}", std::process::id());
        let limit = Duration::from_millis(300);
        // It reads nothing, so its input does not end either.
        let late = run(&mut shell(&format!("sleep {name} & sleep {name}")), &vec![0; 1 << 20], limit);
        assert!(matches!(late, Err(ChildError::Late(_))), "{late:?}");
        let until = Instant::now() + LONG;
        while Command::new("pgrep").args(["-fx", &format!("sleep {name}")]).status().unwrap().success() {
            assert!(Instant::now() < until, "sleep {name} lives on");
        }
    }
}
