//! Service names: one DNS label.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest service name, in bytes (RFC 1035 section 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

/// A service's name: letters, digits and hyphens (a dot or underscore inside is allowed, as swarm
/// does), beginning and ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Docker's text for a name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing given.
    #[error("meta: name must be provided")]
    Empty,
    /// Too long.
    #[error("name must be 63 characters or fewer")]
    Long,
    /// Characters that no host name may have.
    #[error("name must be valid as a DNS name component")]
    Characters,
}

impl Name {
    /// Parses a name.
    ///
    /// # Errors
    /// With swarm's text when the name is empty, longer than [`NAME_BYTES_MAX`] or no DNS label.
    pub fn new(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        let alnum = |byte: &u8| byte.is_ascii_alphanumeric();
        let bytes = text.as_bytes();
        let inner = bytes.iter().all(|byte| alnum(byte) || matches!(byte, b'-' | b'_' | b'.'));
        if !inner || !bytes.first().is_some_and(alnum) || !bytes.last().is_some_and(alnum) {
            return Err(BadName::Characters);
        }
        if bytes.len() > NAME_BYTES_MAX {
            return Err(BadName::Long);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "web", "web-1", "a_b", "A.b", &"x".repeat(63)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        assert_eq!(Name::new(""), Err(BadName::Empty));
        assert_eq!(Name::new(&"x".repeat(64)), Err(BadName::Long));
        for bad in ["-a", "a-", "a b", "a/b", "ä", "a\n"] {
            assert_eq!(Name::new(bad), Err(BadName::Characters), "{bad}");
        }
    }
}
