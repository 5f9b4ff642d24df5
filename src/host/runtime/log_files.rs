//! The rotated files of a container's log: which there are, and opening one of them at a time.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::{Doing, RuntimeError};

/// Step of the search for the last lines from the end.
const CHUNK_BYTES: usize = 64 * 1024;

/// Tries to open a file at its place among the others while they rotate.
const OPEN_TRIES_MAX: usize = 5;

/// A file of a log, by its place among the others.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Oldest,
    Newest,
    /// The one after that of this inode; the oldest, where that has rotated away.
    After(u64),
    /// The one before it; none, where it has rotated away.
    Before(u64),
}

/// Opens a file of the log. None when there is none at that place.
pub(super) fn open_one(path: &Path, which: Which) -> Result<Option<File>, RuntimeError> {
    for _ in 0..OPEN_TRIES_MAX {
        let files = listed(path)?;
        let place = |inode| files.iter().position(|(_, other)| *other == inode);
        let at = match which {
            Which::Oldest => Some(0),
            Which::Newest => files.len().checked_sub(1),
            Which::After(inode) => Some(place(inode).map_or(0, |place| place + 1)),
            Which::Before(inode) => place(inode).and_then(|place| place.checked_sub(1)),
        };
        let opened = match at.and_then(|at| files.get(at)) {
            None => None,
            Some((name, _)) => match File::open(name) {
                Ok(file) => Some(file),
                // It rotated away; the check below sees that.
                Err(err) if err.kind() == io::ErrorKind::NotFound => None,
                Err(err) => return Err(err).doing("open", name),
            },
        };
        if listed(path)? == files {
            return Ok(opened);
        }
    }
    Err(io::Error::from(nix::errno::Errno::EAGAIN)).doing("open while it rotates", path)
}

/// The log's files and their inodes, oldest first.
pub(super) fn listed(path: &Path) -> Result<Vec<(PathBuf, u64)>, RuntimeError> {
    let names = names(path).doing("list the log", path)?.into_iter();
    Ok(names.filter_map(|name| std::fs::metadata(&name).ok().map(|meta| (name, meta.ino()))).collect())
}

/// `log.2`, `log.1`, `log`: those that exist.
fn names(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(base)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(folder) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(base)) else { continue };
        match rest.strip_prefix('.') {
            Some(number) => numbers.extend(number.parse::<u32>().ok()),
            None if rest.is_empty() => numbers.push(0),
            None => {}
        }
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let name = |n: u32| match n {
        0 => path.to_owned(),
        n => folder.join(format!("{base}.{n}")),
    };
    Ok(numbers.into_iter().map(name).collect())
}

/// Opens the file with the first of the last `count` lines, at that line.
pub(super) fn open_tail(path: &Path, count: u64) -> Result<Option<File>, RuntimeError> {
    let mut left = count;
    let mut at = open_one(path, Which::Newest)?;
    while let Some(mut file) = at {
        match seek_tail(&mut file, &mut left) {
            Ok(true) => return Ok(Some(file)),
            Ok(false) => {}
            Err(err) => return Err(err).doing("search the log", path),
        }
        let inode = file.metadata().doing("look at", path)?.ino();
        at = open_one(path, Which::Before(inode))?;
        if at.is_none() {
            // Fewer lines than wanted: from the start of the oldest.
            file.rewind().doing("search the log", path)?;
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// Goes back from the end of a file over `left` lines; what it lacks of them stays in `left`. True when
/// it has them all, and then it stands at their start.
fn seek_tail(file: &mut File, left: &mut u64) -> io::Result<bool> {
    let len = file.metadata()?.len();
    if *left == 0 {
        file.seek(SeekFrom::Start(len))?;
        return Ok(true);
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let part = &mut chunk[..usize::try_from(end - start).unwrap_or(CHUNK_BYTES)];
        file.read_exact_at(part, start)?;
        for place in (0..part.len()).rev().filter(|place| part[*place] == b'\n') {
            let next = start + place as u64 + 1;
            // The newline at the very end closes the last line, it does not begin one.
            if next == len {
                continue;
            }
            *left -= 1;
            if *left == 0 {
                file.seek(SeekFrom::Start(next))?;
                return Ok(true);
            }
        }
        end = start;
    }
    // The first line of the file has no newline before it.
    if len > 0 {
        *left -= 1;
    }
    file.rewind()?;
    Ok(*left == 0)
}
