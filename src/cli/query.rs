//! Filters in the Engine API's form, and the few look-ups that many commands share.

use std::collections::BTreeMap;

use super::CliError;
use super::client::{Client, encode};
use super::parse::value::Filter;
use crate::model::engine::system::Info;

/// `filters=…` of a query: `{"key":{"value":true}}`.
#[derive(Clone, Debug, Default)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

impl Filters {
    /// From `-f key=value` as often as it was given.
    #[must_use]
    pub fn new(given: &[Filter]) -> Self {
        given.iter().fold(Self::default(), |filters, (key, value)| filters.with(key, value))
    }

    /// One more.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned(), true);
        self
    }

    /// The values of one key; they are removed.
    pub fn take(&mut self, key: &str) -> Vec<String> {
        self.0.remove(key).unwrap_or_default().into_keys().collect()
    }

    /// `?filters=…` behind a path, or `&filters=…` where there is a query.
    pub fn on(&self, path: &str) -> Result<String, CliError> {
        if self.0.is_empty() {
            return Ok(path.to_owned());
        }
        let json = serde_json::to_string(&self.0).map_err(CliError::BadJson)?;
        let mark = if path.contains('?') { '&' } else { '?' };
        Ok(format!("{path}{mark}filters={}", encode(&json)))
    }
}

/// The id of the node that answers, for `self`; any other name is returned as it is.
pub fn node_reference(client: &Client, name: &str) -> Result<String, CliError> {
    if name != "self" {
        return Ok(name.to_owned());
    }
    let info: Info = client.get("/info")?;
    if info.swarm.node_id.is_empty() {
        // Asking for any node makes the daemon say why there is none.
        client.get_text("/nodes/self")?;
    }
    Ok(info.swarm.node_id)
}

/// An image without its digest, where it has a tag: as tables show it.
#[must_use]
pub fn tagged(image: &str) -> &str {
    match image.split_once('@') {
        Some((name, _)) if has_tag(name) => name,
        _ => image,
    }
}

/// Whether the last part of an image's name carries a tag.
#[must_use]
pub fn has_tag(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// At most `length` letters, the last one `…` where something was cut.
#[must_use]
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

/// The first letter in upper case.
#[must_use]
pub fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The first 12 characters of an id.
#[must_use]
pub fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers_json() {
        let filters = Filters::new(&[("name".into(), "a".into()), ("name".into(), "b".into())]);
        assert_eq!(
            filters.on("/tasks").unwrap(),
            "/tasks?filters=%7B%22name%22%3A%7B%22a%22%3Atrue%2C%22b%22%3Atrue%7D%7D"
        );
        assert!(filters.on("/services?status=true").unwrap().contains("true&filters="));
        assert_eq!(Filters::default().on("/tasks").unwrap(), "/tasks");
    }

    #[test]
    fn digests_are_hidden_only_behind_tags() {
        assert_eq!(tagged("h:5000/web:1@sha256:ab"), "h:5000/web:1");
        assert_eq!(tagged("h:5000/web@sha256:ab"), "h:5000/web@sha256:ab");
        assert_eq!(ellipsis("No such image: 10.77.0.1:5000/bb", 30), "No such image: 10.77.0.1:5000…");
    }
}
