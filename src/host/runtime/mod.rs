//! Containers: from image layers and a specification to a process that runs, is watched, and
//! leaves nothing behind. Drives `runc`; each container has a shim (`skep shim`) that outlives
//! this process.
//!
//! It decides nothing (when to start, stop or give up is the worker's) and knows no network (the
//! namespace comes in as a path).
//!
//! **Places.** `exec-root/tasks/ID` holds what a reboot may take: lock, socket, bundle, mount
//! point. `data-root/tasks/ID` holds the writable layer, the log, the exit record.
//!
//! **Invariants.** Every step is idempotent and may be the last one. Whoever holds the lock of a
//! task is its shim, so a lock that can be taken means that there is none. Nothing here syncs on
//! the way to a running container except the fill of a new volume.
//!
//! **Threads.** All calls block and may be made from any thread, for one task by one at a time.
//! One thread of its own, `containers`, waits for the ends of all of them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;

use crate::base::id::TaskId;
use crate::base::time::Wall;

mod bundle;
mod caps;
pub mod cgroup;
mod copyup;
pub mod error;
mod found;
pub mod inputs;
mod log_files;
pub mod logs;
mod mounts;
mod overlay;
mod prepare;
mod probe;
mod remove;
mod rootdir;
pub mod runc;
mod seccomp;
mod shim_client;
pub mod signals;
mod started;
mod user;
pub mod volume;
mod watch;

pub use error::RuntimeError;
pub use inputs::{ContainerInputs, ImageView};
pub use probe::Look;

use cgroup::Cgroups;
use error::Doing;
use runc::Runc;
use volume::Volumes;
use watch::Watcher;

/// How long `runc create` may take: slow cards stall for many seconds. The shim kills it then.
const CREATE_LIMIT: Duration = Duration::from_secs(120);

/// The same for `runc start`, which does less, and keeps others from being stopped meanwhile.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a shim may take for what needs no runc.
const SHIM_LIMIT: Duration = Duration::from_secs(10);

/// Where and how containers are run.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Survives a reboot.
    pub data_root: PathBuf,
    /// Need not.
    pub exec_root: PathBuf,
    /// Cgroup below which the containers' are made, such as `/skep-1a2b`.
    pub cgroup_parent: String,
    /// The program runc: a path, or a name to be found on `PATH`, once, when it is opened.
    pub runc: PathBuf,
    /// This program: run as the shim, mounted as the first process of `--init` containers.
    pub exe: PathBuf,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitRecord {
    /// Exit status, or 128 + the signal; 255 when the shim was lost.
    pub code: i32,
    /// The kernel killed a process of it at its memory limit.
    pub oom: bool,
    /// The shim is gone, so how the container ended is not known.
    pub shim_lost: bool,
    /// When it started, zero when it did not.
    pub started: Wall,
    /// When it ended.
    pub finished: Wall,
}

/// A container ended. May be told more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitEvent {
    /// Whose.
    pub task: TaskId,
    /// How.
    pub exit: ExitRecord,
}

/// A task that has something on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which.
    pub task: TaskId,
    /// How its container is.
    pub state: FoundState,
}

/// How a container was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// None, or only parts of one: [`Runtime::prepare`] goes on, [`Runtime::remove`] clears up.
    Parts,
    /// Made, not started.
    Created,
    /// Running.
    Running {
        /// Its first process.
        pid: u32,
        /// Since when.
        started: Wall,
    },
    /// Ended.
    Exited(ExitRecord),
    /// Started, and its shim is there but does not say how the container is. Its end is told.
    Silent,
}

/// The containers of one daemon.
#[derive(Debug)]
pub struct Runtime {
    config: RuntimeConfig,
    runc: Runc,
    cgroups: Cgroups,
    volumes: Volumes,
    /// Own bounding set of capabilities.
    capabilities: u64,
    masked: Vec<String>,
    /// The kernel has recursive read-only mounts.
    can_rro: bool,
    /// Own hard limit of open files.
    files_hard: u64,
    watcher: Watcher,
    events: Receiver<ExitEvent>,
}

/// The folders and files of one task.
#[derive(Clone, Debug)]
struct Places {
    exec: PathBuf,
    data: PathBuf,
}

impl Places {
    fn new(config: &RuntimeConfig, task: TaskId) -> Self {
        let name = task.to_string();
        Self {
            exec: config.exec_root.join("tasks").join(&name),
            data: config.data_root.join("tasks").join(&name),
        }
    }

    fn lock(&self) -> PathBuf {
        self.exec.join("lock")
    }

    fn root(&self) -> PathBuf {
        self.exec.join("rootfs")
    }

    fn shim_args(&self) -> PathBuf {
        self.exec.join("shim.args")
    }

    fn stop_signal(&self) -> PathBuf {
        self.exec.join("stop-signal")
    }

    fn exit_record(&self) -> PathBuf {
        self.data.join("exit")
    }

    /// Stands in for the exit record of a container whose shim was lost.
    fn lost(&self) -> PathBuf {
        self.data.join("lost")
    }

    fn log(&self) -> PathBuf {
        self.data.join("log").join("json.log")
    }

    /// Names of the volumes the task uses, one a line.
    fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
}

impl Runtime {
    /// Checks runc and the machine and makes the folders. The receiver gets every end of a
    /// container that was created here or found.
    ///
    /// # Errors
    /// When runc is missing or too old, there are no cgroups, or the roots cannot be written.
    pub fn open(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let runc = Runc::open(&config.runc, &config.exec_root.join("runc"))?;
        if let Some(warning) = runc.version.warning() {
            log::warn!("{warning}");
        }
        let cgroups = Cgroups::detect(&config.cgroup_parent)?;
        for root in [&config.data_root, &config.exec_root] {
            overlay::make_dir(&root.join("tasks"), 0o711)?;
        }
        found::forget_other_boot(&config)?;
        let volumes = Volumes::open(config.data_root.join("volumes"))?;
        let status = std::fs::read_to_string("/proc/self/status")
            .doing("read", "/proc/self/status")?;
        let (watcher, events) = Watcher::start(config.clone())?;
        Ok(Self {
            config,
            runc,
            cgroups,
            volumes,
            capabilities: caps::parse_status(&status),
            masked: prepare::masked_by_processor(),
            can_rro: mounts::can_rro(),
            files_hard: crate::host::process::files_hard(),
            watcher,
            events,
        })
    }

    /// What runc calls its version.
    #[must_use]
    pub fn runc_version(&self) -> &str {
        &self.runc.version.text
    }

    /// The machine's cgroups.
    #[must_use]
    pub const fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// The volumes.
    #[must_use]
    pub const fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// Where the ends of containers are told.
    #[must_use]
    pub fn events(&self) -> Receiver<ExitEvent> {
        self.events.clone()
    }

    /// The task's folder on disk: the place for what the daemon itself keeps about it, which
    /// [`remove`](Self::remove) takes away too.
    #[must_use]
    pub fn task_folder(&self, task: TaskId) -> PathBuf {
        self.places(task).data
    }

    fn places(&self, task: TaskId) -> Places {
        Places::new(&self.config, task)
    }
}

/// Takes the lock of the file at `path`. None when a shim holds it.
fn try_lock(path: &Path) -> Result<Option<OwnedFd>, RuntimeError> {
    let flags = nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_CLOEXEC;
    let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    let fd = nix::fcntl::open(path, flags, mode).doing("open", path)?;
    // Not nix's own type, which would free the lock when it is dropped, whoever else has it.
    // SAFETY: flock only reads the descriptor, which is open.
    let taken = unsafe { nix::libc::flock(fd.as_raw_fd(), nix::libc::LOCK_EX | nix::libc::LOCK_NB) };
    match nix::errno::Errno::result(taken) {
        Ok(_) => Ok(Some(fd)),
        Err(nix::errno::Errno::EWOULDBLOCK) => Ok(None),
        Err(err) => Err(err).doing("lock", path),
    }
}

/// A shim lives, or is about to, for the task in `places`.
fn has_shim(places: &Places) -> Result<bool, RuntimeError> {
    if !places.lock().exists() {
        return Ok(false);
    }
    match try_lock(&places.lock()) {
        Ok(lock) => Ok(lock.is_none()),
        Err(RuntimeError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(false)
        }
        Err(err) => Err(err),
    }
}

/// Both channels of the watcher hold this many ends; more wait.
const EVENTS_MAX: usize = 1_024;

type Shared<T> = Arc<std::sync::Mutex<T>>;
