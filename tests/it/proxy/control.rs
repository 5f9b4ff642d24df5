//! The control socket: errors the user sees, a daemon that comes back, a binary that is replaced,
//! and what hostile packets do.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use skep::host::dataplane::DataplaneError;
use skep::host::seqpacket::{Channel, ControlError, Deadline};
use skep::model::control::parts::changes;
use skep::model::control::{Message, PortFault, Reason, Shutdown};

use super::*;

#[test]
fn a_port_that_another_program_holds_is_told_and_opened_when_it_is_free() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        let held = TcpListener::bind("0.0.0.0:80").unwrap();
        let elsewhere = ListenKey { ip: Some("198.51.100.1".parse().unwrap()), ..tcp(81) };
        let routes: &[(ListenKey, &[SocketAddr])] =
            &[(tcp(80), &[server]), (elsewhere, &[server]), (tcp(82), &[server])];
        let applied = world.try_routes(routes);
        let faults: Vec<(ListenKey, PortFault)> =
            applied.errors.iter().map(|e| (e.key, e.fault)).collect();
        assert_eq!(faults, [(tcp(80), PortFault::InUse), (elsewhere, PortFault::NoSuchAddress)]);
        assert_eq!(
            applied.errors[0].to_string(),
            "port 80/tcp is already in use by another program; stop it or publish another port"
        );
        assert_eq!(name_at("127.0.0.1:82").unwrap(), "one");
        assert_eq!(world.try_routes(routes).errors.len(), 2, "told again with each table");
        drop(held);
        // A child that another test has just forked holds the socket until it execs.
        eventually("the port is free", || world.try_routes(routes).errors.len() == 1);
        assert_eq!(name_at("127.0.0.1:80").unwrap(), "one");
    });
}

#[test]
fn a_daemon_that_comes_back_finds_its_proxy_and_touches_nothing() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let pid = world.pid();
        let mut open = connect("127.0.0.1:80");
        assert_eq!(read_name(&mut open, 3).unwrap(), "one");
        world.plane = None;
        assert_eq!(name_at("127.0.0.1:80").unwrap(), "one", "it serves while nobody is there");
        world.plane = Some(Dataplane::connect_or_spawn(world.config("build-1")).unwrap());
        assert_eq!(world.pid(), pid);
        world.routes(&[(tcp(80), &[server]), (tcp(81), &[server])]);
        assert_eq!(name_at("127.0.0.1:81").unwrap(), "one");
        open.write_all(b"yes").unwrap();
        assert_eq!(read_name(&mut open, 3).unwrap(), "yes");
        assert_eq!(world.plane().stats().unwrap().routes[0].total, 2, "the listener is the same");
    });
}

#[test]
fn a_proxy_that_died_is_replaced_and_gets_the_routes() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let pid = world.pid();
        let target = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(target, nix::sys::signal::Signal::SIGKILL).unwrap();
        eventually("it is dead", || !is_running(pid));
        let stats = world.plane().stats().unwrap();
        assert_ne!(world.pid(), pid);
        assert_eq!(stats.routes.len(), 1);
        assert_eq!(name_at("127.0.0.1:80").unwrap(), "one");
    });
}

#[test]
fn two_daemons_that_start_at_once_find_one_proxy() {
    in_namespace(|| {
        let world = World { root: temp_root(), plane: None };
        let begin = || {
            let config = world.config("build-1");
            std::thread::spawn(|| {
                Dataplane::connect_or_spawn(config).unwrap().welcome().unwrap().pid
            })
        };
        let starters: Vec<_> = (0..4).map(|_| begin()).collect();
        let mut pids: Vec<u32> = starters.into_iter().map(|s| s.join().unwrap()).collect();
        pids.dedup();
        assert_eq!(pids.len(), 1, "{pids:?}");
    });
}

#[test]
fn a_program_that_does_not_start_is_told() {
    in_namespace(|| {
        let world = World { root: temp_root(), plane: None };
        let mut config = world.config("build-1");
        config.binary = "/nonexistent/skep".into();
        let error = Dataplane::connect_or_spawn(config.clone()).unwrap_err();
        assert!(matches!(error, DataplaneError::Run { .. }), "{error}");
        config.binary = env!("CARGO_BIN_EXE_skep").into();
        config.cgroup_procs = vec!["/nonexistent/cgroup.procs".into()];
        let error = Dataplane::connect_or_spawn(config.clone()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/cgroup.procs"), "{error}");
        config.exec_root = config.exec_root.join("missing");
        let error = Dataplane::connect_or_spawn(config).unwrap_err();
        assert!(matches!(error, DataplaneError::Start(_)), "{error}");
    });
}

#[test]
fn shutdown_ends_it_and_drain_lets_connections_end() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let pid = world.pid();
        let mut open = connect("127.0.0.1:80");
        assert_eq!(read_name(&mut open, 3).unwrap(), "one");
        world.plane.take().unwrap().shutdown(true).unwrap();
        let refused = || TcpStream::connect("127.0.0.1:80").is_err();
        eventually("it does not listen", refused);
        open.write_all(b"yes").unwrap();
        assert_eq!(read_name(&mut open, 3).unwrap(), "yes");
        assert!(is_running(pid));
        drop(open);
        eventually("it has ended", || !is_running(pid));
        assert!(!world.socket().exists());

        world.plane = Some(Dataplane::connect_or_spawn(world.config("build-1")).unwrap());
        let pid = world.pid();
        world.plane.take().unwrap().shutdown(false).unwrap();
        eventually("it has ended", || !is_running(pid));
    });
}

/// Clients that connect, ask and are answered, without a pause, until told to stop.
fn load(stop: &Arc<AtomicBool>, answered: &Arc<AtomicU64>) -> Vec<std::thread::JoinHandle<()>> {
    let client = |_| {
        let (stop, answered) = (Arc::clone(stop), Arc::clone(answered));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = connect("127.0.0.1:80");
                stream.write_all(b"hey").expect("a client could not ask");
                assert_eq!(read_name(&mut stream, 6).expect("no answer"), "onehey");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    (0..8).map(client).collect()
}

#[test]
fn a_new_binary_takes_over_under_load_without_one_error() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        // So many that their sockets do not fit into one packet.
        let keys: Vec<ListenKey> = (1_000..1_300).map(tcp).chain([tcp(80), udp(53)]).collect();
        let backends = [server];
        let routes: Vec<(ListenKey, &[SocketAddr])> =
            keys.iter().map(|key| (*key, &backends[..])).collect();
        world.routes(&routes);
        let first = world.pid();
        let mut old = connect("127.0.0.1:80");
        assert_eq!(read_name(&mut old, 3).unwrap(), "one");
        let (stop, answered) = (Arc::default(), Arc::default());
        let clients = load(&stop, &answered);
        let mut pids = vec![first];
        for build in ["build-2", "build-3", "build-2", "build-1"] {
            let before = answered.load(Ordering::Relaxed);
            world.plane = Some(Dataplane::connect_or_spawn(world.config(build)).unwrap());
            assert_eq!(world.plane().welcome().unwrap().build, build);
            pids.push(world.pid());
            eventually("clients are served", || answered.load(Ordering::Relaxed) > before + 100);
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client saw an error");
        }
        let in_the_middle = &pids[1..pids.len() - 1];
        eventually("those without connections have ended", || {
            in_the_middle.iter().all(|pid| !is_running(*pid))
        });
        assert!(is_running(first), "it has a connection");
        old.write_all(b"yes").unwrap();
        assert_eq!(read_name(&mut old, 3).unwrap(), "yes");
        assert_eq!(name_at("127.0.0.1:1234").unwrap(), "one");
        drop(old);
        eventually("the first one has ended", || !is_running(first));
        world.routes(&routes);
        assert!(world.socket().exists());
    });
}

#[test]
fn a_shutdown_reaches_a_proxy_that_drains() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let first = world.pid();
        let mut open = connect("127.0.0.1:80");
        assert_eq!(read_name(&mut open, 3).unwrap(), "one");
        // The second one has nothing to drain and ends; the third one still reaches the first.
        for build in ["build-2", "build-3"] {
            let before = world.pid();
            world.plane = Some(Dataplane::connect_or_spawn(world.config(build)).unwrap());
            assert_ne!(world.pid(), before);
            eventually("only the first one drains", || before == first || !is_running(before));
        }
        assert!(is_running(first));
        world.plane.take().unwrap().shutdown(false).unwrap();
        eventually("the first one has ended", || !is_running(first));
        assert!(open.read(&mut [0]).is_ok_and(|n| n == 0) || open.read(&mut [0]).is_err());
    });
}

#[test]
fn a_new_binary_that_dies_half_way_changes_nothing() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let until = Deadline::after(DEADLINE);
        let channel = Channel::connect(&world.socket()).unwrap();
        let hello = skep::model::control::Hello { build: "build-2".to_owned() };
        channel.send(&Message::TakeOver(hello), until).unwrap();
        let change = channel.recv(until).unwrap();
        assert!(matches!(change.message, Message::Change(_)));
        let handed = channel.recv(until).unwrap();
        assert!(matches!(handed.message, Message::Handed(_)));
        assert_eq!(handed.descriptors.len(), 2);
        drop((channel, handed));
        let pid = world.pid();
        world.routes(&[(tcp(80), &[server]), (tcp(81), &[server])]);
        assert_eq!(name_at("127.0.0.1:81").unwrap(), "one");
        assert_eq!(world.pid(), pid);
        // Whoever was not handed the sockets cannot claim them.
        let channel = Channel::connect(&world.socket()).unwrap();
        channel.send(&Message::TookOver, until).unwrap();
        assert!(matches!(channel.recv(until).unwrap().message, Message::Refused(_)));
        assert_eq!(name_at("127.0.0.1:80").unwrap(), "one");
    });
}

#[test]
fn hostile_packets_are_refused_and_change_nothing() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let until = Deadline::after(DEADLINE);
        let before = descriptors(world.pid());
        let good = Message::Shutdown(Shutdown { drain: false }).encode().unwrap();
        let mut packets: Vec<Vec<u8>> = (1..good.len()).map(|end| good[..end].to_vec()).collect();
        packets.extend([vec![0xff; 60_000], vec![0; 65_537], vec![8, 9, 1, 0, 0, 0, 0]]);
        packets.push(Message::Bye.encode().unwrap());
        for packet in &packets {
            let channel = Channel::connect(&world.socket()).unwrap();
            let raw = std::os::fd::AsRawFd::as_raw_fd(&channel.as_fd());
            let flags = nix::sys::socket::MsgFlags::empty();
            nix::sys::socket::send(raw, packet, flags).unwrap();
            let answer = channel.recv(until).unwrap().message;
            let malformed = matches!(&answer, Message::Refused(r) if r.reason == Reason::Malformed);
            assert!(malformed, "{:?} {answer:?}", packet.first());
            assert!(matches!(channel.recv(until), Err(ControlError::Gone)));
        }
        // Descriptors that nobody asked for are closed.
        let channel = Channel::connect(&world.socket()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let many = [null.as_fd(); 200];
        channel.send_beside(&Message::Query, &many, until).unwrap();
        assert!(matches!(channel.recv(until).unwrap().message, Message::Stats(_)));
        // A delta to a version that is not in force.
        let delta = table(&[]).since(&table(&[(tcp(80), &[server])]));
        let change = changes(false, 77, 78, delta).remove(0);
        channel.send(&Message::Change(change), until).unwrap();
        let answer = channel.recv(until).unwrap().message;
        assert!(matches!(answer, Message::Refused(r) if r.reason == Reason::OtherVersion));
        drop(channel);
        // More connections than it takes.
        let crowd: Vec<Channel> =
            (0..20).map(|_| Channel::connect(&world.socket()).unwrap()).collect();
        let busy = crowd[19].recv(until).unwrap().message;
        assert!(matches!(busy, Message::Refused(r) if r.reason == Reason::Busy));
        drop(crowd);
        eventually("nothing is left", || descriptors(world.pid()) == before);
        assert_eq!(name_at("127.0.0.1:80").unwrap(), "one");
        assert!(world.plane().stats().unwrap().totals.refused >= packets.len() as u64);
    });
}

#[test]
fn another_user_is_not_listened_to() {
    in_namespace(|| {
        let world = World::new();
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(world.socket()).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn a_thousand_ports_open_and_close() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        let before = descriptors(world.pid());
        let keys: Vec<ListenKey> = (10_000..11_000).map(tcp).collect();
        let backends = [server];
        let routes: Vec<(ListenKey, &[SocketAddr])> =
            keys.iter().map(|key| (*key, &backends[..])).collect();
        world.routes(&routes);
        assert_eq!(name_at("127.0.0.1:10999").unwrap(), "one");
        assert_eq!(world.plane().stats().unwrap().routes.len(), 1_000);
        world.routes(&routes[..1]);
        eventually("the others are closed", || descriptors(world.pid()) == before + 1);
        let refused = TcpStream::connect("127.0.0.1:10999").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}
