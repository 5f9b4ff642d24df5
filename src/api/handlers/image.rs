//! Images of this node: list, look at, pull, load, remove, prune; and what a registry says.

use std::sync::Arc;

use crate::api::Api;
use crate::api::call::Call;
use crate::api::convert;
use crate::api::engine::Engine;
use crate::api::errors::ApiError;
use super::image_filter::{Made, referenced};
use crate::api::respond::{Reply, StreamWriter};
use crate::daemon::shown::{Credentials, ErrorKind, ImageRecord, InUse, Platform, PullEvent};
use crate::model::engine::image::{AuthConfig, ImagesPruneReport};
use crate::model::engine::system::AuthResponse;
use crate::model::engine::stream::{ErrorDetail, ProgressMessage};
use crate::model::image_ref::{DEFAULT_DOMAIN, Reference};

const FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];
const PRUNE_FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];

/// The pseudo-container that uses every image while nobody knows which are used.
const UNKNOWN_USER: &str = "unknown";

/// `GET /images/json`.
pub(super) fn list(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&FILTERS)?;
    let find = |name: &str| Ok(engine.images().resolve(name)?.created);
    let made = Made::parse(&filters, jiff::Timestamp::now(), find)?;
    let dangling = filters.boolean("dangling")?;
    let mut shown: Vec<_> = engine.images().list();
    shown.retain(|image| {
        dangling.is_none_or(|wanted| wanted == image.repo_tags.is_empty())
            && filters.labels("label", &image.config.labels)
            && referenced(image, &filters)
            && made.holds(&image.created)
    });
    let mut shown: Vec<_> = shown.iter().map(convert::image::summary).collect();
    shown.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.repo_tags.cmp(&b.repo_tags)));
    Ok(Reply::json(&shown))
}

/// `GET /images/{name}/json`.
pub(super) fn inspect(engine: &dyn Engine, name: &str) -> Result<Reply, ApiError> {
    let store = engine.images();
    let image = store.resolve(name)?;
    let configuration = store.configuration(image.id)?;
    Ok(Reply::json(&convert::image::inspect(&image, configuration.as_deref())))
}

/// `DELETE /images/{name}`.
pub(super) fn remove(
    engine: &dyn Engine,
    name: &str,
    call: &Call<'_>,
) -> Result<Reply, ApiError> {
    let in_use = used_images(engine);
    let removed = engine.images().remove(name, call.query.flag("force"), &in_use)?;
    Ok(Reply::json(&removed.iter().map(convert::image::removed).collect::<Vec<_>>()))
}

/// `POST /images/prune`: without `dangling=false` only images without a name.
pub(super) fn prune(engine: &dyn Engine, call: &Call<'_>) -> Result<Reply, ApiError> {
    let filters = call.query.filters(&PRUNE_FILTERS)?;
    let find = |name: &str| Ok(engine.images().resolve(name)?.created);
    let made = Made::parse(&filters, jiff::Timestamp::now(), find)?;
    let all = filters.boolean("dangling")? == Some(false);
    let spared = |image: &ImageRecord| {
        !made.holds(&image.created)
            || !filters.labels("label", &image.config.labels)
            || (!filters.values("label!").is_empty()
                && filters.labels("label!", &image.config.labels))
    };
    let in_use = used_images(engine);
    let report = engine.images().prune(all, &spared, &in_use)?;
    Ok(Reply::json(&ImagesPruneReport {
        images_deleted: report.removed.iter().map(convert::image::removed).collect(),
        space_reclaimed: report.bytes,
    }))
}

/// Which images are used, asked by the store under its lock. Where that cannot be told, all are.
fn used_images(engine: &dyn Engine) -> impl Fn() -> InUse {
    let all: Vec<_> = engine.images().list().into_iter().map(|image| image.id).collect();
    move || match engine.images_in_use() {
        Ok(used) => used,
        Err(error) => {
            log::error!("which images are in use: {error}; none is removed");
            all.iter().map(|id| (*id, UNKNOWN_USER.to_owned())).collect()
        }
    }
}

/// `POST /images/create?fromImage=&tag=`: pulls, telling its progress.
pub(super) fn pull(api: &Arc<Api>, call: &Call<'_>) -> Result<Reply, ApiError> {
    let platform = match call.query.text("platform") {
        "" => None,
        text => Some(Platform::parse(text).ok_or_else(|| {
            ApiError::invalid(format!("invalid platform {text:?}: it is OS/ARCHITECTURE[/VARIANT]"))
        })?),
    };
    let (name, tag) = (call.query.text("fromImage"), call.query.text("tag"));
    if !call.query.text("fromSrc").is_empty() || name.is_empty() {
        return Err(ApiError::unimplemented("importing a file system as an image"));
    }
    let text = match tag {
        "" => name.to_owned(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    };
    let reference = reference(&text)?;
    let credentials = credentials(call)?;
    let api = Arc::clone(api);
    Ok(Reply::json_lines(move |out| {
        let mut lines = Lines { out, error: None };
        let (images, platform) = (api.engine.images(), platform.as_ref());
        let result = images.pull_for(platform, &reference, credentials.as_ref(), &mut |event| {
            lines.event(event);
        });
        match result {
            Ok(_image) => lines.end(),
            Err(error) => lines.fail(&ApiError::from(error)),
        }
    }))
}

/// `POST /images/load`: the body is an archive.
pub(super) fn load(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let quiet = call.query.flag("quiet");
    let mut events = Vec::new();
    let loaded = engine.images().load(call.body(), &mut |event| {
        // Progress is told once the archive is in: a client that still sends does not read.
        if !quiet && event.progress.is_none() && events.len() < LOAD_EVENTS_MAX {
            events.push(event);
        }
    })?;
    Ok(Reply::json_lines(move |out| {
        for event in &events {
            out.line(&convert::image::progress(event))?;
        }
        for name in loaded {
            let stream = format!("{name}\n");
            out.line(&ProgressMessage { stream, ..ProgressMessage::default() })?;
        }
        Ok(())
    }))
}

/// Most lines about layers in the answer to a load.
const LOAD_EVENTS_MAX: usize = 1_000;

/// `GET /distribution/{name}/json`. An image of this node that the registry does not tell about is
/// told about from here, so that a site without a registry works.
pub(super) fn distribution(
    engine: &dyn Engine,
    name: &str,
    call: &Call<'_>,
) -> Result<Reply, ApiError> {
    let reference = reference(name)?;
    if reference.is_hello() {
        // Resolved by each node: no digest of it means anything elsewhere.
        return Err(ApiError::not_found(format!("{name} is packed by each node itself")));
    }
    let credentials = credentials(call)?;
    let store = engine.images();
    match store.distribution(&reference, credentials.as_ref()) {
        Ok(found) => Ok(Reply::json(&convert::image::distribution(&found))),
        Err(error) => {
            let known = store.local_distribution(&reference);
            let known = known.map(|found| Reply::json(&convert::image::distribution(&found)));
            known.ok_or_else(|| error.into())
        }
    }
}

fn reference(text: &str) -> Result<Reference, ApiError> {
    Reference::parse(text).map_err(|bad| ApiError::invalid(bad.to_string()))
}

/// What `X-Registry-Auth` says; nothing when it is empty.
pub(super) fn credentials(call: &Call<'_>) -> Result<Option<Credentials>, ApiError> {
    let header = call.header("X-Registry-Auth");
    if header.is_empty() {
        return Ok(None);
    }
    let bad = || ApiError::invalid("invalid X-Registry-Auth header: not base64 of JSON");
    let bytes = decode_base64(header).ok_or_else(bad)?;
    let auth: AuthConfig = serde_json::from_slice(&bytes).map_err(|_json| bad())?;
    Ok(of_config(auth))
}

fn of_config(auth: AuthConfig) -> Option<Credentials> {
    if !auth.registrytoken.is_empty() {
        Some(Credentials::Registry(auth.registrytoken))
    } else if !auth.identitytoken.is_empty() {
        Some(Credentials::Identity(auth.identitytoken))
    } else if auth.username.is_empty() {
        None
    } else {
        Some(Credentials::Basic { username: auth.username, password: auth.password })
    }
}

/// `POST /auth`: asks the registry whether it takes these credentials. They are kept nowhere.
pub(super) fn auth(engine: &dyn Engine, call: &mut Call<'_>) -> Result<Reply, ApiError> {
    let given: AuthConfig = call.json()?;
    let address = given.serveraddress.as_str();
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = match address.split('/').next().unwrap_or("") {
        "" | "index.docker.io" => DEFAULT_DOMAIN.to_owned(),
        host => host.to_owned(),
    };
    let credentials = of_config(given)
        .ok_or_else(|| ApiError::invalid("a user name or a token is needed to log in"))?;
    match engine.images().check_login(&host, &credentials) {
        Ok(()) => Ok(Reply::json(&AuthResponse {
            status: "Login Succeeded".to_owned(),
            identity_token: String::new(),
        })),
        Err(error) if error.kind() == ErrorKind::Denied => {
            Err(ApiError::new(401, error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Base64 in either alphabet, padded or not.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Progress on its way to a client that may vanish; the work goes on without it.
struct Lines<'a> {
    out: &'a mut StreamWriter,
    error: Option<std::io::Error>,
}

impl Lines<'_> {
    fn event(&mut self, event: PullEvent) {
        self.line(&convert::image::progress(&event));
    }

    fn line(&mut self, message: &ProgressMessage) {
        if self.error.is_none()
            && let Err(error) = self.out.line(message)
        {
            self.error = Some(error);
        }
    }

    fn end(self) -> std::io::Result<()> {
        self.error.map_or(Ok(()), Err)
    }

    fn fail(mut self, error: &ApiError) -> std::io::Result<()> {
        self.line(&ProgressMessage {
            error_detail: Some(ErrorDetail { code: 0, message: error.message.clone() }),
            error: error.message.clone(),
            ..ProgressMessage::default()
        });
        self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_both_alphabets() {
        assert_eq!(decode_base64("eyJhIjoiPz8_In0="), Some(br#"{"a":"???"}"#.to_vec()));
        assert_eq!(decode_base64("eyJhIjoiPz8/In0"), Some(br#"{"a":"???"}"#.to_vec()));
        assert_eq!(decode_base64("e!"), None);
        assert_eq!(decode_base64(""), Some(Vec::new()));
    }
}
