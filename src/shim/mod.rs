//! The process that sits by each container: `skep shim`.
//!
//! It becomes the subreaper, runs `runc create` and `runc start`, holds the container's standard
//! streams, reaps it, writes the log and the exit record, and outlives the daemon. It is one poll
//! loop without threads. It decides nothing: restarts, time limits and removal are the daemon's.
//!
//! Invariants:
//! - The lock that came in as standard input is held until the shim ends, so whoever can take it
//!   knows that there is no shim.
//! - The container's first process is the shim's child until it is reaped, so a signal never
//!   reaches another process.
//! - After the container's end the shim stays until its exit record is durable.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::base::id::TaskId;

mod child;
mod clients;
mod container;
pub mod init;
mod log;
mod record;

/// The soft limit of open files that containers get, as in `skep.service`.
const FILES_SOFT: u64 = 1024;

/// What a shim is started with: `skep shim KEY VALUE KEY VALUE…`. Its standard input is the lock,
/// its standard output is told `ready` or what went wrong.
#[derive(Debug)]
struct Args {
    task: TaskId,
    /// The task's folder below the exec root: bundle, socket, runc's own log.
    dir: PathBuf,
    runc: PathBuf,
    runc_root: PathBuf,
    /// Where the exit record goes.
    record: PathBuf,
    log: Option<PathBuf>,
    log_max_bytes: u64,
    log_max_files: u32,
    /// The file of the container's memory cgroup with a line `oom_kill N`.
    oom: Option<PathBuf>,
    tty: bool,
    /// How long `runc create` and `runc start` may take.
    create_limit: Duration,
    start_limit: Duration,
}

/// What keeps a shim from starting. The daemon shows it to the user.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("cannot start the shim: bad argument {0:?}")]
    Argument(OsString),
    #[error("cannot start the shim: missing argument {0}")]
    Missing(&'static str),
    #[error("cannot start the shim: {doing}: {source}")]
    System { doing: &'static str, source: nix::errno::Errno },
}

/// The face `skep shim`: `args` are the words after it.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match set_up(args) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(container)) => container.run(),
        Err(err) => {
            tell(&err.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Sets the limit of open files back from what the daemon raised its own to: containers inherit
/// this one, and programs are written for it. They may raise it as far as the daemon could.
fn lower_files() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, FILES_SOFT.min(hard), hard)
}

/// Says `text` to whoever started the shim; that it is gone is no harm.
fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody listens: the daemon ended, and its successor asks over the socket.
    }
}

fn system(doing: &'static str) -> impl Fn(nix::errno::Errno) -> SetupError {
    move |source| SetupError::System { doing, source }
}

/// Leaves the daemon's session and process tree and opens what the loop needs. None in the first
/// of the two processes, whose work is done when the second runs.
fn set_up(
    args: impl IntoIterator<Item = OsString>,
) -> Result<Option<container::Container>, SetupError> {
    let args = parse(args)?;
    lower_files().map_err(system("set the limit of open files"))?;
    close_inherited().map_err(system("close inherited descriptors"))?;
    // SAFETY: there is one thread, so the child may go on as the parent would have.
    match unsafe { nix::unistd::fork() }.map_err(system("fork"))? {
        nix::unistd::ForkResult::Parent { .. } => return Ok(None),
        nix::unistd::ForkResult::Child => {}
    }
    nix::unistd::setsid().map_err(system("start a session"))?;
    nix::unistd::chdir("/").map_err(system("change to /"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_child_subreaper(true).map_err(system("become subreaper"))?;
    if let Err(err) = std::fs::write("/proc/self/oom_score_adj", "-999") {
        // Only less safe, and not allowed in every sandbox.
        drop(err);
    }
    reset_signals();
    let signals = block_signals().map_err(system("set up signals"))?;
    let null = nix::fcntl::open(
        "/dev/null",
        nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .map_err(system("open /dev/null"))?;
    let lock = take_lock(&null).map_err(system("keep the lock"))?;
    let listener = clients::Clients::listen(&args.dir).map_err(system("listen"))?;
    let container = container::Container::new(args, signals, listener, lock)?;
    tell("ready");
    nix::unistd::dup2_stdout(&null).map_err(system("close standard output"))?;
    nix::unistd::dup2_stderr(&null).map_err(system("close standard error"))?;
    Ok(Some(container))
}

/// Closes what a careless caller left open beyond the standard streams.
fn close_inherited() -> nix::Result<()> {
    // SAFETY: nothing of this process has opened a descriptor yet, so none in use is closed.
    let done = unsafe { nix::libc::syscall(nix::libc::SYS_close_range, 3, u32::MAX, 0) };
    match nix::errno::Errno::result(done) {
        // Kernels before 5.9: the daemon opens everything with O_CLOEXEC.
        Ok(_) | Err(nix::errno::Errno::ENOSYS) => Ok(()),
        Err(err) => Err(err),
    }
}

/// Child ends come as reads; what would end or stop the shim is ignored, since it must see its
/// container's end.
fn block_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGPIPE,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTSTP,
    ] {
        mask.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Makes what `command` runs begin with no signal blocked: children inherit the mask.
fn unblock_signals(command: &mut Command) {
    let unblock = || {
        let none = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None).map_err(std::io::Error::from)
    };
    // SAFETY: the closure runs between fork and exec and makes one system call, no allocation.
    unsafe { command.pre_exec(unblock) };
}

/// Gives every signal its default effect again: what the daemon was started with ignored (by
/// `nohup`, say) would be ignored in every container.
fn reset_signals() {
    const LAST: i32 = 64;
    // The kernel's own structure, all zero: default effect, no flags, empty mask. The C library
    // refuses to touch its internal signals, which its posix_spawn leaves ignored.
    let default = [0u64; 8];
    let mask_bytes: usize = 8;
    for number in 1..=LAST {
        // SAFETY: the pointer is to a zeroed structure that is longer than the kernel's, and only
        // read; no handler is set. Numbers that cannot be set are refused.
        unsafe {
            nix::libc::syscall(
                nix::libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                mask_bytes,
            )
        };
    }
}

/// Moves the lock from standard input to a descriptor that children do not get.
fn take_lock(null: &OwnedFd) -> nix::Result<OwnedFd> {
    let lock = std::io::stdin().as_fd().try_clone_to_owned();
    let lock = lock.map_err(|err| nix::errno::Errno::from_raw(err.raw_os_error().unwrap_or(0)))?;
    nix::unistd::dup2_stdin(null)?;
    Ok(lock)
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, SetupError> {
    let mut words = args.into_iter();
    let mut pairs: Vec<(OsString, OsString)> = Vec::with_capacity(10);
    while let Some(key) = words.next() {
        let Some(value) = words.next() else { return Err(SetupError::Argument(key)) };
        pairs.push((key, value));
    }
    let find = |key: &'static str| {
        pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_os_str())
    };
    let path = |key| find(key).map(PathBuf::from).ok_or(SetupError::Missing(key));
    Ok(Args {
        task: number(find("task"), "task")?,
        dir: path("dir")?,
        runc: path("runc")?,
        runc_root: path("runc-root")?,
        record: path("record")?,
        log: find("log").map(PathBuf::from),
        log_max_bytes: number(find("log-max-bytes"), "log-max-bytes")?,
        log_max_files: number(find("log-max-files"), "log-max-files")?,
        oom: find("oom").map(PathBuf::from),
        create_limit: Duration::from_secs(number(find("create-seconds"), "create-seconds")?),
        start_limit: Duration::from_secs(number(find("start-seconds"), "start-seconds")?),
        tty: find("tty").is_some_and(|value| value.as_bytes() == b"1"),
    })
}

fn number<T: FromStr>(value: Option<&OsStr>, key: &'static str) -> Result<T, SetupError> {
    let value = value.ok_or(SetupError::Missing(key))?;
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| SetupError::Argument(value.to_owned()))
}

/// The path of `name` in the folder `dir`, in a form short enough for a socket address.
fn short_path(dir: &OwnedFd, name: &str) -> String {
    format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn arguments() {
        let all = "task 0000000000000000000000001 dir /d runc /r runc-root /rr record /x \
                   log-max-bytes 5 log-max-files 2 tty 1 create-seconds 9 start-seconds 8";
        let args = parse(words(all)).unwrap();
        assert_eq!((args.task, args.log_max_bytes, args.tty), (TaskId::new(1), 5, true));
        assert_eq!(args.log, None);
        assert!(parse(words("task")).is_err());
        assert!(parse(words(&all.replace("runc-root /rr ", ""))).is_err());
        assert!(parse(words(&all.replace("max-bytes 5", "max-bytes five"))).is_err());
    }
}
