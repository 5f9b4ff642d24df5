//! One request as handlers see it, whoever parsed it.

use std::io::Read;

use serde::de::DeserializeOwned;

use super::errors::ApiError;
use super::query::{Query, decode};
use super::version::{API_VERSION, ApiVersion, split};

/// Bytes of a JSON body that are read at most; the front lets no more in.
const JSON_BYTES_MAX: u64 = 4 << 20;

/// A request.
pub struct Call<'a> {
    /// Method, as sent.
    pub method: String,
    /// Version of the API that the client speaks.
    pub version: ApiVersion,
    /// Decoded, without the version.
    pub path: String,
    /// Parameters.
    pub query: Query,
    /// Number of the client's connection in the front.
    pub connection: u64,
    headers: Vec<(String, String)>,
    body: &'a mut dyn Read,
}

impl<'a> Call<'a> {
    /// A request whose target is not known yet.
    pub fn new(method: String, headers: Vec<(String, String)>, body: &'a mut dyn Read) -> Self {
        Self {
            method,
            version: API_VERSION,
            path: String::new(),
            query: Query::default(),
            connection: 0,
            headers,
            body,
        }
    }

    /// Parses path and query.
    ///
    /// # Errors
    /// When the version is not spoken or the coding is broken.
    pub fn set_target(&mut self, target: &str) -> Result<(), ApiError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (version, path) = split(path)?;
        self.version = version;
        self.path = decode(path, false)?;
        self.query = Query::parse(query)?;
        Ok(())
    }

    /// A header's value; empty when it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The body, to be read in pieces.
    pub fn body(&mut self) -> &mut dyn Read {
        self.body
    }

    /// The body as JSON; the default when there is none.
    ///
    /// # Errors
    /// With Docker's text when it is not JSON of that shape.
    pub fn json<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        let mut bytes = Vec::new();
        let read = self.body.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| ApiError::invalid(format!("reading the request's body: {error}")))?;
        if bytes.len() as u64 > JSON_BYTES_MAX {
            return Err(ApiError::new(413, "the request's body is too large"));
        }
        let content_type = self.header("Content-Type").split(';').next().unwrap_or("").trim();
        if bytes.is_empty() && content_type.is_empty() {
            return Ok(T::default());
        }
        if !content_type.eq_ignore_ascii_case("application/json") {
            return Err(ApiError::invalid(format!(
                "unsupported Content-Type header ({content_type}): must be 'application/json'"
            )));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::invalid("invalid JSON: got EOF while reading request body"));
        }
        // Every body is an object; serde would fill its fields from an array, too.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(ApiError::invalid("invalid JSON: an object is expected, not an array"));
        }
        let mut values = serde_json::Deserializer::from_slice(&bytes);
        let value =
            T::deserialize(&mut values).map_err(|e| ApiError::invalid(format!("invalid JSON: {e}")))?;
        values.end().map_err(|_more| ApiError::invalid("unexpected content after JSON"))?;
        Ok(value)
    }
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({} {})", self.method, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::engine::volume::VolumeCreate;

    fn parse(content_type: &str, body: &str) -> Result<VolumeCreate, String> {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        let mut bytes = body.as_bytes();
        Call::new("POST".to_owned(), headers, &mut bytes).json().map_err(|e| e.message)
    }

    #[test]
    fn bodies_that_are_no_json_get_dockers_words() {
        let json = "application/json";
        assert_eq!(parse(json, r#"{"Name":"x"}"#).unwrap().name, "x");
        assert_eq!(parse("application/json; charset=utf-8", "{}"), Ok(VolumeCreate::default()));
        assert_eq!(
            parse(json, ""),
            Err("invalid JSON: got EOF while reading request body".to_owned())
        );
        assert_eq!(parse(json, "{} {}"), Err("unexpected content after JSON".to_owned()));
        assert_eq!(
            parse("text/plain", "{}"),
            Err("unsupported Content-Type header (text/plain): must be 'application/json'"
                .to_owned())
        );
        let text = parse(json, r#"{"Name": 7}"#).unwrap_err();
        assert!(text.starts_with("invalid JSON: "), "{text}");
        assert!(parse(json, &"[".repeat(100_000)).is_err());
        assert!(parse(json, &"{\"Labels\":".repeat(100_000)).is_err());
        for array in ["[]", " \n[]", r#"["x"]"#] {
            let text = "invalid JSON: an object is expected, not an array";
            assert_eq!(parse(json, array), Err(text.to_owned()));
        }
    }
}
