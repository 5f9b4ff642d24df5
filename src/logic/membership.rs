//! When a node is Down (DESIGN section 6): what the leader concludes from its session with the node
//! and from what is heard of the node's kernel. A pure machine, kept by the leader's daemon only.
//!
//! Gossip alone moves no task: it only says that a kernel answers, never that one does not.

use std::collections::BTreeMap;

use crate::base::id::NodeId;
use crate::base::time::{Span, Time};
use crate::model::node::NodeState;
use crate::model::peer::Parting;

/// Between two pings of a session.
pub const PING: Span = Span::from_millis(400);

/// A session that is silent for this long is over, and so is a kernel.
pub const SILENCE: Span = Span::from_millis(1_200);

/// A host that answers while its daemon does not: Down after this long.
pub const UNKNOWN: Span = Span::from_secs(10);

/// The same where the daemon has said that it is started again.
pub const ANNOUNCED: Span = Span::from_secs(60);

/// What a leader knows of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When its session was heard last, or this manager began to lead.
    pub heard: Time,
    /// When its kernel was.
    pub host_heard: Time,
    /// What its daemon said when it ended.
    pub parting: Parting,
}

impl Evidence {
    /// Of a node that was heard, or whose leader has just begun to lead; `alive`: gossip hears it.
    /// What a new leader's gossip does not hear has no fresh grace.
    #[must_use]
    pub fn new(now: Time, alive: bool) -> Self {
        let silent = Time(now.0.saturating_sub((SILENCE + Span(1)).0));
        Self { heard: now, host_heard: if alive { now } else { silent }, parting: Parting::Silent }
    }

    /// Its session spoke.
    pub const fn hear(&mut self, now: Time) {
        (self.heard, self.host_heard, self.parting) = (now, now, Parting::Silent);
    }

    /// Ready while its session speaks; Down once session and kernel are silent, or its daemon has
    /// been for long, or has said that the machine goes down; else Unknown: its containers may well
    /// run.
    #[must_use]
    pub fn verdict(&self, now: Time, session: bool) -> NodeState {
        let silent = now.since(self.heard);
        if session && silent <= SILENCE {
            NodeState::Ready
        } else if self.parting == Parting::GoesDown
            || silent > self.patience()
            || now.since(self.host_heard) > SILENCE
        {
            NodeState::Down
        } else {
            NodeState::Unknown
        }
    }

    /// When the verdict may be another one although nothing is heard.
    #[must_use]
    pub fn due(&self, now: Time, session: bool) -> Option<Time> {
        if !session && self.parting == Parting::GoesDown {
            return None;
        }
        let ends = [
            session.then(|| self.heard + SILENCE),
            Some(self.host_heard + SILENCE),
            Some(self.heard + self.patience()),
        ];
        ends.into_iter().flatten().filter(|at| *at >= now).min().map(|at| at + Span(1))
    }

    /// How long a daemon may be silent while its host answers.
    const fn patience(&self) -> Span {
        match self.parting {
            Parting::Silent => UNKNOWN,
            Parting::Restarts => ANNOUNCED,
            Parting::GoesDown => Span::ZERO,
        }
    }
}

/// What a leader knows of all nodes.
#[derive(Debug, Default)]
pub struct Membership {
    nodes: BTreeMap<NodeId, Watch>,
}

#[derive(Debug)]
struct Watch {
    evidence: Evidence,
    session: bool,
    told: Option<NodeState>,
}

impl Membership {
    /// A node is to be watched; `alive`: gossip hears it. Without effect on one that is.
    pub fn watch(&mut self, now: Time, node: NodeId, alive: bool) {
        let new = || Watch { evidence: Evidence::new(now, alive), session: false, told: None };
        self.nodes.entry(node).or_insert_with(new);
    }

    /// A node was removed.
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Its session began; the manager knows it for Ready by that.
    pub fn begin(&mut self, now: Time, node: NodeId) {
        self.watch(now, node, true);
        if let Some(watch) = self.nodes.get_mut(&node) {
            watch.evidence.hear(now);
            (watch.session, watch.told) = (true, Some(NodeState::Ready));
        }
    }

    /// Its session spoke.
    pub fn hear(&mut self, now: Time, node: NodeId) {
        if let Some(watch) = self.nodes.get_mut(&node) {
            watch.evidence.hear(now);
        }
    }

    /// Its session ended.
    pub fn end(&mut self, node: NodeId, parting: Parting) {
        if let Some(watch) = self.nodes.get_mut(&node) {
            (watch.session, watch.evidence.parting) = (false, parting);
        }
    }

    /// Its kernel answered.
    pub fn host_heard(&mut self, now: Time, node: NodeId) {
        if let Some(watch) = self.nodes.get_mut(&node) {
            watch.evidence.host_heard = watch.evidence.host_heard.max(now);
        }
    }

    /// The nodes whose state is another one than was told last.
    pub fn judge(&mut self, now: Time) -> Vec<(NodeId, NodeState)> {
        let mut changed = Vec::new();
        for (node, watch) in &mut self.nodes {
            let state = watch.evidence.verdict(now, watch.session);
            if watch.told != Some(state) {
                watch.told = Some(state);
                changed.push((*node, state));
            }
        }
        changed
    }

    /// What was told of a node last.
    #[must_use]
    pub fn is_ready(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|watch| watch.told == Some(NodeState::Ready))
    }

    /// When to judge although nothing is heard.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let due = |watch: &Watch| {
            let told = watch.told == Some(watch.evidence.verdict(now, watch.session));
            if told { watch.evidence.due(now, watch.session) } else { Some(now) }
        };
        self.nodes.values().filter_map(due).min()
    }

    /// Nodes whose daemon is not heard: whether their kernels answer is to be found out.
    pub fn silent(&self, now: Time) -> impl Iterator<Item = NodeId> {
        let silent = move |watch: &Watch| {
            !watch.session || now.since(watch.evidence.heard) > Span(PING.0 + PING.0 / 2)
        };
        self.nodes.iter().filter(move |(_, watch)| silent(watch)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time(1_000_000_000) + Span::from_millis(millis)
    }

    #[test]
    fn the_verdict_by_session_and_kernel() {
        let evidence = Evidence::new(at(0), true);
        let alive = |ms| Evidence { host_heard: at(ms), ..evidence };
        let announced = Evidence { parting: Parting::Restarts, host_heard: at(59_900), ..evidence };
        for (evidence, now, session, state) in [
            (evidence, 1_000, true, NodeState::Ready),
            (evidence, 1_200, true, NodeState::Ready),
            // The daemon was killed, the kernel says so.
            (evidence, 1_000, false, NodeState::Unknown),
            // The link went.
            (evidence, 1_300, true, NodeState::Down),
            (evidence, 1_300, false, NodeState::Down),
            (alive(1_300), 1_300, true, NodeState::Unknown),
            (alive(9_900), 9_900, false, NodeState::Unknown),
            (alive(10_100), 10_100, false, NodeState::Down),
            (announced, 59_900, false, NodeState::Unknown),
            (announced, 60_100, false, NodeState::Down),
            // A new leader whose gossip does not hear the node gives it no grace.
            (Evidence::new(at(5), false), 6, false, NodeState::Down),
            (Evidence::new(at(5), true), 6, false, NodeState::Unknown),
        ] {
            assert_eq!(evidence.verdict(at(now), session), state, "{evidence:?} at {now} ms");
        }
    }

    #[test]
    fn nothing_changes_before_it_is_due() {
        let step = Span::from_millis(50);
        for session in [false, true] {
            for alive in [0, 700, 9_500] {
                let mut evidence = Evidence::new(at(0), true);
                evidence.host_heard = at(alive);
                let mut now = at(alive);
                for _ in 0..400 {
                    let (before, due) =
                        (evidence.verdict(now, session), evidence.due(now, session));
                    let next = now + step;
                    if due.is_none_or(|due| due > next) {
                        assert_eq!(evidence.verdict(next, session), before, "{next:?} {due:?}");
                    }
                    now = next;
                }
                assert_eq!(evidence.due(now, session), None, "Down is final until it is heard");
            }
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let (a, b) = (NodeId::new(1), NodeId::new(2));
        let mut all = Membership::default();
        all.watch(at(0), a, true);
        all.watch(at(0), b, false);
        assert_eq!(all.deadline(at(0)), Some(at(0)));
        assert_eq!(all.judge(at(0)), [(a, NodeState::Unknown), (b, NodeState::Down)]);
        assert_eq!(all.judge(at(1)), []);
        all.begin(at(100), a);
        assert_eq!(all.judge(at(100)), [], "the manager knows by the session");
        assert_eq!(all.silent(at(200)).collect::<Vec<_>>(), [b]);
        all.hear(at(500), a);
        assert_eq!(all.deadline(at(500)), Some(at(1_700) + Span(1)));
        assert_eq!(all.silent(at(1_200)).collect::<Vec<_>>(), [a, b]);
        assert_eq!(all.judge(at(1_800)), [(a, NodeState::Down)]);
        all.begin(at(2_000), a);
        all.end(a, Parting::Restarts);
        all.host_heard(at(3_000), a);
        assert_eq!(all.judge(at(4_000)), [(a, NodeState::Unknown)]);
        all.forget(a);
        assert_eq!(all.judge(at(99_000)), []);
        assert_eq!(all.deadline(at(99_000)), None, "b is Down until it is heard");
    }

    #[test]
    fn a_machine_that_goes_down_is_down_until_it_is_heard_again() {
        let a = NodeId::new(1);
        let mut all = Membership::default();
        all.begin(at(0), a);
        all.end(a, Parting::GoesDown);
        assert_eq!(all.deadline(at(10)), Some(at(10)), "at once");
        assert_eq!(all.judge(at(10)), [(a, NodeState::Down)]);
        // While it stops its containers, its kernel answers.
        all.host_heard(at(300), a);
        assert_eq!((all.judge(at(300)), all.deadline(at(300))), (vec![], None));
        all.begin(at(20_000), a);
        all.end(a, Parting::Silent);
        assert_eq!(all.judge(at(20_001)), [(a, NodeState::Unknown)], "that was another time");
    }

    #[test]
    fn who_is_heard_again_has_not_announced_anything() {
        let mut evidence = Evidence { parting: Parting::Restarts, ..Evidence::new(at(0), false) };
        evidence.hear(at(100));
        assert_eq!(evidence, Evidence::new(at(100), true));
    }
}
