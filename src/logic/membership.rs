//! When a node is Down (DESIGN section 6): what the leader concludes from its session with the node
//! and from what is heard of the node's kernel and by gossip. A pure machine, kept by the leader's
//! daemon only.
//!
//! Gossip alone moves no task. That it hears a node contradicts Down; that it does not hear one only
//! shortens the grace of a new leader, and the node's kernel is asked within what is left.

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

/// A beat that gossip heard contradicts Down for this long. Beats come each half second, and the last
/// one of a dead node may need two rounds more to come here over others.
pub const GOSSIP_SILENCE: Span = Span::from_millis(800);

/// What is left of [`SILENCE`] when a manager begins to lead, for a node that its gossip does not
/// hear: long enough for one probe of the kernel.
pub const GRACE: Span = Span::from_millis(500);

/// What a leader knows of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When its session was heard last, or this manager began to lead.
    pub heard: Time,
    /// When its kernel was.
    pub host_heard: Time,
    /// When gossip heard its daemon last, over whomever.
    pub gossip_heard: Time,
    /// What its daemon said of its end.
    pub parting: Parting,
}

impl Evidence {
    /// Of a node that was heard, or whose leader has just begun to lead; `gossip`: when gossip heard
    /// it last, `now` where that knows nothing of it. Who was not heard has no fresh grace.
    #[must_use]
    pub fn new(now: Time, gossip: Time) -> Self {
        let oldest = Time(now.0.saturating_sub(SILENCE.0 - GRACE.0));
        let parting = Parting::Silent;
        Self { heard: now, host_heard: gossip.max(oldest), gossip_heard: gossip, parting }
    }

    /// Its session spoke.
    pub const fn hear(&mut self, now: Time) {
        (self.heard, self.host_heard, self.parting) = (now, now, Parting::Silent);
    }

    /// Ready while its session speaks; Down once session, kernel and gossip are silent, its daemon has
    /// been for long, or it said that it leaves; else Unknown: its containers may well run.
    #[must_use]
    pub fn verdict(&self, now: Time, session: bool) -> NodeState {
        let silent = now.since(self.heard);
        let host_silent =
            now.since(self.host_heard) > SILENCE && now.since(self.gossip_heard) > GOSSIP_SILENCE;
        if session && silent <= SILENCE {
            NodeState::Ready
        } else if self.patience().is_none_or(|patience| silent > patience) || host_silent {
            NodeState::Down
        } else {
            NodeState::Unknown
        }
    }

    /// How long its daemon may be silent while its host is not.
    const fn patience(&self) -> Option<Span> {
        match self.parting {
            Parting::Silent => Some(UNKNOWN),
            Parting::Restarts => Some(ANNOUNCED),
            Parting::GoesDown => None,
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
            Some((self.host_heard + SILENCE).max(self.gossip_heard + GOSSIP_SILENCE)),
            self.patience().map(|patience| self.heard + patience),
        ];
        ends.into_iter().flatten().filter(|at| *at >= now).min().map(|at| at + Span(1))
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
    /// A node is to be watched; `gossip` as in [`Evidence::new`]. Without effect on one that is.
    pub fn watch(&mut self, now: Time, node: NodeId, gossip: Time) {
        let new = || Watch { evidence: Evidence::new(now, gossip), session: false, told: None };
        self.nodes.entry(node).or_insert_with(new);
    }

    /// A node was removed.
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Its session began; the manager knows it for Ready by that.
    pub fn begin(&mut self, now: Time, node: NodeId) {
        self.watch(now, node, now);
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

    /// Gossip heard its daemon then.
    pub fn gossip_heard(&mut self, at: Time, node: NodeId) {
        if let Some(watch) = self.nodes.get_mut(&node) {
            watch.evidence.gossip_heard = watch.evidence.gossip_heard.max(at);
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
        let evidence = Evidence::new(at(0), at(0));
        let alive = |ms| Evidence { host_heard: at(ms), ..evidence };
        let gossip = |ms| Evidence { gossip_heard: at(ms), ..evidence };
        let ended = |parting| Evidence { parting, host_heard: at(59_900), ..evidence };
        let announced = ended(Parting::Restarts);
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
            // Others hear it: the link between it and this leader is what is broken.
            (gossip(600), 1_400, false, NodeState::Unknown),
            (gossip(600), 1_401, false, NodeState::Down),
            (gossip(9_900), 10_100, false, NodeState::Down),
            (ended(Parting::GoesDown), 1, false, NodeState::Down),
            // A new leader whose gossip does not hear the node asks its kernel, and then decides.
            (Evidence::new(at(9_000), at(0)), 9_499, false, NodeState::Unknown),
            (Evidence::new(at(9_000), at(0)), 9_501, false, NodeState::Down),
            (Evidence::new(at(9_000), at(8_900)), 10_100, false, NodeState::Unknown),
            (Evidence::new(at(9_000), at(8_900)), 10_101, false, NodeState::Down),
            (Evidence::new(at(5), at(5)), 6, false, NodeState::Unknown),
        ] {
            assert_eq!(evidence.verdict(at(now), session), state, "{evidence:?} at {now} ms");
        }
    }

    #[test]
    fn nothing_changes_before_it_is_due() {
        let step = Span::from_millis(50);
        for session in [false, true] {
            for (alive, gossip) in [(0, 0), (700, 0), (9_500, 0), (0, 900), (9_500, 9_600)] {
                let mut evidence = Evidence::new(at(0), at(0));
                (evidence.host_heard, evidence.gossip_heard) = (at(alive), at(gossip));
                let mut now = at(alive.max(gossip));
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
        all.watch(at(0), a, at(0));
        all.watch(at(0), b, Time(0));
        assert_eq!(all.deadline(at(0)), Some(at(0)));
        assert_eq!(all.judge(at(0)), [(a, NodeState::Unknown), (b, NodeState::Unknown)]);
        assert_eq!(all.deadline(at(0)), Some(at(500) + Span(1)));
        assert_eq!(all.judge(at(1)), []);
        all.begin(at(100), a);
        assert_eq!(all.judge(at(100)), [], "the manager knows by the session");
        assert_eq!(all.silent(at(200)).collect::<Vec<_>>(), [b]);
        all.hear(at(500), a);
        assert_eq!(all.deadline(at(501)), Some(at(501)), "b is due");
        assert_eq!(all.silent(at(1_200)).collect::<Vec<_>>(), [a, b]);
        all.gossip_heard(at(1_000), a);
        assert_eq!(all.judge(at(1_800)), [(a, NodeState::Unknown), (b, NodeState::Down)]);
        assert_eq!(all.judge(at(1_801)), [(a, NodeState::Down)]);
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
        for parting in [Parting::Restarts, Parting::GoesDown] {
            let mut evidence = Evidence { parting, ..Evidence::new(at(0), at(0)) };
            evidence.hear(at(100));
            assert_eq!(
                evidence,
                Evidence { gossip_heard: at(0), ..Evidence::new(at(100), at(100)) }
            );
        }
    }
}
