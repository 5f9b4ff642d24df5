//! What the store knows about an image, and the state files that keep it.
//!
//! A state file is (kind, version, length, postcard) and a CRC over all of it; it is replaced by
//! write, fsync, rename, and fsync of its directory. Shapes with `Stored` in the name are frozen.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{ImageError, Result};
use super::platform::Platform;
use crate::model::digest::Digest;

/// An image of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// Digest of the configuration.
    pub id: Digest,
    /// `nginx:alpine`, in order; none for a dangling image.
    pub repo_tags: Vec<String>,
    /// `nginx@sha256:…`, in order.
    pub repo_digests: Vec<String>,
    /// When it was made, RFC 3339 as its maker wrote it; may be empty.
    pub created: String,
    /// Bytes of the files of all layers.
    pub size: u64,
    /// What it runs on.
    pub platform: Platform,
    /// What it says about its containers.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<LayerRecord>,
}

/// One layer of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the plain tar stream: the layer's name in the store.
    pub diff_id: Digest,
    /// The blob it came from, if the store keeps it.
    pub blob: Option<Digest>,
    /// Bytes of its files.
    pub bytes: u64,
}

/// What an image says about its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `user[:group]`, by name or number.
    pub user: String,
    /// `80/tcp`, in order.
    pub exposed_ports: Vec<String>,
    /// `KEY=value`, in the image's order.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The arguments, or the whole command.
    pub cmd: Vec<String>,
    /// Paths that are volumes, in order.
    pub volumes: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks to stop; empty means SIGTERM.
    pub stop_signal: String,
    /// Health check.
    pub healthcheck: Option<Healthcheck>,
}

/// An image's health check; zero means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval_nanos: u64,
    /// For one check.
    pub timeout_nanos: u64,
    /// In which failures do not count.
    pub start_period_nanos: u64,
    /// Between two checks in the start period.
    pub start_interval_nanos: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// `records/<id>`: one image without its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredImage {
    pub(super) id: Digest,
    pub(super) created: String,
    pub(super) platform: Platform,
    pub(super) config: ImageConfig,
    pub(super) layers: Vec<LayerRecord>,
    /// The manifest blob, if there is one.
    pub(super) manifest: Option<Digest>,
    /// Whether the configuration is kept as a blob.
    pub(super) has_config_blob: bool,
}

/// `names`: which image each canonical reference means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredNames {
    pub(super) names: BTreeMap<String, Digest>,
}

/// `layers/<diff id>/layer`: an unpacked layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLayer {
    pub(super) diff_id: Digest,
    pub(super) bytes: u64,
}

/// What a state file holds.
pub(super) trait Stored: Serialize + DeserializeOwned {
    /// Told apart by these four bytes.
    const KIND: [u8; 4];
    /// The shape; a change is a new one.
    const VERSION: u16 = 1;
}

impl Stored for StoredImage {
    const KIND: [u8; 4] = *b"skIM";
}

impl Stored for StoredNames {
    const KIND: [u8; 4] = *b"skIN";
}

impl Stored for StoredLayer {
    const KIND: [u8; 4] = *b"skIL";
}

/// The largest state file that is read.
const STATE_BYTES_MAX: u64 = 64 << 20;

const HEADER_BYTES: usize = 10;
const CRC_BYTES: usize = 4;

/// Writes `value` to a new file and syncs it; the caller renames it into place.
pub(super) fn write_new<T: Stored>(path: &Path, value: &T) -> Result<()> {
    let bytes = encode(value).map_err(|why| ImageError::io("encode", path, why))?;
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    write().map_err(|e| ImageError::io("write", path, e))
}

/// Reads a state file; none when it is missing.
pub(super) fn read<T: Stored>(path: &Path) -> Result<Option<T>> {
    let io = |e| ImageError::io("read", path, e);
    match fs::metadata(path) {
        Ok(meta) if meta.len() > STATE_BYTES_MAX => {
            return Err(damaged(path, "it is too large"));
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    }
    let bytes = fs::read(path).map_err(io)?;
    decode(&bytes).map(Some).map_err(|why| damaged(path, why))
}

/// Makes renames and new names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(|e| ImageError::io("sync", path, e))
}

fn damaged(path: &Path, why: &str) -> ImageError {
    ImageError::Damaged { path: path.to_owned(), why: why.to_owned() }
}

fn encode<T: Stored>(value: &T) -> io::Result<Vec<u8>> {
    let body = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + CRC_BYTES);
    bytes.extend_from_slice(&T::KIND);
    bytes.extend_from_slice(&T::VERSION.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    Ok(bytes)
}

fn decode<T: Stored>(bytes: &[u8]) -> std::result::Result<T, &'static str> {
    let Some((rest, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else {
        return Err("it is too short");
    };
    if crc32fast::hash(rest) != u32::from_le_bytes(*crc) {
        return Err("its checksum does not match: torn or flipped bytes");
    }
    let (Some((kind, _)), Some(version), Some(length)) =
        (rest.split_first_chunk::<4>(), rest.get(4..6), rest.get(6..HEADER_BYTES))
    else {
        return Err("it is too short");
    };
    let body = &rest[HEADER_BYTES..];
    if *kind != T::KIND {
        return Err("it is a file of another kind");
    }
    if version != T::VERSION.to_le_bytes() {
        return Err("its version is not known: it was written by another release");
    }
    if length != u32::try_from(body.len()).unwrap_or(0).to_le_bytes() {
        return Err("its length does not match");
    }
    postcard::from_bytes(body).map_err(|_e| "its content cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let names = StoredNames {
            names: [("docker.io/library/a:b".to_owned(), Digest([7; 32]))].into_iter().collect(),
        };
        let bytes = encode(&names).unwrap();
        assert_eq!(decode::<StoredNames>(&bytes).unwrap(), names);
        for index in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[index] ^= 1 << bit;
                assert!(decode::<StoredNames>(&flipped).is_err(), "byte {index} bit {bit}");
            }
            assert!(decode::<StoredNames>(&bytes[..index]).is_err(), "cut at {index}");
        }
        assert!(decode::<StoredLayer>(&bytes).is_err(), "another kind");
    }
}
