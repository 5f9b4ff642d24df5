//! The container's log: what it writes to its standard streams, as rotated files of JSON lines in
//! Docker's `json-file` format.
//!
//! Invariants: every `write` carries whole entries only, and a write that fails or falls short is
//! cut off again, so a file holds whole entries whenever the shim lives. What cannot be written is
//! dropped and counted: nothing here waits for space. Memory is three fixed buffers, whatever the
//! container prints.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use crate::base::time::Wall;

/// A line longer than this is cut into several entries, as Docker does; also the read size.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// The buffer is written out once it holds this much, so that its upper part stays untouched
/// (and takes no memory) unless a line is full of bytes that need escapes.
const FLUSH_BYTES: usize = 16 * 1024;

/// The longest encoded entry: every byte as `\u00XX`, and the frame around it.
const ENTRY_BYTES_MAX: usize = LINE_BYTES_MAX * 6 + 256;

/// Reads of one stream before the loop looks at its other descriptors again.
const READS_MAX: usize = 4;

/// The rotated file and the counters.
#[derive(Debug)]
pub(super) struct Log {
    /// None: nothing is kept.
    path: Option<PathBuf>,
    max_bytes: u64,
    max_files: u32,
    file: Option<File>,
    /// Length of `file`, always at the end of an entry.
    size: u64,
    out: Vec<u8>,
    out_entries: u64,
    /// Entries written.
    pub(super) written: u64,
    /// Entries that could not be written.
    pub(super) dropped: u64,
}

/// One of the container's standard streams and the line it is in the middle of.
#[derive(Debug)]
pub(super) struct Stream {
    /// Read end of the pipe, or the terminal's master; does not block.
    pub(super) fd: OwnedFd,
    name: &'static str,
    line: Vec<u8>,
    fill: usize,
}

impl Log {
    pub(super) fn new(path: Option<PathBuf>, max_bytes: u64, max_files: u32) -> Self {
        Self {
            path,
            max_bytes: max_bytes.max(1),
            max_files: max_files.max(1),
            file: None,
            size: 0,
            out: Vec::with_capacity(FLUSH_BYTES + ENTRY_BYTES_MAX),
            out_entries: 0,
            written: 0,
            dropped: 0,
        }
    }

    /// Adds one entry to the buffer; `whole` when the line ended.
    fn entry(&mut self, stream: &str, line: &[u8], whole: bool, stamp: &Stamp) {
        if self.path.is_none() {
            return;
        }
        let estimate = u64::try_from(self.out.len() + line.len() + 96).unwrap_or(u64::MAX);
        if self.size + estimate > self.max_bytes {
            self.flush();
            if self.size > 0 && self.size + estimate > self.max_bytes {
                self.rotate();
            }
        }
        let out = &mut self.out;
        out.extend_from_slice(b"{\"log\":\"");
        escape(line, out);
        out.extend_from_slice(if whole { b"\\n\",\"stream\":\"" } else { b"\",\"stream\":\"" });
        out.extend_from_slice(stream.as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        out.extend_from_slice(stamp.as_bytes());
        out.extend_from_slice(b"\"}\n");
        self.out_entries += 1;
        if self.out.len() >= FLUSH_BYTES {
            self.flush();
        }
    }

    /// Writes the buffer out, or drops it.
    pub(super) fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        match self.write_out() {
            Ok(()) => {
                self.size += u64::try_from(self.out.len()).unwrap_or(0);
                self.written += self.out_entries;
            }
            Err(_) => {
                self.dropped += self.out_entries;
                if let Some(Err(_)) = self.file.as_ref().map(|file| file.set_len(self.size)) {
                    self.file = None;
                }
            }
        }
        self.out.clear();
        self.out_entries = 0;
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let Some(path) = &self.path else { return Ok(()) };
            let mut file = OpenOptions::new().append(true).create(true).open(path)?;
            self.size = file.metadata()?.len();
            if self.size > 0 {
                // A power cut may have left half an entry: the next one begins on its own line.
                self.size += end_line(path, &mut file)?;
            }
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(&self.out)
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2`; the oldest goes. With one file only, it
    /// starts again from nothing.
    fn rotate(&mut self) {
        let Some(path) = &self.path else { return };
        let numbered = |n: u32| {
            let mut name = path.clone().into_os_string();
            if n > 0 {
                name.push(format!(".{n}"));
            }
            PathBuf::from(name)
        };
        let mut moved = self.max_files > 1;
        for n in (1..self.max_files).rev() {
            match std::fs::rename(numbered(n - 1), numbered(n)) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => moved &= n > 1,
                _ => {}
            }
        }
        if moved {
            self.file = None;
            self.size = 0;
        } else if let Some(Ok(())) = self.file.as_ref().map(|file| file.set_len(0)) {
            self.size = 0;
        }
    }
}

/// Ends a torn last line. Returns how many bytes that took.
fn end_line(path: &std::path::Path, file: &mut File) -> io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let reader = File::open(path)?;
    let mut last = [0];
    let len = reader.metadata()?.len();
    reader.read_exact_at(&mut last, len.saturating_sub(1))?;
    if last == *b"\n" {
        return Ok(0);
    }
    file.write_all(b"\n")?;
    Ok(1)
}

/// What became of a stream after it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// There may be more later.
    Open,
    /// Nobody can write to it any more.
    Closed,
}

impl Stream {
    pub(super) fn new(fd: OwnedFd, name: &'static str) -> Self {
        Self { fd, name, line: vec![0; LINE_BYTES_MAX], fill: 0 }
    }

    /// Reads what is there, at most a few buffers full, into the log.
    pub(super) fn pump(&mut self, log: &mut Log, now_ns: u64) -> Pumped {
        let stamp = Stamp::new(now_ns);
        let mut result = Pumped::Open;
        for _ in 0..READS_MAX {
            match nix::unistd::read(&self.fd, &mut self.line[self.fill..]) {
                Ok(0) => result = Pumped::Closed,
                Ok(n) => {
                    self.fill += n;
                    self.split(log, &stamp);
                    continue;
                }
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                // A terminal whose last user has gone reads as EIO.
                Err(_) => result = Pumped::Closed,
            }
            break;
        }
        if result == Pumped::Closed {
            self.finish(log, &stamp);
        }
        log.flush();
        result
    }

    /// Reads all that is left after the container's end.
    pub(super) fn drain(&mut self, log: &mut Log, now_ns: u64) {
        let mut left = nix::libc::c_int::MAX;
        // A descriptor that got out of the container may feed the pipe for ever: stop at what was
        // in it when the container ended.
        // SAFETY: FIONREAD writes one int, to which the pointer points; the descriptor is open.
        if unsafe { nix::libc::ioctl(self.fd.as_raw_fd(), nix::libc::FIONREAD, &raw mut left) } < 0
        {
            left = 0;
        }
        let per_pump = READS_MAX * LINE_BYTES_MAX;
        let pumps = usize::try_from(left).unwrap_or(0) / per_pump + 2;
        for _ in 0..pumps {
            if self.pump(log, now_ns) == Pumped::Closed {
                return;
            }
        }
        self.finish(log, &Stamp::new(now_ns));
        log.flush();
    }

    /// Turns the whole lines of the buffer into entries, and a full buffer without an end of line
    /// into a part of one.
    fn split(&mut self, log: &mut Log, stamp: &Stamp) {
        let mut start = 0;
        while let Some(len) = self.line[start..self.fill].iter().position(|b| *b == b'\n') {
            log.entry(self.name, &self.line[start..start + len], true, stamp);
            start += len + 1;
        }
        if start == 0 && self.fill == LINE_BYTES_MAX {
            start = char_cut(&self.line);
            log.entry(self.name, &self.line[..start], false, stamp);
        }
        self.line.copy_within(start..self.fill, 0);
        self.fill -= start;
    }

    fn finish(&mut self, log: &mut Log, stamp: &Stamp) {
        if self.fill > 0 {
            log.entry(self.name, &self.line[..self.fill], true, stamp);
            self.fill = 0;
        }
    }
}

/// Where to cut a full buffer so that no character is torn.
fn char_cut(line: &[u8]) -> usize {
    let tail = line.len().saturating_sub(3);
    match line[tail..].iter().rposition(|b| *b & 0xc0 != 0x80) {
        Some(at) if line[tail + at] >= 0xc0 => tail + at,
        _ => line.len(),
    }
}

/// A time as RFC 3339 with nanoseconds.
struct Stamp([u8; 30]);

impl Stamp {
    fn new(ns: u64) -> Self {
        let mut text = [b'0'; 30];
        // 27 characters with microseconds and a Z, which the last three digits replace.
        let head = write!(&mut text[..27], "{:#}", Wall(ns / 1_000));
        let tail = write!(&mut text[26..], "{:03}Z", ns % 1_000);
        debug_assert!(head.is_ok() && tail.is_ok(), "the year has four digits");
        Self(text)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Appends `line` as the inside of a JSON string, escaped like Docker's logger does.
fn escape(line: &[u8], out: &mut Vec<u8>) {
    for chunk in line.utf8_chunks() {
        let text = chunk.valid();
        let mut from = 0;
        for (at, char) in text.char_indices() {
            let code = u32::from(char);
            let plain = match char {
                '"' | '\\' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => false,
                _ => code >= 0x20,
            };
            if plain {
                continue;
            }
            out.extend_from_slice(&text.as_bytes()[from..at]);
            from = at + char.len_utf8();
            match char {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\n' => out.extend_from_slice(b"\\n"),
                _ => {
                    let hex = write!(out, "\\u{code:04x}");
                    debug_assert!(hex.is_ok(), "a vector takes everything");
                }
            }
        }
        out.extend_from_slice(&text.as_bytes()[from..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(line: &[u8]) -> String {
        let mut out = Vec::new();
        escape(line, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_are_dockers() {
        assert_eq!(escaped("plain é".as_bytes()), "plain é");
        assert_eq!(escaped(b"<a&\"b\\>\t\r"), r#"\u003ca\u0026\"b\\\u003e\u0009\r"#);
        assert_eq!(escaped(b"\xff\x00"), r"\ufffd\u0000");
        let back: String = serde_json::from_str(&format!("\"{}\"", escaped(b"a\x1b[0m"))).unwrap();
        assert_eq!(back, "a\u{1b}[0m");
    }

    #[test]
    fn stamps_have_nine_digits() {
        let stamp = Stamp::new(951_782_400_000_001_042);
        assert_eq!(stamp.as_bytes(), b"2000-02-29T00:00:00.000001042Z");
    }

    #[test]
    fn characters_are_not_torn() {
        let mut line = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(char_cut(&line), LINE_BYTES_MAX);
        let len = line.len();
        line[len - 2..].copy_from_slice(&"€".as_bytes()[..2]);
        assert_eq!(char_cut(&line), LINE_BYTES_MAX - 2);
        line[len - 3..].copy_from_slice(&[0x80, 0x80, 0x80]);
        assert_eq!(char_cut(&line), LINE_BYTES_MAX);
    }
}
