//! The one thread that talks to the proxy, and one that notices the proxy's end.
//!
//! It takes the newest table and drops older ones that wait; the answer names the table's
//! generation, so an answer stands for all before it. A proxy is started when a first port needs
//! it. When it cannot be reached, every port of the table is told as refused, with the reason, and
//! the table is tried again: with the next one, and later and later until it is in force. A proxy that
//! ends soon after its start is started again with the same patience.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::brain::Events;
use super::handle::Event;
use crate::base::chain;
use crate::host::dataplane::{Dataplane, DataplaneConfig, DataplaneError};
use crate::logic::worker::io::{PortRoute, RefusedPort};
use crate::model::route::{Backend, ListenKey, Listener, RouteTable};
use crate::model::service::PublishMode;

/// The first wait before a table that could not be put in force is tried again; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A proxy that lived as long as this did not end because of its start.
const SOUND_AFTER: Duration = Duration::from_secs(10);

/// What the thread is told.
#[derive(Debug)]
enum Told {
    Table { generation: u64, ports: Vec<PortRoute> },
    /// The proxy with this process id has ended.
    Ended(u32),
    Finish,
}

/// The thread's end in the brain.
#[derive(Debug)]
pub(super) struct PlaneThread {
    told: Sender<Told>,
    thread: JoinHandle<()>,
}

impl PlaneThread {
    /// Starts the thread.
    pub(super) fn start(config: DataplaneConfig, events: Events) -> std::io::Result<Self> {
        let (told, queue) = channel();
        let plane = Plane {
            config,
            events,
            told: told.clone(),
            dataplane: None,
            watched: None,
            table: RouteTable::default(),
            generation: 0,
            started: Instant::now(),
            retry: None,
            wait: RETRY_MIN,
        };
        let thread = Builder::new()
            .name("plane".to_owned())
            .stack_size(256 << 10)
            .spawn(move || plane.run(&queue))?;
        Ok(Self { told, thread })
    }

    /// Puts a table in force; answered by [`Event::RoutesApplied`] for it or a newer one.
    pub(super) fn set(&self, generation: u64, ports: Vec<PortRoute>) {
        if self.told.send(Told::Table { generation, ports }).is_err() {
            log::error!("the proxy's thread is gone");
        }
    }

    /// Ends the thread; the proxy goes on with its last table.
    pub(super) fn finish(self) {
        if self.told.send(Told::Finish).is_err() || self.thread.join().is_err() {
            log::error!("the proxy's thread ended badly");
        }
    }
}

struct Plane {
    config: DataplaneConfig,
    events: Events,
    told: Sender<Told>,
    dataplane: Option<Dataplane>,
    /// Process id of the proxy whose end is waited for.
    watched: Option<u32>,
    table: RouteTable,
    generation: u64,
    /// When the proxy was first reached.
    started: Instant,
    /// When the table is tried again; none while it is in force.
    retry: Option<Instant>,
    /// The wait before that try.
    wait: Duration,
}

impl Plane {
    fn run(mut self, queue: &Receiver<Told>) {
        loop {
            let due = self.retry.map(|at| at.saturating_duration_since(Instant::now()));
            let first = match due.map(|wait| queue.recv_timeout(wait)) {
                None => queue.recv().ok(),
                Some(Ok(told)) => Some(told),
                Some(Err(RecvTimeoutError::Timeout)) => None,
                Some(Err(RecvTimeoutError::Disconnected)) => return,
            };
            let late = first.is_none();
            if late && self.retry.is_none() {
                return;
            }
            let (mut next, mut changed) = (first, late);
            while let Some(told) = next {
                match told {
                    Told::Finish => return,
                    Told::Ended(pid) if self.watched == Some(pid) => {
                        log::warn!("the proxy (process {pid}) has ended; starting another one");
                        (self.watched, self.dataplane) = (None, None);
                        if self.started.elapsed() < SOUND_AFTER {
                            self.try_later();
                        } else {
                            (self.wait, changed) = (RETRY_MIN, true);
                        }
                    }
                    Told::Ended(_) => {}
                    Told::Table { generation, ports } => {
                        self.generation = generation;
                        self.table = table(ports);
                        changed = true;
                    }
                }
                next = queue.try_recv().ok();
            }
            if changed {
                let refused = self.apply();
                let event = Event::RoutesApplied { generation: self.generation, refused };
                if self.events.send_blocking(event).is_err() {
                    return;
                }
            }
        }
    }

    fn try_later(&mut self) {
        self.retry = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }

    fn apply(&mut self) -> Vec<RefusedPort> {
        self.retry = None;
        match self.try_apply() {
            Ok(refused) => refused,
            Err(err) => {
                self.dataplane = None;
                self.try_later();
                let reason = chain::text(&err);
                log::error!("{reason}");
                self.table
                    .listeners()
                    .map(|listener| refused(&listener.key, format!("port {}: {reason}", listener.key)))
                    .collect()
            }
        }
    }

    fn try_apply(&mut self) -> Result<Vec<RefusedPort>, DataplaneError> {
        if self.dataplane.is_none() {
            self.dataplane = if self.table.is_empty() {
                Dataplane::connect(self.config.clone())?
            } else {
                Some(Dataplane::connect_or_spawn(self.config.clone())?)
            };
        }
        let Some(dataplane) = &mut self.dataplane else { return Ok(Vec::new()) };
        let applied = dataplane.set_routes(&self.table)?;
        let pid = dataplane.welcome().map(|welcome| welcome.pid);
        self.watch(pid);
        if applied.omitted > 0 {
            log::warn!("{} more ports cannot be opened", applied.omitted);
        }
        Ok(applied.errors.iter().map(|error| refused(&error.key, error.to_string())).collect())
    }

    /// Waits for the proxy's end on a thread of its own, which ends with the proxy.
    fn watch(&mut self, pid: Option<u32>) {
        let Some(pid) = pid else { return };
        if self.watched == Some(pid) {
            return;
        }
        let told = self.told.clone();
        let spawned = crate::host::process::pidfd(pid).and_then(|fd| {
            Builder::new().name("plane-watch".to_owned()).stack_size(64 << 10).spawn(move || {
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                while let Err(nix::errno::Errno::EINTR) = poll(&mut fds, PollTimeout::NONE) {}
                if told.send(Told::Ended(pid)).is_err() {
                    log::debug!("the proxy ended after the daemon's thread for it");
                }
            })
        });
        match spawned {
            Ok(_) => (self.watched, self.started) = (Some(pid), Instant::now()),
            Err(err) => log::warn!("cannot wait for the end of the proxy: {err}"),
        }
    }
}

fn refused(key: &ListenKey, reason: String) -> RefusedPort {
    RefusedPort {
        protocol: key.protocol,
        published: key.port,
        host_ip: key.ip,
        reason,
    }
}

/// The proxy's table of the worker's ports. What the proxy would refuse as a whole is left out and
/// told: one bad port must not take the others with it.
fn table(ports: Vec<PortRoute>) -> RouteTable {
    let mut table = RouteTable::new();
    for port in ports {
        let key = ListenKey { ip: port.host_ip, port: port.published, protocol: port.protocol };
        let backends = port
            .backends
            .iter()
            .map(|backend| Backend {
                task: backend.task,
                addr: SocketAddr::new(backend.address, backend.port),
            })
            .collect();
        let listener = Listener { key, mode: PublishMode::Ingress, backends };
        if let Err(err) = table.insert(listener) {
            log::error!("port {key} is left out: {err}");
        }
    }
    table
}
