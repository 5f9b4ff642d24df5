//! The logger of the daemon and of what it starts: one line for each record on standard error.
//!
//! Under systemd a line begins with `<N>`, its priority for the journal, which has the time itself
//! (`sd-daemon(3)`); otherwise with an RFC 3339 time and the level. Where standard error is a file,
//! which it is for a detached daemon, the file is kept below [`FILE_BYTES_MAX`] and one older one
//! stands beside it as `NAME.1`: a card must not fill up with words. Records are written as they
//! come, by any thread; a line that cannot be written is lost.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::clock;

/// Size at which the log's file becomes `NAME.1`.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest line; the rest of a longer record is cut off.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Variable that sets the level: `error`, `warn`, `info`, `debug` or `trace`.
const LEVEL_VARIABLE: &str = "SKEP_LOG";

/// Starts logging; a second call does nothing.
pub fn init() {
    let wanted = std::env::var(LEVEL_VARIABLE).ok();
    let level = wanted.and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::Info);
    let logger = Logger {
        journal: std::env::var("JOURNAL_STREAM").is_ok_and(|named| is_journal(&named)),
        file: Mutex::new(stderr_file().metadata().is_ok_and(|meta| meta.is_file())),
    };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}

/// Prints a text as it is, for usage and version: to standard error or standard output.
pub fn plain(text: &str, error: bool) {
    let written = if error {
        io::stderr().lock().write_all(text.as_bytes())
    } else {
        io::stdout().lock().write_all(text.as_bytes())
    };
    if let Err(error) = written {
        log::debug!("cannot print: {error}");
    }
}

struct Logger {
    journal: bool,
    /// Whether standard error is a file, and the lock under which it is cut.
    file: Mutex<bool>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries speak only when something is wrong.
        metadata.target().starts_with("skep") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = line(record, self.journal);
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nobody left to tell when standard error fails.
        if io::stderr().lock().write_all(line.as_bytes()).is_ok() && *file {
            let stderr = stderr_file();
            if stderr.metadata().is_ok_and(|meta| meta.len() > FILE_BYTES_MAX) {
                drop(turn_over(&stderr));
            }
        }
    }

    fn flush(&self) {}
}

/// One line; line ends inside a record would make it look like several.
fn line(record: &Record<'_>, journal: bool) -> String {
    let mut line = String::with_capacity(128);
    let level = record.level();
    let started = if journal {
        write!(line, "<{}>", priority(level))
    } else {
        write!(line, "{:#} {:5} ", clock::wall(), level.as_str())
    };
    let head = line.len();
    if started.and_then(|()| write!(line, "{}", record.args())).is_err() {
        line.push_str(" (a part of this record cannot be shown)");
    }
    if line.len() > LINE_BYTES_MAX {
        let cut = (0..=LINE_BYTES_MAX).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(cut);
        line.push('…');
    }
    let body = line.split_off(head).replace(['\n', '\r'], " ");
    line.push_str(&body);
    line.push('\n');
    line
}

/// The journal's priority (`syslog(3)`).
const fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Standard error as a file that is not closed when dropped.
fn stderr_file() -> ManuallyDrop<File> {
    // SAFETY: descriptor 2 is open for the whole life of the process, and `ManuallyDrop` keeps the
    // file from closing it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(io::stderr().as_raw_fd()) })
}

/// Whether standard error is the journal's: the variable names it by device and inode, and a child
/// with a standard error of its own inherits the variable all the same.
fn is_journal(named: &str) -> bool {
    let own = stderr_file().metadata();
    own.is_ok_and(|meta| named == format!("{}:{}", meta.dev(), meta.ino()))
}

/// Copies the log to `NAME.1` and empties it. Everybody who writes to it appends and goes on with
/// the emptied file, the proxy and the shims too.
fn turn_over(log: &File) -> io::Result<()> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", log.as_raw_fd()))?;
    let mut old = path.clone().into_os_string();
    old.push(".1");
    let mut from = File::open(&path)?;
    let mut to = File::create(&old)?;
    let len = from.seek(SeekFrom::End(0))?;
    from.seek(SeekFrom::Start(len.saturating_sub(FILE_BYTES_MAX)))?;
    io::copy(&mut from.take(FILE_BYTES_MAX), &mut to)?;
    log.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    fn record(level: Level, text: &str, journal: bool) -> String {
        line(&Record::builder().level(level).args(format_args!("{text}")).build(), journal)
    }

    #[test]
    fn the_journal_gets_a_priority_and_people_a_time() {
        assert_eq!(record(Level::Warn, "a\nb", true), "<4>a b\n");
        let shown = record(Level::Info, "hello", false);
        assert!(shown.ends_with("Z INFO  hello\n"), "{shown}");
        assert_eq!(shown.as_bytes()[10], b'T');
    }

    #[test]
    fn a_long_record_is_cut_between_characters() {
        let shown = record(Level::Error, &"é".repeat(LINE_BYTES_MAX), true);
        assert!(shown.len() <= LINE_BYTES_MAX + 4 && shown.ends_with("…\n"));
    }

    #[test]
    fn a_full_file_is_turned_over_under_its_writers() {
        let path = std::env::temp_dir().join(format!("skep-log-{}", std::process::id()));
        let mut writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        writer.write_all(&vec![b'a'; usize::try_from(FILE_BYTES_MAX).unwrap()]).unwrap();
        writer.write_all(b"b").unwrap();
        turn_over(&writer).unwrap();
        writer.write_all(b"next\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next\n");
        let old = format!("{}.1", path.display());
        let kept = fs::read(&old).unwrap();
        assert_eq!(u64::try_from(kept.len()).unwrap(), FILE_BYTES_MAX);
        assert_eq!(kept.last(), Some(&b'b'));
        fs::remove_file(&path).unwrap();
        fs::remove_file(&old).unwrap();
    }
}
