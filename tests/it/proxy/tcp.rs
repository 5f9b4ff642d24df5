//! TCP: what goes in comes out, ends come out as ends, and who does not answer is replaced.

use std::io::ErrorKind;
use std::net::Shutdown;

use skep::base::rng::Rng;

use super::*;

/// Bytes whose loss, doubling or swapping shows.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(step).collect()
}

/// A task that answers all it got once the client has ended.
fn after_the_end(at: &str) -> SocketAddr {
    task(at, |mut stream| {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() {
            drop(stream.write_all(&all));
        }
    })
}

fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
}

#[test]
fn bodies_pass_unchanged_over_ipv4_and_ipv6_through_a_half_close() {
    in_namespace(|| {
        let mut world = World::new();
        let (v4, v6) = (after_the_end("127.0.0.1:0"), after_the_end("[::1]:0"));
        let only = |ip: &str| ListenKey { ip: Some(ip.parse().unwrap()), ..tcp(82) };
        world.routes(&[
            (tcp(80), &[v4]),
            (tcp(81), &[v6]),
            (only("127.0.0.1"), &[v6]),
            (only("::1"), &[v4]),
        ]);
        let ports = [80, 81, 82].map(|port| [format!("127.0.0.1:{port}"), format!("[::1]:{port}")]);
        for (at, length) in ports.iter().flatten().zip([0, 1, 1_000, 32_768, 1 << 20, 9_000_000]) {
            let mut stream = connect(at);
            let sent = pattern(length);
            let mut writer = stream.try_clone().unwrap();
            let copy = sent.clone();
            let writing = std::thread::spawn(move || {
                writer.write_all(&copy).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            writing.join().unwrap();
            assert!(got == sent, "{at}: {length} bytes became {}", got.len());
        }
        let stats = world.plane().stats().unwrap();
        assert_eq!(stats.routes.len(), 4);
        assert_eq!(stats.routes.iter().map(|r| r.total).sum::<u64>(), 6);
        let all: u64 = [0, 1, 1_000, 32_768, 1 << 20, 9_000_000].iter().sum();
        assert_eq!(stats.routes.iter().map(|r| r.bytes_in).sum::<u64>(), all);
        assert_eq!(stats.routes.iter().map(|r| r.bytes_out).sum::<u64>(), all);
        assert!(stats.totals.spliced > 0, "large bodies are spliced");
    });
}

#[test]
fn the_task_may_end_first_and_still_hear_the_client() {
    in_namespace(|| {
        let mut world = World::new();
        let (heard, hear) = std::sync::mpsc::sync_channel(1);
        let server = task("127.0.0.1:0", move |mut stream| {
            stream.write_all(b"bye").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).unwrap();
            heard.send(rest).unwrap();
        });
        world.routes(&[(tcp(80), &[server])]);
        let mut stream = connect("127.0.0.1:80");
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        assert_eq!(all, "bye");
        stream.write_all(b"still here").unwrap();
        drop(stream);
        assert_eq!(hear.recv_timeout(DEADLINE).unwrap(), "still here");
        eventually("no flow is left", || world.plane().stats().unwrap().totals.flows == 0);
    });
}

#[test]
fn a_reset_is_a_reset_on_the_other_side() {
    in_namespace(|| {
        let mut world = World::new();
        let (seen, see) = std::sync::mpsc::sync_channel(1);
        let server = task("127.0.0.1:0", move |mut stream| {
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            if word == *b"mine" {
                stream.write_all(b"last words").unwrap();
                reset(stream);
                return;
            }
            seen.send(stream.read(&mut word).map_err(|e| e.kind())).unwrap();
        });
        world.routes(&[(tcp(80), &[server])]);

        let mut stream = connect("127.0.0.1:80");
        stream.write_all(b"mine").unwrap();
        let mut words = [0; 10];
        stream.read_exact(&mut words).expect("what came before the reset arrives");
        assert_eq!(words, *b"last words");
        assert_eq!(stream.read(&mut words).unwrap_err().kind(), ErrorKind::ConnectionReset);

        let mut stream = connect("127.0.0.1:80");
        stream.write_all(b"your").unwrap();
        eventually("it passed", || world.plane().stats().unwrap().routes[0].bytes_in == 8);
        reset(stream);
        assert_eq!(see.recv_timeout(DEADLINE).unwrap(), Err(ErrorKind::ConnectionReset));
        eventually("no flow is left", || world.plane().stats().unwrap().totals.flows == 0);
    });
}

#[test]
fn a_slow_reader_gets_everything_and_holds_up_nobody() {
    in_namespace(|| {
        let mut world = World::new();
        const LENGTH: usize = 24 << 20;
        let server = task("127.0.0.1:0", |mut stream| {
            let mut kind = [0];
            stream.read_exact(&mut kind).unwrap();
            if kind[0] == b'1' {
                stream.write_all(&pattern(LENGTH)).unwrap();
            } else {
                stream.write_all(b"quick").unwrap();
            }
        });
        world.routes(&[(tcp(80), &[server])]);
        let mut slow = connect("127.0.0.1:80");
        slow.write_all(b"1").unwrap();
        let passed = |world: &mut World| world.plane().stats().unwrap().routes[0].bytes_out;
        let mut before = 0;
        eventually("the slow one is stuck", || {
            std::thread::sleep(Duration::from_millis(20));
            let now = passed(&mut world);
            now > 0 && std::mem::replace(&mut before, now) == now
        });
        assert!(passed(&mut world) < LENGTH as u64, "what is not read is not taken");
        for _ in 0..20 {
            let mut quick = connect("127.0.0.1:80");
            quick.write_all(b"2").unwrap();
            let mut word = String::new();
            quick.read_to_string(&mut word).unwrap();
            assert_eq!(word, "quick");
        }
        let mut got = Vec::new();
        slow.read_to_end(&mut got).unwrap();
        assert!(got == pattern(LENGTH), "{} bytes", got.len());
    });
}

#[test]
fn a_task_that_does_not_answer_is_replaced_and_rests() {
    in_namespace(|| {
        // What is sent to this network is lost.
        ip(&["link", "add", "lost", "type", "veth", "peer", "name", "found"]);
        ip(&["addr", "add", "10.9.0.1/24", "dev", "lost"]);
        ip(&["link", "set", "lost", "up"]);
        ip(&["link", "set", "found", "up"]);
        ip(&["neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:01", "dev", "lost"]);
        let mut world = World::new();
        let good = echo_task("127.0.0.1:0", "one");
        let refusing = addr("127.0.0.1:9");
        let (silent, nowhere) = (addr("10.9.0.2:80"), addr("203.0.113.1:80"));
        world.routes(&[(tcp(80), &[refusing, silent, nowhere, good])]);
        let began = Instant::now();
        for _ in 0..30 {
            assert_eq!(name_at("127.0.0.1:80").unwrap(), "one");
        }
        // Each connection would take a second if the silent one did not rest.
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        let route = world.plane().stats().unwrap().routes[0];
        assert!(route.dial_failures >= 3, "{route:?}");
        assert_eq!(route.unserved, 0);
    });
}

#[test]
fn the_client_is_reset_when_nobody_answers() {
    in_namespace(|| {
        let mut world = World::new();
        let (one, two) = (addr("127.0.0.1:8"), addr("127.0.0.1:9"));
        world.routes(&[(tcp(80), &[one, two]), (tcp(81), &[])]);
        for at in ["127.0.0.1:80", "[::1]:80", "127.0.0.1:81"] {
            let error = name_at(at).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{at}");
        }
        let stats = world.plane().stats().unwrap();
        assert_eq!(
            stats.routes.iter().map(|r| (r.active, r.unserved)).collect::<Vec<_>>(),
            [(0, 2), (0, 1)]
        );
        // One that begins to listen is found, although it failed before.
        let one = echo_task("127.0.0.1:9", "two");
        world.routes(&[(tcp(80), &[one])]);
        eventually("it is served", || name_at("127.0.0.1:80").is_ok_and(|name| name == "two"));
    });
}

#[test]
fn connections_are_spread_and_a_removed_task_keeps_only_those_it_has() {
    in_namespace(|| {
        let mut world = World::new();
        let one = echo_task("127.0.0.1:0", "one");
        let two = echo_task("127.0.0.1:0", "two");
        world.routes(&[(tcp(80), &[one, two])]);
        let mut open: Vec<TcpStream> = (0..10).map(|_| connect("127.0.0.1:80")).collect();
        let names: Vec<String> = open.iter_mut().map(|s| read_name(s, 3).unwrap()).collect();
        assert_eq!(names.iter().filter(|name| *name == "one").count(), 5);

        world.routes(&[(tcp(80), &[two])]);
        for _ in 0..10 {
            assert_eq!(name_at("127.0.0.1:80").unwrap(), "two");
        }
        for stream in &mut open {
            stream.write_all(b"hey").unwrap();
            assert_eq!(read_name(stream, 3).unwrap(), "hey");
        }
        // Without the listener there are no new ones, and those that are open go on.
        world.routes(&[]);
        let refused = TcpStream::connect("127.0.0.1:80").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        for stream in &mut open {
            stream.write_all(b"yes").unwrap();
            assert_eq!(read_name(stream, 3).unwrap(), "yes");
        }
        eventually("only those are open", || world.plane().stats().unwrap().totals.flows == 10);
        drop(open);
        eventually("no flow is left", || world.plane().stats().unwrap().totals.flows == 0);
    });
}

#[test]
fn thousands_may_be_idle_and_nothing_is_left_of_them() {
    in_namespace(|| {
        const IDLE: usize = 2_000;
        let (_, hard) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)
            .unwrap();
        let mut world = World::new();
        // Accepts, and holds what it accepted.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<_>>());
        let quick = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server]), (tcp(81), &[quick])]);
        let before = descriptors(world.pid());
        let idle: Vec<TcpStream> = (0..IDLE).map(|_| connect("127.0.0.1:80")).collect();
        eventually("all are open", || world.plane().stats().unwrap().totals.flows == IDLE as u64);
        assert_eq!(name_at("127.0.0.1:81").unwrap(), "one");
        for stream in idle {
            reset(stream);
        }
        eventually("no flow is left", || world.plane().stats().unwrap().totals.flows == 0);
        assert_eq!(descriptors(world.pid()), before);
    });
}

#[test]
fn at_its_limit_the_proxy_lets_clients_wait_and_serves_them_later() {
    in_namespace(|| {
        let mut world = World::with_arguments(&["--max-flows", "20"]);
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let mut first: Vec<TcpStream> = (0..20).map(|_| connect("127.0.0.1:80")).collect();
        for stream in &mut first {
            assert_eq!(read_name(stream, 3).unwrap(), "one");
        }
        let mut later: Vec<TcpStream> = (0..30).map(|_| connect("127.0.0.1:80")).collect();
        eventually("it pauses", || world.plane().stats().unwrap().totals.pauses > 0);
        assert_eq!(world.plane().stats().unwrap().totals.flows, 20);
        later[0].set_nonblocking(true).unwrap();
        assert_eq!(later[0].read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        later[0].set_nonblocking(false).unwrap();
        drop(first);
        for mut stream in later {
            assert_eq!(read_name(&mut stream, 3).unwrap(), "one");
        }
    });
}

#[test]
fn a_few_descriptors_are_enough_to_go_on() {
    in_namespace(|| {
        let mut world = World::new();
        let server = echo_task("127.0.0.1:0", "one");
        world.routes(&[(tcp(80), &[server])]);
        let room = descriptors(world.pid()) + 9;
        let done = Command::new("prlimit")
            .arg(format!("--pid={}", world.pid()))
            .arg(format!("--nofile={room}:{room}"))
            .status();
        assert!(done.unwrap().success());
        let open: Vec<TcpStream> = (0..8).map(|_| connect("127.0.0.1:80")).collect();
        eventually("it pauses", || world.plane().stats().unwrap().totals.pauses > 0);
        let mut served = 0;
        for mut stream in open {
            // Some found no descriptor for their task and were reset; none hangs.
            served += u32::from(read_name(&mut stream, 3).is_ok());
        }
        assert!(served > 0);
        assert_eq!(name_at("127.0.0.1:80").unwrap(), "one");
    });
}

/// Writes `body` in pieces of all sizes.
fn write_in_pieces(stream: &mut TcpStream, body: &[u8], rng: &mut Rng) -> std::io::Result<()> {
    let mut rest = body;
    while !rest.is_empty() {
        let most = [10, 1_500, 40_000, 300_000][usize::try_from(rng.below(4)).unwrap()];
        let length = usize::try_from(rng.below(most) + 1).unwrap().min(rest.len());
        stream.write_all(&rest[..length])?;
        rest = &rest[length..];
    }
    stream.shutdown(Shutdown::Write)
}

#[test]
fn many_clients_that_behave_at_random_get_their_own_bytes_back() {
    const CLIENTS: u64 = 60;
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    in_namespace(move || {
        let mut world = World::new();
        let echo = task("127.0.0.1:0", |mut stream| {
            let mut buffer = vec![0; 50_000];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        });
        world.routes(&[(tcp(80), &[echo])]);
        let client = |number| {
            std::thread::spawn(move || {
                let mut rng = Rng::new(seed + number);
                let length = [1, 5_000, 70_000, 900_000][usize::try_from(rng.below(4)).unwrap()];
                let body = pattern(usize::try_from(rng.below(length)).unwrap());
                let mut stream = connect("127.0.0.1:80");
                if rng.one_in(5) {
                    // Half of it, then gone.
                    drop(stream.write_all(&body[..body.len() / 2]));
                    reset(stream);
                    return;
                }
                let mut writer = stream.try_clone().unwrap();
                let copy = body.clone();
                let writing = std::thread::spawn(move || {
                    write_in_pieces(&mut writer, &copy, &mut rng).unwrap();
                });
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                writing.join().unwrap();
                assert!(got == body, "{} bytes became {}", body.len(), got.len());
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        for client in clients {
            client.join().expect("a client saw an error");
        }
        eventually("no flow is left", || world.plane().stats().unwrap().totals.flows == 0);
        let routes = world.plane().stats().unwrap().routes;
        assert_eq!((routes[0].total, routes[0].active, routes[0].unserved), (CLIENTS, 0, 0));
    });
}
