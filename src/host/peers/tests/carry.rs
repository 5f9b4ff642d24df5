//! What connections carry: in order, whole, with an end to every wait.

use super::*;
use crate::model::peer::MEMBER_BYTES_MAX;

/// A call between two managers that has begun.
fn between(kind: Call) -> (Welcomed, Dialled) {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let other = cluster.node(OTHER_MANAGER, Role::Manager);
    let (welcomed, dialled) = call(&manager, &other, Expected::Node(MANAGER), kind);
    (welcomed.unwrap(), dialled.unwrap())
}

#[test]
fn the_largest_message_comes_whole_and_after_it_the_next() {
    let (mut welcomed, mut dialled) = between(Call::Raft);
    let large = Message::Raft((0..=250).cycle().take(MEMBER_BYTES_MAX).collect());
    let small = Message::Ping(1);
    both(
        async {
            dialled.connection.sender.queue(&large).unwrap();
            dialled.connection.sender.send(&small).await.unwrap();
        },
        async {
            let receiver = &mut welcomed.connection.receiver;
            assert!(receiver.receive().await.unwrap() == large);
            assert_eq!(receiver.receive().await.unwrap(), small);
        },
    );
    // What is too long is said here, and the connection is still good.
    let long = Message::Raft(vec![0; MEMBER_BYTES_MAX + 1]);
    let (said, heard) = both(
        async {
            let said = dialled.connection.sender.send(&long).await;
            dialled.connection.sender.send(&small).await.unwrap();
            said
        },
        welcomed.connection.receiver.receive(),
    );
    assert!(matches!(said, Err(ConnectionError::Wire(_))), "{said:?}");
    assert_eq!(heard.unwrap(), small);
}

#[test]
fn waiting_may_be_given_up_in_the_middle_of_a_message() {
    let (mut welcomed, mut dialled) = between(Call::Raft);
    // More than the kernel holds of it, so that some messages come in parts.
    let large = |fill| Message::Raft(vec![fill; MEMBER_BYTES_MAX]);
    both(
        async {
            for fill in 0..8 {
                dialled.connection.sender.send(&large(fill)).await.unwrap();
            }
        },
        async {
            let receiver = &mut welcomed.connection.receiver;
            let (mut fill, mut given_up) = (0, 0);
            while fill < 8 {
                let heard = async { Some(receiver.receive().await) };
                // Given up whenever it would wait.
                match smol::future::or(heard, async { None }).await {
                    Some(heard) => {
                        assert!(heard.unwrap() == large(fill));
                        fill += 1;
                    }
                    None => {
                        given_up += 1;
                        smol::future::yield_now().await;
                    }
                }
            }
            assert!(given_up > 0);
        },
    );
}

#[test]
fn a_silent_peer_and_one_that_is_gone_are_noticed() {
    let (mut welcomed, dialled) = between(Call::Raft);
    let brief = Duration::from_millis(20);
    let heard = smol::block_on(welcomed.connection.receiver.receive_within(brief));
    assert!(matches!(heard, Err(ConnectionError::Silent(_))), "{heard:?}");
    drop(dialled);
    let heard = smol::block_on(welcomed.connection.receiver.receive());
    assert!(matches!(heard, Err(ConnectionError::Closed)), "{heard:?}");
}

#[test]
fn an_outbox_is_bounded_by_messages_and_by_bytes() {
    let (outbox, drain) = Outbox::new();
    let small = Message::Raft(vec![1]);
    assert_eq!((0..2_000).filter(|_| outbox.push(&small)).count(), OUTBOX_FRAMES_MAX);
    drain.clear();
    let large = Message::Raft(vec![0; MEMBER_BYTES_MAX]);
    let fit = OUTBOX_BYTES_MAX / MEMBER_BYTES_MAX - 1;
    assert_eq!((0..100).filter(|_| outbox.push(&large)).count(), fit);
    // What was dropped does not count.
    assert!(outbox.push(&small));
    assert!(!outbox.push(&Message::Raft(vec![0; MEMBER_BYTES_MAX + 1])));
    drain.clear();
    assert_eq!((0..100).filter(|_| outbox.push(&large)).count(), fit);
    drain.clear();
    drop(drain);
    assert!(!outbox.push(&small));
}

#[test]
fn consensus_is_carried_in_order_until_the_other_end_is_gone() {
    let (mut welcomed, dialled) = between(Call::Raft);
    let (outbox, drain) = Outbox::new();
    for number in 0..200u8 {
        assert!(outbox.push(&Message::Raft(vec![number])));
    }
    let (ended, ()) = both(
        dialled.connection.carry(&drain, |heard| panic!("{heard:?}")),
        async {
            for number in 0..200u8 {
                let heard = welcomed.connection.receiver.receive().await.unwrap();
                assert_eq!(heard, Message::Raft(vec![number]));
            }
            // Idle: somebody is there all the same.
            let heard = welcomed.connection.receiver.receive().await.unwrap();
            assert_eq!(heard, Message::Ping(1));
            drop(welcomed);
        },
    );
    assert!(matches!(ended, Err(ConnectionError::Closed)), "{ended:?}");
}

#[test]
fn a_session_tells_both_ends_of_each_other_and_ends_in_order() {
    let (welcomed, dialled) = between(Call::Session);
    let ((down, leaders_drain), (up, workers_drain)) = (Outbox::new(), Outbox::new());
    let report = Message::Report(vec![2]);
    assert!(down.push(&Message::Assign(vec![1])) && up.push(&report));
    let (mut at_leader, mut at_worker) = (Vec::new(), Vec::new());
    let mut down = Some(down);
    let (leaders_end, workers_end) = both(
        welcomed.connection.carry(&leaders_drain, |heard| {
            // After the second answer the leader ends the session.
            if heard == Message::Pong(2) {
                assert!(down.take().is_some_and(|it| it.push(&Message::Assign(vec![3]))));
            }
            at_leader.push(heard);
        }),
        dialled.connection.carry(&workers_drain, |heard| at_worker.push(heard)),
    );
    assert!(leaders_end.is_ok(), "{leaders_end:?}");
    assert!(matches!(workers_end, Err(ConnectionError::Closed)), "{workers_end:?}");
    assert_eq!(at_leader, [report, Message::Pong(1), Message::Pong(2)]);
    let [first, last] = [1, 3].map(|number| Message::Assign(vec![number]));
    // What was pushed before the end is told.
    assert_eq!(at_worker, [first, Message::Ping(1), Message::Ping(2), last]);
}

#[test]
fn commands_are_answered_over_kept_connections() {
    let cluster = Cluster::new(7);
    let leader = cluster.node(MANAGER, Role::Manager);
    let follower = cluster.node(OTHER_MANAGER, Role::Manager);
    let (listener, address) = leader.listen();
    let forwarder = Forwarder::new(follower.endpoint.clone());
    let second = Duration::from_secs(10);
    let forward = async |text: &str| {
        forwarder.call(MANAGER, address, text.as_bytes().to_vec(), second).await
    };
    let answer = async |welcomed: &mut Welcomed| {
        let heard = welcomed.connection.receiver.receive_within(FORWARD_IDLE_MAX).await.unwrap();
        let Message::Forward(command) = heard else { panic!("{heard:?}") };
        let reply = Message::Forwarded([&command[..], b"!"].concat());
        welcomed.connection.sender.send(&reply).await.unwrap();
    };
    let (mut welcomed, first) = both(
        async {
            let mut welcomed = welcome(&listener).await.unwrap();
            answer(&mut welcomed).await;
            welcomed
        },
        forward("a"),
    );
    assert_eq!(first.unwrap(), b"a!");
    // The same connection again: nothing else is accepted.
    let ((), next) = both(answer(&mut welcomed), forward("b"));
    assert_eq!(next.unwrap(), b"b!");
    // It was closed meanwhile: a new one.
    drop(welcomed);
    let (_, last) = both(
        async {
            let mut welcomed = welcome(&listener).await.unwrap();
            answer(&mut welcomed).await;
            welcomed
        },
        forward("c"),
    );
    assert_eq!(last.unwrap(), b"c!");
}

#[test]
fn a_command_without_an_answer_fails_at_its_deadline() {
    let cluster = Cluster::new(7);
    let leader = cluster.node(MANAGER, Role::Manager);
    let follower = cluster.node(OTHER_MANAGER, Role::Manager);
    let (listener, address) = leader.listen();
    let forwarder = Forwarder::new(follower.endpoint.clone());
    let (mut welcomed, answered) = both(
        async {
            let mut welcomed = welcome(&listener).await.unwrap();
            welcomed.connection.receiver.receive().await.unwrap();
            welcomed.connection.sender.send(&Message::Forwarded(vec![])).await.unwrap();
            welcomed
        },
        forwarder.call(MANAGER, address, vec![1], Duration::from_secs(10)),
    );
    assert!(answered.is_ok());
    let (heard, failed) = both(
        welcomed.connection.receiver.receive(),
        forwarder.call(MANAGER, address, vec![2], Duration::from_millis(300)),
    );
    assert_eq!(heard.unwrap(), Message::Forward(vec![2]));
    assert!(matches!(failed, Err(ForwardError::Late)), "{failed:?}");
    // Who is not the leader says so.
    let leads = || crate::model::peer::ManagerAddress { node: WORKER, address: "a:1".into() };
    let (_, failed) = both(
        async {
            let accepted = greet(&listener).await.unwrap();
            accepted.refuse(Refusal::NotLeader { leader: Some(leads()) }).await;
        },
        forwarder.call(MANAGER, address, vec![1], Duration::from_secs(10)),
    );
    let Err(ForwardError::Dial(DialError::Refused { refusal, .. })) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(refusal, Refusal::NotLeader { leader: Some(leads()) });
}

#[test]
fn a_command_goes_to_the_leader_of_now() {
    let cluster = Cluster::new(7);
    let follower = cluster.node(OTHER_MANAGER, Role::Manager);
    let forwarder = Forwarder::new(follower.endpoint.clone());
    for leader in [MANAGER, NodeId::new(9)] {
        let node = cluster.node(leader, Role::Manager);
        let (listener, address) = node.listen();
        // Kept open: the next command could go there.
        let (heard, answer) = both(
            async {
                let mut welcomed = welcome(&listener).await.unwrap();
                let heard = welcomed.connection.receiver.receive().await.unwrap();
                let reply = Message::Forwarded(vec![2]);
                welcomed.connection.sender.send(&reply).await.unwrap();
                std::mem::forget(welcomed);
                heard
            },
            forwarder.call(leader, address, vec![1], Duration::from_secs(10)),
        );
        assert_eq!((heard, answer.unwrap()), (Message::Forward(vec![1]), vec![2]));
    }
}
