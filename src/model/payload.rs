//! What tasks are given as files: secrets and configs, and how a container names one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::object::Meta;
use super::service::Labels;
use crate::base::id::{ConfigId, SecretId};

/// Bytes of a secret (swarmkit `api/validation/secrets.go`).
pub const SECRET_BYTES_MAX: usize = 500 << 10;

/// Bytes of a config (swarmkit `manager/controlapi/config.go`).
pub const CONFIG_BYTES_MAX: usize = 1_000 << 10;

/// A secret as the store holds it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The secret's id.
    pub id: SecretId,
    /// Version and times.
    pub meta: Meta,
    /// Unique among the secrets.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// At most [`SECRET_BYTES_MAX`]; the API never tells them.
    pub data: Vec<u8>,
    /// The data is a template (driver `golang`).
    pub templating: bool,
}

impl fmt::Debug for Secret {
    /// Without the data: what is logged is read by others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A config as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The config's id.
    pub id: ConfigId,
    /// Version and times.
    pub meta: Meta,
    /// Unique among the configs.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// At most [`CONFIG_BYTES_MAX`].
    pub data: Vec<u8>,
    /// The data is a template (driver `golang`).
    pub templating: bool,
}

/// A secret or config that a container has as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef<Id> {
    /// Which.
    pub id: Id,
    /// Its name when the spec was made.
    pub name: String,
    /// The file: an absolute path, or one below `/run/secrets` (secrets) or `/` (configs).
    pub file: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, as in `chmod`.
    pub mode: u32,
}

#[cfg(test)]
mod tests {
    use crate::model::object::Object;
    use crate::model::sample;

    #[test]
    fn a_secret_is_not_shown_by_a_message() {
        let secret = sample::objects().remove(5);
        assert!(matches!(&secret, Object::Secret(it) if it.data == b"secret"));
        let text = format!("{secret:?}");
        assert_eq!(text, "Secret(Secret { id: 0000000000000000000000006, name: \"key\", .. })");
    }
}
