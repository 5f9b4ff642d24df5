//! Links against each other, over a made-up network: no socket and no clock.

use std::collections::VecDeque;

use super::*;
use crate::base::rng::Rng;
use crate::host::gossip::seal::Key;

const START: Time = Time(1_000_000);

fn key(number: u32) -> Key {
    Key { number, secret: [u8::try_from(number).unwrap(); 32] }
}

fn keys(seal: u32, also: Option<u32>) -> Keys {
    Keys { seal: key(seal), also: also.map(key) }
}

fn address(host: u8) -> SocketAddr {
    ([10, 0, 0, host], 7946).into()
}

fn link(salt: u8) -> Link {
    Link::new("swarm", keys(1, None), Salt([salt; 12]))
}

/// Links by their host's number, and what is on its way between them.
struct Net {
    now: Time,
    links: BTreeMap<u8, (Link, Counters)>,
    wire: VecDeque<(u8, Datagram)>,
    /// All that was ever sent.
    tape: Vec<(u8, Datagram)>,
}

impl Net {
    fn new(hosts: &[u8]) -> Self {
        let links = hosts.iter().map(|host| (*host, (link(*host), Counters::default())));
        Self { now: START, links: links.collect(), wire: VecDeque::new(), tape: Vec::new() }
    }

    fn put(&mut self, from: u8, datagrams: Vec<Datagram>) {
        for (to, datagram) in datagrams {
            assert!(datagram.len() <= DATAGRAM_BYTES_MAX);
            self.wire.push_back((from, (to, datagram.clone())));
            self.tape.push((from, (to, datagram)));
        }
    }

    fn send(&mut self, from: u8, to: u8, message: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let datagrams = self.links.get_mut(&from).unwrap().0.send(self.now, address(to), message);
        self.put(from, datagrams);
        self.run()
    }

    fn give(&mut self, from: u8, to: u8, mut datagram: Vec<u8>) -> Option<Vec<u8>> {
        let (link, counters) = self.links.get_mut(&to).unwrap();
        let (message, answers) = link.receive(self.now, address(from), &mut datagram, counters);
        self.put(to, answers);
        message
    }

    /// Carries all that is on its way; what arrives, and where.
    fn run(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut arrived = Vec::new();
        while let Some((from, (to, datagram))) = self.wire.pop_front() {
            let SocketAddr::V4(to) = to else { panic!("{to}") };
            let to = to.ip().octets()[3];
            if self.links.contains_key(&to) {
                arrived.extend(self.give(from, to, datagram).map(|message| (to, message)));
            }
        }
        arrived
    }

    fn count(&self, host: u8, counter: Counter) -> u64 {
        self.links[&host].1.get(counter)
    }
}

fn byte(rng: &mut Rng) -> u8 {
    u8::try_from(rng.below(256)).unwrap()
}

fn long(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i % 253).unwrap()).collect()
}

#[test]
fn messages_arrive_after_one_greeting() {
    let mut net = Net::new(&[1, 2]);
    assert_eq!(net.send(1, 2, b"first"), [(2, b"first".to_vec())]);
    assert_eq!(net.tape.len(), 3);
    // The other side needs none: it was bound to.
    assert_eq!(net.send(2, 1, b"back"), [(1, b"back".to_vec())]);
    assert_eq!(net.tape.len(), 4);
    let long = long(MESSAGE_BYTES_MAX);
    assert_eq!(net.send(1, 2, &long), [(2, long.clone())]);
    assert_eq!(net.send(1, 2, &[]), [(2, Vec::new())]);
}

#[test]
fn one_that_starts_anew_is_found_again() {
    let mut net = Net::new(&[1, 2]);
    net.send(1, 2, b"x");
    net.links.insert(2, (link(22), Counters::default()));
    // For the one before: not opened, but answered, and then both know.
    net.now = net.now + HELLO_EVERY;
    assert_eq!(net.send(1, 2, b"lost"), []);
    assert_eq!(net.count(2, Counter::NotForUs), 1);
    assert_eq!(net.send(1, 2, b"found"), [(2, b"found".to_vec())]);
    assert_eq!(net.send(2, 1, b"back"), [(1, b"back".to_vec())]);
}

#[test]
fn what_was_recorded_opens_nothing_a_second_time() {
    let mut net = Net::new(&[1, 2, 3]);
    for round in 0..200_u8 {
        net.send(1, 2, &[round]);
        net.send(2, 1, &[round]);
    }
    net.send(3, 1, b"x");
    let tape = net.tape.clone();
    for host in [1, 2, 3] {
        for (from, (_, datagram)) in &tape {
            assert_eq!(net.give(*from, host, datagram.clone()), None);
            net.wire.clear();
        }
    }
    assert!(net.count(1, Counter::Replayed) >= 200 && net.count(3, Counter::NotForUs) >= 400);
    // Also not where who heard it has started anew and remembers nothing.
    net.links.insert(1, (link(11), Counters::default()));
    net.links.insert(2, (link(12), Counters::default()));
    for (from, (_, datagram)) in &tape {
        for host in [1, 2] {
            assert_eq!(net.give(*from, host, datagram.clone()), None);
            assert_eq!(net.run(), []);
        }
    }
    // And all of it was no hindrance.
    net.now = net.now + Span::from_secs(3);
    net.send(1, 2, b"y");
    net.now = net.now + Span::from_secs(3);
    assert_eq!(net.send(1, 2, b"again"), [(2, b"again".to_vec())]);
}

#[test]
fn an_old_greeting_changes_nobodys_mind() {
    let mut net = Net::new(&[1, 2]);
    net.links.insert(2, (link(22), Counters::default()));
    net.send(2, 1, b"x");
    let old: Vec<_> = net.tape.drain(..).filter(|(from, _)| *from == 2).collect();
    // Both start anew, so that the one does not know the other's earlier start.
    net.links.insert(1, (link(11), Counters::default()));
    net.links.insert(2, (link(23), Counters::default()));
    net.now = net.now + HELLO_EVERY;
    net.send(2, 1, b"x");
    net.send(1, 2, b"y");
    for (_, (_, datagram)) in old {
        net.now = net.now + HELLO_EVERY;
        assert_eq!(net.give(2, 1, datagram), None);
        assert_eq!(net.links[&1].0.places[&address(2)].salt, Some(Salt([23; 12])));
        assert_eq!(net.run(), []);
        assert_eq!(net.send(1, 2, b"z"), [(2, b"z".to_vec())]);
    }
}

#[test]
fn noise_and_changed_datagrams_are_counted_and_nothing_more() {
    let mut net = Net::new(&[1, 2]);
    net.send(1, 2, b"x");
    net.send(1, 2, &long(5_000));
    let tape = net.tape.clone();
    let mut rng = Rng::new(7);
    let start = net.now;
    for round in 0..5_000_u64 {
        net.now = start + Span::from_millis(round);
        let (from, (_, datagram)) = &tape[usize::try_from(rng.below(tape.len() as u64)).unwrap()];
        let mut datagram = datagram.clone();
        match rng.below(3) {
            0 => datagram.truncate(usize::try_from(rng.below(datagram.len() as u64)).unwrap()),
            1 => {
                let at = usize::try_from(rng.below(datagram.len() as u64)).unwrap();
                datagram[at] ^= 1 << rng.below(8);
            }
            _ => datagram = (0..rng.below(2_000)).map(|_| byte(&mut rng)).collect(),
        }
        let host = 1 + u8::try_from(rng.below(2)).unwrap();
        assert_eq!(net.give(*from, host, datagram), None);
        assert_eq!(net.run(), []);
    }
    assert!(net.count(1, Counter::Malformed) > 500 && net.count(2, Counter::Forged) > 100);
    net.now = net.now + Span::from_secs(3);
    assert_eq!(net.send(1, 2, b"still"), [(2, b"still".to_vec())]);
}

#[test]
fn a_rotation_in_two_steps_loses_nothing() {
    let mut net = Net::new(&[1, 2, 3]);
    let first = [keys(1, Some(2)), keys(2, Some(1))];
    let second = [keys(2, Some(3)), keys(3, Some(2)), keys(3, None)];
    for keys in first.into_iter().chain(second) {
        // One after the other, with traffic in between.
        for host in [1, 2, 3] {
            net.links.get_mut(&host).unwrap().0.rotate(keys.clone());
            for (from, to) in [(1, 2), (2, 3), (3, 1), (2, 1), (3, 2), (1, 3)] {
                net.now = net.now + HELLO_EVERY;
                assert_eq!(net.send(from, to, b"x"), [(to, b"x".to_vec())], "{keys:?} {host}");
            }
        }
    }
    // Who has only an old key hears and says nothing.
    net.links.get_mut(&1).unwrap().0.rotate(keys(1, None));
    assert_eq!(net.send(1, 2, b"x"), []);
    assert_eq!(net.send(2, 1, b"x"), []);
    assert_eq!((net.count(2, Counter::UnknownKey), net.count(1, Counter::UnknownKey)), (1, 1));
    // A number with another secret is another key.
    let other = Keys { seal: Key { number: 3, secret: [0; 32] }, also: None };
    net.links.get_mut(&3).unwrap().0.rotate(other);
    assert_eq!(net.send(2, 3, b"x"), []);
    assert_eq!((net.count(3, Counter::Forged), net.count(3, Counter::UnknownKey)), (1, 0));
}

#[test]
fn other_clusters_are_not_heard() {
    let mut net = Net::new(&[1, 2]);
    let other = Link::new("other", keys(1, None), Salt([9; 12]));
    net.links.insert(1, (other, Counters::default()));
    assert_eq!(net.send(1, 2, b"x"), []);
    assert_eq!(net.count(2, Counter::Forged), 1);
}

#[test]
fn greetings_and_memory_are_bounded() {
    let mut net = Net::new(&[1]);
    let (link, counters) = net.links.get_mut(&1).unwrap();
    let mut sent = 0;
    for number in 0..5_000_u32 {
        let [_, _, a, b] = number.to_be_bytes();
        let from = ([10, 1, a, b], 7946).into();
        sent += link.send(net.now, from, b"message").len();
        let mut datagram = vec![0x10; 100];
        sent += link.receive(net.now, from, &mut datagram, counters).1.len();
    }
    assert_eq!(sent as u64, GREETINGS_MAX);
    assert_eq!(link.places.len(), PLACES_MAX);
    assert_eq!(link.senders.len(), 0);
    // A second later there are new ones.
    net.now = net.now + GREETING_EVERY + GREETING_EVERY;
    assert_eq!(link.send(net.now, address(9), b"message").len(), 1);
    assert_eq!(link.send(net.now, address(9), b"message").len(), 0);
    assert_eq!(link.send(net.now, address(8), &long(WAITING_BYTES_MAX + 1)).len(), 1);
    assert!(link.places[&address(8)].waiting.is_none());
}
