//! What the thread of gossip and those who ask it have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender, bounded};
use chitchat::ChitchatId;

use super::counters::Counters;
use super::seal::Keys;
use super::{Config, Member};
use crate::base::time::{Span, Time};

/// When the loop has no turn for so long it was stopped, or starved: it has one each half second.
const STALL: Span = Span::from_millis(1_200);

/// A start of which others know more than it said is given up when that is seen again so long
/// after, and it has lasted so long: one that lies must not keep a node from being there.
const DISOWNED_AFTER: Span = Span::from_secs(1);
const DISOWNED_EVERY: Span = Span::from_secs(6);

/// Who may be spoken of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Nodes {
    /// Everyone who knows the key, up to a limit: where the members of the cluster are not known.
    #[default]
    All,
    /// Only these.
    Only(BTreeSet<String>),
}

impl Nodes {
    /// Whether a node may be spoken of.
    #[must_use]
    pub fn admit(&self, node: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(nodes) => nodes.contains(node),
        }
    }
}

/// What is wanted and what is known, each behind a lock that is held for no wait.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) counters: Counters,
    wanted: Mutex<Wanted>,
    known: Mutex<Known>,
    nudge: Sender<()>,
    changed: Sender<()>,
}

/// What the owner asked for.
struct Wanted {
    values: BTreeMap<String, String>,
    keys: Keys,
    nodes: Arc<Nodes>,
    addresses: Vec<SocketAddr>,
    stop: bool,
}

/// What gossip tells.
#[derive(Default)]
struct Known {
    members: Arc<Vec<Member>>,
    /// When a heart was last seen to go on beating.
    beats: BTreeMap<ChitchatId, Time>,
    turn: Option<Time>,
    stalled: Option<Time>,
    /// When this start of chitchat began, and when others were first seen to know more of it.
    began: Time,
    disowned: Option<Time>,
}

impl Shared {
    /// Also gives the ends that are woken: the thread's, and the one that is told of changes.
    pub(super) fn new(config: Config, keys: Keys) -> (Self, Receiver<()>, Receiver<()>) {
        let (nudge, nudged) = bounded(1);
        let (changed, changes) = bounded(1);
        let wanted = Wanted {
            values: BTreeMap::new(),
            keys,
            nodes: Arc::default(),
            addresses: config.seeds.clone(),
            stop: false,
        };
        let shared = Self {
            config,
            counters: Counters::default(),
            wanted: Mutex::new(wanted),
            known: Mutex::default(),
            nudge,
            changed,
        };
        (shared, nudged, changes)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        // Each change is one assignment.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nudge(&self) {
        wake(&self.nudge);
    }

    pub(super) fn stop(&self) {
        self.wanted().stop = true;
        self.nudge();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.wanted().stop
    }

    /// Changes the values if `change` says that it did.
    pub(super) fn change_values<E>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, String>) -> Result<bool, E>,
    ) -> Result<(), E> {
        if change(&mut self.wanted().values)? {
            self.nudge();
        }
        Ok(())
    }

    pub(super) fn values(&self) -> BTreeMap<String, String> {
        self.wanted().values.clone()
    }

    pub(super) fn set_keys(&self, keys: Keys) {
        self.wanted().keys = keys;
        self.nudge();
    }

    pub(super) fn keys(&self) -> Keys {
        self.wanted().keys.clone()
    }

    pub(super) fn set_nodes(&self, nodes: Nodes) {
        self.wanted().nodes = Arc::new(nodes);
        self.nudge();
    }

    pub(super) fn nodes(&self) -> Arc<Nodes> {
        Arc::clone(&self.wanted().nodes)
    }

    pub(super) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.wanted().addresses = addresses;
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.wanted().addresses.clone()
    }

    /// Notes that the loop has its turn.
    pub(super) fn turn(&self) -> Time {
        let now = self.config.clock.mono();
        self.turn_at(now);
        now
    }

    pub(super) fn turn_at(&self, now: Time) {
        let mut known = self.known();
        if known.turn.is_some_and(|last| now.since(last) > STALL) {
            known.stalled = Some(now);
        }
        known.turn = Some(now);
    }

    /// How long ago the loop was found to have been stopped.
    pub(super) fn since_stall(&self, now: Time) -> Option<Span> {
        self.known().stalled.map(|stalled| now.since(stalled))
    }

    /// A start of chitchat begins.
    pub(super) fn begin(&self) -> Time {
        let now = self.config.clock.mono();
        let mut known = self.known();
        known.began = now;
        known.disowned = None;
        now
    }

    /// Others know more of this start than it said.
    pub(super) fn disowned(&self) {
        let now = self.config.clock.mono();
        let mut known = self.known();
        known.disowned.get_or_insert(now);
        drop(known);
        if self.is_disowned() {
            self.nudge();
        }
    }

    /// Whether this start is to be given up for another.
    pub(super) fn is_disowned(&self) -> bool {
        let now = self.config.clock.mono();
        let known = self.known();
        let lasted = now.since(known.began) >= DISOWNED_EVERY;
        lasted && known.disowned.is_some_and(|first| now.since(first) >= DISOWNED_AFTER)
    }

    pub(super) fn beating(&self, ids: Vec<ChitchatId>) {
        let now = self.config.clock.mono();
        let mut known = self.known();
        for id in ids {
            known.beats.insert(id, now);
        }
    }

    /// When each was last seen to go on beating; those that `keep` does not hold are forgotten.
    pub(super) fn beats(&self, keep: impl Fn(&ChitchatId) -> bool) -> BTreeMap<ChitchatId, Time> {
        let mut known = self.known();
        known.beats.retain(|id, _| keep(id));
        known.beats.clone()
    }

    pub(super) fn members(&self) -> Arc<Vec<Member>> {
        let known = self.known();
        let mut members = Arc::clone(&known.members);
        let later = |member: &Member| {
            let beat = known.beats.iter().find(|(id, _)| {
                *id.node_id == *member.node && id.generation_id == member.generation
            });
            beat.map(|(_, at)| *at).filter(|at| Some(*at) > member.heard)
        };
        if members.iter().any(|member| later(member).is_some()) {
            for member in Arc::make_mut(&mut members) {
                member.heard = later(member).or(member.heard);
            }
        }
        members
    }

    /// Tells who is there now; who waits is told if that is not what was.
    pub(super) fn tell(&self, members: Vec<Member>) {
        let mut known = self.known();
        let same = |one: &Member, other: &Member| {
            one == &Member { heard: one.heard, ..other.clone() }
        };
        let before = std::mem::replace(&mut known.members, Arc::new(members));
        let now = &known.members;
        let unchanged =
            before.len() == now.len() && before.iter().zip(now.iter()).all(|(a, b)| same(a, b));
        drop(known);
        if !unchanged {
            wake(&self.changed);
        }
    }
}

/// Wakes who waits at the other end, if it is not on its way already.
fn wake(sender: &Sender<()>) {
    match sender.try_send(()) {
        Ok(()) | Err(_) => {}
    }
}
