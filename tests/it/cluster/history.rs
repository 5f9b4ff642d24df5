//! What happens to a swarm while something is broken in it, written down and judged at the end.
//!
//! Writers ask all managers in turn: each creates services of a name of its own and counts a label
//! up, which it reads back from another manager. A watch looks at the machines' own processes, which
//! no manager can be wrong about: which task has a living container where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::node::{SKEP, Said};

/// Between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long after a cut ended two may still run in a slot.
const GRACE: Duration = Duration::from_secs(5);

/// Runs `skep` against a socket.
pub(super) fn ask(socket: &Path, words: &[&str]) -> Said {
    let mut command = Command::new(SKEP);
    command.args(words).env("SKEP_HOST", format!("unix://{}", socket.display()));
    Said::of(command.stdin(Stdio::null()).output().expect("skep"))
}

/// What one writer was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Services whose creation was acknowledged.
    pub(super) created: Vec<String>,
    /// Numbers of the label whose writing was acknowledged; each is higher than the one before.
    pub(super) counted: u64,
    /// The highest number that it tried to write.
    pub(super) tried: u64,
    /// Refusals and time-outs.
    pub(super) refused: usize,
    /// The longest time without an acknowledgement.
    pub(super) longest: Duration,
    /// Reads that told less than had been acknowledged before them.
    pub(super) stale: Vec<String>,
}

/// A thread that writes until it is told to stop.
#[derive(Debug)]
pub(super) struct Writer {
    name: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Told>,
}

impl Writer {
    /// Begins; `sockets` are the managers'.
    pub(super) fn start(n: usize, sockets: Arc<Mutex<Vec<PathBuf>>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (own, name) = (Arc::clone(&stop), format!("count{n}"));
        let counter = name.clone();
        let thread = thread::spawn(move || write(n, &counter, &sockets, &own));
        Self { name, stop, thread }
    }

    /// The service whose label it counts.
    pub(super) fn finish(self) -> (String, Told) {
        self.stop.store(true, Ordering::Relaxed);
        (self.name, self.thread.join().expect("writer"))
    }
}

fn write(n: usize, counter: &str, sockets: &Mutex<Vec<PathBuf>>, stop: &AtomicBool) -> Told {
    let mut told = Told::default();
    let mut last = Instant::now();
    let mut turn = n;
    let mut socket = || {
        turn += 1;
        let sockets = sockets.lock().expect("sockets");
        sockets[turn % sockets.len()].clone()
    };
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let mut acknowledged = false;
        if round.is_multiple_of(4) {
            let name = format!("w{n}x{round}");
            let words =
                ["service", "create", "-q", "-d", "--replicas", "0", "--name", &name, "skep/hello"];
            if ask(&socket(), &words).code == 0 {
                told.created.push(name);
                acknowledged = true;
            }
        } else {
            told.tried += 1;
            let label = format!("v={}", told.tried);
            let words = ["service", "update", "-q", "-d", "--label-add", &label, counter];
            if ask(&socket(), &words).code == 0 {
                told.counted = told.tried;
                acknowledged = true;
            }
            let words = ["service", "inspect", "--format", "{{.Spec.Labels.v}}", counter];
            let read = ask(&socket(), &words);
            let seen = read.out.trim().parse::<u64>();
            if read.code == 0 && seen.as_ref().is_ok_and(|seen| *seen < told.counted) {
                told.stale.push(format!("{} after {} was written", read.out.trim(), told.counted));
            }
        }
        if acknowledged {
            told.longest = told.longest.max(last.elapsed());
            last = Instant::now();
        } else {
            told.refused += 1;
            thread::sleep(LOOK_EVERY);
        }
    }
    told.longest = told.longest.max(last.elapsed());
    told
}

/// Which tasks have a living container, by machine.
type Seen = BTreeSet<(usize, String)>;

/// A thread that looks at the machines' processes.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(Instant, Seen)>>,
}

impl Watch {
    /// Begins; `exec_roots` are the machines'.
    pub(super) fn start(exec_roots: Vec<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut all = Vec::new();
            while !own.load(Ordering::Relaxed) {
                all.push((Instant::now(), look(&exec_roots)));
                thread::sleep(LOOK_EVERY);
            }
            all
        });
        Self { stop, thread }
    }

    /// What was seen.
    pub(super) fn finish(self) -> Vec<(Instant, Seen)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("watch")
    }
}

/// The tasks whose shim has a child that lives.
pub(super) fn look(exec_roots: &[PathBuf]) -> Seen {
    let mut shims = BTreeMap::new();
    let mut parents = BTreeSet::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&str> = line
            .split(|byte| *byte == 0)
            .filter_map(|word| std::str::from_utf8(word).ok())
            .collect();
        if words.get(1) == Some(&"shim") {
            // One of its words is a path below EXEC_ROOT/tasks/ID.
            let of = |root: &PathBuf| {
                words.iter().find_map(|word| {
                    let below = Path::new(word).strip_prefix(root.join("tasks")).ok()?;
                    Some(below.iter().next()?.to_str()?.to_owned())
                })
            };
            let found = exec_roots.iter().enumerate().find_map(|(n, root)| Some((n, of(root)?)));
            if let Some(found) = found {
                shims.insert(pid, found);
                continue;
            }
        }
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let mut rest = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) = (rest.next(), rest.next().and_then(|text| text.parse::<i32>().ok()));
        // runc itself is a child too, while it makes the container.
        let is_runc = words.first().is_some_and(|word| word.ends_with("runc"));
        if !matches!(state, None | Some("Z" | "X")) && !is_runc {
            parents.extend(parent);
        }
    }
    shims.into_iter().filter(|(pid, _)| parents.contains(pid)).map(|(_, it)| it).collect()
}

/// When a machine could not be heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) machine: usize,
    pub(super) from: Instant,
    pub(super) to: Option<Instant>,
}

/// Slots that two machines ran at a time although none of them was cut off; at most one line for each
/// pair of tasks. `slots` names the slot of a task; one that nobody knows any more has none.
pub(super) fn doubles(
    seen: &[(Instant, Seen)],
    slots: &BTreeMap<String, String>,
    cuts: &[Cut],
) -> Vec<String> {
    let excused = |machine: usize, at: Instant| {
        cuts.iter().any(|cut| {
            cut.machine == machine && cut.from <= at && cut.to.is_none_or(|to| at <= to + GRACE)
        })
    };
    let begun = seen.first().map(|(at, _)| *at);
    let mut told = BTreeMap::new();
    for (at, tasks) in seen {
        let mut by_slot: BTreeMap<&String, Vec<&(usize, String)>> = BTreeMap::new();
        for task in tasks {
            if let Some(slot) = slots.get(&task.1) {
                by_slot.entry(slot).or_default().push(task);
            }
        }
        for (slot, tasks) in by_slot {
            if tasks.len() > 1 && !tasks.iter().any(|(machine, _)| excused(*machine, *at)) {
                let since = begun.map(|begun| at.duration_since(begun)).unwrap_or_default();
                told.entry(tasks.clone())
                    .or_insert_with(|| format!("{since:?}: two in slot {slot}: {tasks:?}"));
            }
        }
    }
    told.into_values().collect()
}

#[test]
fn two_in_a_slot_are_found_unless_one_is_cut_off() {
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let task = |machine: usize, id: &str| (machine, id.to_owned());
    let slots = BTreeMap::from([("a", "web.1"), ("b", "web.1"), ("c", "web.2")]);
    let slots = slots.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let two = BTreeSet::from([task(0, "a"), task(1, "b"), task(2, "c")]);
    let seen = vec![(at(0), BTreeSet::from([task(0, "a"), task(2, "c")])), (at(9), two)];
    let cut = |machine, from, to: Option<u64>| Cut { machine, from: at(from), to: to.map(at) };
    assert_eq!(doubles(&seen, &slots, &[]).len(), 1);
    assert_eq!(doubles(&seen, &slots, &[cut(2, 0, None)]).len(), 1, "another machine's cut");
    assert_eq!(doubles(&seen, &slots, &[cut(1, 1, Some(3))]).len(), 1, "too long ago");
    assert!(doubles(&seen, &slots, &[cut(1, 1, Some(5))]).is_empty());
    assert!(doubles(&seen, &slots, &[cut(0, 8, None)]).is_empty());
}
