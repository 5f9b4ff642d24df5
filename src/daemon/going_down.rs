//! The machine goes down: its tasks leave the mesh, then their containers get their stop signal and
//! their grace, all within [`DOWN_MAX`].
//!
//! It comes after the leader was told, which holds the node for Down by then and has begun to
//! replace its tasks. Nothing is reported and nothing recorded: to whoever starts the daemon again it
//! is as after a power cut, but that the containers could end as they like to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Receiver;
use async_io::Timer;
use smol::future::or;

use super::acts::Acts;
use super::brain::reply;
use super::handle::Event;
use super::node::Host;
use super::plane_thread::PlaneThread;
use super::records::TaskRecord;
use crate::base::chain;
use crate::base::id::TaskId;
use crate::host::runtime::{ExitEvent, FoundState, RuntimeError};

/// The longest that all of it may take; systemd waits longer (`TimeoutStopSec` of the unit).
const DOWN_MAX: Duration = Duration::from_secs(50);

/// The longest that the proxy may take to let go of its ports.
const LEAVE_MESH_MAX: Duration = Duration::from_secs(3);

/// The grace of a container whose spec has none (Docker's).
const GRACE: Duration = Duration::from_secs(10);

/// Between two looks at what runs, where no end is heard of.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Above every table that the worker has made.
const LAST_GENERATION: u64 = u64::MAX;

/// How far a container is.
struct Stopping {
    /// It is killed then.
    kill_at: Instant,
    killed: bool,
}

impl Host {
    /// Ends what runs here, then tells who asked for it.
    pub(super) async fn stop_what_runs(
        &self,
        acts: &mut Acts,
        plane: &PlaneThread,
        events: &Receiver<Event>,
    ) {
        let end = Instant::now() + DOWN_MAX;
        let answer = acts.take_leaving();
        acts.close();
        plane.set(LAST_GENERATION, Vec::new());
        let left = async {
            while let Ok(event) = events.recv().await {
                if matches!(event, Event::RoutesApplied { generation: LAST_GENERATION, .. }) {
                    return;
                }
            }
        };
        or(left, async {
            Timer::after(LEAVE_MESH_MAX).await;
            log::warn!("the proxy does not let go of its ports");
        })
        .await;
        // Who asks for something hears that the daemon is stopping: its answer is dropped.
        let refuse = async { while events.recv().await.is_ok() {} };
        let stopped = self.stop_all(end);
        or(stopped, async {
            refuse.await;
            std::future::pending().await
        })
        .await;
        if let Some(answer) = answer {
            reply(&answer, Ok(()));
        }
    }

    /// Stops all containers, or kills those that are left at the end.
    async fn stop_all(&self, end: Instant) {
        let exits = self.runtime.events();
        let mut all: BTreeMap<TaskId, Stopping> = BTreeMap::new();
        loop {
            let running = match self.runtime.found() {
                Ok(found) => found,
                Err(err) => return log::error!("cannot tell what runs: {}", chain::text(&err)),
            };
            let running = running.into_iter().filter(|found| is_running(&found.state));
            let running: Vec<TaskId> = running.map(|found| found.task).collect();
            let now = Instant::now();
            if running.is_empty() {
                return;
            }
            if now >= end {
                return log::error!("{} containers do not end", running.len());
            }
            for task in running {
                if let Some(stopping) = all.get_mut(&task) {
                    if stopping.kill_at <= now && !stopping.killed {
                        stopping.killed = true;
                        log::info!("task {task} does not end: killing it");
                        self.signal(task, super::handle::Runtime::kill);
                    }
                    continue;
                }
                // Killed in time to be gone before the end.
                let kill_at = (now + self.grace(task)).min(end - LEAVE_MESH_MAX);
                all.insert(task, Stopping { kill_at, killed: false });
                self.signal(task, super::handle::Runtime::stop);
            }
            wait(&exits, all.values().filter(|it| !it.killed).map(|it| it.kill_at).min()).await;
        }
    }

    fn grace(&self, task: TaskId) -> Duration {
        match TaskRecord::read(&self.data, task) {
            Ok(record) => record
                .and_then(|record| record.task.spec.container.stop_grace)
                .map_or(GRACE, |grace| grace.as_std()),
            Err(err) => {
                log::warn!("the grace of task {task} is not known: {}", chain::text(&err));
                GRACE
            }
        }
    }

    /// On a thread of the pool: a shim that does not answer holds up nobody else.
    fn signal<T>(
        &self,
        task: TaskId,
        signal: impl FnOnce(&super::handle::Runtime, TaskId) -> Result<T, RuntimeError> + Send + 'static,
    ) {
        let runtime = Arc::clone(&self.runtime);
        smol::unblock(move || {
            if let Err(err) = signal(&runtime, task) {
                log::warn!("cannot stop task {task}: {}", chain::text(&err));
            }
        })
        .detach();
    }
}

const fn is_running(state: &FoundState) -> bool {
    match state {
        FoundState::Running { .. } | FoundState::Silent => true,
        FoundState::Parts | FoundState::Created | FoundState::Exited(_) => false,
    }
}

/// Until a container ended, the next one is to be killed, or a while has passed.
async fn wait(exits: &Receiver<ExitEvent>, kill_at: Option<Instant>) {
    let look = Instant::now() + LOOK_EVERY;
    let until = kill_at.map_or(look, |at| at.min(look));
    let ended = async {
        if exits.recv().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    or(ended, async {
        Timer::at(until).await;
    })
    .await;
}
