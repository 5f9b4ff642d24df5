//! How a proxy begins and ends: arguments, detaching, the lock of its exec root, limits.
//!
//! With `--detach` the caller's child waits until the proxy listens, or failed, and exits with
//! that: whoever started it needs no other sign, and no zombie is left.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argh::FromArgs;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

use crate::base::id::TaskId;
use crate::host::seqpacket::{Channel, ControlError, Deadline, listen_at};
use crate::model::control::{BUILD_CHARS_MAX, Message, PortError};
use crate::model::route::{Backend, BadRoute, LISTENERS_MAX, ListenKey, Listener};
use crate::model::service::{Protocol, PublishMode};
use crate::proxy::engine::{Engine, Limits, Tag};
use crate::proxy::pump::PIPES_MAX;
use crate::proxy::takeover;

/// TCP connections of one proxy, where memory and descriptors allow.
const FLOWS_MAX: usize = 65_536;

/// UDP clients remembered.
const SESSIONS_MAX: usize = 8_192;

/// Descriptors for everything else.
const SPARE_DESCRIPTORS: usize = 128;

/// How long the old proxy may take to hand over.
const TAKEOVER: Duration = Duration::from_secs(5);

/// Bytes of log that one process writes at most.
const LOG_BYTES_MAX: usize = 64 * 1024;

/// Ends after the daemon's and the shims', which can be had again.
const OOM_SCORE_ADJ: &str = "-950";

/// The data plane of a node: carries published ports. Started by the daemon.
#[derive(FromArgs, Debug)]
#[argh(name = "proxy")]
struct Args {
    /// the control socket, in the exec root
    #[argh(option)]
    control: PathBuf,

    /// name of this build
    #[argh(option, default = "env!(\"CARGO_PKG_VERSION\").to_owned()")]
    build: String,

    /// take the sockets of the running proxy over
    #[argh(switch)]
    takeover: bool,

    /// go to the background once it listens
    #[argh(switch)]
    detach: bool,

    /// a cgroup.procs file to enter (several times: one for each hierarchy)
    #[argh(option)]
    cgroup: Vec<PathBuf>,

    /// file for its few messages; they go nowhere without it
    #[argh(option)]
    log: Option<PathBuf>,

    /// a route to begin with, [IP:]PORT[/udp]=IP:PORT[,IP:PORT...] (several times)
    #[argh(option, from_str_fn(parse_route))]
    route: Vec<Listener>,

    /// tcp connections at once
    #[argh(option, default = "FLOWS_MAX")]
    max_flows: usize,

    /// udp clients at once
    #[argh(option, default = "SESSIONS_MAX")]
    max_sessions: usize,
}

/// Why a proxy did not begin, or ended.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot {doing}")]
    Call { doing: &'static str, source: Errno },
    #[error("cannot use {path}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("another proxy already serves {0}")]
    Locked(PathBuf),
    #[error("cannot open the control socket")]
    Control(#[source] ControlError),
    #[error("cannot take over from the running proxy")]
    TakeOver(#[source] ControlError),
    #[error("cannot begin with these routes")]
    Route(#[source] BadRoute),
    #[error("{0}")]
    Port(PortError),
    #[error("the build's name has more than {BUILD_CHARS_MAX} characters")]
    Build,
    #[error("the limits of connections and clients must be at least 1")]
    Limits,
}

/// The proxy's face: `arguments` are those after `skep proxy`.
#[must_use]
pub fn run(arguments: &[&str]) -> ExitCode {
    let args = match Args::from_args(&["skep proxy"], arguments) {
        Ok(mut args) => {
            // The directory is left when it goes to the background.
            for path in [Some(&mut args.control), args.log.as_mut()].into_iter().flatten() {
                if let Ok(absolute) = std::path::absolute(&*path) {
                    *path = absolute;
                }
            }
            args
        }
        Err(early) => {
            if early.status.is_err() {
                say(&early.output);
                return ExitCode::from(125);
            }
            return match std::io::stdout().write_all(early.output.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    // The daemon blocks the signals it waits for, and children inherit that: a proxy with SIGTERM
    // blocked would hold up the machine's shutdown for 90 s.
    if let Err(e) = SigSet::empty().thread_set_mask() {
        say(&chain(&StartError::Call { doing: "unblock signals", source: e }));
        return ExitCode::FAILURE;
    }
    let result = if args.detach { detach(&args) } else { serve(&args, |()| Ok(())) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            say(&chain(&e));
            ExitCode::FAILURE
        }
    }
}

/// Forks; the parent ends when the child listens or has failed.
fn detach(args: &Args) -> Result<(), StartError> {
    // SAFETY: nothing but the standard streams is used by this process so far.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let (mut wait, tell) = {
        let (wait, tell) = pipe2(OFlag::O_CLOEXEC).map_err(call("make a pipe"))?;
        (std::fs::File::from(wait), std::fs::File::from(tell))
    };
    // SAFETY: the process has one thread.
    match unsafe { fork() }.map_err(call("fork"))? {
        ForkResult::Parent { .. } => {
            drop(tell);
            let mut text = String::new();
            wait.read_to_string(&mut text).map_err(file(Path::new("the child's pipe")))?;
            if text == READY {
                return Ok(());
            }
            say(&text);
            // SAFETY: ends this process at once; what it held belongs to the child as well.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Child => {
            drop(wait);
            let mut told = Some(tell);
            let ready = |()| match told.take() {
                Some(mut tell) => tell.write_all(READY.as_bytes()).map_err(file(&args.control)),
                None => Ok(()),
            };
            if let Err(e) = background(args).and_then(|()| serve(args, ready)) {
                let text = chain(&e);
                log::error!("{text}");
                if let Some(mut tell) = told
                    && let Err(e) = tell.write_all(text.as_bytes())
                {
                    log::error!("nobody waits: {e}");
                }
                return Err(e);
            }
            Ok(())
        }
    }
}

const READY: &str = "ready";

/// A session of its own, no terminal, no directory held.
fn background(args: &Args) -> Result<(), StartError> {
    setsid().map_err(call("start a session"))?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(call("open /dev/null"))?;
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    let log = match &args.log {
        Some(path) => open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| StartError::File { path: path.clone(), source: errno.into() })?,
        None => null.try_clone().map_err(file(Path::new("/dev/null")))?,
    };
    dup2_stdin(&null).map_err(call("close the input"))?;
    dup2_stdout(&null).map_err(call("close the output"))?;
    dup2_stderr(&log).map_err(call("open the log"))?;
    nix::unistd::chdir("/").map_err(call("leave the directory"))
}

/// Serves until told to end.
fn serve(
    args: &Args,
    mut ready: impl FnMut(()) -> Result<(), StartError>,
) -> Result<(), StartError> {
    if args.build.chars().count() > BUILD_CHARS_MAX {
        return Err(StartError::Build);
    }
    if args.max_flows == 0 || args.max_sessions == 0 {
        return Err(StartError::Limits);
    }
    // A second logger is only set by tests, which have their own.
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    for path in &args.cgroup {
        std::fs::write(path, "0").map_err(file(path))?;
    }
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ) {
        log::debug!("this process may be ended when memory is short: {e}");
    }
    let limits = limits(args)?;
    let mut engine = Engine::new(limits).map_err(call("make an event queue"))?;
    engine.control.build.clone_from(&args.build);
    let before = if args.takeover {
        let until = Deadline::after(TAKEOVER);
        let inheritance =
            takeover::ask(&args.control, &args.build, until).map_err(StartError::TakeOver)?;
        Some((engine.inherit(inheritance), until))
    } else {
        engine.control.lock = Some(lock(&args.control)?);
        None
    };
    first_routes(&mut engine, &args.route)?;
    let listener = listen_at(&args.control).map_err(StartError::Control)?;
    let event = EpollEvent::new(EpollFlags::EPOLLIN, Tag::Control.into());
    engine.epoll.add(listener.as_fd(), event).map_err(call("watch the control socket"))?;
    engine.control.listener = Some(listener);
    engine.control.path = Some(args.control.clone());
    if let Some((channel, until)) = before {
        leave_to_us(&channel, until);
        engine.control.predecessors.push(channel);
    }
    ready(())?;
    let ended = engine.run_loop().map_err(call("wait for events"));
    if let Some(path) = &engine.control.path
        && let Err(e) = std::fs::remove_file(path)
    {
        log::warn!("{}: {e}", path.display());
    }
    ended
}

/// The routes of the command line, in force until the daemon tells others.
fn first_routes(engine: &mut Engine, routes: &[Listener]) -> Result<(), StartError> {
    if routes.is_empty() {
        return Ok(());
    }
    let mut table = engine.table.clone();
    for listener in routes {
        table.insert(listener.clone()).map_err(StartError::Route)?;
    }
    match engine.apply(table, engine.version).errors.first() {
        Some(error) => Err(StartError::Port(*error)),
        None => Ok(()),
    }
}

fn parse_route(text: &str) -> Result<Listener, String> {
    let bad = || format!("{text:?} is not a route: [IP:]PORT[/udp]=IP:PORT[,IP:PORT...] is");
    let (left, right) = text.split_once('=').ok_or_else(bad)?;
    let (at, protocol) = match left.split_once('/') {
        None | Some((_, "tcp")) => (left.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((at, "udp")) => (at, Protocol::Udp),
        Some(_) => return Err(bad()),
    };
    let key = match at.parse::<u16>() {
        Ok(port) => ListenKey::any(port, protocol),
        Err(_) => {
            let addr: SocketAddr = at.parse().map_err(|_not| bad())?;
            ListenKey { ip: Some(addr.ip()), port: addr.port(), protocol }
        }
    };
    let mut backends = Vec::new();
    for (number, addr) in (1u128..).zip(right.split(',')) {
        let addr = addr.parse().map_err(|_not| bad())?;
        backends.push(Backend { task: TaskId::new(number), addr });
    }
    Ok(Listener { key, mode: PublishMode::Ingress, backends })
}

/// Tells the old proxy that this one listens. When it does not answer it has ended, or will find
/// out: both accept meanwhile and no client is lost.
fn leave_to_us(channel: &Channel, until: Deadline) {
    let told = channel.send(&Message::TookOver, until).and_then(|()| channel.recv(until));
    match told.map(|received| received.message) {
        Ok(Message::Bye) => {}
        Ok(other) => log::warn!("the proxy before this one answered {other:?}"),
        Err(e) => log::warn!("the proxy before this one: {e}"),
    }
}

/// Takes the exec root, or says that another proxy has it.
fn lock(control: &Path) -> Result<OwnedFd, StartError> {
    let path = control.with_extension("lock");
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    let fd = open(&path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|errno| StartError::File { path: path.clone(), source: errno.into() })?;
    // SAFETY: the descriptor is open. The lock belongs to the open file, so that it is handed over
    // with the descriptor; nix's own lock type would release it when it is dropped.
    let done = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match Errno::result(done) {
        Ok(_) => Ok(fd),
        Err(Errno::EWOULDBLOCK) => Err(StartError::Locked(control.to_owned())),
        Err(errno) => Err(StartError::File { path, source: errno.into() }),
    }
}

/// Raises the limit of descriptors as far as it goes and fits the others into it.
fn limits(args: &Args) -> Result<Limits, StartError> {
    let fixed = LISTENERS_MAX + 2 * PIPES_MAX + SPARE_DESCRIPTORS;
    let wanted = (2 * args.max_flows + args.max_sessions + fixed) as u64;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(call("read the limits"))?;
    let mut given = soft;
    if soft < wanted {
        for (soft, hard) in [(wanted, hard.max(wanted)), (hard, hard)] {
            if setrlimit(Resource::RLIMIT_NOFILE, soft, hard).is_ok() {
                given = soft;
                break;
            }
        }
    }
    let given = usize::try_from(given).unwrap_or(usize::MAX);
    let flows = given.saturating_sub(args.max_sessions + fixed) / 2;
    Ok(Limits { flows: args.max_flows.min(flows.max(16)), sessions: args.max_sessions })
}

fn call(doing: &'static str) -> impl Fn(Errno) -> StartError {
    move |source| StartError::Call { doing, source }
}

fn file(path: &Path) -> impl Fn(std::io::Error) -> StartError {
    move |source| StartError::File { path: path.to_owned(), source }
}

/// An error with what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn say(text: &str) {
    let line = format!("{}\n", text.trim_end());
    if std::io::stderr().write_all(line.as_bytes()).is_err() {
        // There is nobody left to tell.
    }
}

/// Warnings and errors, until there were too many.
#[derive(Debug)]
struct Stderr {
    written: AtomicUsize,
}

static LOGGER: Stderr = Stderr { written: AtomicUsize::new(0) };

impl log::Log for Stderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let text = format!("proxy {}: {}", std::process::id(), record.args());
        if self.written.fetch_add(text.len(), Ordering::Relaxed) < LOG_BYTES_MAX {
            say(&text);
        }
    }

    fn flush(&self) {}
}
