//! Compression and digests of byte streams: what a stream is, is told by its first bytes, never
//! by what a manifest calls it.

use std::io::{self, BufReader, Cursor, Read};

use flate2::read::MultiGzDecoder;
use ring::digest::{Context, SHA256};

use crate::model::digest::Digest;

/// The largest window a zstd stream may ask for: 32 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

const MAGIC_BYTES: usize = 6;
const BUFFER_BYTES: usize = 32 * 1024;

/// The plain bytes of a stream that is gzip, zstd or neither.
pub(super) fn plain<'a>(mut stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = Vec::with_capacity(MAGIC_BYTES);
    stream.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
    let unsupported = |name: &str| {
        let text = format!("{name} compression is not supported: use gzip, zstd or none");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    if magic.starts_with(b"\xfd7zXZ\0") {
        return unsupported("xz");
    }
    if magic.starts_with(b"BZh") {
        return unsupported("bzip2");
    }
    let is_gzip = magic.starts_with(b"\x1f\x8b");
    let is_zstd = magic.starts_with(b"\x28\xb5\x2f\xfd");
    let whole = Cursor::new(magic).chain(stream);
    if is_gzip {
        let buffered = BufReader::with_capacity(BUFFER_BYTES, whole);
        return Ok(Box::new(MultiGzDecoder::new(buffered)));
    }
    if is_zstd {
        let mut decoder = zstd::stream::read::Decoder::new(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(whole))
}

/// Digest and count of what was read through it.
pub(super) struct Hashing<R> {
    inner: R,
    context: Context,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, context: Context::new(&SHA256), bytes: 0 }
    }

    /// What was read so far.
    pub(super) fn finish(self) -> (Digest, u64) {
        (finish(self.context), self.bytes)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Digest of bytes in memory.
pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    finish(context)
}

/// The digest a context holds.
pub(super) fn finish(context: Context) -> Digest {
    let mut bytes = [0u8; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Digest(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        plain(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn each_compression_is_found_by_its_first_bytes() {
        let text = b"the quick brown fox".repeat(1_000);
        assert_eq!(read(&text).unwrap(), text);
        assert_eq!(read(&gzip(&text)).unwrap(), text);
        let twice = [gzip(&text), gzip(b"more")].concat();
        assert_eq!(read(&twice).unwrap(), [&text[..], b"more"].concat());
        assert_eq!(read(&zstd::encode_all(&text[..], 3).unwrap()).unwrap(), text);
        assert_eq!(read(b"").unwrap(), b"");
        assert!(read(b"\xfd7zXZ\0rest").unwrap_err().to_string().contains("xz"));
        assert!(read(&gzip(&text)[..50]).is_err(), "a torn gzip stream is an error");
    }

    #[test]
    fn digests_are_sha256() {
        assert_eq!(
            digest_of(b"abc").hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let mut hashing = Hashing::new(&b"abc"[..]);
        io::copy(&mut hashing, &mut io::sink()).unwrap();
        assert_eq!(hashing.finish(), (digest_of(b"abc"), 3));
    }
}
