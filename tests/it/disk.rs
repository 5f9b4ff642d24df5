//! Durable state on the machine's own file system: what an append keeps, what opening proves.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

mod crash;
mod damage;
mod machine;
#[path = "../sim/mem_disk.rs"]
mod mem_disk;

use skep::host::disk::{LogKey, Wal, ledger};
use skep::model::wire::{Entry, HardState, Kind, LogRecord};

/// A folder that goes with the test.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skep-disk-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn entry(index: u64, term: u64) -> LogRecord {
    let data = format!("entry {index} of term {term}").into_bytes();
    LogRecord::Entry(Entry { term, index, data })
}

#[test]
fn a_log_comes_back_over_restarts_snapshots_and_compaction() {
    let dir = TempDir::new();
    let key = LogKey::new([3; 32]);
    let mut entries = Vec::new();
    for round in 1..=4u64 {
        let (mut wal, found) = Wal::open(&dir.0, &key).unwrap();
        assert_eq!(found.cut, None);
        let snapshot = found.snapshot.as_ref().map_or(0, |s| s.index);
        let want: Vec<_> = entries.iter().filter(|e: &&Entry| e.index > snapshot).collect();
        assert_eq!(found.entries.iter().collect::<Vec<_>>(), want);
        assert_eq!(found.hard_state.term, round - 1);
        for index in round * 10 - 9..=round * 10 {
            wal.append(&[entry(index, round)]).unwrap();
            let LogRecord::Entry(entry) = entry(index, round) else { unreachable!() };
            entries.push(entry);
        }
        wal.append(&[LogRecord::HardState(HardState { term: round, vote: None, commit: 0 })])
            .unwrap();
        let through = round * 10 - 5;
        wal.save_snapshot(through, round, format!("store {through}").as_bytes()).unwrap();
        wal.compact(through).unwrap();
        assert!(wal.segments() <= 3, "{}", wal.segments());
    }
    let (_, found) = Wal::open(&dir.0, &key).unwrap();
    assert_eq!(found.snapshot.unwrap().data, b"store 35");
    assert_eq!(found.entries.len(), 5);
}

#[test]
fn a_state_file_with_any_byte_flipped_or_missing_is_never_believed() {
    let dir = TempDir::new();
    let path = dir.0.join("state");
    ledger::write_keeping_previous(&path, Kind::NODE, 1, "old").unwrap();
    ledger::write_keeping_previous(&path, Kind::NODE, 1, "new").unwrap();
    let read = || ledger::read::<String>(&path, Kind::NODE, 1);
    assert_eq!(read().unwrap().as_deref(), Some("new"));
    let good = std::fs::read(&path).unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            std::fs::write(&path, &bad).unwrap();
            let error = read().unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(read().is_err(), "{at} bytes");
        let found = ledger::read_with_previous::<String>(&path, Kind::NODE, 1).unwrap().unwrap();
        assert_eq!(found.value, "old");
        assert!(found.from_previous.unwrap().contains("damaged"));
    }
    let longer = [&good[..], b"x"].concat();
    std::fs::write(&path, longer).unwrap();
    assert!(read().is_err());
    ledger::write_keeping_previous(&path, Kind::NODE, 1, "newer").unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read().unwrap(), None);
}
