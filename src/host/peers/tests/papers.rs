//! Joining and renewing, against a manager that answers as the daemon does.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;
use crate::base::id::RequestId;
use crate::model::join_token::{JoinSecret, JoinToken};
use crate::model::node::Availability;
use crate::model::peer::{Join, Joined, ManagerAddress, Renewed};

const SECRET: JoinSecret = JoinSecret(0x1234_5678);

fn token(cluster: &Cluster, secret: JoinSecret) -> JoinToken {
    let root = cluster.authority.root().digest();
    // As a user passes it on.
    JoinToken { root, secret }.to_string().parse().unwrap()
}

fn request() -> JoinRequest {
    JoinRequest {
        request: RequestId::new(5),
        advertise: ":2377".into(),
        availability: Availability::Active,
        description: vec![1, 2],
    }
}

fn issue(cluster: &Cluster, csr: &[u8], id: NodeId) -> (Vec<u8>, Vec<Vec<u8>>) {
    let request = Request::parse(csr).unwrap();
    let validity = Validity::from_base(NOW, CERTIFICATE_LIFE);
    let certificate = cluster.authority.issue(&request, id, Role::Worker, validity).unwrap();
    (certificate, vec![cluster.authority.root().der().to_vec()])
}

/// Answers one join or renewal; gives what was asked.
async fn serve(cluster: &Cluster, listener: &Listener, id: NodeId) -> Result<Message, GreetError> {
    let mut welcomed = welcome(listener).await?;
    let question = welcomed.question().await?;
    let answer = match &question {
        Message::Join(join) if join.secret == SECRET.0 => {
            let (certificate, roots) = issue(cluster, &join.csr, id);
            let managers = vec![ManagerAddress { node: MANAGER, address: "10.0.0.1:2377".into() }];
            Message::Joined(Joined { certificate, roots, managers, gossip_keys: vec![[9; 32]] })
        }
        Message::Join(_) => Message::Refused(Refusal::WrongSecret),
        Message::Renew(csr) => {
            let (certificate, roots) = issue(cluster, csr, id);
            Message::Renewed(Renewed { certificate, roots })
        }
        other => panic!("{other:?}"),
    };
    welcomed.answer(&answer).await?;
    Ok(question)
}

/// Joins at a node of `cluster` with `token`: what the node was asked, and what came of it.
fn try_join(
    cluster: &Cluster,
    node: &Node,
    token: &JoinToken,
) -> (Result<Message, GreetError>, Result<Papers, DialError>) {
    let (listener, address) = node.listen();
    let key = NodeKey::generate().unwrap();
    both(
        serve(cluster, &listener, WORKER),
        async { join(address, token, &key, request(), NOW).await },
    )
}

#[test]
fn a_machine_with_the_token_becomes_a_node() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let (asked, papers) = try_join(&cluster, &manager, &token(&cluster, SECRET));
    let Ok(Message::Join(Join { request, advertise, description, .. })) = asked else {
        panic!("{asked:?}")
    };
    assert_eq!((request, advertise.as_str()), (RequestId::new(5), ":2377"));
    assert_eq!(description, [1, 2]);
    let papers = papers.unwrap();
    assert_eq!(papers.managers[0].node, MANAGER);
    assert_eq!(papers.gossip_keys, [[9; 32]]);
    // It is a member at once.
    let worker = Node::new(papers.credentials);
    assert_eq!(worker.endpoint.node(), WORKER);
    assert_eq!(refusal(&manager, &worker, Call::Session), None);
}

#[test]
fn papers_of_another_cluster_are_not_taken() {
    let (cluster, other) = (Cluster::new(7), Cluster::new(8));
    let manager = cluster.node(MANAGER, Role::Manager);
    let (listener, address) = manager.listen();
    let key = NodeKey::generate().unwrap();
    let token = token(&cluster, SECRET);
    let (_, papers) = both(
        serve(&other, &listener, WORKER),
        async { join(address, &token, &key, request(), NOW).await },
    );
    assert!(matches!(papers, Err(DialError::Pki { .. })), "{papers:?}");
}

#[test]
fn an_old_secret_is_refused_in_words() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let (_, papers) = try_join(&cluster, &manager, &token(&cluster, JoinSecret(1)));
    let err = papers.unwrap_err();
    assert!(matches!(err, DialError::Refused { refusal: Refusal::WrongSecret, .. }), "{err:?}");
    assert!(err.to_string().contains("is not valid any more"), "{err}");
}

#[test]
fn the_secret_is_not_told_to_another_cluster() {
    let (ours, theirs) = (Cluster::new(7), Cluster::new(8));
    let manager = theirs.node(MANAGER, Role::Manager);
    let (asked, papers) = try_join(&theirs, &manager, &token(&ours, SECRET));
    // Not even a greeting came.
    assert!(matches!(asked, Err(GreetError::Tls(_))), "{asked:?}");
    let err = papers.unwrap_err();
    assert!(matches!(err, DialError::OtherRoot { .. }), "{err:?}");

    // Nor to one that shows the right root and does not hang on it.
    let own = manager.credentials;
    let forged = own.with_roots(vec![own.roots()[0].clone(), ours.authority.root().clone()]);
    let impostor = Node::new(own);
    impostor.endpoint.replace(&forged).unwrap();
    let (asked, papers) = try_join(&theirs, &impostor, &token(&ours, SECRET));
    assert!(matches!(asked, Err(GreetError::Tls(_))), "{asked:?}");
    let err = papers.unwrap_err();
    assert!(matches!(err, DialError::OtherRoot { .. }), "{err:?}");
}

#[test]
fn the_secret_is_not_told_to_a_worker() {
    let cluster = Cluster::new(7);
    let worker = cluster.node(OTHER_MANAGER, Role::Worker);
    let (asked, papers) = try_join(&cluster, &worker, &token(&cluster, SECRET));
    assert!(matches!(asked, Err(GreetError::Connection(_))), "{asked:?}");
    let err = papers.unwrap_err();
    assert!(matches!(err, DialError::NotAManager { node: OTHER_MANAGER, .. }), "{err:?}");
}

#[test]
fn what_is_no_manager_is_told_so() {
    let cluster = Cluster::new(7);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let key = NodeKey::generate().unwrap();
    let token = token(&cluster, SECRET);
    let try_join = || smol::block_on(join(address, &token, &key, request(), NOW)).unwrap_err();
    // A web server.
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut heard = [0; 512];
        assert!(socket.read(&mut heard).unwrap() > 0);
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let err = try_join();
    assert!(matches!(err, DialError::NotANode { .. }), "{err:?}");
    server.join().unwrap();
    // Nobody.
    let err = try_join();
    assert!(matches!(err, DialError::Connect { .. }), "{err:?}");
}

#[test]
fn a_manager_that_is_silent_is_given_up() {
    let cluster = Cluster::new(7);
    // The kernel takes the connection, nobody accepts it.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let key = NodeKey::generate().unwrap();
    let token = token(&cluster, SECRET);
    let err = smol::block_on(join(address, &token, &key, request(), NOW)).unwrap_err();
    assert!(matches!(err, DialError::Silent { .. }), "{err:?}");
}

#[test]
fn a_joining_board_and_its_manager_may_be_in_1970() {
    let cluster = Cluster::new(7);
    let manager = Node::new(cluster.credentials(MANAGER, Role::Manager, BUILD));
    manager.set_clock(0);
    let (_, papers) = try_join(&cluster, &manager, &token(&cluster, SECRET));
    let worker = Node::new(papers.unwrap().credentials);
    worker.set_clock(0);
    assert_eq!(refusal(&manager, &worker, Call::Session), None);
}

#[test]
fn a_board_out_of_a_drawer_renews() {
    let cluster = Cluster::new(7);
    let manager = cluster.node(MANAGER, Role::Manager);
    let worker = Node::new(cluster.credentials(WORKER, Role::Worker, Wall(NOW.0 - 120 * DAY)));
    assert_eq!(refusal(&manager, &worker, Call::Session), Some(Refusal::Expired));
    let (listener, address) = manager.listen();
    let renew_as = |id| {
        let key = NodeKey::generate().unwrap();
        both(serve(&cluster, &listener, id), async {
            renew(&worker.endpoint, address, Expected::AnyManager, &key, NOW).await
        })
    };
    let (asked, renewed) = renew_as(WORKER);
    assert!(matches!(asked, Ok(Message::Renew(_))), "{asked:?}");
    worker.endpoint.replace(&renewed.unwrap()).unwrap();
    assert_eq!(refusal(&manager, &worker, Call::Session), None);
    // A certificate of another node is not taken.
    let (_, renewed) = renew_as(OTHER_MANAGER);
    assert!(matches!(renewed, Err(DialError::Pki { .. })), "{renewed:?}");
}
