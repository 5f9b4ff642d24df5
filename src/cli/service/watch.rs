//! When a service counts as stable, and the lines that say how far it is. Pure: time comes in.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::age::micros;
use crate::cli::query::{ellipsis, short};
use crate::model::engine::node::Node;
use crate::model::engine::service::Service;
use crate::model::engine::task::Task;

/// Lines for single tasks are shown up to so many.
const TASK_LINES_MAX: u64 = 20;

/// Letters of an error behind a task.
const ERROR_CHARS_MAX: usize = 75;

/// Milliseconds that tasks must run where the spec does not say.
const STABLE_MILLIS: u64 = 5_000;

/// Columns that a line with a bar needs.
const BAR_COLUMNS: usize = 76;

const BAR: usize = 50;

/// States on the way to running, in order.
const STATES: [&str; 9] = [
    "new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting",
    "running",
];

/// One look at the cluster.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The service.
    pub service: Service,
    /// Its tasks of the current spec.
    pub tasks: Vec<Task>,
    /// All nodes.
    pub nodes: Vec<Node>,
}

/// How the wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Stable.
    Converged,
    /// An update that stopped.
    Failed(String),
}

/// The state of one wait.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Since when all tasks run, in milliseconds.
    running_since: Option<u64>,
    /// Whether an update was seen under way: a `completed` before that is an older one's.
    updating: bool,
    rollback: Option<String>,
    overall: String,
    verify: Option<String>,
    tasks: Vec<(String, String, Option<usize>)>,
    undo: bool,
    name: String,
}

impl Watch {
    /// Before the first look at the service that the user calls `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Takes one look at time `now` in milliseconds.
    pub fn step(&mut self, now: u64, seen: &Seen) -> Option<End> {
        if let Some(status) = &seen.service.update_status {
            match status.state.as_str() {
                "updating" => self.updating = true,
                "rollback_started" => {
                    self.updating = true;
                    self.undo = true;
                    if self.rollback.is_none() && !status.message.is_empty() {
                        self.rollback = Some(format!("rollback: {}", status.message));
                    }
                }
                "paused" => {
                    return Some(End::Failed(format!("service update paused: {}", status.message)));
                }
                "rollback_paused" => {
                    let why = format!("service rollback paused: {}", status.message);
                    return Some(End::Failed(why));
                }
                "completed" | "rollback_completed" if self.updating => {
                    self.count(seen);
                    return Some(self.converged());
                }
                _ => {}
            }
        }
        let (running, wanted) = self.count(seen);
        let all = wanted.is_some_and(|wanted| running >= wanted);
        let monitor = seen.service.spec.update_config.as_ref().map_or(0, |config| config.monitor);
        let stable = match u64::try_from(monitor / 1_000_000) {
            Ok(0) | Err(_) => STABLE_MILLIS,
            Ok(millis) => millis,
        };
        match (all, self.running_since) {
            (true, Some(since)) if now.saturating_sub(since) >= stable => {
                return Some(self.converged());
            }
            (true, since) => {
                let since = *self.running_since.insert(since.unwrap_or(now));
                let left = (stable - now.saturating_sub(since).min(stable)) / 1_000 + 1;
                let left = left.min(stable.div_ceil(1_000));
                self.verify =
                    Some(format!("Waiting {left} seconds to verify that tasks are stable..."));
            }
            (false, Some(_)) => {
                self.running_since = None;
                self.verify = Some("Detected task failure".to_owned());
            }
            (false, None) => {}
        }
        None
    }

    fn converged(&mut self) -> End {
        self.verify = Some(format!("Service {} converged", self.name));
        End::Converged
    }

    /// Counts running and wanted tasks; the latter are not known for a global service at first.
    fn count(&mut self, seen: &Seen) -> (u64, Option<u64>) {
        let back = if self.undo { "rolling back update: " } else { "" };
        let slots = latest(seen);
        let running = slots.values().filter(|task| task.status.state == "running").count() as u64;
        let wanted = match (&seen.service.spec.mode.replicated, &seen.service.spec.mode.global) {
            (Some(mode), _) => Some(mode.replicas.unwrap_or(1)),
            (None, Some(_)) if slots.is_empty() => None,
            _ => Some(slots.len() as u64),
        };
        self.overall = match wanted {
            Some(wanted) => format!("overall progress: {back}{running} out of {wanted} tasks"),
            None => "overall progress: waiting for new tasks".to_owned(),
        };
        self.tasks.clear();
        let few = wanted.is_some_and(|wanted| wanted <= TASK_LINES_MAX);
        if seen.service.spec.mode.replicated.is_some() && few {
            let by_slot: BTreeMap<u64, &Task> =
                slots.values().map(|task| (task.slot, *task)).collect();
            let mut tasks = by_slot.into_values();
            for at in 1..=wanted.unwrap_or(0) {
                let line = format!("{at}/{}", wanted.unwrap_or(0));
                self.tasks.push(task_line(line, tasks.next(), seen));
            }
        } else if few {
            for (node, task) in &slots {
                self.tasks.push(task_line(short(node), Some(task), seen));
            }
        }
        (running, wanted)
    }

    /// What is shown: bars only on a terminal that is wide enough.
    #[must_use]
    pub fn lines(&self, terminal: bool, columns: usize) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.rollback.clone());
        lines.push(self.overall.clone());
        for (name, text, state) in &self.tasks {
            match state {
                None if terminal || !text.is_empty() => lines.push(format!("{name}: {text}")),
                Some(state) if terminal && columns >= BAR_COLUMNS => {
                    let done = if self.undo { STATES.len() - 1 - state } else { state + 1 };
                    let full = done * 100 / STATES.len() / 2;
                    let (full, empty) = ("=".repeat(full), " ".repeat(BAR - full));
                    lines.push(format!("{name}: {text:9} [{full}>{empty}]"));
                }
                Some(_) if terminal => lines.push(format!("{name}: {text}")),
                _ => {}
            }
        }
        lines.extend(self.verify.as_ref().map(|verify| format!("verify: {verify}")));
        if terminal {
            // A line that wraps could not be drawn over.
            lines.iter_mut().for_each(|line| *line = ellipsis(line, columns.max(2) - 1));
        }
        lines
    }
}

/// The task that counts in each slot, or on each node of a global service: the newest that should
/// run. Tasks on nodes that are down do not count.
fn latest(seen: &Seen) -> BTreeMap<String, &Task> {
    let down: BTreeSet<&str> = seen
        .nodes
        .iter()
        .filter(|node| node.status.state == "down")
        .map(|node| node.id.as_str())
        .collect();
    let mut slots: BTreeMap<String, &Task> = BTreeMap::new();
    for task in &seen.tasks {
        let wanted = matches!(task.desired_state.as_str(), "running" | "ready" | "accepted");
        if !wanted || down.contains(task.node_id.as_str()) {
            continue;
        }
        let slot = if task.slot == 0 { task.node_id.clone() } else { task.slot.to_string() };
        let kept = slots.entry(slot).or_insert(task);
        if (rank(task), micros(&task.created_at)) > (rank(kept), micros(&kept.created_at)) {
            *kept = task;
        }
    }
    slots
}

fn rank(task: &Task) -> Option<usize> {
    STATES.iter().position(|state| *state == task.status.state)
}

/// A task's line. One that does not run yet shows why the one before it in its slot ended.
fn task_line(
    name: String,
    task: Option<&Task>,
    seen: &Seen,
) -> (String, String, Option<usize>) {
    let Some(task) = task else { return (name, " ".to_owned(), None) };
    let running = task.status.state == "running";
    let error = if running { task.status.err.as_str() } else { latest_error(task, seen) };
    if !error.is_empty() {
        let mut text = error.replace('\n', " ");
        if text.chars().count() > ERROR_CHARS_MAX {
            text = text.chars().take(ERROR_CHARS_MAX - 3).collect::<String>() + "...";
        }
        return (name, text, None);
    }
    (name, task.status.state.clone(), rank(task))
}

fn latest_error<'a>(task: &'a Task, seen: &'a Seen) -> &'a str {
    if !task.status.err.is_empty() {
        return &task.status.err;
    }
    let same = |other: &&Task| {
        let place = if task.slot == 0 { other.node_id == task.node_id } else { true };
        other.slot == task.slot && place && !other.status.err.is_empty()
    };
    let before = seen.tasks.iter().filter(same);
    before.max_by_key(|task| micros(&task.created_at)).map_or("", |task| &task.status.err)
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
