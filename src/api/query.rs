//! Paths and queries: percent coding, parameters, Docker's booleans and filters. Pure.

use std::collections::BTreeMap;

use super::errors::ApiError;

/// Most parameters that are looked at.
const PARAMETERS_MAX: usize = 64;

/// A parsed query; of a name given twice the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Parses what follows the `?`.
    ///
    /// # Errors
    /// When the percent coding is broken, is not UTF-8, or there are too many parameters.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if pairs.len() == PARAMETERS_MAX {
                return Err(ApiError::invalid("too many parameters in the query"));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name, true)?, decode(value, true)?));
        }
        Ok(Self { pairs })
    }

    /// The parameter's text; empty when it is missing.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.pairs.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Docker's booleans: anything but nothing, `0`, `no`, `false` and `none` is true.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        let value = self.text(name).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// The filters, of which only those of `known` are accepted.
    ///
    /// # Errors
    /// When they are no JSON of filters, or one is not known.
    pub fn filters(&self, known: &[&str]) -> Result<Filters, ApiError> {
        Filters::parse(self.text("filters"), known)
    }
}

/// Turns `%41` into `A`, and in queries `+` into a blank.
///
/// # Errors
/// When a `%` is not followed by two hexadecimal digits, or the result is not UTF-8.
pub fn decode(text: &str, plus: bool) -> Result<String, ApiError> {
    let bad = || ApiError::invalid(format!("invalid URL escape in {text:?}"));
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
                out.push(u8::try_from(high << 4 | low).map_err(|_large| bad())?);
            }
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_err(|_not_utf8| bad())
}

/// Filters of a list; a value matches any of one name, and all names must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    values: BTreeMap<String, Vec<String>>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Wire {
    Sets(BTreeMap<String, BTreeMap<String, bool>>),
    Lists(BTreeMap<String, Vec<String>>),
}

impl Filters {
    fn parse(text: &str, known: &[&str]) -> Result<Self, ApiError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let wire = serde_json::from_str(text)
            .map_err(|_no_filters| ApiError::invalid("invalid filter: not a JSON map of filters"))?;
        let values: BTreeMap<String, Vec<String>> = match wire {
            Wire::Lists(lists) => lists,
            Wire::Sets(sets) => sets
                .into_iter()
                .map(|(name, set)| {
                    (name, set.into_iter().filter(|(_, on)| *on).map(|(value, _)| value).collect())
                })
                .collect(),
        };
        if let Some(name) = values.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(ApiError::invalid(format!("invalid filter '{name}'")));
        }
        Ok(Self { values })
    }

    /// The values given for a name.
    #[must_use]
    pub fn values(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// True when nothing is given for the name, or `matches` holds for one of its values.
    pub fn any(&self, name: &str, matches: impl FnMut(&str) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().map(String::as_str).any(matches)
    }

    /// As [`any`](Self::any), where a value is compared as it is.
    #[must_use]
    pub fn exact(&self, name: &str, value: &str) -> bool {
        self.any(name, |wanted| wanted == value)
    }

    /// As [`any`](Self::any), where a value is a beginning.
    #[must_use]
    pub fn prefix(&self, name: &str, value: &str) -> bool {
        self.any(name, |wanted| value.starts_with(wanted))
    }

    /// True when all of `label=KEY` and `label=KEY=VALUE` hold.
    #[must_use]
    pub fn labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(name).iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|is| is == value),
            None => labels.contains_key(wanted),
        })
    }

    /// Docker's boolean filters: `None` when it is not given.
    ///
    /// # Errors
    /// With Docker's text when the value is no boolean.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let mut found = None;
        for value in self.values(name) {
            found = Some(match value.as_str() {
                "1" | "true" | "True" | "TRUE" => true,
                "0" | "false" | "False" | "FALSE" => false,
                _ => return Err(ApiError::invalid(format!("invalid filter '{name}=[{value}]'"))),
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_of_filters() {
        for text in [
            "filters=%7B%22name%22%3A%7B%22web%22%3Atrue%2C%22off%22%3Afalse%7D%7D",
            "filters={\"name\":[\"web\"]}",
        ] {
            let filters = Query::parse(text).unwrap().filters(&["name"]).unwrap();
            assert_eq!(filters.values("name"), ["web"]);
            assert!(filters.exact("name", "web") && filters.prefix("name", "website"));
            assert!(!filters.exact("name", "website") && filters.exact("id", "any"));
        }
        let error = Query::parse("filters={\"x\":[\"y\"]}").unwrap().filters(&[]).unwrap_err();
        assert_eq!(error, ApiError::invalid("invalid filter 'x'"));
        assert!(Query::parse("filters=[1]").unwrap().filters(&[]).is_err());
    }

    #[test]
    fn labels_and_flags() {
        let query = Query::parse("a=True&b=0&c=None&d&e=x&f=a%20b+c&label=1").unwrap();
        assert!(query.flag("a") && query.flag("e"));
        assert!(!query.flag("b") && !query.flag("c") && !query.flag("d") && !query.flag("zz"));
        assert_eq!(query.text("f"), "a b c");
        let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let filters = Filters::parse("{\"label\":[\"k\",\"k=v\"]}", &["label"]).unwrap();
        assert!(filters.labels("label", &labels));
        let filters = Filters::parse("{\"label\":[\"k=w\"]}", &["label"]).unwrap();
        assert!(!filters.labels("label", &labels));
        assert!(Query::parse("a=%4").is_err() && Query::parse("a=%FF").is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in ".{0,200}") {
            if let Ok(query) = Query::parse(&text) {
                prop_assert!(query.filters(&[]).is_err() || query.text("filters").len() < 3);
            }
            prop_assert_eq!(Filters::parse(&text, &["name"]), Filters::parse(&text, &["name"]));
        }
    }
}
