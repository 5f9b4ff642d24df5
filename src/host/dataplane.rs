//! The daemon's side of the data plane: finds or starts the proxy and keeps it told.
//!
//! Blocking, with a deadline for every call; used from one thread. The proxy outlives the daemon:
//! what is here holds no process, only a connection, and starts another proxy when the one that was
//! there has died. [`Dataplane::set_routes`] takes the whole table each time and sends what differs.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::failpoint::{self, Point};
use crate::host::seqpacket::{Channel, ControlError, Deadline};
use crate::model::control::parts::changes;
use crate::model::control::{
    Applied, Hello, Message, PortError, Reason, RouteStats, Shutdown, Totals, Welcome,
};
use crate::model::route::RouteTable;

/// Name of the control socket in the exec root.
pub const SOCKET_NAME: &str = "proxy.sock";

/// Name of the proxy's log in the exec root; at most 64 KiB of each proxy.
pub const LOG_NAME: &str = "proxy.log";

/// How often a call is tried with another proxy when the one it talked to died.
const TRIES_MAX: u32 = 3;

/// How the proxy of an exec root is found and started.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// Where the control socket, the lock and the log of the proxy are.
    pub exec_root: PathBuf,
    /// The program to start, `skep` itself.
    pub binary: PathBuf,
    /// Name of this build: a proxy of another build is taken over by one of this build.
    pub build: String,
    /// `cgroup.procs` files that the proxy enters, one for each hierarchy.
    pub cgroup_procs: Vec<PathBuf>,
    /// The longest that one call may take.
    pub deadline: Duration,
}

/// What failed between the daemon and the proxy.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The program cannot be run.
    #[error("cannot run {binary} to start the proxy")]
    Run {
        /// The program.
        binary: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It ran and gave up.
    #[error("the proxy did not start: {0}")]
    Start(String),
    /// It did not say in time whether it started.
    #[error("the proxy did not start within {0:?}")]
    StartLate(Duration),
    /// The control socket failed.
    #[error("cannot talk to the proxy")]
    Control(#[source] ControlError),
    /// It answered that it will not.
    #[error("the proxy refused: {0}")]
    Refused(Reason),
}

/// The connection to the proxy of one exec root.
#[derive(Debug)]
pub struct Dataplane {
    config: DataplaneConfig,
    link: Option<Link>,
    last: RouteTable,
}

#[derive(Debug)]
struct Link {
    channel: Channel,
    welcome: Welcome,
    /// What it has in force, when this side knows.
    acked: Option<(RouteTable, u64)>,
    errors: Vec<PortError>,
}

/// All counters of the proxy.
#[derive(Clone, Debug, Default)]
pub struct DataplaneStats {
    /// Of the process.
    pub totals: Totals,
    /// Of each listener.
    pub routes: Vec<RouteStats>,
}

impl Dataplane {
    /// Finds the proxy of the exec root, starts one where there is none, and has one of this build
    /// take over from one of another.
    ///
    /// # Errors
    /// When no proxy can be started or talked to.
    pub fn connect_or_spawn(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        let until = Deadline::after(config.deadline);
        let mut dataplane = Self { config, link: None, last: RouteTable::new() };
        dataplane.link(until)?;
        Ok(dataplane)
    }

    /// Like [`Self::connect_or_spawn`], but `None` where no proxy runs.
    ///
    /// # Errors
    /// When one runs and cannot be talked to.
    pub fn connect(config: DataplaneConfig) -> Result<Option<Self>, DataplaneError> {
        let until = Deadline::after(config.deadline);
        let mut dataplane = Self { config, link: None, last: RouteTable::new() };
        match dataplane.greet(until) {
            Ok(link) => {
                dataplane.link = Some(link);
                Ok(Some(dataplane))
            }
            Err(ControlError::Nobody { .. }) => Ok(None),
            Err(e) => Err(DataplaneError::Control(e)),
        }
    }

    /// Puts `table` in force, whatever was before; connections of listeners that stay go on.
    /// `Applied::errors` names the ports that could not be opened: each call tries those again.
    ///
    /// # Errors
    /// When the proxy cannot be told; the table is then told with the next call.
    pub fn set_routes(&mut self, table: &RouteTable) -> Result<Applied, DataplaneError> {
        self.last.clone_from(table);
        self.persist(|link, table, until| link.set_routes(table, until))
    }

    /// The proxy's counters.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn stats(&mut self) -> Result<DataplaneStats, DataplaneError> {
        self.persist(|link, _, until| link.stats(until))
    }

    /// The proxy's process and build, as it said last.
    #[must_use]
    pub fn welcome(&self) -> Option<&Welcome> {
        self.link.as_ref().map(|link| &link.welcome)
    }

    /// Ends the proxy; with `drain` its connections may end by themselves first. Nothing to do
    /// where none runs. The proxies that it took over from end too.
    ///
    /// # Errors
    /// When it is there and cannot be told.
    pub fn shutdown(mut self, drain: bool) -> Result<(), DataplaneError> {
        let until = Deadline::after(self.config.deadline);
        let link = match self.link.take() {
            Some(link) => link,
            None => match self.greet(until) {
                Err(ControlError::Nobody { .. }) => return Ok(()),
                link => link.map_err(DataplaneError::Control)?,
            },
        };
        let told = link.channel.send(&Message::Shutdown(Shutdown { drain }), until);
        match told.and_then(|()| link.channel.recv(until).map(|received| received.message)) {
            Ok(Message::Bye) | Err(ControlError::Gone) => {}
            Ok(other) => return Err(unexpected(&other)),
            Err(e) => return Err(DataplaneError::Control(e)),
        }
        if drain {
            return Ok(());
        }
        // It is gone when its end of the connection is.
        match link.channel.recv(until) {
            Err(ControlError::Gone) => Ok(()),
            Ok(other) => Err(unexpected(&other.message)),
            Err(e) => Err(DataplaneError::Control(e)),
        }
    }

    /// Does it, and does it again with another proxy when this one is gone.
    fn persist<T>(
        &mut self,
        mut work: impl FnMut(&mut Link, &RouteTable, Deadline) -> Result<T, DataplaneError>,
    ) -> Result<T, DataplaneError> {
        let until = Deadline::after(self.config.deadline);
        let mut tries = 0;
        loop {
            tries += 1;
            let table = self.last.clone();
            let result = self.link(until).and_then(|link| {
                if link.acked.is_none() {
                    link.set_routes(&table, until)?;
                }
                work(link, &table, until)
            });
            let again = match &result {
                Err(DataplaneError::Control(ControlError::Late(_))) => false,
                Err(DataplaneError::Control(_)) => true,
                Err(DataplaneError::Refused(reason)) => *reason == Reason::Leaving,
                Err(_) | Ok(_) => false,
            };
            if result.is_err() {
                // Half of an answer may be under way.
                self.link = None;
            }
            if !again || tries == TRIES_MAX || until.is_over() {
                return result;
            }
        }
    }

    fn link(&mut self, until: Deadline) -> Result<&mut Link, DataplaneError> {
        let link = match self.link.take() {
            Some(link) => link,
            None => self.find_or_start(until)?,
        };
        Ok(self.link.insert(link))
    }

    fn find_or_start(&self, until: Deadline) -> Result<Link, DataplaneError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let started = match self.greet(until) {
                Ok(link) if link.welcome.build == self.config.build => return Ok(link),
                Ok(_) => self.start(true, until),
                Err(ControlError::Nobody { .. } | ControlError::Gone) => self.start(false, until),
                Err(e) => return Err(DataplaneError::Control(e)),
            };
            // Another daemon may have started one at the same moment, or the one that was asked
            // has just ended: look once more.
            match started {
                Err(e) if tries == TRIES_MAX || until.is_over() => return Err(e),
                Err(DataplaneError::Start(_)) | Ok(()) => {}
                Err(e) => return Err(e),
            }
            if tries > TRIES_MAX {
                return Err(DataplaneError::Control(until.late()));
            }
        }
    }

    fn greet(&self, until: Deadline) -> Result<Link, ControlError> {
        let channel = Channel::connect(&self.config.exec_root.join(SOCKET_NAME))?;
        channel.send(&Message::Hello(Hello { build: self.config.build.clone() }), until)?;
        match channel.recv(until)?.message {
            Message::Welcome(welcome) => {
                Ok(Link { channel, welcome, acked: None, errors: Vec::new() })
            }
            other => Err(ControlError::Unexpected(format!("{other:?}"))),
        }
    }

    /// Runs `skep proxy --detach`, which returns when the proxy listens.
    fn start(&self, takeover: bool, until: Deadline) -> Result<(), DataplaneError> {
        let config = &self.config;
        let mut command = Command::new(&config.binary);
        // What was meant for the daemon (where it reports to systemd) is not for the proxy.
        command.env_clear().arg("proxy").arg("--detach");
        command.arg("--control").arg(config.exec_root.join(SOCKET_NAME));
        command.arg("--log").arg(config.exec_root.join(LOG_NAME));
        command.arg("--build").arg(&config.build);
        if takeover {
            command.arg("--takeover");
        }
        for path in &config.cgroup_procs {
            command.arg("--cgroup").arg(path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let run = |source| DataplaneError::Run { binary: config.binary.clone(), source };
        let child = command.spawn().map_err(run)?;
        failpoint::hit(Point::ProxyStarted);
        let pid = child.id();
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        // Waits beside, so that a program that hangs does not hold this thread.
        let waiter = std::thread::Builder::new().name("proxy-start".to_owned());
        waiter
            .spawn(move || {
                if done.send(child.wait_with_output()).is_err() {
                    log::warn!("the proxy was given up before it started");
                }
            })
            .map_err(run)?;
        match wait.recv_timeout(until.left()) {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let said = if text.is_empty() { output.status.to_string() } else { text };
                Err(DataplaneError::Start(said))
            }
            Ok(Err(e)) => Err(run(e)),
            Err(_) => {
                let pid = Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX));
                if let Err(errno) = kill(pid, Signal::SIGKILL) {
                    log::warn!("the proxy's start hangs and cannot be ended: {errno}");
                }
                Err(DataplaneError::StartLate(config.deadline))
            }
        }
    }
}

impl Link {
    fn set_routes(
        &mut self,
        table: &RouteTable,
        until: Deadline,
    ) -> Result<Applied, DataplaneError> {
        let (full, base, delta) = match self.acked.take() {
            Some((old, version)) if old == *table && self.errors.is_empty() => {
                self.acked = Some((old, version));
                return Ok(Applied { version, errors: Vec::new(), omitted: 0 });
            }
            Some((old, version)) => (false, version, table.since(&old)),
            None => (true, self.welcome.version, table.since(&RouteTable::new())),
        };
        let version = base + 1;
        match self.send_changes(full, base, version, delta, until)? {
            Message::Applied(applied) if applied.version == version => {
                Ok(self.remember(table, applied))
            }
            // Somebody else told it another table: this side's is the one that counts.
            Message::Refused(refused) if refused.reason == Reason::OtherVersion => {
                let all = table.since(&RouteTable::new());
                let version = refused.version + 1;
                match self.send_changes(true, refused.version, version, all, until)? {
                    Message::Applied(applied) => Ok(self.remember(table, applied)),
                    Message::Refused(refused) => Err(DataplaneError::Refused(refused.reason)),
                    other => Err(unexpected(&other)),
                }
            }
            Message::Refused(refused) => Err(DataplaneError::Refused(refused.reason)),
            other => Err(unexpected(&other)),
        }
    }

    fn remember(&mut self, table: &RouteTable, applied: Applied) -> Applied {
        failpoint::hit(Point::ProxyRoutesSet);
        self.acked = Some((table.clone(), applied.version));
        self.errors.clone_from(&applied.errors);
        applied
    }

    fn send_changes(
        &self,
        full: bool,
        base: u64,
        version: u64,
        delta: crate::model::route::RouteDelta,
        until: Deadline,
    ) -> Result<Message, DataplaneError> {
        for change in changes(full, base, version, delta) {
            self.channel.send(&Message::Change(change), until).map_err(DataplaneError::Control)?;
        }
        let answer = self.channel.recv(until).map_err(DataplaneError::Control)?;
        Ok(answer.message)
    }

    fn stats(&self, until: Deadline) -> Result<DataplaneStats, DataplaneError> {
        self.channel.send(&Message::Query, until).map_err(DataplaneError::Control)?;
        let mut all = DataplaneStats::default();
        loop {
            match self.channel.recv(until).map_err(DataplaneError::Control)?.message {
                Message::Stats(part) => {
                    all.totals = part.totals;
                    all.routes.extend(part.routes);
                    if part.part + 1 == part.parts {
                        return Ok(all);
                    }
                }
                Message::Refused(refused) => return Err(DataplaneError::Refused(refused.reason)),
                other => return Err(unexpected(&other)),
            }
        }
    }
}

fn unexpected(message: &Message) -> DataplaneError {
    DataplaneError::Control(ControlError::Unexpected(format!("{message:?}")))
}
