//! Against chitchat's own writing, and against noise.

use chitchat::{Chitchat, ChitchatConfig, FailureDetectorConfig, ProtocolVersion};

use super::*;
use crate::base::rng::Rng;

fn id(node: &str, generation: u64) -> ChitchatId {
    ChitchatId::new(node, generation, ([10, 0, 0, 1], 7946).into())
}

fn value(key: &str, value: &str, version: u64) -> Value {
    Value { key: key.into(), value: value.into(), version, status: 0 }
}

fn section(node: &str, what: News) -> Section {
    Section { id: id(node, 1), last_gc: 3, from: 0, what }
}

fn known(node: &str) -> Known {
    Known { id: id(node, 2), heartbeat: 5, last_gc: 0, max_version: 9 }
}

fn messages() -> Vec<Message> {
    let v6 = ChitchatId::new("six", 7, "[fe80::1]:7".parse().unwrap());
    let digest = vec![known("a"), Known { id: v6, ..known("b") }];
    let delta = vec![
        section("a", News::Values(vec![value("k", "v", 1), value("l", "", 2)])),
        section("b", News::Version(4)),
        section("c", News::Values(vec![])),
    ];
    vec![
        Message::Syn { cluster: "swarm".into(), digest: digest.clone() },
        Message::SynAck { digest, delta: delta.clone() },
        Message::Ack { delta },
    ]
}

fn byte(rng: &mut Rng) -> u8 {
    u8::try_from(rng.below(256)).unwrap()
}

#[test]
fn what_is_written_is_read() {
    for message in messages() {
        assert_eq!(read(&write(&message)), Some(message));
    }
}

#[test]
fn nothing_is_read_beyond_what_is_there() {
    let mut rng = Rng::new(3);
    for message in messages() {
        let bytes = write(&message);
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), None, "{len} of {message:?}");
        }
        assert_eq!(read(&[&bytes[..], &[0]].concat()), None);
        for _ in 0..3_000 {
            let mut bytes = bytes.clone();
            for _ in 0..=rng.below(4) {
                let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
                bytes[at] = byte(&mut rng);
            }
            // Whatever is read is written in a form that is read again.
            if let Some(message) = read(&bytes) {
                assert_eq!(read(&write(&message)).as_ref(), Some(&message));
            }
        }
    }
}

#[test]
fn what_chitchat_would_not_survive_is_refused() {
    let refused = |operations: &[&[u8]]| {
        let mut bytes = vec![0x53, 0xb0, 0, 2];
        blocks(&mut bytes, &operations.concat());
        read(&bytes).is_none()
    };
    let node = operations(&section("a", News::Version(9))).collect::<Vec<_>>();
    let values = News::Values(vec![value("k", "v", 5), value("l", "w", 6)]);
    let values = operations(&section("a", values)).collect::<Vec<_>>();
    let [first, version] = &node[..] else { panic!() };
    let [_, five, six] = &values[..] else { panic!() };
    assert!(!refused(&[first, version]) && !refused(&[first, five, six]));
    // A version that goes back behind values; values that go back; twice the same.
    assert!(refused(&[first, five, version]) && refused(&[first, six, five]));
    assert!(refused(&[first, five, five]) && refused(&[first, version, version]));
    assert!(refused(&[first, version, five]) && refused(&[first, first]));
    // Something of nobody, unknown operations, versions of nothing.
    assert!(refused(&[five]) && refused(&[version]) && refused(&[&[3]]));
    assert!(refused(&[first, &[2, 0, 0, 0, 0, 0, 0, 0, 0]]));
    let mut status = five.clone();
    *status.last_mut().unwrap() = 3;
    assert!(refused(&[first, &status]));
}

#[test]
fn a_block_that_unpacks_to_more_than_the_limit_is_cut_or_refused() {
    let zeros = zstd::bulk::compress(&vec![0; BLOCK_BYTES_MAX], 3).unwrap();
    let mut block = vec![1];
    block.extend(u16::try_from(zeros.len()).unwrap().to_le_bytes());
    block.extend(zeros);
    let many = [block.repeat(MESSAGE_BYTES_MAX / block.len() - 1), vec![0]].concat();
    let stream = unpack(&mut Reader(&many)).unwrap();
    assert!(stream.cut && stream.bytes.len() == STREAM_BYTES_MAX);
    // These are no operations; what is cut off may have been.
    let message = read(&[&[0x53, 0xb0, 0, 2][..], &many].concat());
    assert_eq!(message, Some(Message::Ack { delta: vec![] }));
    let too_long = zstd::bulk::compress(&vec![0; BLOCK_BYTES_MAX + 1], 3).unwrap();
    let len = u16::try_from(too_long.len()).unwrap().to_le_bytes();
    assert!(unpack(&mut Reader(&[&[1][..], &len, &too_long, &[0]].concat())).is_none());
}

#[test]
fn a_delta_beyond_a_message_is_cut_behind_a_value() {
    let text = "x".repeat(10_000);
    let values: Vec<Value> = (1..=20).map(|version| value("k", &text, version)).collect();
    let delta = vec![section("a", News::Values(values)), section("b", News::Version(1))];
    let bytes = write(&Message::SynAck { digest: vec![known("a")], delta });
    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
    let Some(Message::SynAck { delta, .. }) = read(&bytes) else { panic!() };
    let [Section { what: News::Values(values), .. }] = &delta[..] else { panic!("{delta:?}") };
    assert_eq!(values.last().unwrap().version, 6);
}

/// What chitchat itself writes is read, and what is written here is understood by it.
#[test]
fn chitchat_agrees() {
    let run = |node: &str, values: &[(&str, &str)]| {
        let (_, seeds) = tokio::sync::watch::channel(Default::default());
        let config = ChitchatConfig {
            chitchat_id: id(node, 1),
            cluster_id: "swarm".into(),
            gossip_interval: std::time::Duration::from_secs(1),
            listen_addr: ([127, 0, 0, 1], 0).into(),
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig::default(),
            marked_for_deletion_grace_period: std::time::Duration::from_secs(60),
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        let values = values.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        Chitchat::with_chitchat_id_and_seeds(config, seeds, values.collect())
    };
    let chitchat = run("a", &[("k", "v"), ("long", &"word ".repeat(2_000))]);
    let id = chitchat.self_chitchat_id().clone();
    // The public part of chitchat's format: ids, which both sides write the same way.
    let mut bytes = Vec::new();
    super::id(&mut bytes, &id);
    assert_eq!(bytes, chitchat::Serializable::serialize_to_vec(&id));
    let state = chitchat.node_state(&id).unwrap();
    assert_eq!(state.max_version(), 2);
}
