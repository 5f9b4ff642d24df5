//! Which actions run now and which wait: lanes, so that no kind of work holds up another.
//!
//! Three lanes of actions: making containers, signals, which touch no disk, and everything else. A
//! fourth one pulls images. A task whose image is not here waits there without a thread; one pull
//! serves all tasks that want the image, and what becomes of it they all are told. So a registry that
//! takes connections and never answers holds up its own tasks, and no other start. Within a lane, first
//! come, first served, save for pulls of a registry that has its share of the lane already.
//!
//! Pure: no threads here. The worker has at most one action of a task under way, so what waits is
//! bounded by the number of its tasks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::base::id::TaskId;

/// Containers made at once: an unpack keeps a whole small core busy.
const MAKING_MAX: usize = 6;

/// Other actions at once.
const QUICK_MAX: usize = 6;

/// Signals at once: a shim that does not answer holds one up for some seconds.
const SIGNALS_MAX: usize = 8;

/// Images pulled at once.
const PULLS_MAX: usize = 6;

/// Of them, from one registry: what is left serves the others while that one does not answer.
const PULLS_OF_REGISTRY_MAX: usize = 3;

/// A lane of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Making,
    Quick,
    Signal,
}

/// An image that is not here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Absent {
    /// Host and port of its registry.
    pub(super) registry: String,
    /// As the task names it.
    pub(super) name: String,
}

/// What is to begin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begin<W> {
    Act(TaskId, W),
    Pull(Absent),
}

/// The lanes; `W` is what is done to a task.
#[derive(Debug)]
pub(super) struct Lanes<W> {
    making: Lane<W>,
    quick: Lane<W>,
    signals: Lane<W>,
    /// Actions that have a thread.
    under_way: BTreeMap<TaskId, Kind>,
    /// Images whose pull waits, in order.
    images: VecDeque<Absent>,
    pulling: BTreeSet<Absent>,
    /// Tasks that wait for an image that is to be pulled or is being pulled.
    waiting: BTreeMap<Absent, Vec<(TaskId, W)>>,
}

#[derive(Debug)]
struct Lane<W> {
    running: usize,
    queue: VecDeque<(TaskId, W)>,
}

impl<W> Lanes<W> {
    pub(super) fn new() -> Self {
        let lane = || Lane { running: 0, queue: VecDeque::new() };
        Self {
            making: lane(),
            quick: lane(),
            signals: lane(),
            under_way: BTreeMap::new(),
            images: VecDeque::new(),
            pulling: BTreeSet::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Something is to be done.
    pub(super) fn push(&mut self, kind: Kind, task: TaskId, work: W) {
        self.lane(kind).0.queue.push_back((task, work));
    }

    /// The next one that may begin now; it counts as begun. Call until there is none.
    pub(super) fn next(&mut self) -> Option<Begin<W>> {
        for kind in [Kind::Signal, Kind::Quick, Kind::Making] {
            let (lane, max) = self.lane(kind);
            if lane.running < max
                && let Some((task, work)) = lane.queue.pop_front()
            {
                lane.running += 1;
                self.under_way.insert(task, kind);
                return Some(Begin::Act(task, work));
            }
        }
        if self.pulling.len() >= PULLS_MAX {
            return None;
        }
        let may = |image: &Absent| {
            let own = self.pulling.iter().filter(|other| other.registry == image.registry);
            own.count() < PULLS_OF_REGISTRY_MAX
        };
        let at = self.images.iter().position(may)?;
        let image = self.images.remove(at)?;
        self.pulling.insert(image.clone());
        Some(Begin::Pull(image))
    }

    /// An action's thread is free again.
    pub(super) fn ended(&mut self, task: TaskId) {
        if let Some(kind) = self.under_way.remove(&task) {
            let (lane, _) = self.lane(kind);
            lane.running = lane.running.saturating_sub(1);
        }
    }

    /// An action cannot be done before this image is here: its thread is free, and it waits.
    pub(super) fn absent(&mut self, image: Absent, task: TaskId, work: W) {
        self.ended(task);
        if !self.waiting.contains_key(&image) {
            self.images.push_back(image.clone());
        }
        self.waiting.entry(image).or_default().push((task, work));
    }

    /// A pull ended, well or not: who has waited for it.
    pub(super) fn pulled(&mut self, image: &Absent) -> Vec<(TaskId, W)> {
        if self.pulling.remove(image) { self.waiting.remove(image) } else { None }
            .unwrap_or_default()
    }

    /// Nothing more begins; what is under way ends by itself.
    pub(super) fn clear(&mut self) {
        for lane in [&mut self.making, &mut self.quick, &mut self.signals] {
            lane.queue.clear();
        }
        self.images.clear();
        self.waiting.clear();
    }

    /// Whether no thread works for a lane.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.pulling.is_empty()
    }

    fn lane(&mut self, kind: Kind) -> (&mut Lane<W>, usize) {
        match kind {
            Kind::Making => (&mut self.making, MAKING_MAX),
            Kind::Quick => (&mut self.quick, QUICK_MAX),
            Kind::Signal => (&mut self.signals, SIGNALS_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(n: u8) -> TaskId {
        TaskId::new(u128::from(n))
    }

    fn image(registry: &str, n: u8) -> Absent {
        Absent { registry: registry.to_owned(), name: format!("{registry}/i:{n}") }
    }

    /// Begins all that may, as text.
    fn begun(lanes: &mut Lanes<&'static str>) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(begin) = lanes.next() {
            all.push(match begin {
                Begin::Act(task, work) => format!("{work} {}", task.0.0),
                Begin::Pull(image) => format!("pull {}", image.name),
            });
        }
        all
    }

    #[test]
    fn images_of_a_registry_that_does_not_answer_hold_up_nothing_else() {
        let mut lanes = Lanes::new();
        for n in 0..6 {
            lanes.push(Kind::Making, task(n), "make");
        }
        lanes.push(Kind::Making, task(6), "make");
        assert_eq!(begun(&mut lanes).len(), MAKING_MAX, "the seventh waits for a thread");
        for n in 0..6 {
            lanes.absent(image("dead", n), task(n), "make");
        }
        assert_eq!(
            begun(&mut lanes),
            ["make 6", "pull dead/i:0", "pull dead/i:1", "pull dead/i:2"],
            "the lane is free again, and a registry has its share of pulls"
        );
        lanes.absent(image("live", 7), task(6), "make");
        assert_eq!(begun(&mut lanes), ["pull live/i:7"], "another one's image goes first");
        assert_eq!(lanes.pulled(&image("live", 7)), [(task(6), "make")]);
        lanes.push(Kind::Making, task(6), "make again");
        assert_eq!(begun(&mut lanes), ["make again 6"]);
        assert_eq!(lanes.pulled(&image("dead", 1)), [(task(1), "make")]);
        assert_eq!(begun(&mut lanes), ["pull dead/i:3"]);
    }

    #[test]
    fn all_pulls_together_are_bounded() {
        let mut lanes = Lanes::new();
        for n in 0..9 {
            lanes.absent(image(["a", "b", "c"][usize::from(n / 3)], n), task(n), "make");
        }
        assert_eq!(begun(&mut lanes).len(), PULLS_MAX);
        lanes.pulled(&image("a", 0));
        assert_eq!(begun(&mut lanes), ["pull c/i:6"]);
    }

    #[test]
    fn one_pull_serves_all_tasks_of_an_image() {
        let mut lanes = Lanes::new();
        lanes.absent(image("r", 1), task(1), "make");
        assert_eq!(begun(&mut lanes), ["pull r/i:1"]);
        lanes.absent(image("r", 1), task(2), "make");
        assert_eq!(begun(&mut lanes), Vec::<String>::new(), "it is being pulled");
        assert_eq!(lanes.pulled(&image("r", 1)), [(task(1), "make"), (task(2), "make")]);
        assert_eq!(lanes.pulled(&image("r", 1)), [], "told twice, it means nothing");
        lanes.absent(image("r", 1), task(3), "make");
        assert_eq!(begun(&mut lanes), ["pull r/i:1"], "who comes later has it pulled again");
    }

    #[test]
    fn lanes_of_actions_do_not_wait_for_each_other() {
        let mut lanes = Lanes::new();
        for n in 0..20 {
            lanes.push(Kind::Making, task(n), "make");
            lanes.push(Kind::Quick, task(n + 20), "clean");
            lanes.push(Kind::Signal, task(n + 40), "stop");
        }
        let count = |begun: &[String], word| begun.iter().filter(|it| it.starts_with(word)).count();
        let first = begun(&mut lanes);
        assert_eq!(count(&first, "make"), MAKING_MAX);
        assert_eq!(count(&first, "clean"), QUICK_MAX);
        assert_eq!(count(&first, "stop"), SIGNALS_MAX);
        lanes.ended(task(0));
        lanes.ended(task(0));
        assert_eq!(begun(&mut lanes), ["make 6"], "an end counts once");
    }

    #[test]
    fn a_node_that_leaves_waits_for_threads_alone() {
        let mut lanes = Lanes::new();
        lanes.push(Kind::Quick, task(1), "clean");
        lanes.absent(image("r", 1), task(2), "make");
        begun(&mut lanes);
        lanes.absent(image("r", 1), task(3), "make");
        lanes.absent(image("r", 2), task(4), "make");
        lanes.clear();
        assert!(!lanes.is_idle());
        lanes.ended(task(1));
        assert!(!lanes.is_idle(), "a pull is under way");
        assert_eq!(lanes.pulled(&image("r", 1)), [], "nobody waits any more");
        assert!(lanes.is_idle());
        assert_eq!(begun(&mut lanes), Vec::<String>::new());
    }
}
