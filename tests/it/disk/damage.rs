//! The log with one bit flipped, or a file cut short or gone, at every place.
//!
//! It starts in a state that its bytes prove, and says what it left out; or it refuses and names
//! the file. It never starts in a state that was not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep::host::disk::{Recovered, Wal};
use skep::model::wire::{Entry, HardState, LogRecord};

use super::crash::{Model, Step, open, run, store};
use super::mem_disk::MemDisk;

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn entry(index: u64, term: u64) -> LogRecord {
    let data = format!("entry {index} of term {term}").into_bytes();
    LogRecord::Entry(Entry { term, index, data })
}

fn hard_state(term: u64, commit: u64) -> LogRecord {
    LogRecord::HardState(HardState { term, vote: None, commit })
}

/// Three segments, the newest with four frames, and two snapshots.
fn steps() -> Vec<Step> {
    vec![
        Step::Append(vec![entry(1, 1), entry(2, 1)]),
        Step::Append(vec![hard_state(1, 2), entry(3, 1)]),
        Step::Snapshot((2, 1)),
        Step::Reopen,
        Step::Append(vec![entry(4, 1), entry(5, 1)]),
        Step::Append(vec![entry(5, 2), hard_state(2, 4)]),
        Step::Snapshot((4, 1)),
        Step::Reopen,
        Step::Append(vec![entry(6, 2)]),
        Step::Append(vec![hard_state(3, 5)]),
        Step::Append(vec![entry(7, 3), entry(8, 3)]),
        Step::Append(vec![entry(9, 3)]),
    ]
}

/// The files at the end, and the states that the log went through, oldest first.
fn history() -> (Files, Vec<Model>) {
    let steps = steps();
    let disk = MemDisk::new(1);
    let states = (0..=steps.len()).flat_map(|n| run(&MemDisk::new(1), &steps[..n])).collect();
    run(&disk, &steps);
    let files = disk.files();
    assert_eq!(segments(&files).len(), 3);
    (files, states)
}

/// Oldest first.
fn segments(files: &Files) -> Vec<&Path> {
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|e| e == "seg");
    files.keys().filter(is_segment).map(PathBuf::as_path).collect()
}

fn is_newest_segment(files: &Files, path: &Path) -> bool {
    segments(files).last() == Some(&path)
}

/// What opening changed files must be: an error that names `path`, the whole state, or (only where
/// `path` is the newest segment) an earlier state with a word about it.
struct Verdict<'a> {
    files: &'a Files,
    states: &'a [Model],
    /// The file was cut, not changed: exactly between two frames that leaves no trace, and any
    /// number of frames may be missing.
    silent_prefix: bool,
}

impl Verdict<'_> {
    fn check(&self, changed: &Files, path: &Path) -> Result<&'static str, String> {
        let disk = MemDisk::with_files(changed, 1);
        let (wal, found) = match open(&disk) {
            Ok(opened) => opened,
            Err(error) if error.contains(path.to_str().unwrap()) => {
                let placed = error.contains("at byte") && error.contains("join again");
                return if placed { Ok("refused") } else { Err(error) };
            }
            Err(error) => return Err(format!("another file is named: {error}")),
        };
        let now = self.states.last().unwrap();
        let kind = match now.difference(&found) {
            None => "whole",
            Some(_) if !found.damaged_snapshots.is_empty() => {
                let named = found.damaged_snapshots.join(" ");
                let place = found.snapshot.as_ref().map_or((0, 0), |s| (s.index, s.term));
                if let Some(wrong) = now.difference_behind(place, &found) {
                    return Err(format!("behind the older snapshot: {wrong}"));
                }
                if !named.contains(path.to_str().unwrap()) {
                    return Err(format!("the wrong snapshot is named: {named}"));
                }
                "from the snapshot before"
            }
            Some(_) => self.earlier(&found, path)?,
        };
        self.goes_on(&disk, wal, &found)?;
        Ok(kind)
    }

    fn earlier(&self, found: &Recovered, path: &Path) -> Result<&'static str, String> {
        if !is_newest_segment(self.files, path) {
            return Err("a part is missing that is not at the end".to_owned());
        }
        let known = self.states.iter().any(|state| state.difference(found).is_none());
        let bytes = &self.files[path];
        let last = bytes.windows(4).rposition(|window| window == b"SkeF").unwrap();
        match &found.cut {
            _ if !known => Err(format!("a state that never was: {found:?}")),
            Some(cut) if !self.silent_prefix && cut.offset != u64::try_from(last).unwrap() => {
                Err(format!("whole frames were cut off: {cut}"))
            }
            Some(cut) if cut.path == path && found.doubt == Some(cut.index) => Ok("cut"),
            None if self.silent_prefix => Ok("a prefix"),
            other => Err(format!("what is missing is not told: {other:?}")),
        }
    }

    /// What was found is what the next opening finds, with what was appended; a cut stays told.
    fn goes_on(
        &self,
        disk: &MemDisk,
        mut wal: Wal<MemDisk>,
        found: &Recovered,
    ) -> Result<(), String> {
        let last = found.entries.last().map_or(0, |entry| entry.index);
        let last = last.max(found.snapshot.as_ref().map_or(0, |s| s.index));
        let record = entry(last + 1, 9);
        wal.append(std::slice::from_ref(&record)).map_err(|error| error.to_string())?;
        let (mut wal, again) = open(disk)?;
        let LogRecord::Entry(added) = record else { unreachable!() };
        let mut want = found.entries.clone();
        want.push(added);
        if again.entries != want || again.hard_state != found.hard_state {
            return Err("the next opening finds something else".to_owned());
        }
        if again.doubt != found.doubt {
            return Err(format!("the doubt {:?} became {:?}", found.doubt, again.doubt));
        }
        wal.append(&[LogRecord::CutHealed]).map_err(|error| error.to_string())?;
        let (_, healed) = open(disk)?;
        if healed.doubt.is_some() { Err("the doubt stays".to_owned()) } else { Ok(()) }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let (files, states) = history();
    let verdict = Verdict { files: &files, states: &states, silent_prefix: false };
    let mut counts = BTreeMap::<&str, u32>::new();
    for (path, bytes) in &files {
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut changed = files.clone();
                changed.get_mut(path).unwrap()[at] ^= 1 << bit;
                match verdict.check(&changed, path) {
                    Ok(kind) => *counts.entry(kind).or_default() += 1,
                    Err(wrong) => panic!("{} byte {at} bit {bit}: {wrong}", path.display()),
                }
            }
        }
    }
    assert!(counts["refused"] > 1_000 && counts["cut"] > 50, "{counts:?}");
    assert!(counts["from the snapshot before"] > 500, "{counts:?}");
}

#[test]
fn a_file_cut_short_anywhere_is_found() {
    let (files, states) = history();
    let verdict = Verdict { files: &files, states: &states, silent_prefix: true };
    let mut counts = BTreeMap::<&str, u32>::new();
    for (path, bytes) in &files {
        for length in 0..bytes.len() {
            let mut changed = files.clone();
            changed.get_mut(path).unwrap().truncate(length);
            match verdict.check(&changed, path) {
                Ok(kind) => *counts.entry(kind).or_default() += 1,
                Err(wrong) => panic!("{} cut to {length} bytes: {wrong}", path.display()),
            }
        }
    }
    assert!(counts["a prefix"] >= 4 && counts["cut"] > 300, "{counts:?}");
}

#[test]
fn a_torn_frame_in_front_of_a_whole_one_is_no_torn_tail() {
    let (files, _) = history();
    let path = *segments(&files).last().unwrap();
    let mut changed = files.clone();
    let bytes = changed.get_mut(path).unwrap();
    // Zeros over the middle, as a disk does that wrote the end first.
    let (from, to) = (bytes.len() - 120, bytes.len() - 100);
    bytes[from..to].fill(0);
    let error = open(&MemDisk::with_files(&changed, 1)).unwrap_err();
    assert!(error.contains(path.to_str().unwrap()) && error.contains("at byte"), "{error}");
}

#[test]
fn a_missing_segment_is_named_and_a_missing_first_one_is_noticed() {
    let (files, _) = history();
    let segments = segments(&files);
    let without = |path: &Path| {
        let mut changed = files.clone();
        changed.remove(path);
        open(&MemDisk::with_files(&changed, 1)).map(|(_, found)| found)
    };
    let error = without(segments[1]).unwrap_err();
    assert!(error.contains("/raft is missing a part of the log: segment 2"), "{error}");
    // The snapshot covers what the first one held.
    assert_eq!(without(segments[0]).unwrap().snapshot.unwrap().index, 4);
    let mut changed = files.clone();
    changed.retain(|path, _| path != segments[0] && path.extension().is_some_and(|e| e == "seg"));
    let error = open(&MemDisk::with_files(&changed, 1)).unwrap_err();
    assert!(error.contains("no whole snapshot reaches it"), "{error}");
}

#[test]
fn frames_cannot_be_swapped_repeated_or_carried_to_another_segment() {
    let disk = MemDisk::new(1);
    // Frames of one length each that may follow each other in any number: only their chain tells.
    let steps: Vec<_> = (1..=4).map(|term| Step::Append(vec![hard_state(term, 0)])).collect();
    run(&disk, &steps);
    let files = disk.files();
    let (path, bytes) =
        files.iter().find(|(p, _)| p.extension().is_some_and(|e| e == "seg")).unwrap();
    let marker = b"SkeF";
    let starts: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(marker)).collect();
    assert_eq!(starts.len(), 4);
    let (second, third, fourth) =
        (&bytes[starts[1]..starts[2]], &bytes[starts[2]..starts[3]], &bytes[starts[3]..]);
    let head = &bytes[..starts[1]];
    for forged in [
        [head, third, second, fourth].concat(),
        [head, second, second, third, fourth].concat(),
        [head, second, fourth].concat(),
        [head, third, fourth].concat(),
    ] {
        let mut changed = files.clone();
        changed.insert(path.clone(), forged);
        let error = open(&MemDisk::with_files(&changed, 1)).unwrap_err();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn compaction_keeps_what_the_snapshot_before_the_newest_needs_and_the_hard_state() {
    let disk = MemDisk::new(1);
    let steps = [
        Step::Append(vec![entry(1, 1), hard_state(7, 0)]),
        Step::Reopen,
        Step::Append(vec![entry(2, 1)]),
        Step::Snapshot((1, 1)),
        Step::Reopen,
        Step::Append(vec![entry(3, 1)]),
        Step::Snapshot((3, 1)),
        Step::Compact,
    ];
    let model = run(&disk, &steps).pop().unwrap();
    let files = disk.files();
    assert_eq!(segments(&files).len(), 2, "only the first one, which the older snapshot covers");
    let (_, found) = open(&disk).unwrap();
    assert_eq!(model.difference(&found), None);
    assert_eq!(found.hard_state.term, 7, "it was told in the removed segment");
    let newest = files.keys().rfind(|p| p.extension().is_some_and(|e| e == "snap")).unwrap();
    let mut changed = files.clone();
    changed.get_mut(newest).unwrap()[90] ^= 1;
    let (_, found) = open(&MemDisk::with_files(&changed, 1)).unwrap();
    assert_eq!(found.snapshot.as_ref().map(|s| s.index), Some(1));
    assert_eq!(model.difference_behind((1, 1), &found), None);
    assert!(found.damaged_snapshots[0].contains(newest.to_str().unwrap()));
}

#[test]
fn a_damaged_snapshot_that_nothing_replaces_is_an_error() {
    let disk = MemDisk::new(1);
    let steps = [
        Step::Append(vec![entry(1, 1)]),
        // From the leader: the log goes on behind it, and nothing older reaches it.
        Step::Snapshot((7, 2)),
        Step::Append(vec![entry(8, 2)]),
    ];
    run(&disk, &steps);
    let files = disk.files();
    let snapshot = files.keys().find(|p| p.extension().is_some_and(|e| e == "snap")).unwrap();
    let mut changed = files.clone();
    let at = changed[snapshot].len() - store((7, 2)).len() / 2;
    changed.get_mut(snapshot).unwrap()[at] ^= 1;
    let error = open(&MemDisk::with_files(&changed, 1)).unwrap_err();
    assert!(error.contains("begins behind index 7"), "{error}");
    assert!(error.contains(snapshot.to_str().unwrap()), "{error}");
    let mut changed = files.clone();
    changed.remove(snapshot);
    let error = open(&MemDisk::with_files(&changed, 1)).unwrap_err();
    assert!(error.contains("no whole snapshot"), "{error}");
}
