//! Images as the Engine API shows them.

use super::container_spec::HealthConfig;
use super::{Empty, Labels, engine};
use std::collections::BTreeMap;

engine! {
    /// One line of `GET /images/json`.
    ImageSummary {
        always {
            id: String,
            parent_id: String,
            repo_tags: Vec<String>,
            repo_digests: Vec<String>,
            /// Seconds since 1970.
            created: i64,
            size: i64,
            shared_size: i64,
            labels: Labels,
            containers: i64,
        }
    }

    /// `GET /images/{name}/json`.
    ImageInspect {
        always {
            id: String,
            repo_tags: Vec<String>,
            repo_digests: Vec<String>,
            parent: String,
            comment: String,
            created: String,
            docker_version: String,
            author: String,
            config: ImageConfig,
            architecture: String,
            os: String,
            size: i64,
            graph_driver: GraphDriver,
            root_fs: RootFs = "RootFS",
            metadata: ImageMetadata,
        }
        omit { variant: String }
    }

    /// What an image says about its containers.
    ImageConfig {
        always {
            env: Vec<String>,
            cmd: Vec<String>,
            entrypoint: Vec<String>,
            labels: Labels,
            working_dir: String,
            user: String,
        }
        omit {
            exposed_ports: BTreeMap<String, Empty>,
            volumes: BTreeMap<String, Empty>,
            stop_signal: String,
            healthcheck: Option<HealthConfig>,
        }
    }

    /// How layers are put together.
    GraphDriver {
        always { name: String, data: Labels }
    }

    /// The uncompressed layers' digests.
    RootFs {
        always { r#type: String }
        omit { layers: Vec<String> }
    }

    /// What the engine knows beyond the image.
    ImageMetadata {
        always { last_tag_time: String }
    }

    /// One step of a removal.
    ImageDelete {
        omit { untagged: String, deleted: String }
    }

    /// The answer to `POST /images/prune`.
    ImagesPruneReport {
        always { images_deleted: Vec<ImageDelete>, space_reclaimed: u64 }
    }

    /// `GET /distribution/{name}/json`.
    DistributionInspect {
        always { descriptor: Descriptor, platforms: Vec<OciPlatform> }
    }

    /// A blob of a registry.
    Descriptor {
        always { media_type: String = "mediaType", digest: String = "digest", size: i64 = "size" }
    }

    /// A kind of machine in OCI's words.
    OciPlatform {
        always { architecture: String = "architecture", os: String = "os" }
        omit { variant: String = "variant", os_version: String = "os.version" }
    }

    /// What `X-Registry-Auth` carries, base64url.
    AuthConfig {
        omit {
            username: String = "username",
            password: String = "password",
            auth: String = "auth",
            serveraddress: String = "serveraddress",
            identitytoken: String = "identitytoken",
            registrytoken: String = "registrytoken",
        }
    }
}
