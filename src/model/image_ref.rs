//! Image references in Docker's grammar: `nginx`, `nginx:alpine`, `pi-1:5000/a/b:v1@sha256:…`.
//!
//! A [`Reference`] is always normalised: `nginx` is `docker.io/library/nginx`. What people see is
//! the familiar form. Not here: what a reference points to (`host::images` asks for that).
//! Invariants: [`Reference::parse`] of either shown form gives the same reference again; a name
//! of 64 hex digits, which would be taken for an image id, is never a reference.

use std::fmt;
use std::str::FromStr;

use super::digest::{BadDigest, Digest};

/// The registry of names that name none.
pub const DEFAULT_DOMAIN: &str = "docker.io";

/// The tag of names that name none.
pub const DEFAULT_TAG: &str = "latest";

/// The longest name, domain left out.
pub const NAME_CHARS_MAX: usize = 255;

/// The longest tag.
pub const TAG_CHARS_MAX: usize = 128;

/// The image that the program packs of itself; no registry is asked for it.
pub const HELLO_NAME: &str = "docker.io/skep/hello";

const OFFICIAL_PREFIX: &str = "library/";
const LEGACY_DOMAIN: &str = "index.docker.io";

/// A normalised reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a reference; the texts are Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// Capitals in the name.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Looks like an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// Longer than [`NAME_CHARS_MAX`].
    #[error("repository name must not be more than {NAME_CHARS_MAX} characters")]
    TooLong,
    /// The digest after `@` is none.
    #[error("{0}")]
    Digest(BadDigest),
}

impl Reference {
    /// Parses either form and normalises it; neither tag nor digest is added.
    ///
    /// # Errors
    /// The text is not a reference.
    pub fn parse(text: &str) -> Result<Self, BadReference> {
        if Digest::from_hex(text).is_some() {
            return Err(BadReference::LooksLikeId(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.to_lowercase() != remote {
            return Err(BadReference::Uppercase(remote.to_owned()));
        }
        if !is_domain(&domain) {
            return Err(BadReference::Format);
        }
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !path.split('/').all(is_component)
            || tag.is_some_and(|tag| !is_tag(tag))
            || digest.is_some_and(|digest| !has_digest_form(digest))
        {
            return Err(BadReference::Format);
        }
        if path.len() > NAME_CHARS_MAX {
            return Err(BadReference::TooLong);
        }
        let digest = digest.map(str::parse).transpose().map_err(BadReference::Digest)?;
        Ok(Self { domain, path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }

    /// The registry: `docker.io`, `pi-1:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on the registry: `library/nginx`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one is named.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is named.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Domain and path: `docker.io/library/nginx`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name as people write it: `nginx`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') && !is_domain_like(short) => short.to_owned(),
            _ if is_domain_like(self.path.split('/').next().unwrap_or_default()) => self.name(),
            _ => self.path.clone(),
        }
    }

    /// The whole normalised text: `docker.io/library/nginx:alpine`.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.with_suffix(self.name())
    }

    /// Adds `latest` where neither tag nor digest is named.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same name with this digest; the tag stays.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// The same name and tag without a digest.
    #[must_use]
    pub fn without_digest(mut self) -> Self {
        self.digest = None;
        self
    }

    /// The same name and digest without a tag.
    #[must_use]
    pub fn without_tag(mut self) -> Self {
        self.tag = None;
        self
    }

    /// Whether this names the image that the program packs of itself.
    #[must_use]
    pub fn is_hello(&self) -> bool {
        self.name() == HELLO_NAME
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    /// The familiar form: `nginx:alpine`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.familiar_name()))
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        Self::parse(text)
    }
}

/// Docker's rule for where the domain ends: the first component is one when it is `localhost`,
/// has a dot, a colon or a capital.
fn split_domain(text: &str) -> (String, String) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_DOMAIN.to_owned(), format!("{OFFICIAL_PREFIX}{text}"));
    };
    let (domain, remote) = match first {
        LEGACY_DOMAIN | DEFAULT_DOMAIN => (DEFAULT_DOMAIN, rest),
        _ if is_domain_like(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !remote.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL_PREFIX}{remote}"));
    }
    (domain.to_owned(), remote.to_owned())
}

fn is_domain_like(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.to_lowercase() != text
}

/// Host name or address with an optional port.
fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(is_alnum) || !bytes.last().is_some_and(is_alnum) {
        return false;
    }
    bytes.split(is_alnum).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
fn is_tag(text: &str) -> bool {
    text.len() <= TAG_CHARS_MAX
        && !text.is_empty()
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `algorithm:hex` with at least 32 digits.
fn has_digest_form(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|b| b.is_ascii_alphanumeric())
    }) && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).canonical()
    }

    #[test]
    fn names_are_normalised_and_shown_familiar() {
        let hex = "a1".repeat(32);
        for (text, want, familiar) in [
            ("nginx", "docker.io/library/nginx", "nginx"),
            ("nginx:alpine", "docker.io/library/nginx:alpine", "nginx:alpine"),
            ("skep/hello", "docker.io/skep/hello", "skep/hello"),
            ("docker.io/nginx", "docker.io/library/nginx", "nginx"),
            ("index.docker.io/a/b", "docker.io/a/b", "a/b"),
            ("localhost/x", "localhost/x", "localhost/x"),
            ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
            (
                "pi-1:5000/a/b__c/d---e:V.1",
                "pi-1:5000/a/b__c/d---e:V.1",
                "pi-1:5000/a/b__c/d---e:V.1",
            ),
            ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
            ("UPPER/x", "UPPER/x", "UPPER/x"),
            ("ghcr.io/a.b/c", "ghcr.io/a.b/c", "ghcr.io/a.b/c"),
            ("docker.io/library/a.b/c", "docker.io/library/a.b/c", "library/a.b/c"),
        ] {
            assert_eq!(canonical(text), want, "{text}");
            assert_eq!(Reference::parse(text).unwrap().to_string(), familiar, "{text}");
        }
        let pinned = format!("nginx:1@sha256:{hex}");
        assert_eq!(canonical(&pinned), format!("docker.io/library/nginx:1@sha256:{hex}"));
        let plain = Reference::parse("nginx").unwrap().with_default_tag();
        assert_eq!(plain.to_string(), "nginx:latest");
        let pinned = Reference::parse(&pinned).unwrap();
        assert_eq!(pinned.clone().with_default_tag(), pinned);
    }

    #[test]
    fn refusals_have_dockers_words() {
        let hex = "a1".repeat(32);
        let check = |text: &str, want: &str| {
            assert_eq!(Reference::parse(text).unwrap_err().to_string(), want, "{text}");
        };
        for text in [
            "",
            "a//b",
            "-a",
            "a:",
            "a:b:c",
            "a@b",
            "a b",
            "a/b/",
            "/a",
            ":a",
            "a:.b",
            "a..b",
            "a___b",
            "a@sha256:abc",
            "http://a/b",
            "a:5000x/b",
            "-a.b/c",
            "[z]/x",
            "é",
        ] {
            check(text, "invalid reference format");
        }
        check("Foo", "invalid reference format: repository name (library/Foo) must be lowercase");
        check("a/Foo:x", "invalid reference format: repository name (a/Foo) must be lowercase");
        check(
            &hex,
            &format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings"),
        );
        check(&"a".repeat(300), "repository name must not be more than 255 characters");
        check(&format!("a@sha256:{}", "b".repeat(40)), "invalid checksum digest length");
        check(&format!("a@sha512:{}", "b".repeat(128)), "unsupported digest algorithm");
        check(&format!("a:{}", "t".repeat(129)), "invalid reference format");
    }

    proptest! {
        #[test]
        fn whatever_parses_round_trips_in_both_forms(
            text in "([a-zA-Z0-9.:-]{1,12}/)?[a-z0-9._/-]{1,24}(:[A-Za-z0-9_.-]{1,8})?(@sha256:[0-9a-f]{64})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.canonical()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.to_string()).unwrap(), &reference);
                prop_assert!(reference.path().len() <= NAME_CHARS_MAX);
                prop_assert!(!reference.path().contains(".."));
                prop_assert!(!reference.path().starts_with('/'));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(&Reference::parse(&reference.canonical()).unwrap(), &reference);
            }
        }
    }
}
