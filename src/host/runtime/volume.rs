//! Volumes of the local driver: `volumes/NAME/_data` below the data root.
//!
//! A volume appears by a rename, so there is never half of one. Filling it from an image is
//! marked by a file `filling` beside the data: when that is found, the fill was cut short and is
//! done again from nothing. One lock orders making, filling and removing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::copyup;
use super::error::{Doing, RuntimeError, unless_absent};
use super::overlay::make_dir;
use super::rootdir::RootDir;
use crate::base::id::TaskId;
use crate::base::time::Wall;
use crate::model::service::Labels;

/// The longest name of a volume; a folder's name cannot be longer.
const NAME_BYTES_MAX: usize = 255;

const DATA: &str = "_data";
const ABOUT: &str = "about.json";
const FILLING: &str = "filling";

/// The volumes of one data root.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    lock: Mutex<()>,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// When it was made.
    pub created: Wall,
    /// Where its content is.
    pub mountpoint: PathBuf,
}

/// What is kept about a volume besides its content.
#[derive(Debug, Default, Serialize, Deserialize)]
struct About {
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    created_us: u64,
}

impl Volumes {
    pub(super) fn open(root: PathBuf) -> Result<Self, RuntimeError> {
        make_dir(&root, 0o711)?;
        Ok(Self { root, lock: Mutex::new(()) })
    }

    /// The name of the anonymous volume of `task` at `target`: 64 hexadecimal digits, the first
    /// half the task's, so that it goes with the task and a retry finds it again.
    #[must_use]
    pub fn anonymous_name(task: TaskId, target: &str) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, target.as_bytes());
        let half: String = digest.as_ref()[..16].iter().map(|b| format!("{b:02x}")).collect();
        format!("{:032x}{half}", task.0.0)
    }

    /// All volumes in the order of their names.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>, RuntimeError> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.root).doing("list the volumes in", &self.root)? {
            let entry = entry.doing("list the volumes in", &self.root)?;
            if let Some(name) = entry.file_name().to_str()
                && check_name(name).is_ok()
            {
                all.extend(self.get(name));
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// One volume.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Volume> {
        check_name(name).ok()?;
        let folder = self.root.join(name);
        let mountpoint = folder.join(DATA);
        let meta = std::fs::symlink_metadata(&mountpoint).ok().filter(|meta| meta.is_dir())?;
        // Without its file a volume is still a volume: labels are a convenience, data is not.
        let about: About = std::fs::read(folder.join(ABOUT))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let created = match about.created_us {
            0 => meta.modified().map_or(Wall(0), wall),
            us => Wall(us),
        };
        Some(Volume { name: name.to_owned(), labels: about.labels, created, mountpoint })
    }

    /// Makes a volume, or finds the one of that name.
    ///
    /// # Errors
    /// When the name cannot be one, or the disk does not take it.
    pub fn create(&self, name: &str, labels: &Labels) -> Result<Volume, RuntimeError> {
        self.ensure(name, labels)?;
        let found = self.get(name);
        found.ok_or_else(|| RuntimeError::Volume(format!("get {name}: no such volume")))
    }

    /// The folder with the content of a volume, which is made where it is missing.
    pub(super) fn ensure(&self, name: &str, labels: &Labels) -> Result<PathBuf, RuntimeError> {
        check_name(name)?;
        let guard = self.guard();
        let folder = self.root.join(name);
        let data = folder.join(DATA);
        if data.is_dir() {
            return Ok(data);
        }
        let early = self.root.join(format!(".{name}"));
        unless_absent(std::fs::remove_dir_all(&early)).doing("remove", &early)?;
        make_dir(&early.join(DATA), 0o755)?;
        std::fs::set_permissions(&early, std::os::unix::fs::PermissionsExt::from_mode(0o701))
            .doing("set the mode of", &early)?;
        let about = About { labels: labels.clone(), created_us: wall(SystemTime::now()).0 };
        let bytes = serde_json::to_vec(&about).map_err(io::Error::from);
        let path = early.join(ABOUT);
        std::fs::write(&path, bytes.doing("encode", &path)?).doing("write", &path)?;
        std::fs::rename(&early, &folder).doing("make the volume", &folder)?;
        drop(guard);
        Ok(data)
    }

    /// Fills an empty volume with what the image has at `target`.
    pub(super) fn fill(
        &self,
        name: &str,
        root: &RootDir,
        target: &str,
    ) -> Result<(), RuntimeError> {
        let guard = self.guard();
        let folder = self.root.join(name);
        let (data, mark) = (folder.join(DATA), folder.join(FILLING));
        let cut_short = mark.exists();
        if !cut_short && !is_empty(&data)? {
            return Ok(());
        }
        let Some(source) = copyup::Source::open(root, Path::new(target))? else { return Ok(()) };
        if !source.is_empty()? || cut_short {
            std::fs::write(&mark, b"").doing("write", &mark)?;
            copyup::clear(&data)?;
            source.copy_into(&data)?;
            copyup::sync(&data)?;
            std::fs::remove_file(&mark).doing("remove", &mark)?;
        }
        source.copy_owner(&data)?;
        drop(guard);
        Ok(())
    }

    /// Removes a volume that none of `users` uses (the second of each pair are its volumes).
    pub(super) fn remove(
        &self,
        name: &str,
        users: impl FnOnce() -> Result<Vec<(TaskId, Vec<String>)>, RuntimeError>,
    ) -> Result<(), RuntimeError> {
        check_name(name)?;
        let guard = self.guard();
        if self.get(name).is_none() {
            return Err(RuntimeError::Volume(format!("get {name}: no such volume")));
        }
        let users = users()?.into_iter().filter(|(_, names)| names.iter().any(|n| n == name));
        let users: Vec<String> = users.map(|(task, _)| task.to_string()).collect();
        if !users.is_empty() {
            let text = format!("remove {name}: volume is in use - [{}]", users.join(", "));
            return Err(RuntimeError::Volume(text));
        }
        self.remove_folder(name)?;
        drop(guard);
        Ok(())
    }

    /// Removes the anonymous volumes of a task.
    pub(super) fn remove_of(&self, task: TaskId) -> Result<(), RuntimeError> {
        let prefix = format!("{:032x}", task.0.0);
        let guard = self.guard();
        for volume in self.list()? {
            if volume.name.len() == 64 && volume.name.starts_with(&prefix) {
                self.remove_folder(&volume.name)?;
            }
        }
        drop(guard);
        Ok(())
    }

    /// The folder vanishes at once; its content goes after that.
    fn remove_folder(&self, name: &str) -> Result<(), RuntimeError> {
        let (folder, early) = (self.root.join(name), self.root.join(format!(".{name}")));
        unless_absent(std::fs::remove_dir_all(&early)).doing("remove", &early)?;
        std::fs::rename(&folder, &early).doing("remove the volume", &folder)?;
        std::fs::remove_dir_all(&early).doing("remove", &early)
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wall(time: SystemTime) -> Wall {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_micros()).unwrap_or(0))
}

fn is_empty(folder: &Path) -> Result<bool, RuntimeError> {
    Ok(std::fs::read_dir(folder).doing("list", folder)?.next().is_none())
}

fn check_name(name: &str) -> Result<(), RuntimeError> {
    if name.len() < 2 {
        return Err(RuntimeError::Volume(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !first || !rest || name.len() > NAME_BYTES_MAX - 1 {
        return Err(RuntimeError::Volume(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn making_listing_and_removing() {
        let root = std::env::temp_dir().join(format!("skep-volumes-{}", std::process::id()));
        let volumes = Volumes::open(root.clone()).unwrap();
        let labels = Labels::from([("a".to_owned(), "b".to_owned())]);
        let made = volumes.create("data", &labels).unwrap();
        assert_eq!(made.labels, labels);
        assert_eq!(volumes.create("data", &Labels::new()).unwrap(), made);
        let task = TaskId::new(7);
        volumes.ensure(&Volumes::anonymous_name(task, "/x"), &Labels::new()).unwrap();
        assert_eq!(volumes.list().unwrap().len(), 2);
        volumes.remove_of(TaskId::new(8)).unwrap();
        volumes.remove_of(task).unwrap();
        assert_eq!(volumes.list().unwrap(), vec![made]);
        let users = || Ok(vec![(task, vec!["data".to_owned()])]);
        let err = volumes.remove("data", users).unwrap_err().to_string();
        assert_eq!(err, format!("remove data: volume is in use - [{task}]"));
        volumes.remove("data", || Ok(Vec::new())).unwrap();
        let err = volumes.remove("data", || Ok(Vec::new())).unwrap_err().to_string();
        assert_eq!(err, "get data: no such volume");
        for bad in ["x", "", "../x", "a/b", ".hidden", "a b"] {
            assert!(volumes.create(bad, &labels).is_err(), "{bad}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
