//! What of earlier runs is on this machine: adoption after a restart of the daemon, forgetting
//! after a reboot.

use std::path::Path;

use super::error::{Doing, RuntimeError, unless_absent};
use super::remove::remove_exec;
use super::{ExitRecord, Found, FoundState, Places, Runtime, RuntimeConfig, SHIM_LIMIT, has_shim};
use crate::base::id::TaskId;
use crate::base::shim_wire::{Exit, Phase, State};
use crate::base::time::Wall;

/// The exit code of a container whose shim was lost.
const CODE_LOST: i32 = 255;

impl Runtime {
    /// Every task that has something here. Containers that have a shim are watched from here on.
    ///
    /// # Errors
    /// When a folder cannot be read or a shim does not answer.
    pub fn found(&self) -> Result<Vec<Found>, RuntimeError> {
        let mut all = Vec::new();
        for task in self.tasks()? {
            all.push(Found { task, state: self.look(task)? });
        }
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

    /// How the container of one task is.
    fn look(&self, task: TaskId) -> Result<FoundState, RuntimeError> {
        let places = self.places(task);
        if has_shim(&places)?
            && let Some(client) = self.connect(&places)?
        {
            client.hello()?;
            let limit = super::RUNC_LIMIT;
            let settled = |state: &State| {
                !matches!(state.phase, Phase::Creating | Phase::Starting)
            };
            if let Some(state) = client.wait_state(limit, settled)? {
                let found = match state.phase {
                    Phase::Running => FoundState::Running {
                        pid: state.pid,
                        started: Wall(state.started_us),
                    },
                    Phase::Exited => FoundState::Exited(ExitRecord::from_exit(&state.exit)),
                    Phase::Failed => FoundState::Parts,
                    Phase::Created | Phase::Creating | Phase::Starting => FoundState::Created,
                };
                if state.phase == Phase::Failed {
                    client.send(crate::base::shim_wire::Request::Bye)?;
                    self.wait_gone(&places)?;
                } else {
                    self.watcher.watch(task, client);
                }
                return Ok(found);
            }
        }
        if let Some(exit) = self.exit_record(task)? {
            return Ok(FoundState::Exited(exit));
        }
        if self.runc.knows(&task.to_string()) {
            return Ok(FoundState::Exited(ExitRecord::lost()));
        }
        Ok(FoundState::Parts)
    }

    fn wait_gone(&self, places: &Places) -> Result<(), RuntimeError> {
        let until = std::time::Instant::now() + SHIM_LIMIT;
        while has_shim(places)? && std::time::Instant::now() < until {
            nix::poll::poll(&mut [], 2u16).doing("wait for the shim in", &places.exec)?;
        }
        Ok(())
    }

    /// How a task's container ended, from disk. None while it has not.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn exit_record(&self, task: TaskId) -> Result<Option<ExitRecord>, RuntimeError> {
        read_exit(&self.places(task), task)
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
        unless_absent(std::fs::remove_dir_all(&runc)).doing("remove", &runc)?;
    }
    std::fs::write(&path, now).doing("write", &path)
}
