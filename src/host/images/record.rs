//! What the store knows about an image, and the state files that keep it.
//!
//! The files are written and checked by `host::disk::ledger`. Shapes with `Stored` in the name
//! are frozen: a change is a new version.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{ImageError, Result};
use super::platform::Platform;
use crate::host::disk::ledger;
use crate::model::digest::Digest;
use crate::model::wire::Kind;

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

/// What a state file holds, and the number of its shape.
pub(super) trait Stored: Serialize + DeserializeOwned {
    const KIND: Kind;
    const VERSION: u16 = 1;
}

impl Stored for StoredImage {
    const KIND: Kind = Kind::IMAGE;
}

impl Stored for StoredNames {
    const KIND: Kind = Kind::IMAGE_NAMES;
}

impl Stored for StoredLayer {
    const KIND: Kind = Kind::IMAGE_LAYER;
}

/// Replaces a state file durably.
pub(super) fn write<T: Stored>(path: &Path, value: &T) -> Result<()> {
    Ok(ledger::write(path, T::KIND, T::VERSION, value)?)
}

/// Writes a state file that the caller syncs.
pub(super) fn write_lazily<T: Stored>(path: &Path, value: &T) -> Result<()> {
    Ok(ledger::write_lazily(path, T::KIND, T::VERSION, value)?)
}

/// Replaces a state file durably; the one before stays as a copy.
pub(super) fn write_keeping_previous<T: Stored>(path: &Path, value: &T) -> Result<()> {
    Ok(ledger::write_keeping_previous(path, T::KIND, T::VERSION, value)?)
}

/// Reads a state file; none when it is missing.
pub(super) fn read<T: Stored>(path: &Path) -> Result<Option<T>> {
    Ok(ledger::read(path, T::KIND, T::VERSION)?)
}

/// Reads a state file or the copy before it; tells what was wrong with the file.
pub(super) fn read_with_previous<T: Stored>(path: &Path) -> Result<Option<(T, Option<String>)>> {
    let found = ledger::read_with_previous(path, T::KIND, T::VERSION)?;
    Ok(found.map(|found| (found.value, found.from_previous)))
}

/// Makes renames and new names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<()> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(|e| ImageError::io("sync", path, e))
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;
    use crate::model::wire;

    fn hex<T: Stored>(value: &T) -> String {
        let bytes = wire::encode(T::KIND, T::VERSION, value, 1 << 20).unwrap();
        let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n") + "\n"
    }

    #[test]
    fn shapes_are_frozen() {
        let image = StoredImage {
            id: Digest([1; 32]),
            created: "2024-01-02T03:04:05Z".to_owned(),
            platform: Platform::linux("arm", "v7"),
            config: ImageConfig {
                user: "7:8".to_owned(),
                exposed_ports: vec!["80/tcp".to_owned()],
                env: vec!["A=b".to_owned()],
                entrypoint: vec!["/bin/x".to_owned()],
                cmd: vec!["y".to_owned()],
                volumes: vec!["/data".to_owned()],
                working_dir: "/w".to_owned(),
                labels: [("k".to_owned(), "v".to_owned())].into_iter().collect(),
                stop_signal: "SIGQUIT".to_owned(),
                healthcheck: Some(Healthcheck {
                    test: vec!["NONE".to_owned()],
                    interval_nanos: 1,
                    timeout_nanos: 2,
                    start_period_nanos: 3,
                    start_interval_nanos: 4,
                    retries: 5,
                }),
            },
            layers: vec![LayerRecord {
                diff_id: Digest([2; 32]),
                blob: Some(Digest([3; 32])),
                bytes: 300,
            }],
            manifest: Some(Digest([4; 32])),
            has_config_blob: true,
        };
        expect_file!["../../../tests/data/wire/image-1.hex"].assert_eq(&hex(&image));
        let names = [("docker.io/library/a:b".to_owned(), Digest([7; 32]))];
        let names = StoredNames { names: names.into_iter().collect() };
        expect_file!["../../../tests/data/wire/image-names-1.hex"].assert_eq(&hex(&names));
        let layer = StoredLayer { diff_id: Digest([2; 32]), bytes: 300 };
        expect_file!["../../../tests/data/wire/image-layer-1.hex"].assert_eq(&hex(&layer));
    }
}
