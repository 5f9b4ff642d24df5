//! What a certificate proves, in any state of the clocks.

use super::*;
use crate::model::validity::Standing;

#[test]
fn a_certificate_says_who_calls_and_who_answers() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = cluster.node(WORKER, Role::Worker);
    let (listener, address) = manager.listen();
    let expected = Expected::Node(MANAGER);
    let (accepted, dialled) = both(
        async {
            let accepted = greet(&listener).await.unwrap();
            let told = (accepted.call, accepted.caller, accepted.version());
            (accepted.welcome().await.unwrap(), told)
        },
        worker.endpoint.dial(address, expected, Call::Session),
    );
    let (mut welcomed, (kind, caller, version)) = accepted;
    let mut dialled = dialled.unwrap();
    let caller = caller.unwrap();
    assert_eq!((kind, version), (Call::Session, 1));
    assert_eq!(caller.identity, worker.credentials.verified().identity);
    assert_eq!((caller.standing, caller.removed), (Standing::Current, false));
    assert_eq!(dialled.answerer.identity, manager.credentials.verified().identity);

    let ping = Message::Ping(4);
    let (sent, heard) =
        both(welcomed.connection.sender.send(&ping), dialled.connection.receiver.receive());
    assert!(sent.is_ok());
    assert_eq!(heard.unwrap(), ping);
}

#[test]
fn a_workers_certificate_is_no_managers() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = cluster.node(WORKER, Role::Worker);
    for kind in [Call::Raft, Call::Forward] {
        assert_eq!(refusal(&manager, &worker, kind), Some(Refusal::ManagerNeeded));
        assert_eq!(refusal(&manager, &cluster.node(OTHER_MANAGER, Role::Manager), kind), None);
    }
    for kind in [Call::Session, Call::Renew] {
        assert_eq!(refusal(&manager, &worker, kind), None);
    }
    // And nobody takes a worker for a manager.
    let (_, dialled) = call(&worker, &manager, Expected::Node(WORKER), Call::Raft);
    assert!(matches!(dialled, Err(DialError::NotAManager { node: WORKER, .. })), "{dialled:?}");
}

#[test]
fn an_address_is_no_identity() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let other = cluster.node(OTHER_MANAGER, Role::Manager);
    let (_, dialled) = call(&other, &manager, Expected::Node(WORKER), Call::Raft);
    let Err(err @ DialError::OtherNode { found: OTHER_MANAGER, expected: WORKER, .. }) = dialled
    else {
        panic!("{dialled:?}")
    };
    assert!(err.to_string().contains(&OTHER_MANAGER.to_string()));
}

#[test]
fn another_clusters_nodes_are_told_apart_on_both_ends() {
    // The same ids, another root.
    let (ours, theirs) = (Cluster::new(7), Cluster::new(7));
    let manager = ours.node(MANAGER, Role::Manager);
    let stranger = theirs.node(OTHER_MANAGER, Role::Manager);
    let (greeted, dialled) = call(&manager, &stranger, Expected::AnyManager, Call::Session);
    assert!(matches!(greeted, Err(GreetError::Tls(_))), "{greeted:?}");
    assert!(matches!(dialled, Err(DialError::OtherCluster { .. })), "{dialled:?}");

    // It believes us, as one whose cluster's root was rotated away does: we do not believe it.
    let trusting = theirs.node(OTHER_MANAGER, Role::Manager);
    let root = ours.authority.root().clone();
    trusting.endpoint.trust().set_roots(vec![root]).unwrap();
    let (greeted, dialled) = call(&manager, &trusting, Expected::AnyManager, Call::Session);
    assert!(matches!(greeted, Err(GreetError::Tls(_))), "{greeted:?}");
    assert!(matches!(dialled, Err(DialError::OtherCluster { .. })), "{dialled:?}");
}

#[test]
fn a_root_is_replaced_while_all_go_on() {
    let (old, new) = (Cluster::new(7), Cluster::new(7));
    let manager = old.node(MANAGER, Role::Manager);
    let worker = old.node(WORKER, Role::Worker);
    let roots = || vec![new.authority.root().clone(), old.authority.root().clone()];
    let session = || refusal(&manager, &worker, Call::Session);
    manager.endpoint.trust().set_roots(roots()).unwrap();
    worker.endpoint.trust().set_roots(roots()).unwrap();
    assert_eq!(session(), None);
    manager.endpoint.replace(&new.credentials(MANAGER, Role::Manager, NOW)).unwrap();
    assert_eq!(session(), None);
    worker.endpoint.replace(&new.credentials(WORKER, Role::Worker, NOW)).unwrap();
    assert_eq!(session(), None);
    let root = new.authority.root();
    for node in [&manager, &worker] {
        node.endpoint.trust().set_roots(vec![root.clone()]).unwrap();
    }
    assert_eq!(session(), None);
    // Whoever missed it is out.
    let late = old.node(WORKER, Role::Worker);
    late.endpoint.trust().set_roots(roots()).unwrap();
    let (_, dialled) = call(&manager, &late, Expected::AnyManager, Call::Session);
    assert!(matches!(dialled, Err(DialError::OtherCluster { .. })), "{dialled:?}");
}

#[test]
fn a_removed_node_is_told_so_and_heard_no_more() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = cluster.node(WORKER, Role::Worker);
    let (welcomed, dialled) = call(&manager, &worker, Expected::AnyManager, Call::Session);
    let (mut welcomed, mut dialled) = (welcomed.unwrap(), dialled.unwrap());
    manager.endpoint.trust().set_removed([WORKER].into());
    let report = Message::Report(vec![1]);
    let (sent, heard) = both(
        dialled.connection.sender.send(&report),
        welcomed.connection.receiver.receive(),
    );
    assert!(sent.is_ok());
    assert!(matches!(heard, Err(ConnectionError::Refused(Refusal::Removed))), "{heard:?}");
    for kind in [Call::Session, Call::Renew] {
        assert_eq!(refusal(&manager, &worker, kind), Some(Refusal::Removed));
    }
    // And a node calls no manager that was.
    worker.endpoint.trust().set_removed([MANAGER].into());
    let (_, dialled) = call(&manager, &worker, Expected::AnyManager, Call::Session);
    assert!(matches!(dialled, Err(DialError::Removed { node: MANAGER, .. })), "{dialled:?}");
}

#[test]
fn a_demoted_manager_is_heard_as_a_worker_although_its_certificate_says_more() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let other = cluster.node(OTHER_MANAGER, Role::Manager);
    let (welcomed, dialled) = call(&manager, &other, Expected::AnyManager, Call::Raft);
    let (mut welcomed, mut dialled) = (welcomed.unwrap(), dialled.unwrap());
    // By a store that does not know yet that it has become a manager, it is not refused.
    let workers = |since| [(OTHER_MANAGER, Wall(since))].into();
    manager.endpoint.trust().set_workers(workers(NOW.0 - DAY));
    assert_eq!(refusal(&manager, &other, Call::Raft), None);
    manager.endpoint.trust().set_workers(workers(NOW.0));
    let said = Message::Raft(vec![1]);
    let (sent, heard) =
        both(dialled.connection.sender.send(&said), welcomed.connection.receiver.receive());
    assert!(sent.is_ok());
    let refused = matches!(heard, Err(ConnectionError::Refused(Refusal::ManagerNeeded)));
    assert!(refused, "{heard:?}");
    for (kind, refused) in [
        (Call::Raft, Some(Refusal::ManagerNeeded)),
        (Call::Forward, Some(Refusal::ManagerNeeded)),
        (Call::Session, None),
        (Call::Renew, None),
    ] {
        assert_eq!(refusal(&manager, &other, kind), refused);
    }
    // With its next certificate it is what that says.
    let next = cluster.credentials(OTHER_MANAGER, Role::Manager, Wall(NOW.0 + DAY));
    other.endpoint.replace(&next).unwrap();
    assert_eq!(refusal(&manager, &other, Call::Raft), None);
}

#[test]
fn managers_that_were_all_off_for_long_talk_with_each_other() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let other = cluster.node(OTHER_MANAGER, Role::Manager);
    manager.set_clock(NOW.0 + 120 * DAY);
    for kind in [Call::Raft, Call::Session, Call::Renew] {
        assert_eq!(refusal(&manager, &other, kind), None);
    }
}

#[test]
fn a_resumed_session_proves_no_more_than_its_certificate() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = cluster.node(WORKER, Role::Worker);
    let (listener, address) = manager.listen();
    let dial = || {
        let (welcomed, dialled) = both(
            async {
                let incoming = listener.accept().await;
                incoming.greet().await?.welcome().await.map_err(GreetError::from)
            },
            worker.endpoint.dial(address, Expected::AnyManager, Call::Session),
        );
        (welcomed.map(|_welcomed| ()), dialled.map(|it| it.connection.is_resumed()))
    };
    assert!(matches!(dial(), (Ok(()), Ok(false))));
    assert!(matches!(dial(), (Ok(()), Ok(true))));
    manager.set_clock(NOW.0 + 120 * DAY);
    let (greeted, dialled) = dial();
    assert!(matches!(greeted, Err(GreetError::Refused(Refusal::Expired))), "{greeted:?}");
    assert!(matches!(dialled, Err(DialError::Refused { refusal: Refusal::Expired, .. })));
    // A new certificate begins new sessions: an old one would bring the old certificate along.
    let base = Wall(NOW.0 + 120 * DAY);
    worker.endpoint.replace(&cluster.credentials(WORKER, Role::Worker, base)).unwrap();
    assert!(matches!(dial(), (Ok(()), Ok(false))));
    manager.endpoint.trust().set_removed([WORKER].into());
    assert!(matches!(dial(), (Err(GreetError::Refused(Refusal::Removed)), Err(_))));
}

#[test]
fn an_expired_certificate_may_renew_and_nothing_else() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = cluster.node(WORKER, Role::Worker);
    let drawer = NOW.0 + 120 * DAY;
    manager.set_clock(drawer);
    worker.set_clock(drawer);
    assert_eq!(refusal(&manager, &worker, Call::Session), Some(Refusal::Expired));
    assert_eq!(refusal(&manager, &worker, Call::Renew), None);
    let base = Wall(drawer);
    worker.endpoint.replace(&cluster.credentials(WORKER, Role::Worker, base)).unwrap();
    assert_eq!(refusal(&manager, &worker, Call::Session), None);
}

#[test]
fn clocks_in_1970_and_14_years_ahead_keep_nobody_out() {
    let cluster = Cluster::new(7);
    let ahead = NOW.0 + 14 * YEAR;
    for (manager_clock, worker_clock, base, expected) in [
        (0, 0, BUILD, None),
        (0, NOW.0, BUILD, None),
        (NOW.0, 0, NOW, None),
        // Four months later on boards without a clock.
        (0, 0, Wall(0), None),
        // The caller is ahead: that the answerer's certificate looks old is no matter.
        (NOW.0, ahead, NOW, None),
        // The answerer is ahead: whoever calls renews, and is in.
        (ahead, NOW.0, NOW, Some(Refusal::Expired)),
        (ahead, NOW.0, Wall(ahead), None),
        // And back: what was issued then begins in the future.
        (NOW.0, NOW.0, Wall(ahead), None),
    ] {
        let manager = Node::new(cluster.credentials(MANAGER, Role::Manager, base));
        let worker = Node::new(cluster.credentials(WORKER, Role::Worker, base));
        manager.set_clock(manager_clock);
        worker.set_clock(worker_clock);
        let found = refusal(&manager, &worker, Call::Session);
        assert_eq!(found, expected, "{manager_clock} {worker_clock} {base:?}");
        assert_eq!(refusal(&manager, &worker, Call::Renew), None);
    }
}
