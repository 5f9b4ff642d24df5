//! A small blocking HTTP/1.1 client over the daemon's unix socket: one connection per request.
//!
//! Not a general client: no redirects, no keep-alive, no TLS. Whole answers are bounded by
//! [`BODY_BYTES_MAX`] and [`ANSWER_SECS_MAX`]; streams have no limit in time.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::body::Body;
use super::error::CliError;
use crate::model::engine::ErrorBody;

/// The Engine API version that is spoken.
pub const API_VERSION: &str = "1.51";

/// Bytes of an answer that is read as a whole.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Bytes of an answer's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

const HEADERS_MAX: usize = 64;

/// Seconds without a byte after which an answer that is read as a whole is given up.
const ANSWER_SECS_MAX: u64 = 300;

/// Where the daemon listens.
#[derive(Clone, Debug)]
pub struct Client {
    host: String,
    path: PathBuf,
}

/// What is sent behind a request's head.
pub enum Payload<'a> {
    /// Nothing.
    None,
    /// JSON text.
    Json(Vec<u8>),
    /// A tar archive of unknown length, in chunks.
    Tar {
        /// Where it is read from.
        from: &'a mut dyn Read,
        /// That place's name, for an error.
        what: &'a str,
    },
}

/// An answer whose body was not read yet.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Body<UnixStream>,
    request: String,
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Json(_) => "Json",
            Self::Tar { .. } => "Tar",
        })
    }
}

impl Client {
    /// For a host in Docker's form, `unix:///run/skep/skep.sock`.
    pub fn new(host: &str) -> Result<Self, CliError> {
        match host.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => {
                Ok(Self { host: host.to_owned(), path: PathBuf::from(path) })
            }
            _ => Err(CliError::BadHost(host.to_owned())),
        }
    }

    /// The host as it was given.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether a daemon answers.
    pub fn ping(&self) -> Result<(), CliError> {
        self.send("GET", "/_ping", Payload::None, Some(ANSWER_SECS_MAX))?.text().map(drop)
    }

    /// The object at a path below the API version.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        let text = self.get_text(path)?;
        serde_json::from_str(&text).map_err(CliError::BadJson)
    }

    /// The JSON text at a path, as the daemon sent it.
    pub fn get_text(&self, path: &str) -> Result<String, CliError> {
        self.send("GET", &versioned(path), Payload::None, Some(ANSWER_SECS_MAX))?.text()
    }

    /// Posts JSON and reads the answer's text.
    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<String, CliError> {
        let json = serde_json::to_vec(body).map_err(CliError::BadJson)?;
        let payload = Payload::Json(json);
        self.send("POST", &versioned(path), payload, Some(ANSWER_SECS_MAX))?.text()
    }

    /// Posts JSON and reads an object.
    pub fn post_for<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        serde_json::from_str(&self.post(path, body)?).map_err(CliError::BadJson)
    }

    /// Posts nothing and reads the answer's text.
    pub fn post_empty(&self, path: &str) -> Result<String, CliError> {
        self.send("POST", &versioned(path), Payload::None, Some(ANSWER_SECS_MAX))?.text()
    }

    /// Deletes an object and reads the answer's text.
    pub fn delete(&self, path: &str) -> Result<String, CliError> {
        self.send("DELETE", &versioned(path), Payload::None, Some(ANSWER_SECS_MAX))?.text()
    }

    /// Sends a request whose answer is a stream.
    pub fn stream(&self, method: &str, path: &str, payload: Payload<'_>) -> Result<Answer, CliError> {
        self.send(method, &versioned(path), payload, None)?.checked()
    }

    fn send(
        &self,
        method: &str,
        target: &str,
        payload: Payload<'_>,
        secs: Option<u64>,
    ) -> Result<Answer, CliError> {
        let request = format!("{method} {target}");
        let mut socket = self.connect()?;
        let broken = |source| CliError::Connection { request: request.clone(), source };
        socket.set_read_timeout(secs.map(Duration::from_secs)).map_err(broken)?;
        let sent = match write_request(&mut socket, method, target, payload) {
            // The daemon waits for the rest of what cannot be read here: no answer would come.
            Err(Unsent::Source(error)) => return Err(error),
            Err(Unsent::Socket(source)) => Err(source),
            Ok(()) => Ok(()),
        };
        // A daemon that refuses early answers before it has read everything.
        let answer = read_answer(socket, &request);
        match (sent, answer) {
            (_, Ok(answer)) => Ok(answer),
            (Err(source), Err(_)) => Err(broken(source)),
            (Ok(()), Err(error)) => Err(error),
        }
    }

    fn connect(&self) -> Result<UnixStream, CliError> {
        UnixStream::connect(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => CliError::Permission { host: self.host.clone() },
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                CliError::NotRunning { host: self.host.clone() }
            }
            _ => CliError::Connection { request: format!("connect to {}", self.host), source },
        })
    }
}

fn versioned(path: &str) -> String {
    format!("/v{API_VERSION}{path}")
}

/// Why a request did not leave as a whole.
enum Unsent {
    /// What was to be sent cannot be read.
    Source(CliError),
    /// The daemon does not take it.
    Socket(io::Error),
}

impl From<io::Error> for Unsent {
    fn from(source: io::Error) -> Self {
        Self::Socket(source)
    }
}

fn write_request(
    socket: &mut UnixStream,
    method: &str,
    target: &str,
    payload: Payload<'_>,
) -> Result<(), Unsent> {
    let agent = env!("CARGO_PKG_VERSION");
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: skep\r\nUser-Agent: skep/{agent}\r\n\
         Connection: close\r\n"
    );
    match payload {
        Payload::None if method == "GET" => {
            head.push_str("\r\n");
            Ok(socket.write_all(head.as_bytes())?)
        }
        Payload::None => {
            head.push_str("Content-Length: 0\r\n\r\n");
            Ok(socket.write_all(head.as_bytes())?)
        }
        Payload::Json(json) => {
            let length = json.len();
            head.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            ));
            let mut all = head.into_bytes();
            all.extend(json);
            Ok(socket.write_all(&all)?)
        }
        Payload::Tar { from, what } => {
            head.push_str("Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n");
            socket.write_all(head.as_bytes())?;
            write_chunks(socket, from, what)
        }
    }
}

fn write_chunks(
    socket: &mut UnixStream,
    from: &mut dyn Read,
    what: &str,
) -> Result<(), Unsent> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|source| {
                Unsent::Source(CliError::Source { what: what.to_owned(), source })
            })?,
        };
        if read == 0 {
            return Ok(socket.write_all(b"0\r\n\r\n")?);
        }
        socket.write_all(format!("{read:x}\r\n").as_bytes())?;
        socket.write_all(&buffer[..read])?;
        socket.write_all(b"\r\n")?;
    }
}

/// Reads the head of an answer and finds out how its body is framed.
fn read_answer(mut socket: UnixStream, request: &str) -> Result<Answer, CliError> {
    let bad = |why: &str| CliError::BadAnswer { request: request.to_owned(), why: why.to_owned() };
    let mut head = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        match parsed.parse(&head) {
            Ok(httparse::Status::Complete(length)) => {
                let status = parsed.code.unwrap_or(0);
                let header = |name: &str| {
                    let found = parsed.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
                    found.map(|h| String::from_utf8_lossy(h.value).to_lowercase())
                };
                if status == 100 {
                    head.drain(..length);
                    continue;
                }
                let chunked = header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
                let length_given = header("content-length").and_then(|v| v.trim().parse().ok());
                let empty = status == 204 || status == 304;
                let rest = head.split_off(length);
                let length_given = if empty { Some(0) } else { length_given };
                let body = Body::new(socket, rest, chunked, length_given);
                return Ok(Answer { status, body, request: request.to_owned() });
            }
            Ok(httparse::Status::Partial) if head.len() > HEAD_BYTES_MAX => {
                return Err(bad("its head is too long"));
            }
            Ok(httparse::Status::Partial) => {}
            Err(error) => return Err(bad(&error.to_string())),
        }
        let mut buffer = [0; 4096];
        let read = socket.read(&mut buffer).map_err(|source| CliError::Connection {
            request: request.to_owned(),
            source,
        })?;
        if read == 0 {
            return Err(bad("the connection was closed; see the daemon's log"));
        }
        head.extend_from_slice(&buffer[..read]);
    }
}

impl Answer {
    /// Turns a refusal into an error.
    pub fn checked(mut self) -> Result<Self, CliError> {
        if self.status < 400 {
            return Ok(self);
        }
        let text = self.read_text()?;
        let message = serde_json::from_str::<ErrorBody>(&text).map(|body| body.message);
        let message = message.unwrap_or(text).trim().to_owned();
        Err(CliError::Daemon { status: self.status, message })
    }

    fn text(self) -> Result<String, CliError> {
        self.checked()?.read_text()
    }

    fn read_text(&mut self) -> Result<String, CliError> {
        let mut text = String::new();
        let mut limited = (&mut self.body).take(BODY_BYTES_MAX + 1);
        let read = limited.read_to_string(&mut text).map_err(|source| CliError::Connection {
            request: self.request.clone(),
            source,
        })?;
        if read as u64 > BODY_BYTES_MAX {
            let why = format!("it is longer than {BODY_BYTES_MAX} bytes");
            return Err(CliError::BadAnswer { request: self.request.clone(), why });
        }
        Ok(text)
    }
}

/// Text as part of a path or query.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
