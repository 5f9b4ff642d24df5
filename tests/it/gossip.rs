//! Gossip over real datagrams. Each test is a network of its own: a thread in a fresh namespace,
//! whose members have loopback addresses.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use skep::base::time::Span;
use skep::host::clock::Clock;
use skep::host::gossip::{
    Config, Counter, Gossip, Key, Keys, Member, Nodes, STATE_BYTES_MAX, SetError, StartError,
    VALUE_BYTES_MAX,
};

mod hostile;

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
