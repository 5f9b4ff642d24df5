//! Placement constraints: `key==value` and `key!=value` (swarmkit `manager/constraint`).

use std::net::IpAddr;

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
            "node.ip" => address_fits(self.value, &node.address) == Some(self.equal),
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

/// Whether an address is the one that is wanted, or in the block that is; `None` where neither is
/// written.
fn address_fits(wanted: &str, found: &str) -> Option<bool> {
    let found: Option<IpAddr> = found.parse().ok();
    if let Ok(wanted) = wanted.parse::<IpAddr>() {
        return Some(found == Some(wanted));
    }
    let (base, prefix) = wanted.split_once('/')?;
    let (base, prefix): (IpAddr, u32) = (base.parse().ok()?, prefix.parse().ok()?);
    let same = |base: u128, found: u128, bits: u32| {
        (base ^ found).checked_shr(bits.saturating_sub(prefix)).unwrap_or(0) == 0
    };
    let bits = if base.is_ipv4() { 32 } else { 128 };
    (prefix <= bits).then_some(match (base, found) {
        (IpAddr::V4(base), Some(IpAddr::V4(found))) => {
            same(u32::from(base).into(), u32::from(found).into(), bits)
        }
        (IpAddr::V6(base), Some(IpAddr::V6(found))) => same(base.into(), found.into(), bits),
        (_, _) => false,
    })
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
    use crate::logic::fixture;

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

    #[test]
    fn a_node_fulfils_or_not() {
        let labels = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        let mut node = fixture::node(7);
        node.spec.labels = labels("Zone", "East");
        node.description.engine_labels = labels("disk", "ssd");
        node.description.hostname = "pi".to_owned();
        node.description.platform.os = "linux".to_owned();
        node.description.platform.arch = "arm64".to_owned();
        node.spec.role = Role::Manager;
        node.address = "10.1.2.3".to_owned();
        for (text, fulfilled) in [
            ("node.id==0000000000000000000000007", true),
            ("node.id!=0000000000000000000000007", false),
            ("node.hostname==PI", true),
            ("node.hostname == pi", true),
            ("node.hostname!=other", true),
            ("node.role==manager", true),
            ("NODE.ROLE!=worker", true),
            ("node.role==worker", false),
            ("node.platform.os==linux", true),
            ("node.platform.arch==aarch64", true),
            ("node.platform.arch==arm64", true),
            ("node.platform.arch!=x86_64", true),
            ("node.labels.Zone==east", true),
            ("node.labels.Zone!=east", false),
            // Keys of labels are compared with case, and what is not there is empty.
            ("node.labels.zone==east", false),
            ("node.labels.zone!=east", true),
            ("engine.labels.disk==ssd", true),
            ("engine.labels.disk==hdd", false),
            ("node.ip==10.1.2.3", true),
            ("node.ip!=10.1.2.3", false),
            ("node.ip==10.1.2.4", false),
            ("node.ip==10.1.0.0/16", true),
            ("node.ip!=10.1.0.0/16", false),
            ("node.ip==10.2.0.0/16", false),
            ("node.ip==0.0.0.0/0", true),
            ("node.ip==10.1.2.3/32", true),
            ("node.ip==fd00::/8", false),
            // Neither an address nor a block: fulfilled nowhere.
            ("node.ip!=10.1.0.0/33", false),
            ("node.ip!=here", false),
            ("node.unknown==x", false),
            ("node.unknown!=x", false),
        ] {
            let constraint = Constraint::parse(text).expect(text);
            assert_eq!(constraint.matches(&node), fulfilled, "{text}");
        }
    }
}
