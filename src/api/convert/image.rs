//! Images, towards the client.

use std::collections::BTreeMap;

use crate::daemon::shown::{Distribution, ImageRecord, PullEvent, Removed};
use crate::model::engine::container_spec::HealthConfig;
use crate::model::engine::image as json;
use crate::model::engine::stream::{ProgressDetail, ProgressMessage};
use crate::model::engine::{Empty, Labels};

use super::int;

/// A line of the list.
#[must_use]
pub fn summary(image: &ImageRecord) -> json::ImageSummary {
    json::ImageSummary {
        id: image.id.to_string(),
        parent_id: String::new(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        created: seconds(&image.created),
        size: int(image.size),
        shared_size: -1,
        labels: image.config.labels.clone(),
        containers: -1,
    }
}

/// Seconds since 1970 of an RFC 3339 time; 0 where the image's maker wrote something else.
fn seconds(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second)
}

/// What only the image's own configuration knows.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Extra {
    author: Option<String>,
    comment: Option<String>,
    docker_version: Option<String>,
}

/// Everything about an image; `configuration` is its own, where it is kept.
#[must_use]
pub fn inspect(image: &ImageRecord, configuration: Option<&[u8]>) -> json::ImageInspect {
    // A configuration that is no longer JSON only leaves these texts empty.
    let extra: Extra =
        configuration.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default();
    let config = &image.config;
    let set = |names: &[String]| -> BTreeMap<String, Empty> {
        names.iter().map(|name| (name.clone(), Empty {})).collect()
    };
    json::ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        parent: String::new(),
        comment: extra.comment.unwrap_or_default(),
        created: image.created.clone(),
        docker_version: extra.docker_version.unwrap_or_default(),
        author: extra.author.unwrap_or_default(),
        config: json::ImageConfig {
            env: config.env.clone(),
            cmd: config.cmd.clone(),
            entrypoint: config.entrypoint.clone(),
            labels: config.labels.clone(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            exposed_ports: set(&config.exposed_ports),
            volumes: set(&config.volumes),
            stop_signal: config.stop_signal.clone(),
            healthcheck: config.healthcheck.as_ref().map(|check| HealthConfig {
                test: check.test.clone(),
                interval: int(check.interval_nanos),
                timeout: int(check.timeout_nanos),
                start_period: int(check.start_period_nanos),
                start_interval: int(check.start_interval_nanos),
                retries: i64::from(check.retries),
            }),
        },
        architecture: image.platform.architecture.clone(),
        os: image.platform.os.clone(),
        size: int(image.size),
        graph_driver: json::GraphDriver { name: "overlayfs".to_owned(), data: Labels::new() },
        root_fs: json::RootFs {
            r#type: "layers".to_owned(),
            layers: image.layers.iter().map(|layer| layer.diff_id.to_string()).collect(),
        },
        metadata: json::ImageMetadata { last_tag_time: "0001-01-01T00:00:00Z".to_owned() },
        variant: image.platform.variant.clone(),
    }
}

/// One step of a removal.
#[must_use]
pub fn removed(step: &Removed) -> json::ImageDelete {
    match step {
        Removed::Untagged(name) => {
            json::ImageDelete { untagged: name.clone(), ..json::ImageDelete::default() }
        }
        Removed::Deleted(digest) => {
            json::ImageDelete { deleted: digest.to_string(), ..json::ImageDelete::default() }
        }
    }
}

/// What a registry says about an image.
#[must_use]
pub fn distribution(found: &Distribution) -> json::DistributionInspect {
    json::DistributionInspect {
        descriptor: json::Descriptor {
            media_type: found.media_type.clone(),
            digest: found.digest.to_string(),
            size: int(found.size),
        },
        platforms: found
            .platforms
            .iter()
            .map(|platform| json::OciPlatform {
                architecture: platform.architecture.clone(),
                os: platform.os.clone(),
                variant: platform.variant.clone(),
                os_version: String::new(),
            })
            .collect(),
    }
}

/// A line of a pull's progress.
#[must_use]
pub fn progress(event: &PullEvent) -> ProgressMessage {
    ProgressMessage {
        status: event.status.clone(),
        id: event.id.clone().unwrap_or_default(),
        // Clients draw a bar where this is, even an empty one.
        progress_detail: event
            .progress
            .map(|(done, all)| ProgressDetail { current: int(done), total: int(all) }),
        ..ProgressMessage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_images() {
        assert_eq!(seconds("1970-01-01T00:01:00Z"), 60);
        assert_eq!(seconds("2026-11-22T10:00:00.123456789+01:00"), 1_795_338_000);
        assert_eq!(seconds("yesterday"), 0);
    }
}
