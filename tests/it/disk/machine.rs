//! Durable state on real file systems: a disk that is really full, a process that is really killed.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use skep::host::disk::layout::{DataRoot, ExecRoot};
use skep::host::disk::lock::RootLock;
use skep::host::disk::{LogKey, Wal, ledger, load_or_create_key};
use skep::host::failpoint::{self, Point};
use skep::model::wire::{Entry, HardState, Kind, LogRecord};

use super::TempDir;

fn entry(index: u64, size: usize) -> LogRecord {
    LogRecord::Entry(Entry { term: 1, index, data: vec![0x5a; size] })
}

/// Runs `body` in a mount namespace of its own, with a small tmpfs over `dir`.
fn on_small_tmpfs(dir: &Path, options: &str, body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let run = || {
            unshare(CloneFlags::CLONE_NEWNS).expect("root is needed for a mount namespace");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
            body();
            umount2(dir, MntFlags::MNT_DETACH).unwrap();
        };
        let thread = scope.spawn(run);
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_really_full_disk_refuses_and_passes() {
    let dir = TempDir::new();
    on_small_tmpfs(&dir.0, "size=3m,mode=0700", || {
        let key = load_or_create_key(&dir.0).unwrap();
        let (mut wal, _) = Wal::open(&dir.0, &key).unwrap();
        let hog = dir.0.join("hog");
        let mut last = 0;
        let error = loop {
            match wal.append(&[entry(last + 1, 100_000)]) {
                Ok(()) => last += 1,
                Err(error) => break error,
            }
            assert!(last < 40, "2 MiB hold no 40 entries of 100 kB");
        };
        assert!(last >= 10, "{last} entries fit");
        assert!(error.is_full() && error.to_string().contains("no space left for the log"));
        // The reserve is there for what makes room.
        assert!(wal.has_reserve());
        wal.append_urgent(&[entry(last + 1, 100_000)]).unwrap();
        assert!(!wal.has_reserve(), "given up");
        last += 1;
        std::fs::write(&hog, vec![1; 3 << 20]).unwrap_err();
        let old: Option<Vec<u8>> = ledger::read(&dir.0.join("state"), Kind::NODE, 1).unwrap();
        assert_eq!(old, None);
        let refused = ledger::write(&dir.0.join("state"), Kind::NODE, 1, &vec![1u8; 1 << 20]);
        assert!(refused.unwrap_err().is_full());
        assert!(!dir.0.join("state.tmp").exists(), "what is not written takes no space");
        let full = wal.append(&[entry(last + 1, 200_000)]).unwrap_err();
        assert!(full.is_full(), "{full}");
        // A restart on the full disk serves everything.
        drop(wal);
        let (mut wal, found) = Wal::open(&dir.0, &key).unwrap();
        assert_eq!(u64::try_from(found.entries.len()).unwrap(), last);
        assert_eq!(found.cut, None);
        std::fs::remove_file(&hog).unwrap();
        wal.append(&[entry(last + 1, 10_000)]).unwrap();
        wal.append(&[entry(last + 2, 10_000)]).unwrap();
        wal.save_snapshot(last, 1, b"").unwrap();
        wal.save_snapshot(last + 1, 1, b"").unwrap();
        assert_eq!(wal.compact(last + 1).unwrap(), 1);
        wal.append(&[entry(last + 3, 10)]).unwrap();
        assert!(wal.has_reserve(), "set aside again");
        drop(wal);
        let (_, found) = Wal::open(&dir.0, &key).unwrap();
        assert_eq!(found.entries.len(), 2);
    });
}

/// What the killed process does, over and over: appends with restarts, snapshots and state files.
/// Every step is told on standard output only after it was acknowledged.
#[test]
#[ignore = "the process that the test below starts and kills"]
fn killed_child() {
    let Ok(dir) = std::env::var("SKEP_TEST_DIR") else { return };
    let dir = Path::new(&dir);
    let armed = std::env::var("SKEP_FAILPOINT").unwrap();
    failpoint::arm(armed.parse().unwrap());
    let key = load_or_create_key(dir).unwrap();
    let state = dir.join("state");
    loop {
        let (mut wal, found) = Wal::open(dir, &key).unwrap();
        let snapshot = found.snapshot.as_ref().map_or(0, |s| s.index);
        let mut last = found.entries.last().map_or(snapshot, |entry| entry.index);
        for _ in 0..10 {
            wal.append(&[entry(last + 1, 100)]).unwrap();
            last += 1;
            println!("\nentry {last}");
            ledger::write_keeping_previous(&state, Kind::NODE, 1, &last).unwrap();
            println!("\nstate {last}");
        }
        wal.append(&[LogRecord::HardState(HardState { term: last, vote: None, commit: last })])
            .unwrap();
        println!("\nterm {last}");
        wal.save_snapshot(last - 5, 1, &vec![7; 5_000]).unwrap();
        println!("\nsnapshot {}", last - 5);
        wal.compact(last - 5).unwrap();
    }
}

#[test]
fn killed_at_every_point_nothing_acknowledged_is_lost() {
    let mine = ["wal.", "snapshot.", "ledger."];
    let points = Point::ALL.iter().filter(|p| mine.iter().any(|name| p.name().starts_with(name)));
    let mut tried = 0;
    for point in points {
        for pass in [1, 3, 11] {
            let dir = TempDir::new();
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "disk::machine::killed_child", "--ignored", "--nocapture"])
                .env("SKEP_TEST_DIR", &dir.0)
                .env("SKEP_FAILPOINT", format!("{}:{pass}", point.name()))
                .output()
                .unwrap();
            let name = format!("{}:{pass}", point.name());
            let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
            assert_eq!(signal, Some(9), "{name}: {child:?}");
            let told = String::from_utf8(child.stdout).unwrap();
            check_after_kill(&dir.0, &told, &name);
            tried += 1;
        }
    }
    assert!(tried >= 36, "only {tried} kills");
}

fn check_after_kill(dir: &Path, told: &str, name: &str) {
    let acknowledged = |what: &str| -> u64 {
        let lines = told.lines().filter_map(|line| line.strip_prefix(what)?.trim().parse().ok());
        lines.max().unwrap_or(0)
    };
    let key = load_or_create_key(dir).unwrap();
    let (mut wal, found) = Wal::open(dir, &key).unwrap_or_else(|e| panic!("{name}: {e}"));
    let snapshot = found.snapshot.as_ref().map_or(0, |s| s.index);
    let last = found.entries.last().map_or(snapshot, |entry| entry.index);
    assert!(last >= acknowledged("entry"), "{name}: the log ends at {last}: {told}");
    assert!(snapshot >= acknowledged("snapshot"), "{name}: {snapshot}: {told}");
    assert!(found.hard_state.term >= acknowledged("term"), "{name}: {found:?}");
    assert_eq!(u64::try_from(found.entries.len()).unwrap(), last - snapshot, "{name}");
    let state = ledger::read::<u64>(&dir.join("state"), Kind::NODE, 1).unwrap().unwrap_or(0);
    assert!(state >= acknowledged("state") && state <= last, "{name}: {state}: {told}");
    wal.append(&[entry(last + 1, 10)]).unwrap();
}

#[test]
fn one_daemon_per_data_root() {
    let dir = TempDir::new();
    let lock = RootLock::take("data", &dir.0).unwrap();
    let refused = RootLock::take("data", &dir.0).unwrap_err().to_string();
    let me = format!("another skep daemon (pid {}) uses {}", std::process::id(), dir.0.display());
    assert!(refused.starts_with(&me), "{refused}");
    drop(lock);
    drop(RootLock::take("data", &dir.0).unwrap());
}

#[test]
fn roots_are_made_for_their_owner_alone_and_bad_places_are_refused() {
    let dir = TempDir::new();
    let root = DataRoot::prepare(&dir.0.join("lib/skep")).unwrap();
    let exec = ExecRoot::prepare(&dir.0.join("run/skep")).unwrap();
    for path in [root.path().to_owned(), root.raft(), root.images(), exec.tasks(), exec.secrets()] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
    DataRoot::prepare(root.path()).unwrap();

    let file = dir.0.join("file");
    std::fs::write(&file, "").unwrap();
    DataRoot::prepare(&file).unwrap_err();
    let open = dir.0.join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let refused = DataRoot::prepare(&open).unwrap_err().to_string();
    assert!(refused.contains("others may write to it"), "{refused}");
    let small = dir.0.join("small");
    std::fs::create_dir(&small).unwrap();
    on_small_tmpfs(&small, "size=1m,mode=0700,ro", || {
        let refused = DataRoot::prepare(&small).unwrap_err().to_string();
        assert!(refused.contains("read-only"), "{refused}");
    });
}

#[test]
fn the_key_is_private_and_never_made_anew_beside_a_log() {
    let dir = TempDir::new();
    let key = load_or_create_key(&dir.0).unwrap();
    let file = dir.0.join("log.key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (mut wal, _) = Wal::open(&dir.0, &key).unwrap();
    wal.append(&[entry(1, 10)]).unwrap();
    drop(wal);
    let text = std::fs::read_dir(&dir.0)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let needle = [0x5a; 10];
    assert!(text.into_iter().all(|bytes| !bytes.windows(10).any(|w| w == needle)), "not sealed");

    let (_, found) = Wal::open(&dir.0, &load_or_create_key(&dir.0).unwrap()).unwrap();
    assert_eq!(found.entries.len(), 1);
    let other = Wal::open(&dir.0, &LogKey::new([1; 32])).unwrap_err();
    let source = std::error::Error::source(&other).unwrap().to_string();
    assert!(source.contains("seal does not open: another key"), "{source}");
    std::fs::remove_file(&file).unwrap();
    let missing = load_or_create_key(&dir.0).unwrap_err().to_string();
    assert!(missing.contains("log.key is missing"), "{missing}");
}
