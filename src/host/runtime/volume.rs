//! Volumes of the local driver: `volumes/NAME/_data` below the data root.
//!
//! A volume appears by a rename, so there is never half of one. Filling it from an image is
//! marked by a file `filling` beside the data: when that is found, the fill was cut short and is
//! done again from nothing. One lock orders making, filling and removing.
//!
//! A volume vanishes by a rename too, to `.-NUMBER`, before its content goes. What a daemon that
//! died left under such a name, or half-made under `.NAME`, the next one clears.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::copyup;
use super::error::{Doing, RuntimeError};
use super::mounts::clean;
use super::overlay::make_dir;
use super::rootdir::RootDir;
use crate::base::chain;
use crate::base::id::TaskId;
use crate::base::time::Wall;
use crate::host::failpoint::{Point, hit};
use crate::host::disk::ledger::{self, LedgerError};
use crate::host::tree;
use crate::model::service::Labels;
use crate::model::wire::Kind;

/// The longest name of a volume; a folder's name cannot be longer.
const NAME_BYTES_MAX: usize = 255;

const DATA: &str = "_data";
const ABOUT: &str = "about";
const FILLING: &str = "filling";

/// The version of [`About`].
const ABOUT_VERSION: u16 = 1;

/// What a volume that is being removed is called, before its number: no volume's name, nor that of
/// a half-made one.
const GONE: &str = ".-";

/// The volumes of one data root.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    lock: Mutex<()>,
    /// The number of the next folder that is removed.
    gone: AtomicU64,
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
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    labels: Labels,
    created_us: u64,
}

impl About {
    /// Without its file, or with a damaged one, a volume is still a volume: labels are a
    /// convenience, data is not.
    fn read(folder: &Path) -> Self {
        let path = folder.join(ABOUT);
        match ledger::read(&path, Kind::VOLUME, ABOUT_VERSION) {
            Ok(about) => about.unwrap_or_default(),
            Err(err) => {
                log::error!("the volume's labels are lost: {}", chain::text(&err));
                Self::default()
            }
        }
    }

    /// Labels are the user's and made durable; a time alone is not worth two syncs.
    fn write(&self, folder: &Path) -> Result<(), RuntimeError> {
        let path = folder.join(ABOUT);
        let write: fn(&Path, Kind, u16, &Self) -> Result<(), LedgerError> =
            if self.labels.is_empty() { ledger::write_lazily } else { ledger::write };
        write(&path, Kind::VOLUME, ABOUT_VERSION, self).map_err(|err| match err {
            LedgerError::Io(failed) => {
                RuntimeError::File { doing: "write", path, source: failed.source }
            }
            err => RuntimeError::Volume(chain::text(&err)),
        })
    }
}

impl Volumes {
    pub(super) fn open(root: PathBuf) -> Result<Self, RuntimeError> {
        make_dir(&root, 0o711)?;
        let volumes = Self { root, lock: Mutex::new(()), gone: AtomicU64::new(0) };
        volumes.clear_leftovers()?;
        Ok(volumes)
    }

    /// Clears what an earlier daemon was making or removing when it died, on a thread that ends
    /// with that: there may be much of it.
    fn clear_leftovers(&self) -> Result<(), RuntimeError> {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(&self.root).doing("list the volumes in", &self.root)? {
            let path = entry.doing("list the volumes in", &self.root)?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let Some(name) = name.filter(|name| name.starts_with('.')) else { continue };
            let number = name.strip_prefix(GONE).and_then(|text| text.parse::<u64>().ok());
            if let Some(number) = number {
                self.gone.fetch_max(number.saturating_add(1), Ordering::Relaxed);
            }
            left.push((path, number.is_some()));
        }
        if left.is_empty() {
            return Ok(());
        }
        let mut gone = Vec::new();
        for (path, is_aside) in left {
            // Renamed first: from here on the name may be needed for a new volume.
            gone.push(if is_aside { path } else { self.put_aside(&path)? });
        }
        let clear = move || {
            for path in gone {
                match remove_tree(&path) {
                    Ok(()) => log::info!("removed what was left of a volume in {path:?}"),
                    Err(err) => log::error!(
                        "what is left of a volume cannot be removed and takes up space: {}",
                        err.full_text()
                    ),
                }
            }
        };
        let thread = std::thread::Builder::new().name("volumes".to_owned()).spawn(clear);
        thread.map(drop).doing("start a thread to clear", &self.root)
    }

    /// Gives a folder that is to be removed a name of its own.
    fn put_aside(&self, path: &Path) -> Result<PathBuf, RuntimeError> {
        let number = self.gone.fetch_add(1, Ordering::Relaxed);
        let aside = self.root.join(format!("{GONE}{number}"));
        std::fs::rename(path, &aside).doing("remove the volume", path)?;
        Ok(aside)
    }

    /// The name of the anonymous volume of `task` at `target`: 64 hexadecimal digits, the first
    /// half the task's, so that it goes with the task and a retry finds it again. However the
    /// target is written, its name is the same.
    #[must_use]
    pub fn anonymous_name(task: TaskId, target: &str) -> String {
        let target = clean(target);
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
        let about = About::read(&folder);
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
        if early.exists() {
            // Of a try that failed. What cannot be removed is not in the way.
            let aside = self.put_aside(&early)?;
            if let Err(err) = remove_tree(&aside) {
                log::error!("{}", err.full_text());
            }
        }
        make_dir(&early.join(DATA), 0o755)?;
        std::fs::set_permissions(&early, std::os::unix::fs::PermissionsExt::from_mode(0o701))
            .doing("set the mode of", &early)?;
        let about = About { labels: labels.clone(), created_us: wall(SystemTime::now()).0 };
        about.write(&early)?;
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

    /// Removes a volume that none of `users` uses: the second of each pair are its volumes, and
    /// its anonymous ones are its own whether or not they are listed.
    pub(super) fn remove(
        &self,
        name: &str,
        users: impl FnOnce() -> Result<Vec<VolumeUser>, RuntimeError>,
    ) -> Result<(), RuntimeError> {
        check_name(name)?;
        let guard = self.guard();
        if self.get(name).is_none() {
            return Err(RuntimeError::Volume(format!("get {name}: no such volume")));
        }
        let users = users()?.into_iter().filter(|user| is_user(user, name));
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
        let guard = self.guard();
        for volume in self.list()? {
            if is_anonymous_of(task, &volume.name) {
                self.remove_folder(&volume.name)?;
            }
        }
        drop(guard);
        Ok(())
    }

    /// The folder vanishes at once; its content goes after that.
    fn remove_folder(&self, name: &str) -> Result<(), RuntimeError> {
        let aside = self.put_aside(&self.root.join(name))?;
        hit(Point::ContainerVolumeAside);
        remove_tree(&aside)
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task and the volumes that it has mounted.
pub(super) type VolumeUser = (TaskId, Vec<String>);

/// Whether a task uses the volume of this name.
pub(super) fn is_user((task, names): &VolumeUser, name: &str) -> bool {
    is_anonymous_of(*task, name) || names.iter().any(|used| used == name)
}

/// Whether [`Volumes::anonymous_name`] gives this name to a volume of `task`.
fn is_anonymous_of(task: TaskId, name: &str) -> bool {
    name.len() == 64 && name.starts_with(&format!("{:032x}", task.0.0))
}

fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    tree::remove_tree(path).doing("remove", path)
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
    #[allow(clippy::disallowed_methods, reason = "the golden bytes are a file")]
    fn its_file_is_frozen_and_damage_loses_no_volume() {
        let root = std::env::temp_dir().join(format!("skep-volume-file-{}", std::process::id()));
        let volumes = Volumes::open(root.clone()).unwrap();
        let about = About { labels: Labels::from([("k".into(), "v".into())]), created_us: 300 };
        let bytes = crate::model::wire::encode(Kind::VOLUME, ABOUT_VERSION, &about, 1 << 10).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect_file!["../../../tests/data/wire/volume-1.hex"]
            .assert_eq(&format!("{hex}\n"));
        let made = volumes.create("data", &about.labels).unwrap();
        let path = root.join("data").join(ABOUT);
        let good = std::fs::read(&path).unwrap();
        for bad in [&good[..good.len() - 1], b"", b"{}"] {
            std::fs::write(&path, bad).unwrap();
            assert!(ledger::read::<About>(&path, Kind::VOLUME, ABOUT_VERSION).is_err());
            let found = volumes.list().unwrap();
            assert_eq!((found.len(), &found[0].name[..]), (1, "data"));
            assert!(found[0].labels.is_empty());
        }
        std::fs::write(&path, good).unwrap();
        assert_eq!(volumes.list().unwrap(), [made]);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn leftovers_are_cleared() {
        let root = std::env::temp_dir().join(format!("skep-volume-left-{}", std::process::id()));
        for name in [".data", ".-7", "kept"] {
            std::fs::create_dir_all(root.join(name).join(DATA).join("much")).unwrap();
        }
        let volumes = Volumes::open(root.clone()).unwrap();
        volumes.create("data", &Labels::new()).unwrap();
        let names = || {
            let entries = std::fs::read_dir(&root).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while names() != ["data", "kept"] {
            assert!(std::time::Instant::now() < until, "{:?}", names());
            std::thread::yield_now();
        }
        std::fs::remove_dir_all(root).unwrap();
    }

    /// Runs itself once more with so few descriptors that none can be held for each level.
    #[test]
    fn a_deep_volume_is_removed_with_few_descriptors() {
        const AGAIN: &str = "SKEP_TEST_FEW_DESCRIPTORS";
        if std::env::var_os(AGAIN).is_none() {
            let name = "host::runtime::volume::tests::a_deep_volume_is_removed_with_few_descriptors";
            let again = std::process::Command::new("sh")
                .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""])
                .arg(std::env::current_exe().unwrap())
                .arg(name)
                .env(AGAIN, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&again.stdout);
            assert!(again.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let root = std::env::temp_dir().join(format!("skep-volume-deep-{}", std::process::id()));
        let volumes = Volumes::open(root.clone()).unwrap();
        let data = volumes.ensure("deep", &Labels::new()).unwrap();
        std::fs::create_dir_all(data.join("d/".repeat(1_500))).unwrap();
        volumes.remove("deep", || Ok(Vec::new())).unwrap();
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
        std::fs::remove_dir(root).unwrap();
    }

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
        let unlisted = Volumes::anonymous_name(task, "/of/image");
        volumes.ensure(&unlisted, &Labels::new()).unwrap();
        let err = volumes.remove(&unlisted, users).unwrap_err().to_string();
        assert_eq!(err, format!("remove {unlisted}: volume is in use - [{task}]"));
        volumes.remove(&unlisted, || Ok(vec![(TaskId::new(8), Vec::new())])).unwrap();
        volumes.remove("data", || Ok(Vec::new())).unwrap();
        let err = volumes.remove("data", || Ok(Vec::new())).unwrap_err().to_string();
        assert_eq!(err, "get data: no such volume");
        for bad in ["x", "", "../x", "a/b", ".hidden", "a b"] {
            assert!(volumes.create(bad, &labels).is_err(), "{bad}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
