//! Each limit at its edge.

use std::time::Duration;

use chitchat::{
    Chitchat, ChitchatConfig, DeletionStatus, FailureDetectorConfig, ProtocolVersion,
    VersionedValue,
};

use super::*;

fn id(node: &str, generation: u64) -> ChitchatId {
    ChitchatId::new(node, generation, ([10, 0, 0, 1], 7946).into())
}

/// What the member `me` knows, with the values of others put in.
fn chitchat(others: &[(ChitchatId, Vec<(String, String)>)]) -> Chitchat {
    let config = ChitchatConfig {
        chitchat_id: id("me", 5),
        cluster_id: "swarm".into(),
        gossip_interval: Duration::from_secs(1),
        listen_addr: ([127, 0, 0, 1], 0).into(),
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: Duration::from_secs(60),
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    };
    let (_, seeds) = tokio::sync::watch::channel(Default::default());
    let mut chitchat = Chitchat::with_chitchat_id_and_seeds(config, seeds, Vec::new());
    for (id, values) in others {
        let last = values.len() as u64 + 1;
        let values = (1..).zip(values).map(|(version, (key, value))| {
            let status = DeletionStatus::Set;
            (key.clone(), VersionedValue { value: value.clone(), version, status })
        });
        chitchat.reset_node_state_if_update(id, values, last, 0);
    }
    chitchat
}

fn check(chitchat: &Chitchat, nodes: &Nodes, message: Message) -> Checked {
    let own = chitchat.self_chitchat_id();
    Check { own, nodes, states: chitchat.node_states() }.message(message)
}

fn known(id: ChitchatId) -> Known {
    Known { id, heartbeat: 4, last_gc: 0, max_version: 1 }
}

/// The ids of a digest that are left.
fn kept(chitchat: &Chitchat, nodes: &Nodes, ids: Vec<ChitchatId>) -> Vec<ChitchatId> {
    let digest: Vec<Known> = ids.into_iter().map(known).collect();
    let count = digest.len();
    let checked = check(chitchat, nodes, Message::Syn { cluster: "swarm".into(), digest });
    let Message::Syn { digest, .. } = checked.message else { panic!() };
    assert_eq!(digest.len() + checked.left_out, count);
    digest.into_iter().map(|known| known.id).collect()
}

fn value(key: &str, len: usize, version: u64) -> Value {
    Value { key: key.into(), value: "x".repeat(len), version, status: 0 }
}

/// How many values of one section are left; `None` if the section is not.
fn fit(chitchat: &Chitchat, id: ChitchatId, values: Vec<Value>) -> Option<usize> {
    let count = values.len();
    let delta = vec![Section { id, last_gc: 0, from: 0, what: News::Values(values) }];
    let checked = check(chitchat, &Nodes::All, Message::Ack { delta });
    let Message::Ack { delta } = checked.message else { panic!() };
    let section = delta.into_iter().next()?;
    let News::Values(values) = section.what else { panic!() };
    assert_eq!(values.len() + checked.left_out, count);
    Some(values.len())
}

#[test]
fn who_may_be_spoken_of() {
    let me = chitchat(&[]);
    let at = |address: &str| ChitchatId::new("a", 1, address.parse().unwrap());
    let good = vec![id("a", 1), id("A9", 1), id(&"x".repeat(32), 1), at("[::1]:1"), id("me", 5)];
    assert_eq!(kept(&me, &Nodes::All, good.clone()), good);
    let bad = [
        vec![id("", 1), id(&"x".repeat(33), 1), id("a b", 1), id("é", 1), id("me", 4), id("me", 6)],
        vec![at("0.0.0.0:1"), at("1.2.3.4:0"), at("224.0.0.1:1"), at("255.255.255.255:1")],
        vec![at("[::]:1"), at("[ff02::1]:1"), ChitchatId::new("me", 5, ([9, 9, 9, 9], 9).into())],
    ];
    assert_eq!(kept(&me, &Nodes::All, bad.concat()), []);
    let only = Nodes::Only(["b".to_owned()].into());
    assert_eq!(kept(&me, &only, vec![id("a", 1), id("b", 1), id("me", 5)]), [id("b", 1), id("me", 5)]);
}

#[test]
fn starts_are_counted_for_a_node_and_in_all() {
    let there: Vec<_> = (0..30).map(|start| (id("a", start), vec![])).collect();
    let me = chitchat(&there);
    let new: Vec<_> = (25..40).map(|start| id("a", start)).collect();
    assert_eq!(kept(&me, &Nodes::All, new), (25..32).map(|start| id("a", start)).collect::<Vec<_>>());

    let there: Vec<_> = (0..500).map(|node| (id(&format!("n{node}"), 1), vec![])).collect();
    let me = chitchat(&there);
    let new: Vec<_> = (490..600).map(|node| id(&format!("n{node}"), 1)).collect();
    // 500 and this one are there: 11 more.
    assert_eq!(kept(&me, &Nodes::All, new).len(), 10 + 11);
    let again = vec![id("n7", 1); 2 * IDS_MAX];
    assert_eq!(kept(&me, &Nodes::All, again).len(), IDS_MAX);
}

#[test]
fn only_others_have_news_for_this_member() {
    let me = chitchat(&[]);
    let one = || vec![value("k", 1, 1)];
    assert_eq!(fit(&me, id("a", 1), one()), Some(1));
    assert_eq!(fit(&me, id("me", 5), one()), None);
    assert_eq!(fit(&me, id("me", 6), one()), None);
    assert_eq!(fit(&me, id("a b", 1), one()), None);
}

#[test]
fn values_are_cut_at_the_first_that_goes_beyond_a_limit() {
    let me = chitchat(&[(id("a", 1), vec![("old".to_owned(), "x".repeat(60_000))])]);
    let at_edge = vec![value("k", VALUE_BYTES_MAX, 1), value("l", VALUE_BYTES_MAX + 1, 2)];
    assert_eq!(fit(&me, id("b", 1), at_edge), Some(1));
    for key in ["", "é", "a b", &"k".repeat(65)] {
        let values = vec![value("k", 1, 1), value(key, 1, 2), value("l", 1, 3)];
        assert_eq!(fit(&me, id("b", 1), values), Some(1), "{key}");
    }
    let values = vec![value("é", 1, 2), value("l", 1, 3)];
    assert_eq!(fit(&me, id("b", 1), values), None);
    let many = (1..200).map(|version| value(&format!("k{version}"), 1, version)).collect();
    assert_eq!(fit(&me, id("b", 1), many), Some(KEYS_OF_START_MAX));
    // What is there counts, what takes its place does not count twice.
    let room = BYTES_OF_START_MAX - 60_003 - 1;
    assert_eq!(fit(&me, id("a", 1), vec![value("k", room, 2)]), Some(1));
    assert_eq!(fit(&me, id("a", 1), vec![value("k", room + 1, 2)]), None);
    let again = (2..100).map(|version| value("old", VALUE_BYTES_MAX, version)).collect();
    assert_eq!(fit(&me, id("a", 1), again), Some(98));
}

#[test]
fn the_state_of_all_has_a_limit() {
    let big = || vec![("k".to_owned(), "x".repeat(65_535))];
    let there: Vec<_> = (0..63).map(|node| (id(&format!("n{node}"), 1), big())).collect();
    let me = chitchat(&there);
    let values = (1..9).map(|version| value(&format!("k{version}"), 10_000, version)).collect();
    // 65,536 bytes are left in all, and 65,536 of one start.
    assert_eq!(fit(&me, id("b", 1), values), Some(6));
    let values = |node: &str| Section {
        id: id(node, 1),
        last_gc: 0,
        from: 0,
        what: News::Values(vec![value("k", 16_000, 1), value("l", 16_000, 2)]),
    };
    let delta = vec![values("b"), values("c"), values("d")];
    let checked = check(&me, &Nodes::All, Message::Ack { delta });
    let Message::Ack { delta } = checked.message else { panic!() };
    assert_eq!((delta.len(), checked.left_out), (2, 2));
}

#[test]
fn who_is_seen_to_go_on_is_told() {
    let me = chitchat(&[(id("a", 1), vec![])]);
    let digest = vec![known(id("a", 1)), known(id("new", 1)), known(id("me", 5))];
    let message = Message::SynAck { digest, delta: Vec::new() };
    // Its heart was never heard before: that is no beat.
    assert_eq!(check(&me, &Nodes::All, message).beating, []);
}

#[test]
fn one_of_whom_others_know_more_than_it_said_is_told() {
    let me = chitchat(&[]);
    let disowned = |node: ChitchatId, heartbeat, max_version| {
        let digest = vec![Known { heartbeat, max_version, ..known(node) }];
        let message = Message::SynAck { digest, delta: Vec::new() };
        check(&me, &Nodes::All, message).disowned
    };
    assert!(!disowned(id("me", 5), 1, 0) && !disowned(id("me", 4), 9, 9));
    assert!(disowned(id("me", 5), 2, 0) && disowned(id("me", 5), 1, 1));
    assert!(!disowned(id("a", 5), 9, 9));
}
