//! The container's life as its shim sees it, and the poll loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::child::{self, Ends};
use super::clients::Clients;
use super::log::{Log, Pumped, Stream};
use super::{Args, SetupError, record, system};
use crate::base::shim_wire::{
    Exit, KIND_RESIZE, KIND_SIGNAL, KIND_START, Phase, Reply, Request, State, Text,
};

/// How long after a failed try the exit record is written again.
const RECORD_RETRY_MS: u16 = 5_000;

/// Processes that ended before runc told which one is the container's.
const STRAYS_MAX: usize = 8;

/// One container and everything its shim holds for it.
pub(super) struct Container {
    args: Args,
    signals: SignalFd,
    clients: Clients,
    /// Held for its existence only.
    _lock: OwnedFd,
    streams: Vec<Stream>,
    log: Log,
    phase: Phase,
    /// runc, while it runs and has not taken too long.
    runc: Option<Runc>,
    /// Where the terminal's master comes from, until it is there.
    console: Option<UnixListener>,
    /// The container's first process.
    pid: Option<Pid>,
    started_us: u64,
    /// The container's end while runc still runs.
    ended: Option<Exit>,
    exit: Exit,
    record_saved: bool,
    dismissed: bool,
    text: Text,
    strays: Vec<(Pid, WaitStatus)>,
    /// Who waits for `runc start`.
    starters: Vec<u32>,
    requests: Vec<(u32, Request)>,
}

/// A runc that runs, the leader of its process group.
#[derive(Clone, Copy, Debug)]
struct Runc {
    pid: Pid,
    until: Instant,
    limit: Duration,
}

impl Runc {
    fn new(pid: Pid, limit: Duration) -> Self {
        Self { pid, until: Instant::now() + limit, limit }
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn errno(err: &io::Error) -> Errno {
    Errno::from_raw(err.raw_os_error().unwrap_or(nix::libc::EIO))
}

impl Container {
    /// Starts `runc create`.
    pub(super) fn new(
        args: Args,
        signals: SignalFd,
        clients: Clients,
        lock: OwnedFd,
    ) -> Result<Self, SetupError> {
        let mut streams = Vec::with_capacity(2);
        let (console, ends) = if args.tty {
            let listener = child::console(&args.dir);
            let listener = listener.map_err(|err| system("make a console socket")(errno(&err)))?;
            (Some(listener), Ends::Console)
        } else {
            let (out, stdout) = child::pipe().map_err(system("make a pipe"))?;
            let (err, stderr) = child::pipe().map_err(system("make a pipe"))?;
            streams.push(Stream::new(out, "stdout"));
            streams.push(Stream::new(err, "stderr"));
            (None, Ends::Pipes { stdout, stderr })
        };
        let runc = child::create(&args, ends);
        let (phase, runc, text) = match runc {
            Ok(pid) => {
                (Phase::Creating, Some(Runc::new(pid, args.create_limit)), Text::EMPTY)
            }
            Err(err) => {
                (Phase::Failed, None, Text::new(&format!("cannot run {:?}: {err}", args.runc)))
            }
        };
        let log = Log::new(args.log.clone(), args.log_max_bytes, args.log_max_files);
        Ok(Self {
            args,
            signals,
            clients,
            _lock: lock,
            streams,
            log,
            phase,
            runc,
            console,
            pid: None,
            started_us: 0,
            ended: None,
            exit: Exit::default(),
            record_saved: false,
            dismissed: false,
            text,
            strays: Vec::with_capacity(STRAYS_MAX),
            starters: Vec::new(),
            requests: Vec::new(),
        })
    }

    /// Until the container is over and nobody needs the shim any more.
    pub(super) fn run(mut self) -> ExitCode {
        while !self.may_leave() {
            self.turn();
        }
        ExitCode::SUCCESS
    }

    fn may_leave(&self) -> bool {
        match self.phase {
            Phase::Exited => self.record_saved && (self.dismissed || self.clients.none_left()),
            // Whoever started this shim has yet to connect and read why.
            Phase::Failed => {
                self.dismissed || (self.clients.had_one && self.clients.none_left())
            }
            Phase::Creating | Phase::Created | Phase::Starting | Phase::Running => false,
        }
    }

    /// One turn of the loop: wait, then the streams, the children, the clients.
    fn turn(&mut self) {
        if let Some(runc) = self.runc
            && Instant::now() >= runc.until
        {
            let limit = runc.limit.as_secs();
            return self.abandon_runc(&format!("did not end within {limit} s and was killed"));
        }
        // While runc creates, its own words are on the streams; they are no part of the log.
        let listen_to = if self.phase == Phase::Creating { 0 } else { self.streams.len() };
        let streams = self.streams[..listen_to].iter().map(|stream| stream.fd.as_fd());
        let fds = std::iter::once(self.signals.as_fd()).chain(streams).chain(self.clients.fds());
        let mut polls: Vec<PollFd<'_>> = fds.map(readable).collect();
        let unsaved = self.phase == Phase::Exited && !self.record_saved;
        let timeout = match self.runc {
            _ if unsaved => PollTimeout::from(RECORD_RETRY_MS),
            Some(runc) => {
                // Rounded up, or the last millisecond would be a busy one.
                let left = runc.until.saturating_duration_since(Instant::now());
                let left = left + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut polls, timeout) {
            Ok(0) if unsaved => return self.save_record(),
            Ok(_) => {}
            Err(_) => return,
        }
        let ready: Vec<bool> =
            polls.iter().map(|poll| poll.revents().is_none_or(|events| !events.is_empty())).collect();
        drop(polls);
        let (mut at, log) = (0, &mut self.log);
        self.streams.retain_mut(|stream| {
            at += 1;
            !ready.get(at).is_some_and(|ready| *ready && at <= listen_to)
                || stream.pump(log, now_ns()) == Pumped::Open
        });
        if ready[0] {
            self.reap();
        }
        // Who has gone makes room for who comes.
        if ready[2 + listen_to..].contains(&true) {
            self.serve();
        }
        if ready[1 + listen_to] {
            self.clients.accept();
        }
    }

    /// Takes note of every child that ended.
    fn reap(&mut self) {
        // The content does not matter: only ended children make a difference.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(status) => status,
                Err(_) => continue,
            };
            let Some(pid) = status.pid() else { continue };
            if self.runc.is_some_and(|runc| runc.pid == pid) {
                self.runc = None;
                self.runc_ended(matches!(status, WaitStatus::Exited(_, 0)));
            } else if Some(pid) == self.pid {
                self.container_ended(status);
            } else if self.phase == Phase::Creating && self.strays.len() < STRAYS_MAX {
                self.strays.push((pid, status));
            }
        }
    }

    fn runc_ended(&mut self, well: bool) {
        match self.phase {
            Phase::Creating => self.created(well),
            Phase::Starting if well => self.started(None),
            Phase::Starting => {
                let why = child::runc_error(&self.args.dir, "start");
                self.started(Some(&why));
            }
            Phase::Created | Phase::Running | Phase::Exited | Phase::Failed => {}
        }
    }

    fn created(&mut self, well: bool) {
        let pid = if well { child::read_pid(&self.args.dir) } else { None };
        let Some(pid) = pid else {
            return self.fail(&child::runc_error(&self.args.dir, "create"));
        };
        self.pid = Some(pid);
        if let Some(listener) = self.console.take() {
            match child::receive_master(&listener) {
                Ok(master) => self.streams.push(Stream::new(master, "stdout")),
                Err(err) => {
                    // Without its terminal the container is of no use: it ends, and is reaped as
                    // a stray of the failed phase.
                    let killed = self.signal(nix::libc::SIGKILL);
                    debug_assert!(killed.is_ok(), "it is a child that is not reaped");
                    return self.fail(&format!("runc gave no terminal: {err}"));
                }
            }
        }
        self.phase = Phase::Created;
        self.publish();
        if let Some(at) = self.strays.iter().position(|(stray, _)| *stray == pid) {
            let (_, status) = self.strays.swap_remove(at);
            self.container_ended(status);
        }
        self.strays.clear();
    }

    /// Kills the runc that runs, with what it has started. What it was to do has failed, whether
    /// the kernel lets go of it or not: it does nothing more.
    fn abandon_runc(&mut self, why: &str) {
        let Some(runc) = self.runc.take() else { return };
        // It is a child that is not reaped, so the number is its own.
        let killed = nix::sys::signal::killpg(runc.pid, nix::sys::signal::Signal::SIGKILL);
        debug_assert!(killed.is_ok(), "{killed:?}");
        match self.phase {
            Phase::Creating => self.fail(&format!("runc create {why}")),
            Phase::Starting => self.started(Some(&format!("runc start {why}"))),
            Phase::Created | Phase::Running | Phase::Exited | Phase::Failed => {}
        }
    }

    fn started(&mut self, failed: Option<&str>) {
        let reply = match failed {
            Some(why) if self.ended.is_none() => {
                self.phase = Phase::Created;
                let text = Text::new(why);
                Reply::Done { request: KIND_START, errno: Errno::EIO as u16, text }
            }
            Some(_) | None => {
                self.started_us = now_ns() / 1_000;
                self.phase = Phase::Running;
                done(KIND_START, Ok(()))
            }
        };
        for starter in std::mem::take(&mut self.starters) {
            self.clients.reply(starter, &reply);
        }
        self.publish();
        if let Some(exit) = self.ended.take() {
            self.finish(exit);
        }
    }

    fn fail(&mut self, text: &str) {
        self.phase = Phase::Failed;
        self.text = Text::new(text);
        self.streams.clear();
        self.publish();
    }

    fn container_ended(&mut self, status: WaitStatus) {
        let (code, signal) = match status {
            WaitStatus::Exited(_, code) => (code & 0xff, 0),
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, signal as i32),
            _ => return,
        };
        if self.phase == Phase::Failed {
            return;
        }
        let byte = |n: i32| u8::try_from(n).unwrap_or(u8::MAX);
        self.pid = None;
        let kills = self.args.oom.as_deref().map_or(0, record::oom_kills);
        let exit = Exit {
            code: byte(code),
            signal: byte(signal),
            // As Docker counts: any of its processes, whatever its own end looks like.
            oom_killed: kills > 0,
            started_us: self.started_us,
            finished_us: now_ns() / 1_000,
        };
        if self.phase == Phase::Starting {
            self.ended = Some(exit);
        } else {
            self.finish(exit);
        }
    }

    fn finish(&mut self, mut exit: Exit) {
        for mut stream in std::mem::take(&mut self.streams) {
            stream.drain(&mut self.log, now_ns());
        }
        exit.started_us = self.started_us.min(exit.finished_us);
        self.exit = exit;
        self.phase = Phase::Exited;
        self.save_record();
        if !self.record_saved {
            self.publish();
        }
    }

    fn save_record(&mut self) {
        let bytes = self.exit.encode_record(self.args.task.0.0);
        if record::save(&self.args.record, &bytes).is_ok() {
            self.record_saved = true;
            self.publish();
        }
    }

    fn serve(&mut self) {
        let mut requests = std::mem::take(&mut self.requests);
        self.clients.requests(&mut requests);
        for (client, request) in requests.drain(..) {
            match request {
                Request::Hello { .. } => {
                    self.clients.reply(client, &Reply::State(self.state()));
                }
                Request::Start => self.start(client),
                Request::Signal { number } => {
                    let result = match number {
                        nix::libc::SIGKILL if self.runc.is_some() => self.kill_all(),
                        _ => self.signal(number),
                    };
                    self.clients.reply(client, &done(KIND_SIGNAL, result));
                }
                Request::Resize { rows, cols } => {
                    let result = match (self.args.tty, self.streams.first()) {
                        (true, Some(stream)) => child::resize(&stream.fd, rows, cols),
                        _ => Err(Errno::ENOTTY),
                    };
                    self.clients.reply(client, &done(KIND_RESIZE, result));
                }
                Request::Bye => {
                    self.dismissed |= matches!(self.phase, Phase::Exited | Phase::Failed);
                }
            }
        }
        self.requests = requests;
    }

    fn start(&mut self, client: u32) {
        match self.phase {
            Phase::Created => match child::start(&self.args) {
                Ok(pid) => {
                    self.runc = Some(Runc::new(pid, self.args.start_limit));
                    self.phase = Phase::Starting;
                    self.starters.push(client);
                }
                Err(err) => self.clients.reply(client, &done(KIND_START, Err(errno(&err)))),
            },
            Phase::Starting => self.starters.push(client),
            Phase::Running | Phase::Exited => {
                self.clients.reply(client, &done(KIND_START, Ok(())));
            }
            Phase::Creating | Phase::Failed => {
                self.clients.reply(client, &done(KIND_START, Err(Errno::EINVAL)));
            }
        }
    }

    /// Ends runc first, so that it makes and starts nothing more, then the container if there is
    /// one.
    fn kill_all(&mut self) -> nix::Result<()> {
        self.abandon_runc("was killed");
        match self.pid {
            Some(_) => self.signal(nix::libc::SIGKILL),
            None => Ok(()),
        }
    }

    /// The pid is a child that is not reaped, so it is the container's process and no other.
    fn signal(&mut self, number: i32) -> nix::Result<()> {
        let pid = self.pid.ok_or(Errno::ESRCH)?;
        // SAFETY: kill has no memory effects; any number is checked by the kernel.
        Errno::result(unsafe { nix::libc::kill(pid.as_raw(), number) }).map(drop)
    }

    fn publish(&mut self) {
        let state = self.state();
        self.clients.publish(&state);
    }

    fn state(&self) -> State {
        State {
            phase: self.phase,
            record_saved: self.record_saved,
            pid: self.pid.map_or(0, |pid| u32::try_from(pid.as_raw()).unwrap_or(0)),
            started_us: self.started_us,
            exit: self.exit,
            log_written: self.log.written,
            log_dropped: self.log.dropped,
            text: self.text,
        }
    }
}

fn done(request: u8, result: nix::Result<()>) -> Reply {
    match result {
        Ok(()) => Reply::Done { request, errno: 0, text: Text::EMPTY },
        Err(err) => {
            let number = u16::try_from(err as i32).unwrap_or(u16::MAX);
            Reply::Done { request, errno: number, text: Text::new(err.desc()) }
        }
    }
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}
