//! The one envelope of everything that is stored or sent: kind, version, length, postcard.
//!
//! A shape is frozen once it has landed; a change is a new version. What is not known is an error
//! that names kind and version, never skipped. Not here: checksums, seals and files (`host::disk`).
//! Invariant: [`split`] never reads past the length it was given, and [`Frame::decode`] accepts
//! only a payload that it uses up to the last byte.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::id::NodeId;

/// Bytes before the payload: kind (2), version (2), length (4), little endian.
pub const HEADER_BYTES: usize = 8;

/// Largest snapshot on a disk: the members and the store, in their frames. A store beyond it could
/// neither be compacted nor reach a follower, so users add nothing from half of it on. All other
/// limits of snapshots follow from this one.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// The largest payload of one record of the log. Above the largest proposal (1.5 MiB).
pub const RECORD_BYTES_MAX: usize = 2 << 20;

/// What a payload is. A number is given once and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind(pub u16);

impl Kind {
    // 1–63: records of the log.
    /// [`Entry`].
    pub const ENTRY: Self = Self(1);
    /// [`HardState`].
    pub const HARD_STATE: Self = Self(2);
    /// [`LogRecord::SnapshotMark`].
    pub const SNAPSHOT_MARK: Self = Self(3);
    /// [`LogRecord::Cut`].
    pub const CUT: Self = Self(4);
    /// [`LogRecord::CutHealed`].
    pub const CUT_HEALED: Self = Self(5);
    // 64–127: state files.
    /// The key of the log.
    pub const LOG_KEY: Self = Self(64);
    /// Who this node is.
    pub const NODE: Self = Self(65);
    /// What the worker remembers of one task.
    pub const TASK: Self = Self(66);
    /// How a container ended.
    pub const EXIT: Self = Self(67);
    /// One image of the store.
    pub const IMAGE: Self = Self(68);
    /// One volume.
    pub const VOLUME: Self = Self(69);
    /// The worker's fence and address book.
    pub const WORKER: Self = Self(70);
    /// Where managers were reached last.
    pub const MANAGERS: Self = Self(72);
    /// A node's key, certificate and roots.
    pub const CREDENTIALS: Self = Self(71);
    /// What opens the keys of a manager that locks itself.
    pub const VAULT: Self = Self(73);
    /// How often gossip has started on this node.
    pub const GENERATION: Self = Self(76);
    /// The keys of gossip that a node was told last.
    pub const GOSSIP_KEYS: Self = Self(77);
    /// Which image each name means.
    pub const IMAGE_NAMES: Self = Self(80);
    /// An unpacked layer.
    pub const IMAGE_LAYER: Self = Self(81);
    // 128–191: frames between the processes of one node.
    // 192–: what the log's entries and the snapshots hold.
    /// An entry of the store.
    pub const STORE_ENTRY: Self = Self(192);
    /// A snapshot of the store.
    pub const STORE_SNAPSHOT: Self = Self(193);
    /// What a manager tells another.
    pub const RAFT_MESSAGE: Self = Self(194);
    /// An entry without content.
    pub const RAFT_NOTHING: Self = Self(195);
    /// An entry that names the managers.
    pub const RAFT_MEMBERS: Self = Self(196);
    /// A snapshot of the store with the managers as of it.
    pub const RAFT_SNAPSHOT: Self = Self(197);
    /// What one manager asks the leader for somebody else.
    pub const COMMAND: Self = Self(198);
    /// The leader's answer.
    pub const ANSWER: Self = Self(199);
    /// What a worker is to run.
    pub const ASSIGNMENTS: Self = Self(200);
    /// What a worker saw.
    pub const REPORT: Self = Self(201);
    /// What a node says of itself.
    pub const DESCRIPTION: Self = Self(202);
    /// Root, secrets and keys of the cluster.
    pub const CLUSTER_TRUST: Self = Self(203);
    /// The key of managers that lock themselves.
    pub const AUTOLOCK: Self = Self(204);
    // 256–: frames between nodes (`model::peer`).
    /// Begins a connection.
    pub const PEER_HELLO: Self = Self(256);
    /// The call may begin.
    pub const PEER_WELCOME: Self = Self(257);
    /// The call is over.
    pub const PEER_REFUSED: Self = Self(258);
    /// A machine asks to become a node.
    pub const PEER_JOIN: Self = Self(259);
    /// It is one.
    pub const PEER_JOINED: Self = Self(260);
    /// A request for the next certificate.
    pub const PEER_RENEW: Self = Self(261);
    /// The certificate.
    pub const PEER_RENEWED: Self = Self(262);
    /// What consensus says.
    pub const PEER_RAFT: Self = Self(263);
    /// Assignments.
    pub const PEER_ASSIGN: Self = Self(264);
    /// A worker's report.
    pub const PEER_REPORT: Self = Self(265);
    /// What else a node is told in its session.
    pub const PEER_TOLD: Self = Self(266);
    /// Says that somebody is there.
    pub const PEER_PING: Self = Self(267);
    /// Says that the ping has come.
    pub const PEER_PONG: Self = Self(268);
    /// A command for the leader.
    pub const PEER_FORWARD: Self = Self(269);
    /// The leader's answer.
    pub const PEER_FORWARDED: Self = Self(270);
    /// A node says what it is, at the start of its session.
    pub const PEER_PRESENT: Self = Self(271);
    /// The beginning of assignments or of a report that one frame cannot hold.
    pub const PEER_PART: Self = Self(272);
    /// A node's daemon ends in order.
    pub const PEER_ENDING: Self = Self(273);
    /// A node's machine goes down.
    pub const PEER_GOING_DOWN: Self = Self(280);
    /// A manager asks for logs.
    pub const PEER_ASK_LOGS: Self = Self(281);
    /// Lines of them.
    pub const PEER_LOGS: Self = Self(282);
    /// There are no more.
    pub const PEER_LOGS_OVER: Self = Self(283);
}

/// One frame as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says it is.
    pub kind: Kind,
    /// Which shape of it.
    pub version: u16,
    /// The postcard bytes.
    pub payload: &'a [u8],
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the header or its length ask for.
    #[error("cut short: {need} bytes are needed, {have} are there")]
    Short {
        /// Bytes that should be there.
        need: usize,
        /// Bytes that are.
        have: usize,
    },
    /// A length above the limit, on the way in or out.
    #[error("kind {} version {version} has {length} bytes, the limit is {limit}", kind.0)]
    TooLong {
        /// What was being read or written.
        kind: Kind,
        /// Its version.
        version: u16,
        /// Its length.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Another kind or version than the reader knows.
    #[error("kind {} version {version} is not known here", kind.0)]
    Unknown {
        /// What was found.
        kind: Kind,
        /// Its version.
        version: u16,
    },
    /// The payload does not have the shape that its kind and version name.
    #[error("kind {} version {version} does not have its shape", kind.0)]
    Shape {
        /// What was being read or written.
        kind: Kind,
        /// Its version.
        version: u16,
    },
}

/// Appends one frame to `out`; leaves `out` as it was on an error.
pub fn encode_into<T: Serialize + ?Sized>(
    kind: Kind,
    version: u16,
    value: &T,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let payload =
        postcard::to_allocvec(value).map_err(|_postcard| WireError::Shape { kind, version })?;
    encode_raw_into(kind, version, &payload, limit, out)
}

/// Appends one frame whose payload is bytes as they are; leaves `out` as it was on an error.
pub fn encode_raw_into(
    kind: Kind,
    version: u16,
    payload: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    let too_long = WireError::TooLong { kind, version, length: payload.len(), limit };
    let length = u32::try_from(payload.len()).map_err(|_range| too_long)?;
    if payload.len() > limit {
        return Err(too_long);
    }
    out.reserve(HEADER_BYTES + payload.len());
    out.extend_from_slice(&kind.0.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// One frame of its own.
pub fn encode<T: Serialize + ?Sized>(
    kind: Kind,
    version: u16,
    value: &T,
    limit: usize,
) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    encode_into(kind, version, value, limit, &mut out)?;
    Ok(out)
}

/// Takes the first frame off `bytes`: the frame and what follows it.
pub fn split(bytes: &[u8], limit: usize) -> Result<(Frame<'_>, &[u8]), WireError> {
    let short = |need| WireError::Short { need, have: bytes.len() };
    let (head, rest) =
        bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| short(HEADER_BYTES))?;
    let [k0, k1, v0, v1, l0, l1, l2, l3] = *head;
    let kind = Kind(u16::from_le_bytes([k0, k1]));
    let version = u16::from_le_bytes([v0, v1]);
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if length > limit {
        return Err(WireError::TooLong { kind, version, length, limit });
    }
    let (payload, rest) =
        rest.split_at_checked(length).ok_or_else(|| short(HEADER_BYTES + length))?;
    Ok((Frame { kind, version, payload }, rest))
}

impl<'a> Frame<'a> {
    /// The payload as it is, if the frame is of this kind and version.
    pub fn raw(&self, kind: Kind, version: u16) -> Result<&'a [u8], WireError> {
        if (self.kind, self.version) != (kind, version) {
            return Err(WireError::Unknown { kind: self.kind, version: self.version });
        }
        Ok(self.payload)
    }

    /// The payload as a value, if the frame is of this kind and version and nothing is left over.
    pub fn decode<T: DeserializeOwned>(&self, kind: Kind, version: u16) -> Result<T, WireError> {
        match postcard::take_from_bytes(self.raw(kind, version)?) {
            Ok((value, [])) => Ok(value),
            Ok(_) | Err(_) => Err(WireError::Shape { kind, version }),
        }
    }
}

/// One entry of the replicated log. What `data` holds is the store's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term in which a leader took it.
    pub term: u64,
    /// Its place in the log; the first is 1.
    pub index: u64,
    /// The command.
    pub data: Vec<u8>,
}

/// What a member must not forget besides its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The newest term it has seen.
    pub term: u64,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// What it knows to be committed; may lag behind.
    pub commit: u64,
}

/// One record of the log's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// An entry; one at an index that is already there replaces it and all that follow it.
    Entry(Entry),
    /// The newest one counts.
    HardState(HardState),
    /// The log goes on after this index: a snapshot from the leader took the place of what was
    /// there. Without effect where the log holds this very entry.
    SnapshotMark {
        /// The last index that the snapshot covers.
        index: u64,
        /// The term of that entry.
        term: u64,
    },
    /// The file's tail was cut after this index when it was opened.
    Cut {
        /// The last index that was kept.
        index: u64,
    },
    /// What the last cut may have lost is there again.
    CutHealed,
}

impl LogRecord {
    /// The version that this release writes, of every kind of record.
    const VERSION: u16 = 1;

    /// Upper bound of the bytes that the record's frame takes.
    #[must_use]
    pub fn size(&self) -> usize {
        const FIXED: usize = 64;
        match self {
            Self::Entry(entry) => FIXED + entry.data.len(),
            Self::HardState(_) | Self::SnapshotMark { .. } | Self::Cut { .. } | Self::CutHealed => {
                FIXED
            }
        }
    }

    /// Appends the record's frame to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), WireError> {
        const MAX: usize = RECORD_BYTES_MAX;
        let v = Self::VERSION;
        match self {
            Self::Entry(entry) => encode_into(Kind::ENTRY, v, entry, MAX, out),
            Self::HardState(state) => encode_into(Kind::HARD_STATE, v, state, MAX, out),
            Self::SnapshotMark { index, term } => {
                encode_into(Kind::SNAPSHOT_MARK, v, &(*index, *term), MAX, out)
            }
            Self::Cut { index } => encode_into(Kind::CUT, v, index, MAX, out),
            Self::CutHealed => encode_into(Kind::CUT_HEALED, v, &(), MAX, out),
        }
    }

    /// The record of a frame.
    pub fn decode(frame: &Frame<'_>) -> Result<Self, WireError> {
        let v = Self::VERSION;
        match frame.kind {
            Kind::ENTRY => frame.decode(Kind::ENTRY, v).map(Self::Entry),
            Kind::HARD_STATE => frame.decode(Kind::HARD_STATE, v).map(Self::HardState),
            Kind::SNAPSHOT_MARK => frame
                .decode(Kind::SNAPSHOT_MARK, v)
                .map(|(index, term)| Self::SnapshotMark { index, term }),
            Kind::CUT => frame.decode(Kind::CUT, v).map(|index| Self::Cut { index }),
            Kind::CUT_HEALED => frame.decode(Kind::CUT_HEALED, v).map(|()| Self::CutHealed),
            kind => Err(WireError::Unknown { kind, version: frame.version }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = LogRecord> {
        let vote = proptest::option::of(any::<u128>().prop_map(NodeId::new));
        prop_oneof![
            (any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..64))
                .prop_map(|(term, index, data)| LogRecord::Entry(Entry { term, index, data })),
            (any::<u64>(), vote, any::<u64>()).prop_map(|(term, vote, commit)| {
                LogRecord::HardState(HardState { term, vote, commit })
            }),
            any::<(u64, u64)>().prop_map(|(index, term)| LogRecord::SnapshotMark { index, term }),
            any::<u64>().prop_map(|index| LogRecord::Cut { index }),
            Just(LogRecord::CutHealed),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back_one_after_the_other(
            records in proptest::collection::vec(record(), 0..8)
        ) {
            let mut bytes = Vec::new();
            for record in &records {
                record.encode_into(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            for record in &records {
                let (frame, after) = split(rest, RECORD_BYTES_MAX).unwrap();
                prop_assert_eq!(&LogRecord::decode(&frame).unwrap(), record);
                rest = after;
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_refused_or_say_the_same_again(
            bytes in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            if let Ok((frame, _)) = split(&bytes, 32) {
                prop_assert!(frame.payload.len() <= 32);
                if let Ok(record) = LogRecord::decode(&frame) {
                    let mut again = Vec::new();
                    record.encode_into(&mut again).unwrap();
                    let (frame, rest) = split(&again, RECORD_BYTES_MAX).unwrap();
                    prop_assert_eq!(LogRecord::decode(&frame).unwrap(), record);
                    prop_assert!(rest.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_frame_cut_anywhere_is_short() {
        let whole = encode(Kind::NODE, 1, "name", 100).unwrap();
        for cut in 0..whole.len() {
            assert!(matches!(split(&whole[..cut], 100), Err(WireError::Short { .. })), "{cut}");
        }
    }

    #[test]
    fn limits_kinds_versions_and_leftovers_are_checked() {
        let text = "x".repeat(101);
        let too_long = encode(Kind::NODE, 1, &text, 100);
        assert!(matches!(too_long, Err(WireError::TooLong { length: 102, limit: 100, .. })));
        let long = encode(Kind::NODE, 1, &text, 200).unwrap();
        assert!(matches!(split(&long, 100), Err(WireError::TooLong { .. })));

        let bytes = encode(Kind::NODE, 1, &7u8, 100).unwrap();
        let (frame, _) = split(&bytes, 100).unwrap();
        assert_eq!(frame.decode::<u8>(Kind::NODE, 1), Ok(7));
        let other = frame.decode::<u8>(Kind::NODE, 2).unwrap_err();
        assert_eq!(other.to_string(), "kind 65 version 1 is not known here");
        assert!(matches!(frame.decode::<()>(Kind::NODE, 1), Err(WireError::Shape { .. })));
        assert!(matches!(frame.decode::<u128>(Kind::TASK, 1), Err(WireError::Unknown { .. })));
    }

    #[test]
    fn an_unknown_record_is_an_error() {
        for (kind, version) in [(Kind(63), 1), (Kind::ENTRY, 2), (Kind::CUT_HEALED, 0)] {
            let frame = Frame { kind, version, payload: &[] };
            assert_eq!(LogRecord::decode(&frame), Err(WireError::Unknown { kind, version }));
        }
    }
}
