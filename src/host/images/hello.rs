//! The image `skep/hello`: this very program as the only file of the only layer, so that a first
//! service needs neither registry nor network.
//!
//! Made when it is first asked for, and again when the program has changed. Other versions of it
//! become dangling images that prune removes. Never pinned by a digest: each node packs its own.

use std::fs::File;
use std::io::{Cursor, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::PoisonError;

use serde_json::json;

use super::decode::{Hashing, digest_of};
use super::error::{ImageError, Result};
use super::manifest::read_configuration;
use super::record::{ImageRecord, LayerRecord, StoredImage};
use super::store::{Claim, ImageStore};
use crate::base::time::Wall;
use crate::model::digest::Digest;
use crate::model::image_ref::HELLO_NAME;

/// What `hello` was packed of, by this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    binary: Binary,
    id: Digest,
}

/// Tells one version of the program from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Binary {
    device: u64,
    inode: u64,
    bytes: u64,
    mtime: i64,
}

const BLOCK: u64 = 512;

impl ImageStore {
    /// Makes the image of the running program be here.
    ///
    /// # Errors
    /// The program cannot be read, or the disk is full.
    pub fn ensure_hello(&self) -> Result<ImageRecord> {
        self.ensure_hello_of(Path::new("/proc/self/exe"))
    }

    /// Makes the image of the program at `path` be here.
    ///
    /// # Errors
    /// The program cannot be read, or the disk is full.
    pub fn ensure_hello_of(&self, path: &Path) -> Result<ImageRecord> {
        let inner = &self.inner;
        let io = |e| ImageError::io("read the program", path, e);
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let binary = Binary {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            mtime: meta.mtime(),
        };
        // Held while it is packed, so that two first services do not pack it twice.
        let mut known = inner.hello.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{HELLO_NAME}:latest");
        if let Some(hello) = known.filter(|hello| hello.binary == binary) {
            let state = inner.lock();
            let is_named = state.names.get(&name) == Some(&hello.id);
            if let Some(record) = state.record(&hello.id).filter(|_| is_named) {
                return Ok(record);
            }
        }
        // The digest first, so that a layer that is here already is not written again.
        let mut hashing = Hashing::new(layer_of(file, binary.bytes));
        std::io::copy(&mut hashing, &mut std::io::sink()).map_err(io)?;
        let (diff_id, _) = hashing.finish();
        let config = self.hello_config(&binary, diff_id);
        let id = digest_of(config.as_bytes());
        let pins = inner.pin([diff_id, id]);
        let layer = {
            let _claimed = inner.claim(Claim::Layer(diff_id));
            match inner.layer(&diff_id)? {
                Some(layer) => layer,
                None => {
                    let file = File::open(path).map_err(io)?;
                    inner.make_layer(diff_id, layer_of(file, binary.bytes))?
                }
            }
        };
        let configuration = read_configuration(config.as_bytes(), "configuration of skep/hello")?;
        inner.store_blob(&id, config.as_bytes())?;
        let layers = vec![LayerRecord { diff_id, blob: None, bytes: layer.bytes }];
        let image = StoredImage {
            id,
            created: configuration.created,
            platform: configuration.platform,
            config: configuration.config,
            layers,
            manifest: None,
            has_config_blob: true,
        };
        let record = inner.commit(image, &[name])?;
        drop(pins);
        *known = Some(Hello { binary, id });
        Ok(record)
    }

    fn hello_config(&self, binary: &Binary, diff_id: Digest) -> String {
        let seconds = u64::try_from(binary.mtime).unwrap_or(0);
        let platform = &self.inner.platform;
        let mut config = json!({
            "created": Wall(seconds.saturating_mul(1_000_000)).to_string(),
            "architecture": platform.architecture,
            "os": "linux",
            "config": {
                "Entrypoint": ["/skep", "hello"],
                "ExposedPorts": { "80/tcp": {} },
                "WorkingDir": "/",
            },
            "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
        });
        if !platform.variant.is_empty() {
            config["variant"] = json!(platform.variant);
        }
        config.to_string()
    }
}

/// A tar stream with the program as `/skep`.
fn layer_of(file: File, bytes: u64) -> impl Read {
    let padding = bytes.next_multiple_of(BLOCK) - bytes + 2 * BLOCK;
    // A program that is replaced while it is read ends early: the zeros keep the archive's
    // length, and the digest tells.
    let content = file.chain(std::io::repeat(0)).take(bytes);
    Cursor::new(header(bytes)).chain(content).chain(std::io::repeat(0).take(padding))
}

/// One ustar header.
fn header(bytes: u64) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, "skep");
    put(100, "0000755");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{bytes:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
