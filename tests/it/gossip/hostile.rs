//! Those who mean harm: one that knows the key, and one that does not.

use std::net::UdpSocket;
use std::time::Duration;

use skep::base::rng::Rng;
use skep::host::clock::Clock;
use skep::host::gossip::link::Link;
use skep::host::gossip::{Counter, Counters, Nodes, Salt};

use super::{Bed, CLUSTER, SOON, address, keys, network, together};

/// A member that knows the key and says what it likes.
struct Hostile {
    socket: UdpSocket,
    link: Link,
    clock: Clock,
    said: u32,
}

impl Hostile {
    fn new(host: u8, clock: Clock) -> Self {
        let socket = UdpSocket::bind(address(host)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let link = Link::new(CLUSTER, keys(1, None), Salt([host; 12]));
        Self { socket, link, clock, said: 0 }
    }

    /// Says something to all that listen; what they say to it meanwhile.
    fn say(&mut self, hosts: &[u8], message: &[u8]) -> Vec<Vec<u8>> {
        for host in hosts {
            for (to, datagram) in self.link.send(self.clock.mono(), address(*host), message) {
                self.socket.send_to(&datagram, to).unwrap();
            }
        }
        let (counters, mut heard) = (Counters::default(), Vec::new());
        let mut buffer = [0; 2_000];
        // Now and then it waits, so that not too much waits for the others.
        self.said += 1;
        self.socket.set_nonblocking(!self.said.is_multiple_of(16)).unwrap();
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            let (message, answers) =
                self.link.receive(self.clock.mono(), from, &mut buffer[..len], &counters);
            for (to, datagram) in answers {
                self.socket.send_to(&datagram, to).unwrap();
            }
            heard.extend(message);
        }
        heard
    }
}

/// LEB128.
fn number(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().copied().flat_map(number).collect()
}

fn text(text: &str) -> Vec<u8> {
    [&number(text.len() as u64)[..], text.as_bytes()].concat()
}

fn id(node: &str, generation: u64, host: u8) -> Vec<u8> {
    let port = 7946_u16.to_le_bytes();
    [&text(node)[..], &number(generation), &[4, 127, 0, 0, host], &port].concat()
}

fn syn(digest: &[Vec<u8>]) -> Vec<u8> {
    [&[0][..], &number(digest.len() as u64), &digest.concat()].concat()
}

fn known(id: Vec<u8>, parts: [u64; 3]) -> Vec<u8> {
    [id, numbers(&parts)].concat()
}

fn ack(operations: &[Vec<u8>]) -> Vec<u8> {
    [&[2][..], &operations.concat()].concat()
}

fn section(node: &str, generation: u64, host: u8) -> Vec<u8> {
    [&[0][..], &id(node, generation, host), &numbers(&[0, 0])].concat()
}

fn value(key: &str, value: &str, version: u64) -> Vec<u8> {
    [&[1][..], &text(key), &text(value), &number(version), &[0]].concat()
}

/// What ends a chitchat that is not guarded, or fills it. The first is harmless.
fn killers() -> Vec<Vec<u8>> {
    let max = u64::MAX;
    let version = |version| [&[2][..], &number(version)].concat();
    let crowd: Vec<_> =
        (0..600_u64).map(|number| known(id(&format!("x{number}"), number, 7), [1, 0, 1])).collect();
    vec![
        syn(&[known(id("evil", 1, 9), [1, 0, 9])]),
        // A version that goes back behind values.
        ack(&[section("evil", 1, 9), value("k", "v", 10), version(5)]),
        // A key that is cut in the middle of a character.
        ack(&[section("evil", 1, 9), value("é", "v", 1_000)]),
        // News of the victims themselves, after which they could set nothing.
        ack(&[section("node1", 1, 1), value("host", "stolen", max)]),
        ack(&[section("node1", 1, 1), version(max)]),
        ack(&[section("node2", 1, 2), version(max)]),
        syn(&[known(id("node1", 1, 1), [max, max, max])]),
        syn(&crowd),
        syn(&[known(id("evil", max, 9), [max, max, max])]),
        ack(&[section("evil", 1, 9), value("big", &"x".repeat(60_000), 2_000)]),
        [&[0][..], &number(max)].concat(),
        [&[1, 0, 1][..], &number(max)].concat(),
        vec![3],
        vec![],
    ]
}

#[test]
fn a_hostile_member_ends_nobody_and_nobody_is_silenced_for_good() {
    together(&[a_member_that_babbles, who_is_spoken_for_by_another_speaks_up]);
}

fn a_member_that_babbles() {
    network(|bed| {
        bed.start_all(2);
        for gossip in bed.nodes.values() {
            gossip.admit(Nodes::Only(["node1", "node2", "evil"].map(str::to_owned).into()));
        }
        let mut hostile = Hostile::new(9, bed.clock);
        for _ in 0..16 {
            hostile.say(&[1, 2], &killers()[0]);
        }
        let mut rng = Rng::new(11);
        for killer in killers() {
            hostile.say(&[1, 2], &killer);
        }
        for _ in 0..1_500 {
            let killers = killers();
            let killer = &killers[below(&mut rng, killers.len())];
            hostile.say(&[1, 2], &changed(&mut rng, killer));
        }
        // They see each other, with the values that they set, and new ones.
        bed.nodes[&1].set("after", "all").unwrap();
        bed.wait("a value arrives", Duration::from_secs(15), |bed| {
            let member = bed.member(2, 1).unwrap();
            member.values.get("after").is_some_and(|value| value == "all")
                && member.values["host"] == "1"
                && member.alive
        });
        // What they say themselves, changed in places: a lie in good form may be believed for a
        // while, and that is all.
        let mut said = Vec::new();
        for _ in 0..1_500 {
            let message = said.get(below(&mut rng, said.len().max(1)));
            let message = message.map_or_else(|| killers()[0].clone(), Vec::clone);
            said.extend(hostile.say(&[1, 2], &changed(&mut rng, &message)));
            said.truncate(200);
        }
        assert!(said.len() > 50, "nobody answered");
        let answered = |host: u8, hostile: &mut Hostile| {
            (0..200).any(|_| !hostile.say(&[host], &killers()[0]).is_empty())
        };
        assert!(answered(1, &mut hostile) && answered(2, &mut hostile));
        assert_eq!(bed.count(Counter::Restarted), 0);
        assert!(bed.count(Counter::Refused) > 100 && bed.count(Counter::LeftOut) > 5);
    });
}

fn byte(rng: &mut Rng) -> u8 {
    u8::try_from(rng.below(256)).unwrap()
}

fn below(rng: &mut Rng, len: usize) -> usize {
    usize::try_from(rng.below(len as u64)).unwrap()
}

/// The message with a few bytes changed, or its end cut off.
fn changed(rng: &mut Rng, message: &[u8]) -> Vec<u8> {
    let mut message = message[..message.len().min(4_000)].to_vec();
    for _ in 0..rng.below(6) {
        if !message.is_empty() {
            let at = below(rng, message.len());
            message[at] = byte(rng);
        }
    }
    if rng.one_in(4) {
        message.truncate(below(rng, message.len() + 1));
    }
    message
}

fn who_is_spoken_for_by_another_speaks_up() {
    network(|bed| {
        bed.start_all(2);
        let mut hostile = Hostile::new(9, bed.clock);
        let version = [&[2][..], &number(u64::MAX)].concat();
        for _ in 0..16 {
            hostile.say(&[2], &killers()[0]);
        }
        hostile.say(&[2], &ack(&[section("node1", 1, 1), version]));
        // To the other this is the newest of the first start, whatever that one sets.
        bed.nodes[&1].set("after", "all").unwrap();
        bed.wait("a value arrives", Duration::from_secs(15), |bed| {
            // The one that begins its next start goes on to tell who is there.
            assert!(bed.member(1, 2).is_some_and(|member| member.alive));
            let member = bed.member(2, 1).unwrap();
            member.values.contains_key("after") && member.generation == 2 && member.alive
        });
        let renewed = |host| bed.nodes[&host].counters().get(Counter::Renewed);
        assert_eq!((renewed(1), renewed(2), bed.count(Counter::Restarted)), (1, 0, 0));
    });
}

#[test]
fn who_does_not_know_the_key_changes_nothing() {
    network(|bed| {
        bed.start_all(2);
        let socket = UdpSocket::bind("127.0.0.9:7946").unwrap();
        let mut rng = Rng::new(5);
        let received = bed.nodes[&1].counters().get(Counter::Received);
        for _ in 0..3_000 {
            let len = rng.below(1_600);
            let mut noise: Vec<u8> = (0..len).map(|_| byte(&mut rng)).collect();
            if let [first, second, ..] = &mut noise[..] {
                (*first, *second) = (0x10 | (byte(&mut rng) % 5), 1);
            }
            socket.send_to(&noise, address(1)).unwrap();
        }
        bed.wait("it is looked at", SOON, |bed| {
            bed.nodes[&1].counters().get(Counter::Received) >= received + 1_000
        });
        bed.holds("all are alive", Duration::from_secs(1), Bed::all_see_all);
        let refused = [Counter::Malformed, Counter::Forged, Counter::NotForUs];
        assert!(refused.iter().all(|why| bed.nodes[&1].counters().get(*why) > 50));
        assert_eq!(bed.count(Counter::Restarted), 0);
    });
}
