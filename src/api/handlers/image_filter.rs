//! Filters of image lists and prunes. Pure: the time is an argument.

use crate::api::errors::ApiError;
use crate::api::query::Filters;
use crate::base::duration::parse_duration;
use crate::daemon::shown::ImageRecord;

/// The bounds on when an image was made; each excludes its own moment, as with Docker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    after: Option<jiff::Timestamp>,
    before: Option<jiff::Timestamp>,
}

impl Made {
    /// `since=IMAGE`, `before=IMAGE` and `until=TIME`, of which the closest bounds count. `find` tells
    /// when an image was made.
    pub(super) fn parse(
        filters: &Filters,
        now: jiff::Timestamp,
        find: impl Fn(&str) -> Result<String, ApiError>,
    ) -> Result<Self, ApiError> {
        let mut made = Self::default();
        for name in filters.values("since") {
            made.after = made.after.max(Some(created(&find(name)?)));
        }
        let earlier = |a: Option<jiff::Timestamp>, b| Some(a.map_or(b, |a| a.min(b)));
        for name in filters.values("before") {
            made.before = earlier(made.before, created(&find(name)?));
        }
        for text in filters.values("until") {
            made.before = earlier(made.before, moment(text, now)?);
        }
        Ok(made)
    }

    /// Whether an image that was made at this time lies between the bounds.
    pub(super) fn holds(self, image: &str) -> bool {
        let created = created(image);
        self.after.is_none_or(|after| created > after)
            && self.before.is_none_or(|before| created < before)
    }
}

/// When an image was made; 1970 where its maker wrote something else than a time.
fn created(image: &str) -> jiff::Timestamp {
    image.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// `24h` before now, seconds since 1970 with an optional fraction, or RFC 3339.
fn moment(text: &str, now: jiff::Timestamp) -> Result<jiff::Timestamp, ApiError> {
    let ago = parse_duration(text).ok().map(jiff::SignedDuration::from_nanos);
    if let Some(then) = ago.and_then(|ago| now.checked_sub(ago).ok()) {
        return Ok(then);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos = format!("{fraction:0<9}");
    let seconds = match (whole.parse::<i64>(), nanos.get(..9).map(str::parse::<i32>)) {
        (Ok(whole), Some(Ok(nanos))) => jiff::Timestamp::new(whole, nanos).ok(),
        _ => None,
    };
    let bad = || ApiError::invalid(format!("invalid filter 'until=[{text}]': it is no time"));
    seconds.or_else(|| text.parse().ok()).ok_or_else(bad)
}

/// `reference=name`, `reference=name:tag`, with `*` for any text without a slash.
pub(super) fn referenced(image: &ImageRecord, filters: &Filters) -> bool {
    filters.any("reference", |pattern| {
        image.repo_tags.iter().chain(&image.repo_digests).any(|name| {
            let bare = name.split('@').next().unwrap_or(name);
            let untagged = bare.rsplit_once(':').map_or(bare, |(name, _)| name);
            matches(pattern, bare) || matches(pattern, untagged)
        })
    })
}

/// Whether `pattern`, in which `*` stands for any text without a slash, is all of `text`.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            let end = rest.find('/').unwrap_or(rest.len());
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .take_while(|at| *at <= end)
                .any(|at| matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::query::Query;

    fn made(filters: &str) -> Result<Made, ApiError> {
        let query = Query::parse(&format!("filters={filters}")).unwrap();
        let filters = query.filters(&["before", "since", "until"]).unwrap();
        Made::parse(&filters, "2024-01-10T00:00:00Z".parse().unwrap(), |name| match name {
            "old" => Ok("2024-01-01T00:00:00.25Z".to_owned()),
            "new" => Ok("2024-01-09T00:00:00Z".to_owned()),
            other => Err(ApiError::not_found(format!("No such image: {other}"))),
        })
    }

    #[test]
    fn bounds_of_when_an_image_was_made() {
        let days = ["2024-01-01T00:00:00.25Z", "2024-01-05T00:00:00Z", "2024-01-09T00:00:00Z", "?"];
        for (filters, held) in [
            ("{}", [true, true, true, true]),
            (r#"{"since":["old"]}"#, [false, true, true, false]),
            (r#"{"before":["new"]}"#, [true, true, false, true]),
            (r#"{"since":["old"],"before":["new"]}"#, [false, true, false, false]),
            (r#"{"before":["new","old"]}"#, [false, false, false, true]),
            (r#"{"until":["48h"]}"#, [true, true, false, true]),
            (r#"{"until":["2024-01-05T00:00:00Z"]}"#, [true, false, false, true]),
            (r#"{"until":["1704067200.5"]}"#, [true, false, false, true]),
        ] {
            let made = made(filters).unwrap();
            assert_eq!(days.map(|day| made.holds(day)), held, "{filters}");
        }
        assert_eq!(made(r#"{"since":["gone"]}"#).unwrap_err().status, 404);
        assert_eq!(made(r#"{"until":["soon"]}"#).unwrap_err().status, 400);
    }

    #[test]
    fn patterns_of_references() {
        assert!(matches("web", "web") && matches("web:*", "web:1") && matches("*", "web"));
        assert!(matches("reg*/b*", "registry/bb") && !matches("*", "a/b") && !matches("we", "web"));
    }
}
