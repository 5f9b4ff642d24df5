//! Who may make which call, and the frozen bytes of every frame.

use super::*;
use crate::base::id::TaskId;
use crate::model::wire::{self, Frame, WireError};

const NODE: NodeId = NodeId::new(7);

fn caller(role: Role) -> Caller {
    let identity = PeerIdentity { node: NODE, role, cluster: ClusterId::new(1), expires: Wall(5) };
    let certified = Certified { root: RootDigest([0; 32]), issued: Wall(1) };
    let (standing, removed, demoted) = (Standing::Current, false, false);
    Caller { identity, standing, removed, demoted, certified }
}

/// One message of each kind, small.
fn messages() -> Vec<Message> {
    let manager = || ManagerAddress { node: NODE, address: "10.0.0.1:2377".into() };
    vec![
        Message::Hello(Hello { oldest: 1, newest: 300, call: 4 }),
        Message::Welcome(Welcome { version: 1 }),
        Message::Refused(Refusal::Version { oldest: 1, newest: 2 }),
        Message::Refused(Refusal::NoSuchCall),
        Message::Refused(Refusal::CertificateNeeded),
        Message::Refused(Refusal::ManagerNeeded),
        Message::Refused(Refusal::Removed),
        Message::Refused(Refusal::Expired),
        Message::Refused(Refusal::WrongSecret),
        Message::Refused(Refusal::NotLeader { leader: Some(manager()) }),
        Message::Refused(Refusal::Busy("no leader".into())),
        Message::Refused(Refusal::Other("text".into())),
        Message::Join(Join {
            request: RequestId::new(9),
            secret: 300,
            csr: vec![1, 2],
            advertise: ":2377".into(),
            availability: Availability::Drain,
            description: vec![3],
        }),
        Message::Joined(Joined {
            certificate: vec![1],
            roots: vec![vec![2, 3]],
            managers: vec![manager()],
            gossip_keys: vec![[4; 32]],
        }),
        Message::Renew(vec![1, 2, 3]),
        Message::Renewed(Renewed { certificate: vec![1], roots: vec![vec![2]] }),
        Message::Raft(vec![1, 2, 3]),
        Message::Assign(vec![4]),
        Message::Report(vec![5]),
        Message::Told(Told::Managers(vec![manager()])),
        Message::Told(Told::Roots(vec![vec![6]])),
        Message::Told(Told::GossipKeys(vec![[7; 32], [8; 32]])),
        Message::Told(Told::Renew),
        Message::Ping(300),
        Message::Pong(301),
        Message::Forward(vec![9]),
        Message::Forwarded(vec![]),
        Message::Present(Present { description: vec![3], advertise: ":2377".into() }),
        Message::Part(vec![10]),
        Message::Ending,
        Message::Told(Told::States(vec![(NODE, NodeState::Down)])),
        Message::GoingDown,
        Message::AskLogs(AskedLogs {
            tasks: vec![TaskId::new(7)],
            follow: true,
            tail: Some(300),
            since_ns: Some(-1),
            until_ns: None,
        }),
        Message::Logs(vec![TaskLine {
            task: TaskId::new(7),
            is_stderr: true,
            time_ns: 300,
            text: "a\n".into(),
        }]),
        Message::LogsOver,
    ]
}

#[test]
fn frames_are_frozen_and_come_back() {
    let mut text = String::new();
    for message in messages() {
        let mut bytes = Vec::new();
        message.encode_into(&mut bytes).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("{hex}\n");
        let (frame, rest) = wire::split(&bytes, limit(message.kind())).unwrap();
        assert_eq!((Message::decode(&frame).unwrap(), rest.len()), (message, 0));
    }
    expect_test::expect_file!["../../../tests/data/wire/peer-v1.hex"].assert_eq(&text);
}

#[test]
fn what_is_too_long_or_unknown_is_refused() {
    let mut out = vec![7];
    let long = Message::Raft(vec![0; MEMBER_BYTES_MAX + 1]).encode_into(&mut out);
    assert!(matches!(long, Err(WireError::TooLong { .. })));
    let long = Message::Refused(Refusal::Other("x".repeat(5_000))).encode_into(&mut out);
    assert!(matches!(long, Err(WireError::TooLong { .. })));
    assert_eq!(out, [7]);
    assert!(Message::Raft(vec![0; MEMBER_BYTES_MAX]).encode_into(&mut out).is_ok());
    for (kind, version) in [(Kind::ENTRY, 1), (Kind(999), 1), (Kind::PEER_RAFT, 2)] {
        let frame = Frame { kind, version, payload: &[] };
        assert_eq!(Message::decode(&frame), Err(WireError::Unknown { kind, version }));
    }
    assert_eq!(limit(Kind::ENTRY), 0);
}

#[test]
fn every_call_asks_for_its_proof() {
    use Refusal::{CertificateNeeded, Expired, ManagerNeeded, Removed};
    let (worker, manager) = (caller(Role::Worker), caller(Role::Manager));
    let expired = Caller { standing: Standing::Expired, ..worker };
    let drawer = Caller { standing: Standing::Expired, ..manager };
    let demoted = Caller { demoted: true, ..manager };
    let unjudged = Caller { standing: Standing::Unjudged, ..manager };
    let removed = Caller { removed: true, ..manager };
    let none = || Err(CertificateNeeded);
    // Join, Renew, Raft, Session, Forward, Logs
    let table = [
        (None, [Ok(()), none(), none(), none(), none(), none()]),
        (
            Some(worker),
            [Ok(()), Ok(()), Err(ManagerNeeded), Ok(()), Err(ManagerNeeded), Err(ManagerNeeded)],
        ),
        (Some(manager), [Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(())]),
        (Some(unjudged), [Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(())]),
        (Some(expired), [Ok(()), Ok(()), Err(Expired), Err(Expired), Err(Expired), Err(Expired)]),
        (Some(drawer), [Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(())]),
        (
            Some(demoted),
            [Ok(()), Ok(()), Err(ManagerNeeded), Ok(()), Err(ManagerNeeded), Err(ManagerNeeded)],
        ),
        (
            Some(removed),
            [Ok(()), Err(Removed), Err(Removed), Err(Removed), Err(Removed), Err(Removed)],
        ),
    ];
    for (caller, results) in table {
        for (call, result) in Call::ALL.into_iter().zip(results) {
            assert_eq!(call.permit(caller.as_ref()), result, "{call:?} by {caller:?}");
        }
    }
}

#[test]
fn a_call_carries_only_its_own_kinds() {
    let carried = |call: Call, from| -> Vec<u16> {
        let kinds = (0..1_000).map(Kind).filter(|kind| call.carries(*kind, from));
        kinds.map(|kind| kind.0).collect()
    };
    assert_eq!(carried(Call::Join, End::Caller), [Kind::PEER_JOIN.0]);
    assert_eq!(carried(Call::Raft, End::Answerer), [Kind::PEER_REFUSED.0]);
    for call in Call::ALL {
        assert_eq!(Call::from_number(call.number()), Some(call));
        assert!(call.carries(Kind::PEER_REFUSED, End::Answerer));
        for from in [End::Caller, End::Answerer] {
            assert!(carried(call, from).iter().all(|kind| limit(Kind(*kind)) > 0));
        }
    }
    assert_eq!(Call::from_number(0), None);
}

#[test]
fn the_newest_version_of_both_is_spoken() {
    let hello = |oldest, newest| Hello { oldest, newest, call: 1 }.agree();
    assert_eq!(hello(1, 1), Ok(Welcome { version: 1 }));
    assert_eq!(hello(0, 2), Ok(Welcome { version: 1 }));
    let none = Err(Refusal::Version { oldest: PROTOCOL_OLDEST, newest: PROTOCOL_NEWEST });
    assert_eq!(hello(2, 3), none);
    assert_eq!(hello(0, 0), none);
    assert_eq!(hello(2, 1), none);
}

#[test]
fn secrets_and_keys_are_not_shown() {
    let shown: String = messages().iter().map(|it| format!("{it:?}\n")).collect();
    assert!(!shown.contains("secret: 300") && !shown.contains("4, 4") && !shown.contains("7, 7"));
}
