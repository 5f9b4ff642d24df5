//! The socket under chitchat: seals what goes out, opens and checks what comes in.
//!
//! Invariant: neither side ever returns an error. One from `recv_from` would end the loop of gossip
//! for good; what cannot be taken or sent is counted and left.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_io::Async;
use chitchat::{Chitchat, ChitchatId};
use tokio::net::{Boxed, Datagram};

use super::MESSAGE_BYTES_MAX;
use super::check::{Check, Checked};
use super::compact::{self, Read, Tag};
use super::counters::Counter;
use super::link::{DATAGRAM_BYTES_MAX, Link};
use super::shared::Shared;
use super::wire;

/// After an error from the socket, so that one that stays does not keep the processor busy.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// Addresses of which is known what they know.
const KNOWN_MAX: usize = 512;

/// One start of gossip, from below.
pub(super) struct Carrier {
    socket: Arc<Async<UdpSocket>>,
    link: Mutex<Link>,
    own: ChitchatId,
    /// What chitchat knows, as soon as it runs.
    state: OnceLock<Arc<tokio::sync::Mutex<Chitchat>>>,
    /// The starts that were named by who is at an address, in its last digest.
    known: Mutex<BTreeMap<SocketAddr, BTreeSet<Tag>>>,
    shared: Arc<Shared>,
}

impl Carrier {
    pub(super) fn new(
        socket: Arc<Async<UdpSocket>>,
        link: Link,
        own: ChitchatId,
        shared: Arc<Shared>,
    ) -> Self {
        Self { socket, link: Mutex::new(link), own, state: OnceLock::new(), known: Mutex::default(), shared }
    }

    /// Messages are checked against this from now on; before, none is taken.
    pub(super) fn watch(&self, state: Arc<tokio::sync::Mutex<Chitchat>>) {
        // Set once for each carrier.
        drop(self.state.set(state));
    }

    /// The link, which is whole between two calls also when one panicked.
    pub(super) fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends datagrams that the kernel takes at once.
    fn put(&self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        for (to, datagram) in datagrams {
            let counters = &self.shared.counters;
            match self.socket.get_ref().send_to(&datagram, to) {
                Ok(bytes) => {
                    counters.add(Counter::Sent);
                    counters.add_many(Counter::SentBytes, bytes);
                }
                // Gossip says it again; waiting for room here would hold up what comes in.
                Err(_) => counters.add(Counter::NotSent),
            }
        }
    }

    /// Opens a datagram and answers it. What is left is a message from a member.
    fn open(&self, from: SocketAddr, datagram: &mut [u8]) -> Option<Vec<u8>> {
        let counters = &self.shared.counters;
        counters.add(Counter::Received);
        counters.add_many(Counter::ReceivedBytes, datagram.len());
        let now = self.shared.turn();
        let (message, answers) = self.link().receive(now, from, datagram, counters);
        self.put(answers);
        message
    }

    fn learn(&self, from: SocketAddr, named: BTreeSet<Tag>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX && !known.contains_key(&from) {
            // It is learned again with the next digests.
            known.clear();
        }
        known.insert(from, named);
    }

    /// What chitchat may see of a message.
    async fn check(&self, from: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
        let counters = &self.shared.counters;
        let Checked { message, beating, disowned, left_out } = {
            // Nobody holds this over a wait, so there is none here.
            let state = self.state.get()?.lock().await;
            let states = state.node_states();
            let read = compact::read(message, &self.shared.config.cluster, states.keys());
            let Some(Read { message, named }) = read else {
                counters.add(Counter::Refused);
                return None;
            };
            if let Some(named) = named {
                self.learn(from, named);
            }
            let nodes = self.shared.nodes();
            Check { own: &self.own, nodes: &nodes, states }.message(message)
        };
        counters.add_many(Counter::LeftOut, left_out);
        self.shared.beating(beating);
        if disowned {
            self.shared.disowned();
        }
        Some(wire::write(&message))
    }
}

impl Datagram for Carrier {
    fn send_to<'a>(&'a self, message: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<usize>> {
        let now = self.shared.turn();
        let short = wire::read(message).and_then(|message| {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            compact::write(&message, known.get(&to).unwrap_or(&BTreeSet::new()))
        });
        if let Some(short) = short {
            let datagrams = self.link().send(now, to, &short);
            self.put(datagrams);
        }
        Box::pin(async { Ok(message.len()) })
    }

    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async {
            // One byte more, so that a longer datagram shows.
            let mut datagram = [0; DATAGRAM_BYTES_MAX + 1];
            loop {
                let Ok((len, from)) = self.socket.recv_from(&mut datagram).await else {
                    // The kernel's late answer to what was sent (no such host), or no memory.
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                };
                let Some(message) = self.open(from, &mut datagram[..len]) else { continue };
                let Some(message) = self.check(from, &message).await else { continue };
                if let Some(place) = buffer.get_mut(..message.len()) {
                    place.copy_from_slice(&message);
                    return Ok((message.len(), from));
                }
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get_ref().local_addr()
    }
}

const _: () = assert!(MESSAGE_BYTES_MAX <= 65_507);
