//! Replicated services: as many slots as replicas.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::draft::{Draft, SlotKey};
use crate::base::id::{NodeId, TaskId};
use crate::base::time::Span;
use crate::model::task::TaskState;

/// Scales up into the lowest free slots; down from the nodes that hold most, what does not run
/// first, then the highest slot.
pub(super) fn scale(draft: &mut Draft<'_>, replicas: u64) {
    let slots = draft.slots();
    let slots = &slots.held;
    let have = u64::try_from(slots.len()).unwrap_or(u64::MAX);
    if have < replicas {
        let free = (1..).map(SlotKey::Slot).filter(|key| !slots.contains_key(key));
        for key in free.take(usize::try_from(replicas - have).unwrap_or(0)) {
            // It waits for what was in the slot before, if that still stops.
            draft.create(key, TaskState::Ready, Span::ZERO);
        }
    } else if have > replicas {
        let surplus = usize::try_from(have - replicas).unwrap_or(usize::MAX);
        for key in surplus_slots(draft, slots, surplus) {
            for id in slots.get(&key).into_iter().flatten() {
                draft.want(*id, TaskState::Remove);
            }
        }
    }
}

/// What scale-down takes. Each node offers its worst slot; the best offer is taken, and that node
/// holds one less.
fn surplus_slots(
    draft: &Draft<'_>,
    slots: &BTreeMap<SlotKey, Vec<TaskId>>,
    surplus: usize,
) -> Vec<SlotKey> {
    let mut on_node: BTreeMap<Option<NodeId>, Vec<(Reverse<bool>, SlotKey)>> = BTreeMap::new();
    for (key, ids) in slots {
        let tasks = || ids.iter().filter_map(|id| draft.task(*id));
        let runs = tasks().any(|task| {
            let runs = task.status.state == TaskState::Running;
            runs && task.desired == TaskState::Running && !draft.is_lost(task)
        });
        let node = tasks().next_back().and_then(|task| task.node);
        on_node.entry(node).or_default().push((Reverse(runs), *key));
    }
    let offer = |node: Option<NodeId>, held: &[(Reverse<bool>, SlotKey)]| {
        let (Reverse(runs), key) = held.last().copied()?;
        Some((runs, Reverse(held.len()), Reverse(key), node))
    };
    let mut offers = BTreeSet::new();
    for (node, held) in &mut on_node {
        held.sort_unstable();
        offers.extend(offer(*node, held));
    }
    let mut taken = Vec::with_capacity(surplus);
    while taken.len() < surplus {
        let Some((_, _, Reverse(key), node)) = offers.pop_first() else { break };
        taken.push(key);
        if let Some(held) = on_node.get_mut(&node) {
            held.pop();
            offers.extend(offer(node, held));
        }
    }
    taken
}
