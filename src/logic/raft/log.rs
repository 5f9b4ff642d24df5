//! The log in memory: what is behind the newest snapshot, and who takes part as of each entry.
//!
//! Not what is durable of it: that is [`Writes`](super::writes::Writes).
//!
//! **Invariants:** indexes are consecutive and begin behind `base`; terms never go down. The first
//! of `members` is what holds at `base`, the others are entries of the log, in order.

use std::collections::VecDeque;

use super::io::{Entry, Members, Payload, RecoverError, Snapshot};

/// What an entry takes besides its payload: index, term, kind and length in a message.
pub(super) const ENTRY_OVERHEAD: u64 = 32;

/// What a member takes in an entry.
const MEMBER_BYTES: u64 = 20;

/// An entry, and how many bytes of entries there are up to its end.
#[derive(Debug)]
struct Kept {
    entry: Entry,
    end: u64,
}

/// The log in memory.
#[derive(Debug)]
pub(super) struct Log {
    base: u64,
    base_term: u64,
    base_end: u64,
    entries: VecDeque<Kept>,
    members: VecDeque<(u64, Members)>,
}

/// Bytes that an entry is counted as.
pub(super) fn size(payload: &Payload) -> u64 {
    let bytes = match payload {
        Payload::Nothing => 0,
        Payload::Members(members) => {
            let count = members.voters.len() + members.learners.len();
            MEMBER_BYTES.saturating_mul(u64::try_from(count).unwrap_or(u64::MAX))
        }
        Payload::Command(data) => u64::try_from(data.len()).unwrap_or(u64::MAX),
    };
    bytes.saturating_add(ENTRY_OVERHEAD)
}

impl Log {
    /// What was recovered.
    pub(super) fn new(
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
        term: u64,
    ) -> Result<Self, RecoverError> {
        let (base, base_term, members) =
            snapshot.map_or_else(Default::default, |it| (it.index, it.term, it.members));
        let mut log = Self {
            base,
            base_term,
            base_end: 0,
            entries: VecDeque::new(),
            members: VecDeque::from([(base, members)]),
        };
        for entry in entries {
            let (wanted, found) = (log.last() + 1, entry.index);
            if found != wanted {
                return Err(RecoverError::Gap { wanted, found });
            }
            if entry.term < log.last_term() || entry.term > term {
                return Err(RecoverError::Term { index: found, term: entry.term });
            }
            log.push(entry);
        }
        Ok(log)
    }

    /// The index before the first entry that is still there.
    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    /// Index of the last entry.
    pub(super) fn last(&self) -> u64 {
        self.entries.back().map_or(self.base, |last| last.entry.index)
    }

    /// Term of the last entry.
    pub(super) fn last_term(&self) -> u64 {
        self.entries.back().map_or(self.base_term, |last| last.entry.term)
    }

    /// Where the entry is in `entries`; those before `base` are in no place.
    fn place(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.base + 1)?).ok()
    }

    /// Term of an entry that is there, or of the one just before the first.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base {
            return Some(self.base_term);
        }
        self.entries.get(self.place(index)?).map(|kept| kept.entry.term)
    }

    /// Up to where the bytes go; clamped to what is there.
    fn end(&self, index: u64) -> u64 {
        match self.place(index.min(self.last())) {
            Some(place) => self.entries.get(place).map_or(self.base_end, |kept| kept.end),
            None => self.base_end,
        }
    }

    /// Bytes of the entries behind `after`, through `through`.
    pub(super) fn bytes(&self, after: u64, through: u64) -> u64 {
        self.end(through).saturating_sub(self.end(after))
    }

    /// The entries behind `after`, through `through`; from the first one that is there.
    pub(super) fn entries(&self, after: u64, through: u64) -> Vec<Entry> {
        let place = |index: u64| self.place(index + 1).unwrap_or(0).min(self.entries.len());
        let (from, to) = (place(after), place(through));
        self.entries.range(from..to.max(from)).map(|kept| kept.entry.clone()).collect()
    }

    /// The entries behind `after` that fit into `bytes`, at least one if there is one.
    pub(super) fn batch(&self, after: u64, bytes: u64) -> Vec<Entry> {
        let limit = self.end(after).saturating_add(bytes);
        let fit = self.entries.partition_point(|kept| kept.end <= limit);
        let through = self.base + u64::try_from(fit).unwrap_or(u64::MAX);
        self.entries(after, through.max(after + 1))
    }

    /// Takes the next entry in.
    pub(super) fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last() + 1, "indexes are consecutive");
        debug_assert!(entry.term >= self.last_term(), "terms never go down");
        if let Payload::Members(members) = &entry.payload {
            self.members.push_back((entry.index, members.clone()));
        }
        let end = self.end(entry.index.saturating_sub(1)).saturating_add(size(&entry.payload));
        self.entries.push_back(Kept { entry, end });
    }

    /// Drops what is behind `through`.
    pub(super) fn truncate(&mut self, through: u64) {
        let keep = self.place(through + 1).unwrap_or(0);
        self.entries.truncate(keep);
        while self.members.len() > 1 && self.members.back().is_some_and(|(at, _)| *at > through) {
            self.members.pop_back();
        }
    }

    /// Drops what is at or below `through`.
    pub(super) fn compact(&mut self, through: u64) {
        while let Some(kept) = self.entries.pop_front_if(|kept| kept.entry.index <= through) {
            (self.base, self.base_term, self.base_end) =
                (kept.entry.index, kept.entry.term, kept.end);
        }
        while self.members.get(1).is_some_and(|(at, _)| *at <= self.base) {
            self.members.pop_front();
        }
    }

    /// Where to cut so that at most `bytes` of entries stay up to `through`.
    pub(super) fn tail(&self, through: u64, bytes: u64) -> u64 {
        let limit = self.end(through).saturating_sub(bytes);
        if self.base_end >= limit {
            return self.base;
        }
        let gone = self.entries.partition_point(|kept| kept.end < limit);
        (self.base + u64::try_from(gone).unwrap_or(u64::MAX) + 1).min(through)
    }

    /// Begins anew behind a snapshot.
    pub(super) fn reset(&mut self, index: u64, term: u64, members: Members) {
        (self.base, self.base_term) = (index, term);
        self.entries.clear();
        self.members = VecDeque::from([(index, members)]);
    }

    /// Who takes part, as of the last entry.
    pub(super) fn members(&self) -> &Members {
        self.members.back().map_or(&NOBODY, |(_, members)| members)
    }

    /// Index of the entry that [`Log::members`] is from, or `base`.
    pub(super) fn members_index(&self) -> u64 {
        self.members.back().map_or(self.base, |(at, _)| *at)
    }

    /// Who takes part as of an entry; of one before `base`: as of `base`.
    pub(super) fn members_at(&self, index: u64) -> &Members {
        let found = self.members.iter().rev().find(|(at, _)| *at <= index);
        found.or_else(|| self.members.front()).map_or(&NOBODY, |(_, members)| members)
    }

    /// The last entry at or before `index` whose term is not above `term`, and its term: where two
    /// logs may still agree (paper 5.3, the end: a whole term is skipped in one round).
    pub(super) fn agree(&self, index: u64, term: u64) -> (u64, u64) {
        let fit = self.entries.partition_point(|kept| kept.entry.term <= term);
        let found = (self.base + u64::try_from(fit).unwrap_or(u64::MAX)).min(index).max(self.base);
        (found, self.term(found).unwrap_or(self.base_term))
    }
}

static NOBODY: Members = Members {
    voters: std::collections::BTreeSet::new(),
    learners: std::collections::BTreeSet::new(),
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::id::NodeId;

    /// What a log does, on a plain list of all entries there ever were.
    #[derive(Debug, Default)]
    struct Model {
        base: u64,
        all: Vec<Entry>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { term: u64, kind: u8, bytes: u16 },
        Truncate(u64),
        Compact(u64),
        Reset(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..2u64, 0..4u8, 0..500u16)
                .prop_map(|(term, kind, bytes)| Step::Push { term, kind, bytes }),
            1 => (0..8u64).prop_map(Step::Truncate),
            1 => (0..8u64).prop_map(Step::Compact),
            1 => (0..3u64).prop_map(Step::Reset),
        ]
    }

    fn one(number: u64) -> Members {
        Members { voters: [NodeId::new(u128::from(number))].into(), learners: [].into() }
    }

    impl Model {
        fn last(&self) -> u64 {
            self.all.last().map_or(0, |last| last.index)
        }

        fn term(&self, index: u64) -> u64 {
            self.all.iter().find(|it| it.index == index).map_or(0, |it| it.term)
        }

        fn members(&self, through: u64) -> Members {
            let named = self.all.iter().rev().filter(|it| it.index <= through);
            let mut named = named.filter_map(|it| match &it.payload {
                Payload::Members(members) => Some(members.clone()),
                Payload::Nothing | Payload::Command(_) => None,
            });
            named.next().unwrap_or_default()
        }

        fn check(&self, log: &Log) {
            assert_eq!((log.base(), log.last()), (self.base, self.last()));
            assert_eq!(log.last_term(), self.term(self.last()));
            assert_eq!(*log.members(), self.members(self.last()));
            for index in 0..self.last() + 3 {
                let is_known = index >= self.base && index <= self.last();
                assert_eq!(log.term(index), is_known.then(|| self.term(index)), "{index}");
                if is_known {
                    assert_eq!(*log.members_at(index), self.members(index));
                }
                let behind = |it: &&Entry| it.index > index.max(self.base);
                let entries: Vec<Entry> = self.all.iter().filter(behind).cloned().collect();
                assert_eq!(log.entries(index, u64::MAX - 1), entries);
                let bytes: u64 = entries.iter().map(|it| size(&it.payload)).sum();
                assert_eq!(log.bytes(index, log.last()), bytes);
                let batch = log.batch(index, 300);
                assert_eq!(batch, entries[..batch.len()]);
                let used: u64 = batch.iter().map(|it| size(&it.payload)).sum();
                let next = entries.get(batch.len()).map(|it| used + size(&it.payload));
                assert!(used <= 300 || batch.len() == 1, "{used} bytes");
                assert!(next.is_none_or(|next| next > 300), "more would fit");
                let cut = log.tail(index.min(self.last()), 300);
                assert!(cut >= self.base && log.bytes(cut, index) <= 300);
                assert!(cut == self.base || log.bytes(cut - 1, index) > 300, "more may stay");
                for term in 0..4 {
                    let slow = (self.base..=index.min(self.last()))
                        .rev()
                        .find(|it| self.term(*it) <= term)
                        .unwrap_or(self.base);
                    assert_eq!(log.agree(index.min(self.last()), term).0, slow);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_log_is_a_list(steps in proptest::collection::vec(step(), 0..30)) {
            let mut model = Model::default();
            let mut log = Log::new(None, Vec::new(), 0).expect("nothing");
            for step in steps {
                let span = model.last() - model.base + 1;
                match step {
                    Step::Push { term, kind, bytes } => {
                        let index = model.last() + 1;
                        let term = model.term(model.last()) + term;
                        let payload = match kind {
                            0 => Payload::Nothing,
                            1 => Payload::Members(one(index)),
                            _ => Payload::Command(vec![0; usize::from(bytes)].into()),
                        };
                        let entry = Entry { index, term, payload };
                        model.all.push(entry.clone());
                        log.push(entry);
                    }
                    Step::Truncate(by) => {
                        let through = model.base + by % span;
                        model.all.retain(|it| it.index <= through);
                        log.truncate(through);
                    }
                    Step::Compact(by) => {
                        model.base += by % span;
                        log.compact(model.base);
                    }
                    Step::Reset(by) => {
                        let (index, term) = (model.last() + by, model.term(model.last()) + 1);
                        let payload = Payload::Members(one(index));
                        model.all.retain(|it| it.index < index);
                        model.all.push(Entry { index, term, payload });
                        model.base = index;
                        log.reset(index, term, one(index));
                    }
                }
                model.check(&log);
            }
        }
    }

    #[test]
    fn a_gap_and_a_term_that_goes_down_are_errors() {
        let entry = |index, term| Entry { index, term, payload: Payload::Nothing };
        let found = |entries| Log::new(None, entries, 5).map(|log| log.last());
        assert_eq!(found(vec![entry(1, 1), entry(2, 5)]), Ok(2));
        let gap = RecoverError::Gap { wanted: 2, found: 3 };
        assert_eq!(found(vec![entry(1, 1), entry(3, 1)]), Err(gap));
        let term = RecoverError::Term { index: 2, term: 1 };
        assert_eq!(found(vec![entry(1, 2), entry(2, 1)]), Err(term));
        let term = RecoverError::Term { index: 1, term: 6 };
        assert_eq!(found(vec![entry(1, 6)]), Err(term));
    }
}
