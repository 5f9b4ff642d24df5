//! The frozen bytes of messages, members and snapshots, and hostile ones.

use std::sync::Arc;

use proptest::prelude::*;

use super::member::id;
use crate::logic::codec::CodecError;
use crate::logic::raft::codec::{
    decode_message, encode_message, from_record, from_snapshot, to_record, to_snapshot,
};
use crate::logic::raft::io::{
    Body, Entry, MEMBERS_MAX, Members, Message, PROPOSAL_BYTES_MAX, Payload,
};
use crate::model::wire::{self, Kind, WireError};

const GOLDEN: &str = include_str!("../../../../tests/data/wire/raft-v1.txt");

fn members() -> Members {
    Members { voters: [id(1), id(u64::MAX)].into(), learners: [id(300)].into() }
}

fn command(bytes: &[u8]) -> Payload {
    Payload::Command(Arc::from(bytes))
}

fn entry(index: u64, payload: Payload) -> Entry {
    Entry { index, term: 7, payload }
}

/// One of each.
fn bodies() -> Vec<Body> {
    vec![
        Body::Vote { pre: true, transfer: false, last_index: 300, last_term: 6 },
        Body::VoteReply { pre: false, granted: true, doubtful: false },
        Body::Append {
            previous_index: 4,
            previous_term: 6,
            entries: vec![
                entry(5, Payload::Nothing),
                entry(6, Payload::Members(members())),
                entry(7, command(b"abc")),
            ],
            commit: 3,
        },
        Body::AppendOk { index: 7 },
        Body::AppendRejected { rejected: 9, hint_index: 8, hint_term: 5 },
        Body::Heartbeat { commit: 1, last: 2, read: 3 },
        Body::HeartbeatReply { read: u64::MAX },
        Body::Snapshot {
            index: 9,
            term: 7,
            members: members(),
            offset: 1,
            total: 4,
            checksum: u32::MAX,
            piece: vec![1, 2, 3],
        },
        Body::SnapshotReply { index: 9, offset: 4 },
        Body::Read { id: 5 },
        Body::ReadReply { id: 5, index: 10 },
        Body::TimeoutNow,
        Body::GivenUp,
    ]
}

/// Records of the log's file: those of a release before there were members among them.
fn records() -> Vec<Entry> {
    let store = wire::encode(Kind::STORE_ENTRY, 1, &"x", 100).expect("short");
    vec![
        entry(5, Payload::Nothing),
        entry(6, Payload::Members(members())),
        entry(7, command(&store)),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_are_frozen() {
    let mut shown = Vec::new();
    for body in bodies() {
        let message = Message { epoch: 1, term: 200, body };
        let bytes = encode_message(&message).expect("encodes");
        assert_eq!(decode_message(&bytes), Ok(message));
        shown.push(hex(&bytes));
    }
    for entry in records() {
        let record = to_record(&entry).expect("encodes");
        shown.push(hex(&record.data));
        assert_eq!(from_record(record), Ok(entry));
    }
    let snapshot = to_snapshot(&members(), b"store").expect("encodes");
    shown.push(hex(&snapshot));
    assert_eq!(from_snapshot(&snapshot), Ok((members(), Arc::from(*b"store"))));
    let golden: Vec<&str> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(shown, golden, "a landed shape never changes; a change is a new version");
}

#[test]
fn a_snapshot_from_before_there_were_members_is_read() {
    let old = wire::encode(Kind::STORE_SNAPSHOT, 1, &"state", 100).expect("short");
    let (members, store) = from_snapshot(&old).expect("is read");
    assert!(members.is_empty());
    assert_eq!(*store, *old);
}

#[test]
fn what_is_not_known_is_an_error() {
    for kind in [Kind::RAFT_MESSAGE, Kind::STORE_SNAPSHOT, Kind(999)] {
        let data = wire::encode(kind, 1, &(), 100).expect("short");
        let unknown = CodecError::Wire(WireError::Unknown { kind, version: 1 });
        assert_eq!(
            from_record(wire::Entry { term: 1, index: 1, data: data.clone() }),
            Err(unknown)
        );
        let is_old = kind == Kind::STORE_SNAPSHOT;
        assert_eq!(from_snapshot(&data).is_ok(), is_old);
    }
    let mut longer = to_record(&entry(1, Payload::Nothing)).expect("encodes");
    longer.data.push(0);
    assert_eq!(from_record(longer), Err(CodecError::Rest(1)));
}

#[test]
fn the_largest_of_each_fits() {
    let all: Vec<_> = (0..MEMBERS_MAX).map(|it| id(u64::MAX - it as u64)).collect();
    let members = Members { voters: all.into_iter().collect(), learners: [].into() };
    to_record(&entry(u64::MAX, Payload::Members(members))).expect("fits");
    let entries = vec![Entry {
        index: u64::MAX,
        term: u64::MAX,
        payload: command(&vec![0; PROPOSAL_BYTES_MAX]),
    }];
    let body = Body::Append {
        previous_index: u64::MAX,
        previous_term: u64::MAX,
        entries,
        commit: u64::MAX,
    };
    encode_message(&Message { epoch: u64::MAX, term: u64::MAX, body }).expect("fits");
}

#[test]
fn every_cut_is_refused() {
    for body in bodies() {
        let bytes = encode_message(&Message { epoch: 1, term: 2, body }).expect("encodes");
        for end in 0..bytes.len() {
            assert!(decode_message(&bytes[..end]).is_err());
        }
    }
}

fn payload() -> impl Strategy<Value = Payload> {
    let ids = || proptest::collection::btree_set(any::<u64>().prop_map(id), 0..4);
    prop_oneof![
        Just(Payload::Nothing),
        (ids(), ids())
            .prop_map(|(voters, learners)| Payload::Members(Members { voters, learners })),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|data| {
            command(&wire::encode(Kind::STORE_ENTRY, 1, &data, 100).expect("short"))
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(
        numbers in any::<(u64, u64, u64, u64)>(),
        payloads in proptest::collection::vec(payload(), 0..5),
    ) {
        let (epoch, term, index, commit) = numbers;
        let entries: Vec<Entry> = payloads
            .into_iter()
            .map(|payload| Entry { index, term, payload })
            .collect();
        for entry in &entries {
            let record = to_record(entry).expect("encodes");
            prop_assert_eq!(&from_record(record).expect("decodes"), entry);
        }
        let body = Body::Append { previous_index: index, previous_term: term, entries, commit };
        let message = Message { epoch, term, body };
        let bytes = encode_message(&message).expect("encodes");
        prop_assert_eq!(decode_message(&bytes), Ok(message));
    }

    /// Whatever comes, there is no panic and what is taken says the same again.
    #[test]
    fn any_bytes_are_refused_or_say_the_same_again(
        tail in proptest::collection::vec(any::<u8>(), 0..60),
        kind in 192u16..199,
    ) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(u32::try_from(tail.len()).expect("short").to_le_bytes());
        bytes.extend(tail);
        if let Ok(message) = decode_message(&bytes) {
            let again = encode_message(&message).expect("encodes");
            prop_assert_eq!(decode_message(&again), Ok(message));
        }
        if let Ok(entry) = from_record(wire::Entry { term: 1, index: 1, data: bytes.clone() }) {
            let again = to_record(&entry).expect("encodes");
            prop_assert_eq!(from_record(again), Ok(entry));
        }
        drop(from_snapshot(&bytes));
    }
}
