//! What is asked of the shim of a container that is made: its start, signals, its end.

use std::time::{Duration, Instant};

use super::error::{Doing, RuntimeError};
use super::shim_client::{Answer, ShimClient, is_final};
use super::{Places, Runtime, SHIM_LIMIT, START_LIMIT, signals};
use crate::base::id::TaskId;
use crate::base::shim_wire::Request;
use crate::host::failpoint::{Point, hit};

/// How long a shim may take to say how much of its log is lost.
const COUNTS_LIMIT: Duration = Duration::from_millis(200);

impl Runtime {
    /// Starts the container. Returns the host's number of its first process, 0 when that has
    /// ended already.
    ///
    /// # Errors
    /// With runc's words, or when there is no such container.
    pub fn start(&self, task: TaskId) -> Result<u32, RuntimeError> {
        self.start_by(task, None).map(Option::unwrap_or_default)
    }

    /// The same, unless it is later than `by` when the container could be released: then it is left
    /// as it was made, and there is no number.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_by(
        &self,
        task: TaskId,
        by: Option<Instant>,
    ) -> Result<Option<u32>, RuntimeError> {
        let places = self.places(task);
        let Some(client) = self.connect(&places)? else {
            return self.ended_or_missing(task).map(Some);
        };
        client.hello()?;
        // One that does not even say how it is will not get on with the start.
        if self.or_end(task, &places, client.wait_state(SHIM_LIMIT, |_| true))?.is_none() {
            return self.ended_or_missing(task).map(Some);
        }
        if by.is_some_and(|by| Instant::now() >= by) {
            return Ok(None);
        }
        let asked = client.ask(Request::Start, START_LIMIT + SHIM_LIMIT);
        match self.or_end(task, &places, asked)? {
            Answer::Done => {}
            Answer::Refused { text, .. } => return Err(RuntimeError::Runc(text)),
            Answer::Gone => return self.ended_or_missing(task).map(Some),
        }
        hit(Point::ContainerStarted);
        client.hello()?;
        let state = client.wait_state(SHIM_LIMIT, |_| true)?;
        Ok(Some(state.filter(|state| !is_final(state)).map_or(0, |state| state.pid)))
    }

    /// A shim that has left did so because its container ran and ended.
    fn ended_or_missing(&self, task: TaskId) -> Result<u32, RuntimeError> {
        match self.exit_record(task)? {
            Some(_) => Ok(0),
            // Another try would find the same.
            None => {
                let text = "the container was not started: its shim is gone";
                Err(RuntimeError::Runc(text.to_owned()))
            }
        }
    }

    /// Hands an answer on; a shim that gave none is ended with its container, which has not run:
    /// the next try finds a clean place.
    pub(super) fn or_end<T>(
        &self,
        task: TaskId,
        places: &Places,
        answer: Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        if let Err(err) = &answer {
            log::warn!("task {task}: {}; killing it", err.full_text());
            self.end_by_force(task, places)?;
        }
        answer
    }

    /// Sends a signal to the container's first process. False when there is none any more.
    ///
    /// # Errors
    /// When the shim does not answer or the signal is none.
    pub fn signal(&self, task: TaskId, number: i32) -> Result<bool, RuntimeError> {
        let places = self.places(task);
        let until = Instant::now() + SHIM_LIMIT;
        while let Some(client) = self.connect(&places)? {
            match client.ask(Request::Signal { number }, SHIM_LIMIT)? {
                Answer::Done => return Ok(true),
                Answer::Refused { errno: nix::errno::Errno::ESRCH, .. } => return Ok(false),
                Answer::Refused { text, .. } => {
                    return Err(RuntimeError::Shim(format!("cannot send signal {number}: {text}")));
                }
                Answer::Gone if Instant::now() >= until => {
                    return Err(RuntimeError::Shim("closes every connection".to_owned()));
                }
                // It left, or had no place for one more connection.
                Answer::Gone => {
                    nix::poll::poll(&mut [], 2u16).doing("wait for the shim in", &places.exec)?;
                }
            }
        }
        Ok(false)
    }

    /// Asks the container to stop, with the signal it was prepared with.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub fn stop(&self, task: TaskId) -> Result<bool, RuntimeError> {
        let name = std::fs::read_to_string(self.places(task).stop_signal()).unwrap_or_default();
        let number = signals::number(&name).unwrap_or(nix::libc::SIGTERM);
        let sent = self.signal(task, number)?;
        self.thaw(task);
        Ok(sent)
    }

    /// Ends the container: its first process and with it all others. Where its shim does not do
    /// that, the shim ends too, and how the container ended is not known.
    ///
    /// # Errors
    /// When something cannot be killed.
    pub fn kill(&self, task: TaskId) -> Result<bool, RuntimeError> {
        let sent = self.signal(task, nix::libc::SIGKILL).or_else(|err| {
            log::warn!("task {task}: {}; killing it", err.full_text());
            self.end_by_force(task, &self.places(task))?;
            Ok(true)
        })?;
        self.thaw(task);
        Ok(sent)
    }

    /// Lets a container that is paused act on its signal, as `runc kill` does.
    fn thaw(&self, task: TaskId) {
        if let Err(err) = self.cgroups.thaw(&task.to_string()) {
            log::warn!("task {task}: cannot let it go on: {}", err.full_text());
        }
    }

    /// Log entries that a running container's shim wrote and dropped. None when it does not say so at
    /// once: nobody waits for that.
    #[must_use]
    pub fn log_counts(&self, task: TaskId) -> Option<(u64, u64)> {
        log_counts(&self.places(task))
    }
}

/// As [`Runtime::log_counts`].
pub(super) fn log_counts(places: &Places) -> Option<(u64, u64)> {
    let client = ShimClient::connect(&places.exec).ok()??;
    client.hello().ok()?;
    let state = client.wait_state(COUNTS_LIMIT, |_| true).ok()??;
    Some((state.log_written, state.log_dropped))
}
