//! Starts a daemon that outlives the command that starts it, and waits until it is ready: through
//! systemd where that is process 1, otherwise as a process of its own session with a log file.
//!
//! A detached daemon says that it is ready as it would to systemd, over a socket that this side
//! listens on for as long as it waits. Its log is `daemon.log` under the exec root, in memory on
//! most machines: a card is not worn by words, and the logger bounds the file's size.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use super::net::{DATA_ROOT_DEFAULT, Names};
use super::systemd::{self, SystemdError};
use super::{entropy, notify};

/// The daemon's own default.
const EXEC_ROOT_DEFAULT: &str = "/run/skep";

/// How long a daemon may take until it is ready: a slow card replays a log.
const READY_WAIT: Duration = Duration::from_secs(120);

/// How often the wait looks whether the daemon still lives.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How much of the log's end is shown when the daemon ends early.
const LOG_BYTES_SHOWN: u64 = 2048;

/// Open files, as in `skep.service`: what programs are written for, and what they may raise it to.
const FILES_SOFT: u64 = 1024;
const FILES_HARD: u64 = 1_048_576;

/// How readily the kernel ends the daemon for want of memory: a container goes first.
const OOM_SCORE: &[u8] = b"-500";

/// Which daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonOptions {
    /// The binary.
    pub exe: PathBuf,
    /// The socket, as `unix:///run/skep/skep.sock`.
    pub host: String,
    /// The daemon's default when absent.
    pub data_root: Option<PathBuf>,
    /// The daemon's default when absent.
    pub exec_root: Option<PathBuf>,
}

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not root.
    #[error("the daemon needs root (run: sudo skep init)")]
    NotRoot,
    /// systemd did not start it.
    #[error("systemd did not start it")]
    Systemd(#[source] SystemdError),
    /// A file or folder under the exec root.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The socket that the daemon reports to.
    #[error("cannot make the socket on which the daemon reports")]
    Report(#[source] io::Error),
    /// The binary cannot be run.
    #[error("cannot run {exe}", exe = .exe.display())]
    Spawn {
        /// Which binary.
        exe: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("it ended with {status}: {said} (log: {log})", log = .log.display())]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        said: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// It runs and is not ready.
    #[error(
        "it runs as process {pid} and is not ready after {} s: {said} (log: {log})",
        READY_WAIT.as_secs(), log = .log.display()
    )]
    NotReady {
        /// Its process.
        pid: u32,
        /// The end of its log.
        said: String,
        /// Where the rest is.
        log: PathBuf,
    },
}

/// Starts the daemon and waits until it is ready.
///
/// # Errors
/// Why it is not.
pub fn start_daemon(options: &DaemonOptions) -> Result<(), StartError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    if systemd::is_booted() {
        systemd::start(&unit_name(options), &command(options), &options.host).map_err(StartError::Systemd)
    } else {
        start_detached(options)
    }
}

/// Starts the daemon in a session of its own and waits until it is ready.
///
/// # Errors
/// Why it is not.
pub fn start_detached(options: &DaemonOptions) -> Result<(), StartError> {
    let exec_root = options.exec_root.as_deref().unwrap_or(Path::new(EXEC_ROOT_DEFAULT));
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| StartError::File { doing, path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(exec_root)
        .map_err(failed("create", exec_root))?;
    let log = exec_root.join("daemon.log");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(&log)
        .map_err(failed("open", &log))?;
    let begin = file.metadata().map_err(failed("examine", &log))?.len();
    let copy = file.try_clone().map_err(failed("open", &log))?;
    let (report, name) = report_socket().map_err(StartError::Report)?;
    let words = command(options);
    let mut daemon = Command::new(&options.exe);
    daemon.args(&words[1..]).current_dir("/").stdin(Stdio::null()).stdout(copy).stderr(file);
    for variable in notify::VARIABLES {
        daemon.env_remove(variable);
    }
    daemon.env("NOTIFY_SOCKET", name);
    // SAFETY: between fork and exec there are only system calls here, and nothing is allocated.
    unsafe {
        daemon.pre_exec(|| {
            set_limits();
            nix::unistd::setsid().map(|_| ()).map_err(io::Error::from)
        });
    }
    let spawn = |source| StartError::Spawn { exe: options.exe.clone(), source };
    let child = daemon.spawn().map_err(spawn)?;
    wait_until_ready(child, &report, &log, begin)
}

/// What `skep.service` sets, as far as it is allowed: containers inherit it, so they must not
/// depend on the shell that the daemon was started from. Runs between fork and exec.
fn set_limits() {
    let infinity = nix::libc::RLIM_INFINITY;
    for (resource, soft, hard) in [
        (Resource::RLIMIT_NOFILE, FILES_SOFT, FILES_HARD),
        (Resource::RLIMIT_NPROC, infinity, infinity),
        (Resource::RLIMIT_CORE, infinity, infinity),
    ] {
        if setrlimit(resource, soft, hard).is_ok() {
            continue;
        }
        // A container's root may raise nothing.
        if let Ok((_, hard)) = getrlimit(resource)
            && setrlimit(resource, soft.min(hard), hard).is_err()
        {
            // What it has is as good as it gets.
        }
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(c"/proc/self/oom_score_adj", flags, Mode::empty());
    if let Ok(file) = file
        && nix::unistd::write(&file, OOM_SCORE).is_err()
    {
        // Only less safe.
    }
}

fn wait_until_ready(
    mut child: Child,
    report: &UnixDatagram,
    log: &Path,
    begin: u64,
) -> Result<(), StartError> {
    let mut waited = Duration::ZERO;
    let mut buffer = [0; 4096];
    while waited < READY_WAIT {
        match report.recv(&mut buffer) {
            Ok(len) if is_ready(&buffer[..len]) => return Ok(()),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => waited += LOOK_EVERY,
            Err(error) => return Err(StartError::Report(error)),
        }
        let gone = child.try_wait().map_err(StartError::Report)?;
        if let Some(status) = gone {
            return Err(StartError::Ended { status, said: tail(log, begin), log: log.to_owned() });
        }
    }
    Err(StartError::NotReady { pid: child.id(), said: tail(log, begin), log: log.to_owned() })
}

/// A socket with a name that only the daemon learns.
fn report_socket() -> io::Result<(UnixDatagram, String)> {
    let name = format!("skep-start-{:032x}", entropy::u128()?);
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    socket.set_read_timeout(Some(LOOK_EVERY))?;
    Ok((socket, format!("@{name}")))
}

fn is_ready(message: &[u8]) -> bool {
    message.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// What this start has written to the log, or the end of it.
fn tail(log: &Path, begin: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let len = file.metadata()?.len();
        // A log that was turned over meanwhile is shorter than where this start began.
        let begin = if begin > len { 0 } else { begin };
        file.seek(SeekFrom::Start(begin.max(len.saturating_sub(LOG_BYTES_SHOWN))))?;
        let mut text = Vec::new();
        file.take(LOG_BYTES_SHOWN).read_to_end(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) if text.is_empty() => "it said nothing".to_owned(),
        Ok(text) => String::from_utf8_lossy(&text).trim().replace('\n', "; "),
        Err(error) => format!("its log cannot be read: {error}"),
    }
}

/// The binary and the arguments that differ from the daemon's defaults.
fn command(options: &DaemonOptions) -> Vec<String> {
    let mut words = vec![options.exe.display().to_string(), "daemon".to_owned()];
    for (flag, value) in
        [("--data-root", &options.data_root), ("--exec-root", &options.exec_root)]
    {
        if let Some(value) = value {
            words.extend([flag.to_owned(), value.display().to_string()]);
        }
    }
    let exec_root = options.exec_root.as_deref().unwrap_or(Path::new(EXEC_ROOT_DEFAULT));
    if options.host != format!("unix://{}/skep.sock", exec_root.display()) {
        words.extend(["-H".to_owned(), options.host.clone()]);
    }
    words
}

/// `skep` for the daemon with the default root, another name for each other one.
fn unit_name(options: &DaemonOptions) -> String {
    match options.data_root.as_deref() {
        Some(root) if root != Path::new(DATA_ROOT_DEFAULT) => {
            format!("skep-{}", Names::new(root).tag)
        }
        Some(_) | None => "skep".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(exe: &str, root: &Path) -> DaemonOptions {
        DaemonOptions {
            exe: exe.into(),
            host: format!("unix://{}/skep.sock", root.display()),
            data_root: Some(root.join("data")),
            exec_root: Some(root.to_owned()),
        }
    }

    #[test]
    fn only_what_differs_is_said() {
        let plain = DaemonOptions {
            exe: "/usr/bin/skep".into(),
            host: "unix:///run/skep/skep.sock".to_owned(),
            data_root: None,
            exec_root: None,
        };
        assert_eq!(command(&plain), ["/usr/bin/skep", "daemon"]);
        assert_eq!(unit_name(&plain), "skep");
        let other = DaemonOptions { host: "unix:///x.sock".to_owned(), ..plain };
        assert_eq!(command(&other), ["/usr/bin/skep", "daemon", "-H", "unix:///x.sock"]);
        let named = options("/usr/bin/skep", Path::new("/srv/two"));
        assert_eq!(command(&named).len(), 6);
        assert_ne!(unit_name(&named), "skep");
    }

    #[test]
    fn it_has_the_limits_of_the_unit() {
        let root = std::env::temp_dir().join(format!("skep-start-limits-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let binary = root.join("binary");
        let script = "#!/bin/sh\nexec >&2\necho files $(ulimit -Sn) $(ulimit -Hn)\n\
                      echo oom $(cat /proc/self/oom_score_adj)\nexit 3\n";
        std::fs::write(&binary, script).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&binary, mode).unwrap();
        let said = start_detached(&options(binary.to_str().unwrap(), &root)).unwrap_err();
        let said = said.to_string();
        std::fs::remove_dir_all(&root).unwrap();
        // A machine may refuse even root a higher limit, and a lower score.
        let most = ["-c", "ulimit -Hn 1048576 2>/dev/null; ulimit -Hn"];
        let most = Command::new("sh").args(most).output().unwrap();
        let most = String::from_utf8(most.stdout).unwrap();
        assert!(said.contains(&format!("files 1024 {};", most.trim())), "{said}");
        let lower = "echo -500 2>/dev/null >/proc/self/oom_score_adj";
        let lower = Command::new("sh").args(["-c", lower]).stderr(Stdio::null()).status();
        assert_eq!(said.contains("oom -500"), lower.unwrap().success(), "{said}");
    }

    #[test]
    fn a_daemon_that_ends_early_is_quoted() {
        let root = std::env::temp_dir().join(format!("skep-start-{}", std::process::id()));
        let binary = root.join("binary");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(&binary, "#!/bin/sh\necho no luck today >&2\nexit 3\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&binary, mode).unwrap();
        let error = start_detached(&options(binary.to_str().unwrap(), &root)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3: no luck today"), "{text}");
        let missing = start_detached(&options("/nonexistent/skep", &root)).unwrap_err();
        assert!(matches!(missing, StartError::Spawn { .. }));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn ready_is_a_line_of_its_own() {
        assert!(is_ready(b"STATUS=x\nREADY=1\n"));
        assert!(!is_ready(b"STATUS=READY=1\n") && !is_ready(b""));
    }
}
