//! Generic resources: counted ones, and named ones of which a task gets certain pieces (swarmkit
//! `api/genericresource`).

use std::collections::BTreeMap;

use crate::model::resource::Generic;
use crate::model::task::Task;

/// What tasks hold of a node's generic resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    counts: BTreeMap<String, u128>,
    /// How many tasks hold a piece: more than one only by mistake of an earlier manager.
    named: BTreeMap<(String, String), u32>,
}

impl Held {
    pub(super) fn add(&mut self, task: &Task) {
        for (kind, count) in counted(task) {
            *self.counts.entry(kind.to_owned()).or_default() += count;
        }
        for (kind, value) in named(task) {
            *self.named.entry((kind.to_owned(), value.to_owned())).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, task: &Task) {
        for (kind, count) in counted(task) {
            if let Some(held) = self.counts.get_mut(kind) {
                *held = held.saturating_sub(count);
                if *held == 0 {
                    self.counts.remove(kind);
                }
            }
        }
        for (kind, value) in named(task) {
            let key = (kind.to_owned(), value.to_owned());
            if let Some(held) = self.named.get_mut(&key) {
                *held = held.saturating_sub(1);
                if *held == 0 {
                    self.named.remove(&key);
                }
            }
        }
    }

    /// What the task gets of a node that has `all`; `None` when that is not enough. A kind of which
    /// the node has named pieces is given by the piece, lowest name first.
    pub(super) fn claim(&self, all: &[Generic], task: &Task) -> Option<Vec<Generic>> {
        let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
        for (kind, count) in &task.spec.resources.reserve_generic {
            let sum = wanted.entry(kind).or_default();
            *sum = sum.saturating_add(*count);
        }
        wanted.retain(|_, count| *count > 0);
        let mut claimed = Vec::new();
        for (kind, count) in wanted {
            let mut pieces: Vec<&str> = all.iter().filter_map(|it| piece_of(it, kind)).collect();
            if pieces.is_empty() {
                let has: u128 = all.iter().map(|it| u128::from(count_of(it, kind))).sum();
                let held = self.counts.get(kind).copied().unwrap_or(0);
                if held + u128::from(count) > has {
                    return None;
                }
                claimed.push(Generic::Count { kind: kind.to_owned(), count });
                continue;
            }
            let free =
                |piece: &&str| !self.named.contains_key(&(kind.to_owned(), (*piece).to_owned()));
            pieces.retain(free);
            pieces.sort_unstable();
            pieces.dedup();
            let count = usize::try_from(count).ok().filter(|count| *count <= pieces.len())?;
            claimed.extend(
                pieces
                    .into_iter()
                    .take(count)
                    .map(|value| Generic::Named { kind: kind.to_owned(), value: value.to_owned() }),
            );
        }
        Some(claimed)
    }
}

fn piece_of<'a>(generic: &'a Generic, wanted: &str) -> Option<&'a str> {
    match generic {
        Generic::Named { kind, value } if kind == wanted => Some(value),
        Generic::Named { .. } | Generic::Count { .. } => None,
    }
}

fn count_of(generic: &Generic, wanted: &str) -> u64 {
    match generic {
        Generic::Count { kind, count } if kind == wanted => *count,
        Generic::Named { .. } | Generic::Count { .. } => 0,
    }
}

/// Counted resources that the task holds. One that was placed by a release that assigned none
/// holds what it reserves.
fn counted(task: &Task) -> impl Iterator<Item = (&str, u128)> {
    let old: &[(String, u64)] =
        if task.generic.is_empty() { &task.spec.resources.reserve_generic } else { &[] };
    let assigned = task.generic.iter().filter_map(|generic| match generic {
        Generic::Count { kind, count } => Some((kind.as_str(), u128::from(*count))),
        Generic::Named { .. } => None,
    });
    assigned.chain(old.iter().map(|(kind, count)| (kind.as_str(), u128::from(*count))))
}

fn named(task: &Task) -> impl Iterator<Item = (&str, &str)> {
    task.generic.iter().filter_map(|generic| match generic {
        Generic::Named { kind, value } => Some((kind.as_str(), value.as_str())),
        Generic::Count { .. } => None,
    })
}
