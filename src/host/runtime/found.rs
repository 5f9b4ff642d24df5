//! What of earlier runs is on this machine: adoption after a restart of the daemon, forgetting
//! after a reboot.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::{Doing, RuntimeError, unless_absent};
use super::remove::remove_exec;
use super::runc::Traces;
use super::shim_client::{Received, ShimClient};
use super::{ExitRecord, Found, FoundState, Places, Runtime, RuntimeConfig, has_shim};
use crate::host::tree::remove_tree;
use crate::base::id::TaskId;
use crate::base::shim_wire::{Exit, Phase, Reply, Request};
use crate::base::time::Wall;

/// The exit code of a container whose shim was lost.
const CODE_LOST: i32 = 255;

/// How long all shims together have to say how their containers are. A shim that stands still must
/// not keep the others' node from starting; what a slow one says later is heard by the watcher.
const FOUND_LIMIT: Duration = Duration::from_millis(1_000);

/// How often shims that take no connection yet are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A shim that is to say how its container is.
struct Asked {
    task: TaskId,
    places: Places,
    /// None until it takes a connection, and when it has gone.
    client: Option<ShimClient>,
    /// What it said last.
    phase: Option<Phase>,
}

impl Runtime {
    /// Every task that has something here. Containers that have a shim are watched from here on.
    /// Takes no longer than a second for all shims that do not answer.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn found(&self) -> Result<Vec<Found>, RuntimeError> {
        let (mut all, mut asked) = (Vec::new(), Vec::new());
        for task in self.tasks()? {
            let places = self.places(task);
            if may_have_shim(&places, task) {
                asked.push(Asked { task, places, client: None, phase: None });
            } else {
                all.push(Found { task, state: self.without_shim(task) });
            }
        }
        let until = Instant::now() + FOUND_LIMIT;
        loop {
            asked.retain_mut(|shim| match self.hear(shim) {
                Some(state) => {
                    all.push(Found { task: shim.task, state });
                    false
                }
                None => true,
            });
            let left = until.saturating_duration_since(Instant::now());
            if asked.is_empty() || left.is_zero() {
                break;
            }
            wait_for_any(&asked, left)?;
        }
        for shim in asked {
            all.push(Found { task: shim.task, state: self.unsettled(shim) });
        }
        all.sort_unstable_by_key(|found| found.task);
        Ok(all)
    }

    /// The tasks that have a folder in either root or are known to runc.
    pub(super) fn tasks(&self) -> Result<Vec<TaskId>, RuntimeError> {
        let mut tasks = Vec::new();
        for folder in [
            self.config.data_root.join("tasks"),
            self.config.exec_root.join("tasks"),
            self.runc.root.clone(),
        ] {
            tasks.extend(task_names(&folder)?);
        }
        tasks.sort_unstable();
        tasks.dedup();
        Ok(tasks)
    }

    /// What a shim says, without waiting. None when it has yet to say how its container is.
    fn hear(&self, shim: &mut Asked) -> Option<FoundState> {
        if shim.client.is_none() {
            match ShimClient::connect(&shim.places.exec) {
                Ok(Some(client))
                    if shim.phase != Some(Phase::Failed) && client.hello().is_ok() =>
                {
                    shim.client = Some(client);
                }
                Ok(_) if !may_have_shim(&shim.places, shim.task) => {
                    let failed = shim.phase == Some(Phase::Failed);
                    let without = || self.without_shim(shim.task);
                    return Some(if failed { FoundState::Parts } else { without() });
                }
                Ok(_) => {}
                Err(err) => log::warn!("task {}: {}", shim.task, err.full_text()),
            }
        }
        while let Some(client) = &shim.client {
            let state = match client.receive(Instant::now()) {
                Ok(Received::Reply(Reply::State(state))) => state,
                Ok(Received::Reply(Reply::Done { .. })) => continue,
                Ok(Received::Late) => return None,
                // It has ended, or it cut the connection off.
                Ok(Received::Gone) | Err(_) => {
                    shim.client = None;
                    return None;
                }
            };
            shim.phase = Some(state.phase);
            let found = match state.phase {
                Phase::Creating | Phase::Starting => continue,
                Phase::Created => FoundState::Created,
                Phase::Running => {
                    FoundState::Running { pid: state.pid, started: Wall(state.started_us) }
                }
                Phase::Exited => FoundState::Exited(ExitRecord::from_exit(&state.exit)),
                Phase::Failed => {
                    // It counts as gone when it holds its lock no more.
                    if let Err(err) = client.send(Request::Bye) {
                        log::debug!("task {}: {}", shim.task, err.full_text());
                    }
                    continue;
                }
            };
            self.watch(shim);
            return Some(found);
        }
        None
    }

    /// How a container is whose shim did not say so in time.
    fn unsettled(&self, mut shim: Asked) -> FoundState {
        let traces = self.runc.traces(&shim.task.to_string());
        let state = match (shim.phase, traces) {
            (Some(Phase::Failed), _) => return FoundState::Parts,
            // Whoever goes on with these waits for runc as long as it may take.
            (Some(Phase::Creating), _) | (None, Traces::Parts) => FoundState::Parts,
            (Some(Phase::Starting), _) | (None, Traces::Created) => FoundState::Created,
            (Some(_), _) | (None, Traces::Started) => FoundState::Silent,
        };
        log::warn!("task {}: its shim does not tell how the container is", shim.task);
        self.watch(&mut shim);
        state
    }

    fn watch(&self, shim: &mut Asked) {
        match shim.client.take() {
            Some(client) => self.watcher.watch(shim.task, client),
            None => self.watcher.watch_unconnected(shim.task),
        }
    }

    /// How a container is that has no shim. What cannot be read is told and counts as lost: one
    /// bad block must not keep the node from starting.
    fn without_shim(&self, task: TaskId) -> FoundState {
        match self.exit_record(task) {
            Ok(Some(exit)) => FoundState::Exited(exit),
            Ok(None) if self.runc.knows(&task.to_string()) => {
                FoundState::Exited(ExitRecord::lost())
            }
            Ok(None) => FoundState::Parts,
            Err(err) => {
                log::error!("how task {task} ended is not known: {}", err.full_text());
                FoundState::Exited(ExitRecord::lost())
            }
        }
    }

    /// How a task's container ended, from disk. None while it has not.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn exit_record(&self, task: TaskId) -> Result<Option<ExitRecord>, RuntimeError> {
        read_exit(&self.places(task), task)
    }
}

/// There is a shim, or it cannot be told that there is none.
fn may_have_shim(places: &Places, task: TaskId) -> bool {
    has_shim(places).unwrap_or_else(|err| {
        log::warn!("task {task}: {}", err.full_text());
        true
    })
}

/// Waits until one of the shims says something, or the next look is due.
fn wait_for_any(asked: &[Asked], left: Duration) -> Result<(), RuntimeError> {
    let clients = asked.iter().filter_map(|shim| shim.client.as_ref());
    let mut polls: Vec<PollFd<'_>> =
        clients.map(|client| PollFd::new(client.as_fd(), PollFlags::POLLIN)).collect();
    let left = if polls.len() < asked.len() { left.min(LOOK_EVERY) } else { left };
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut polls, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(source) => Err(RuntimeError::System { doing: "wait for the shims", source }),
    }
}

/// The record on disk. A damaged one is named in the log and counts as lost.
pub(super) fn read_exit(
    places: &Places,
    task: TaskId,
) -> Result<Option<ExitRecord>, RuntimeError> {
    let path = places.exit_record();
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            return Ok(places.lost().exists().then(ExitRecord::lost));
        }
        Err(err) => return Err(err).doing("read", &path),
    };
    match Exit::decode_record(&bytes, task.0.0) {
        Ok(exit) => Ok(Some(ExitRecord::from_exit(&exit))),
        Err(err) => {
            log::error!("{err} in {path:?}: how task {task} ended is not known");
            Ok(Some(ExitRecord::lost()))
        }
    }
}

impl ExitRecord {
    pub(super) fn from_exit(exit: &Exit) -> Self {
        Self {
            code: i32::from(exit.code),
            oom: exit.oom_killed,
            shim_lost: false,
            started: Wall(exit.started_us),
            finished: Wall(exit.finished_us),
        }
    }

    /// Of a container whose shim is gone without a word.
    pub(super) fn lost() -> Self {
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            code: CODE_LOST,
            oom: false,
            shim_lost: true,
            started: Wall(0),
            finished: Wall(u64::try_from(now.as_micros()).unwrap_or(0)),
        }
    }
}

/// The names in `folder` that are task ids.
fn task_names(folder: &Path) -> Result<Vec<TaskId>, RuntimeError> {
    let entries = match std::fs::read_dir(folder) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing("list", folder)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.doing("list", folder)?.file_name();
        names.extend(name.to_str().and_then(|name| name.parse::<TaskId>().ok()));
    }
    Ok(names)
}

/// Takes away what an exec root that is no tmpfs still holds from before a reboot. No process
/// and no mount of it has survived.
pub(super) fn forget_other_boot(config: &RuntimeConfig) -> Result<(), RuntimeError> {
    let now = "/proc/sys/kernel/random/boot_id";
    let now = std::fs::read_to_string(now).doing("read", now)?;
    let path = config.exec_root.join("boot-id");
    let then = unless_absent(std::fs::read_to_string(&path)).doing("read", &path)?;
    if then == now {
        return Ok(());
    }
    if !then.is_empty() {
        for task in task_names(&config.exec_root.join("tasks"))? {
            remove_exec(&Places::new(config, task))?;
        }
        let runc = config.exec_root.join("runc");
        remove_tree(&runc).doing("remove", &runc)?;
    }
    std::fs::write(&path, now).doing("write", &path)
}
