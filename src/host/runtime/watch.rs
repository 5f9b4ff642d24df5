//! The thread that waits for the ends of all containers.
//!
//! It holds one connection to each shim. A shim that says that its container ended is dismissed
//! once the exit record is durable; one that closes without a word is lost.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::error::{Doing, RuntimeError};
use super::found::read_exit;
use super::shim_client::{Received, ShimClient};
use super::{EVENTS_MAX, ExitEvent, ExitRecord, Places, RuntimeConfig, Shared, has_shim};
use crate::base::id::TaskId;
use crate::base::shim_wire::{Phase, Reply, Request};

/// The handle of the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watcher {
    new: Shared<Vec<(TaskId, ShimClient)>>,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The thread's own side.
struct Watch {
    config: RuntimeConfig,
    new: Shared<Vec<(TaskId, ShimClient)>>,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    events: Sender<ExitEvent>,
    shims: Vec<(TaskId, ShimClient)>,
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
        };
        let thread = std::thread::Builder::new()
            .name("containers".to_owned())
            .spawn(move || watch.run())
            .doing("start the thread", "containers")?;
        Ok((Self { new, wake, stop, thread: Some(thread) }, receiver))
    }

    /// Hands a connection over that has said hello. A second one for a task does no harm.
    pub(super) fn watch(&self, task: TaskId, client: ShimClient) {
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
}

impl Watch {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let mut polls = vec![readable(&*self.wake)];
            polls.extend(self.shims.iter().map(|(_, client)| readable(client)));
            if poll(&mut polls, PollTimeout::NONE).is_err() {
                continue;
            }
            let ready: Vec<bool> =
                polls.iter().map(|poll| poll.revents().is_none_or(|got| !got.is_empty())).collect();
            drop(polls);
            for at in (0..self.shims.len()).rev() {
                if ready[1 + at]
                    && let Look::Drop = self.look(at)
                {
                    self.shims.swap_remove(at);
                }
            }
            if ready[0] {
                // Its value does not matter.
                while self.wake.read().is_ok_and(|value| value > 1) {}
                self.shims.append(&mut lock(&self.new));
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
            Ok(Received::Gone) | Err(_) => {
                self.gone(*task);
                Look::Drop
            }
        }
    }

    /// The connection ended. Either the shim did its work, or it was killed, or it cut this
    /// connection off, and then there is a new one.
    fn gone(&self, task: TaskId) {
        let places = Places::new(&self.config, task);
        match has_shim(&places) {
            Ok(true) => {
                if let Ok(Some(client)) = ShimClient::connect(&places.exec)
                    && client.hello().is_ok()
                {
                    lock(&self.new).push((task, client));
                    if let Err(err) = self.wake.write(1) {
                        log::debug!("cannot wake the thread that waits for containers: {err}");
                    }
                    return;
                }
                // It went in between, or is going.
                log::debug!("the shim of task {task} took no new connection");
            }
            Ok(false) => {}
            Err(err) => log::warn!("task {task}: {}", err.full_text()),
        }
        if !places.exec.exists() {
            // Cleaned up: there is nobody to tell about it.
            return;
        }
        match read_exit(&places, task) {
            Ok(exit) => self.tell(task, exit.unwrap_or_else(ExitRecord::lost)),
            Err(err) => {
                log::error!("task {task}: {}", err.full_text());
                self.tell(task, ExitRecord::lost());
            }
        }
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
