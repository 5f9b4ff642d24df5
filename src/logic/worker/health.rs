//! Health checks: whether a container that runs is well, counted as Docker does (moby
//! `daemon/health.go`).
//!
//! A probe is one process in the container. It begins an interval after the start and after the end
//! of the probe before; in the start period after the start interval. One that succeeds makes the
//! container healthy. `retries` failures in a row make it unhealthy; in the start period of one that
//! was never healthy they do not count. A probe that could not be run says nothing.
//!
//! **What follows.** A task stays `Starting`, out of the rotation, until it is healthy. One that is
//! unhealthy leaves the rotation, is stopped like any other, and has failed when it has ended: whoever
//! makes tasks replaces it. No container is unhealthy and well again.
//!
//! **After a restart of the daemon** the count begins anew. What a manager holds for running, or what
//! no manager speaks of, stays in the rotation until it is found to be unhealthy: a restart takes
//! nothing away from users.
//!
//! **Spread.** Tasks that start together do not probe together: a first probe comes up to a quarter
//! of its interval sooner, one after a restart of the daemon at any time in its interval. How much is
//! the task's own, the same in every run.
//!
//! **Invariants:** a task has at most one probe under way; none begins before the container runs or
//! once it is to stop.

use super::Worker;
use super::io::{Probe, Probed};
use super::machine::{Host, Machine};
use crate::base::id::TaskId;
use crate::base::time::{Now, Span, Time};
use crate::model::service;
use crate::model::task::TaskState;

/// Docker's time between two probes, and for one.
const INTERVAL: Span = Span::from_secs(30);
const TIMEOUT: Span = Span::from_secs(30);

/// Docker's time between two probes in the start period.
const START_INTERVAL: Span = Span::from_secs(5);

/// Docker's number of failures in a row.
const RETRIES: u32 = 3;

/// Of what a probe printed, this many letters of its last line are told.
const LINE_CHARS_MAX: usize = 120;

/// A check that is to be run, every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    argv: Vec<String>,
    interval: Span,
    timeout: Span,
    start_period: Span,
    start_interval: Span,
    retries: u32,
}

impl Check {
    /// What the service asks for, with the image's in place of what it leaves open (moby
    /// `daemon/commit.go` `merge`). None where nothing is to be run: there is no check, it is turned
    /// off (`NONE`), or it is of a kind that Docker does not run either.
    #[must_use]
    pub fn resolve(
        spec: Option<&service::Health>,
        image: Option<&service::Health>,
    ) -> Option<Self> {
        let (spec, image) = (spec.cloned().unwrap_or_default(), image.cloned().unwrap_or_default());
        let test = if spec.test.is_empty() { image.test } else { spec.test };
        let mut words = test.into_iter();
        let argv: Vec<String> = match words.next()?.as_str() {
            "CMD" => words.collect(),
            "CMD-SHELL" => {
                ["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(words).collect()
            }
            _ => return None,
        };
        let time = |own: Option<Span>, image: Option<Span>, usual| own.or(image).unwrap_or(usual);
        (!argv.is_empty()).then(|| Self {
            argv,
            interval: time(spec.interval, image.interval, INTERVAL),
            timeout: time(spec.timeout, image.timeout, TIMEOUT),
            start_period: time(spec.start_period, image.start_period, Span::ZERO),
            start_interval: time(spec.start_interval, image.start_interval, START_INTERVAL),
            retries: spec.retries.or(image.retries).unwrap_or(RETRIES),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Healthy,
    Unhealthy,
}

/// What is known of one container.
#[derive(Clone, Debug)]
pub(super) struct Health {
    check: Check,
    state: State,
    /// Held for well until it is found to be unhealthy.
    trusted: bool,
    /// The start, or when it was found.
    since: Time,
    /// Failures in a row that count.
    failures: u32,
    /// When the next probe begins.
    due: Time,
    /// When the one under way was begun.
    begun: Option<Time>,
    /// How the last one failed.
    why: String,
}

impl Health {
    /// Of a container that has just started.
    fn started(check: Check, now: Time, task: TaskId) -> Self {
        let first = check.first();
        let sooner = part(task, Span(first.0 / 4));
        Self::new(check, now, now + first - sooner)
    }

    /// Of one that was found running.
    fn found(check: Check, now: Time, task: TaskId) -> Self {
        let due = now + part(task, check.interval);
        Self { trusted: true, ..Self::new(check, now, due) }
    }

    const fn new(check: Check, since: Time, due: Time) -> Self {
        Self {
            check,
            state: State::Starting,
            trusted: false,
            since,
            failures: 0,
            due,
            begun: None,
            why: String::new(),
        }
    }

    fn is_good(&self) -> bool {
        match self.state {
            State::Starting => self.trusted,
            State::Healthy => true,
            State::Unhealthy => false,
        }
    }

    /// Failures do not count yet.
    fn is_early(&self, at: Time) -> bool {
        self.state == State::Starting && !self.trusted && at < self.since + self.check.start_period
    }

    fn took(&mut self, now: Time, probed: &Probed) {
        let Some(begun) = self.begun.take() else { return };
        self.count(begun, probed);
        let early = self.is_early(now);
        self.due = now + if early { self.check.start_interval } else { self.check.interval };
    }

    fn count(&mut self, begun: Time, probed: &Probed) {
        match probed {
            Probed::NotRun => return,
            Probed::Exited { code: 0, .. } => {
                (self.state, self.failures) = (State::Healthy, 0);
                return;
            }
            Probed::Exited { code, output } => {
                let line = output.lines().rev().find(|line| !line.trim().is_empty());
                let line: String =
                    line.unwrap_or_default().trim().chars().take(LINE_CHARS_MAX).collect();
                let colon = if line.is_empty() { "" } else { ": " };
                self.why = format!("its health check exited with {code}{colon}{line}");
            }
            Probed::Late => {
                let seconds = self.check.timeout.0 as f64 / 1e6;
                self.why = format!("its health check took more than {seconds} s");
            }
        }
        if !self.is_early(begun) {
            self.failures = self.failures.saturating_add(1);
        }
        if self.failures >= self.check.retries {
            self.state = State::Unhealthy;
        }
    }
}

impl Check {
    /// From the start to the first probe.
    fn first(&self) -> Span {
        if self.start_period > Span::ZERO {
            self.start_interval.min(self.interval)
        } else {
            self.interval
        }
    }
}

/// A part of `of` that is the task's own.
fn part(task: TaskId, of: Span) -> Span {
    let low = u64::try_from(task.0.0 & u128::from(u64::MAX)).unwrap_or(0);
    let mixed = low.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    // 24 bits of chance.
    Span(of.0 / (1 << 24) * mixed + of.0 % (1 << 24) * mixed / (1 << 24))
}

impl Machine {
    /// It has just started: what it is held for begins anew.
    pub(super) fn watch_from_start(&mut self, now: Time) {
        let check = self.check.clone();
        self.health = check.map(|check| Health::started(check, now, self.task.id));
    }

    /// It was found running.
    pub(super) fn watch_from_now(&mut self, now: Time) {
        let check = self.check.clone();
        self.health = check.map(|check| Health::found(check, now, self.task.id));
    }

    /// What was found running was not well yet as far as anybody knows.
    pub(super) fn distrust(&mut self) {
        if let Some(health) = &mut self.health {
            health.trusted = false;
        }
    }

    /// It is well as far as anybody has looked.
    pub(super) fn is_good(&self) -> bool {
        self.health.as_ref().is_none_or(Health::is_good)
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.state == State::Unhealthy)
    }

    /// Its error, when it was stopped for being unhealthy and ended with this code (swarmkit
    /// `agent/exec`, dockerd's `ErrContainerUnhealthy`).
    pub(super) fn unhealthy_err(&self, code: i32) -> String {
        let exit =
            if code == 0 { String::new() } else { format!("task: non-zero exit ({code}): ") };
        let why = self.health.as_ref().map_or("", |health| health.why.as_str());
        format!("{exit}dockerexec: unhealthy container ({why})")
    }

    /// When its next probe begins.
    pub(super) fn probe_at(&self) -> Option<Time> {
        let runs = self.assigned && self.host == Host::Running && self.stopping.is_none();
        let health = self.health.as_ref().filter(|health| runs && health.begun.is_none())?;
        Some(health.due)
    }

    /// Its probe, when that is due.
    pub(super) fn probe(&mut self, now: Time) -> Option<Probe> {
        if self.probe_at().is_none_or(|at| now < at) {
            return None;
        }
        let health = self.health.as_mut()?;
        health.begun = Some(now);
        Some(Probe { argv: health.check.argv.clone(), timeout: health.check.timeout })
    }
}

impl Worker {
    /// A probe ended.
    pub(super) fn probed(&mut self, now: Now, id: TaskId, probed: &Probed) {
        let Some(machine) = self.tasks.get_mut(&id) else { return };
        let was_good = machine.is_good();
        let Some(health) = &mut machine.health else { return };
        health.took(now.mono, probed);
        let lives = machine.host == Host::Running && machine.stopping.is_none();
        if lives && !was_good && machine.is_good() {
            machine.serves(now);
        }
    }

    /// Probes that are due; each task's wake-up comes with its next.
    pub(super) fn probe(&mut self, now: Now, out: &mut Vec<super::io::Output>) {
        for (id, machine) in &mut self.tasks {
            if let Some(probe) = machine.probe(now.mono) {
                out.push(super::io::Output::Probe { task: *id, probe });
            }
            machine.wake = machine.wake.into_iter().chain(machine.probe_at()).min();
        }
    }
}

/// The state to show of what was found running.
pub(super) const fn state_found(good: bool) -> TaskState {
    if good { TaskState::Running } else { TaskState::Starting }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::Health as Spec;

    fn spec(test: &[&str]) -> Spec {
        Spec { test: test.iter().map(|word| (*word).to_owned()).collect(), ..Spec::default() }
    }

    #[test]
    fn the_service_overrides_the_image_setting_by_setting() {
        let second = Span::from_secs(1);
        let image = Spec {
            interval: Some(second),
            retries: Some(9),
            start_period: Some(Span::from_secs(7)),
            ..spec(&["CMD", "look", "here"])
        };
        let alone = Check::resolve(None, Some(&image)).expect("a check");
        assert_eq!(alone.argv, ["look", "here"]);
        assert_eq!((alone.interval, alone.timeout, alone.retries), (second, TIMEOUT, 9));
        assert_eq!(
            (alone.start_period, alone.start_interval),
            (Span::from_secs(7), START_INTERVAL)
        );
        let own = Spec { retries: Some(2), timeout: Some(second), ..Spec::default() };
        let both = Check::resolve(Some(&own), Some(&image)).expect("a check");
        assert_eq!(both, Check { retries: 2, timeout: second, ..alone });
        let shell = Check::resolve(Some(&spec(&["CMD-SHELL", "a || b"])), Some(&image));
        let shell = shell.expect("a check");
        assert_eq!(
            (shell.argv, shell.retries),
            (["/bin/sh", "-c", "a || b"].map(str::to_owned).into(), 9)
        );
        let plain = Check::resolve(Some(&spec(&["CMD", "x"])), None).expect("a check");
        assert_eq!((plain.interval, plain.retries, plain.start_period), (INTERVAL, 3, Span::ZERO));
    }

    #[test]
    fn what_is_not_to_be_run_is_no_check() {
        let image = spec(&["CMD", "x"]);
        assert_eq!(Check::resolve(None, None), None);
        assert_eq!(Check::resolve(Some(&spec(&["NONE"])), Some(&image)), None);
        assert_eq!(Check::resolve(None, Some(&spec(&["NONE"]))), None);
        for strange in [spec(&["CMD"]), spec(&["WAT", "x"])] {
            assert_eq!(Check::resolve(Some(&strange), Some(&image)), None);
        }
        // Settings without a test are of no use without the image's.
        assert_eq!(Check::resolve(Some(&Spec { retries: Some(1), ..Spec::default() }), None), None);
    }

    #[test]
    fn twenty_tasks_that_start_together_do_not_probe_together() {
        let of = Span::from_secs(10);
        let mut parts: Vec<u64> = (1..=20).map(|n| part(TaskId::new(n), of).0).collect();
        parts.sort_unstable();
        assert!(parts.iter().all(|part| *part < of.0), "{parts:?}");
        // Not in the same moment, and over most of the time.
        assert!(parts.windows(2).all(|two| two[1] - two[0] > 10_000), "{parts:?}");
        assert!(parts[19] - parts[0] > of.0 / 2, "{parts:?}");
        assert!(part(TaskId::new(u128::MAX), Span(u64::MAX)) < Span(u64::MAX), "no overflow");
    }
}
