//! The frozen bytes of everything that this folder writes. They change only with a new version.
//!
//! A difference here means that a disk which an older release wrote can no longer be read: make a
//! new version, and keep the old file and its reader.

use std::path::Path;

use expect_test::{ExpectFile, expect_file};

use super::seal::LogKey;
use super::segment::{self, Frames, Header, Previous};
use super::{ledger, snapshot};
use crate::base::id::NodeId;
use crate::model::wire::{self, Entry, HardState, Kind, LogRecord, RECORD_BYTES_MAX};

const KEY: LogKey = LogKey::new([0x11; 32]);
const SALT: [u8; 32] = [0x22; 32];

fn records() -> Vec<LogRecord> {
    vec![
        LogRecord::HardState(HardState { term: 3, vote: Some(NodeId::new(7)), commit: 200 }),
        LogRecord::HardState(HardState::default()),
        LogRecord::Entry(Entry { term: 3, index: 300, data: b"data".to_vec() }),
        LogRecord::SnapshotMark { index: 400, term: 4 },
        LogRecord::Cut { index: 400 },
        LogRecord::CutHealed,
    ]
}

/// Lines of 32 bytes.
fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// `write` must give the frozen bytes; they are handed back so that `read` can be tried on them.
fn check(file: &ExpectFile, written: &[u8]) -> Vec<u8> {
    file.assert_eq(&hex(written));
    let text: String = file.data().chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn records_of_the_log() {
    let mut bytes = Vec::new();
    records().iter().for_each(|record| record.encode_into(&mut bytes).unwrap());
    let frozen = check(&expect_file!["../../../tests/data/wire/log-records-1.hex"], &bytes);
    let mut rest = &frozen[..];
    for record in records() {
        let (frame, after) = wire::split(rest, RECORD_BYTES_MAX).unwrap();
        assert_eq!(LogRecord::decode(&frame).unwrap(), record);
        rest = after;
    }
}

#[test]
fn a_segment() {
    let previous = Previous { length: 4096, last_index: 299, last_term: 3, tag: [0x33; 16] };
    let header =
        Header { feature_level: 1, salt: SALT, sequence: 2, first_index: 300, previous };
    let key = header.key(&KEY);
    let (head, tag) = header.encode(&key);
    let mut bytes = head.to_vec();
    let mut chain = tag;
    for (counter, record) in [1, 2, 4, 5, 6, 9].into_iter().zip(records()) {
        let mut text = Vec::new();
        record.encode_into(&mut text).unwrap();
        chain = segment::seal_frame(&key, counter, &chain, text, &mut bytes);
    }
    let frozen = check(&expect_file!["../../../tests/data/wire/log-segment-1.hex"], &bytes);
    let (found, key, tag) = Header::decode(&frozen, &KEY).unwrap();
    assert_eq!(found, header);
    let mut frames = Frames::new(&frozen, &key, tag);
    for record in records() {
        assert_eq!(frames.next().unwrap(), [record]);
    }
    assert_eq!(frames.offset(), frozen.len());
    assert_eq!(segment::file_name(2, 300), "wal-00000002-00000000000000000300.seg");
}

#[test]
fn a_snapshot() {
    let bytes = snapshot::encode(&KEY, SALT, (300, 3), b"the store");
    let frozen = check(&expect_file!["../../../tests/data/wire/snapshot-1.hex"], &bytes);
    let found = snapshot::decode(&frozen, &KEY).unwrap();
    assert_eq!((found.place(), &found.data[..]), ((300, 3), &b"the store"[..]));
    let name = "snapshot-00000000000000000300-00000000000000000003.snap";
    assert_eq!(snapshot::file_name((300, 3)), name);
}

#[test]
fn a_state_file() {
    let path = Path::new("state");
    let bytes = ledger::encode(path, Kind::NODE, 1, &("name", 300u64)).unwrap();
    let frozen = check(&expect_file!["../../../tests/data/wire/state-file-1.hex"], &bytes);
    let (version, payload) = ledger::parse(path, Kind::NODE, &frozen).unwrap();
    assert_eq!((version, payload), (1, b"\x04name\xac\x02".to_vec()));
}
