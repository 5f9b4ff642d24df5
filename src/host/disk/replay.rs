//! What the records of a log add up to. Pure; the same rules guard what is appended.
//!
//! Invariants: `floor` ≤ `last`; the log holds every entry in `floor+1 ..= last` and nothing else;
//! terms never fall along it; nothing at or below `floor` is ever rewritten, except that the oldest
//! segment on disk may begin by rewriting what a removed one held (a snapshot covers it).

use crate::model::wire::{Entry, HardState, LogRecord};

/// An entry's index and term.
pub(super) type Place = (u64, u64);

/// The shape of the log without its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The place before the first entry.
    pub(super) floor: Place,
    /// The place of the last entry, or `floor`.
    pub(super) last: Place,
    /// The floor is where a removed segment ended: what it held there may have been replaced.
    loose: bool,
    /// For each term in the log its first index, ascending.
    runs: Vec<Place>,
    pub(super) hard_state: HardState,
    /// Index behind which an earlier opening cut the file, until that is healed.
    pub(super) cut: Option<u64>,
}

/// What a record did to the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Entries from this index on are gone, and this one is the last.
    Push(u64),
    /// All entries are gone.
    Clear,
}

/// The record cannot follow what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfOrder;

impl Tail {
    /// A log that begins behind `floor`.
    pub(super) fn from_floor(floor: Place) -> Self {
        Self { floor, last: floor, ..Self::default() }
    }

    /// The term of an entry in the log, or of the place before the first.
    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.floor.0 {
            return Some(self.floor.1);
        }
        if index < self.floor.0 || index > self.last.0 {
            return None;
        }
        let run = self.runs.iter().rev().find(|(first, _)| *first <= index);
        run.map(|(_, term)| *term)
    }

    /// The log holds this entry, or begins right behind it.
    pub(super) fn holds(&self, place: Place) -> bool {
        self.term_at(place.0) == Some(place.1)
    }

    /// Forgets all entries; the log goes on behind `place`.
    pub(super) fn reset(&mut self, place: Place) {
        self.runs.clear();
        self.loose = false;
        (self.floor, self.last) = (place, place);
    }

    /// Adds one record, or leaves everything as it was.
    pub(super) fn apply(&mut self, record: &LogRecord) -> Result<Effect, OutOfOrder> {
        match record {
            LogRecord::Entry(entry) => self.push(entry.index, entry.term),
            LogRecord::HardState(state) => {
                if state.term < self.hard_state.term {
                    return Err(OutOfOrder);
                }
                self.hard_state = *state;
                Ok(Effect::None)
            }
            LogRecord::SnapshotMark { index, term } => {
                if *index < self.floor.0 || self.holds((*index, *term)) {
                    return Ok(Effect::None);
                }
                self.reset((*index, *term));
                Ok(Effect::Clear)
            }
            LogRecord::Cut { index } => {
                self.cut = Some(*index);
                Ok(Effect::None)
            }
            LogRecord::CutHealed => {
                self.cut = None;
                Ok(Effect::None)
            }
        }
    }

    fn push(&mut self, index: u64, term: u64) -> Result<Effect, OutOfOrder> {
        if self.loose && index > 0 && index <= self.floor.0 {
            self.reset((index - 1, 0));
            self.loose = true;
        }
        if index <= self.floor.0 || index > self.last.0.saturating_add(1) {
            return Err(OutOfOrder);
        }
        if self.term_at(index - 1).is_none_or(|before| term < before) {
            return Err(OutOfOrder);
        }
        self.runs.retain(|(first, _)| *first < index);
        if self.runs.last().is_none_or(|(_, newest)| *newest != term) {
            self.runs.push((index, term));
        }
        self.last = (index, term);
        Ok(Effect::Push(index))
    }
}

/// The log as it is read back.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) tail: Tail,
    entries: Vec<Entry>,
    /// The highest index that the segment being read has touched.
    pub(super) index_max: u64,
}

impl Replay {
    /// A log whose first segment on disk begins behind `floor`.
    pub(super) fn from_floor(floor: Place) -> Self {
        let tail = Tail { loose: true, ..Tail::from_floor(floor) };
        Self { tail, ..Self::default() }
    }

    /// Adds one record.
    pub(super) fn apply(&mut self, record: LogRecord) -> Result<(), OutOfOrder> {
        match self.tail.apply(&record)? {
            Effect::None => {}
            Effect::Clear => self.entries.clear(),
            Effect::Push(index) => {
                let keep = index.saturating_sub(self.tail.floor.0).saturating_sub(1);
                self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
                if let LogRecord::Entry(entry) = record {
                    self.entries.push(entry);
                }
                self.index_max = self.index_max.max(index);
            }
        }
        Ok(())
    }

    /// A snapshot at `place` and this log together give the state: no entry between is missing.
    pub(super) fn is_reached_from(&self, place: Place) -> bool {
        place.0 > self.tail.floor.0 || place == self.tail.floor
    }

    /// The log behind a snapshot at `place` ((0, 0) for none). True if the log did not hold that
    /// place, so that its entries are void and it must be told to go on behind the snapshot.
    pub(super) fn finish(mut self, place: Place) -> (Tail, Vec<Entry>, bool) {
        let held = self.tail.holds(place);
        self.tail.loose = false;
        if held {
            self.entries.retain(|entry| entry.index > place.0);
        } else {
            self.entries.clear();
            self.tail.reset(place);
        }
        (self.tail, self.entries, !held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(index: u64, term: u64) -> LogRecord {
        LogRecord::Entry(Entry { term, index, data: vec![] })
    }

    #[test]
    fn gaps_falling_terms_and_rewriting_below_the_floor_are_refused() {
        let mut tail = Tail::from_floor((10, 2));
        for bad in [(10, 2), (12, 2), (11, 1)] {
            assert_eq!(tail.apply(&entry(bad.0, bad.1)), Err(OutOfOrder), "{bad:?}");
        }
        assert_eq!(tail.apply(&entry(11, 2)), Ok(Effect::Push(11)));
        assert_eq!(tail.apply(&entry(12, 4)), Ok(Effect::Push(12)));
        assert_eq!(tail.apply(&entry(11, 3)), Ok(Effect::Push(11)), "a newer leader rewrites");
        assert_eq!((tail.last, tail.term_at(12)), ((11, 3), None));
        let newer = HardState { term: 3, ..HardState::default() };
        assert_eq!(tail.apply(&LogRecord::HardState(newer)), Ok(Effect::None));
        let older = HardState { term: 2, ..HardState::default() };
        assert_eq!(tail.apply(&LogRecord::HardState(older)), Err(OutOfOrder));
    }

    #[test]
    fn the_oldest_segment_may_rewrite_what_a_removed_one_held() {
        let mut replay = Replay::from_floor((4, 2));
        replay.apply(entry(5, 2)).unwrap();
        replay.apply(entry(3, 5)).unwrap();
        assert_eq!((replay.tail.floor, replay.tail.last), ((2, 0), (3, 5)));
        assert!(replay.is_reached_from((4, 5)) && replay.is_reached_from((3, 5)));
        assert!(!replay.is_reached_from((2, 1)), "nobody knows the term of what was removed");
        let (mut tail, entries, void) = replay.finish((3, 5));
        assert!(!void && entries.is_empty());
        assert_eq!(tail.apply(&entry(2, 6)), Err(OutOfOrder));
    }

    #[test]
    fn a_mark_keeps_a_log_that_holds_it_and_clears_another() {
        let mut replay = Replay::default();
        for index in 1..=5 {
            replay.apply(entry(index, 1)).unwrap();
        }
        replay.apply(LogRecord::SnapshotMark { index: 3, term: 1 }).unwrap();
        assert_eq!(replay.tail.floor, (0, 0));
        replay.apply(LogRecord::SnapshotMark { index: 4, term: 2 }).unwrap();
        assert_eq!((replay.tail.floor, replay.tail.last), ((4, 2), (4, 2)));
        assert!(replay.entries.is_empty());
        assert!(replay.is_reached_from((4, 2)) && !replay.is_reached_from((3, 1)));
    }

    #[test]
    fn a_snapshot_ahead_of_the_log_or_beside_it_voids_the_log() {
        for place in [(9, 3), (4, 2)] {
            let mut replay = Replay::default();
            for index in 1..=5 {
                replay.apply(entry(index, 1)).unwrap();
            }
            let (tail, entries, void) = replay.finish(place);
            assert!(void && entries.is_empty());
            assert_eq!((tail.floor, tail.last), (place, place));
        }
    }

    proptest! {
        /// Against a plain vector of terms.
        #[test]
        fn the_tail_tells_the_terms_of_a_plain_log(
            steps in proptest::collection::vec((1u64..12, 1u64..4), 0..60)
        ) {
            let mut replay = Replay::default();
            let mut model: Vec<u64> = vec![0];
            for (index, term) in steps {
                let at = usize::try_from(index).unwrap();
                let fits = at <= model.len() && term >= model[at - 1];
                prop_assert_eq!(replay.apply(entry(index, term)).is_ok(), fits);
                if fits {
                    model.truncate(at);
                    model.push(term);
                }
                for index in 0..14u64 {
                    let want = model.get(usize::try_from(index).unwrap()).copied();
                    prop_assert_eq!(replay.tail.term_at(index), want);
                }
                let terms: Vec<u64> = replay.entries.iter().map(|entry| entry.term).collect();
                prop_assert_eq!(&terms[..], &model[1..]);
            }
        }
    }
}
