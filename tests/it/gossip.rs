//! Gossip over real datagrams. Each test is a network of its own: a thread in a fresh namespace,
//! whose members have loopback addresses.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use skep::base::rng::Rng;
use skep::base::time::Span;
use skep::host::clock::Clock;
use skep::host::gossip::link::Link;
use skep::host::gossip::{
    Config, Counter, Counters, Gossip, Key, Keys, Member, Nodes, STATE_BYTES_MAX, Salt, SetError,
    StartError, VALUE_BYTES_MAX,
};

const CLUSTER: &str = "swarm";
/// A death is seen by all within this: up to 4 s with the detector's settings, and the machine's
/// noise.
const DEAD_WITHIN: Duration = Duration::from_secs(8);
/// Anything else that takes a few rounds of half a second.
const SOON: Duration = Duration::from_secs(8);

struct Bed {
    folder: PathBuf,
    clock: Clock,
    nodes: BTreeMap<u8, Gossip>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.nodes.clear();
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// Runs the test in a network of its own.
fn network(test: impl FnOnce(&mut Bed) + Send) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    assert!(nix::unistd::geteuid().is_root(), "the integration tests need root");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("skep-gossip-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir_all(&folder).unwrap();
    let mut bed = Bed { folder, clock: Clock::new(), nodes: BTreeMap::new() };
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh("ip link set lo up");
            test(&mut bed);
            drop(bed);
        });
        run.join().unwrap();
    });
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

fn key(number: u32) -> Key {
    Key { number, secret: [u8::try_from(number).unwrap(); 32] }
}

fn keys(seal: u32, also: Option<u32>) -> Keys {
    Keys { seal: key(seal), also: also.map(key) }
}

fn address(host: u8) -> SocketAddr {
    ([127, 0, 0, host], 7946).into()
}

fn name(host: u8) -> String {
    format!("node{host}")
}

impl Bed {
    fn config(&self, host: u8, seeds: &[u8]) -> Config {
        Config {
            node: name(host),
            cluster: CLUSTER.into(),
            listen: address(host),
            advertise: address(host),
            seeds: seeds.iter().copied().map(address).collect(),
            folder: self.folder.join(name(host)),
            clock: self.clock,
        }
    }

    /// Starts a member that asks the first one.
    fn start(&mut self, host: u8) {
        let gossip = Gossip::start(self.config(host, &[1]), keys(1, None)).unwrap();
        gossip.set("host", &host.to_string()).unwrap();
        self.nodes.insert(host, gossip);
    }

    fn start_all(&mut self, count: u8) {
        for host in 1..=count {
            self.start(host);
        }
        self.wait("all see all", SOON, Self::all_see_all);
    }

    fn all_see_all(&self) -> bool {
        self.nodes.iter().all(|(host, gossip)| {
            let members = gossip.members();
            let others = self.nodes.keys().filter(|other| *other != host);
            let wanted: Vec<_> = others.map(|other| (name(*other), true)).collect();
            let seen = |member: &Member| {
                let value = member
                    .values
                    .get("host")
                    .is_some_and(|host| member.node.ends_with(host.as_str()));
                (member.node.clone(), member.alive && value)
            };
            members.iter().map(seen).collect::<Vec<_>>() == wanted
        })
    }

    fn member(&self, of: u8, node: u8) -> Option<Member> {
        self.nodes[&of].members().iter().find(|member| member.node == name(node)).cloned()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.nodes.values().map(|gossip| gossip.counters().get(counter)).sum()
    }

    #[track_caller]
    fn wait(&self, what: &str, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !done(self) {
            if start.elapsed() > limit {
                for (host, gossip) in &self.nodes {
                    eprintln!("{host}: {:#?} {:?}", gossip.members(), gossip.counters());
                }
                panic!("not within {limit:?}: {what}");
            }
            thread::sleep(Duration::from_millis(10));
        }
        start.elapsed()
    }

    /// Holds for as long as `span`.
    #[track_caller]
    fn holds(&self, what: &str, span: Duration, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while start.elapsed() < span {
            assert!(holds(self), "{what} after {:?}", start.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn a_life_of(count: u8) {
    network(|bed| {
        bed.start_all(count);
        assert_eq!(bed.member(1, 2).unwrap().generation, 1);

        // A value reaches all, is changed and taken away; who waits is told.
        let changes = bed.nodes[&1].changes();
        while changes.try_recv().is_ok() {}
        bed.nodes[&count].set("load", "7").unwrap();
        let seen = |value: Option<&str>| {
            let value = value.map(str::to_owned);
            move |bed: &Bed| {
                let others = bed.nodes.keys().filter(|host| **host != count);
                others
                    .copied()
                    .all(|of| bed.member(of, count).unwrap().values.get("load").cloned() == value)
            }
        };
        bed.wait("the value is there", SOON, seen(Some("7")));
        assert_eq!(changes.try_recv(), Ok(()));
        bed.nodes[&count].set("load", "8").unwrap();
        bed.wait("the value is another", SOON, seen(Some("8")));
        bed.nodes[&count].remove("load");
        bed.wait("the value is gone", SOON, seen(None));

        // One dies: its heart stands still, then it is seen dead, by all.
        let died = bed.clock.mono();
        bed.nodes.remove(&2).unwrap().stop();
        bed.wait("it is seen dead", DEAD_WITHIN, |bed| {
            bed.nodes.keys().all(|of| !bed.member(*of, 2).unwrap().alive)
        });
        for of in bed.nodes.keys() {
            let heard = bed.member(*of, 2).unwrap().heard.unwrap();
            assert!(heard.since(died) < Span::from_secs(2), "{heard:?} {died:?}");
        }
        let now = bed.clock.mono();
        let fresh = |member: Option<Member>| now.since(member.unwrap().heard.unwrap());
        assert!(count < 3 || fresh(bed.member(1, 3)) < Span::from_secs(2));

        // It comes back as a new start, and counts once.
        bed.start(2);
        bed.wait("it is back", SOON, Bed::all_see_all);
        assert!(
            bed.nodes
                .keys()
                .filter(|of| **of != 2)
                .all(|of| { bed.member(*of, 2).unwrap().generation == 2 })
        );
        assert_eq!(bed.count(Counter::Restarted), 0);
    });
}

/// Runs tests that mostly wait beside each other.
fn together(tests: &[fn()]) {
    thread::scope(|scope| {
        let running: Vec<_> = tests.iter().map(|test| scope.spawn(test)).collect();
        for test in running {
            test.join().unwrap();
        }
    });
}

#[test]
fn members_live_and_die_but_not_of_loss() {
    together(&[|| a_life_of(3), || a_life_of(5), nobody_dies_of_ten_percent_loss]);
}

fn nobody_dies_of_ten_percent_loss() {
    network(|bed| {
        sh(
            "nft 'add table inet loss; add chain inet loss in { type filter hook input priority 0; }; \
            add rule inet loss in udp dport 7946 numgen random mod 100 < 10 counter drop'",
        );
        bed.start_all(5);
        bed.nodes[&3].set("late", "1").unwrap();
        bed.holds("all are alive", Duration::from_secs(6), |bed| {
            bed.nodes.values().all(|gossip| gossip.members().iter().all(|member| member.alive))
        });
        assert_eq!(bed.member(5, 3).unwrap().values["late"], "1");
        // What is lost is not what is forged.
        assert_eq!(bed.count(Counter::Forged) + bed.count(Counter::Malformed), 0);
    });
}

#[test]
fn who_has_another_key_or_cluster_is_not_there() {
    network(|bed| {
        bed.start_all(2);
        let wrong = Keys { seal: Key { number: 1, secret: [9; 32] }, also: None };
        let unknown = Gossip::start(bed.config(3, &[1]), wrong).unwrap();
        let old = Gossip::start(bed.config(4, &[1]), keys(7, None)).unwrap();
        let other = Config { cluster: "other".into(), ..bed.config(5, &[1]) };
        let other = Gossip::start(other, keys(1, None)).unwrap();
        bed.wait("they have knocked", SOON, |bed| {
            let counters = bed.nodes[&1].counters();
            counters.get(Counter::Forged) >= 4 && counters.get(Counter::UnknownKey) >= 2
        });
        for gossip in [unknown, old, other] {
            assert_eq!(gossip.members().len(), 0);
        }
        assert!(bed.all_see_all());
    });
}

#[test]
fn a_rotation_under_way_takes_nobody_out() {
    network(|bed| {
        bed.start_all(3);
        for step in [keys(1, Some(2)), keys(2, Some(1)), keys(2, Some(3)), keys(3, Some(2))] {
            for host in 1..=3 {
                bed.nodes[&host].rotate(step.clone());
                bed.holds("all are alive", Duration::from_millis(150), Bed::all_see_all);
            }
        }
        bed.nodes[&1].set("sealed", "with the third").unwrap();
        bed.wait("a value arrives", SOON, |bed| {
            bed.member(3, 1).unwrap().values.contains_key("sealed")
        });
        assert_eq!(bed.count(Counter::UnknownKey) + bed.count(Counter::Forged), 0);
        // Who is not told of the next one is out: what it says is not opened.
        for host in [1, 2] {
            bed.nodes[&host].rotate(keys(4, None));
        }
        bed.nodes[&3].set("sealed", "with an old one").unwrap();
        bed.wait("it is not heard", SOON, |bed| {
            [1, 2].iter().all(|host| {
                let counters = bed.nodes[host].counters();
                counters.get(Counter::UnknownKey) >= 2
            })
        });
        assert!(!bed.member(1, 3).unwrap().values.contains_key("sealed"));
    });
}

#[test]
fn what_cannot_be_set_is_refused() {
    network(|bed| {
        bed.start(1);
        let gossip = &bed.nodes[&1];
        let long = "x".repeat(VALUE_BYTES_MAX + 1);
        assert_eq!(gossip.set("k", &long), Err(SetError::Value));
        assert_eq!(gossip.set("k", &long[1..]), Ok(()));
        assert_eq!(gossip.set("l", &long[1..]), Err(SetError::Full));
        assert_eq!(gossip.set("l", &long[..STATE_BYTES_MAX - VALUE_BYTES_MAX - 100]), Ok(()));
        for key in ["", "a b", "é", &"k".repeat(65)] {
            assert_eq!(gossip.set(key, "v"), Err(SetError::Key), "{key}");
        }
        for number in 0.. {
            match gossip.set(&format!("n{number}"), "") {
                Ok(()) => assert!(number < 32),
                Err(error) => {
                    assert_eq!((error, number), (SetError::Full, 29));
                    break;
                }
            }
        }
        let config = |change: &dyn Fn(&mut Config)| {
            let mut config = bed.config(2, &[1]);
            change(&mut config);
            Gossip::start(config, keys(1, None)).unwrap_err()
        };
        let taken = config(&|config| config.listen = address(1));
        assert!(matches!(taken, StartError::Listen { .. }), "{taken}");
        let nowhere = config(&|config| config.advertise = ([0, 0, 0, 0], 7946).into());
        assert!(matches!(nowhere, StartError::Config(_)), "{nowhere}");
        let nobody = config(&|config| config.node = "a b".into());
        assert!(matches!(nobody, StartError::Config(_)), "{nobody}");

        // A state as large as it may be reaches another member, in parts.
        bed.start(2);
        bed.wait("it is all there", SOON, |bed| {
            bed.member(2, 1).is_some_and(|member| {
                member.values.len() == 32 && member.values["k"].len() == VALUE_BYTES_MAX
            })
        });
    });
}

#[test]
fn who_is_not_admitted_is_not_told() {
    network(|bed| {
        bed.start_all(3);
        let only = |hosts: &[u8]| Nodes::Only(hosts.iter().copied().map(name).collect());
        bed.nodes[&1].admit(only(&[1, 2]));
        bed.wait("it is gone", SOON, |bed| bed.member(1, 3).is_none());
        assert!(bed.member(1, 2).unwrap().alive && bed.member(2, 3).unwrap().alive);
        bed.nodes[&1].admit(only(&[1, 2, 3]));
        bed.wait("it is back", SOON, Bed::all_see_all);
    });
}

#[test]
fn those_who_know_nobody_find_each_other_when_one_is_told_where() {
    network(|bed| {
        for host in [1, 2] {
            let gossip = Gossip::start(bed.config(host, &[]), keys(1, None)).unwrap();
            gossip.set("host", &host.to_string()).unwrap();
            bed.nodes.insert(host, gossip);
        }
        bed.nodes[&2].call(vec![address(2), address(9), address(1)]);
        bed.wait("they see each other", SOON, Bed::all_see_all);
    });
}

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
