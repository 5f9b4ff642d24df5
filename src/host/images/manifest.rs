//! Manifests, indexes and image configurations: Docker schema 2 and OCI, read alike.
//!
//! What a document is, is told by its fields; one that could be read in two ways is refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::error::{ImageError, Result};
use super::limits::Limits;
use super::platform::Platform;
use super::record::{Healthcheck, ImageConfig};
use crate::model::digest::Digest;

/// Everything a registry is told to be understood, for the `Accept` header.
pub(super) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// OCI's name of an image configuration.
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// OCI's name of a manifest.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// OCI's name of an index.
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// A blob that a document names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    pub(super) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// An OCI manifest that says the same.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let one = |d: &Descriptor| {
            json!({ "mediaType": d.media_type, "digest": d.digest.to_string(), "size": d.size })
        };
        let layers: Vec<_> = self.layers.iter().map(one).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": one(&self.config),
            "layers": layers,
        });
        manifest.to_string().into_bytes()
    }
}

/// What the bytes of a manifest turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// Several images for different platforms.
    Index(Vec<Descriptor>),
    /// One image.
    Image(Manifest),
}

/// One image: its configuration and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// What a configuration says.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) platform: Platform,
    pub(super) created: String,
    pub(super) config: ImageConfig,
    pub(super) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<RawDescriptor>>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RawConfiguration {
    #[serde(flatten)]
    platform: Platform,
    created: Option<String>,
    config: Option<RawConfig>,
    rootfs: Option<RawRootfs>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<String>>,
}

type Set = BTreeMap<String, serde::de::IgnoredAny>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    user: Option<String>,
    exposed_ports: Option<Set>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<Set>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    healthcheck: Option<RawHealthcheck>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u32,
}

impl RawDescriptor {
    fn checked(self, what: &str) -> Result<Descriptor> {
        let digest = self.digest.parse();
        Ok(Descriptor {
            media_type: self.media_type,
            digest: digest.map_err(|e| ImageError::manifest(what, e))?,
            size: self.size,
            platform: self.platform,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

/// Reads a manifest or an index; `what` names it in errors.
pub(super) fn read_document(bytes: &[u8], what: &str, limits: &Limits) -> Result<Document> {
    let bad = |why: &str| ImageError::manifest(what, why);
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|e| ImageError::manifest(what, e))?;
    if raw.schema_version != Some(2) {
        return Err(bad("only schema version 2 is supported"));
    }
    let (manifests, config, layers) = match (raw.manifests, raw.config, raw.layers) {
        (Some(manifests), None, None) => (manifests, None, Vec::new()),
        (None, Some(config), Some(layers)) => (Vec::new(), Some(config), layers),
        (Some(_), _, _) => return Err(bad("it is both a manifest and an index")),
        _ => return Err(bad("it has neither manifests nor a config and layers")),
    };
    let is_index = config.is_none();
    if raw.media_type.as_deref().is_some_and(|t| is_index_type(t) != is_index) {
        return Err(bad("its mediaType says something else than its fields"));
    }
    let Some(config) = config else {
        let manifests = manifests.into_iter().map(|raw| raw.checked(what));
        return manifests.collect::<Result<_>>().map(Document::Index);
    };
    let config = config.checked(what)?;
    if !matches!(
        config.media_type.as_str(),
        "" | "application/vnd.docker.container.image.v1+json"
            | CONFIG_TYPE
            | "application/octet-stream"
    ) {
        return Err(bad(&format!("{} is not an image's configuration", config.media_type)));
    }
    let layers: Vec<_> = layers.into_iter().map(|r| r.checked(what)).collect::<Result<_>>()?;
    if layers.len() > limits.layers_max {
        let (what, limit) = (format!("{what}: the number of layers"), limits.layers_max as u64);
        return Err(ImageError::Limit { what, limit, unit: "layers" });
    }
    if let Some(layer) = layers.iter().find(|l| l.size > limits.blob_bytes_max) {
        let what = format!("layer {}", layer.digest);
        return Err(ImageError::Limit { what, limit: limits.blob_bytes_max, unit: "bytes" });
    }
    Ok(Document::Image(Manifest { config, layers }))
}

fn is_index_type(media_type: &str) -> bool {
    media_type.contains("manifest.list") || media_type.contains("image.index")
}

/// The manifest of an index that runs best on `host`.
pub(super) fn choose<'a>(index: &'a [Descriptor], host: &Platform) -> Result<&'a Descriptor> {
    let rank = |d: &Descriptor| match &d.platform {
        Some(platform) => host.rank(platform),
        // Some writers make an index of one image and name no platform.
        None => (index.len() == 1).then_some(0),
    };
    let ranked = index.iter().filter_map(|d| Some((rank(d)?, d)));
    let best = ranked.min_by_key(|(rank, _)| *rank);
    best.map(|(_, d)| d).ok_or_else(|| ImageError::NoPlatform { platform: host.to_string() })
}

/// Reads an image configuration; `what` names it in errors.
pub(super) fn read_configuration(bytes: &[u8], what: &str) -> Result<Configuration> {
    let bad = |why: &str| ImageError::manifest(what, why);
    let raw: RawConfiguration =
        serde_json::from_slice(bytes).map_err(|e| ImageError::manifest(what, e))?;
    let mut platform = raw.platform;
    if platform.os.is_empty() {
        "linux".clone_into(&mut platform.os);
    }
    if platform.os != "linux" {
        return Err(bad(&format!("it is for the operating system {:?}", platform.os)));
    }
    let rootfs = raw.rootfs.ok_or_else(|| bad("it has no rootfs"))?;
    let diff_ids = rootfs.diff_ids.unwrap_or_default().into_iter();
    let diff_ids = diff_ids.map(|text| text.parse::<Digest>());
    let diff_ids: std::result::Result<Vec<_>, _> = diff_ids.collect();
    let diff_ids = diff_ids.map_err(|e| ImageError::manifest(what, e))?;
    let config = config_of(raw.config.unwrap_or_default());
    Ok(Configuration { platform, created: raw.created.unwrap_or_default(), config, diff_ids })
}

fn config_of(raw: RawConfig) -> ImageConfig {
    let keys = |set: Option<Set>| set.unwrap_or_default().into_keys().collect();
    let healthcheck = raw.healthcheck.map(|h| Healthcheck {
        test: h.test.unwrap_or_default(),
        interval_nanos: h.interval,
        timeout_nanos: h.timeout,
        start_period_nanos: h.start_period,
        start_interval_nanos: h.start_interval,
        retries: h.retries,
    });
    ImageConfig {
        user: raw.user.unwrap_or_default(),
        exposed_ports: keys(raw.exposed_ports),
        env: raw.env.unwrap_or_default(),
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
        volumes: keys(raw.volumes),
        working_dir: raw.working_dir.unwrap_or_default(),
        labels: raw.labels.unwrap_or_default(),
        stop_signal: raw.stop_signal.unwrap_or_default(),
        healthcheck,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read(text: &str) -> std::result::Result<Document, String> {
        let text = text.replace("HEX", HEX);
        read_document(text.as_bytes(), "manifest", &Limits::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        let image = r#"{"schemaVersion":2,"config":{"digest":"sha256:HEX","size":3},
            "layers":[{"digest":"sha256:HEX","size":9}]}"#;
        let Document::Image(manifest) = read(image).unwrap() else { panic!("an image") };
        assert_eq!((manifest.config.size, manifest.layers[0].size), (3, 9));
        let index = r#"{"schemaVersion":2,"manifests":[
            {"digest":"sha256:HEX","size":1,"platform":{"os":"linux","architecture":"arm64"}},
            {"digest":"sha256:HEX","size":2,"platform":{"os":"unknown","architecture":"unknown"}},
            {"digest":"sha256:HEX","size":3,"platform":{"os":"linux","architecture":"amd64"}}]}"#;
        let Document::Index(index) = read(index).unwrap() else { panic!("an index") };
        assert_eq!(choose(&index, &Platform::linux("amd64", "")).unwrap().size, 3);
        let none = choose(&index, &Platform::linux("riscv64", "")).unwrap_err();
        assert_eq!(
            none.to_string(),
            "no matching manifest for linux/riscv64 in the manifest list entries"
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (text, want) in [
            (r#"{"schemaVersion":1,"manifests":[]}"#, "schema version 2"),
            (r#"{"schemaVersion":2}"#, "neither"),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "both"),
            (r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",
                "config":{"digest":"sha256:HEX","size":3},"layers":[]}"#, "mediaType"),
            (r#"{"schemaVersion":2,"config":{"digest":"sha256:HEX","size":-3},"layers":[]}"#, "-3"),
            (r#"{"schemaVersion":2,"config":{"digest":"sha256:zz","size":3},"layers":[]}"#, "digest"),
            (r#"{"schemaVersion":2,"config":{"digest":"../../etc/passwd","size":3},"layers":[]}"#, "digest"),
            (r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json",
                "digest":"sha256:HEX","size":3},"layers":[]}"#, "helm"),
            ("[", "EOF"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        let layers = vec![r#"{"digest":"sha256:HEX","size":9}"#; 128].join(",");
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"sha256:HEX","size":3}},"layers":[{layers}]}}"#
        );
        assert!(read(&text).unwrap_err().contains("limit of 127 layers"));
    }

    #[test]
    fn configurations_keep_what_containers_need() {
        let text = format!(
            r#"{{"architecture":"arm","variant":"v7","os":"linux","created":"2024-01-02T03:04:05Z",
            "config":{{"Env":["A=b"],"Entrypoint":null,"Cmd":["sh"],"ExposedPorts":{{"80/tcp":{{}}}},
            "Labels":null,"StopSignal":"SIGQUIT","Healthcheck":{{"Test":["NONE"],"Interval":5}}}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{HEX}"]}},"history":[{{}}]}}"#
        );
        let read = read_configuration(text.as_bytes(), "config").unwrap();
        assert_eq!(read.platform.to_string(), "linux/arm/v7");
        assert_eq!(read.config.exposed_ports, ["80/tcp"]);
        assert_eq!(read.config.stop_signal, "SIGQUIT");
        assert_eq!(read.config.healthcheck.unwrap().interval_nanos, 5);
        assert_eq!(read.diff_ids.len(), 1);
        assert!(read_configuration(br#"{"os":"windows","rootfs":{}}"#, "config").is_err());
    }
}
