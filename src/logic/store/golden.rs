//! The frozen bytes of entries and snapshots. They change only with a new version.
//!
//! A difference here means that a log which an older release wrote can no longer be read: make a new
//! version, and keep the old files and their reader (`model::v1`).

use expect_test::{ExpectFile, expect_file};

use super::{ApplyResult, Store};
use crate::base::id::RequestId;
use crate::base::time::Wall;
use crate::logic::codec;
use crate::model::entry::{Change, Entry};
use crate::model::object::Object;
use crate::model::sample;

/// Lines of 32 bytes.
fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n") + "\n"
}

fn bytes_of(file: &ExpectFile) -> Vec<u8> {
    let text: String = file.data().chars().filter(|c| !c.is_whitespace()).collect();
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn store(objects: Vec<Object>) -> Store {
    let mut store = Store::default();
    for (index, object) in (1..).zip(objects) {
        let request = RequestId::new(u128::from(index) + 20);
        let changes = vec![Change::Put(object)];
        store.apply(index, &Entry { request, time: Wall(50), preconditions: Vec::new(), changes });
    }
    store
}

#[test]
fn entries() {
    let now = expect_file!["../../../tests/data/wire/store-entry-2.hex"];
    let entry = sample::entry(sample::objects());
    now.assert_eq(&hex(&codec::encode_entry(&entry).unwrap()));
    assert_eq!(codec::decode_entry(&bytes_of(&now)).unwrap(), entry);

    let old = expect_file!["../../../tests/data/wire/store-entry-1.hex"];
    let entry = sample::entry(sample::objects_v1());
    assert_eq!(codec::decode_entry(&bytes_of(&old)).unwrap(), entry);
}

#[test]
fn snapshots() {
    let now = expect_file!["../../../tests/data/wire/store-snapshot-2.hex"];
    let all = store(sample::objects());
    now.assert_eq(&hex(&all.snapshot().unwrap()));
    assert_eq!(Store::restore(&bytes_of(&now)).unwrap().hash(), all.hash());

    let old = expect_file!["../../../tests/data/wire/store-snapshot-1.hex"];
    let (restored, all) = (Store::restore(&bytes_of(&old)).unwrap(), store(sample::objects_v1()));
    assert_eq!(restored.index(), all.index());
    for object in sample::objects() {
        assert_eq!(restored.get(object.id()), all.get(object.id()));
    }
    // It told only services' ids.
    let answers = [21, 22, 23, 24, 25, 26].map(|n| restored.answer(RequestId::new(n)));
    let (done, made) = (Some(ApplyResult::Done), ApplyResult::Created(sample::objects()[3].id()));
    assert_eq!(answers, [done, done, done, Some(made), done, None]);
}
