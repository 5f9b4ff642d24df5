//! Reads a tar stream (ustar, GNU and PAX) entry by entry with limits on every name and header.
//!
//! Not a general reader: sparse files and multi-volume archives are refused, and global PAX
//! headers are ignored, as no image writer makes them. What a name means is up to the caller.

use std::io::{self, Read};

use super::error::{ImageError, Result};

/// Bytes of all extended headers (PAX blocks, GNU long names) before one entry, their own header
/// blocks included: what they say is kept until the entry comes.
const EXTENDED_BYTES_MAX: u64 = 1 << 20;

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Regular,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry's header, extensions applied.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime: (i64, u32),
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the extended headers before an entry said.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The stream; reading from it reads the current entry's data.
pub(super) struct TarStream<R> {
    inner: R,
    left: u64,
    padding: u64,
}

impl<R: Read> TarStream<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The next entry, or none at the end of the archive. Skips what is left of the last one.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        let mut room = EXTENDED_BYTES_MAX;
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else { return Ok(None) };
            let name = header_path(&block);
            let bad = |why: &str| ImageError::archive(&name, why);
            let size = number(&block[124..136]).ok_or_else(|| bad("its size is not a number"))?;
            match block[156] {
                b'L' => extended.path = Some(until_nul(&self.extended_data(size, &name, &mut room)?)),
                b'K' => extended.link = Some(until_nul(&self.extended_data(size, &name, &mut room)?)),
                b'x' => {
                    let data = self.extended_data(size, &name, &mut room)?;
                    read_pax(&data, &mut extended).map_err(|why| bad(&why))?;
                }
                b'g' => drop(self.extended_data(size, &name, &mut room)?),
                b'S' => return Err(bad("sparse files are not supported")),
                flag => {
                    let entry = entry_of(flag, &block, name.clone(), size, extended)
                        .map_err(|why| ImageError::archive(&name, why))?;
                    self.set_data(entry.size, &entry.path)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// Reads the rest of the stream, padding included, and gives the inner reader back.
    pub(super) fn drain(mut self) -> Result<R> {
        self.left = 0;
        io::copy(&mut self.inner, &mut io::sink()).map_err(read_failed)?;
        Ok(self.inner)
    }

    fn set_data(&mut self, size: u64, name: &[u8]) -> Result<()> {
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        let padded = padded.ok_or_else(|| ImageError::archive(name, "its size is not possible"))?;
        self.left = size;
        self.padding = padded - size;
        Ok(())
    }

    /// Skips what is left of an entry. The padding after the last one may be missing: some
    /// writers end there.
    fn skip(&mut self) -> Result<()> {
        let (left, padding) = (self.left, self.padding);
        (self.left, self.padding) = (0, 0);
        let mut discard = |bytes| io::copy(&mut self.inner.by_ref().take(bytes), &mut io::sink());
        if discard(left).map_err(read_failed)? != left {
            return Err(ImageError::archive(b"", "it ends in the middle of an entry"));
        }
        discard(padding).map(drop).map_err(read_failed)
    }

    /// The next header, or none at the end: a block of zeros or the end of the stream.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ImageError::archive(b"", "it ends in the middle of a header")),
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(read_failed(e)),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !checksum_holds(&block) {
            return Err(ImageError::archive(b"", "a header's checksum is wrong: not a tar archive"));
        }
        Ok(Some(block))
    }

    /// The data of an extended header, taken off the `room` that its entry has for all of them.
    fn extended_data(&mut self, size: u64, name: &[u8], room: &mut u64) -> Result<Vec<u8>> {
        let Some(left) = room.checked_sub(size.saturating_add(BLOCK as u64)) else {
            return Err(ImageError::Limit {
                what: "an extended tar header".to_owned(),
                limit: EXTENDED_BYTES_MAX,
                unit: "bytes",
            });
        };
        *room = left;
        self.set_data(size, name)?;
        let mut data = Vec::new();
        self.read_to_end(&mut data).map_err(read_failed)?;
        if data.len() as u64 != size {
            return Err(ImageError::archive(name, "it ends in the middle of a header"));
        }
        Ok(data)
    }
}

impl<R: Read> Read for TarStream<R> {
    /// The current entry's data; short data is an error, never a silent end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            let cut = ImageError::archive(b"", "it ends in the middle of an entry");
            return Err(io::Error::other(cut));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A stream that failed below the tar format: broken compression, a closed connection.
pub(super) fn read_failed(source: io::Error) -> ImageError {
    // A limit that the stream itself enforces travels inside the I/O error.
    match source.downcast::<ImageError>() {
        Ok(inner) => inner,
        Err(source) => ImageError::Input { what: "the archive".to_owned(), source },
    }
}

fn entry_of(
    flag: u8,
    block: &[u8; BLOCK],
    name: Vec<u8>,
    size: u64,
    extended: Extended,
) -> std::result::Result<Entry, String> {
    let field = |range: std::ops::Range<usize>, what: &str| {
        number(&block[range]).ok_or_else(|| format!("its {what} is not a number"))
    };
    let narrow = |value: u64, what: &str| {
        u32::try_from(value).map_err(|_e| format!("its {what} is out of range"))
    };
    let path = extended.path.unwrap_or(name);
    let kind = match flag {
        b'0' | b'\0' | b'7' if path.ends_with(b"/") => Kind::Directory,
        b'0' | b'\0' | b'7' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => return Err(format!("its type {:?} is not supported", char::from(other))),
    };
    let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let device = if is_device {
        let (major, minor) = (field(329..337, "device")?, field(337..345, "device")?);
        (narrow(major, "device")?, narrow(minor, "device")?)
    } else {
        (0, 0)
    };
    let mtime = match extended.mtime {
        Some(mtime) => mtime,
        // Some writers leave nonsense or a time before 1970 here; neither matters.
        None => (number(&block[136..148]).and_then(|t| i64::try_from(t).ok()).unwrap_or(0), 0),
    };
    let uid = extended.uid.map_or_else(|| field(108..116, "owner"), Ok)?;
    let gid = extended.gid.map_or_else(|| field(116..124, "group"), Ok)?;
    Ok(Entry {
        kind,
        path,
        link: extended.link.unwrap_or_else(|| until_nul(&block[157..257])),
        mode: narrow(field(100..108, "mode")? & 0o7777, "mode")?,
        uid: narrow(uid, "owner")?,
        gid: narrow(gid, "group")?,
        // Only regular files carry data; a size elsewhere is what some writers leave there.
        size: if kind == Kind::Regular { extended.size.unwrap_or(size) } else { 0 },
        mtime,
        device,
        xattrs: extended.xattrs,
    })
}

/// Name and, in ustar archives, its prefix.
fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[0..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name;
    }
    [&prefix[..], b"/", &name[..]].concat()
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
}

/// Octal text, or a big-endian number with the top bit set (GNU). Nothing means zero.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // A negative number has the next bit set too; nothing here may be negative.
        let first = field[0] & 0x7f;
        if first & 0x40 != 0 {
            return None;
        }
        return field[1..].iter().try_fold(u64::from(first), |value, byte| {
            value.checked_mul(256).map(|value| value | u64::from(*byte))
        });
    }
    let text = until_nul(field);
    let text = std::str::from_utf8(&text).ok()?.trim();
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let counted = |index: usize, byte: u8| if (148..156).contains(&index) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(|(index, byte)| counted(index, *byte));
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    let told = number(&block[148..156]);
    told == Some(unsigned) || told.is_some_and(|told| i64::try_from(told) == Ok(signed))
}

/// Applies the records of one PAX header: `length key=value\n`, one after another.
fn read_pax(mut data: &[u8], extended: &mut Extended) -> std::result::Result<(), String> {
    let broken = || "its PAX header is broken".to_owned();
    while !data.is_empty() && data[0] != 0 {
        let space = data.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
        let length = std::str::from_utf8(&data[..space]).ok().and_then(|t| t.parse::<usize>().ok());
        let length = length.filter(|n| *n <= data.len() && *n > space + 1).ok_or_else(broken)?;
        let record = data[space + 1..length].strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        apply_pax(key, value, extended)?;
        data = &data[length..];
    }
    Ok(())
}

fn apply_pax(key: &[u8], value: &[u8], into: &mut Extended) -> std::result::Result<(), String> {
    let text = || std::str::from_utf8(value).unwrap_or_default();
    let count = || {
        let key = String::from_utf8_lossy(key);
        text().parse::<u64>().map_err(|_e| format!("its PAX {key} is not a number"))
    };
    if matches!(key, b"path" | b"linkpath") && value.contains(&0) {
        return Err("its name has a zero byte".to_owned());
    }
    match key {
        b"path" => into.path = Some(value.to_vec()),
        b"linkpath" => into.link = Some(value.to_vec()),
        b"size" => into.size = Some(count()?),
        b"uid" => into.uid = Some(count()?),
        b"gid" => into.gid = Some(count()?),
        b"mtime" => into.mtime = Some(pax_time(text()).ok_or("its PAX mtime is not a time")?),
        _ if key.starts_with(b"GNU.sparse.") => {
            return Err("sparse files are not supported".to_owned());
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                into.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Ok(())
}

/// Seconds with an optional sign and fraction.
fn pax_time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(name: &[u8], flag: u8, size: u64) -> [u8; BLOCK] {
        let mut block = [0u8; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = flag;
        block[257..263].copy_from_slice(b"ustar\0");
        block
    }

    fn sign(block: &mut [u8]) {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<Entry>> {
        let mut tar = TarStream::new(bytes);
        let mut entries = Vec::new();
        while let Some(entry) = tar.next_entry()? {
            io::copy(&mut tar, &mut io::sink()).map_err(read_failed)?;
            entries.push(entry);
        }
        Ok(entries)
    }

    #[test]
    fn numbers_and_times() {
        assert_eq!(number(b"0000755\0"), Some(0o755));
        assert_eq!(number(b" 755   \0"), Some(0o755));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 8]), None);
        assert_eq!(number(b"9999999\0"), None);
        assert_eq!(pax_time("12.5"), Some((12, 500_000_000)));
        assert_eq!(pax_time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(pax_time("1.0000000019"), Some((1, 1)));
        assert_eq!(pax_time("x"), None);
    }

    /// Headers without end before one entry, each with attributes that are kept until it comes.
    #[test]
    fn extended_headers_of_one_entry_share_a_limit() {
        let value = vec![b'v'; 60_000];
        let record = [b"60024 SCHILY.xattr.user.a=".as_slice(), &value, b"\n"].concat();
        let length = record.len();
        let record = [format!("{length}").as_bytes(), &record[5..]].concat();
        let extended = |count: usize, flag: u8| {
            let mut bytes = Vec::new();
            for _ in 0..count {
                let mut head = block(b"x", flag, record.len() as u64);
                sign(&mut head);
                bytes.extend_from_slice(&head);
                bytes.extend_from_slice(&record);
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            }
            let mut head = block(b"file", b'0', 0);
            sign(&mut head);
            bytes.extend_from_slice(&head);
            bytes
        };
        let twice = [extended(16, b'x'), extended(16, b'x')].concat();
        let entries = read_all(&twice).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.xattrs.len()).collect::<Vec<_>>(), [16, 16]);
        for flag in [b'x', b'g'] {
            let refused = read_all(&extended(20, flag)).unwrap_err().to_string();
            assert_eq!(refused, "an extended tar header exceeds the limit of 1048576 bytes");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_read_past_its_data(
            flags in proptest::collection::vec(any::<u8>(), 1..4),
            edits in proptest::collection::vec((0usize..BLOCK, any::<u8>()), 0..8),
            data in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            let mut bytes = Vec::new();
            for flag in flags {
                let mut head = block(b"name", flag, data.len() as u64);
                for (at, value) in &edits {
                    head[*at] = *value;
                }
                sign(&mut head);
                bytes.extend_from_slice(&head);
                bytes.extend_from_slice(&data);
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            }
            if let Ok(entries) = read_all(&bytes) {
                let told: u64 = entries.iter().map(|entry| entry.size).sum();
                prop_assert!(told <= bytes.len() as u64);
            }
        }

        #[test]
        fn no_pax_header_makes_it_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut extended = Extended::default();
            if read_pax(&data, &mut extended).is_ok() {
                prop_assert!(extended.path.is_none_or(|path| path.len() < 200));
            }
        }
    }
}
