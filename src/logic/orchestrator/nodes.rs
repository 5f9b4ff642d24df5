//! What becomes of tasks when their node changes: drained, unfit, removed, down, back.
//!
//! **Drained or unfit:** the task is asked to stop; its successor waits for that. Paused: nothing.
//! **Removed:** the task is orphaned, and replaced at once.
//! **Unknown:** nothing; its containers still run.
//!
//! **Down:** the task is replaced at once. It stays wanted as long as it may run there and its
//! replacement does not run yet: the slot is *doubled*. That ends in one of two ways, whichever
//! comes first: the replacement runs, then the lost task is to stop when its node is back; or the
//! node is back, then the task that runs there stays and the replacement is taken back. A lost
//! task that is outdated, or was not seen started, is to stop at once. The replacement of a task
//! with `on_disconnect=stop` is made at once, too, but does not start before the worker's lease
//! and a margin are over: then the lost one is dead.
//! The place of a task of a global service is its node, so it has nowhere else to go and stays.
//! As in Swarm, a task whose policy is never to be replaced is not replaced here either.
//!
//! **Invariant** (after each look, for each slot): at most one wanted, unfinished, up-to-date task
//! is without a node or on one that is `Ready`; at most one more is on a node that is `Down` or
//! `Unknown`. One that is outdated, or is being moved, is there besides only while what replaces it
//! does not run: in a start-first update and in a move.

use std::collections::BTreeSet;

use super::Memory;
use super::draft::{Draft, SlotKey, fulfils};
use super::restart;
use crate::base::id::{NodeId, ServiceId, TaskId};
use crate::base::time::{Span, Time};
use crate::logic::store::Store;
use crate::model::node::{Availability, Node, NodeState};
use crate::model::service::{OnDisconnect, Service};
use crate::model::task::{LEASE, LEASE_MARGIN, Task, TaskState};

/// Nobody expects a node back that was down for this long: what it holds is given up
/// ([`orphan_all`]; swarmkit `dispatcher` defaultNodeDownPeriod).
pub const ORPHAN_AFTER: Span = Span::from_secs(24 * 3_600);

/// What a node says about a task on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    /// The user wants the node empty.
    Drained,
    /// It no longer fulfils what the task asks for.
    Unfit,
    /// There is no such node.
    Gone,
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// On a node that is heard of, or nowhere yet.
    Here,
    /// Its node is `Unknown`.
    Unsure,
    /// Its node is `Down`.
    Lost,
}

/// A wanted, unfinished task of a slot.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: TaskId,
    at: At,
    outdated: bool,
    adopted: bool,
    state: TaskState,
}

/// Takes tasks from nodes that may not run them.
pub(super) fn leave(draft: &mut Draft<'_>) {
    let slots = draft.slots();
    for id in slots.leaving.values().flatten() {
        if draft.task(*id).is_some_and(|task| is_gone(draft, task)) {
            draft.orphan(*id);
        }
    }
    for (key, ids) in &slots.held {
        for id in ids {
            let Some(task) = draft.task(*id) else { continue };
            match verdict(draft, task) {
                Verdict::Stays => {}
                Verdict::Gone => draft.orphan(*id),
                Verdict::Drained => {
                    draft.want(*id, TaskState::Shutdown);
                    succeed(draft, *key, ids, Span::ZERO);
                }
                Verdict::Unfit => {
                    let delay = draft.service().spec.task.restart.delay;
                    draft.want(*id, TaskState::Shutdown);
                    succeed(draft, *key, ids, delay);
                }
            }
        }
    }
}

pub(super) fn is_gone(draft: &Draft<'_>, task: &Task) -> bool {
    let placed = task.status.state >= TaskState::Assigned;
    placed && task.node.is_some_and(|node| draft.store.node(node).is_none())
}

fn verdict(draft: &Draft<'_>, task: &Task) -> Verdict {
    let placed = task.status.state >= TaskState::Assigned;
    let Some(id) = task.node.filter(|_| placed) else { return Verdict::Stays };
    let Some(node) = draft.store.node(id) else { return Verdict::Gone };
    // A down node is not asked to do anything: its tasks are replaced.
    if !task.is_active() || draft.state(id) == NodeState::Down {
        return Verdict::Stays;
    }
    match node.spec.availability {
        Availability::Drain => Verdict::Drained,
        Availability::Pause => Verdict::Stays,
        Availability::Active
            if fulfils(node, &task.spec.placement.constraints) && has_room(draft, node, task) =>
        {
            Verdict::Stays
        }
        Availability::Active => Verdict::Unfit,
    }
}

/// Whether the node still has what the task has reserved, in the order of the tasks' ids (swarmkit
/// `constraintenforcer`). The others are gone through only for a task that reserves something.
fn has_room(draft: &Draft<'_>, node: &Node, task: &Task) -> bool {
    let reserves = |task: &Task| {
        let resources = &task.spec.resources;
        (resources.reserve_nano_cpus, resources.reserve_memory_bytes)
    };
    if reserves(task) == (0, 0) && task.spec.resources.reserve_generic.is_empty() {
        return true;
    }
    let has = &node.description;
    let mut left = (has.nano_cpus, has.memory_bytes);
    for other in draft.store.tasks_of_node(node.id).filter(|task| task.is_active()) {
        let (cpus, memory) = reserves(other);
        let fits = left.0.checked_sub(cpus).zip(left.1.checked_sub(memory));
        if other.id == task.id {
            return fits.is_some();
        }
        left = fits.unwrap_or(left);
    }
    true
}

/// Gives a task that leaves its node a successor, unless its slot has another one.
fn succeed(draft: &mut Draft<'_>, key: SlotKey, ids: &[TaskId], delay: Span) {
    let service = draft.service();
    let other = |task: &Task| task.is_active() && !draft.is_outdated(task) && !draft.is_lost(task);
    let other = ids.iter().any(|id| draft.task(*id).is_some_and(other));
    if !other && !service.spec.mode.is_global() && restart::may_move(service) {
        draft.create(key, TaskState::Ready, delay);
    }
}

/// Replaces what is on nodes that are down, and leaves one task in each slot when they are back.
pub(super) fn settle(draft: &mut Draft<'_>, memory: &mut Memory) {
    let slots = draft.slots();
    memory.down.retain(|id, _| draft.task(*id).is_some_and(|task| draft.is_lost(task)));
    memory.replaced.retain(|id| draft.task(*id).is_some_and(|task| draft.is_lost(task)));
    for (key, ids) in &slots.held {
        if let [id] = ids.as_slice()
            && !draft.task(*id).is_some_and(|task| draft.is_lost(task))
        {
            continue;
        }
        let mut held: Vec<Held> = ids.iter().filter_map(|id| held(draft, memory, *id)).collect();
        if held.len() > 1 {
            leave_one(draft, &held);
            held.retain(|it| draft.task(it.id).is_some_and(Task::is_active));
        }
        if held.iter().any(|it| it.at == At::Lost) {
            replace_lost(draft, memory, *key, &held);
        }
    }
}

fn held(draft: &Draft<'_>, memory: &Memory, id: TaskId) -> Option<Held> {
    let task = draft.task(id).filter(|task| task.is_active())?;
    let placed = task.node.filter(|_| task.status.state >= TaskState::Assigned);
    let at = match placed.map(|node| draft.state(node)) {
        None | Some(NodeState::Ready) => At::Here,
        Some(NodeState::Unknown) => At::Unsure,
        Some(NodeState::Down) => At::Lost,
    };
    // One that is to move goes when the other one runs, as in a start-first update.
    let moves = memory.moving.values().any(|old| *old == id);
    let (outdated, adopted) = (moves || draft.is_outdated(task), task.adopted_from.is_some());
    Some(Held { id, at, outdated, adopted, state: task.status.state })
}

/// What of several wanted tasks of a slot is not needed any more.
fn leave_one(draft: &mut Draft<'_>, held: &[Held]) {
    let here = |it: &&Held| it.at == At::Here;
    let runs = |it: &&Held| it.state == TaskState::Running;
    // The newest one that runs keeps the slot: a replacement, not what came back.
    let newest = held.iter().filter(here).filter(runs).rfind(|it| !it.outdated);
    if let Some(keeper) = newest {
        for it in held.iter().filter(|it| it.id != keeper.id) {
            // A replacement that was not needed leaves no history.
            let unused = it.state < TaskState::Starting && it.at == At::Here && !it.outdated;
            draft.want(it.id, if unused { TaskState::Remove } else { TaskState::Shutdown });
        }
        return;
    }
    for outdated in [false, true] {
        // One that is outdated is not waited for to come back.
        let group = || {
            let counts = move |it: &&Held| it.at == At::Here || (outdated && it.at == At::Unsure);
            held.iter().filter(counts).filter(move |it| it.outdated == outdated)
        };
        // What came back goes before its replacement, which is younger.
        let keeper = group().rfind(|it| runs(it)).or_else(|| group().find(|it| it.adopted));
        let Some(keeper) = keeper.or_else(|| group().next()) else { continue };
        for it in group().filter(|it| it.id != keeper.id) {
            let started = it.state >= TaskState::Starting;
            draft.want(it.id, if started { TaskState::Shutdown } else { TaskState::Remove });
        }
    }
}

/// Gives a slot that has lost its task another one.
fn replace_lost(draft: &mut Draft<'_>, memory: &mut Memory, key: SlotKey, held: &[Held]) {
    let lost = || held.iter().filter(|it| it.at == At::Lost);
    let global = draft.service().spec.mode.is_global();
    if !global && !restart::may_move(draft.service()) {
        return;
    }
    for it in lost().filter(|it| it.outdated) {
        // On its return a new one is wanted in any case.
        draft.want(it.id, TaskState::Shutdown);
    }
    let fresh = lost().any(|it| !it.outdated);
    let served = held.iter().any(|it| it.at != At::Lost && !(it.outdated && fresh));
    // What became of a replacement that was made is the restart policy's business.
    if global || served || lost().all(|it| memory.replaced.contains(&it.id)) {
        return;
    }
    // The last one that runs there stays, in case it comes back soon.
    let stay = lost().rfind(|it| it.state >= TaskState::Starting && !it.outdated);
    for it in lost().filter(|it| stay.is_none_or(|stay| stay.id != it.id)) {
        draft.want(it.id, TaskState::Shutdown);
    }
    memory.replaced.extend(lost().map(|it| it.id));
    draft.create(key, TaskState::Ready, Span::ZERO);
}

/// Its worker stops it when it is cut off.
fn stops_alone(task: &Task) -> bool {
    match task.spec.on_disconnect {
        OnDisconnect::Keep => false,
        OnDisconnect::Stop => true,
    }
}

/// When a lost task that its own worker stops is certainly dead; `None` when nobody stops it.
fn lease_end(draft: &Draft<'_>, memory: &mut Memory, id: TaskId) -> Option<Time> {
    let task = draft.task(id).filter(|task| stops_alone(task))?;
    let first = *memory.down.entry(id).or_insert(draft.now.mono);
    let heard = task.node.and_then(|node| draft.last_heard(node)).unwrap_or(first);
    Some(heard + LEASE + LEASE_MARGIN)
}

/// What a successor waits for: nothing, a task that stops, or one that is dead at a known time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing runs in the slot.
    Nothing,
    /// A task stops; it is waited for so long.
    Stops {
        /// There is no limit: it must never run beside its successor.
        alone: bool,
    },
    /// Its worker stops it until then.
    Lease(Time),
}

/// Whether something that is not wanted still runs in the slot.
pub(super) fn before(draft: &Draft<'_>, memory: &mut Memory, ids: &[TaskId]) -> Before {
    let mut found = Before::Nothing;
    for id in ids {
        let Some(task) = draft.task(*id) else { continue };
        let live = task.status.state >= TaskState::Assigned && !task.status.state.is_terminal();
        let alone = stops_alone(task);
        let lost = draft.is_lost(task);
        // One that is wanted but not heard of is replaced when it is certainly dead.
        let unsure = task.node.is_some_and(|node| draft.state(node) == NodeState::Unknown);
        let unheard = lost || (unsure && !draft.is_outdated(task));
        if !live || (task.is_wanted() && !(alone && unheard)) {
            continue;
        }
        if !lost {
            let other = matches!(found, Before::Stops { alone: true });
            found = Before::Stops { alone: alone || other };
        } else if let Some(end) = lease_end(draft, memory, *id)
            && draft.now.mono < end
        {
            match found {
                Before::Stops { .. } => {}
                Before::Nothing => found = Before::Lease(end),
                Before::Lease(other) => found = Before::Lease(end.max(other)),
            }
        }
    }
    found
}

/// Begins to move a task of the draft's service to a better node: another one is made beside it,
/// and it stops when that one runs. If that fails, is lost, or has no other node to go to, nothing
/// was moved. Only the manager that began it knows of the move: the next one takes it back.
///
/// Not for a task that must not run twice, one that does not run, and not during an update: false,
/// and nothing is done.
pub fn move_task(
    draft: &mut Draft<'_>,
    service: &Service,
    memory: &mut Memory,
    id: TaskId,
) -> bool {
    draft.set_service(service.clone());
    let slots = draft.slots();
    let slot = slots.held.iter().find(|(_, ids)| ids.contains(&id));
    let Some((key, ids)) = slot.filter(|_| memory.update.is_none()) else { return false };
    let mode = service.spec.mode;
    let fits = |task: &Task| {
        let runs = task.is_active() && task.status.state == TaskState::Running;
        runs && !stops_alone(task) && !draft.is_outdated(task)
    };
    let active = ids.iter().filter(|id| draft.task(**id).is_some_and(Task::is_active)).count();
    if mode.is_global() || mode.is_job() || active > 1 || !draft.task(id).is_some_and(fits) {
        return false;
    }
    let new = draft.create(*key, TaskState::Running, Span::ZERO);
    memory.moving.insert(new, id);
    true
}

/// Ends moves that came to nothing.
pub(super) fn end_moves(draft: &mut Draft<'_>, memory: &mut Memory) {
    memory.moving.retain(|new, old| {
        let Some(task) = draft.task(*new).filter(|task| task.is_active()) else { return false };
        let Some(left) = draft.task(*old).filter(|task| task.is_active()) else { return false };
        let new_here = draft.store.task(*new).is_none();
        // One that was only just made is not placed yet.
        let unplaced = new_here && task.status.state == TaskState::New;
        let nowhere = task.status.state < TaskState::Assigned && !unplaced;
        if nowhere || (task.node.is_some() && task.node == left.node) || draft.is_lost(task) {
            if new_here {
                draft.remove(*new);
            } else {
                draft.want(*new, TaskState::Remove);
            }
            return false;
        }
        true
    });
}

/// Gives up what a node holds that was removed, or was down for so long that it is not expected
/// back: the store's tasks on it are orphaned and their addresses are free.
pub fn orphan_all(draft: &mut Draft<'_>, node: NodeId) {
    let ids: Vec<TaskId> = draft.store.tasks_of_node(node).map(|task| task.id).collect();
    for id in ids {
        draft.orphan(id);
    }
}

/// Services that are to be looked at when a node comes, changes, or goes, besides those with a task
/// that waits: what has a task there, and what is everywhere.
#[must_use]
pub fn concerned(store: &Store, node: NodeId) -> BTreeSet<ServiceId> {
    let everywhere = store.services().filter(|service| service.spec.mode.is_global());
    let there = store.tasks_of_node(node).map(|task| task.service);
    there.chain(everywhere.map(|service| service.id)).collect()
}
