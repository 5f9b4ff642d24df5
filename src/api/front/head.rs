//! Heads of requests and responses: parsed, judged, rewritten. Pure.
//!
//! **Invariant.** What leaves [`RequestHead::to_upstream`] has exactly one framing, so the server
//! behind the front and the front itself never disagree about where a request ends.

use crate::api::query::Query;

/// Most headers of one message.
pub(super) const HEADERS_MAX: usize = 100;

/// Header by which a handler learns the number of its connection in the front.
pub const CONNECTION_HEADER: &str = "X-Skep-Connection";

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// A request's head, as far as the front is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    /// Method.
    pub(super) method: String,
    /// Path and query as sent.
    pub(super) target: String,
    /// 0 or 1, of HTTP/1.x.
    pub(super) minor: u8,
    /// End-to-end headers.
    pub(super) headers: Vec<(String, String)>,
    /// Where the body ends.
    pub(super) framing: Framing,
    /// The client wants another protocol on this connection.
    pub(super) upgrade: bool,
    /// The connection may serve another request.
    pub(super) keep_alive: bool,
}

/// A response's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    /// Status code.
    pub(super) status: u16,
    /// Where the body ends; `None` when only the end of the connection tells.
    pub(super) framing: Option<Framing>,
    /// The head for the client without `Connection` and the blank line.
    text: String,
}

/// Why a request cannot be taken. `Display` is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadError {
    /// Not HTTP/1.
    #[error("malformed HTTP request")]
    Malformed,
    /// More than [`HEADERS_MAX`].
    #[error("too many request headers: at most {HEADERS_MAX} are accepted")]
    TooMany,
    /// A header or the path holds bytes beyond ASCII.
    #[error("malformed HTTP request: the path or a header is not ASCII")]
    NotAscii,
    /// No or more than one way to tell where the body ends.
    #[error("malformed HTTP request: the body's length is not clear")]
    Framing,
    /// A transfer coding other than `chunked`.
    #[error("unsupported transfer encoding")]
    Coding,
    /// `Expect` with something else than `100-continue`.
    #[error("unsupported Expect header")]
    Expectation,
}

impl HeadError {
    /// The status to answer with.
    #[must_use]
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::Malformed | Self::NotAscii | Self::Framing => 400,
            Self::Expectation => 417,
            Self::TooMany => 431,
            Self::Coding => 501,
        }
    }
}

/// Parses a request's head; `None` while the blank line is missing, otherwise the head and its
/// length.
///
/// # Errors
/// When it is not a request that this server takes.
pub(super) fn parse_request(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooMany),
        Err(_) => return Err(HeadError::Malformed),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(HeadError::Malformed);
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(HeadError::NotAscii);
    }
    if !target.starts_with('/') {
        return Err(HeadError::Malformed);
    }
    let mut head = RequestHead {
        method: method.to_owned(),
        target: target.to_owned(),
        minor,
        headers: Vec::with_capacity(parsed.headers.len()),
        framing: Framing::None,
        upgrade: false,
        keep_alive: minor == 1,
    };
    let mut framing = None;
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim();
        if !value.is_ascii() {
            return Err(HeadError::NotAscii);
        }
        take_header(&mut head, &mut framing, header.name, value)?;
    }
    head.framing = framing.unwrap_or(Framing::None);
    Ok(Some((head, len)))
}

fn take_header(
    head: &mut RequestHead,
    framing: &mut Option<Framing>,
    name: &str,
    value: &str,
) -> Result<(), HeadError> {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    if is("Content-Length") {
        let plain = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let length = value.parse().ok().filter(|_| plain).ok_or(HeadError::Framing)?;
        if framing.replace(Framing::Length(length)).is_some() {
            return Err(HeadError::Framing);
        }
    } else if is("Transfer-Encoding") {
        if !value.eq_ignore_ascii_case("chunked") {
            return Err(HeadError::Coding);
        }
        if framing.replace(Framing::Chunked).is_some() {
            return Err(HeadError::Framing);
        }
    } else if is("Connection") {
        for token in value.split(',').map(str::trim) {
            if token.eq_ignore_ascii_case("close") {
                head.keep_alive = false;
            } else if token.eq_ignore_ascii_case("upgrade") {
                head.upgrade = true;
            }
        }
    } else if is("Expect") {
        if !value.eq_ignore_ascii_case("100-continue") {
            return Err(HeadError::Expectation);
        }
        head.headers.push((name.to_owned(), value.to_owned()));
    } else if !HOP_BY_HOP.iter().any(|hop| is(hop)) {
        head.headers.push((name.to_owned(), value.to_owned()));
    }
    Ok(())
}

/// Headers that concern one connection only, or are ours.
const HOP_BY_HOP: [&str; 8] = [
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authorization",
    "Upgrade",
    "TE",
    "Trailer",
    CONNECTION_HEADER,
    "HTTP2-Settings",
];

impl RequestHead {
    /// The path without the query and without a leading `/v1.NN`.
    #[must_use]
    pub(super) fn plain_path(&self) -> &str {
        let path = self.target.split('?').next().unwrap_or("");
        match path.strip_prefix("/v").and_then(|rest| rest.split_once('/')) {
            Some((version, _)) if version.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
                &path[version.len() + 2..]
            }
            Some(_) | None => path,
        }
    }

    /// Whether its answer may take as long as the client likes.
    #[must_use]
    pub(super) fn lasts(&self) -> bool {
        let path = self.plain_path();
        let query = || Query::parse(self.target.split_once('?').map_or("", |(_, query)| query));
        match path {
            "/images/create" | "/images/load" => true,
            // A query that cannot be read is refused at once.
            _ => path.ends_with("/logs") && query().is_ok_and(|query| query.flag("follow")),
        }
    }

    /// The head for the server behind the front: one request, then the end.
    #[must_use]
    pub(super) fn to_upstream(&self, connection: u64, framing: Framing) -> String {
        let mut text = format!("{} {} HTTP/1.{}\r\n", self.method, self.target, self.minor);
        for (name, value) in &self.headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        match framing {
            Framing::None => {}
            Framing::Length(length) => text.push_str(&format!("Content-Length: {length}\r\n")),
            Framing::Chunked => text.push_str("Transfer-Encoding: chunked\r\n"),
        }
        text.push_str(&format!(
            "{CONNECTION_HEADER}: {connection}\r\nConnection: close\r\n\r\n"
        ));
        text
    }
}

/// Parses the head of the response to a request of `method`; `None` while it is not complete.
/// Also the head's length.
///
/// # Errors
/// When the server behind the front sent something else.
pub(super) fn parse_response(
    bytes: &[u8],
    method: &str,
) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(HeadError::Malformed),
    };
    let status = parsed.code.ok_or(HeadError::Malformed)?;
    let mut text = format!("HTTP/1.1 {status} {}\r\n", parsed.reason.unwrap_or(""));
    let mut framing = None;
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_not_text| HeadError::Malformed)?;
        if header.name.eq_ignore_ascii_case("Connection") {
            continue;
        }
        if header.name.eq_ignore_ascii_case("Content-Length") {
            framing = Some(Framing::Length(value.parse().map_err(|_nan| HeadError::Framing)?));
        } else if header.name.eq_ignore_ascii_case("Transfer-Encoding") {
            framing = Some(Framing::Chunked);
        }
        text.extend([header.name, ": ", value, "\r\n"]);
    }
    if method == "HEAD" || status < 200 || status == 204 || status == 304 {
        framing = Some(Framing::None);
    }
    Ok(Some((ResponseHead { status, framing, text }, len)))
}

impl ResponseHead {
    /// The head for the client.
    #[must_use]
    pub(super) fn to_client(&self, keep_alive: bool) -> String {
        if self.status < 200 {
            // An interim answer has no body, whatever its headers say.
            let line = self.text.split_inclusive("\r\n").next().unwrap_or("");
            return format!("{line}\r\n");
        }
        let connection = if keep_alive { "keep-alive" } else { "close" };
        format!("{}Connection: {connection}\r\n\r\n", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(text: &str) -> Result<RequestHead, HeadError> {
        parse_request(text.as_bytes()).map(|found| found.unwrap().0)
    }

    #[test]
    fn a_request_is_rewritten_for_one_connection() {
        let head = head(
            "POST /v1.41/services/create?a=b HTTP/1.1\r\nHost: docker\r\nX-Skep-Connection: 9\r\n\
             Connection: keep-alive\r\nContent-Length: 12\r\nTE: trailers\r\n\r\n",
        )
        .unwrap();
        assert!(head.keep_alive && !head.upgrade);
        assert_eq!(head.framing, Framing::Length(12));
        assert_eq!(head.plain_path(), "/services/create");
        assert_eq!(
            head.to_upstream(7, head.framing),
            "POST /v1.41/services/create?a=b HTTP/1.1\r\nHost: docker\r\nContent-Length: 12\r\n\
             X-Skep-Connection: 7\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn unclear_lengths_are_refused() {
        for framing in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 99999999999999999999999",
            "Content-Length:",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{framing}\r\n\r\n");
            assert_eq!(head(&text), Err(HeadError::Framing), "{framing}");
        }
        let text = "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
        assert_eq!(head(text), Err(HeadError::Coding));
        assert_eq!(head("GET / HTTP/1.1\r\nExpect: x\r\n\r\n"), Err(HeadError::Expectation));
    }

    #[test]
    fn versions_in_the_path_are_cut_off() {
        for (target, plain) in [
            ("/v1.41/_ping", "/_ping"),
            ("/_ping", "/_ping"),
            ("/volumes/create", "/volumes/create"),
            ("/version", "/version"),
            ("/v1.41", "/v1.41"),
            ("/v1.41/images/load?quiet=1", "/images/load"),
        ] {
            let head = head(&format!("GET {target} HTTP/1.1\r\n\r\n")).unwrap();
            assert_eq!(head.plain_path(), plain);
        }
    }

    #[test]
    fn what_lasts_is_known_by_its_head() {
        for (target, lasts) in [
            ("/v1.41/services/web/logs?stdout=1&follow=1", true),
            ("/tasks/x/logs?follow=true", true),
            ("/services/web/logs?stdout=1&follow=0", false),
            ("/services/web/logs", false),
            ("/v1.41/images/create?fromImage=x", true),
            ("/images/load", true),
            ("/services?follow=1", false),
        ] {
            let head = head(&format!("GET {target} HTTP/1.1\r\n\r\n")).unwrap();
            assert_eq!(head.lasts(), lasts, "{target}");
        }
    }

    #[test]
    fn a_response_keeps_its_headers_and_its_end() {
        let bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
        let (head, len) = parse_response(bytes, "GET").unwrap().unwrap();
        assert_eq!((head.framing, &bytes[len..]), (Some(Framing::Length(2)), &b"hi"[..]));
        assert_eq!(
            head.to_client(true),
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n"
        );
        let (head, _) = parse_response(bytes, "HEAD").unwrap().unwrap();
        assert_eq!(head.framing, Some(Framing::None));
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_parsers(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(Some((head, _))) = parse_request(&bytes) {
                prop_assert!(head.to_upstream(1, head.framing).ends_with("\r\n\r\n"));
            }
            let mut lines = b"GET / HTTP/1.1\r\n".to_vec();
            lines.extend(&bytes);
            lines.extend(b"\r\n\r\n");
            if let Ok(Some((head, _))) = parse_request(&lines) {
                prop_assert!(head.to_upstream(1, head.framing).ends_with("\r\n\r\n"));
                prop_assert!(!head.plain_path().is_empty());
            }
            if let Ok(Some((_, len))) = parse_response(&bytes, "GET") {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
