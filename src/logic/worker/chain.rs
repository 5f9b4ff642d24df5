//! What the worker does for a slot while it is cut off from the managers: it makes the successor of
//! a task that ended, and tells the chain of them at the next session.
//!
//! The manager's rules apply (`orchestrator::restart`): condition, delay, attempts and window of the
//! task's policy, and a delay that doubles while tasks fail soon after their start. Counts that are
//! only in memory are lost with the daemon, which can only forget attempts.
//!
//! A successor has its base's slot, address and mounts, an id that the managers would give it, too
//! ([`TaskId::successor`]), and a record that says whose it is before anything of it is made. The
//! task before it has nothing on the machine any more by then but its log and exit record.
//!
//! **Invariants:** of a chain at most the newest task is not over. A base's address is told to be
//! free only when nothing of its chain is left. No successor is made while a session is open, and
//! none of a task with on-disconnect=stop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Worker;
use super::machine::{Machine, Wanted};
use crate::base::id::{ServiceId, TaskId};
use crate::base::time::{Now, Span, Time, Wall};
use crate::logic::manager::io::Adopted;
use crate::logic::orchestrator::{BACKOFF_MAX, STABLE_AFTER};
use crate::model::object::Meta;
use crate::model::service::{RestartCondition, RestartPolicy};
use crate::model::task::{Task, TaskState, TaskStatus};

/// Ended successors of one chain that are kept for the report; the oldest go first.
pub const CHAIN_MAX: usize = 5;

/// Ends that are remembered of one chain for the policy's window. A window with more attempts than
/// that is taken to hold just as many.
const ENDS_MAX: usize = 64;

/// Failures in a row that get the policy's own delay.
const PLAIN_FAILURES: u32 = 3;

/// Shortest delay that is doubled.
const BACKOFF_MIN: Span = Span::from_secs(1);

/// Message of a successor before it runs.
pub const MESSAGE_SUCCESSOR: &str = "restarted by its node without a manager";

/// The successors of one task that no manager has decided on.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Oldest first; all but the last have ended.
    members: Vec<TaskId>,
    /// How many were made since the task that their ids follow from.
    made: u32,
    /// How many of them were adopted: their ends are the managers' to count.
    adopted: u32,
    /// How many in a row, before the last, ended soon after their start.
    failures: u32,
    /// When they ended, without the last.
    ends: VecDeque<Wall>,
    /// What the manager was told in this session.
    told: Option<Adopted>,
    /// Decided against: it is kept until nothing of it is left.
    pub(super) refused: bool,
}

/// The tasks of one slot on this node.
#[derive(Default)]
struct Slot {
    /// One may run, or still does.
    busy: bool,
    /// One waits until the manager lets it run.
    ready: Option<TaskId>,
    /// The newest that has ended and is still wanted.
    ended: Option<(u32, Wall, TaskId)>,
}

/// The chains of what was found at start. All but the newest of each have ended, whatever their
/// records say.
pub(super) fn found(tasks: &mut BTreeMap<TaskId, Machine>, now: Now) -> BTreeMap<TaskId, Chain> {
    let mut chains: BTreeMap<TaskId, Chain> = BTreeMap::new();
    let own = |machine: &Machine| Some((machine.task.adopted_from?, machine.own?, machine.task.id));
    let mut all: Vec<_> = tasks.values().filter_map(own).collect();
    all.sort_unstable();
    for (base, n, id) in all {
        let chain = chains.entry(base).or_default();
        let before = chain.members.last().copied().unwrap_or(base);
        if let Some(machine) = tasks.get_mut(&before) {
            machine.supersede(now);
        }
        chain.members.push(id);
        chain.made = n;
    }
    chains
}

impl Worker {
    /// While cut off: a successor for each slot whose task has ended.
    pub(super) fn succeed(&mut self, now: Now) {
        self.succeed_at = None;
        let Some(from) = self.session.autonomous_from() else { return };
        for slot in self.slots().into_values().filter(|slot| !slot.busy) {
            let due = match (slot.ready, slot.ended) {
                (Some(id), _) => self.promote(now, id, from),
                (None, Some((_, _, id))) => self.replace(now, id, from),
                (None, None) => None,
            };
            self.succeed_at = due.into_iter().chain(self.succeed_at).min();
        }
    }

    fn slots(&self) -> BTreeMap<(ServiceId, u64), Slot> {
        let mut slots: BTreeMap<(ServiceId, u64), Slot> = BTreeMap::new();
        for machine in self.tasks.values().filter(|machine| machine.assigned && !machine.gone) {
            let task = &machine.task;
            let slot = slots.entry((task.service, task.slot)).or_default();
            match (machine.is_over(), machine.wanted()) {
                (false, Wanted::Ready) => slot.ready = slot.ready.or(Some(task.id)),
                (false, Wanted::Gone | Wanted::Stopped | Wanted::Running) => slot.busy = true,
                (true, Wanted::Running) => {
                    let this = (machine.own.unwrap_or(0), task.meta.created, task.id);
                    slot.ended = slot.ended.into_iter().chain([this]).max();
                }
                (true, Wanted::Gone | Wanted::Stopped | Wanted::Ready) => {}
            }
        }
        slots
    }

    /// Lets a task run that waits for the manager's word, since all before it have ended. Gives the
    /// time to look again.
    fn promote(&mut self, now: Now, id: TaskId, from: Time) -> Option<Time> {
        let machine = self.tasks.get_mut(&id).filter(|machine| !machine.is_leased())?;
        let due = from + machine.task.spec.restart.delay;
        if now.mono < due {
            return Some(due);
        }
        let task = Task { desired: TaskState::Running, ..machine.task.as_ref().clone() };
        machine.task = Arc::new(task);
        None
    }

    /// Makes the successor of a task that has ended, when it is time. Gives the time to look again.
    fn replace(&mut self, now: Now, id: TaskId, from: Time) -> Option<Time> {
        let machine = self.tasks.get(&id).filter(|machine| !machine.is_leased())?;
        // Ids follow from the task that the first of them was made of, adopted ones included.
        let root = machine.own.and(machine.task.adopted_from).unwrap_or(id);
        let of = self.chains.iter().find(|(_, chain)| chain.members.contains(&id));
        let (base, chain) = of.map_or((id, None), |(base, chain)| (*base, Some(chain)));
        let refused = chain.is_some_and(|chain| chain.refused);
        if refused || !self.allowed(now, machine, chain) {
            return None;
        }
        let failures = failures(machine, chain);
        let ended = machine.ended_at.unwrap_or(now.mono);
        let due = (ended + delay(&machine.task.spec.restart, failures)).max(from);
        if now.mono < due {
            return Some(due);
        }
        if !machine.is_out() {
            return None;
        }
        let end = machine.own.is_some().then_some(machine.status.timestamp);
        let chain = self.chains.entry(base).or_default();
        chain.made = chain.made.saturating_add(1);
        chain.failures = failures;
        chain.ends.extend(end);
        if chain.ends.len() > ENDS_MAX {
            chain.ends.pop_front();
        }
        let task = Arc::new(successor(&machine.task, &machine.status, root, chain.made, now));
        chain.members.push(task.id);
        if chain.members.len() > CHAIN_MAX + 1 {
            let oldest = chain.members.remove(0);
            if let Some(machine) = self.tasks.get_mut(&oldest) {
                machine.gone = true;
            }
        }
        let made = chain.made;
        let machine = self.tasks.entry(task.id).or_insert_with(|| Machine::assigned(&task));
        machine.own = Some(made);
        None
    }

    /// Whether the policy lets the task have a successor.
    fn allowed(&self, now: Now, machine: &Machine, chain: Option<&Chain>) -> bool {
        let task = &machine.task;
        let policy = &task.spec.restart;
        let failed = match machine.status.state {
            TaskState::Complete => false,
            TaskState::Failed | TaskState::Rejected => true,
            TaskState::New
            | TaskState::Pending
            | TaskState::Assigned
            | TaskState::Accepted
            | TaskState::Preparing
            | TaskState::Ready
            | TaskState::Starting
            | TaskState::Running
            | TaskState::Shutdown
            | TaskState::Remove
            | TaskState::Orphaned => return false,
        };
        let condition = match policy.condition {
            // What a job has completed is done.
            RestartCondition::Any => failed || task.desired != TaskState::Complete,
            RestartCondition::OnFailure => failed,
            RestartCondition::None => false,
        };
        if !condition || policy.max_attempts == 0 {
            return condition;
        }
        let recent = |at: Wall| {
            policy.window == Span::ZERO || now.wall.0.saturating_sub(at.0) <= policy.window.0
        };
        let mut ended = 0u64;
        for other in self.tasks.values().filter(|other| other.own.is_none() && other.is_over()) {
            let same = other.task.service == task.service && other.task.slot == task.slot;
            let counts = same && other.task.spec == task.spec && recent(other.status.timestamp);
            ended = ended.saturating_add(u64::from(counts));
        }
        let own = chain.map_or(0, |chain| {
            if policy.window == Span::ZERO {
                return u64::from(chain.made.saturating_sub(chain.adopted));
            }
            let last = recent(machine.status.timestamp);
            let before = chain.ends.iter().filter(|at| recent(**at)).count();
            u64::from(last).saturating_add(u64::try_from(before).unwrap_or(u64::MAX))
        });
        ended.saturating_add(own) <= policy.max_attempts
    }

    /// A chain that was adopted as it was told has grown before that was known here: what was made
    /// since hangs on the last that was adopted, which has the addresses now.
    fn rebase(&mut self, now: Now) {
        let Self { tasks, chains, .. } = self;
        let known = |id: &TaskId| tasks.get(id).is_some_and(|it| it.own.is_none());
        let adopted = |(base, chain): (&TaskId, &Chain)| {
            let at = chain.members.iter().rposition(known)?;
            (at + 1 < chain.members.len()).then_some((*base, at))
        };
        let adopted: Vec<(TaskId, usize)> = chains.iter().filter_map(adopted).collect();
        for (old, at) in adopted {
            let Some(mut chain) = chains.remove(&old) else { continue };
            let own = chain.members.split_off(at + 1);
            let mut base = old;
            for id in std::mem::replace(&mut chain.members, own) {
                if let Some(machine) = tasks.get_mut(&id).filter(|machine| machine.own.is_some()) {
                    machine.gone = true;
                    machine.release(now);
                }
                base = id;
            }
            let left = chain.members.len();
            chain.adopted = chain.made.saturating_sub(u32::try_from(left).unwrap_or(u32::MAX));
            // Of those that are the managers' to count now.
            let counted = chain.ends.len().saturating_sub(left - 1);
            chain.ends.drain(..counted);
            if let Some(machine) = tasks.get_mut(&old) {
                machine.hand_on();
            }
            chains.insert(base, chain);
        }
    }

    /// What a set of assignments says of the chains: adopted, refused or nothing yet.
    pub(super) fn decide(&mut self, now: Now, complete: bool) {
        self.rebase(now);
        let Self { tasks, chains, .. } = self;
        chains.retain(|base, chain| {
            // Nothing was left of it, not even a record; what has a successor has ended.
            if let Some(base) = tasks.get_mut(base).filter(|base| !base.is_over()) {
                base.supersede(now);
            }
            let head = chain.members.last().and_then(|id| tasks.get(id));
            let adopted = head.is_some_and(|head| head.own.is_none());
            let wanted = match tasks.get(base) {
                Some(base) => base.wanted() > Wanted::Stopped,
                None => !complete,
            };
            chain.refused |= !wanted || head.is_none_or(|head| head.gone);
            for id in &chain.members {
                if let Some(machine) = tasks.get_mut(id).filter(|machine| machine.own.is_some()) {
                    machine.gone |= adopted || chain.refused;
                    machine.release(now);
                }
            }
            if adopted && let Some(base) = tasks.get_mut(base) {
                base.hand_on();
            }
            if complete {
                chain.told = None;
            }
            !adopted
        });
    }

    /// Tells of each chain what the manager does not know.
    pub(super) fn tell_chains(&mut self) {
        let Self { tasks, chains, report, .. } = self;
        chains.retain(|base, chain| {
            let left = chain.members.iter().any(|id| tasks.contains_key(id));
            if !chain.refused && chain.told != adopted(*base, chain, tasks) {
                chain.told = adopted(*base, chain, tasks);
                report.adopted.extend(chain.told.clone());
            }
            if !left && !tasks.contains_key(base) {
                report.removed.push(*base);
            }
            left
        });
    }

    /// Tasks whose end is told by their chain, and whose addresses it holds.
    pub(super) fn bases(&self) -> BTreeSet<TaskId> {
        self.chains.keys().copied().collect()
    }
}

/// The chain as it is told.
fn adopted(base: TaskId, chain: &Chain, tasks: &BTreeMap<TaskId, Machine>) -> Option<Adopted> {
    let (head, before) = chain.members.split_last()?;
    let head = tasks.get(head)?;
    let ended = before.iter().filter_map(|id| Some((*id, tasks.get(id)?.status.clone())));
    Some(Adopted {
        base,
        status: tasks.get(&base).map(|base| base.status.clone()),
        ended: ended.collect(),
        task: Task {
            status: head.status.clone(),
            adopted_from: Some(base),
            ..head.task.as_ref().clone()
        },
    })
}

fn successor(task: &Task, status: &TaskStatus, root: TaskId, n: u32, now: Now) -> Task {
    Task {
        id: root.successor(n),
        meta: Meta { version: 0, created: now.wall, updated: now.wall },
        adopted_from: Some(root),
        not_before: None,
        status: TaskStatus {
            state: TaskState::Assigned,
            timestamp: now.wall,
            message: MESSAGE_SUCCESSOR.to_owned(),
            err: String::new(),
            pid: 0,
            exit_code: None,
            // It takes the same numbers for ports that were left open.
            ports: status.ports.clone(),
        },
        ..task.clone()
    }
}

/// How many tasks in a row ended soon after their start, the one that has just ended included.
fn failures(machine: &Machine, chain: Option<&Chain>) -> u32 {
    let ran = machine.started_at.map(|at| machine.ended_at.unwrap_or(at).since(at));
    let early = match machine.status.state {
        TaskState::Rejected => true,
        TaskState::Failed => ran.is_none_or(|ran| ran < STABLE_AFTER),
        TaskState::New
        | TaskState::Pending
        | TaskState::Assigned
        | TaskState::Accepted
        | TaskState::Preparing
        | TaskState::Ready
        | TaskState::Starting
        | TaskState::Running
        | TaskState::Complete
        | TaskState::Shutdown
        | TaskState::Remove
        | TaskState::Orphaned => false,
    };
    if early { chain.map_or(0, |chain| chain.failures).saturating_add(1) } else { 0 }
}

/// How long a successor waits after that many failures in a row.
fn delay(policy: &RestartPolicy, failures: u32) -> Span {
    let doublings = failures.saturating_sub(PLAIN_FAILURES).min(u64::BITS - 1);
    if doublings == 0 {
        return policy.delay;
    }
    let least = policy.delay.max(BACKOFF_MIN);
    Span(least.0.saturating_mul(1 << doublings)).min(BACKOFF_MAX.max(policy.delay))
}
