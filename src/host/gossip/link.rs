//! The link between members, without a socket: messages in, sealed datagrams out, and back.
//!
//! Each start of a member has a salt of its own, and every datagram is bound to its sender's salt
//! and to its receiver's. So what was recorded opens nowhere else and never again after either side
//! has started anew; within one run a counter is taken once. Salts are learned by a greeting:
//!
//! ```text
//! A → B  Hello    I am A's salt; yours I do not know           (bound to nobody, does nothing)
//! B → A  Welcome  bound to A's salt, so it is not an old one: its head has B's salt
//! A → B  Data …   bound to B's salt, which tells B A's as well
//! ```
//! A datagram for a salt that this member had before it started anew is answered with Hello.
//!
//! Not here: what a message says (`wire`, `check`). A member that knows the key can send what it
//! likes in the name of others: this keeps out who does not know it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::counters::{Counter, Counters};
use super::parts::{self, Joined, Parts, WHOLE_BYTES_MAX};
use super::seal::{COUNTER_MAX, Head, Keys, Kind, Salt, SenderKey};
use super::window::Window;
use super::MESSAGE_BYTES_MAX;
use crate::base::time::{Span, Time};

/// The longest datagram: it fits a frame of Ethernet with room for tunnels.
pub const DATAGRAM_BYTES_MAX: usize = 1_400;

/// Addresses that are written to. One more takes the place of the one that was used least recently.
const PLACES_MAX: usize = 1_024;
/// Senders whose counters are known; the same.
const SENDERS_MAX: usize = 1_024;
/// A message that waits for a greeting is kept if it is not longer; gossip says it again.
const WAITING_BYTES_MAX: usize = 4_096;
/// An address is greeted once in this time.
const HELLO_EVERY: Span = Span::from_millis(200);
/// Greetings to all: so many at once, and then one in each span. Beyond it none is answered.
const GREETINGS_MAX: u64 = 128;
const GREETING_EVERY: Span = Span::from_millis(10);

/// A datagram that is to be sent.
pub type Datagram = (SocketAddr, Vec<u8>);

/// One start of one member.
pub struct Link {
    cluster: String,
    keys: Keys,
    salt: Salt,
    /// The counter of the next datagram.
    next: u64,
    own: SenderKey,
    places: BTreeMap<SocketAddr, Place>,
    senders: BTreeMap<Salt, Sender>,
    parts: Parts,
    greetings: Greetings,
}

/// Who is at an address.
struct Place {
    salt: Option<Salt>,
    greeted: Option<Time>,
    waiting: Option<Vec<u8>>,
    used: Time,
}

/// A sender that has proved to know the key, in this run.
struct Sender {
    /// By the number of the cluster's key.
    keys: BTreeMap<u32, SenderKey>,
    window: Window,
    used: Time,
}

/// A bucket of greetings.
struct Greetings {
    left: u64,
    filled: Time,
}

impl Greetings {
    fn take(&mut self, now: Time) -> bool {
        let new = now.since(self.filled).0 / GREETING_EVERY.0;
        if new > 0 {
            self.left = self.left.saturating_add(new).min(GREETINGS_MAX);
            self.filled = now;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

impl Link {
    /// A link that knows nobody. The salt must be drawn afresh.
    #[must_use]
    pub fn new(cluster: &str, keys: Keys, salt: Salt) -> Self {
        Self {
            own: SenderKey::derive(&keys.seal, &salt, cluster),
            cluster: cluster.to_owned(),
            keys,
            salt,
            next: 0,
            places: BTreeMap::new(),
            senders: BTreeMap::new(),
            parts: Parts::default(),
            greetings: Greetings { left: GREETINGS_MAX, filled: Time(0) },
        }
    }

    /// Puts other keys in use. What is sealed with a key that is not among them opens no more.
    pub fn rotate(&mut self, keys: Keys) {
        self.own = SenderKey::derive(&keys.seal, &self.salt, &self.cluster);
        self.keys = keys;
        for sender in self.senders.values_mut() {
            // Also where a number stayed: its secret may be another.
            sender.keys.clear();
        }
    }

    /// What is to be sent so that `message` arrives there.
    pub fn send(&mut self, now: Time, to: SocketAddr, message: &[u8]) -> Vec<Datagram> {
        let salt = self.place(now, to).salt;
        if let Some(receiver) = salt {
            return self.carry(to, &receiver, message);
        }
        if message.len() <= WAITING_BYTES_MAX {
            self.place(now, to).waiting = Some(message.to_owned());
        }
        self.greet(now, to).into_iter().collect()
    }

    /// Takes a datagram in: the message that is whole with it, and what is to be sent in answer.
    pub fn receive(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &mut [u8],
        counters: &Counters,
    ) -> (Option<Vec<u8>>, Vec<Datagram>) {
        let head = match Head::read(datagram) {
            Some(head) if datagram.len() <= DATAGRAM_BYTES_MAX => head,
            Some(_) | None => {
                counters.add(Counter::Malformed);
                return (None, Vec::new());
            }
        };
        let ours = head.kind == Kind::Hello || self.salt.is_named_by(&head);
        if !ours {
            // For this member before it started anew, or for another one.
            counters.add(Counter::NotForUs);
            return (None, self.greet(now, from).into_iter().collect());
        }
        if head.salt == self.salt {
            counters.add(Counter::Forged);
            return (None, Vec::new());
        }
        let text = match self.open(now, &head, datagram) {
            Ok(text) => text,
            Err(why) => {
                counters.add(why);
                return (None, Vec::new());
            }
        };
        if head.kind == Kind::Hello {
            return (None, self.welcome(now, from, head.salt));
        }
        let answers = self.met(now, from, head.salt);
        let message = match head.kind {
            Kind::Hello | Kind::Welcome => None,
            Kind::Data => Some(text),
            Kind::Part => match self.parts.join(now, head.salt, head.counter, &text) {
                Joined::Whole(message) => Some(message),
                Joined::NotYet => None,
                Joined::Malformed => {
                    counters.add(Counter::Malformed);
                    None
                }
            },
        };
        (message, answers)
    }

    /// The text of a datagram that its sender sealed for this member and that was not seen before.
    fn open(&mut self, now: Time, head: &Head, datagram: &mut [u8]) -> Result<Vec<u8>, Counter> {
        let known = self.senders.get(&head.salt);
        if known.is_some_and(|sender| !sender.window.is_fresh(head.counter)) {
            return Err(Counter::Replayed);
        }
        let greeting = head.kind == Kind::Hello;
        let receiver = if greeting { Salt::NOBODY } else { self.salt };
        let (mut number, mut derived, mut text) = (None, None, None);
        for key in self.keys.with_tag(head.key) {
            number = Some(key.number);
            let mut copy = datagram.to_owned();
            let known = known.and_then(|sender| sender.keys.get(&key.number));
            let opened = match known {
                Some(sender) => sender.open(head, &receiver, &mut copy).map(<[u8]>::to_owned),
                None => {
                    let sender = SenderKey::derive(key, &head.salt, &self.cluster);
                    let opened = sender.open(head, &receiver, &mut copy).map(<[u8]>::to_owned);
                    derived = opened.is_some().then_some(sender);
                    opened
                }
            };
            if opened.is_some() {
                text = opened;
                break;
            }
        }
        let Some(number) = number else { return Err(Counter::UnknownKey) };
        let Some(text) = text else { return Err(Counter::Forged) };
        // A greeting is bound to nobody and may be an old one: it proves nothing about its sender.
        if greeting && known.is_none() {
            return Ok(text);
        }
        let sender = self.sender(now, head.salt);
        sender.window.take(head.counter);
        if let Some(derived) = derived {
            sender.keys.insert(number, derived);
        }
        Ok(text)
    }

    /// Notes who is at an address, and sends what waited for that.
    fn met(&mut self, now: Time, at: SocketAddr, salt: Salt) -> Vec<Datagram> {
        let place = self.place(now, at);
        place.salt = Some(salt);
        let waiting = place.waiting.take();
        waiting.map_or_else(Vec::new, |message| self.carry(at, &salt, &message))
    }

    /// Answers a greeting, and asks in turn if this is not who was there.
    fn welcome(&mut self, now: Time, to: SocketAddr, receiver: Salt) -> Vec<Datagram> {
        if !self.greetings.take(now) {
            return Vec::new();
        }
        let mut answers = Vec::new();
        answers.extend(self.seal(Kind::Welcome, &receiver, &[]).map(|datagram| (to, datagram)));
        let place = self.places.get(&to);
        // Not for one that is not written to: it makes itself known when it has something to say.
        if place.is_some_and(|place| place.salt != Some(receiver)) {
            answers.extend(self.greet(now, to));
        }
        answers
    }

    fn greet(&mut self, now: Time, to: SocketAddr) -> Option<Datagram> {
        if let Some(place) = self.places.get_mut(&to) {
            if place.greeted.is_some_and(|then| now.since(then) < HELLO_EVERY) {
                return None;
            }
            place.greeted = Some(now);
        }
        if !self.greetings.take(now) {
            return None;
        }
        self.seal(Kind::Hello, &Salt::NOBODY, &[]).map(|datagram| (to, datagram))
    }

    fn carry(&mut self, to: SocketAddr, receiver: &Salt, message: &[u8]) -> Vec<Datagram> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Vec::new();
        }
        let mut datagrams = Vec::new();
        if message.len() <= WHOLE_BYTES_MAX {
            datagrams.extend(self.seal(Kind::Data, receiver, &[message]));
        } else {
            for (head, part) in parts::cut(message) {
                datagrams.extend(self.seal(Kind::Part, receiver, &[&head, part]));
            }
        }
        datagrams.into_iter().map(|datagram| (to, datagram)).collect()
    }

    /// `None` when all counters are used up, after 2^48 datagrams.
    fn seal(&mut self, kind: Kind, receiver: &Salt, text: &[&[u8]]) -> Option<Vec<u8>> {
        let counter = self.next;
        if counter > COUNTER_MAX {
            return None;
        }
        self.next += 1;
        let key = self.keys.seal.tag();
        Some(self.own.seal((kind, key), (self.salt, counter), receiver, text))
    }

    fn place(&mut self, now: Time, at: SocketAddr) -> &mut Place {
        if !self.places.contains_key(&at) && self.places.len() >= PLACES_MAX {
            let oldest = self.places.iter().min_by_key(|(_, place)| place.used);
            if let Some(oldest) = oldest.map(|(at, _)| *at) {
                self.places.remove(&oldest);
            }
        }
        let new = Place { salt: None, greeted: None, waiting: None, used: now };
        let place = self.places.entry(at).or_insert(new);
        place.used = now;
        place
    }

    fn sender(&mut self, now: Time, salt: Salt) -> &mut Sender {
        if !self.senders.contains_key(&salt) && self.senders.len() >= SENDERS_MAX {
            let oldest = self.senders.iter().min_by_key(|(_, sender)| sender.used);
            if let Some(oldest) = oldest.map(|(salt, _)| *salt) {
                self.senders.remove(&oldest);
            }
        }
        let new = Sender { keys: BTreeMap::new(), window: Window::default(), used: now };
        let sender = self.senders.entry(salt).or_insert(new);
        sender.used = now;
        sender
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("keys", &self.keys).field("sent", &self.next).finish()
    }
}


#[cfg(test)]
mod tests;
