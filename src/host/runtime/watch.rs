//! The thread that waits for the ends of all containers.
//!
//! It holds one connection to each shim. A shim that says that its container ended is dismissed
//! once the exit record is durable; one that closes without a word is lost.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::error::{Doing, RuntimeError};
use super::found::read_exit;
use super::shim_client::{Received, ShimClient};
use super::{EVENTS_MAX, ExitEvent, ExitRecord, Places, RuntimeConfig, Shared, has_shim};
use crate::base::id::TaskId;
use crate::base::shim_wire::{Phase, Reply, Request};

/// How often it is tried to connect to a shim that takes no connection.
const CONNECT_EVERY: Duration = Duration::from_secs(1);

/// A task to be watched, with a connection to its shim if there is one yet.
type New = (TaskId, Option<ShimClient>);

/// The handle of the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    new: Shared<Vec<New>>,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The thread's own side.
struct Watch {
    config: RuntimeConfig,
    new: Shared<Vec<New>>,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    events: Sender<ExitEvent>,
    shims: Vec<(TaskId, ShimClient)>,
    /// Tasks whose shim is there and takes no connection.
    unconnected: Vec<TaskId>,
}

impl Watcher {
    pub(super) fn start(
        config: RuntimeConfig,
    ) -> Result<(Self, Receiver<ExitEvent>), RuntimeError> {
        let (events, receiver) = bounded(EVENTS_MAX);
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags)
            .map_err(|source| RuntimeError::System { doing: "make an eventfd", source })?;
        let (new, wake, stop) = (Shared::default(), Arc::new(wake), Arc::default());
        let mut watch = Watch {
            config,
            new: Arc::clone(&new),
            wake: Arc::clone(&wake),
            stop: Arc::clone(&stop),
            events,
            shims: Vec::new(),
            unconnected: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("containers".to_owned())
            .spawn(move || watch.run())
            .doing("start the thread", "containers")?;
        Ok((Self { new, wake, stop, thread: Some(thread) }, receiver))
    }

    /// Hands a connection over that has said hello. A second one for a task does no harm.
    pub(super) fn watch(&self, task: TaskId, client: ShimClient) {
        self.watch_new(task, Some(client));
    }

    /// Watches a task whose shim takes no connection now.
    pub(super) fn watch_unconnected(&self, task: TaskId) {
        self.watch_new(task, None);
    }

    fn watch_new(&self, task: TaskId, client: Option<ShimClient>) {
        lock(&self.new).push((task, client));
        self.wake();
    }

    fn wake(&self) {
        if let Err(err) = self.wake.write(1) {
            // Only a full counter can be in the way, and then it wakes anyhow.
            log::debug!("cannot wake the thread that waits for containers: {err}");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that waits for containers had panicked");
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a look at one shim led to.
enum Look {
    Keep,
    Drop,
    /// The connection has ended.
    Gone,
}

/// What becomes of a task without a connection.
enum Next {
    /// Its end was told, or there is nobody to tell.
    Over,
    Connected(ShimClient),
    /// Its shim is there and takes no connection.
    Later,
}

impl Watch {
    fn run(&mut self) {
        // When shims that take no connection are tried again, whatever the others say meanwhile.
        let mut next_try = Instant::now();
        while !self.stop.load(Ordering::Acquire) {
            let mut polls = vec![readable(&*self.wake)];
            polls.extend(self.shims.iter().map(|(_, client)| readable(client)));
            let timeout = match self.unconnected.is_empty() {
                true => PollTimeout::NONE,
                false => {
                    let left = next_try.saturating_duration_since(Instant::now());
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            if poll(&mut polls, timeout).is_err() {
                continue;
            }
            let ready: Vec<bool> =
                polls.iter().map(|poll| poll.revents().is_none_or(|got| !got.is_empty())).collect();
            drop(polls);
            let mut gone = Vec::new();
            for at in (0..self.shims.len()).rev().filter(|at| ready[1 + at]) {
                match self.look(at) {
                    Look::Keep => continue,
                    Look::Drop => {}
                    Look::Gone => gone.push(self.shims[at].0),
                }
                self.shims.swap_remove(at);
            }
            if Instant::now() >= next_try {
                gone.append(&mut self.unconnected);
                next_try = Instant::now() + CONNECT_EVERY;
            }
            if ready[0] {
                // Its value does not matter.
                while self.wake.read().is_ok_and(|value| value > 1) {}
                for (task, client) in std::mem::take(&mut *lock(&self.new)) {
                    match client {
                        Some(client) => self.shims.push((task, client)),
                        None => self.unconnected.push(task),
                    }
                }
            }
            for task in gone {
                match self.gone(task) {
                    Next::Over => {}
                    Next::Connected(client) => self.shims.push((task, client)),
                    Next::Later => self.unconnected.push(task),
                }
            }
        }
    }

    fn look(&self, at: usize) -> Look {
        let (task, client) = &self.shims[at];
        match client.receive(Instant::now()) {
            Ok(Received::Reply(Reply::State(state))) if state.phase == Phase::Exited => {
                self.tell(*task, ExitRecord::from_exit(&state.exit));
                if !state.record_saved {
                    return Look::Keep;
                }
                // A shim that cannot be told so leaves because nobody is connected.
                if let Err(err) = client.send(Request::Bye) {
                    log::debug!("{}", err.full_text());
                }
                Look::Drop
            }
            Ok(Received::Reply(_) | Received::Late) => Look::Keep,
            Ok(Received::Gone) | Err(_) => Look::Gone,
        }
    }

    /// There is no connection. Either the shim did its work, or it was killed, or it cut the
    /// connection off, and then there is a new one.
    fn gone(&self, task: TaskId) -> Next {
        let places = Places::new(&self.config, task);
        match has_shim(&places) {
            Ok(true) => {
                if let Ok(Some(client)) = ShimClient::connect(&places.exec)
                    && client.hello().is_ok()
                {
                    return Next::Connected(client);
                }
                // It is going, or stands still.
                log::debug!("the shim of task {task} took no new connection");
                return Next::Later;
            }
            Ok(false) => {}
            Err(err) => log::warn!("task {task}: {}", err.full_text()),
        }
        if !places.exec.exists() {
            // Cleaned up: there is nobody to tell about it.
            return Next::Over;
        }
        match read_exit(&places, task) {
            Ok(exit) => self.tell(task, exit.unwrap_or_else(ExitRecord::lost)),
            Err(err) => {
                log::error!("task {task}: {}", err.full_text());
                self.tell(task, ExitRecord::lost());
            }
        }
        Next::Over
    }

    fn tell(&self, task: TaskId, exit: ExitRecord) {
        // Fails only when nobody listens any more.
        if self.events.send_blocking(ExitEvent { task, exit }).is_err() {
            log::debug!("nobody listens for the end of task {task}");
        }
    }
}

fn readable(fd: &impl AsFd) -> PollFd<'_> {
    PollFd::new(fd.as_fd(), PollFlags::POLLIN)
}
