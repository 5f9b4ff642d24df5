//! Gossip as the brain uses it: who is heard, and hints of where managers are and who leads.
//!
//! It runs where there are other nodes and a key. A manager has the keys from the store, a worker from
//! its join and its sessions; they are kept, so that a node finds managers that have other addresses
//! when it starts. What gossip says is proved by nobody: an address is tried, and the certificate of
//! who answers decides; a node that is heard is not Down, and no task moves by gossip alone.
//!
//! **Invariant:** nothing here waits but for the thread that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::asking::Waiter;
use super::brain::Brain;
use super::leading::host_of;
use super::links::Hints;
use super::papers;
use crate::base::chain;
use crate::base::id::NodeId;
use crate::base::time::{Span, Time};
use crate::host::address;
use crate::host::gossip::{Config, Gossip, Key, Keys, Member, Nodes};
use crate::logic::manager::io::Command;

/// The port of gossip, on every node.
const PORT: u16 = 7946;

/// Before a start of gossip that failed is tried again.
const RETRY: Span = Span::from_secs(30);

/// So long a key that sealed before still opens: until all nodes have heard of the next one.
const OLD_KEY: Span = Span::from_secs(60);

/// Keys that are told at once: the one that seals, and the next.
const KEYS_MAX: usize = 2;

/// Nodes whose addresses are kept: any of them can tell where the others are.
const PEERS_MAX: usize = 16;

/// Value: `address:port` where the node takes calls.
const AT: &str = "at";

/// Value: the term that the node leads in.
const LEADER: &str = "leader";

/// Value: the number of the newest key that the node opens with.
const KEY: &str = "key";

/// What a node keeps of gossip, to find the others when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The keys that it was told last, the one that seals first.
    pub(super) keys: Vec<[u8; 32]>,
    /// Where others were heard last; at most [`PEERS_MAX`]. A manager has its store.
    pub(super) peers: BTreeMap<NodeId, SocketAddr>,
}

/// Gossip of this node.
#[derive(Debug, Default)]
pub(super) struct Gossiping {
    gossip: Option<Gossip>,
    /// Where this node is reached, as far as it can tell.
    address: Option<SocketAddr>,
    /// What others are told of that.
    told: Option<SocketAddr>,
    kept: Kept,
    /// The one that sealed before, and how long it opens.
    before: Option<([u8; 32], Time)>,
    retry_at: Option<Time>,
}

impl Gossiping {
    /// When to look although nothing is heard.
    pub(super) fn deadline(&self) -> Option<Time> {
        [self.retry_at, self.before.map(|(_, until)| until)].into_iter().flatten().min()
    }

    /// Gets one message for any number of changes.
    pub(super) fn changes(&self) -> Option<async_channel::Receiver<()>> {
        self.gossip.as_ref().map(Gossip::changes)
    }

    /// When each node was heard last. A node that is not named has not been, or not for long.
    pub(super) fn heard(&self) -> BTreeMap<NodeId, Time> {
        let Some(gossip) = &self.gossip else { return BTreeMap::new() };
        let members = gossip.members();
        let heard = members.iter().filter_map(|it| Some((it.node.parse().ok()?, it.heard?)));
        heard.collect()
    }

    /// The nodes that say that they open with this key.
    pub(super) fn knowing(&self, key: &[u8; 32]) -> BTreeSet<NodeId> {
        let Some(gossip) = &self.gossip else { return BTreeSet::new() };
        let number = number(key);
        let members = gossip.members();
        let known = members.iter().filter(|it| it.values.get(KEY) == Some(&number));
        known.filter_map(|it| it.node.parse().ok()).collect()
    }

    fn in_use(&self) -> Option<Keys> {
        let mut keys = self.kept.keys.iter().copied().map(Key::new);
        let seal = keys.next()?;
        let before = self.before.map(|(key, _)| Key::new(key));
        Some(Keys { also: keys.next().or(before), seal })
    }

    fn set(&self, key: &str, value: Option<String>) {
        let Some(gossip) = &self.gossip else { return };
        match value {
            None => gossip.remove(key),
            Some(value) => {
                if let Err(err) = gossip.set(key, &value) {
                    log::warn!("gossip does not take the value {key}: {err}");
                }
            }
        }
    }
}

fn number(key: &[u8; 32]) -> String {
    format!("{:08x}", Key::new(*key).number)
}

impl Brain {
    /// What was kept of the swarm is in use from now on.
    pub(super) fn begin_gossip(&mut self) {
        match papers::read_gossip(&self.host.data) {
            Ok(kept) => self.gossip.kept = kept,
            Err(err) => log::warn!("cannot read the keys of gossip: {}", chain::text(&err)),
        }
        self.look_at_addresses();
    }

    /// Gossip has these keys, the one to seal with first.
    pub(super) fn take_gossip_keys(&mut self, keys: Vec<[u8; 32]>) {
        if self.gossip.kept.keys == keys {
            return;
        }
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return log::warn!("{} keys of gossip are of no use", keys.len());
        }
        let before = std::mem::replace(&mut self.gossip.kept.keys, keys);
        if let Err(err) = papers::write_gossip(&self.host.data, &self.gossip.kept) {
            log::warn!("cannot keep the keys of gossip: {}", chain::text(&err));
        }
        let until = self.clock.mono() + OLD_KEY;
        let gone = before.first().filter(|key| !self.gossip.kept.keys.contains(key));
        if let Some(key) = gone {
            self.gossip.before = Some((*key, until));
        }
        self.use_gossip_keys();
    }

    fn use_gossip_keys(&self) {
        if let (Some(gossip), Some(keys)) = (&self.gossip.gossip, self.gossip.in_use()) {
            gossip.rotate(keys);
        }
        self.gossip.set(KEY, self.gossip.kept.keys.last().map(number));
    }

    /// Starts and ends gossip, and what is due in it.
    pub(super) fn look_at_gossip(&mut self, now: Time) {
        if self.gossip.before.is_some_and(|(_, until)| until <= now) {
            self.gossip.before = None;
            self.use_gossip_keys();
        }
        let others = match &self.node.seat {
            Some(seat) => seat.manager.store().nodes().count() > 1,
            None => true,
        };
        let at = self.gossip.address.map(|it| SocketAddr::new(it.ip(), PORT));
        let at = at.filter(|_| others && !self.gossip.kept.keys.is_empty());
        if self.gossip.gossip.is_some() && at == self.gossip.told {
            return;
        }
        if let Some(gossip) = self.gossip.gossip.take() {
            gossip.stop();
        }
        self.gossip.told = at;
        let Some(at) = at else { return self.gossip.retry_at = None };
        if self.gossip.retry_at.is_none_or(|retry| retry <= now) {
            self.start_gossip(now, at);
        }
    }

    fn start_gossip(&mut self, now: Time, advertise: SocketAddr) {
        let (Some(keys), Ok(listen)) = (self.gossip.in_use(), self.identity.listen.parse()) else {
            return;
        };
        let listen: SocketAddr = listen;
        let config = Config {
            node: self.node.id.to_string(),
            cluster: self.identity.cluster.to_string(),
            listen: SocketAddr::new(listen.ip(), PORT),
            advertise,
            seeds: Vec::new(),
            folder: self.host.data.node(),
            clock: self.clock,
        };
        match Gossip::start(config, keys) {
            Ok(gossip) => {
                log::debug!("gossip has started as {advertise}");
                (self.gossip.gossip, self.gossip.retry_at) = (Some(gossip), None);
                self.gossip.set(AT, self.gossip.address.map(|it| it.to_string()));
                self.gossip.set(KEY, self.gossip.kept.keys.last().map(number));
                self.tell_gossip_who_leads();
                self.tell_gossip_of_nodes();
            }
            Err(err) => {
                log::warn!("{} (it is tried again)", chain::text(&err));
                self.gossip.retry_at = Some(now + RETRY);
            }
        }
    }

    /// This manager leads, or does not any more.
    pub(super) fn tell_gossip_who_leads(&self) {
        let seat = self.node.seat.as_ref().filter(|_| self.lead.is_some());
        self.gossip.set(LEADER, seat.map(|seat| seat.manager.raft().term().to_string()));
    }

    /// Which nodes there are and where: managers know all, a worker knows managers.
    pub(super) fn tell_gossip_of_nodes(&self) {
        let Some(gossip) = &self.gossip.gossip else { return };
        if let Some(seat) = &self.node.seat {
            let nodes = seat.manager.store().nodes().map(|node| node.id.to_string());
            gossip.admit(Nodes::Only(nodes.collect()));
        } else {
            gossip.admit(Nodes::All);
        }
        gossip.call(self.hosts().map(|ip| SocketAddr::new(ip, PORT)).collect());
    }

    /// Where other nodes were reached last.
    fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        let me = self.node.id;
        let managers = self.own.managers.iter().filter(move |it| it.node != me);
        let managers = managers.filter_map(|it| host_of(&it.address).parse().ok());
        let store = self.node.seat.as_ref().map(|seat| seat.manager.store());
        let nodes = store.into_iter().flat_map(|store| store.nodes());
        let nodes = nodes.filter(move |node| node.id != me);
        let nodes = nodes.filter_map(|node| node.address.parse().ok());
        let peers = self.gossip.kept.peers.values().map(SocketAddr::ip);
        let peers = peers.filter(|_| self.node.seat.is_none());
        let all: BTreeSet<IpAddr> = managers.chain(nodes).chain(peers).collect();
        all.into_iter()
    }

    /// What gossip tells has changed.
    pub(super) fn gossip_changed(&mut self) {
        let Some(gossip) = &self.gossip.gossip else { return };
        let members = gossip.members();
        let (mut hints, mut term) = (Hints::default(), 0);
        let is_manager = |node: NodeId| self.own.managers.iter().any(|it| it.node == node);
        for member in members.iter().filter(|it| it.alive) {
            let Some(node) = member.node.parse().ok().filter(|node| is_manager(*node)) else {
                continue;
            };
            if let Some(at) = member.values.get(AT).and_then(|it| it.parse().ok()) {
                hints.addresses.insert(node, at);
            }
            let leads: Option<u64> = member.values.get(LEADER).and_then(|it| it.parse().ok());
            if let Some(leads) = leads.filter(|leads| *leads > term) {
                (hints.leader, term) = (Some(node), leads);
            }
        }
        self.node.links.set_hints(hints);
        if self.node.seat.is_none() {
            self.keep_peers(&members);
        }
    }

    /// Writes where others are when that is news.
    fn keep_peers(&mut self, members: &[Member]) {
        let mut peers = self.gossip.kept.peers.clone();
        for member in members.iter().filter(|it| it.alive) {
            let Ok(node) = member.node.parse() else { continue };
            if peers.len() >= PEERS_MAX && !peers.contains_key(&node) {
                // Those that are not there any more make room.
                peers.retain(|id, _| members.iter().any(|it| it.node == id.to_string()));
            }
            if peers.len() < PEERS_MAX || peers.contains_key(&node) {
                peers.insert(node, member.address);
            }
        }
        if peers != self.gossip.kept.peers {
            self.gossip.kept.peers = peers;
            if let Err(err) = papers::write_gossip_lazily(&self.host.data, &self.gossip.kept) {
                log::warn!("cannot keep where others are: {}", chain::text(&err));
            }
        }
    }

    /// Where this node is reached: what it was told to advertise, as long as that is an address of
    /// this machine (or a router's, that never was); else the one that speaks with the others.
    pub(super) fn look_at_addresses(&mut self) {
        let advertise = &self.identity.advertise;
        let port = advertise.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let port = port.unwrap_or(crate::host::peers::PORT);
        let named: Option<IpAddr> = host_of(advertise).parse().ok();
        let store = self.node.seat.as_ref().map(|seat| seat.manager.store());
        let stored = store.and_then(|it| it.node(self.node.id)?.address.parse().ok());
        let good = named.filter(|ip| self.identity.foreign || address::is_own(*ip));
        let good = good.or_else(|| stored.filter(|ip| named.is_none() && address::is_own(*ip)));
        let Some(ip) = good.or_else(|| address::towards(self.hosts())) else { return };
        let address = SocketAddr::new(ip, port);
        if self.gossip.address == Some(address) {
            return self.place_self();
        }
        let before = self.gossip.address.replace(address);
        self.gossip.retry_at = None;
        if before.is_some() || (named.is_some() && named != Some(ip)) {
            log::info!("this node is at {address} now");
            self.node.links.moved(named.map(|_| address.to_string()));
            self.node.links.set_managers(&self.own.managers, self.node.seat.is_some());
        }
        self.place_self();
    }

    /// A leader has no session with itself that tells its address.
    pub(super) fn place_self(&mut self) {
        let (Some(lead), Some(seat)) = (&mut self.lead, &self.node.seat) else { return };
        let Some(address) = self.gossip.address.filter(|_| !lead.placing) else { return };
        let Some(node) = seat.manager.store().node(self.node.id) else { return };
        let (host, manager) = (address.ip().to_string(), Some(address.to_string()));
        if node.address == host && node.manager == manager {
            return;
        }
        lead.placing = true;
        let command = Command::AddNode {
            id: node.id,
            description: Box::new(node.description.clone()),
            role: node.spec.role,
            address: host,
            manager,
        };
        self.put(command, Waiter::Address { node: self.node.id, number: 0 });
    }
}
