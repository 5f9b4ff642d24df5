//! What is to be done next to one task. Pure.

use super::machine::{Doing, Host, Machine, Stopping, Wanted};
use crate::base::time::{Span, Time};

/// Time between the stop signal and SIGKILL when the spec has none.
pub const STOP_GRACE: Span = Span::from_secs(10);

/// The proxy has this long to take a task out of the rotation before its stop signal.
pub const LEAVE_WAIT: Span = Span::from_secs(1);

/// The proxy has this long to take a task's ports before the task starts without its word.
pub const PORTS_WAIT: Span = Span::from_secs(5);

/// SIGKILL is sent again after this long; the wait doubles.
pub const KILL_AGAIN: Span = Span::from_secs(10);

/// The longest wait between two SIGKILLs, in doublings of [`KILL_AGAIN`].
const KILL_DOUBLINGS_MAX: u32 = 6;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing until something happens.
    Idle,
    /// Nothing before this time.
    Wait(Time),
    /// This.
    Act(Doing),
    /// Nothing of the task is left, and nothing of it is wanted.
    Gone,
}

/// What is to be done next to a task; `applied` is the newest table that the proxy took.
pub(super) fn next(machine: &Machine, now: Time, applied: u64) -> Step {
    if !machine.assigned || machine.doing.is_some() {
        return Step::Idle;
    }
    let wanted = wanted_step(machine, now, applied);
    let remembers = wanted == Step::Idle && machine.is_to_remember();
    let step = if remembers { Step::Act(Doing::Remember) } else { wanted };
    match (step, machine.retry) {
        // A record that could not be written holds up no signal.
        (Step::Act(Doing::Stop | Doing::Kill), _) => step,
        (Step::Act(_), Some(retry)) if now < retry.at => Step::Wait(retry.at),
        (step, _) => step,
    }
}

fn wanted_step(machine: &Machine, now: Time, applied: u64) -> Step {
    let wanted =
        if machine.is_over() { machine.wanted().min(Wanted::Stopped) } else { machine.wanted() };
    match (machine.host, wanted) {
        (Host::Empty, Wanted::Gone) => Step::Gone,
        (Host::Empty | Host::Cleaned, Wanted::Stopped)
        | (Host::Made, Wanted::Ready)
        | (Host::Running, Wanted::Ready | Wanted::Running)
        | (Host::Cleaned, Wanted::Ready) => Step::Idle,
        (Host::Empty | Host::Parts, Wanted::Ready | Wanted::Running)
        | (Host::Cleaned, Wanted::Running) => Step::Act(Doing::Prepare),
        // What never ran has no log to keep.
        (Host::Parts | Host::Made, Wanted::Stopped)
        | (Host::Parts | Host::Made | Host::Ended | Host::Cleaned, Wanted::Gone) => {
            Step::Act(Doing::Remove)
        }
        (Host::Made, Wanted::Running) => start(machine, now, applied),
        (Host::Running, Wanted::Stopped | Wanted::Gone) => {
            machine.stopping.map_or(Step::Idle, |stopping| stop(machine, stopping, now, applied))
        }
        (Host::Ended, Wanted::Stopped | Wanted::Ready | Wanted::Running) => Step::Act(Doing::Clean),
    }
}

/// Starts once the proxy holds the task's ports.
fn start(machine: &Machine, now: Time, applied: u64) -> Step {
    match machine.ports_in {
        Some((generation, since)) if applied < generation && now < since + PORTS_WAIT => {
            Step::Wait(since + PORTS_WAIT)
        }
        Some(_) | None => Step::Act(Doing::Start),
    }
}

/// Out of the rotation, stop signal, grace, SIGKILL.
fn stop(machine: &Machine, stopping: Stopping, now: Time, applied: u64) -> Step {
    let left = stopping.generation.is_some_and(|generation| applied >= generation);
    let latest = stopping.since + LEAVE_WAIT;
    let end = |at: Time| {
        let by = at + grace(machine);
        machine.cut_off.map_or(by, |dead_by| by.min(dead_by))
    };
    // A lease that runs out leaves no time to wait for the proxy.
    let left = left || machine.cut_off.is_some();
    match (stopping.signalled, stopping.killed) {
        (None, _) if left || now >= latest => Step::Act(Doing::Stop),
        (None, _) => Step::Wait(latest),
        (Some(at), None) if now >= end(at) => Step::Act(Doing::Kill),
        (Some(at), None) => Step::Wait(end(at)),
        (Some(_), Some((at, times))) => {
            let doublings = times.saturating_sub(1).min(KILL_DOUBLINGS_MAX);
            let again = at + Span(KILL_AGAIN.0.saturating_mul(1 << doublings));
            if now >= again { Step::Act(Doing::Kill) } else { Step::Wait(again) }
        }
    }
}

/// Time between a task's stop signal and SIGKILL.
pub(super) fn grace(machine: &Machine) -> Span {
    machine.task.spec.container.stop_grace.unwrap_or(STOP_GRACE)
}
