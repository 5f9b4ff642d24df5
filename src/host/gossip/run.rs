//! The thread of gossip: starts chitchat, starts it again if it ends, and tells who is there.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_channel::Receiver;
use async_io::Async;
use chitchat::transport::UdpTransport;
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState,
    ProtocolVersion, spawn_chitchat,
};
use smol::future::FutureExt as _;
use tokio::net::with_datagram;
use tokio::runtime::Runtime;

use super::carrier::Carrier;
use super::counters::Counter;
use super::link::Link;
use super::seal::Salt;
use super::shared::Shared;
use super::{Member, generation};
use crate::base::time::{Span, Time};
use crate::host::entropy;

/// A member speaks with up to three others, and one that is gone, each time.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a node that is gone is remembered. After half of it, it is not spoken of any more.
const DEAD_GRACE: Duration = Duration::from_secs(30);
/// How long a value that was taken away is remembered.
const DELETED_GRACE: Duration = Duration::from_secs(60);
/// Mean intervals without a beat after which a node is taken for dead.
const PHI: f64 = 8.0;
/// Intervals that the mean is of.
const SAMPLES: usize = 100;
/// An interval beyond this is no sample.
const SAMPLE_MAX: Duration = Duration::from_secs(5);
/// After this node was stopped itself, others that seem dead have so long to be heard.
const STALL_GRACE: Span = Span::from_secs(2);
/// After a start of chitchat others that are not met yet are told as they were, so long.
const START_GRACE: Span = Span::from_secs(4);
/// One address that nobody is seen at is called each time, and what is told is looked at.
const ROUND: Duration = Duration::from_secs(2);
/// Before chitchat is started again: the first time, and at most.
const RESTART: Duration = Duration::from_millis(200);
const RESTART_MAX: Duration = Duration::from_secs(30);

/// Starts the thread.
pub(super) fn spawn(
    shared: Arc<Shared>,
    socket: Async<UdpSocket>,
    nudged: Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    let salt = salt()?;
    let work = move || Runtime::new().block_on(run(shared, Arc::new(socket), nudged, salt));
    thread::Builder::new().name("gossip".to_owned()).spawn(work)
}

fn salt() -> io::Result<Salt> {
    entropy::bytes().map(Salt)
}

/// Keeps chitchat running until the owner stops it.
async fn run(
    shared: Arc<Shared>,
    socket: Arc<Async<UdpSocket>>,
    nudged: Receiver<()>,
    mut salt: Salt,
) {
    let (mut before, mut pause) = (0, RESTART);
    loop {
        let began = shared.config.clock.mono();
        before = generation::next(&shared.config.folder, before);
        let end = match Running::start(&shared, &socket, salt, before).await {
            Ok(running) => running.until_it_ends(&nudged).await,
            Err(why) => End::Broken(why),
        };
        match end {
            End::Stopped => return,
            End::Disowned => {
                shared.counters.add(Counter::Renewed);
                log::warn!("others know more of start {before} of gossip than it said: the next");
            }
            End::Broken(why) => {
                shared.counters.add(Counter::Restarted);
                log::warn!("gossip has ended and is started again: {why}");
                let held = shared.config.clock.mono().since(began) > Span::from_secs(60);
                pause = if held { RESTART } else { (pause * 2).min(RESTART_MAX) };
                wait(&nudged, pause).await;
            }
        }
        // Each start has its own salt; without random bytes there is none.
        salt = loop {
            if shared.is_stopped() {
                return;
            }
            match self::salt() {
                Ok(salt) => break salt,
                Err(_) => wait(&nudged, RESTART_MAX).await,
            }
        };
    }
}

/// Waits that long, or until the owner wants something.
async fn wait(nudged: &Receiver<()>, span: Duration) {
    let woken = async {
        match nudged.recv().await {
            Ok(()) | Err(_) => {}
        }
    };
    woken.or(tokio::time::sleep(span)).await;
}

/// One run of chitchat.
struct Running {
    shared: Arc<Shared>,
    carrier: Arc<Carrier>,
    handle: ChitchatHandle,
    own: ChitchatId,
    began: Time,
    /// Which of the addresses is called next.
    turn: usize,
}

/// Why [`Running`] ended.
enum End {
    /// The owner wants it.
    Stopped,
    /// Another start is needed for the others to listen.
    Disowned,
    /// It panicked, or gave up.
    Broken(String),
}

/// Why [`Running`] woke up.
enum Woken {
    /// Something else is wanted.
    Nudged,
    /// Others are alive, or have new values.
    Changed,
    /// Time for a round.
    Round,
    /// It has ended.
    Ended(String),
}

impl Running {
    async fn start(
        shared: &Arc<Shared>,
        socket: &Arc<Async<UdpSocket>>,
        salt: Salt,
        generation: u64,
    ) -> Result<Self, String> {
        let began = shared.begin();
        let config = &shared.config;
        let own = ChitchatId::new(config.node.as_str(), generation, config.advertise);
        let link = Link::new(&config.cluster, shared.keys(), salt);
        let carrier = Carrier::new(Arc::clone(socket), link, own.clone(), Arc::clone(shared));
        let carrier = Arc::new(carrier);
        let values = shared.values().into_iter().collect();
        let chitchat = spawn_chitchat(chitchat_config(shared, own.clone()), values, &UdpTransport);
        let handle = with_datagram(Arc::clone(&carrier) as _, chitchat).await;
        let handle = handle.map_err(|error| error.to_string())?;
        carrier.watch(handle.chitchat());
        Ok(Self { shared: Arc::clone(shared), carrier, handle, own, began, turn: 0 })
    }

    /// Does what is wanted and tells what is there, until chitchat ends or the owner stops it.
    async fn until_it_ends(mut self, nudged: &Receiver<()>) -> End {
        let mut watcher = self.handle.chitchat().lock().await.live_nodes_watcher();
        let ended = self.handle.termination_watcher();
        let mut ended = Box::pin(async move {
            let ended = ended.await;
            Woken::Ended(ended.map_or_else(|error| error.to_string(), |()| "no reason".to_owned()))
        });
        let mut round = tokio::time::interval(ROUND);
        loop {
            if self.shared.is_stopped() {
                return End::Stopped;
            }
            if self.shared.is_disowned() {
                // Until its loop has ended it reads what is for the next one.
                return match self.handle.shutdown().await {
                    Ok(()) => End::Disowned,
                    Err(error) => End::Broken(error.to_string()),
                };
            }
            let nudge = async {
                match nudged.recv().await {
                    // Its other end is in `shared`.
                    Ok(()) | Err(_) => Woken::Nudged,
                }
            };
            let changed = async {
                // Its other end is in chitchat, whose end is seen below.
                match watcher.changed().await {
                    Ok(()) => Woken::Changed,
                    Err(_) => std::future::pending().await,
                }
            };
            let rounds = async {
                round.tick().await;
                Woken::Round
            };
            match (&mut ended).or(nudge).or(changed).or(rounds).await {
                Woken::Ended(why) => return End::Broken(why),
                Woken::Nudged => {
                    self.carrier.link().rotate(self.shared.keys());
                    self.set_values().await;
                    self.tell().await;
                }
                Woken::Changed => self.tell().await,
                Woken::Round => {
                    self.tell().await;
                    self.call();
                }
            }
        }
    }

    /// Makes the values of this node those that are wanted.
    async fn set_values(&self) {
        let wanted = self.shared.values();
        let mut chitchat = self.handle.chitchat().lock_arc().await;
        let state = chitchat.self_node_state();
        let gone: Vec<String> = state
            .key_values()
            .filter(|(key, _)| !wanted.contains_key(*key))
            .map(|(key, _)| key.to_owned())
            .collect();
        for key in gone {
            state.delete(&key);
        }
        for (key, value) in wanted {
            state.set(key, value);
        }
    }

    async fn tell(&self) {
        let now = self.shared.config.clock.mono();
        let resumed = self.shared.since_stall(now).is_some_and(|since| since < STALL_GRACE);
        let before = self.shared.members();
        let chitchat = self.handle.chitchat().lock_arc().await;
        let beats = self.shared.beats(|id| chitchat.node_state(id).is_some());
        let nodes = self.shared.nodes();
        let mut members = newest(&chitchat, &beats, |id| {
            id.node_id != self.own.node_id && nodes.admit(&id.node_id)
        });
        drop(chitchat);
        if resumed {
            hold(&mut members, &before);
        }
        if now.since(self.began) < START_GRACE {
            for old in before.iter().filter(|old| nodes.admit(&old.node)) {
                members.entry(old.node.clone()).or_insert_with(|| old.clone());
            }
        }
        self.shared.tell(members.into_values().collect());
    }

    /// Speaks with one of the addresses where nobody is seen.
    fn call(&mut self) {
        let members = self.shared.members();
        let seen = |address: &SocketAddr| {
            members.iter().any(|member| member.alive && member.address == *address)
        };
        let mut addresses = self.shared.addresses();
        addresses.retain(|address| *address != self.own.gossip_advertise_addr && !seen(address));
        self.turn = self.turn.wrapping_add(1);
        let Some(turn) = self.turn.checked_rem(addresses.len()) else { return };
        if let Err(error) = self.handle.gossip(addresses[turn]) {
            log::debug!("gossip takes no commands: {error}");
        }
    }
}

/// Each node once: its newest start that is alive, or else its newest.
fn newest(
    chitchat: &Chitchat,
    beats: &BTreeMap<ChitchatId, Time>,
    counts: impl Fn(&ChitchatId) -> bool,
) -> BTreeMap<String, Member> {
    let alive = chitchat.live_nodes().map(|id| (id, true));
    let dead = chitchat.dead_nodes().map(|id| (id, false));
    let mut members: BTreeMap<String, Member> = BTreeMap::new();
    for (id, alive) in alive.chain(dead).filter(|(id, _)| counts(id)) {
        let Some(state) = chitchat.node_state(id) else { continue };
        let newer = members
            .get(&*id.node_id)
            .is_none_or(|other| (alive, id.generation_id) > (other.alive, other.generation));
        if newer {
            let member = member(id, state, alive, beats.get(id).copied());
            members.insert(member.node.clone(), member);
        }
    }
    members
}

/// This node was stopped, so it has heard of nobody: that says nothing of them. Who was alive before
/// still is.
fn hold(members: &mut BTreeMap<String, Member>, before: &[Member]) {
    for old in before.iter().filter(|old| old.alive) {
        let member = members.get_mut(&old.node);
        if let Some(member) = member.filter(|member| member.generation == old.generation) {
            member.alive = true;
        }
    }
}

fn member(id: &ChitchatId, state: &NodeState, alive: bool, heard: Option<Time>) -> Member {
    let values = state.key_values().map(|(key, value)| (key.to_owned(), value.to_owned()));
    Member {
        node: id.node_id.to_string(),
        address: id.gossip_advertise_addr,
        alive,
        heard,
        values: values.collect(),
        generation: id.generation_id,
    }
}

fn chitchat_config(shared: &Shared, own: ChitchatId) -> ChitchatConfig {
    let config = &shared.config;
    ChitchatConfig {
        chitchat_id: own,
        cluster_id: config.cluster.clone(),
        gossip_interval: INTERVAL,
        listen_addr: config.listen,
        seed_nodes: shared.addresses().iter().map(SocketAddr::to_string).collect(),
        failure_detector_config: FailureDetectorConfig::new(
            PHI, SAMPLES, SAMPLE_MAX, INTERVAL, DEAD_GRACE,
        ),
        marked_for_deletion_grace_period: DELETED_GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
        // Its other version compresses what `compact` makes shorter than that.
        protocol_version: ProtocolVersion::V0,
    }
}

#[cfg(test)]
mod tests;
