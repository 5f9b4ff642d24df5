//! The one table from what went wrong to Docker's status codes.

use crate::base::chain;
use crate::daemon::handle::{CommandError, Failure};
use crate::daemon::logs::LogsError;
use crate::daemon::shown::{ErrorKind, ImageError, RuntimeError};

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// For the user, Docker's words where Docker has some.
    pub message: String,
}

impl ApiError {
    /// With any status.
    #[must_use]
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400: what was sent cannot be used.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 404: there is no such thing.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// 501: Docker has it, this program does not.
    #[must_use]
    pub fn unimplemented(what: &str) -> Self {
        Self::new(501, format!("not implemented: {what}"))
    }

    /// 404 for a path that nobody knows.
    #[must_use]
    pub fn page_not_found() -> Self {
        Self::not_found("page not found")
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let status = match &failure {
            Failure::Refused(error) => return refused(error),
            Failure::NoSwarm
            | Failure::AlreadySwarm
            | Failure::Joining
            | Failure::NotInSwarm
            | Failure::NotManager
            | Failure::Manager(_)
            | Failure::Join(_)
            | Failure::Locked
            | Failure::LockedLeave
            | Failure::Stopping => 503,
            Failure::WrongKey => 401,
            Failure::NotLocked => 409,
            Failure::LastManager | Failure::Invalid(_) => 400,
            Failure::Host(_) => 500,
            Failure::Late => 504,
        };
        Self::new(status, failure.to_string())
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        let status = match error.kind() {
            // Docker does not tell whether a repository is missing or only not shown.
            ErrorKind::NotFound | ErrorKind::Denied => 404,
            ErrorKind::Conflict => 409,
            ErrorKind::Invalid => 400,
            ErrorKind::NoSpace => 507,
            ErrorKind::Unavailable | ErrorKind::Damaged | ErrorKind::Internal => 500,
        };
        Self::new(status, chain::text(&error))
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let text = chain::text(&error);
        let status = match &error {
            RuntimeError::Volume(_) if text.contains("no such volume") => 404,
            RuntimeError::Volume(_) if text.contains("volume is in use") => 409,
            RuntimeError::Volume(_) => 400,
            RuntimeError::File { source, .. }
                if source.kind() == std::io::ErrorKind::StorageFull =>
            {
                507
            }
            _ => 500,
        };
        Self::new(status, text)
    }
}

impl From<LogsError> for ApiError {
    fn from(error: LogsError) -> Self {
        match error {
            LogsError::Read(error) => error.into(),
            LogsError::Node(text) => Self::new(503, text),
        }
    }
}

/// Swarm's refusals, with the prefix that Docker's users see before them.
fn refused(error: &CommandError) -> ApiError {
    let (status, code) = match error {
        CommandError::NotFound(_) => (404, Some("NotFound")),
        CommandError::Conflict(_) => (409, Some("AlreadyExists")),
        CommandError::Invalid(_) => (400, Some("InvalidArgument")),
        CommandError::Unimplemented(_) => (501, Some("Unimplemented")),
        CommandError::OutOfSequence => (500, None),
        CommandError::Storage(_) => (507, None),
        CommandError::Busy(_) | CommandError::NotLeader { .. } | CommandError::Unavailable => {
            (503, None)
        }
        CommandError::Precondition(_) => (400, Some("FailedPrecondition")),
    };
    let text = error.to_string();
    let bare = code.filter(|_| !text.starts_with("rpc error:"));
    let message = bare.map_or(text.clone(), |code| format!("rpc error: code = {code} desc = {text}"));
    ApiError::new(status, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_texts_are_dockers() {
        let taken = CommandError::Conflict("name conflicts with an existing object".to_owned());
        let error = ApiError::from(Failure::Refused(taken));
        assert_eq!(error.status, 409);
        assert_eq!(
            error.message,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object"
        );
        let error = ApiError::from(Failure::Refused(CommandError::OutOfSequence));
        assert_eq!(error, ApiError::new(500, "rpc error: code = Unknown desc = update out of sequence"));
        assert_eq!(ApiError::from(Failure::NoSwarm).status, 503);
    }
}
