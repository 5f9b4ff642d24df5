//! There and back, short and full; and noise.

use super::*;
use crate::base::rng::Rng;
use crate::host::gossip::wire::News;

fn id(node: &str, generation: u64) -> ChitchatId {
    ChitchatId::new(node, generation, ([10, 0, 0, 1], 7946).into())
}

fn known(id: ChitchatId) -> Known {
    Known { id, heartbeat: 300, last_gc: 0, max_version: u64::MAX }
}

fn value(key: &str, value: &str, version: u64) -> Value {
    Value { key: key.into(), value: value.into(), version, status: 1 }
}

fn section(id: ChitchatId, what: News) -> Section {
    Section { id, last_gc: 1, from: 1 << 40, what }
}

fn messages() -> Vec<Message> {
    let six = ChitchatId::new("six", 9, "[fe80::1]:7".parse().unwrap());
    let digest = vec![known(id("a", 1)), known(id("a", 2)), known(six.clone())];
    let delta = vec![
        section(id("a", 1), News::Values(vec![value("k", "v", 1), value("l", "", 200)])),
        section(six, News::Version(4)),
        section(id("c", 0), News::Values(vec![])),
    ];
    vec![
        Message::Syn { cluster: "swarm".into(), digest: digest.clone() },
        Message::SynAck { digest, delta: delta.clone() },
        Message::Ack { delta },
    ]
}

fn full_message(message: &Message) -> Vec<u8> {
    write(message, &BTreeSet::new()).unwrap()
}

fn read_alone(bytes: &[u8]) -> Option<Read> {
    read(bytes, "swarm", std::iter::empty())
}

#[test]
fn what_is_written_is_read() {
    for message in messages() {
        let read = read_alone(&full_message(&message)).unwrap();
        assert_eq!(read.message, message);
        let named = match &message {
            Message::Syn { digest, .. } | Message::SynAck { digest, .. } => {
                Some(digest.iter().map(|known| tag(&known.id)).collect())
            }
            Message::Ack { .. } => None,
        };
        assert_eq!(read.named, named);
    }
    assert_eq!(write(&Message::Ack { delta: vec![] }, &BTreeSet::new()), None);
}

/// The form is frozen: another release must read it.
#[test]
fn the_bytes_on_the_wire() {
    let tags: BTreeSet<_> = [tag(&id("a", 2))].into();
    let hex = |message| {
        let bytes = write(&message, &tags).unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let messages: Vec<String> = messages().into_iter().map(hex).collect();
    expect_test::expect![[r#"
        0003016101040a0000010a1fac0200ffffffffffffffffff0100ef198426ac0200ffffffffffffffffff01037369780906fe8000000000000000000000000000010700ac0200ffffffffffffffffff01
        0103016101040a0000010a1fac0200ffffffffffffffffff0100ef198426ac0200ffffffffffffffffff01037369780906fe8000000000000000000000000000010700ac0200ffffffffffffffffff0100016101040a0000010a1f0180808080802001016b0176010101016c00c8010100037369780906fe800000000000000000000000000001070001808080808020020400016300040a0000010a1f01808080808020
        0200016101040a0000010a1f0180808080802001016b0176010101016c00c8010100037369780906fe800000000000000000000000000001070001808080808020020400016300040a0000010a1f01808080808020"#]].assert_eq(&messages.join("\n"));
}

#[test]
fn who_is_known_is_named_short() {
    let ids: Vec<_> = (0..20).map(|node| id(&format!("{node:025}"), 7)).collect();
    let entry = |id: &ChitchatId| Known { max_version: 9, ..known(id.clone()) };
    let digest: Vec<_> = ids.iter().map(entry).collect();
    let delta = vec![section(ids[3].clone(), News::Version(4))];
    let message = Message::SynAck { digest, delta };
    let tags: BTreeSet<_> = ids.iter().map(tag).collect();
    assert_eq!(tags.len(), 20);
    let short = write(&message, &tags).unwrap();
    assert!(short.len() < 20 * 9 + 20 && full_message(&message).len() > 20 * 38);
    assert_eq!(read(&short, "swarm", ids.iter()).unwrap().message, message);
    // Who is not known is left out, and known to be named.
    let Read { message, named } = read(&short, "swarm", ids[..3].iter()).unwrap();
    let Message::SynAck { digest, delta } = message else { panic!() };
    assert_eq!((digest.len(), delta.len(), named), (3, 0, Some(tags)));
}

#[test]
fn what_chitchat_would_not_survive_is_refused() {
    let first = |id| full_message(&Message::Ack { delta: vec![section(id, News::Values(vec![]))] });
    let refused = |operations: &[&[u8]]| {
        read_alone(&[&first(id("a", 1))[..], &operations.concat()].concat()).is_none()
    };
    let (five, six): (&[u8], &[u8]) = (&[1, 1, b'k', 0, 5, 0], &[1, 1, b'l', 1, b'x', 6, 2]);
    let other = &first(id("b", 1))[1..];
    assert!(!refused(&[five, six]) && !refused(&[&[2, 9]]) && !refused(&[five, other, five]));
    assert!(refused(&[six, five]) && refused(&[five, five]) && refused(&[five, &[2, 4]]));
    assert!(refused(&[&[2, 9], five]) && refused(&[&[2, 9], &[2, 9]]) && refused(&[&[2, 0]]));
    assert!(refused(&[&first(id("a", 1))[1..]]) && refused(&[&[3]]));
    assert!(refused(&[&[1, 1, b'k', 0, 5, 3]]) && refused(&[&[1, 1, 0xff, 0, 5, 0]]));
    // Something of nobody is read, and has the same rules.
    let nobody: &[u8] = &[0, 0, 1, 2, 3, 4, 0, 0];
    assert!(!refused(&[nobody, five, nobody, six, other, five]) && refused(&[nobody, six, five]));
    let message = [&first(id("a", 1))[..], nobody, five].concat();
    let Message::Ack { delta } = read_alone(&message).unwrap().message else { panic!() };
    assert_eq!(delta, [section(id("a", 1), News::Values(vec![]))]);
}

#[test]
fn nothing_is_read_beyond_what_is_there() {
    let mut rng = Rng::new(3);
    let below = |rng: &mut Rng, len: usize| usize::try_from(rng.below(len as u64)).unwrap();
    let tags: BTreeSet<_> = [tag(&id("a", 1))].into();
    for message in messages() {
        let bytes = write(&message, &tags).unwrap();
        let ids = [id("a", 1)];
        for len in 0..bytes.len() {
            // A delta may end behind each operation; a digest is whole or nothing.
            let shorter = read(&bytes[..len], "swarm", ids.iter());
            assert!(shorter.is_none_or(|read| read.message != message));
        }
        for _ in 0..5_000 {
            let mut bytes = bytes.clone();
            for _ in 0..=rng.below(4) {
                let at = below(&mut rng, bytes.len());
                bytes[at] = u8::try_from(rng.below(256)).unwrap();
            }
            // Whatever is read is written in a form that is read again, by chitchat too.
            if let Some(Read { message, .. }) = read(&bytes, "swarm", ids.iter()) {
                let Some(again) = write(&message, &BTreeSet::new()) else { continue };
                assert_eq!(read_alone(&again).unwrap().message, message);
                assert_eq!(wire::read(&wire::write(&message)), Some(message));
            }
        }
        for _ in 0..2_000 {
            let len = below(&mut rng, 300);
            let noise: Vec<u8> =
                (0..len).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
            drop(read_alone(&noise));
        }
    }
    // Numbers and counts that promise more than there is.
    for bytes in [&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..], &[0, 9], &[]] {
        assert_eq!(read_alone(bytes), None);
    }
    assert_eq!(Reader(&[0xff; 9]).number(), None);
    assert_eq!(Reader(&[&[0xff; 9][..], &[2]].concat()).number(), None);
    assert_eq!(Reader(&[&[0xff; 9][..], &[1]].concat()).number(), Some(u64::MAX));
}

#[test]
fn a_delta_beyond_a_message_is_cut_behind_a_value() {
    let text = "x".repeat(10_000);
    let values: Vec<Value> = (1..=20).map(|version| value("k", &text, version)).collect();
    let delta = vec![section(id("a", 1), News::Values(values)), section(id("b", 1), News::Version(1))];
    let bytes = full_message(&Message::Ack { delta });
    assert!(bytes.len() <= MESSAGE_BYTES_MAX);
    let Message::Ack { delta } = read_alone(&bytes).unwrap().message else { panic!() };
    let [Section { what: News::Values(values), .. }] = &delta[..] else { panic!("{delta:?}") };
    assert_eq!(values.len(), 6);
}
