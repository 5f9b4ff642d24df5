//! What the Engine API streams: log frames, progress lines, events.

use super::{Labels, engine};

/// Bytes before the payload of each log frame: the stream, three zeros, the length in big endian.
pub const FRAME_HEADER: usize = 8;

/// `Content-Type` of frames, from API 1.42 on.
pub const MULTIPLEXED_STREAM: &str = "application/vnd.docker.multiplexed-stream";

/// `Content-Type` of a terminal's bytes, and of frames before API 1.42.
pub const RAW_STREAM: &str = "application/vnd.docker.raw-stream";

/// Detail keys that each line of a service's log carries.
pub const DETAIL_NODE: &str = "com.docker.swarm.node.id";
/// The service's id among the details.
pub const DETAIL_SERVICE: &str = "com.docker.swarm.service.id";
/// The task's id among the details.
pub const DETAIL_TASK: &str = "com.docker.swarm.task.id";

/// Where the payload of a log frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdStream {
    /// Never used by logs.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// An error of the daemon; the text is for the user.
    SystemError,
}

/// The first byte of a frame names no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized stream: {0}")]
pub struct UnknownStream(pub u8);

impl StdStream {
    /// The header of a frame with `len` bytes of payload.
    #[must_use]
    pub fn header(self, len: u32) -> [u8; FRAME_HEADER] {
        let stream = match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::SystemError => 3,
        };
        let [a, b, c, d] = len.to_be_bytes();
        [stream, 0, 0, 0, a, b, c, d]
    }

    /// The stream and the length that a header announces.
    pub fn parse(header: [u8; FRAME_HEADER]) -> Result<(Self, u32), UnknownStream> {
        let [stream, _, _, _, a, b, c, d] = header;
        let stream = match stream {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::SystemError,
            other => return Err(UnknownStream(other)),
        };
        Ok((stream, u32::from_be_bytes([a, b, c, d])))
    }
}

engine! {
    /// One line of the progress of a pull or load.
    ProgressMessage {
        omit {
            stream: String = "stream",
            status: String = "status",
            progress_detail: Option<ProgressDetail> = "progressDetail",
            progress: String = "progress",
            id: String = "id",
            error_detail: Option<ErrorDetail> = "errorDetail",
            error: String = "error",
        }
    }

    /// How much of how much.
    ProgressDetail {
        omit { current: i64 = "current", total: i64 = "total" }
    }

    /// Why a stream ended early.
    ErrorDetail {
        omit { code: i64 = "code", message: String = "message" }
    }

    /// One line of `/events`.
    Event {
        always { r#type: String, action: String, actor: Actor }
        omit { scope: String = "scope", time: i64 = "time", time_nano: i64 = "timeNano" }
    }

    /// What an event happened to.
    Actor {
        always { id: String = "ID", attributes: Labels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_headers_round_trip() {
        for stream in
            [StdStream::Stdin, StdStream::Stdout, StdStream::Stderr, StdStream::SystemError]
        {
            assert_eq!(StdStream::parse(stream.header(70_000)), Ok((stream, 70_000)));
        }
        assert_eq!(StdStream::Stderr.header(0x0102), [2, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(StdStream::parse([b'H', 0, 0, 0, 0, 0, 0, 0]), Err(UnknownStream(b'H')));
    }
}
