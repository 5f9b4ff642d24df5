//! Who one is at a registry: credentials, and the challenges that registries answer with.

use std::collections::VecDeque;
use std::fmt;

/// What the user logged in with. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password, or name and access token.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: String,
    },
    /// A refresh token that the registry's token service gave.
    Identity(String),
    /// A bearer token for the registry itself.
    Registry(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Basic { .. } => "Basic",
            Self::Identity(_) => "Identity",
            Self::Registry(_) => "Registry",
        };
        write!(f, "Credentials::{kind}(…)")
    }
}

/// Repositories whose credentials are kept; the ones given first go for the ones given last.
const KEPT_MAX: usize = 256;

/// Credentials that came with a service, for the pulls of its tasks on this node. In memory alone: they
/// are written nowhere, reach no other node, and are forgotten when the daemon ends.
#[derive(Debug, Default)]
pub(super) struct Kept(VecDeque<(String, Credentials)>);

impl Kept {
    /// Keeps them for a repository, `registry/path`, instead of what was there.
    pub(super) fn put(&mut self, repository: &str, credentials: Credentials) {
        self.0.retain(|(name, _)| name != repository);
        if self.0.len() >= KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((repository.to_owned(), credentials));
    }

    pub(super) fn get(&self, repository: &str) -> Option<&Credentials> {
        self.0.iter().find(|(name, _)| name == repository).map(|(_, credentials)| credentials)
    }
}

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The first challenge of a `WWW-Authenticate` header that is understood.
pub(super) fn read_challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (key, value) in Parameters(rest) {
        match key.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// `key="value", key=value`.
struct Parameters<'a>(&'a str);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a str, String);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0.trim_start_matches([' ', ',', '\t']);
        let (key, rest) = rest.split_once('=')?;
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find(',').unwrap_or(rest.len());
            self.0 = &rest[end..];
            return Some((key.trim(), rest[..end].trim().to_owned()));
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.0 = &quoted[at + 1..];
                    return Some((key.trim(), value));
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        None
    }
}

/// The value of an `Authorization` header for a name and a password.
pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{username}:{password}").as_bytes()))
}

/// A value as it may stand in a query or a form.
pub(super) fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = [0u8; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for place in 0..4usize {
            let digit = (word >> (18 - 6 * place)) & 63;
            let is_padding = place > chunk.len();
            out.push(if is_padding { '=' } else { char::from(DIGITS[digit as usize]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull,push""#;
        assert_eq!(
            read_challenge(header),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".to_owned(),
                service: Some("registry.docker.io".to_owned()),
                scope: Some("repository:library/nginx:pull,push".to_owned()),
            })
        );
        let odd = read_challenge("bearer  realm=http://x/token , service=\"a \\\"b\\\"\"");
        let Some(Challenge::Bearer { realm, service, scope: None }) = odd else { panic!("{odd:?}") };
        assert_eq!((realm.as_str(), service.as_deref()), ("http://x/token", Some("a \"b\"")));
        assert_eq!(read_challenge("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(read_challenge("Basic"), Some(Challenge::Basic));
        for text in ["", "Digest x=y", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"x"] {
            assert_eq!(read_challenge(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_credentials_of_a_repository_count_and_few_are_kept() {
        let mut kept = Kept::default();
        let of = |n: usize| Credentials::Identity(n.to_string());
        kept.put("r/a", of(1));
        kept.put("r/b", of(2));
        kept.put("r/a", of(3));
        assert_eq!((kept.get("r/a"), kept.get("r/b")), (Some(&of(3)), Some(&of(2))));
        assert_eq!(kept.get("r"), None);
        for n in 0..KEPT_MAX - 1 {
            kept.put(&format!("other/{n}"), of(n));
        }
        assert_eq!((kept.get("r/a"), kept.get("r/b")), (Some(&of(3)), None), "the oldest goes");
    }

    #[test]
    fn headers_and_queries_are_encoded() {
        for (plain, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), want);
        }
        assert_eq!(basic("Aladdin", "open sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(percent("a/b:c d~é"), "a%2Fb%3Ac%20d~%C3%A9");
        let shown = format!("{:?}", Credentials::Identity("secret".to_owned()));
        assert!(!shown.contains("secret"));
    }
}
