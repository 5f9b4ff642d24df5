//! Placement constraints: `key==value` and `key!=value` (swarmkit `manager/constraint`).

use crate::model::node::{Node, Role};

/// A constraint that cannot be read. `Display` is swarm's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadConstraint {
    /// Neither `==` nor `!=`.
    #[error("constraint expected one operator from ==, !=")]
    Operator,
    /// A key that is no word.
    #[error("key '{0}' is invalid")]
    Key(String),
    /// A value with characters that no label has.
    #[error("value '{0}' is invalid")]
    Value(String),
}

/// One constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint<'a> {
    key: &'a str,
    equal: bool,
    value: &'a str,
}

impl<'a> Constraint<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// With swarm's text when it is none.
    pub fn parse(text: &'a str) -> Result<Self, BadConstraint> {
        let (key, equal, value) = match (text.split_once("=="), text.split_once("!=")) {
            (Some((key, value)), None) => (key, true, value),
            (None, Some((key, value))) => (key, false, value),
            (Some(equal), Some(not)) if equal.0.len() < not.0.len() => (equal.0, true, equal.1),
            (Some(_), Some(not)) => (not.0, false, not.1),
            (None, None) => return Err(BadConstraint::Operator),
        };
        let (key, value) = (key.trim(), value.trim());
        let word = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let starts = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if key.len() < 2 || !starts || !key.chars().all(word) {
            return Err(BadConstraint::Key(key.to_owned()));
        }
        let legal = |c: char| {
            c.is_ascii_alphanumeric() || c.is_whitespace() || ":-_.*()?+[]\\^$|/".contains(c)
        };
        if value.is_empty() || !value.chars().all(legal) {
            return Err(BadConstraint::Value(value.to_owned()));
        }
        Ok(Self { key, equal, value })
    }

    /// Whether the node fulfils it. A label that is not there compares as empty; a key that is not
    /// known is fulfilled nowhere.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        let is = |found: &str| found.eq_ignore_ascii_case(self.value) == self.equal;
        let label = |labels: &crate::model::service::Labels, key: &str| {
            is(labels.get(key).map_or("", String::as_str))
        };
        let lower = self.key.to_ascii_lowercase();
        let description = &node.description;
        match lower.as_str() {
            "node.id" => is(&node.id.to_string()),
            "node.hostname" => is(&description.hostname),
            "node.ip" => is(&node.address),
            "node.role" => is(match node.spec.role {
                Role::Worker => "worker",
                Role::Manager => "manager",
            }),
            "node.platform.os" => is(&description.platform.os),
            "node.platform.arch" => {
                let arch = normal_arch(&description.platform.arch);
                arch.eq_ignore_ascii_case(normal_arch(self.value)) == self.equal
            }
            _ => {
                const NODE: &str = "node.labels.";
                const ENGINE: &str = "engine.labels.";
                if lower.starts_with(NODE) {
                    label(&node.spec.labels, &self.key[NODE.len()..])
                } else if lower.starts_with(ENGINE) {
                    label(&description.engine_labels, &self.key[ENGINE.len()..])
                } else {
                    false
                }
            }
        }
    }
}

/// One word for each architecture.
#[must_use]
pub fn normal_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_read_or_refused_with_swarms_text() {
        let good = Constraint::parse("node.labels.zone == x").unwrap();
        assert_eq!(good, Constraint { key: "node.labels.zone", equal: true, value: "x" });
        assert!(!Constraint::parse("node.role!=manager").unwrap().equal);
        for (bad, text) in [
            ("foo", "constraint expected one operator from ==, !="),
            ("==x", "key '' is invalid"),
            ("node.id==", "value '' is invalid"),
            ("no de==x", "key 'no de' is invalid"),
        ] {
            assert_eq!(Constraint::parse(bad).unwrap_err().to_string(), text, "{bad}");
        }
    }
}
