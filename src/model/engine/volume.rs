//! Volumes as the Engine API shows them.

use super::{Labels, engine};

engine! {
    /// A named directory of this node.
    Volume {
        always {
            name: String,
            driver: String,
            mountpoint: String,
            labels: Labels,
            scope: String,
            options: Labels,
        }
        omit { created_at: String, usage_data: Option<UsageData> }
    }

    /// How much a volume holds and by how many containers it is used; −1 is not known.
    UsageData {
        always { size: i64, ref_count: i64 }
    }

    /// `GET /volumes`.
    VolumeList {
        always { volumes: Vec<Volume>, warnings: Vec<String> }
    }

    /// The body of `POST /volumes/create`.
    VolumeCreate {
        omit { name: String, driver: String, driver_opts: Labels, labels: Labels }
    }

    /// The answer to `POST /volumes/prune`.
    VolumesPruneReport {
        always { volumes_deleted: Vec<String>, space_reclaimed: u64 }
    }
}
