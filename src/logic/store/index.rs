//! An index: for each key the objects that have it, in id order.
//!
//! Names are indexed like everything else, although they are unique: what an index holds then hangs
//! on the tables alone, never on the order in which they were written.
//!
//! **Invariant:** no key without an object.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord + Copy> Index<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q, value: V)
    where
        K: Borrow<Q>,
    {
        let Some(values) = self.0.get_mut(key) else { return };
        values.remove(&value);
        if values.is_empty() {
            self.0.remove(key);
        }
    }

    /// The objects that have this key, in id order.
    pub(super) fn of<'a, Q: Ord + ?Sized>(
        &'a self,
        key: &Q,
    ) -> impl Iterator<Item = V> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten().copied()
    }
}
