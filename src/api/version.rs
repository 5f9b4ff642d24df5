//! The versions of the Engine API that are spoken, and how a path names one.

use std::fmt;

use super::errors::ApiError;

/// The newest version spoken, reported to clients.
pub const API_VERSION: ApiVersion = ApiVersion(51);

/// The oldest version accepted.
pub const API_VERSION_MIN: ApiVersion = ApiVersion(24);

/// A version 1.N of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(pub u16);

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// Splits `/v1.NN/rest` into version and `/rest`; a path without a version is of the newest.
///
/// # Errors
/// With Docker's text when the version is not spoken.
pub fn split(path: &str) -> Result<(ApiVersion, &str), ApiError> {
    let newest = Ok((API_VERSION, path));
    let Some((version, _)) = path.strip_prefix("/v").and_then(|rest| rest.split_once('/'))
    else {
        return newest;
    };
    let Some((major, minor)) = version.split_once('.') else {
        return newest;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(major) || !digits(minor) {
        return newest;
    }
    let asked = match (major, minor.parse::<u16>()) {
        ("1", Ok(minor)) => ApiVersion(minor),
        ("0", _) => ApiVersion(0),
        (_, Ok(_) | Err(_)) => ApiVersion(u16::MAX),
    };
    if asked < API_VERSION_MIN {
        return Err(ApiError::invalid(format!(
            "client version {version} is too old. Minimum supported API version is \
             {API_VERSION_MIN}, please upgrade your client to a newer version"
        )));
    }
    if asked > API_VERSION {
        return Err(ApiError::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    Ok((asked, &path[version.len() + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(split("/_ping"), Ok((API_VERSION, "/_ping")));
        assert_eq!(split("/v1.24/info"), Ok((ApiVersion(24), "/info")));
        assert_eq!(split("/version"), Ok((API_VERSION, "/version")));
        assert_eq!(split("/volumes/x"), Ok((API_VERSION, "/volumes/x")));
        assert_eq!(
            split("/v1.23/info").unwrap_err().message,
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade \
             your client to a newer version"
        );
        assert_eq!(
            split("/v1.52/info").unwrap_err().message,
            "client version 1.52 is too new. Maximum supported API version is 1.51"
        );
        assert!(split("/v99999999999.1/x").is_err());
    }
}
