//! Flows and sessions in one place, found by a key that goes stale with its entry.
//!
//! A [`Slab`] never moves an entry and gives its room to the next one; a [`Key`] carries the
//! generation, so that an event for an entry that has ended finds nothing. A [`Queue`] links
//! entries of one slab in order of a time that only grows: a timer for any number of entries that
//! costs no memory and no search. Pure.

use std::ops::{Index, IndexMut};

/// No entry.
const NONE: u32 = u32::MAX;

/// When all is idle, room for more entries than this is given back.
const KEPT_ENTRIES: usize = 64;

/// Names one entry for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Entries by key.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    len: usize,
    /// Of every entry made from now on, so that room given back and taken again starts afresh.
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), free: NONE, len: 0, generation: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        self.len += 1;
        if self.free == NONE {
            let index = u32::try_from(self.entries.len()).unwrap_or(NONE);
            self.entries.push(Entry { generation, next_free: NONE, value: Some(value) });
            return Key { index, generation };
        }
        let index = self.free;
        let entry = &mut self.entries[index as usize];
        self.free = entry.next_free;
        (entry.generation, entry.value) = (generation, Some(value));
        Key { index, generation }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.next_free = self.free;
        self.free = key.index;
        self.len -= 1;
        if self.len == 0 && self.entries.len() > KEPT_ENTRIES {
            self.entries = Vec::new();
            self.free = NONE;
        }
        Some(value)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation == key.generation { entry.value.as_ref() } else { None }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        (0u32..).zip(&self.entries).filter_map(|(index, entry)| {
            let key = Key { index, generation: entry.generation };
            entry.value.as_ref().map(|value| (key, value))
        })
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    fn at(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.value.as_mut()
    }
}

/// For keys whose entry is known to live.
impl<T> Index<Key> for Slab<T> {
    type Output = T;
    fn index(&self, key: Key) -> &T {
        self.get(key).expect("the caller holds a key of a live entry")
    }
}

impl<T> IndexMut<Key> for Slab<T> {
    fn index_mut(&mut self, key: Key) -> &mut T {
        self.get_mut(key).expect("the caller holds a key of a live entry")
    }
}

/// An entry's place in one queue, kept inside the entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    before: u32,
    after: u32,
    own: Key,
    /// When its turn is, in microseconds.
    due: u64,
    queued: bool,
}

impl Links {
    pub(super) const fn new() -> Self {
        let own = Key { index: NONE, generation: 0 };
        Self { before: NONE, after: NONE, own, due: 0, queued: false }
    }
}

/// What can stand in a queue.
pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
}

/// Entries in the order in which their turn comes.
#[derive(Debug)]
pub(super) struct Queue {
    first: u32,
    last: u32,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self { first: NONE, last: NONE }
    }

    /// Puts an entry that is in no queue to the end; `due` must not be before that of the last one.
    pub(super) fn push<T: Linked>(&mut self, slab: &mut Slab<T>, key: Key, due: u64) {
        let last = self.last;
        let Some(value) = slab.get_mut(key) else { return };
        debug_assert!(!value.links().queued, "an entry is in one queue at most");
        *value.links() = Links { before: last, after: NONE, own: key, due, queued: true };
        match slab.at(last) {
            Some(value) => value.links().after = key.index,
            None => self.first = key.index,
        }
        self.last = key.index;
    }

    /// Takes an entry out, if it is in; it must be in this queue or in none.
    pub(super) fn remove<T: Linked>(&mut self, slab: &mut Slab<T>, key: Key) {
        let Some(value) = slab.get_mut(key) else { return };
        let links = *value.links();
        if !links.queued {
            return;
        }
        value.links().queued = false;
        match slab.at(links.before) {
            Some(value) => value.links().after = links.after,
            None => self.first = links.after,
        }
        match slab.at(links.after) {
            Some(value) => value.links().before = links.before,
            None => self.last = links.before,
        }
    }

    /// The first entry and when its turn is.
    pub(super) fn first<T: Linked>(&self, slab: &mut Slab<T>) -> Option<(Key, u64)> {
        let links = *slab.at(self.first)?.links();
        links.queued.then_some((links.own, links.due))
    }

    /// Takes the first entry whose turn has come.
    pub(super) fn pop<T: Linked>(&mut self, slab: &mut Slab<T>, now: u64) -> Option<Key> {
        let Some((key, due)) = self.first(slab) else {
            // Nothing, or what was never taken out of here: the list is lost rather than the
            // loop that empties it.
            *self = Self::new();
            return None;
        };
        if due > now {
            return None;
        }
        self.remove(slab, key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Item(u32, Links);

    impl Linked for Item {
        fn links(&mut self) -> &mut Links {
            &mut self.1
        }
    }

    #[test]
    fn a_key_goes_stale_with_its_entry() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('b');
        assert_eq!(second.index, first.index);
        assert_eq!((slab.get(first), slab.get(second)), (None, Some(&'b')));
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn room_is_given_back_when_all_is_idle_and_old_keys_stay_stale() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..1_000).map(|n| slab.insert(n)).collect();
        for key in &keys {
            slab.remove(*key);
        }
        assert_eq!(slab.entries.capacity(), 0);
        slab.insert(7);
        assert!(keys.iter().all(|key| slab.get(*key).is_none()));
    }

    #[test]
    fn a_queue_whose_first_entry_went_without_being_taken_out_ends() {
        let mut slab = Slab::new();
        let mut queue = Queue::new();
        let gone = slab.insert(Item(0, Links::new()));
        queue.push(&mut slab, gone, 10);
        slab.remove(gone);
        let next = slab.insert(Item(1, Links::new()));
        assert_eq!(next.index, gone.index);
        assert_eq!(queue.pop(&mut slab, 20), None);
        queue.push(&mut slab, next, 30);
        assert_eq!(queue.pop(&mut slab, 30), Some(next));
        assert_eq!(queue.pop(&mut slab, 30), None);
    }

    #[test]
    fn a_queue_keeps_order_through_removals_from_everywhere() {
        let mut slab = Slab::new();
        let mut queue = Queue::new();
        let keys: Vec<Key> = (0..6).map(|n| slab.insert(Item(n, Links::new()))).collect();
        for (due, key) in (10..).zip(&keys) {
            queue.push(&mut slab, *key, due);
        }
        for gone in [0, 3, 5] {
            queue.remove(&mut slab, keys[gone]);
            queue.remove(&mut slab, keys[gone]);
        }
        queue.push(&mut slab, keys[3], 20);
        let mut seen = Vec::new();
        assert_eq!(queue.pop(&mut slab, 10), None);
        while let Some(key) = queue.pop(&mut slab, 20) {
            seen.push(slab[key].0);
        }
        assert_eq!(seen, [1, 2, 4, 3]);
        assert_eq!(queue.first(&mut slab), None);
        queue.push(&mut slab, keys[0], 30);
        assert_eq!(queue.first(&mut slab), Some((keys[0], 30)));
    }
}
