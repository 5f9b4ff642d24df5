//! UDP: a client stays with its task, and answers come from the address it asked.

use std::net::UdpSocket;

use super::*;

/// A task that answers with its name and what it got.
fn udp_task(at: &str, name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind(at).unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let answer = [name.as_bytes(), &buffer[..n]].concat();
            drop(socket.send_to(&answer, from));
        }
    });
    addr
}

fn client(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn ask(socket: &UdpSocket, to: &str, text: &str) -> (String, SocketAddr) {
    socket.send_to(text.as_bytes(), to).unwrap();
    let mut buffer = vec![0; 65_536];
    let (n, from) = socket.recv_from(&mut buffer).unwrap();
    (String::from_utf8(buffer[..n].to_vec()).unwrap(), from)
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    in_namespace(|| {
        ip(&["addr", "add", "192.0.2.7/32", "dev", "lo"]);
        ip(&["addr", "add", "2001:db8::7/128", "dev", "lo"]);
        let mut world = World::new();
        let (v4, v6) = (udp_task("127.0.0.1:0", "4:"), udp_task("[::1]:0", "6:"));
        let only = ListenKey { ip: Some("192.0.2.7".parse().unwrap()), ..udp(55) };
        world.routes(&[(udp(53), &[v4]), (udp(54), &[v6]), (only, &[v4])]);
        let (from4, from6) = (client("127.0.0.1:0"), client("[::1]:0"));
        for (socket, to, name) in [
            (&from4, "127.0.0.1:53", "4:"),
            (&from4, "192.0.2.7:53", "4:"),
            (&from4, "127.0.0.9:54", "6:"),
            (&from6, "[::1]:53", "4:"),
            (&from6, "[2001:db8::7]:54", "6:"),
            (&from4, "192.0.2.7:55", "4:"),
        ] {
            assert_eq!(ask(socket, to, "who"), (format!("{name}who"), addr(to)));
        }
        let large = "x".repeat(60_000);
        assert_eq!(ask(&from4, "127.0.0.1:53", &large).0, format!("4:{large}"));
        assert_eq!(world.plane().stats().unwrap().totals.sessions, 6);
    });
}

#[test]
fn a_client_stays_with_its_task_until_that_is_removed() {
    in_namespace(|| {
        let mut world = World::new();
        let (one, two) = (udp_task("127.0.0.1:0", "one"), udp_task("127.0.0.1:0", "two"));
        world.routes(&[(udp(53), &[one, two])]);
        let clients: Vec<UdpSocket> = (0..6).map(|_| client("127.0.0.1:0")).collect();
        let ask_all =
            || -> Vec<String> { clients.iter().map(|c| ask(c, "127.0.0.1:53", "").0).collect() };
        let names = ask_all();
        assert_eq!(names.iter().filter(|name| *name == "one").count(), 3);
        assert_eq!(ask_all(), names);
        world.routes(&[(udp(53), &[two])]);
        assert!(ask_all().iter().all(|name| name == "two"));
        assert_eq!(world.plane().stats().unwrap().totals.sessions, 6);
        world.routes(&[]);
        assert_eq!(world.plane().stats().unwrap().totals.sessions, 0);
    });
}

#[test]
fn a_task_that_is_not_there_is_left_for_another() {
    in_namespace(|| {
        let mut world = World::new();
        let good = udp_task("127.0.0.1:0", "one");
        world.routes(&[(udp(53), &[addr("127.0.0.1:9"), good])]);
        let socket = client("127.0.0.1:0");
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 16];
        eventually("the good one answers", || {
            socket.send_to(b"?", "127.0.0.1:53").unwrap();
            socket.recv(&mut buffer).is_ok_and(|n| &buffer[..n] == b"one?")
        });
    });
}

#[test]
fn at_the_limit_the_least_recently_used_client_is_forgotten() {
    in_namespace(|| {
        let mut world = World::with_arguments(&["--max-sessions", "3"]);
        let server = udp_task("127.0.0.1:0", "one");
        world.routes(&[(udp(53), &[server])]);
        let before = descriptors(world.pid());
        for _ in 0..20 {
            assert_eq!(ask(&client("127.0.0.1:0"), "127.0.0.1:53", "").0, "one");
        }
        let stats = world.plane().stats().unwrap();
        assert_eq!((stats.totals.sessions, stats.routes[0].total), (3, 20));
        assert_eq!(descriptors(world.pid()), before + 3);
    });
}

#[test]
fn an_answer_that_comes_after_a_takeover_still_arrives() {
    in_namespace(|| {
        let mut world = World::new();
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        world.routes(&[(udp(53), &[server.local_addr().unwrap()])]);
        let asker = client("127.0.0.1:0");
        asker.send_to(b"first", "127.0.0.1:53").unwrap();
        let mut buffer = [0; 16];
        let (_, old) = server.recv_from(&mut buffer).unwrap();
        world.plane = Some(Dataplane::connect_or_spawn(world.config("build-2")).unwrap());
        asker.send_to(b"second", "127.0.0.1:53").unwrap();
        let (n, new) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"second");
        assert_ne!(old, new, "the new proxy has a session of its own");
        for from in [old, new] {
            server.send_to(b"answer", from).unwrap();
            let (n, via) = asker.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..n], via), (&b"answer"[..], addr("127.0.0.1:53")));
        }
    });
}
