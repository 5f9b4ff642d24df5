//! The frozen bytes, and hostile ones.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::parts::{BadGather, Gather, changes, stats};
use super::*;
use crate::base::id::TaskId;
use crate::model::route::{BACKENDS_MAX, Backend, RouteDelta, RouteTable};
use crate::model::service::{Protocol, PublishMode};

const GOLDEN: &str = include_str!("../../../tests/data/wire/control-v1.txt");

fn key(port: u16) -> ListenKey {
    ListenKey { ip: Some("10.1.2.3".parse().unwrap()), port, protocol: Protocol::Udp }
}

fn listener() -> Listener {
    let backend =
        |task, addr: &str| Backend { task: TaskId::new(task), addr: addr.parse().unwrap() };
    Listener {
        key: ListenKey::any(80, Protocol::Tcp),
        mode: PublishMode::Ingress,
        backends: vec![backend(7, "10.0.0.2:8080"), backend(u128::MAX, "[fd00::2]:80")],
    }
}

fn route_stats() -> RouteStats {
    RouteStats {
        key: key(53),
        fault: Some(PortFault::Errno(13)),
        active: 1,
        total: 200,
        bytes_in: 3,
        bytes_out: u64::MAX,
        dial_failures: 5,
        unserved: 6,
    }
}

/// One of each.
fn samples() -> Vec<Message> {
    let build = || "0.1.0-abc".to_owned();
    let fault = |port, fault| PortError { key: key(port), fault };
    vec![
        Message::Hello(Hello { build: build() }),
        Message::Welcome(Welcome { build: build(), pid: 4711, version: 3 }),
        Message::Change(Change {
            full: false,
            base: 2,
            version: 300,
            part: 0,
            parts: 2,
            set: vec![listener()],
            remove: vec![key(53)],
        }),
        Message::Applied(Applied {
            version: 300,
            errors: vec![
                fault(1, PortFault::InUse),
                fault(2, PortFault::NoSuchAddress),
                fault(3, PortFault::Forbidden),
                fault(4, PortFault::Errno(-1)),
            ],
            omitted: 9,
        }),
        Message::Refused(Refused { reason: Reason::OtherVersion, version: 1 }),
        Message::Refused(Refused { reason: Reason::Malformed, version: 1 }),
        Message::Refused(Refused { reason: Reason::Leaving, version: 1 }),
        Message::Refused(Refused { reason: Reason::Busy, version: 1 }),
        Message::Query,
        Message::Stats(Stats {
            part: 0,
            parts: 1,
            totals: Totals { flows: 1, sessions: 2, pauses: 3, spliced: 4, refused: 5 },
            routes: vec![route_stats()],
        }),
        Message::Shutdown(Shutdown { drain: true }),
        Message::Bye,
        Message::TakeOver(Hello { build: build() }),
        Message::Handed(Handed { part: 0, parts: 1, keys: vec![key(1)] }),
        Message::TookOver,
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_are_frozen() {
    let shown: Vec<String> = samples().iter().map(|m| hex(&m.encode().unwrap())).collect();
    let golden: Vec<&str> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(shown, golden, "a landed shape never changes; a change is a new version");
    for message in samples() {
        assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
    }
}

#[test]
fn every_cut_and_every_extra_byte_is_refused() {
    for message in samples() {
        let packet = message.encode().unwrap();
        for end in 0..packet.len() {
            assert!(Message::decode(&packet[..end]).is_err(), "{message:?} cut at {end}");
        }
        let mut longer = packet.clone();
        longer.push(0);
        assert_eq!(Message::decode(&longer), Err(BadMessage::Length));
        let length = u32::try_from(longer.len() - HEAD_BYTES).unwrap();
        longer[2..HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
        assert_eq!(Message::decode(&longer), Err(BadMessage::Body(packet[0])));
        let mut newer = packet;
        newer[1] = VERSION + 1;
        assert_eq!(Message::decode(&newer), Err(BadMessage::Version(VERSION + 1)));
    }
    assert_eq!(Message::decode(&[99, 1, 0, 0, 0, 0]), Err(BadMessage::Kind(99)));
    assert!(matches!(Message::decode(&vec![0; PACKET_BYTES_MAX + 1]), Err(BadMessage::Long(_))));
}

#[test]
fn limits_hold_on_the_wire() {
    let hello = Message::Hello(Hello { build: "x".repeat(BUILD_CHARS_MAX + 1) });
    assert_eq!(Message::decode(&hello.encode().unwrap()), Err(BadMessage::Body(1)));
    let mut bad = listener();
    bad.key.port = 0;
    let delta = RouteDelta { set: vec![bad], remove: vec![] };
    let change = Message::Change(changes(true, 0, 1, delta).remove(0));
    assert_eq!(Message::decode(&change.encode().unwrap()), Err(BadMessage::Body(3)));
}

#[test]
fn the_largest_listener_and_the_largest_counters_fit_into_a_packet() {
    let mut largest = listener();
    largest.key.ip = Some("fd00:1111:2222:3333:4444:5555:6666:7777".parse().unwrap());
    largest.key.port = u16::MAX;
    let backend = |n: usize| Backend {
        task: TaskId::new(u128::MAX - n as u128),
        addr: "[fd00:1111:2222:3333:4444:5555:6666:7777]:65535".parse().unwrap(),
    };
    largest.backends = (0..BACKENDS_MAX).map(backend).collect();
    let delta = RouteDelta { set: vec![largest; 3], remove: vec![] };
    let all = changes(false, u64::MAX, u64::MAX, delta);
    assert_eq!(all.len(), 3);
    for change in all {
        Message::Change(change).encode().unwrap();
    }
    let max = u64::MAX;
    let totals = Totals { flows: max, sessions: max, pauses: max, spliced: max, refused: max };
    let route = RouteStats {
        key: ListenKey {
            ip: Some(IpAddr::from([0xff; 16])),
            port: u16::MAX,
            protocol: Protocol::Udp,
        },
        fault: Some(PortFault::Errno(i32::MIN)),
        active: max,
        total: max,
        bytes_in: max,
        bytes_out: max,
        dial_failures: max,
        unserved: max,
    };
    let parts = stats(totals, &[route; 2_000]);
    assert!(parts.len() > 1);
    assert_eq!(parts.iter().map(|p| p.routes.len()).sum::<usize>(), 2_000);
    for part in parts {
        Message::Stats(part).encode().unwrap();
    }
    assert_eq!(stats(totals, &[]).len(), 1);
    let error = PortError { key: route.key, fault: PortFault::Errno(i32::MIN) };
    let applied = Applied { version: max, errors: vec![error; Applied::ERRORS_MAX], omitted: 1 };
    Message::Applied(applied).encode().unwrap();
    let handed = Handed { part: 0, parts: 1, keys: vec![route.key; HANDED_MAX] };
    Message::Handed(handed).encode().unwrap();
}

#[test]
fn parts_out_of_order_are_refused_and_forgotten() {
    let mut largest = listener();
    let mut all = Vec::new();
    for port in 1..=3_000 {
        largest.key.port = port;
        all.push(largest.clone());
    }
    let parts = changes(true, 0, 1, RouteDelta { set: all, remove: vec![] });
    assert!(parts.len() >= 3);
    let table = RouteTable::new();
    let mut gather = Gather::default();
    assert_eq!(gather.take(parts[0].clone(), 0, &table), Ok(None));
    assert_eq!(gather.take(parts[2].clone(), 0, &table), Err(BadGather::Order(2)));
    assert_eq!(gather.take(parts[1].clone(), 0, &table), Err(BadGather::Order(1)));
    for part in &parts[..parts.len() - 1] {
        assert_eq!(gather.take(part.clone(), 0, &table), Ok(None));
    }
    let (after, version) = gather.take(parts[parts.len() - 1].clone(), 0, &table).unwrap().unwrap();
    assert_eq!((after.len(), version), (3_000, 1));
}

fn any_backend() -> impl Strategy<Value = Backend> {
    (any::<u128>(), any::<IpAddr>(), 1u16..).prop_map(|(task, ip, port)| Backend {
        task: TaskId::new(task),
        addr: SocketAddr::new(ip, port),
    })
}

fn any_listener() -> impl Strategy<Value = Listener> {
    let key = (any::<Option<IpAddr>>(), 1u16.., any::<bool>());
    (key, any::<bool>(), prop::collection::vec(any_backend(), 0..5)).prop_map(
        |((ip, port, udp), host, mut backends)| {
            backends.dedup_by_key(|b| b.task);
            Listener {
                key: ListenKey {
                    ip,
                    port,
                    protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                },
                mode: if host { PublishMode::Host } else { PublishMode::Ingress },
                backends,
            }
        },
    )
}

fn any_table() -> impl Strategy<Value = RouteTable> {
    prop::collection::vec(any_listener(), 0..40).prop_map(|all| {
        let mut table = RouteTable::new();
        for listener in all {
            drop(table.insert(listener));
        }
        table
    })
}

proptest! {
    #[test]
    fn any_bytes_give_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        }
    }

    #[test]
    fn any_body_in_a_right_head_gives_a_message_or_an_error(
        kind in 0u8..14,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut packet = vec![kind, VERSION];
        packet.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        packet.extend(body);
        if let Ok(message) = Message::decode(&packet) {
            prop_assert_eq!(Message::decode(&message.encode().unwrap()), Ok(message));
        }
    }

    #[test]
    fn tables_survive_the_wire_as_snapshot_and_as_delta(old in any_table(), new in any_table()) {
        let mut gather = Gather::default();
        let mut arrive = |parts: Vec<Change>, have: u64, table: &RouteTable| {
            let mut last = None;
            for part in parts {
                let packet = Message::Change(part).encode().unwrap();
                let Ok(Message::Change(part)) = Message::decode(&packet) else { panic!() };
                last = gather.take(part, have, table).unwrap();
            }
            last.unwrap()
        };
        let empty = RouteTable::new();
        let (first, version) = arrive(changes(true, 0, 5, old.since(&empty)), 0, &empty);
        prop_assert_eq!((&first, version), (&old, 5));
        let (second, version) = arrive(changes(false, 5, 6, new.since(&old)), 5, &first);
        prop_assert_eq!((&second, version), (&new, 6));
    }
}
