//! Where the daemon and its tasks live among the cgroups.
//!
//! - Version 2 under systemd with the units this program brings: the daemon stays in its service's
//!   cgroup and the tasks go below the delegated cgroup of `skep-tasks.service` beside it. They
//!   cannot go below the daemon's own: a cgroup with controllers for its children takes no process,
//!   so systemd could not start the daemon a second time while tasks run (it fails with
//!   219/CGROUP; only version 254 and newer can place the process deeper).
//! - Version 2 otherwise: `/skep-TAG/daemon` and `/skep-TAG/tasks`.
//! - Version 1 and hybrid: the daemon stays where it is, the tasks are in `/skep-TAG` of each
//!   hierarchy.
//!
//! Not here: the cgroup of a single task, its limits and its removal (`host::runtime`). Only what
//! is below one's own tag is ever made or removed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::net::Names;

/// Where the kernel's cgroups are by convention.
const ROOT: &str = "/sys/fs/cgroup";

/// The unit whose cgroup systemd leaves to us for the tasks.
const TASKS_UNIT: &str = "skep-tasks.service";

/// What a task may be limited or counted by.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb"];

/// How long the tasks' unit may take to move its process away; it takes milliseconds.
const HOLDER_WAIT: Duration = Duration::from_secs(10);

/// Between two looks at it.
const HOLDER_PAUSE: Duration = Duration::from_millis(10);

/// A step that failed, and on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}", path = .path.display())]
pub struct CgroupHomeError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Places among the cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// The tasks' parent: absolute below the root of each hierarchy.
    pub tasks: String,
    /// `cgroup.procs` files that a process of the data plane enters so as to be beside the daemon.
    pub daemon_procs: Vec<PathBuf>,
}

/// Finds the home, makes it and moves the daemon there. Doing it again changes nothing.
///
/// # Errors
/// When a cgroup cannot be made or entered.
pub fn enter(data_root: &Path) -> Result<Home, CgroupHomeError> {
    let root = Path::new(ROOT);
    let kind = statfs(root).map_err(|e| failed("look at", root, e.into()))?.filesystem_type();
    let own = fs::read_to_string("/proc/self/cgroup")
        .map_err(|e| failed("read", Path::new("/proc/self/cgroup"), e))?;
    let tasks_unit = tasks_unit(&own).filter(|unit| below(unit).is_dir());
    let tag = Names::new(data_root).tag;
    let place = place(&tag, kind == CGROUP2_SUPER_MAGIC, tasks_unit.as_deref());
    if kind != CGROUP2_SUPER_MAGIC {
        return Ok(Home { tasks: place.tasks, daemon_procs: Vec::new() });
    }
    if let Some(unit) = &tasks_unit {
        wait_for_holder(&below(unit));
    }
    open_up(&place.tasks)?;
    let mut daemon_procs = Vec::new();
    if let Some(daemon) = &place.daemon {
        let folder = below(daemon);
        fs::create_dir_all(&folder).map_err(|e| failed("make the cgroup", &folder, e))?;
        let procs = folder.join("cgroup.procs");
        fs::write(&procs, "0").map_err(|e| failed("enter the cgroup", &folder, e))?;
        daemon_procs.push(procs);
    }
    Ok(Home { tasks: place.tasks, daemon_procs })
}

/// What is chosen, as paths below the hierarchy's root.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    tasks: String,
    daemon: Option<String>,
}

fn place(tag: &str, unified: bool, tasks_unit: Option<&str>) -> Place {
    match (unified, tasks_unit) {
        (true, Some(unit)) => Place { tasks: format!("{unit}/{tag}"), daemon: None },
        (true, None) => Place {
            tasks: format!("/skep-{tag}/tasks"),
            daemon: Some(format!("/skep-{tag}/daemon")),
        },
        (false, _) => Place { tasks: format!("/skep-{tag}"), daemon: None },
    }
}

/// The tasks' unit beside the service this process is in, from the text of `/proc/self/cgroup`.
fn tasks_unit(own: &str) -> Option<String> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (slice, unit) = path.rsplit_once('/')?;
    unit.ends_with(".service").then(|| format!("{slice}/{TASKS_UNIT}"))
}

/// Waits until the unit's own process has moved from the unit's cgroup to a leaf below: while one
/// is in it, nothing can be passed on to children.
fn wait_for_holder(unit: &Path) {
    let procs = unit.join("cgroup.procs");
    let deadline = Instant::now() + HOLDER_WAIT;
    while fs::read_to_string(&procs).is_ok_and(|text| !text.is_empty()) {
        if Instant::now() > deadline {
            log::warn!("a process stays in {}: limits may not work", unit.display());
            return;
        }
        thread::sleep(HOLDER_PAUSE);
    }
}

/// Makes a cgroup whose children can be limited: on the way down every level passes the
/// controllers on. One that the kernel lacks or that is busy is left out, with a word in the log.
fn open_up(path: &str) -> Result<(), CgroupHomeError> {
    let mut folder = PathBuf::from(ROOT);
    // systemd passes them on down to the unit; those levels are not ours.
    let mut ours = !path.contains(TASKS_UNIT);
    if ours {
        pass_on(&folder);
    }
    for name in path.split('/').filter(|name| !name.is_empty()) {
        folder.push(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("make the cgroup", &folder, error));
            }
            _ => {}
        }
        ours |= name == TASKS_UNIT;
        if ours {
            pass_on(&folder);
        }
    }
    Ok(())
}

fn pass_on(folder: &Path) {
    let has = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    let control = folder.join("cgroup.subtree_control");
    let passed = fs::read_to_string(&control).unwrap_or_default();
    for controller in CONTROLLERS {
        let word = |text: &str| text.split_whitespace().any(|word| word == controller);
        if word(&has)
            && !word(&passed)
            && let Err(error) = fs::write(&control, format!("+{controller}"))
        {
            log::warn!(
                "the limits of \"{controller}\" will not work: cannot write {}: {error}",
                control.display()
            );
        }
    }
}

fn below(path: &str) -> PathBuf {
    Path::new(ROOT).join(path.trim_start_matches('/'))
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> CgroupHomeError {
    CgroupHomeError { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_has_a_unit_beside_it() {
        let unit = tasks_unit("0::/system.slice/skep.service\n");
        assert_eq!(unit.as_deref(), Some("/system.slice/skep-tasks.service"));
        assert_eq!(tasks_unit("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        assert_eq!(tasks_unit("0::/\n"), None);
        assert_eq!(tasks_unit("4:memory:/x.service\n"), None);
    }

    #[test]
    fn daemons_with_other_roots_have_other_places() {
        let unit = || Some("/system.slice/skep-tasks.service");
        assert_eq!(place("abcd", true, unit()).tasks, "/system.slice/skep-tasks.service/abcd");
        let by_hand = place("abcd", true, None);
        assert_eq!(by_hand.tasks, "/skep-abcd/tasks");
        assert_eq!(by_hand.daemon.as_deref(), Some("/skep-abcd/daemon"));
        assert_eq!(place("abcd", false, unit()).tasks, "/skep-abcd");
    }
}
