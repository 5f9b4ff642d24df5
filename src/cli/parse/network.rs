//! `--network NAME` and `--network name=…,alias=…,driver-opt=k=v`.

use super::csv;
use crate::model::engine::task::NetworkAttachmentConfig;

/// A network that the service's tasks are attached to.
pub fn parse(text: &str) -> Result<NetworkAttachmentConfig, String> {
    let mut network = NetworkAttachmentConfig::default();
    if !is_long(text) {
        text.clone_into(&mut network.target);
        return Ok(network);
    }
    for field in csv::fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key.trim().to_lowercase(), value.trim()),
            _ => return Err(format!("invalid field {field}")),
        };
        match key.as_str() {
            "name" => value.clone_into(&mut network.target),
            "alias" => network.aliases.push(value.to_owned()),
            "driver-opt" => {
                let Some((key, value)) = value.split_once('=') else {
                    return Err("invalid key value pair format in driver options".to_owned());
                };
                network.driver_opts.insert(key.to_lowercase(), value.to_owned());
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if network.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(network)
}

/// Whether somewhere a word, `=` and a word follow each other: Docker's test for the long form.
pub(super) fn is_long(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('=').any(|(at, _)| {
        text[..at].chars().next_back().is_some_and(word)
            && text[at + 1..].chars().next().is_some_and(word)
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn both_forms() {
        assert_eq!(parse("front").unwrap().target, "front");
        let network = parse("name=n,alias=a,alias=b,driver-opt=k=v").unwrap();
        assert_eq!((network.target.as_str(), network.aliases.len()), ("n", 2));
        assert_eq!(network.driver_opts["k"], "v");
        assert_eq!(parse("a=b,c").unwrap_err(), "invalid field key a");
        assert_eq!(parse("alias=c").unwrap_err(), "network name/id is not specified");
    }
}
