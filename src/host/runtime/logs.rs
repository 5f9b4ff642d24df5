//! Reading a container's log: the rotated files of JSON lines that its shim writes.
//!
//! A reader belongs to one thread and holds one entry at a time, whatever the log's size. It sees
//! every entry that was there when it was opened even when files rotate meanwhile, since it keeps
//! them open.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Deserialize;

use super::error::{Doing, RuntimeError};
use super::{Places, Runtime};
use crate::base::id::TaskId;

/// The longest entry that is read; the shim writes none as long as this.
const ENTRY_BYTES_MAX: u64 = 256 * 1024;

/// Step of the search for the last lines from the end.
const CHUNK_BYTES: usize = 64 * 1024;

/// Tries to open a consistent set of files while they rotate.
const OPEN_TRIES_MAX: usize = 5;

/// Between two looks where the kernel has no more notifications to give.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on with what is written from here on, until the container ends.
    pub follow: bool,
    /// Only so many of the last entries.
    pub tail: Option<u64>,
    /// Only entries at or after this: nanoseconds since 1970.
    pub since_ns: Option<i128>,
    /// Only entries before this: nanoseconds since 1970.
    pub until_ns: Option<i128>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// It came from standard error.
    pub is_stderr: bool,
    /// When: nanoseconds since 1970.
    pub time_ns: i128,
    /// What, with the line's end where it had one.
    pub text: String,
}

/// What a call to [`LogReader::next`] gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogNext {
    /// An entry.
    Line(LogLine),
    /// Nothing new within the time; look whether somebody still listens, then ask again.
    Idle,
    /// There will be no more.
    End,
}

/// An entry as it is in the file.
#[derive(Deserialize)]
struct Entry {
    log: String,
    stream: String,
    time: String,
}

/// Reads one log.
#[derive(Debug)]
pub struct LogReader {
    places: Places,
    query: LogQuery,
    /// The file that is read, none before the first one exists.
    current: Option<BufReader<File>>,
    /// The files after it, oldest first.
    later: VecDeque<File>,
    /// What of an entry has been read.
    part: Vec<u8>,
    /// The rest of an entry that is too long is skipped.
    skip: bool,
    notify: Option<Inotify>,
}

impl Runtime {
    /// Opens a task's log.
    ///
    /// # Errors
    /// When its files cannot be read. A task without any log is an empty one.
    pub fn logs(&self, task: TaskId, query: LogQuery) -> Result<LogReader, RuntimeError> {
        LogReader::open(self.places(task), query)
    }
}

impl LogReader {
    fn open(places: Places, query: LogQuery) -> Result<Self, RuntimeError> {
        // Before the files are opened: what is written in between wakes.
        let notify = if query.follow { watch(&places) } else { None };
        let mut files: VecDeque<File> = open_all(&places.log())?.into();
        if let Some(count) = query.tail {
            seek_tail(&mut files, count).doing("search the log", places.log())?;
        }
        let current = files.pop_front().map(BufReader::new);
        let (part, skip) = (Vec::new(), false);
        Ok(Self { places, query, current, later: files, part, skip, notify })
    }

    /// The next entry. With `follow`, waits up to `wait` for one.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn next(&mut self, wait: Duration) -> Result<LogNext, RuntimeError> {
        let until = Instant::now() + wait;
        let mut ended = false;
        loop {
            if let Some(line) = self.read_line()? {
                if self.query.until_ns.is_some_and(|until| line.time_ns >= until) {
                    return Ok(LogNext::End);
                }
                if self.query.since_ns.is_none_or(|since| line.time_ns >= since) {
                    return Ok(LogNext::Line(line));
                }
                continue;
            }
            if self.advance()? {
                continue;
            }
            if !self.query.follow || ended {
                return Ok(LogNext::End);
            }
            // What was written before the end has to be read once more after it was seen.
            ended = self.ended();
            let left = until.saturating_duration_since(Instant::now());
            if !ended && left.is_zero() {
                return Ok(LogNext::Idle);
            }
            if !ended {
                self.wait(left)?;
            }
        }
    }

    /// The container ended or is gone altogether.
    fn ended(&self) -> bool {
        self.places.exit_record().exists()
            || self.places.lost().exists()
            || !self.places.data.exists()
    }

    /// The next entry of the current file. None at its end.
    fn read_line(&mut self) -> Result<Option<LogLine>, RuntimeError> {
        let path = self.places.log();
        loop {
            let Some(current) = &mut self.current else { return Ok(None) };
            let room = ENTRY_BYTES_MAX.saturating_sub(self.part.len() as u64);
            current.by_ref().take(room).read_until(b'\n', &mut self.part).doing("read", &path)?;
            let whole = self.part.ends_with(b"\n");
            if !whole && (self.part.len() as u64) < ENTRY_BYTES_MAX {
                return Ok(None);
            }
            let line = if whole && !self.skip { parse(&self.part) } else { None };
            self.skip = !whole;
            self.part.clear();
            if line.is_some() {
                return Ok(line);
            }
        }
    }

    /// At the end of a file: goes on with the next one, or with what follows after a rotation.
    fn advance(&mut self) -> Result<bool, RuntimeError> {
        let path = self.places.log();
        if let Some(next) = self.later.pop_front() {
            self.current = Some(BufReader::new(next));
            self.part.clear();
            return Ok(true);
        }
        if !self.query.follow {
            return Ok(false);
        }
        let Some(current) = &mut self.current else {
            self.later = open_all(&path)?.into();
            return Ok(!self.later.is_empty());
        };
        let meta = current.get_ref().metadata().doing("look at", &path)?;
        let position = current.stream_position().doing("read", &path)?;
        if meta.len() < position {
            // A log of one file starts again from nothing.
            current.seek(SeekFrom::Start(0)).doing("read", &path)?;
            self.part.clear();
            return Ok(true);
        }
        if meta.len() > position {
            return Ok(true);
        }
        match std::fs::metadata(&path) {
            Ok(newest) if newest.ino() != meta.ino() => {}
            _ => return Ok(false),
        }
        let mut files = open_all(&path)?;
        let place = files.iter().position(|file| file.metadata().is_ok_and(|m| m.ino() == meta.ino()));
        files.drain(..place.map_or(0, |place| place + 1));
        self.later = files.into();
        // Once more to the end of this one: it may have grown before it was rotated.
        let grown = current.get_ref().metadata().is_ok_and(|now| now.len() > position);
        Ok(grown || !self.later.is_empty())
    }

    fn wait(&mut self, limit: Duration) -> Result<(), RuntimeError> {
        let Some(notify) = &self.notify else {
            let limit = PollTimeout::try_from(limit.min(LOOK_AGAIN)).unwrap_or(PollTimeout::ZERO);
            poll(&mut [], limit).doing("wait for", self.places.log())?;
            return Ok(());
        };
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut polls = [PollFd::new(notify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polls, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return Err(err).doing("wait for", self.places.log()),
        }
        // What they say does not matter, only that there was something.
        while notify.read_events().is_ok_and(|events| !events.is_empty()) {}
        Ok(())
    }
}

/// Notifications of anything new in the log's folder and of the exit record. None when the kernel
/// has none to give.
fn watch(places: &Places) -> Option<Inotify> {
    let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    let log = places.log();
    let written = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
    notify.add_watch(log.parent()?, written | gone).ok()?;
    let ended = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    notify.add_watch(&places.data, ended | gone).ok()?;
    Some(notify)
}

fn parse(line: &[u8]) -> Option<LogLine> {
    let entry: Entry = serde_json::from_slice(line).ok()?;
    let time: jiff::Timestamp = entry.time.parse().ok()?;
    Some(LogLine {
        is_stderr: entry.stream == "stderr",
        time_ns: time.as_nanosecond(),
        text: entry.log,
    })
}

/// The log's files, oldest first, as they were at one moment.
fn open_all(path: &Path) -> Result<Vec<File>, RuntimeError> {
    for _ in 0..OPEN_TRIES_MAX {
        let mut files = Vec::new();
        let names = names(path).doing("list the log", path)?;
        for name in &names {
            match File::open(name) {
                Ok(file) => files.push(file),
                // It rotated away; the check below sees that.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err).doing("open", name),
            }
        }
        let inode = |meta: io::Result<std::fs::Metadata>| meta.map_or(0, |meta| meta.ino());
        let opened = files.iter().map(|file| inode(file.metadata()));
        if opened.eq(names.iter().map(|name| inode(std::fs::metadata(name)))) {
            return Ok(files);
        }
    }
    Err(io::Error::from(nix::errno::Errno::EAGAIN)).doing("open while it rotates", path)
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

/// Leaves of `files` only the last `count` lines.
fn seek_tail(files: &mut VecDeque<File>, count: u64) -> io::Result<()> {
    let mut left = count;
    let mut chunk = vec![0; CHUNK_BYTES];
    for at in (0..files.len()).rev() {
        let mut end = files[at].metadata()?.len();
        // The newline at the very end closes the last line, it does not begin one.
        let mut closes = true;
        while end > 0 {
            let start = end.saturating_sub(CHUNK_BYTES as u64);
            let len = usize::try_from(end - start).unwrap_or(CHUNK_BYTES);
            files[at].read_exact_at(&mut chunk[..len], start)?;
            for place in (0..len).rev().filter(|place| chunk[*place] == b'\n') {
                if closes && start + place as u64 + 1 == end {
                    closes = false;
                    continue;
                }
                closes = false;
                if left <= 1 {
                    let from = if left == 0 { files[at].metadata()?.len() } else { start + place as u64 + 1 };
                    files[at].seek(SeekFrom::Start(from))?;
                    files.drain(..at);
                    return Ok(());
                }
                left -= 1;
            }
            closes = false;
            end = start;
        }
        // The first line of the file has no newline before it.
        if left == 0 {
            files[at].seek(SeekFrom::End(0))?;
            files.drain(..at);
            return Ok(());
        }
        if files[at].metadata()?.len() > 0 {
            left -= 1;
            if left == 0 {
                files.drain(..at);
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("skep-logs-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("log")).unwrap();
            Self(path)
        }

        fn places(&self) -> Places {
            Places { exec: self.0.clone(), data: self.0.clone() }
        }

        fn write(&self, name: &str, from: u32, to: u32) {
            let mut file =
                std::fs::OpenOptions::new().append(true).create(true).open(self.0.join("log").join(name)).unwrap();
            for n in from..to {
                writeln!(file, r#"{{"log":"{n}\n","stream":"stdout","time":"2026-01-01T00:00:{n:02}.5Z"}}"#).unwrap();
            }
        }

        fn read(&self, query: LogQuery) -> Vec<u32> {
            let mut reader = LogReader::open(self.places(), query).unwrap();
            drain(&mut reader)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn drain(reader: &mut LogReader) -> Vec<u32> {
        let mut got = Vec::new();
        while let LogNext::Line(line) = reader.next(Duration::ZERO).unwrap() {
            got.push(line.text.trim().parse().unwrap());
        }
        got
    }

    #[test]
    fn tails_over_rotated_files() {
        let folder = Folder::new("tail");
        assert_eq!(folder.read(LogQuery::default()), Vec::<u32>::new());
        folder.write("json.log.2", 0, 3);
        folder.write("json.log.1", 3, 6);
        folder.write("json.log", 6, 8);
        let all: Vec<u32> = (0..8).collect();
        assert_eq!(folder.read(LogQuery::default()), all);
        for count in 0..12u64 {
            let want = all[all.len().saturating_sub(usize::try_from(count).unwrap())..].to_vec();
            let query = LogQuery { tail: Some(count), ..LogQuery::default() };
            assert_eq!(folder.read(query), want, "tail {count}");
        }
        let second = |n: i128| jiff::Timestamp::from_nanosecond(n).unwrap().as_nanosecond();
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let at = |n: i128| Some(second(start.as_nanosecond() + n * 1_000_000_000));
        let query = LogQuery { since_ns: at(2), until_ns: at(7), ..LogQuery::default() };
        assert_eq!(folder.read(query), [2, 3, 4, 5, 6]);
    }

    #[test]
    fn tails_of_long_files() {
        let folder = Folder::new("long");
        for n in 0..2_000 {
            folder.write("json.log", n % 60, n % 60 + 1);
        }
        for count in [1, 999, 1_300, 2_000, 3_000] {
            let query = LogQuery { tail: Some(count), ..LogQuery::default() };
            let got = folder.read(query).len() as u64;
            assert_eq!(got, count.min(2_000));
        }
    }

    #[test]
    fn following_through_rotations_misses_nothing() {
        let folder = Folder::new("follow");
        let log = folder.0.join("log");
        folder.write("json.log", 0, 2);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let mut reader = LogReader::open(folder.places(), query).unwrap();
        assert_eq!(drain(&mut reader), [0, 1]);
        folder.write("json.log", 2, 4);
        std::fs::rename(log.join("json.log"), log.join("json.log.1")).unwrap();
        folder.write("json.log", 4, 6);
        std::fs::rename(log.join("json.log.1"), log.join("json.log.2")).unwrap();
        std::fs::rename(log.join("json.log"), log.join("json.log.1")).unwrap();
        folder.write("json.log", 6, 7);
        assert_eq!(drain(&mut reader), [2, 3, 4, 5, 6]);
        assert_eq!(reader.next(Duration::from_millis(1)).unwrap(), LogNext::Idle);
        folder.write("json.log", 7, 8);
        std::fs::write(folder.0.join("exit"), "").unwrap();
        assert_eq!(drain(&mut reader), [7]);
        assert_eq!(reader.next(Duration::from_secs(9)).unwrap(), LogNext::End);
    }

    #[test]
    fn what_is_no_entry_is_passed_over() {
        let folder = Folder::new("torn");
        folder.write("json.log", 0, 1);
        let mut file =
            std::fs::OpenOptions::new().append(true).open(folder.0.join("log/json.log")).unwrap();
        file.write_all(b"{\"log\":\"torn\n\n").unwrap();
        file.write_all(&vec![b'x'; 600 * 1024]).unwrap();
        file.write_all(b"\n").unwrap();
        folder.write("json.log", 1, 2);
        assert_eq!(folder.read(LogQuery::default()), [0, 1]);
    }
}
