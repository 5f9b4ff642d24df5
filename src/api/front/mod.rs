//! The front: owns the public socket and stands between clients and tiny_http.
//!
//! One thread runs everything here. It never waits for one client: each connection is a task, with
//! a deadline for its head and its body and for taking an answer. Every request goes to the server
//! behind as a connection of its own, so that server sees only whole heads, at most
//! [`Limits::connections`] at once, and never a slow client.
//!
//! **Over the limit** the connection that has been silent for longest between two requests, or
//! before its first, makes room; if none has been silent for [`EVICT_AFTER`], the new one gets 503.
//! Requests that last have a lower limit of their own, [`Limits::streams`].

mod chunk;
mod connection;
mod head;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use smol::{LocalExecutor, Task};

pub use head::CONNECTION_HEADER;

/// How long a connection must have been silent to make room for another.
pub const EVICT_AFTER: Duration = Duration::from_secs(1);

/// Pause after `accept` failed, usually because descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest that a daemon that stops waits for answers that are on their way.
const ANSWERS_MAX: Duration = Duration::from_secs(1);

/// Between two looks at whether they are out.
const ANSWERS_LOOK: Duration = Duration::from_millis(10);

/// What a client may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of these, followed logs, pulls and loads: they last, and short requests must find room.
    pub streams: usize,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// Bytes of an image archive; the image store has a quota of its own.
    pub load_bytes: u64,
    /// From the first byte of a head to its last.
    pub head_time: Duration,
    /// From the first byte of a body to its last; for an archive between two reads.
    pub body_time: Duration,
    /// Between two requests, and before the first.
    pub idle_time: Duration,
    /// A client that takes no byte of its answer for this long is gone.
    pub write_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            streams: 32,
            head_bytes: 64 << 10,
            body_bytes: 4 << 20,
            load_bytes: 32 << 30,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(60),
            idle_time: Duration::from_secs(120),
            write_time: Duration::from_secs(300),
        }
    }
}

/// Connections whose requests are being answered, for handlers that must notice that nobody
/// listens any more.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    gone: Arc<Mutex<BTreeMap<u64, Arc<AtomicBool>>>>,
}

impl Clients {
    /// A flag that becomes true when the client of this connection is gone; true at once if it
    /// already is.
    #[must_use]
    pub fn gone(&self, connection: u64) -> Arc<AtomicBool> {
        let table = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        table.get(&connection).map_or_else(|| Arc::new(AtomicBool::new(true)), Arc::clone)
    }

    fn enter(&self, connection: u64) {
        let mut table = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        table.insert(connection, Arc::default());
    }

    fn leave(&self, connection: u64) {
        let mut table = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flag) = table.remove(&connection) {
            flag.store(true, Ordering::Release);
        }
    }
}

/// What all connections share.
struct Shared {
    limits: Limits,
    upstream: PathBuf,
    clients: Clients,
    table: RefCell<BTreeMap<u64, Entry>>,
    /// Requests under way that last.
    streams: Cell<usize>,
    /// Connections that are being turned away.
    leaving: Cell<usize>,
}

/// The place of one request that lasts; free again when it is dropped.
struct Place<'a>(&'a Cell<usize>);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Shared {
    /// A place among [`Limits::streams`]; `None` when all are taken.
    fn place(&self) -> Option<Place<'_>> {
        if self.streams.get() >= self.limits.streams {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Place(&self.streams))
    }
}

/// One connection.
struct Entry {
    /// Since when nothing is asked or answered; `None` while something is.
    silent: Rc<Cell<Option<Instant>>>,
    /// Dropping it ends the connection.
    task: Task<()>,
}

/// Serves `listener` until `stop` is closed. Returns when it is.
///
/// # Errors
/// When the listener cannot be watched.
pub fn run(
    listener: UnixListener,
    upstream: PathBuf,
    limits: Limits,
    clients: Clients,
    stop: &async_channel::Receiver<()>,
) -> io::Result<()> {
    let listener = Async::new(listener)?;
    let shared = Rc::new(Shared {
        limits,
        upstream,
        clients,
        table: RefCell::default(),
        streams: Cell::new(0),
        leaving: Cell::new(0),
    });
    let executor = LocalExecutor::new();
    let work = smol::future::or(accept(&listener, &shared, &executor), async {
        // Nothing is ever sent: this ends when the other side is dropped.
        while stop.recv().await.is_ok() {}
    });
    smol::block_on(executor.run(work));
    // Who waits for an answer gets it, if it comes soon.
    smol::block_on(executor.run(smol::future::or(answered(&shared), async {
        Timer::after(ANSWERS_MAX).await;
    })));
    // The tasks hold the shared state and the state holds the tasks.
    shared.table.take();
    Ok(())
}

/// Until no request is under way.
async fn answered(shared: &Shared) {
    while shared.table.borrow().values().any(|entry| entry.silent.get().is_none()) {
        Timer::after(ANSWERS_LOOK).await;
    }
}

async fn accept<'a>(
    listener: &Async<UnixListener>,
    shared: &Rc<Shared>,
    executor: &LocalExecutor<'a>,
) {
    let mut next = 0u64;
    loop {
        match listener.accept().await {
            Ok((stream, _address)) => {
                next += 1;
                admit(stream, next, shared, executor);
            }
            Err(error) => {
                log::warn!("accepting an API connection: {error}");
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Starts a task for a new connection, or turns it away.
fn admit(
    stream: Async<UnixStream>,
    id: u64,
    shared: &Rc<Shared>,
    executor: &LocalExecutor<'_>,
) {
    match getsockopt(stream.get_ref(), PeerCredentials) {
        Ok(peer) => log::debug!("API connection {id}: pid {} uid {}", peer.pid(), peer.uid()),
        Err(error) => log::warn!("API connection {id}: who is it: {error}"),
    }
    if shared.table.borrow().len() >= shared.limits.connections && !evict(shared) {
        log::warn!("API connection {id}: refused, {} are open", shared.limits.connections);
        turn_away(stream, shared, executor);
        return;
    }
    let silent = Rc::new(Cell::new(Some(Instant::now())));
    let (theirs, mine) = (Rc::clone(&silent), Rc::clone(shared));
    let task = executor.spawn(async move {
        connection::serve(stream, id, &theirs, &mine).await;
        let entry = mine.table.borrow_mut().remove(&id);
        if let Some(entry) = entry {
            entry.task.detach();
        }
    });
    shared.table.borrow_mut().insert(id, Entry { silent, task });
}

/// Tells one connection too many to come back later.
fn turn_away(stream: Async<UnixStream>, shared: &Rc<Shared>, executor: &LocalExecutor<'_>) {
    let told = connection::tell_full(&stream, shared.limits.connections);
    if !told || shared.leaving.get() >= shared.limits.connections {
        return;
    }
    shared.leaving.set(shared.leaving.get() + 1);
    let mine = Rc::clone(shared);
    let work = async move {
        connection::linger(&stream).await;
        mine.leaving.set(mine.leaving.get() - 1);
    };
    executor.spawn(work).detach();
}

/// Ends the connection that has been silent for longest, if that is long enough.
fn evict(shared: &Shared) -> bool {
    let oldest = shared
        .table
        .borrow()
        .iter()
        .filter_map(|(id, entry)| Some((entry.silent.get()?, *id)))
        .min()
        .filter(|(since, _)| since.elapsed() >= EVICT_AFTER);
    let Some((_, id)) = oldest else {
        return false;
    };
    log::debug!("API connection {id}: ended to make room");
    let entry = shared.table.borrow_mut().remove(&id);
    entry.is_some()
}
