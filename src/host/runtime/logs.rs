//! Reading a container's log: the rotated files of JSON lines that its shim writes.
//!
//! A reader belongs to one thread and holds one entry and at most three open files, whatever the log's
//! size. It sees every entry that was there when it was opened even when files rotate meanwhile: the
//! next file is the one that follows the open one now, which is known by its inode. What rotates away
//! for good before it is reached is passed over, like in Docker.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Deserialize;

use super::error::{Doing, RuntimeError};
use super::started::log_counts;
use super::log_files::{Which, listed, open_one, open_tail};
use super::{Places, Runtime};
use crate::base::id::TaskId;

/// The longest entry that is read; the shim writes none as long as this.
const ENTRY_BYTES_MAX: u64 = 256 * 1024;

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
    /// The newest file when the log was opened: the last that is read without `follow`.
    last: Option<File>,
    /// What of an entry has been read.
    part: Vec<u8>,
    /// The rest of an entry that is too long is skipped.
    skip: bool,
    /// Time of the last entry that was given.
    time_ns: i128,
    /// What is lost has been told, or nothing is.
    told: bool,
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
        let log = places.log();
        let (first, last) = match query.tail {
            // First the older one, so that the last is never before it.
            None => (open_one(&log, Which::Oldest)?, open_one(&log, Which::Newest)?),
            Some(count) => (open_tail(&log, count)?, open_one(&log, Which::Newest)?),
        };
        let current = first.map(BufReader::new);
        let (part, skip) = (Vec::new(), false);
        let last = last.filter(|_| !query.follow);
        let (time_ns, told) = (0, false);
        Ok(Self { places, query, current, last, part, skip, time_ns, told, notify })
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
                    self.time_ns = line.time_ns;
                    return Ok(LogNext::Line(line));
                }
                continue;
            }
            if self.advance()? {
                continue;
            }
            if let Some(line) = self.lost() {
                return Ok(LogNext::Line(line));
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

    /// Once, at the end of what is there: how many entries its shim could not write. Known while that
    /// runs; a container whose disk was full must not wait for its log, and its reader shall know.
    fn lost(&mut self) -> Option<LogLine> {
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        let (_, dropped) = log_counts(&self.places).filter(|(_, dropped)| *dropped > 0)?;
        let text = format!(
            "skep: {dropped} lines of this log are lost: they could not be written, as on a full disk\n"
        );
        Some(LogLine { is_stderr: true, time_ns: self.time_ns, text })
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
        let Some(current) = &mut self.current else {
            if self.query.follow {
                self.current = open_one(&path, Which::Oldest)?.map(BufReader::new);
            }
            return Ok(self.current.is_some());
        };
        let meta = current.get_ref().metadata().doing("look at", &path)?;
        let next = if self.query.follow {
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
            let next = open_one(&path, Which::After(meta.ino()))?;
            // Once more to the end of this one: it may have grown before it was rotated.
            if current.get_ref().metadata().is_ok_and(|now| now.len() > position) {
                return Ok(true);
            }
            next
        } else {
            let Some(last) = &self.last else { return Ok(false) };
            let last = last.metadata().doing("look at", &path)?.ino();
            if last == meta.ino() {
                return Ok(false);
            }
            // A container that writes faster than this reads is not followed beyond the last.
            let is_there = listed(&path)?.iter().any(|(_, inode)| *inode == last);
            let next = if is_there { open_one(&path, Which::After(meta.ino()))? } else { None };
            if next.is_none() { self.last.take() } else { next }
        };
        let Some(next) = next else { return Ok(false) };
        self.current = Some(BufReader::new(next));
        self.part.clear();
        Ok(true)
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

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

    /// How many of the log's files this process has open.
    fn open_files(folder: &Folder) -> usize {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.filter(|to| to.starts_with(folder.0.join("log")) && to.is_file()).count()
    }

    #[test]
    fn a_log_of_many_files_keeps_few_open() {
        let folder = Folder::new("many");
        for n in 1..50 {
            folder.write(&format!("json.log.{n}"), 50 - n, 51 - n);
        }
        folder.write("json.log", 50, 51);
        for (follow, tail, from) in [(false, None, 1), (false, Some(40), 11), (true, Some(3), 48)] {
            let query = LogQuery { follow, tail, ..LogQuery::default() };
            let mut reader = LogReader::open(folder.places(), query).unwrap();
            let mut got: Vec<u32> = Vec::new();
            while let LogNext::Line(line) = reader.next(Duration::ZERO).unwrap() {
                got.push(line.text.trim().parse().unwrap());
                let open = open_files(&folder);
                assert!((1..=2).contains(&open), "{open} files are open");
            }
            assert_eq!(got, (from..51).collect::<Vec<u32>>(), "{query:?}");
        }
    }

    #[test]
    fn rotations_while_it_reads_lose_nothing_and_lead_not_beyond_its_end() {
        let folder = Folder::new("rotated");
        let log = folder.0.join("log");
        folder.write("json.log.2", 0, 2);
        folder.write("json.log.1", 2, 4);
        folder.write("json.log", 4, 6);
        let mut reader = LogReader::open(folder.places(), LogQuery::default()).unwrap();
        let mut next = || match reader.next(Duration::ZERO).unwrap() {
            LogNext::Line(line) => line.text.trim().parse::<u32>().ok(),
            LogNext::Idle | LogNext::End => None,
        };
        let rotate = |from: &str, to: &str| std::fs::rename(log.join(from), log.join(to)).unwrap();
        assert_eq!(next(), Some(0));
        for n in [3, 2, 1] {
            rotate(&format!("json.log.{}", n - 1).replace(".0", ""), &format!("json.log.{n}"));
        }
        folder.write("json.log", 6, 8);
        assert_eq!([next(), next(), next()], [Some(1), Some(2), Some(3)]);
        // All that it is to read goes away, but for what it holds.
        for n in [3, 2, 1] {
            std::fs::remove_file(log.join(format!("json.log.{n}"))).unwrap();
        }
        assert_eq!([next(), next(), next()], [Some(4), Some(5), None]);
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
