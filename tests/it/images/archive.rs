//! Writes tar streams and image archives by hand, honest ones and others.

use std::io::Write;

use ring::digest::{SHA256, digest};
use serde_json::json;

/// A tar stream being written.
#[derive(Clone, Default)]
pub(super) struct Tar(Vec<u8>);

/// The fields of one header.
#[derive(Clone)]
pub(super) struct Head<'a> {
    pub(super) name: &'a str,
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) size: u64,
    pub(super) link: &'a str,
    pub(super) device: (u32, u32),
}

impl<'a> Head<'a> {
    pub(super) fn new(name: &'a str, flag: u8) -> Self {
        Self { name, flag, mode: 0o644, owner: (0, 0), size: 0, link: "", device: (0, 0) }
    }
}

impl Tar {
    /// One header and its data, padded; `head.size` is written whatever the data is.
    pub(super) fn raw(mut self, head: &Head<'_>, data: &[u8]) -> Self {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, head.name.as_bytes());
        put(100, format!("{:07o}", head.mode).as_bytes());
        put(108, format!("{:07o}", head.owner.0).as_bytes());
        put(116, format!("{:07o}", head.owner.1).as_bytes());
        put(124, format!("{:011o}", head.size).as_bytes());
        put(136, format!("{:011o}", 1_600_000_000).as_bytes());
        put(148, b"        ");
        put(156, &[head.flag]);
        put(157, head.link.as_bytes());
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", head.device.0).as_bytes());
        put(337, format!("{:07o}", head.device.1).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(&Head { size: data.len() as u64, ..Head::new(name, b'0') }, data)
    }

    pub(super) fn dir(self, name: &str, mode: u32) -> Self {
        self.raw(&Head { mode, ..Head::new(name, b'5') }, b"")
    }

    pub(super) fn symlink(self, name: &str, link: &str) -> Self {
        self.raw(&Head { link, ..Head::new(name, b'2') }, b"")
    }

    pub(super) fn hard_link(self, name: &str, link: &str) -> Self {
        self.raw(&Head { link, ..Head::new(name, b'1') }, b"")
    }

    /// Extended records for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            write!(data, "{length} {key}=").unwrap();
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(&Head { size: data.len() as u64, ..Head::new("pax", b'x') }, &data)
    }

    /// A GNU long name for the next entry.
    pub(super) fn gnu_long(self, flag: u8, name: &str) -> Self {
        let data = [name.as_bytes(), b"\0"].concat();
        self.raw(&Head { size: data.len() as u64, ..Head::new("././@LongLink", flag) }, &data)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// Without the zeros at the end, and cut to `bytes`.
    pub(super) fn cut(mut self, bytes: usize) -> Vec<u8> {
        self.0.truncate(bytes);
        self.0
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A configuration for these plain layers.
pub(super) fn configuration(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|l| format!("sha256:{}", sha256(l))).collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": { "Cmd": ["/x"] }, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
    .to_string()
    .into_bytes()
}

/// What `docker save` writes for one image of these plain layers.
pub(super) fn docker_archive(layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    let config = configuration(layers);
    let config_name = format!("{}.json", sha256(&config));
    let names: Vec<_> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": tags, "Layers": names }]);
    let mut tar = Tar::default().file(&config_name, &config);
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    tar.file("manifest.json", manifest.to_string().as_bytes()).end()
}

/// The manifest of an image of these layers, as they are in the registry.
pub(super) fn manifest(config: &[u8], blobs: &[Vec<u8>]) -> Vec<u8> {
    let blob = |bytes: &Vec<u8>, kind: &str| json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() });
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers: Vec<_> = blobs.iter().map(|bytes| blob(bytes, layer)).collect();
    json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(&config.to_vec(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}
