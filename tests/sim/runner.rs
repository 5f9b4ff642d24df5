//! Runs seeds, says what they did, and makes a failing one small.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use skep::base::time::Span;

use crate::faults::{Counts, count};
use crate::trace;

/// Most runs that are spent on making one failing seed small.
const SHRINK_RUNS_MAX: usize = 120;

/// Failing seeds that are looked at; behind them a run ends. `FAILURES` says otherwise.
const FAILURES_MAX: u64 = 5;

/// Lines of a trace that are printed.
const TRACE_LINES: usize = 150;

/// What a run is told.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub seed: u64,
    /// Which faults of the plan happen, by number; `None`: all.
    pub faults: Option<BTreeSet<usize>>,
}

impl Options {
    /// Whether the fault of this number happens.
    pub(crate) fn has(&self, fault: usize) -> bool {
        self.faults.as_ref().is_none_or(|faults| faults.contains(&fault))
    }
}

/// What a run was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ran {
    pub span: Span,
    pub counts: Counts,
}

thread_local! {
    /// Why the run of this thread failed.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Faults that its plan holds.
    static PLANNED: RefCell<usize> = const { RefCell::new(0) };
}

/// A world says how long its plan is, for the shrinking.
pub(crate) fn planned(faults: usize) {
    PLANNED.set(faults);
}

/// Panics of simulated runs are kept instead of printed.
pub(crate) fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("(no text)");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PANICKED.set(Some(format!("{text} ({place})")));
    }));
}

/// Runs one seed; the reason when it fails.
pub(crate) fn attempt(run: fn(&Options) -> Ran, options: &Options) -> Result<Ran, String> {
    PANICKED.take();
    std::panic::catch_unwind(AssertUnwindSafe(|| run(options)))
        .map_err(|_panic| PANICKED.take().unwrap_or_default())
}

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// A line that reaches the terminal, whatever captures the output.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error");
}

/// What an invariant's text begins with: two failures with the same are the same failure.
fn kind(reason: &str) -> &str {
    reason.split(':').next().unwrap_or("")
}

/// The seeds that failed once, of this test: `TEST SEED REASON`, a line each.
fn regressions(test: &str) -> Vec<u64> {
    let text = include_str!("../data/sim/seeds.txt");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_test = words.filter(|words| words.first() == Some(&test));
    of_test.map(|words| words[1].parse().expect("a seed")).collect()
}

fn seeds(test: &str, usual: u64) -> Vec<u64> {
    if let Some(seed) = number("SEED") {
        return vec![seed];
    }
    let start = number("SEED_START").unwrap_or(0);
    let mut seeds = if start == 0 { regressions(test) } else { Vec::new() };
    seeds.extend(start..start + number("SEEDS").unwrap_or(usual));
    seeds
}

/// Runs every seed of a test on all cores; fails when one does.
pub(crate) fn each_seed(test: &str, usual: u64, run: fn(&Options) -> Ran) -> Result<(), String> {
    let seeds = seeds(test, usual);
    let faults = std::env::var("FAULTS").ok().map(|text| {
        let numbers = text.split(',').filter(|number| !number.is_empty());
        numbers.map(|number| number.parse().expect("a number")).collect()
    });
    let next = AtomicU64::new(0);
    let total = Mutex::new((Ran::default(), 0u64, Vec::new()));
    let failures_max = usize::try_from(number("FAILURES").unwrap_or(FAILURES_MAX)).unwrap();
    // A run that looks for one failure ends with it.
    let stop_at = std::env::var("STOP_AT").ok();
    let sought = |reason: &str| {
        stop_at.as_ref().is_some_and(|words| words.split('|').any(|word| reason.contains(word)))
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                    let Some(seed) = seeds.get(at) else { return };
                    let options = Options { seed: *seed, faults: faults.clone() };
                    let ran = attempt(run, &options);
                    let mut total = total.lock().unwrap();
                    total.1 += 1;
                    match ran {
                        Ok(ran) => {
                            total.0.span = total.0.span + ran.span;
                            for (what, times) in ran.counts {
                                count(&mut total.0.counts, what, times);
                            }
                        }
                        Err(_) if total.2.len() >= failures_max => return,
                        Err(reason) => {
                            if sought(&reason) {
                                next.fetch_add(u64::from(u32::MAX), Ordering::Relaxed);
                            }
                            total.2.push((options, reason));
                        }
                    }
                }
            });
        }
    });
    let (ran, seeds, mut failed) = total.into_inner().unwrap();
    failed.sort_by_key(|(options, _)| options.seed);
    for (options, reason) in &failed {
        explain(test, run, options, reason);
    }
    let counts: Vec<String> =
        ran.counts.iter().map(|(what, times)| format!("{what} {times}")).collect();
    let hours = ran.span.0 as f64 / 3.6e9;
    let failed: Vec<u64> = failed.iter().map(|(options, _)| options.seed).collect();
    let said = if failed.is_empty() { "nothing".to_owned() } else { format!("seeds {failed:?}") };
    say(&format!(
        "{test}: {seeds} seeds, {hours:.1} simulated hours; faults: {}; failed: {said}",
        counts.join(", ")
    ));
    if failed.is_empty() { Ok(()) } else { Err(format!("{} seeds failed", failed.len())) }
}

/// Leaves out every fault that is not needed, and prints how to repeat what is left.
fn explain(test: &str, run: fn(&Options) -> Ran, options: &Options, reason: &str) {
    say(&format!("{test}: seed {} FAILED: {reason}", options.seed));
    let mut small = options.clone();
    let mut runs = 0;
    if attempt(run, &small).is_err() && std::env::var_os("NO_SHRINK").is_none() {
        let all = small.faults.clone().unwrap_or_else(|| (0..PLANNED.take()).collect());
        let mut left: Vec<usize> = all.into_iter().collect();
        let mut chunk = left.len().div_ceil(2);
        while chunk > 0 && runs < SHRINK_RUNS_MAX {
            let mut at = 0;
            while at < left.len() && runs < SHRINK_RUNS_MAX {
                let end = (at + chunk).min(left.len());
                let fewer = left[..at].iter().chain(&left[end..]).copied().collect();
                let tried = Options { seed: options.seed, faults: Some(fewer) };
                runs += 1;
                match attempt(run, &tried) {
                    Err(other) if kind(&other) == kind(reason) => {
                        left.drain(at..end);
                        small = tried;
                    }
                    Err(_) | Ok(_) => at = end,
                }
            }
            chunk /= 2;
        }
    }
    trace::start();
    let again = attempt(run, &small);
    let lines = trace::stop();
    let shown = number("TRACE_LINES").map_or(TRACE_LINES, |n| usize::try_from(n).unwrap());
    for line in &lines[lines.len().saturating_sub(shown)..] {
        say(line);
    }
    match again {
        Err(reason) => say(&format!("{reason}\n(after {runs} runs of shrinking)")),
        Ok(_) => say("the same seed passed when it was repeated: the run is not deterministic"),
    }
    let faults = small.faults.map_or(String::new(), |faults| {
        let numbers: Vec<String> = faults.iter().map(ToString::to_string).collect();
        format!("FAULTS={} ", numbers.join(","))
    });
    say(&format!(
        "repeat with: SEED={} {faults}cargo test --profile sim --test sim {test}",
        options.seed
    ));
}

/// Runs a test of any kind; its reason when it panics.
pub(crate) fn one(test: fn() -> Result<(), String>) -> Result<(), String> {
    PANICKED.take();
    std::panic::catch_unwind(test).unwrap_or_else(|_panic| Err(PANICKED.take().unwrap_or_default()))
}

/// The same seed gives the same run, to the last event.
pub(crate) fn same_seed_same_run(test: &str, run: fn(&Options) -> Ran) -> Result<(), String> {
    for seed in 1_000..1_004 {
        let options = Options { seed, faults: None };
        let trace = || {
            trace::start();
            let ran = attempt(run, &options).map(|ran| (ran.span, ran.counts));
            (ran, trace::stop())
        };
        let (first, again) = (trace(), trace());
        if first != again {
            return Err(format!("{test}: seed {seed} is not deterministic"));
        }
    }
    Ok(())
}
