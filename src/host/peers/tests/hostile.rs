//! Peers that prove nothing, say too much, or say nothing.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use smol::io::AsyncWriteExt;

use super::*;
use crate::host::peers::dial::ClientStream;
use crate::host::peers::tls::{self, ANY_NAME, Accept};
use crate::model::peer::{Hello, MEMBER_BYTES_MAX};
use crate::model::wire::{self, Kind, WireError};

/// TLS to a manager of `cluster`, with a certificate or without one, and nothing said yet.
async fn raw(cluster: &Cluster, own: Option<&Node>, address: SocketAddr) -> ClientStream {
    let accept = Accept::Pinned(cluster.authority.root().digest());
    let config = tls::client(accept, own.map(|node| &node.credentials)).unwrap();
    dial::tls(address, Arc::new(config), ANY_NAME.to_owned()).await.unwrap()
}

fn bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_into(&mut bytes).unwrap();
    bytes
}

/// What a manager makes of `said` by somebody with the certificate of `own`.
fn greeted(own: Option<Role>, said: &[u8]) -> Result<Accepted, GreetError> {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let own = own.map(|role| cluster.node(WORKER, role));
    let (listener, address) = manager.listen();
    let (greeted, _stream) = both(greet(&listener), async {
        let mut stream = raw(&cluster, own.as_ref(), address).await;
        stream.write_all(said).await.unwrap();
        stream.flush().await.unwrap();
        stream
    });
    greeted
}

#[test]
fn nobody_without_a_certificate_may_do_more_than_join() {
    let hello = |call| bytes(&Message::Hello(Hello::new(call)));
    assert_eq!(greeted(None, &hello(Call::Join)).unwrap().call, Call::Join);
    for call in [Call::Renew, Call::Raft, Call::Session, Call::Forward] {
        let result = greeted(None, &hello(call));
        let needed = matches!(result, Err(GreetError::Refused(Refusal::CertificateNeeded)));
        assert!(needed, "{call:?} {result:?}");
    }
}

#[test]
fn other_releases_are_told_which_versions_there_are() {
    let newer = Hello { oldest: 2, newest: 3, call: Call::Session.number() };
    let result = greeted(Some(Role::Worker), &bytes(&Message::Hello(newer)));
    assert!(matches!(
        result,
        Err(GreetError::Refused(Refusal::Version { oldest: 1, newest: 1 }))
    ));
    let both_ways = Hello { oldest: 0, newest: 3, call: Call::Session.number() };
    let result = greeted(Some(Role::Worker), &bytes(&Message::Hello(both_ways)));
    assert_eq!(result.unwrap().version(), 1);
    let unknown = Hello { call: 99, ..both_ways };
    let result = greeted(Some(Role::Worker), &bytes(&Message::Hello(unknown)));
    assert!(matches!(result, Err(GreetError::Refused(Refusal::NoSuchCall))));
}

#[test]
fn only_a_greeting_begins_a_connection() {
    let raft = bytes(&Message::Raft(vec![1]));
    let result = greeted(Some(Role::Manager), &raft);
    assert!(matches!(
        result,
        Err(GreetError::Connection(ConnectionError::Unexpected(Kind::PEER_RAFT)))
    ));
    let mut long = bytes(&Message::Hello(Hello::new(Call::Join)));
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let result = greeted(None, &long);
    let wire = matches!(
        result,
        Err(GreetError::Connection(ConnectionError::Wire(WireError::TooLong { .. })))
    );
    assert!(wire, "{result:?}");
    let mut shapeless = Vec::new();
    wire::encode_raw_into(Kind::PEER_HELLO, 1, &[0xff], 9, &mut shapeless).unwrap();
    let result = greeted(None, &shapeless);
    assert!(matches!(result, Err(GreetError::Connection(ConnectionError::Wire(_)))));
}

#[test]
fn what_is_too_long_or_of_another_call_ends_a_members_connection() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let other = cluster.node(OTHER_MANAGER, Role::Manager);
    let head = |kind: Kind, length: usize| {
        let length = u32::try_from(length).unwrap().to_le_bytes();
        [&kind.0.to_le_bytes()[..], &1u16.to_le_bytes(), &length].concat()
    };
    for (said, too_long) in [
        (head(Kind::PEER_RAFT, MEMBER_BYTES_MAX + 1), true),
        (head(Kind::PEER_PING, 5_000), true),
        (head(Kind::PEER_FORWARD, 1), false),
        (head(Kind::PEER_JOIN, 1), false),
        (head(Kind(999), 1), false),
    ] {
        let (listener, address) = manager.listen();
        let hello = bytes(&Message::Hello(Hello::new(Call::Raft)));
        let (heard, _stream) = both(
            async {
                let mut welcomed = welcome(&listener).await.unwrap();
                welcomed.connection.receiver.receive().await
            },
            async {
                let mut stream = raw(&cluster, Some(&other), address).await;
                stream.write_all(&[hello, said].concat()).await.unwrap();
                stream.flush().await.unwrap();
                stream
            },
        );
        match heard {
            Err(ConnectionError::Wire(WireError::TooLong { .. })) => assert!(too_long),
            Err(ConnectionError::Unexpected(_)) => assert!(!too_long),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_no_tls_is_closed() {
    let manager = Cluster::new(7).node(MANAGER, Role::Manager);
    let (listener, address) = manager.listen();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0x16, 3, 1, 0xff, 0xff, 1, 2]] {
        let garbage = garbage.to_vec();
        let peer = thread::spawn(move || {
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(&garbage).unwrap();
        });
        let result = smol::block_on(greet(&listener));
        assert!(matches!(result, Err(GreetError::Tls(_))), "{result:?}");
        peer.join().unwrap();
    }
}

#[test]
fn who_stops_half_way_is_given_up_and_holds_up_nobody() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = cluster.node(WORKER, Role::Worker);
    let (listener, address) = manager.listen();
    let before = TcpStream::connect(address).unwrap();
    smol::block_on(async {
        let no_tls = listener.accept().await.greet();
        let no_hello = async {
            // At a listener of its own, so that it is known which connection is whose.
            let (listener, address) = manager.listen();
            let raw = raw(&cluster, None, address);
            let (greeted, _stream) = Box::pin(smol::future::zip(greet(&listener), raw)).await;
            greeted
        };
        let third = async {
            let dial = worker.endpoint.dial(address, Expected::AnyManager, Call::Session);
            Box::pin(smol::future::zip(welcome(&listener), dial)).await
        };
        // The third comes while the others are waited for.
        let ((no_tls, no_hello), (welcomed, dialled)) =
            smol::future::zip(smol::future::zip(no_tls, no_hello), third).await;
        assert!(matches!(no_tls, Err(GreetError::Slow)), "{no_tls:?}");
        let silent = matches!(no_hello, Err(GreetError::Connection(ConnectionError::Silent(_))));
        assert!(silent, "{no_hello:?}");
        assert!(welcomed.is_ok() && dialled.is_ok());
    });
    drop(before);
}

#[test]
fn who_joins_byte_by_byte_is_given_up() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let (listener, address) = manager.listen();
    let hello = bytes(&Message::Hello(Hello::new(Call::Join)));
    let (heard, ()) = both(
        async {
            let mut welcomed = welcome(&listener).await.unwrap();
            let limit = Duration::from_millis(200);
            welcomed.connection.receiver.receive_within(limit).await
        },
        async {
            let mut stream = raw(&cluster, None, address).await;
            stream.write_all(&hello).await.unwrap();
            let head = [&Kind::PEER_JOIN.0.to_le_bytes()[..], &[1, 0, 0, 4, 0, 0]].concat();
            for byte in head.into_iter().chain([0; 100]) {
                // Never silent for long; that the other end has closed is no matter.
                Timer::after(Duration::from_millis(10)).await;
                let said = async {
                    stream.write_all(&[byte]).await?;
                    stream.flush().await
                };
                if said.await.is_err() {
                    break;
                }
            }
        },
    );
    assert!(matches!(heard, Err(ConnectionError::Silent(_))), "{heard:?}");
}

#[test]
fn a_node_cannot_take_all_connections() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = cluster.node(WORKER, Role::Worker);
    let (listener, address) = manager.listen();
    let mut held = Vec::new();
    let refused = loop {
        let dial = worker.endpoint.dial(address, Expected::AnyManager, Call::Session);
        match both(welcome(&listener), dial) {
            (Ok(welcomed), Ok(dialled)) => held.push((welcomed, dialled)),
            (Err(err), Err(DialError::Refused { refusal: Refusal::Busy(_), .. })) => break err,
            other => panic!("{other:?}"),
        }
        assert!(held.len() <= 16, "no limit");
    };
    assert!(matches!(refused, GreetError::Full), "{refused:?}");
    assert_eq!(held.len(), 16);
    // Another node is not touched, and a seat is free again with its connection.
    let other = cluster.node(OTHER_MANAGER, Role::Manager);
    let dial = other.endpoint.dial(address, Expected::AnyManager, Call::Session);
    assert!(both(welcome(&listener), dial).0.is_ok());
    held.pop();
    let dial = worker.endpoint.dial(address, Expected::AnyManager, Call::Session);
    assert!(both(welcome(&listener), dial).0.is_ok());
}
