//! What an answer looks like on the wire: the headers all answers share, JSON, streams.

use std::io::{self, Write};

use serde::Serialize;

use super::errors::ApiError;
use super::version::API_VERSION;
use crate::model::engine::ErrorBody;

/// What a handler answers.
pub enum Reply {
    /// Status and a body of this type.
    Whole {
        /// HTTP status.
        status: u16,
        /// `Content-Type`; empty when there is no body.
        content_type: &'static str,
        /// Headers besides the common ones.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// 200 and whatever the function writes; each write leaves at once.
    Stream {
        /// `Content-Type`.
        content_type: &'static str,
        /// Writes the body; an error ends it, the client is gone.
        write: WriteBody,
    },
}

/// Writes the body of a stream.
pub type WriteBody = Box<dyn FnOnce(&mut StreamWriter) -> io::Result<()> + Send>;

impl Reply {
    /// 200 with JSON.
    #[must_use]
    pub fn json<T: Serialize>(value: &T) -> Self {
        Self::json_with(200, value)
    }

    /// JSON with another status.
    #[must_use]
    pub fn json_with<T: Serialize>(status: u16, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self::Whole { status, content_type: JSON, headers: Vec::new(), body }
            }
            Err(error) => Self::error(&ApiError::new(500, format!("encoding the answer: {error}"))),
        }
    }

    /// An error in Docker's form.
    #[must_use]
    pub fn error(error: &ApiError) -> Self {
        let body = error_body(&error.message).into_bytes();
        Self::Whole { status: error.status, content_type: JSON, headers: Vec::new(), body }
    }

    /// A status alone.
    #[must_use]
    pub const fn empty(status: u16) -> Self {
        Self::Whole { status, content_type: "", headers: Vec::new(), body: Vec::new() }
    }

    /// A stream of JSON values, one a line.
    #[must_use]
    pub fn json_lines(
        write: impl FnOnce(&mut StreamWriter) -> io::Result<()> + Send + 'static,
    ) -> Self {
        Self::Stream { content_type: JSON, write: Box::new(write) }
    }
}

const JSON: &str = "application/json";

/// Headers of every answer.
#[must_use]
pub fn common_headers() -> [(&'static str, String); 4] {
    [
        ("Api-Version", API_VERSION.to_string()),
        ("Docker-Experimental", "false".to_owned()),
        ("Ostype", "linux".to_owned()),
        ("Server", concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux)").to_owned()),
    ]
}

fn error_body(message: &str) -> String {
    let body = ErrorBody { message: message.to_owned() };
    // A struct of one text always has JSON.
    let mut text = serde_json::to_string(&body).unwrap_or_default();
    text.push('\n');
    text
}

/// A whole error answer for a connection that ends with it.
#[must_use]
pub fn plain_error(status: u16, message: &str) -> String {
    let body = error_body(message);
    let mut text = stream_head(status, JSON);
    text.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()));
    text
}

/// Status line and headers, without the blank line.
#[must_use]
pub fn stream_head(status: u16, content_type: &str) -> String {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in common_headers() {
        text.extend([name, ": ", &value, "\r\n"]);
    }
    text.extend(["Content-Type: ", content_type, "\r\n"]);
    text
}

const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Payload Too Large",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "",
    }
}

/// The body of a stream: every `write` is one chunk and is flushed.
pub struct StreamWriter {
    inner: Box<dyn Write + Send>,
    chunked: bool,
}

impl StreamWriter {
    /// Sends the head; `chunked` is false for a client of HTTP/1.0, whose body ends with the
    /// connection.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn begin(
        mut inner: Box<dyn Write + Send>,
        content_type: &str,
        chunked: bool,
    ) -> io::Result<Self> {
        let mut head = stream_head(200, content_type);
        if chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        }
        head.push_str("\r\n");
        inner.write_all(head.as_bytes())?;
        inner.flush()?;
        Ok(Self { inner, chunked })
    }

    /// Sends the end, without which the client knows that something is missing.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn finish(mut self) -> io::Result<()> {
        if self.chunked {
            self.inner.write_all(b"0\r\n\r\n")?;
        }
        self.inner.flush()
    }

    /// Sends one JSON value and a line end.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn line<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.extend(b"\r\n");
        self.write_all(&text)
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            // An empty chunk would be the end.
            return Ok(0);
        }
        if self.chunked {
            let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
            chunk.extend_from_slice(bytes);
            chunk.extend(b"\r\n");
            self.inner.write_all(&chunk)?;
        } else {
            self.inner.write_all(bytes)?;
        }
        self.inner.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl std::fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamWriter").field("chunked", &self.chunked).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole { status, body, .. } => {
                write!(f, "Whole({status}, {:?})", String::from_utf8_lossy(body))
            }
            Self::Stream { content_type, .. } => write!(f, "Stream({content_type})"),
        }
    }
}
