//! Where containers' cgroups are, on version 1, hybrid and version 2 machines, and their removal
//! when runc is no longer there to do it. runc makes them; nothing here sets a limit.
//!
//! Invariant: only what is below one's own parent is ever touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use super::error::{Doing, RuntimeError, unless_absent};

/// Where the kernel's cgroups are by convention.
const ROOT: &str = "/sys/fs/cgroup";

/// Rounds of killing what forks faster than it dies.
const KILL_ROUNDS_MAX: usize = 50;

/// Levels of folders below a container's cgroup that are cleaned.
const DEPTH_MAX: usize = 32;

/// Files that freeze a cgroup, in version 1 and 2: what they hold while it runs, and what makes it.
const FREEZERS: [(&str, &str, &str); 2] =
    [("freezer.state", "THAWED", "THAWED"), ("cgroup.freeze", "0", "0")];

/// Which cgroups the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy for each controller.
    V1,
    /// As V1, and an empty version 2 hierarchy beside.
    Hybrid,
    /// One hierarchy.
    V2,
}

/// The machine's hierarchies and one's own place in them.
#[derive(Clone, Debug)]
pub struct Cgroups {
    version: CgroupVersion,
    /// Mount point and controllers of each hierarchy.
    hierarchies: Vec<(PathBuf, Vec<String>)>,
    /// Absolute path below every hierarchy's root; containers go right below it.
    parent: String,
    swap: bool,
}

impl Cgroups {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When there are no cgroups.
    pub fn detect(parent: &str) -> Result<Self, RuntimeError> {
        let parent = format!("/{}", parent.trim_matches('/'));
        let unified = statfs(ROOT).doing("look at", ROOT)?.filesystem_type() == CGROUP2_SUPER_MAGIC;
        if unified {
            let root = PathBuf::from(ROOT);
            let path = root.join("cgroup.controllers");
            let text = fs::read_to_string(&path).doing("read", &path)?;
            let controllers = text.split_whitespace().map(str::to_owned).collect();
            let hierarchies = vec![(root, controllers)];
            let swap = has_swap_file(Path::new(ROOT));
            return Ok(Self { version: CgroupVersion::V2, hierarchies, parent, swap });
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").doing("read", "/proc/self/mountinfo")?;
        let (hierarchies, hybrid) = parse_mounts(&mounts);
        if hierarchies.iter().all(|(_, controllers)| controllers.is_empty()) {
            return Err(RuntimeError::Spec(format!(
                "no cgroups are mounted below {ROOT} (mount them, or enable them on the kernel's command line)"
            )));
        }
        let version = if hybrid { CgroupVersion::Hybrid } else { CgroupVersion::V1 };
        let mut cgroups = Self { version, hierarchies, parent, swap: false };
        cgroups.swap = cgroups
            .of("memory")
            .is_some_and(|root| root.join("memory.memsw.limit_in_bytes").exists());
        Ok(cgroups)
    }

    /// Which version.
    #[must_use]
    pub const fn version(&self) -> CgroupVersion {
        self.version
    }

    /// The machine can limit this: `memory`, `cpu`, `pids`, …
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.of(controller).is_some()
    }

    /// Swap can be limited too.
    #[must_use]
    pub const fn has_swap(&self) -> bool {
        self.swap
    }

    /// The path of a container's cgroup, for the bundle.
    #[must_use]
    pub fn path(&self, id: &str) -> String {
        format!("{}/{id}", self.parent)
    }

    /// The file that counts kills for the memory limit.
    #[must_use]
    pub fn oom_file(&self, id: &str) -> Option<PathBuf> {
        let name = match self.version {
            CgroupVersion::V2 => "memory.events",
            CgroupVersion::V1 | CgroupVersion::Hybrid => "memory.oom_control",
        };
        self.of("memory").map(|root| self.folder(root, id).join(name))
    }

    /// Lets a container go on that somebody has frozen (`runc pause`, or by hand): a frozen process
    /// acts on no signal, and with cgroup version 1 not even on SIGKILL. What is not frozen is not
    /// touched.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self, id: &str) -> Result<(), RuntimeError> {
        for (root, _) in &self.hierarchies {
            for (name, running, go_on) in FREEZERS {
                let path = self.folder(root, id).join(name);
                let state = unless_absent(fs::read_to_string(&path)).doing("read", &path)?;
                if !state.is_empty() && state.trim() != running {
                    fs::write(&path, go_on).doing("write", &path)?;
                }
            }
        }
        Ok(())
    }

    /// Kills what is in a container's cgroup.
    ///
    /// # Errors
    /// When something in it cannot be killed.
    pub fn kill(&self, id: &str) -> Result<(), RuntimeError> {
        self.thaw(id)?;
        self.hierarchies.iter().try_for_each(|(root, _)| kill_all(&self.folder(root, id)))
    }

    /// Makes a cgroup without limits of its own below a container's, in every hierarchy that has that.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn make_below(&self, id: &str, name: &str) -> Result<(), RuntimeError> {
        for (root, _) in &self.hierarchies {
            let above = self.folder(root, id);
            if !above.exists() {
                continue;
            }
            let folder = above.join(name);
            match fs::create_dir(&folder) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.doing("make the cgroup", &folder)?,
            }
            // Version 1 lets nothing into one without these, and does not take those above by itself.
            for file in ["cpuset.mems", "cpuset.cpus"] {
                let (from, to) = (above.join(file), folder.join(file));
                if self.version != CgroupVersion::V2 && to.exists() {
                    let text = fs::read(&from).doing("read", &from)?;
                    fs::write(&to, text).doing("write", &to)?;
                }
            }
        }
        Ok(())
    }

    /// Kills what is left in a container's cgroup and removes it from every hierarchy.
    ///
    /// # Errors
    /// When something in it cannot be killed or a folder cannot be removed.
    pub fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.thaw(id)?;
        for (root, _) in &self.hierarchies {
            let folder = self.folder(root, id);
            if folder.exists() {
                kill_all(&folder)?;
                remove_tree(&folder, DEPTH_MAX).doing("remove the cgroup", &folder)?;
            }
        }
        Ok(())
    }

    /// Removes one's own parent where it is empty, and what is above it that is not systemd's.
    pub fn remove_parent(&self) {
        for (root, _) in &self.hierarchies {
            let mut path = self.parent.as_str();
            while let Some((above, _)) = path.rsplit_once('/')
                && !path.is_empty()
                && !path.ends_with(".service")
                && fs::remove_dir(root.join(path.trim_start_matches('/'))).is_ok()
            {
                path = above;
            }
        }
    }

    fn of(&self, controller: &str) -> Option<&Path> {
        let found = self.hierarchies.iter().find(|(_, has)| has.iter().any(|c| c == controller));
        found.map(|(root, _)| root.as_path())
    }

    fn folder(&self, root: &Path, id: &str) -> PathBuf {
        root.join(self.parent.trim_start_matches('/')).join(id)
    }
}

/// A cgroup right below the root shows whether the kernel counts swap: the root itself does not.
fn has_swap_file(root: &Path) -> bool {
    let Ok(entries) = fs::read_dir(root) else { return false };
    entries.flatten().any(|entry| entry.path().join("memory.swap.max").exists())
}

/// Mount points and controllers of version 1 hierarchies in a `mountinfo`, and whether there is a
/// version 2 one beside.
fn parse_mounts(mountinfo: &str) -> (Vec<(PathBuf, Vec<String>)>, bool) {
    let mut hierarchies: Vec<(PathBuf, Vec<String>)> = Vec::new();
    let mut hybrid = false;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup2") => {
                hybrid = true;
                // Without controllers, but runc makes its folders there too.
                hierarchies.push((PathBuf::from(point), Vec::new()));
            }
            Some("cgroup") if !hierarchies.iter().any(|(path, _)| path == Path::new(point)) => {
                let options = right.nth(1).unwrap_or_default();
                let known = |word: &&str| !matches!(*word, "rw" | "ro" | "xattr" | "noprefix");
                let controllers = options
                    .split(',')
                    .filter(known)
                    .filter(|word| !word.contains('='))
                    .map(str::to_owned);
                hierarchies.push((PathBuf::from(point), controllers.collect()));
            }
            _ => {}
        }
    }
    (hierarchies, hybrid)
}

/// Kills every process in `folder` and below.
fn kill_all(folder: &Path) -> Result<(), RuntimeError> {
    for round in 0..KILL_ROUNDS_MAX {
        let mut pids = Vec::new();
        collect_pids(folder, DEPTH_MAX, &mut pids).doing("list the processes of", folder)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(err) => return Err(err).doing("kill the processes of", folder),
            }
        }
        // They die on their own; each round waits a little longer for that.
        let pause = u16::try_from(round + 1).unwrap_or(u16::MAX);
        nix::poll::poll(&mut [], pause).doing("wait for the processes of", folder)?;
    }
    Err(io::Error::from(nix::errno::Errno::EBUSY)).doing("kill the processes of", folder)
}

fn collect_pids(folder: &Path, depth: usize, out: &mut Vec<i32>) -> io::Result<()> {
    let text = unless_absent(fs::read_to_string(folder.join("cgroup.procs")))?;
    // A process of another pid namespace reads as 0.
    out.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1));
    for sub in sub_folders(folder)? {
        if depth > 0 {
            collect_pids(&sub, depth - 1, out)?;
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path, depth: usize) -> io::Result<()> {
    for sub in sub_folders(folder)? {
        if depth > 0 {
            remove_tree(&sub, depth - 1)?;
        }
    }
    unless_absent(fs::remove_dir(folder))
}

fn sub_folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_a_hybrid_machine() {
        let text = "25 20 0:22 / /sys/fs/cgroup ro,nosuid shared:5 - tmpfs tmpfs ro,mode=755\n\
            26 25 0:23 / /sys/fs/cgroup/unified rw shared:6 - cgroup2 cgroup2 rw\n\
            27 25 0:24 / /sys/fs/cgroup/systemd rw shared:7 - cgroup cgroup rw,xattr,name=systemd\n\
            28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw shared:8 - cgroup cgroup rw,cpu,cpuacct\n";
        let (hierarchies, hybrid) = parse_mounts(text);
        assert!(hybrid);
        assert_eq!(hierarchies.len(), 3);
        assert!(hierarchies[0].1.is_empty() && hierarchies[1].1.is_empty());
        assert_eq!(hierarchies[2].1, ["cpu", "cpuacct"]);
    }
}
