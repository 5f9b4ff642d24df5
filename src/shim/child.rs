//! Running runc, and the pipes or the terminal it gives to the container.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

use super::Args;

/// runc's own log in the task's folder: JSON lines, the last error last.
const RUNC_LOG: &str = "runc.log";
/// Where runc leaves the number of the container's first process.
const PID_FILE: &str = "pid";
/// Where runc sends the terminal's master.
const CONSOLE_SOCKET: &str = "console.sock";

/// How much of runc's log is looked at for the error.
const LOG_BYTES_MAX: usize = 8 * 1024;

/// The container's ends of its standard streams, until runc has them.
#[derive(Debug)]
pub(super) enum Ends {
    Pipes { stdout: OwnedFd, stderr: OwnedFd },
    Console,
}

/// A pipe whose read end does not block.
pub(super) fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// The socket on which a terminal's master will come.
pub(super) fn console(dir: &Path) -> io::Result<UnixListener> {
    let path = dir.join(CONSOLE_SOCKET);
    match std::fs::remove_file(&path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    UnixListener::bind(path)
}

/// The terminal's master, which runc has sent before it ended.
pub(super) fn receive_master(listener: &UnixListener) -> io::Result<OwnedFd> {
    listener.set_nonblocking(true)?;
    let (stream, _) = listener.accept()?;
    let mut data = [0u8; 256];
    let mut iov = [io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([i32; 4]);
    let message = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel just made the descriptor for this message; nothing else owns it.
            let master = unsafe { OwnedFd::from_raw_fd(*fd) };
            fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            return Ok(master);
        }
    }
    Err(io::Error::from(io::ErrorKind::InvalidData))
}

/// Starts `runc create`, which leaves the container waiting for its start.
pub(super) fn create(args: &Args, ends: Ends) -> io::Result<Pid> {
    let mut runc = runc(args);
    runc.arg("create").arg("--bundle").arg(args.dir.join("bundle"));
    runc.arg("--pid-file").arg(args.dir.join(PID_FILE)).stdin(Stdio::null());
    match ends {
        Ends::Pipes { stdout, stderr } => {
            runc.stdout(stdout).stderr(stderr);
        }
        Ends::Console => {
            runc.arg("--console-socket").arg(args.dir.join(CONSOLE_SOCKET));
            runc.stdout(Stdio::null()).stderr(Stdio::null());
        }
    }
    spawn(runc.arg(args.task.to_string()))
}

/// Starts `runc start`.
pub(super) fn start(args: &Args) -> io::Result<Pid> {
    let mut runc = runc(args);
    runc.arg("start").arg(args.task.to_string());
    spawn(runc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

fn runc(args: &Args) -> Command {
    let mut runc = Command::new(&args.runc);
    runc.arg("--root").arg(&args.runc_root);
    runc.arg("--log").arg(args.dir.join(RUNC_LOG)).arg("--log-format").arg("json");
    runc
}

fn spawn(command: &mut Command) -> io::Result<Pid> {
    super::unblock_signals(command);
    // So that it can be killed with all that it has started.
    let child = command.process_group(0).spawn()?;
    Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)))
}

/// The first process of a container that runc has created.
pub(super) fn read_pid(dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(dir.join(PID_FILE)).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 1).map(Pid::from_raw)
}

/// What runc said went wrong: its last message at level `error`, without the frame around it.
pub(super) fn runc_error(dir: &Path, verb: &str) -> String {
    let text = std::fs::read(dir.join(RUNC_LOG)).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(LOG_BYTES_MAX)..];
    let tail = String::from_utf8_lossy(tail);
    let message = tail.lines().rev().find_map(|line| {
        line.contains("\"level\":\"error\"").then(|| json_field(line, "\"msg\":\"")).flatten()
    });
    match message {
        // Newer ones begin with the same words.
        Some(message) => {
            let frame = format!("runc {verb} failed: ");
            format!("{frame}{}", message.strip_prefix(&frame).unwrap_or(&message))
        }
        None => format!("runc {verb} failed and did not say why"),
    }
}

/// The text after `key` up to the closing quote, with the usual escapes resolved.
fn json_field(line: &str, key: &str) -> Option<String> {
    let rest = &line[line.find(key)? + key.len()..];
    let mut out = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' | 't' => out.push(' '),
                'u' => {
                    let hex: String = chars.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&hex, 16).ok()?;
                    out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
                }
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

/// Sets the size of the terminal behind `master`.
pub(super) fn resize(master: &OwnedFd, rows: u16, cols: u16) -> nix::Result<()> {
    let size = nix::libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, to which the pointer points.
    let done =
        unsafe { nix::libc::ioctl(master.as_fd().as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runcs_words_are_found() {
        let line = r#"{"level":"error","msg":"exec: \"nope\": not \u003cfound\u003e","time":"x"}"#;
        assert_eq!(json_field(line, "\"msg\":\"").unwrap(), "exec: \"nope\": not <found>");
        assert_eq!(json_field(r#"{"msg":"cut"#, "\"msg\":\""), None);
    }
}
