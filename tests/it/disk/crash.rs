//! The log under crashes, full disks and failed syncs, at every call that changes the disk.
//!
//! A script of random appends, snapshots, compactions and restarts runs against [`MemDisk`] and a
//! model. Whatever happens, opening must give a state in which nothing acknowledged is missing and
//! nothing is there that was never asked for.

use std::collections::BTreeMap;
use std::path::Path;

use skep::base::rng::Rng;
use skep::host::disk::{LogKey, Recovered, Wal};
use skep::model::wire::{Entry, HardState, LogRecord};

use super::mem_disk::{Fault, Leaves, MemDisk};

const DIR: &str = "/raft";

/// What the log holds, as the caller sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    hard_state: HardState,
    entries: BTreeMap<u64, Entry>,
    last: (u64, u64),
    /// Every snapshot that was saved; the last one is the newest.
    snapshots: Vec<(u64, u64)>,
}

impl Model {
    fn apply(&mut self, record: &LogRecord) {
        match record {
            LogRecord::Entry(entry) => {
                self.entries.split_off(&entry.index);
                self.entries.insert(entry.index, entry.clone());
                self.last = (entry.index, entry.term);
            }
            LogRecord::HardState(state) => self.hard_state = *state,
            LogRecord::SnapshotMark { .. } | LogRecord::Cut { .. } | LogRecord::CutHealed => {}
        }
    }

    fn save_snapshot(&mut self, place: (u64, u64)) {
        if self.entries.get(&place.0).is_none_or(|entry| entry.term != place.1) {
            self.entries.clear();
            self.last = place;
        }
        self.snapshots.push(place);
    }

    fn newest_snapshot(&self) -> (u64, u64) {
        self.snapshots.last().copied().unwrap_or_default()
    }

    /// Why `found` is not this state, if it is not.
    pub(super) fn difference(&self, found: &Recovered) -> Option<String> {
        let place = found.snapshot.as_ref().map_or((0, 0), |s| (s.index, s.term));
        if place != self.newest_snapshot() {
            return Some(format!("snapshot {place:?}, want {:?}", self.newest_snapshot()));
        }
        if let Some(snapshot) = &found.snapshot
            && snapshot.data != store(place)
        {
            return Some(format!("snapshot {place:?} holds something else"));
        }
        self.difference_behind(place, found)
    }

    /// The same, from a snapshot that need not be the newest.
    pub(super) fn difference_behind(&self, place: (u64, u64), found: &Recovered) -> Option<String> {
        if found.hard_state != self.hard_state {
            return Some(format!("{:?}, want {:?}", found.hard_state, self.hard_state));
        }
        let want: Vec<&Entry> = self.entries.range(place.0 + 1..).map(|(_, entry)| entry).collect();
        if found.entries.iter().collect::<Vec<_>>() != want {
            let places: Vec<_> = found.entries.iter().map(|e| (e.index, e.term)).collect();
            return Some(format!("entries {places:?}, the last should be {:?}", self.last));
        }
        None
    }
}

/// What a snapshot holds.
pub(super) fn store(place: (u64, u64)) -> Vec<u8> {
    format!("the store at {place:?} ").repeat(20).into_bytes()
}

/// One thing that is done to a log.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<LogRecord>),
    Snapshot((u64, u64)),
    Compact,
    Reopen,
}

/// Random steps that a member of a cluster may take.
pub(super) fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut rng = Rng::new(seed);
    let mut model = Model::default();
    let mut script = Vec::new();
    while script.len() < steps {
        let step = match rng.below(12) {
            0 => Step::Reopen,
            1 => Step::Compact,
            2 => {
                // Of the own log, or one that the leader sent and that is ahead of it.
                let index = model.newest_snapshot().0 + 1 + rng.below(6);
                let own = model.entries.get(&index).map(|entry| entry.term);
                let term = own.unwrap_or(model.last.1.max(1));
                if own.is_none() && index <= model.last.0 {
                    continue;
                }
                Step::Snapshot((index, term))
            }
            _ => Step::Append(batch(&model, &mut rng)),
        };
        match &step {
            Step::Append(records) => records.iter().for_each(|record| model.apply(record)),
            Step::Snapshot(place) => model.save_snapshot(*place),
            Step::Compact | Step::Reopen => {}
        }
        script.push(step);
    }
    script
}

fn batch(model: &Model, rng: &mut Rng) -> Vec<LogRecord> {
    let mut model = model.clone();
    let mut records = Vec::new();
    for _ in 0..=rng.below(3) {
        let record = if rng.one_in(4) {
            let term = model.hard_state.term.max(model.last.1) + rng.below(2);
            let vote = rng.one_in(2).then(|| skep::base::id::NodeId::new(rng.next_u128()));
            LogRecord::HardState(HardState { term, vote, commit: model.newest_snapshot().0 })
        } else {
            // Sometimes a newer leader replaces what was not committed.
            let floor = model.newest_snapshot().0;
            let back = if rng.one_in(6) { rng.below(model.last.0 - floor + 1) } else { 0 };
            let term = model.last.1.max(1) + u64::from(back > 0);
            let size = usize::try_from(rng.below(900)).unwrap();
            let data = vec![u8::try_from(rng.below(256)).unwrap(); size];
            LogRecord::Entry(Entry { term, index: model.last.0 - back + 1, data })
        };
        model.apply(&record);
        records.push(record);
    }
    records
}

pub(super) fn open(disk: &MemDisk) -> Result<(Wal<MemDisk>, Recovered), String> {
    Wal::open_on(disk.clone(), Path::new(DIR), &LogKey::new([9; 32])).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    })
}

/// Runs the script until the disk stops. The states that a restart may find: the last is newest.
pub(super) fn run(disk: &MemDisk, script: &[Step]) -> Vec<Model> {
    let mut model = Model::default();
    let Ok((mut wal, _)) = open(disk) else { return vec![model] };
    for step in script {
        let mut next = model.clone();
        let done = match step {
            Step::Append(records) => {
                records.iter().for_each(|record| next.apply(record));
                wal.append(records)
            }
            Step::Snapshot(place) => {
                next.save_snapshot(*place);
                wal.save_snapshot(place.0, place.1, &store(*place))
            }
            Step::Compact => wal.compact(model.newest_snapshot().0).map(|_removed| ()),
            Step::Reopen => {
                drop(wal);
                let Ok((opened, found)) = open(disk) else { return vec![model] };
                assert_eq!(model.difference(&found), None);
                wal = opened;
                Ok(())
            }
        };
        if done.is_err() {
            return vec![model, next];
        }
        model = next;
    }
    vec![model]
}

/// Opens what a crash left, checks it, writes on and checks that too.
fn check_survivor(disk: &MemDisk, allowed: &[Model]) -> Result<(), String> {
    let (mut wal, found) = open(disk)?;
    let differences: Vec<_> = allowed.iter().map(|model| model.difference(&found)).collect();
    let Some(at) = differences.iter().position(Option::is_none) else {
        return Err(format!("not a state that may be found: {differences:?}"));
    };
    let mut model = allowed[at].clone();
    let data = b"after the crash".to_vec();
    let (index, term) = (model.last.0 + 1, model.last.1.max(1));
    let record = LogRecord::Entry(Entry { term, index, data });
    model.apply(&record);
    wal.append(&[record]).map_err(|error| error.to_string())?;
    let (_, found) = open(disk)?;
    model.difference(&found).map_or(Ok(()), Err)
}

fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SEED is a number");
            seed..seed + 1
        }
        Err(_unset) => 0..count,
    }
}

#[test]
fn a_crash_between_any_two_calls_loses_nothing_acknowledged() {
    let mut crashes = 0;
    for seed in seeds(4) {
        let script = script(seed, 40);
        let whole = MemDisk::new(seed);
        run(&whole, &script);
        for call in 0..=whole.calls() {
            let disk = MemDisk::new(seed);
            disk.crash_at(call);
            let allowed = run(&disk, &script);
            for (number, leaves) in
                [Leaves::Nothing, Leaves::All, Leaves::Some, Leaves::Some].into_iter().enumerate()
            {
                let survivor = disk.survivor(leaves, seed ^ call ^ u64::try_from(number).unwrap());
                if let Err(wrong) = check_survivor(&survivor, &allowed) {
                    panic!("SEED={seed}: stopped at call {call}, {leaves:?} left: {wrong}");
                }
                crashes += 1;
            }
        }
    }
    println!("{crashes} crashes");
}

#[test]
fn a_killed_process_and_then_a_power_cut_lose_nothing() {
    for seed in seeds(4) {
        let script = script(seed, 30);
        let whole = MemDisk::new(seed);
        run(&whole, &script);
        for call in 0..whole.calls() {
            let disk = MemDisk::new(seed);
            disk.crash_at(call);
            let allowed = run(&disk, &script);
            disk.go_on();
            let (mut wal, found) = open(&disk).unwrap();
            let at = allowed.iter().position(|model| model.difference(&found).is_none());
            let mut model = allowed[at.expect("an allowed state")].clone();
            // What was served once must be there after the power cut, also without a write.
            let early = disk.survivor(Leaves::Nothing, seed);
            if let Err(wrong) = check_survivor(&early, std::slice::from_ref(&model)) {
                panic!("SEED={seed}: killed at call {call}, served, power cut: {wrong}");
            }
            let (index, term) = (model.last.0 + 1, model.last.1.max(1));
            let record = LogRecord::Entry(Entry { term, index, data: vec![2; 50] });
            wal.append(std::slice::from_ref(&record)).unwrap();
            model.apply(&record);
            let late = disk.survivor(Leaves::Nothing, seed);
            if let Err(wrong) = check_survivor(&late, &[model]) {
                panic!("SEED={seed}: killed at call {call}, written, power cut: {wrong}");
            }
        }
    }
}

#[test]
fn a_second_crash_while_starting_again_loses_nothing_either() {
    for seed in seeds(30) {
        let script = script(seed, 30);
        let mut rng = Rng::new(seed);
        let whole = MemDisk::new(seed);
        run(&whole, &script);
        let disk = MemDisk::new(seed);
        let call = rng.below(whole.calls());
        disk.crash_at(call);
        let allowed = run(&disk, &script);
        let first = disk.survivor(Leaves::Some, seed);
        // The restart writes one entry and stops somewhere on the way.
        for call in 0..10 {
            let restarted = first.survivor(Leaves::All, seed);
            restarted.crash_at(call);
            let mut later = allowed.clone();
            if let Ok((mut wal, found)) = open(&restarted) {
                let at = allowed.iter().position(|model| model.difference(&found).is_none());
                let mut model = allowed[at.expect("an allowed state")].clone();
                later = vec![model.clone()];
                let (index, term) = (model.last.0 + 1, model.last.1.max(1));
                let record = LogRecord::Entry(Entry { term, index, data: vec![1; 700] });
                model.apply(&record);
                if wal.append(&[record]).is_ok() {
                    later.clear();
                }
                later.push(model);
            }
            let survivor = restarted.survivor(Leaves::Some, seed ^ call);
            if let Err(wrong) = check_survivor(&survivor, &later) {
                panic!("SEED={seed}: stopped again at call {call}: {wrong}");
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_acknowledges_nothing_and_passes() {
    for seed in seeds(4) {
        let script = script(seed, 30);
        let whole = MemDisk::new(seed);
        run(&whole, &script);
        for call in 0..whole.calls() {
            let disk = MemDisk::new(seed);
            for full in call..call + 3 {
                disk.fail_at(full, Fault::Full);
            }
            let mut model = Model::default();
            let (mut wal, _) = open(&disk).unwrap();
            for step in &script {
                // Whoever is refused asks again, until there is room.
                for attempt in 0.. {
                    assert!(attempt < 5, "SEED={seed}: still full, from call {call} on");
                    let done = match step {
                        Step::Append(records) => wal.append(records),
                        Step::Snapshot(at) => wal.save_snapshot(at.0, at.1, &store(*at)),
                        Step::Compact => wal.compact(model.newest_snapshot().0).map(|_n| ()),
                        Step::Reopen => Ok(()),
                    };
                    match done {
                        Ok(()) => break,
                        Err(error) => assert!(error.is_full(), "SEED={seed}: {error}"),
                    }
                    let (_, found) = open(&disk.survivor(Leaves::Some, call)).unwrap();
                    // A refused snapshot may be found: it tells what is committed anyway.
                    let mut with_snapshot = model.clone();
                    if let Step::Snapshot(place) = step {
                        with_snapshot.save_snapshot(*place);
                    }
                    if let Some(wrong) = model.difference(&found)
                        && with_snapshot.difference(&found).is_some()
                    {
                        panic!("SEED={seed}: refused at call {call}: {wrong}");
                    }
                }
                match step {
                    Step::Append(records) => records.iter().for_each(|r| model.apply(r)),
                    Step::Snapshot(place) => model.save_snapshot(*place),
                    Step::Compact => {}
                    Step::Reopen => wal = open(&disk).unwrap().0,
                }
            }
            let (_, found) = open(&disk).unwrap();
            assert_eq!(model.difference(&found), None, "SEED={seed}: full at call {call}");
        }
    }
}

#[test]
fn after_a_failed_sync_the_log_is_closed_until_it_is_opened_again() {
    for seed in seeds(4) {
        let script = script(seed, 30);
        let whole = MemDisk::new(seed);
        run(&whole, &script);
        for call in 0..whole.calls() {
            let disk = MemDisk::new(seed);
            disk.fail_at(call, Fault::Broken);
            let allowed = run(&disk, &script);
            // The process ends and starts again on the same kernel, or the power goes.
            for leaves in [Leaves::Nothing, Leaves::Some] {
                let survivor = disk.survivor(leaves, seed ^ call);
                if let Err(wrong) = check_survivor(&survivor, &allowed) {
                    panic!("SEED={seed}: sync {call} failed, {leaves:?} left: {wrong}");
                }
            }
            if let Err(wrong) = check_survivor(&disk, &allowed) {
                panic!("SEED={seed}: sync {call} failed, opened again: {wrong}");
            }
            let power_cut = disk.survivor(Leaves::Nothing, seed);
            open(&power_cut).unwrap();
        }
    }
}

#[test]
fn a_closed_log_says_so() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    let entry = |index| LogRecord::Entry(Entry { term: 1, index, data: vec![] });
    wal.append(&[entry(1)]).unwrap();
    disk.fail_at(disk.calls() + 1, Fault::Broken);
    wal.append(&[entry(2)]).unwrap_err();
    let closed = wal.append(&[entry(2)]).unwrap_err().to_string();
    assert!(closed.contains("/raft is closed") && closed.contains("restart skep"), "{closed}");
    assert!(wal.save_snapshot(1, 1, b"").is_err() && wal.compact(1).is_err());
    let (_, found) = open(&disk).unwrap();
    assert_eq!(found.entries.len(), 1, "what the disk did not keep is not served");
}

#[test]
fn a_number_that_sealed_anything_never_seals_again() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).unwrap();
    let entry = |index| LogRecord::Entry(Entry { term: 1, index, data: vec![0; 100] });
    wal.append(&[entry(1)]).unwrap();
    disk.fail_at(disk.calls(), Fault::Full);
    wal.append(&[entry(2)]).unwrap_err();
    wal.append(&[entry(2)]).unwrap();
    let files = disk.files();
    let segment = files.iter().find(|(path, _)| path.extension().is_some_and(|e| e == "seg"));
    let bytes = segment.unwrap().1;
    let frames = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"SkeF"));
    let counters: Vec<u8> = frames.map(|at| bytes[at + 8]).collect();
    assert_eq!(counters, [1, 3], "the second may be on the disk, beyond the end of the file");
}
