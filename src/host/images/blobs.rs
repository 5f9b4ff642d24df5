//! The content store: files named by the sha256 of their bytes, verified before they get the name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use ring::digest::{Context, SHA256};

use super::decode::{Hashing, digest_of, finish};
use super::error::{ImageError, Result};
use super::limits::SpaceGuard;
use super::store::{Inner, Temp};
use super::tar_stream::read_failed;
use crate::model::digest::Digest;

/// Bytes copied at a time.
pub(super) const COPY_BYTES: usize = 64 * 1024;

impl Inner {
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Whether the blob is here in full.
    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Every blob with its path and size.
    pub(super) fn list_blobs(&self) -> Result<Vec<(Digest, PathBuf, u64)>> {
        let directory = self.root.join("blobs/sha256");
        let list = || -> io::Result<Vec<_>> {
            let mut blobs = Vec::new();
            for item in fs::read_dir(&directory)? {
                let item = item?;
                let name = item.file_name();
                if let Some(digest) = name.to_str().and_then(Digest::from_hex) {
                    blobs.push((digest, item.path(), item.metadata()?.len()));
                }
            }
            Ok(blobs)
        };
        list().map_err(|e| ImageError::io("read", &directory, e))
    }

    /// A whole small blob, verified again: the disk may have changed it.
    pub(super) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let io = |e| ImageError::io("read", &path, e);
        let mut bytes = Vec::new();
        let max = self.limits().document_bytes_max;
        File::open(&path).map_err(io)?.take(max).read_to_end(&mut bytes).map_err(io)?;
        if digest_of(&bytes) != *digest {
            let why = "its bytes do not match its digest".to_owned();
            return Err(ImageError::Damaged { path, why });
        }
        Ok(bytes)
    }

    /// Reads a blob of any size again: the disk may have changed it.
    pub(super) fn verify_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        let io = |e| ImageError::io("read", &path, e);
        let mut hashing = Hashing::new(File::open(&path).map_err(io)?);
        io::copy(&mut hashing, &mut io::sink()).map_err(io)?;
        if hashing.finish().0 != *digest {
            let why = "its bytes do not match its digest".to_owned();
            return Err(ImageError::Damaged { path, why });
        }
        Ok(())
    }

    /// Keeps bytes whose digest the caller has checked.
    pub(super) fn store_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.has_blob(digest) {
            return Ok(());
        }
        let mut writer = BlobWriter::new(self)?;
        writer.write(bytes)?;
        writer.commit(self, "blob", Some((*digest, bytes.len() as u64))).map(drop)
    }
}

/// A blob on its way in: a file in `tmp` and the digest of what is in it.
pub(super) struct BlobWriter {
    temp: Temp,
    file: File,
    context: Context,
    bytes: u64,
    space: SpaceGuard,
}

impl BlobWriter {
    pub(super) fn new(inner: &Inner) -> Result<Self> {
        let temp = inner.temp("blob");
        let space = SpaceGuard::new(&inner.root, inner.limits().disk_reserve_bytes)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temp.0);
        let file = file.map_err(|e| ImageError::io("make", &temp.0, e))?;
        Ok(Self { temp, file, context: Context::new(&SHA256), bytes: 0, space })
    }

    /// How many bytes there are.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn write(&mut self, data: &[u8]) -> Result<()> {
        self.space.take(data.len() as u64)?;
        self.file.write_all(data).map_err(|e| ImageError::io("write", &self.temp.0, e))?;
        self.context.update(data);
        self.bytes += data.len() as u64;
        Ok(())
    }

    /// Takes everything from `source`, at most `max` bytes.
    pub(super) fn copy_from(&mut self, mut source: impl Read, max: u64, what: &str) -> Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(read_failed(e)),
            };
            if self.bytes + count as u64 > max {
                let what = what.to_owned();
                return Err(ImageError::Limit { what, limit: max, unit: "bytes" });
            }
            self.write(&buffer[..count])?;
        }
    }

    /// Forgets everything and starts anew.
    pub(super) fn restart(&mut self) -> Result<()> {
        let reset = self.file.set_len(0).and_then(|()| self.file.rewind());
        reset.map_err(|e| ImageError::io("empty", &self.temp.0, e))?;
        self.context = Context::new(&SHA256);
        self.bytes = 0;
        Ok(())
    }

    /// The digest so far and the file, without keeping it as a blob: for archives, whose entries
    /// are told apart only at the end.
    pub(super) fn stage(self) -> Staged {
        Staged { digest: finish(self.context), bytes: self.bytes, temp: self.temp }
    }

    /// Checks digest and size, syncs, and gives the blob its name.
    pub(super) fn commit(
        self,
        inner: &Inner,
        what: &str,
        want: Option<(Digest, u64)>,
    ) -> Result<Digest> {
        self.stage().commit(inner, what, want)
    }
}

/// A file in `tmp` whose digest is known.
pub(super) struct Staged {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    temp: Temp,
}

impl Staged {
    /// Checks digest and size, syncs, and gives the blob its name.
    pub(super) fn commit(
        &self,
        inner: &Inner,
        what: &str,
        want: Option<(Digest, u64)>,
    ) -> Result<Digest> {
        if let Some((want, size)) = want {
            verify(what, want, size, self.digest, self.bytes)?;
        }
        let path = inner.blob_path(&self.digest);
        if !path.is_file() {
            let sync = || File::open(&self.temp.0)?.sync_all();
            sync().map_err(|e| ImageError::io("sync", &self.temp.0, e))?;
            inner.publish(&self.temp.0, &path)?;
        }
        Ok(self.digest)
    }

    /// The file's bytes, before or after the commit.
    pub(super) fn open(&self, inner: &Inner) -> Result<File> {
        let path = if self.temp.0.is_file() { &self.temp.0 } else { &inner.blob_path(&self.digest) };
        File::open(path).map_err(|e| ImageError::io("open", path, e))
    }
}

/// Refuses bytes that are not those which were promised.
pub(super) fn verify(
    what: &str,
    want: Digest,
    want_size: u64,
    got: Digest,
    got_size: u64,
) -> Result<()> {
    let what = || what.to_owned();
    if want_size != got_size {
        return Err(ImageError::SizeMismatch { what: what(), want: want_size, got: got_size });
    }
    if want != got {
        return Err(ImageError::DigestMismatch { what: what(), want, got });
    }
    Ok(())
}
