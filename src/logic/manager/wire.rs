//! What managers and workers tell each other, in the envelope of [`wire`](crate::model::wire).
//!
//! Who sends what is known by its certificate and checked by the daemon; here only shapes and sizes
//! are. A command's spec is checked again when it is read, as if its user had sent it here.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::io::{Assignments, Command, CommandError, Reply, Report};
use crate::base::id::{Id, RequestId};
use crate::logic::codec::CodecError;
use crate::logic::raft::io::PROPOSAL_BYTES_MAX;
use crate::logic::store::OWN_REQUEST;
use crate::model::node::NodeDescription;
use crate::model::wire::{self, Kind, WireError};

/// The version that this release speaks.
const VERSION: u16 = 1;

/// Largest command and largest answer.
pub const COMMAND_BYTES_MAX: usize = PROPOSAL_BYTES_MAX + (64 << 10);

/// Largest set of assignments: what a full node is to run.
pub const ASSIGNMENTS_BYTES_MAX: usize = 64 << 20;

/// Largest report.
pub const REPORT_BYTES_MAX: usize = 16 << 20;

/// Largest description of a node.
pub const DESCRIPTION_BYTES_MAX: usize = 64 << 10;

/// A command that another manager was asked for. Asked again under the same number it is done once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// Its number.
    pub request: RequestId,
    /// What is asked for.
    pub command: Command,
}

/// What the leader says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The object was made.
    Created(Id),
    /// It is done.
    Done,
    /// It is not.
    Refused(CommandError),
}

impl Answer {
    /// What a manager answered, for the wire.
    #[must_use]
    pub fn new(reply: Result<Reply, CommandError>) -> Self {
        match reply {
            Ok(Reply::Created { id }) => Self::Created(id),
            // Every manager reads for itself.
            Ok(Reply::Done | Reply::View(_)) => Self::Done,
            Err(error) => Self::Refused(error),
        }
    }

    /// As the manager would have answered itself.
    ///
    /// # Errors
    /// What the leader refused with.
    pub fn into_reply(self) -> Result<Reply, CommandError> {
        match self {
            Self::Created(id) => Ok(Reply::Created { id }),
            Self::Done => Ok(Reply::Done),
            Self::Refused(error) => Err(error),
        }
    }
}

fn encode<T: Serialize>(kind: Kind, value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    wire::encode(kind, VERSION, value, limit).map_err(CodecError::Wire)
}

fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    let (frame, rest) = wire::split(bytes, limit).map_err(CodecError::Wire)?;
    if !rest.is_empty() {
        return Err(CodecError::Rest(rest.len()));
    }
    frame.decode(kind, VERSION).map_err(CodecError::Wire)
}

/// A command on its way to the leader.
///
/// # Errors
/// When it is longer than [`COMMAND_BYTES_MAX`].
pub fn encode_asked(asked: &Asked) -> Result<Vec<u8>, CodecError> {
    encode(Kind::COMMAND, asked, COMMAND_BYTES_MAX)
}

/// A command from another manager.
///
/// # Errors
/// When kind, version, length or shape are not what they should be, or the spec in it is none.
pub fn decode_asked(bytes: &[u8]) -> Result<Asked, CodecError> {
    let asked: Asked = decode(Kind::COMMAND, bytes, COMMAND_BYTES_MAX)?;
    if asked.request == OWN_REQUEST {
        return Err(CodecError::Wire(WireError::Shape { kind: Kind::COMMAND, version: VERSION }));
    }
    Ok(asked)
}

/// The leader's answer.
///
/// # Errors
/// When it is longer than [`COMMAND_BYTES_MAX`].
pub fn encode_answer(answer: &Answer) -> Result<Vec<u8>, CodecError> {
    encode(Kind::ANSWER, answer, COMMAND_BYTES_MAX)
}

/// The leader's answer.
///
/// # Errors
/// As [`decode_asked`].
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, CodecError> {
    decode(Kind::ANSWER, bytes, COMMAND_BYTES_MAX)
}

/// What a worker is to run.
///
/// # Errors
/// When it is longer than [`ASSIGNMENTS_BYTES_MAX`].
pub fn encode_assignments(assignments: &Assignments) -> Result<Vec<u8>, CodecError> {
    encode(Kind::ASSIGNMENTS, assignments, ASSIGNMENTS_BYTES_MAX)
}

/// What this worker is to run.
///
/// # Errors
/// As [`decode_asked`].
pub fn decode_assignments(bytes: &[u8]) -> Result<Assignments, CodecError> {
    decode(Kind::ASSIGNMENTS, bytes, ASSIGNMENTS_BYTES_MAX)
}

/// What a worker saw.
///
/// # Errors
/// When it is longer than [`REPORT_BYTES_MAX`].
pub fn encode_report(report: &Report) -> Result<Vec<u8>, CodecError> {
    encode(Kind::REPORT, report, REPORT_BYTES_MAX)
}

/// What a worker saw.
///
/// # Errors
/// As [`decode_asked`].
pub fn decode_report(bytes: &[u8]) -> Result<Report, CodecError> {
    decode(Kind::REPORT, bytes, REPORT_BYTES_MAX)
}

/// What a node says of itself.
///
/// # Errors
/// When it is longer than [`DESCRIPTION_BYTES_MAX`].
pub fn encode_description(description: &NodeDescription) -> Result<Vec<u8>, CodecError> {
    encode(Kind::DESCRIPTION, description, DESCRIPTION_BYTES_MAX)
}

/// What another node says of itself.
///
/// # Errors
/// As [`decode_asked`].
pub fn decode_description(bytes: &[u8]) -> Result<NodeDescription, CodecError> {
    decode(Kind::DESCRIPTION, bytes, DESCRIPTION_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::id::{NodeId, TaskId};
    use crate::logic::fixture;
    use crate::logic::manager::io::Fence;
    use crate::model::service::ServiceSpec;
    use crate::model::task::TaskStatus;

    fn create(spec: ServiceSpec) -> Command {
        Command::CreateService { spec: Box::new(spec.validate().unwrap()) }
    }

    #[test]
    fn what_is_written_is_read() {
        let asked =
            Asked { request: RequestId::new(4), command: create(fixture::spec("a", "b", 2)) };
        let bytes = encode_asked(&asked).unwrap();
        assert_eq!(format!("{:?}", decode_asked(&bytes).unwrap()), format!("{asked:?}"));
        for error in [CommandError::OutOfSequence, CommandError::NotLeader { leader: None }] {
            let answer = Answer::new(Err(error.clone()));
            let read = decode_answer(&encode_answer(&answer).unwrap()).unwrap();
            assert_eq!(read.into_reply().unwrap_err(), error);
        }
        let status = TaskStatus { err: "x".to_owned(), ..fixture::task(1, 2).status };
        let report = Report { statuses: vec![(TaskId::new(1), status)], ..Report::default() };
        assert_eq!(decode_report(&encode_report(&report).unwrap()).unwrap(), report);
        let description = NodeDescription { hostname: "pi".to_owned(), ..Default::default() };
        let bytes = encode_description(&description).unwrap();
        assert_eq!(decode_description(&bytes).unwrap(), description);
        let assignments = Assignments {
            fence: Fence { epoch: 1, term: 2, index: 3 },
            complete: true,
            tasks: vec![Arc::new(fixture::task(1, 2))],
            removed: vec![TaskId::new(2)],
            networks: Vec::new(),
        };
        let read = decode_assignments(&encode_assignments(&assignments).unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{assignments:?}"));
    }

    #[test]
    fn a_spec_that_no_user_could_have_given_is_refused() {
        #[derive(Serialize)]
        enum Unchecked {
            CreateService { spec: ServiceSpec },
        }
        let mut spec = fixture::spec("a", "b", 2);
        let bytes = |spec: &ServiceSpec| {
            let command = Unchecked::CreateService { spec: spec.clone() };
            encode(Kind::COMMAND, &(RequestId::new(4), command), COMMAND_BYTES_MAX).unwrap()
        };
        assert!(decode_asked(&bytes(&spec)).is_ok());
        spec.task.container.image = "not an image".to_owned();
        assert!(decode_asked(&bytes(&spec)).is_err());
    }

    #[test]
    fn every_cut_and_every_other_kind_is_refused() {
        let command = Command::Transfer { to: Some(NodeId::new(1)) };
        let bytes = encode_asked(&Asked { request: RequestId::new(4), command }).unwrap();
        for end in 0..bytes.len() {
            assert!(decode_asked(&bytes[..end]).is_err(), "{end}");
        }
        assert!(decode_answer(&bytes).is_err());
        assert!(decode_asked(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}
