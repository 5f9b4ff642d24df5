//! A conversation with one repository of a registry: manifests and blobs over HTTPS, or HTTP for
//! loopback and hosts that are named insecure.
//!
//! An agent lives as long as its session, so that an idle node holds no connection and no roots.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;
use serde::Deserialize;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::agent::{agent, is_insecure, may_need_bundled};
use super::auth::{self, Challenge, Credentials, read_challenge};
use super::decode::digest_of;
use super::error::{ImageError, Result};
use super::limits::Limits;
use super::manifest;
use super::pace::PaceLimits;
use crate::model::digest::Digest;
use crate::model::image_ref::{DEFAULT_DOMAIN, Reference};

/// How registries are talked to.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Hosts (`pi-1`, `pi-1:5000`) that may speak HTTP or have a certificate nobody signed.
    pub insecure: Vec<String>,
    /// Further certificate authorities, PEM.
    pub ca_files: Vec<PathBuf>,
    /// Where the system keeps its authorities; the bundled ones are used when none exists.
    pub system_ca_files: Vec<PathBuf>,
    /// Layers fetched and unpacked at once, over all pulls; slow downloads do not count.
    pub parallel_max: usize,
    /// Tries of one request or download that bring nothing new.
    pub attempts_max: u32,
    /// Wait before the second try; doubles for each further one.
    pub backoff: Duration,
    /// For name lookup, connect and TLS.
    pub connect_timeout: Duration,
    /// For the next bytes of an answer.
    pub read_timeout: Duration,
    /// How fast they must come.
    pub pace: PaceLimits,
    /// What hostile input cannot exceed.
    pub limits: Limits,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        let system = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
        Self {
            insecure: Vec::new(),
            ca_files: Vec::new(),
            system_ca_files: system.iter().map(PathBuf::from).collect(),
            parallel_max: 3,
            attempts_max: 5,
            backoff: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(15),
            read_timeout: Duration::from_secs(30),
            pace: PaceLimits::default(),
            limits: Limits::default(),
        }
    }
}

/// The longest wait between two tries, whatever the registry asks for.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Bytes of a token service's answer.
const TOKEN_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a document read at once.
const DOCUMENT_CHUNK: usize = 8 * 1024;

/// Bytes of an error's text that are read and shown.
const DETAIL_BYTES_MAX: u64 = 4096;

const DOCKER_HUB: &str = "registry-1.docker.io";

/// One repository of one registry.
pub(super) struct Session<'a> {
    agent: Agent,
    config: &'a RegistryConfig,
    base: String,
    host: String,
    path: String,
    familiar: String,
    is_insecure: bool,
    credentials: Option<&'a Credentials>,
    authorization: Mutex<Option<String>>,
}

/// A manifest as it came.
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

impl<'a> Session<'a> {
    /// Finds out how the registry is spoken to.
    pub(super) fn open(
        config: &'a RegistryConfig,
        reference: &Reference,
        credentials: Option<&'a Credentials>,
    ) -> Result<Self> {
        let host = match reference.domain() {
            DEFAULT_DOMAIN => DOCKER_HUB,
            other => other,
        };
        let is_insecure = is_insecure(host, &config.insecure);
        let agent = agent(config, is_insecure, false)?;
        let mut session = Self {
            agent,
            config,
            base: format!("https://{host}"),
            host: host.to_owned(),
            path: reference.path().to_owned(),
            familiar: reference.familiar_name(),
            is_insecure,
            credentials,
            authorization: Mutex::new(None),
        };
        if let Some(Credentials::Registry(token)) = credentials {
            session.authorization = Mutex::new(Some(format!("Bearer {token}")));
        }
        if !is_insecure && !may_need_bundled(config) {
            return Ok(session);
        }
        if let Err(e) = session.agent.get(format!("{}/v2/", session.base)).call() {
            if is_insecure {
                debug!("{host} does not speak HTTPS ({e}): using HTTP");
                session.base = format!("http://{host}");
            } else {
                session.agent = super::agent::agent(config, false, true)?;
            }
        }
        Ok(session)
    }

    /// Asks for nothing but whether the credentials are taken.
    pub(super) fn log_in_only(&self) -> Result<()> {
        let url = format!("{}/v2/", self.base);
        self.get("log in to", &url, "*/*", None).map(drop)
    }

    /// The manifest or index that the reference names, its digest checked.
    pub(super) fn manifest(&self, reference: &Reference) -> Result<Fetched> {
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or_default().to_owned(),
        };
        match self.manifest_of(&name, reference.digest()) {
            Err(ImageError::Status { status: 404, .. }) => {
                Err(ImageError::ManifestUnknown { name: reference.to_string() })
            }
            result => result,
        }
    }

    /// The manifest with this tag or digest; `want` is the digest that it must have.
    pub(super) fn manifest_of(&self, name: &str, want: Option<Digest>) -> Result<Fetched> {
        let url = format!("{}/v2/{}/manifests/{name}", self.base, self.path);
        let response = self.get("get manifest", &url, manifest::ACCEPT, None)?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let media_type = header("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let told = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let max = self.config.limits.document_bytes_max;
        let bytes = self.read_body(response, max, "get manifest", &url)?;
        let got = digest_of(&bytes);
        match want.or(told) {
            Some(want) if want != got => {
                let what = format!("manifest {}:{name}", self.familiar);
                Err(ImageError::DigestMismatch { what, want, got })
            }
            _ => Ok(Fetched { bytes, digest: got, media_type }),
        }
    }

    /// A small blob or a manifest that a document names, checked.
    pub(super) fn document(&self, descriptor: &manifest::Descriptor) -> Result<Vec<u8>> {
        let max = self.config.limits.document_bytes_max;
        let what = format!("blob {}", descriptor.digest);
        if descriptor.size > max {
            return Err(ImageError::Limit { what, limit: max, unit: "bytes" });
        }
        let response = self.blob(&descriptor.digest, 0)?;
        let url = self.blob_url(&descriptor.digest);
        let bytes = self.read_body(response, max, "download", &url)?;
        let got = digest_of(&bytes);
        super::blobs::verify(&what, descriptor.digest, descriptor.size, got, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Starts the download of a blob, from byte `start` on if the registry can.
    pub(super) fn blob(&self, digest: &Digest, start: u64) -> Result<Response<Body>> {
        let range = (start > 0).then(|| format!("bytes={start}-"));
        self.get("download", &self.blob_url(digest), "*/*", range.as_deref())
    }

    /// The wait before another try.
    pub(super) fn pause(&self, attempt: u32, asked: Option<Duration>) {
        let backoff = self.config.backoff.saturating_mul(1 << attempt.min(16));
        thread::sleep(asked.unwrap_or(backoff).min(BACKOFF_MAX));
    }

    fn blob_url(&self, digest: &Digest) -> String {
        format!("{}/v2/{}/blobs/{digest}", self.base, self.path)
    }

    /// One request with what it needs of log-ins and further tries; gives a good answer.
    fn get(
        &self,
        doing: &'static str,
        url: &str,
        accept: &str,
        range: Option<&str>,
    ) -> Result<Response<Body>> {
        let mut attempt = 0;
        let mut has_logged_in = false;
        loop {
            let authorization = self.authorization().clone();
            let mut request = self.agent.get(url).header("accept", accept);
            if let Some(value) = &authorization {
                request = request.header("authorization", value);
            }
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let is_last = attempt + 1 >= self.config.attempts_max;
            let response = match request.call() {
                Ok(response) => response,
                Err(e) if !is_last && is_passing(&e) => {
                    debug!("cannot {doing} {url}: {e}: trying again");
                    self.pause(attempt, None);
                    attempt += 1;
                    continue;
                }
                Err(e) => return Err(transport(doing, url, e)),
            };
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if !has_logged_in => {
                    self.log_in(&response, authorization)?;
                    has_logged_in = true;
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied()),
                status if !is_last && is_passing_status(status) => {
                    self.pause(attempt, retry_after(&response));
                    attempt += 1;
                }
                status => return Err(self.bad_status(doing, url, status, response)),
            }
        }
    }

    /// Answers a challenge; what is used from now on is kept in the session.
    fn log_in(&self, response: &Response<Body>, seen: Option<String>) -> Result<()> {
        let headers = response.headers().get_all("www-authenticate");
        let challenge = headers.iter().find_map(|value| read_challenge(value.to_str().ok()?));
        let mut authorization = self.authorization();
        if *authorization != seen {
            return Ok(()); // Another thread of this session was first.
        }
        let value = match (challenge, self.credentials) {
            (Some(Challenge::Basic), Some(Credentials::Basic { username, password })) => {
                auth::basic(username, password)
            }
            (Some(Challenge::Bearer { realm, service, scope }), _) => {
                format!("Bearer {}", self.token(&realm, service.as_deref(), scope.as_deref())?)
            }
            _ => return Err(self.denied()),
        };
        *authorization = Some(value);
        Ok(())
    }

    /// A token for this repository from the registry's token service.
    fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        // Credentials do not travel in the clear unless the user called the registry insecure.
        if !(realm.starts_with("https://") || (self.is_insecure && realm.starts_with("http://"))) {
            let why = format!("the registry's token service {realm:?} is not an https address");
            return Err(ImageError::manifest(format!("challenge of {}", self.host), why));
        }
        let own_scope = format!("repository:{}:pull", self.path);
        let scope = auth::percent(scope.unwrap_or(&own_scope));
        let service = service.map(|s| format!("service={}&", auth::percent(s))).unwrap_or_default();
        let doing = "get a token from";
        let response = if let Some(Credentials::Identity(token)) = self.credentials {
            let form = format!(
                "grant_type=refresh_token&{service}scope={scope}&client_id=skep&refresh_token={}",
                auth::percent(token)
            );
            let request = self.agent.post(realm);
            request.header("content-type", "application/x-www-form-urlencoded").send(form)
        } else {
            let join = if realm.contains('?') { '&' } else { '?' };
            let mut request = self.agent.get(format!("{realm}{join}{service}scope={scope}"));
            if let Some(Credentials::Basic { username, password }) = self.credentials {
                request = request.header("authorization", auth::basic(username, password));
            }
            request.call()
        };
        let response = response.map_err(|e| transport(doing, realm, e))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.credentials.is_some() => {
                return Err(ImageError::Unauthorized { host: self.host.clone() });
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied()),
            status => return Err(self.bad_status(doing, realm, status, response)),
        }
        let bytes = self.read_body(response, TOKEN_BYTES_MAX, doing, realm)?;
        let what = || format!("answer of {realm}");
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|e| ImageError::manifest(what(), e))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        token.ok_or_else(|| ImageError::manifest(what(), "it has no token"))
    }

    /// A document's bytes: at most `max`, and within the time that one may take.
    fn read_body(
        &self,
        response: Response<Body>,
        max: u64,
        doing: &'static str,
        url: &str,
    ) -> Result<Vec<u8>> {
        let limit = self.config.pace.document;
        let begun = Instant::now();
        let (mut bytes, mut chunk) = (Vec::new(), [0; DOCUMENT_CHUNK]);
        let mut reader = response.into_body().into_reader();
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(0) => return Ok(bytes),
                Ok(count) => count,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(transport(doing, url, e.into())),
            };
            bytes.extend_from_slice(&chunk[..count]);
            if bytes.len() as u64 > max {
                return Err(ImageError::Limit { what: url.to_owned(), limit: max, unit: "bytes" });
            }
            if begun.elapsed() > limit {
                let (url, got) = (url.to_owned(), bytes.len());
                return Err(ImageError::Slow { doing, url, got, secs: limit.as_secs() });
            }
        }
    }

    /// Why a download that brought so little in a window was given up.
    pub(super) fn too_slow(&self, came: u64) -> String {
        let PaceLimits { window, window_bytes_min: least, .. } = &self.config.pace;
        format!(
            "{host} sent {came} bytes in {window:?}, and less than {least} is given up: see to the \
             network between here and {host}, then pull again",
            host = self.host
        )
    }

    /// The status with the registry's own words, as far as they are printable.
    fn bad_status(
        &self,
        doing: &'static str,
        url: &str,
        status: StatusCode,
        response: Response<Body>,
    ) -> ImageError {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            message: String,
        }
        let bytes = self.read_body(response, DETAIL_BYTES_MAX, doing, url).ok();
        let errors = bytes.and_then(|bytes| serde_json::from_slice::<Errors>(&bytes).ok());
        let first = errors.and_then(|errors| errors.errors.into_iter().next());
        let detail =
            first.map(|one| format!(": {}", one.message.escape_debug())).unwrap_or_default();
        ImageError::Status { doing, url: url.to_owned(), status: status.as_u16(), detail }
    }

    fn denied(&self) -> ImageError {
        ImageError::Denied { repository: self.familiar.clone() }
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn transport(doing: &'static str, url: &str, source: ureq::Error) -> ImageError {
    ImageError::Transport { doing, url: url.to_owned(), source: Box::new(source) }
}

/// Errors that another try may not meet. Where nobody listens or no way leads, and where the
/// certificate is not trusted, the user waits for nothing.
fn is_passing(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Io(error) => !matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::NetworkUnreachable
                | ErrorKind::HostUnreachable
                | ErrorKind::InvalidData
        ),
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

fn is_passing_status(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
