//! The twin of the machine's disk: keeps apart what was written and what was synced, stops at any
//! call, runs full, and fails to sync. Nothing here sleeps or touches a file.
//!
//! After a crash [`MemDisk::survivor`] makes the disk that a restart finds: of what was not synced,
//! any part may be there, sector by sector, as a real disk may do it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use skep::base::rng::Rng;
use skep::host::disk::Disk;

/// The unit that a disk writes whole.
const SECTOR_BYTES: usize = 512;

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// Any sectors and any first part of the changed names.
    Some,
}

/// What goes wrong at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No space left; a write leaves a part behind.
    Full,
    /// The disk does not keep what was written. The next sync says that all is well.
    Broken,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// A sync failed: the kernel believes that the pages are clean.
    believed_clean: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(PathBuf, usize),
    Gone(PathBuf),
}

#[derive(Debug)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<NameChange>,
    calls: u64,
    crash_at: Option<u64>,
    faults: BTreeMap<u64, Fault>,
    rng: Rng,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct MemDisk(Rc<RefCell<State>>);

impl MemDisk {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with_names(BTreeMap::new(), Vec::new(), seed)
    }

    fn with_names(names: BTreeMap<PathBuf, usize>, inodes: Vec<Inode>, seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            inodes,
            durable_names: names.clone(),
            names,
            changes: Vec::new(),
            calls: 0,
            crash_at: None,
            faults: BTreeMap::new(),
            rng: Rng::new(seed),
        })))
    }

    /// A disk that holds these files.
    pub(crate) fn with_files(files: &BTreeMap<PathBuf, Vec<u8>>, seed: u64) -> Self {
        let inode = |bytes: &Vec<u8>| Inode {
            now: bytes.clone(),
            durable: bytes.clone(),
            believed_clean: false,
        };
        let names = files.keys().cloned().zip(0..).collect();
        Self::with_names(names, files.values().map(inode).collect(), seed)
    }

    /// Every file as it reads.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.0.borrow();
        let read =
            |(path, inode): (&PathBuf, &usize)| (path.clone(), state.inodes[*inode].now.clone());
        state.names.iter().map(read).collect()
    }

    /// Calls so far that change something.
    pub(crate) fn calls(&self) -> u64 {
        self.0.borrow().calls
    }

    /// The call with this number and all after it fail without effect.
    pub(crate) fn crash_at(&self, call: u64) {
        self.0.borrow_mut().crash_at = Some(call);
    }

    /// Only the process stopped: the kernel goes on with all that it holds.
    pub(crate) fn go_on(&self) {
        self.0.borrow_mut().crash_at = None;
    }

    /// The call with this number fails, if it can fail in this way.
    pub(crate) fn fail_at(&self, call: u64, fault: Fault) {
        self.0.borrow_mut().faults.insert(call, fault);
    }

    /// What a restart after a crash finds.
    pub(crate) fn survivor(&self, leaves: Leaves, seed: u64) -> Self {
        let state = self.0.borrow();
        let mut rng = Rng::new(seed);
        let inodes = state.inodes.iter().map(|inode| leftover(inode, leaves, &mut rng)).collect();
        let changes = u64::try_from(state.changes.len()).unwrap();
        let kept = match leaves {
            Leaves::Nothing => 0,
            Leaves::All => changes,
            Leaves::Some => rng.below(changes + 1),
        };
        let mut names = state.durable_names.clone();
        for change in state.changes.iter().take(usize::try_from(kept).unwrap()) {
            match change {
                NameChange::Set(path, inode) => {
                    names.insert(path.clone(), *inode);
                }
                NameChange::Gone(path) => {
                    names.remove(path);
                }
            }
        }
        Self::with_names(names, inodes, seed)
    }

    /// Counts a call that changes something; an error if the disk stopped before it.
    fn call(&self) -> io::Result<Option<Fault>> {
        let state = &mut *self.0.borrow_mut();
        let call = state.calls;
        state.calls += 1;
        if state.crash_at.is_some_and(|at| call >= at) {
            return Err(io::Error::other("the machine stopped"));
        }
        Ok(state.faults.get(&call).copied())
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        let found = self.0.borrow().names.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// One file after a crash.
fn leftover(inode: &Inode, leaves: Leaves, rng: &mut Rng) -> Inode {
    let bytes = match leaves {
        Leaves::Nothing => inode.durable.clone(),
        Leaves::All if !inode.believed_clean => inode.now.clone(),
        Leaves::All => inode.durable.clone(),
        Leaves::Some => {
            let (low, high) = (
                inode.now.len().min(inode.durable.len()),
                inode.now.len().max(inode.durable.len()),
            );
            let more = rng.below(u64::try_from(high - low).unwrap() + 1);
            let mut bytes = inode.durable.clone();
            bytes.resize(low + usize::try_from(more).unwrap(), 0);
            for at in (0..bytes.len()).step_by(SECTOR_BYTES) {
                let end = bytes.len().min(at + SECTOR_BYTES).min(inode.now.len());
                if at < end && rng.one_in(2) {
                    bytes[at..end].copy_from_slice(&inode.now[at..end]);
                }
            }
            bytes
        }
    };
    Inode { now: bytes.clone(), durable: bytes, believed_clean: false }
}

impl Disk for MemDisk {
    type File = usize;

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.borrow();
        let here = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    fn create(&self, path: &Path) -> io::Result<usize> {
        if self.call()? == Some(Fault::Full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let state = &mut *self.0.borrow_mut();
        if let Some(inode) = state.names.get(path) {
            state.inodes[*inode].now.clear();
            return Ok(*inode);
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(path.to_owned(), inode);
        state.changes.push(NameChange::Set(path.to_owned(), inode));
        Ok(inode)
    }

    fn open(&self, path: &Path) -> io::Result<usize> {
        self.inode(path)
    }

    fn read(&self, file: &usize, limit: u64) -> io::Result<Vec<u8>> {
        let bytes = self.0.borrow().inodes[*file].now.clone();
        assert!(u64::try_from(bytes.len()).unwrap() <= limit);
        Ok(bytes)
    }

    fn write_at(&self, file: &usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let fault = self.call()?;
        let state = &mut *self.0.borrow_mut();
        let part = match fault {
            Some(Fault::Full) => state.rng.below(u64::try_from(bytes.len()).unwrap()),
            Some(Fault::Broken) | None => u64::try_from(bytes.len()).unwrap(),
        };
        let (from, part) = (usize::try_from(offset).unwrap(), usize::try_from(part).unwrap());
        let inode = &mut state.inodes[*file];
        let end = inode.now.len().max(from + part);
        inode.now.resize(end, 0);
        inode.now[from..from + part].copy_from_slice(&bytes[..part]);
        match fault {
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Broken) | None => Ok(()),
        }
    }

    fn set_len(&self, file: &usize, len: u64) -> io::Result<()> {
        self.call()?;
        self.0.borrow_mut().inodes[*file].now.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        let fault = self.call()?;
        let inode = &mut self.0.borrow_mut().inodes[*file];
        if fault == Some(Fault::Broken) {
            inode.believed_clean = true;
            return Err(io::Error::other("the disk did not keep it"));
        }
        if !inode.believed_clean {
            inode.durable.clone_from(&inode.now);
        }
        Ok(())
    }

    fn forget(&self, file: &usize) -> io::Result<()> {
        let inode = &mut self.0.borrow_mut().inodes[*file];
        if inode.believed_clean {
            inode.now.clone_from(&inode.durable);
            inode.believed_clean = false;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call()?;
        let inode = self.inode(from)?;
        let state = &mut *self.0.borrow_mut();
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        // Between the two a crash leaves both names, which is worse than what a journal does.
        state.changes.push(NameChange::Set(to.to_owned(), inode));
        state.changes.push(NameChange::Gone(from.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call()?;
        let state = &mut *self.0.borrow_mut();
        if state.names.remove(path).is_some() {
            state.changes.push(NameChange::Gone(path.to_owned()));
        }
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        if self.call()? == Some(Fault::Broken) {
            return Err(io::Error::other("the disk did not keep it"));
        }
        let state = &mut *self.0.borrow_mut();
        state.durable_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }

    fn reserve(&self, path: &Path, _len: u64) -> io::Result<()> {
        self.create(path).map(|_inode| ())
    }
}
