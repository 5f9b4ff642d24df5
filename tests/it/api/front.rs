//! Clients that are slow, broken, greedy or hostile must get an answer or be cut off, and must not
//! stall the others.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use skep::api::front::Limits;

use super::twin::Twin;
use super::{Server, short};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Server {
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(super) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        until_closed(&mut stream)
    }

    fn ping_works(&self) {
        let begun = Instant::now();
        let ping = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut answer = self.raw(ping);
        // Clients that left may still be counted for a moment.
        while status(&answer) == "503" && begun.elapsed() < Duration::from_secs(4) {
            answer = self.raw(ping);
        }
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nOK"), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(5), "stalled: {:?}", begun.elapsed());
    }
}

fn until_closed(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("after {:?}: {error}", String::from_utf8_lossy(&bytes)),
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads one answer with a `Content-Length` and leaves what follows.
fn one_answer(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{:?}", String::from_utf8_lossy(&text));
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

pub(super) fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[test]
fn pings_tell_what_this_is() {
    let server = Server::new();
    let answer = server.raw(b"HEAD /_ping HTTP/1.1\r\nConnection: close\r\n\r\n");
    for header in [
        "Api-Version: 1.51",
        "Ostype: linux",
        "Docker-Experimental: false",
        "Builder-Version: 1",
        "Swarm: active/manager",
        "Cache-Control: no-cache, no-store, must-revalidate",
        "Connection: close",
    ] {
        assert!(answer.contains(&format!("{header}\r\n")), "{header} is missing in {answer}");
    }
    assert!(answer.contains("Server: Docker/"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "HEAD has no body: {answer}");
    let alone = Server::with(Limits::default(), Twin::alone);
    let answer = alone.raw(b"GET /v1.24/_ping HTTP/1.0\r\n\r\n");
    assert!(answer.contains("Swarm: inactive\r\n") && answer.ends_with("\r\n\r\nOK"), "{answer}");
}

#[test]
fn versions_outside_the_range_are_refused() {
    let server = Server::new();
    let ask = |path: &str| {
        server.raw(format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes())
    };
    let answer = ask("/v1.23/services");
    assert_eq!(status(&answer), "400");
    assert!(
        answer.ends_with(
            "\r\n\r\n{\"message\":\"client version 1.23 is too old. Minimum supported API version \
             is 1.24, please upgrade your client to a newer version\"}\n"
        ),
        "{answer}"
    );
    assert!(ask("/v1.99/info").contains("client version 1.99 is too new."));
    assert_eq!(status(&ask("/v1.24/services")), "200");
    assert_eq!(status(&ask("/services")), "200");
    assert!(ask("/nope").ends_with("{\"message\":\"page not found\"}\n"));
    assert_eq!(status(&ask("/services/%zz")), "400");
}

#[test]
fn requests_follow_each_other_on_one_connection() {
    let server = Server::new();
    let mut stream = server.connect();
    for _ in 0..5 {
        stream.write_all(b"GET /_ping HTTP/1.1\r\n\r\n").unwrap();
        let answer = one_answer(&mut stream);
        assert!(answer.contains("Connection: keep-alive\r\n") && answer.ends_with("OK"));
    }
    // Pipelined, the last with a body of its own; answers keep the order.
    let text = b"GET /_ping HTTP/1.1\r\n\r\nGET /nope HTTP/1.1\r\n\r\n\
        POST /volumes/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n\
        {\"Name\":\"media\"}GET /_ping HTTP/1.1\r\nConnection: close\r\n\r\n";
    stream.write_all(text).unwrap();
    let answers = [(); 4].map(|()| one_answer(&mut stream));
    assert_eq!(answers.each_ref().map(|it| status(it)), ["200", "404", "201", "200"]);
    assert_eq!(until_closed(&mut stream), "");
}

#[test]
fn chunked_bodies_and_those_announced_first() {
    let server = Server::new();
    let chunked = b"POST /volumes/create HTTP/1.1\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n6\r\n{\"Name\r\n5;a=b\r\n\":\"me\r\n5\r\ndia\"}\r\n0\r\n\
        Trailer: y\r\n\r\nGET /_ping HTTP/1.1\r\nConnection: close\r\n\r\n";
    let answer = server.raw(chunked);
    assert!(answer.contains("\"Name\":\"media\"") && answer.ends_with("\r\n\r\nOK"), "{answer}");

    let mut stream = server.connect();
    let head = b"POST /volumes/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\
        Expect: 100-continue\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"Name\":\"media\"}").unwrap();
    assert!(one_answer(&mut stream).contains("\"Name\":\"media\""));

    // Who does not want the body does not ask for it.
    let answer = server.raw(
        b"POST /nope HTTP/1.1\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\
          Connection: close\r\n\r\n",
    );
    assert_eq!(status(&answer), "404", "{answer}");
}

#[test]
fn what_is_no_request_is_answered_and_cut_off() {
    let server = Server::new();
    for (bytes, wanted) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "400"),
        (b"hello\r\n\r\n", "400"),
        (b"GET nope HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/2.0\r\n\r\n", "400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nX: \xff\xfe\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nX y: z\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "501"),
        (b"POST / HTTP/1.1\r\nExpect: the-unexpected\r\n\r\n", "417"),
        (b"POST /volumes/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnope\r\n", "400"),
        (
            b"POST /containers/x/attach HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
            "501",
        ),
    ] {
        let answer = server.raw(bytes);
        assert_eq!(status(&answer), wanted, "{:?}: {answer}", String::from_utf8_lossy(bytes));
        assert!(answer.contains("{\"message\":\""), "{answer}");
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
    }
    server.ping_works();
}

#[test]
fn heads_and_bodies_have_a_limit() {
    let server = Server::new();
    let mut head = b"GET /_ping HTTP/1.1\r\n".to_vec();
    head.extend(format!("X: {}\r\n\r\n", "y".repeat(100_000)).bytes());
    assert_eq!(status(&server.raw(&head)), "431");

    let mut many = b"GET /_ping HTTP/1.1\r\n".to_vec();
    many.extend("A: b\r\n".repeat(500).bytes());
    assert_eq!(status(&server.raw(&[&many[..], b"\r\n"].concat())), "431");

    let announced = b"POST /services/create HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n";
    let answer = server.raw(announced);
    assert_eq!(status(&answer), "413", "{answer}");

    // Without a length only the bytes themselves tell.
    let mut stream = server.connect();
    let head = "POST /services/create HTTP/1.1\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..70 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(status(&until_closed(&mut stream)), "413");
    server.ping_works();
}

#[test]
fn json_that_is_not_gets_dockers_words() {
    let server = Server::new();
    let post = |kind: &str, body: &str| {
        server.raw(
            format!(
                "POST /v1.41/services/create HTTP/1.1\r\nContent-Type: {kind}\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
    };
    for (body, wanted) in [
        ("{", "invalid JSON: "),
        (" ", "invalid JSON: got EOF while reading request body"),
        ("{} x", "unexpected content after JSON"),
        ("{\"TaskTemplate\": 7}", "invalid JSON: "),
        ("{\"Name\":\"x\",\"Mode\":{\"Replicated\":{\"Replicas\":-1}}}", "invalid JSON: "),
    ] {
        let answer = post("application/json", body);
        assert_eq!(status(&answer), "400", "{body}: {answer}");
        assert!(answer.contains(&format!("{{\"message\":\"{wanted}")), "{body}: {answer}");
    }
    let answer = post("text/plain", "{}");
    assert!(answer.contains("unsupported Content-Type header (text/plain)"), "{answer}");
}

#[test]
fn slow_clients_are_timed_out_and_stall_nobody() {
    let server = Server::with(short(), Twin::new);
    let mut slow_head = server.connect();
    let mut slow_body = server.connect();
    let mut silent = server.connect();
    slow_head.write_all(b"GET /_ping HT").unwrap();
    let head =
        b"POST /volumes/create HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    slow_body.write_all(head).unwrap();
    server.ping_works();
    assert_eq!(status(&until_closed(&mut slow_head)), "408");
    assert_eq!(status(&until_closed(&mut slow_body)), "408");
    assert_eq!(until_closed(&mut silent), "");
    server.ping_works();
}

#[test]
fn a_head_that_trickles_gets_no_more_time() {
    let server = Server::with(short(), Twin::new);
    let mut stream = server.connect();
    let begun = Instant::now();
    let text =
        b"GET /_ping HTTP/1.1\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";
    for byte in text.iter().cycle() {
        // A read that times out is the pause between two bytes.
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut first = [0; 12];
        match stream.read(&mut first) {
            Ok(n) => {
                assert_eq!(&first[..n], b"HTTP/1.1 408");
                break;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < PATIENCE, "it trickles on");
        stream.write_all(&[*byte]).unwrap();
    }
}

#[test]
fn half_closed_clients_get_their_answer_and_vanished_ones_are_forgotten() {
    let server = Server::new();
    let mut stream = server.connect();
    stream.write_all(b"GET /v1.41/info HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(until_closed(&mut stream).contains("\"OperatingSystem\":\"Twin Linux\""));
    for text in [
        "GET /info HTTP/1.1\r\n\r\n",
        "GET /inf",
        "POST /volumes/create HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    ] {
        for _ in 0..50 {
            let mut stream = server.connect();
            stream.write_all(text.as_bytes()).unwrap();
        }
        server.ping_works();
    }
    server.ping_works();
}

#[test]
fn too_many_connections_are_turned_away_until_some_are_silent_for_long() {
    let server = Server::new();
    let mut streams: Vec<_> = (0..200).map(|_| server.connect()).collect();
    let mut refused = 0;
    for stream in streams.drain(64..) {
        let mut stream = stream;
        let answer = until_closed(&mut stream);
        assert_eq!(status(&answer), "503", "{answer}");
        assert!(answer.contains("too many API connections"), "{answer}");
        refused += 1;
    }
    assert_eq!((streams.len(), refused), (64, 136));
    // Those that stay silent make room.
    let begun = Instant::now();
    loop {
        let mut stream = server.connect();
        // Turned away, it may be closed before this is written.
        let written = stream.write_all(b"GET /_ping HTTP/1.1\r\nConnection: close\r\n\r\n");
        if status(&until_closed(&mut stream)) == "200" && written.is_ok() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "no silent connection made room");
    }
    // The others still work.
    let last = streams.last_mut().unwrap();
    last.write_all(b"GET /_ping HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(status(&until_closed(last)), "200");
}

#[test]
fn many_clients_at_once_are_all_served() {
    let server = Server::new();
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let mut stream = server.connect();
                for _ in 0..10 {
                    stream.write_all(b"GET /v1.41/services HTTP/1.1\r\n\r\n").unwrap();
                    let answer = one_answer(&mut stream);
                    assert_eq!(status(&answer), "200", "{answer}");
                }
            });
        }
    });
}

#[test]
fn a_followed_log_arrives_as_it_is_written_and_ends_with_its_client() {
    let log = [Some((false, "one\n")), None, Some((false, "two\n"))];
    let server = Server::with(Limits::default(), |folder| Twin::new(folder).writing(&log));
    let body = "{\"Name\":\"web\",\"TaskTemplate\":{\"ContainerSpec\":{\"Image\":\"x\"}}}";
    let answer = server.raw(
        format!(
            "POST /services/create HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    assert_eq!(status(&answer), "201", "{answer}");
    // More followers than there may be connections: each makes room when its client goes.
    let begun = Instant::now();
    let mut served = 0;
    while served < 100 {
        let followers: Vec<_> = (0..30).filter_map(|_| followed(&server)).collect();
        served += followers.len();
        server.ping_works();
        drop(followers);
        assert!(begun.elapsed() < PATIENCE, "followers that are gone stay");
    }
}

#[test]
fn a_volume_is_not_left_by_a_path_in_it() {
    let server = Server::new();
    for (subpath, wanted) in [("a/../..", "400"), ("/etc", "400"), ("a/..b", "201")] {
        let body = format!(
            "{{\"Name\":\"web\",\"TaskTemplate\":{{\"ContainerSpec\":{{\"Image\":\"x\",\"Mounts\":[{{\
             \"Type\":\"volume\",\"Source\":\"v\",\"Target\":\"/x\",\"VolumeOptions\":{{\"Subpath\":\
             \"{subpath}\"}}}}]}}}}}}"
        );
        let head = "POST /services/create HTTP/1.1\r\nContent-Type: application/json\r\n";
        let length = body.len();
        let create = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        let answer = server.raw(create.as_bytes());
        assert_eq!(status(&answer), wanted, "{subpath}: {answer}");
        assert_eq!(wanted == "400", answer.contains("subpath must be a relative path"), "{answer}");
    }
}

#[test]
fn followers_leave_room_for_others() {
    let log = [Some((false, "one\n")), None, Some((false, "two\n"))];
    let server = Server::with(Limits::default(), |folder| Twin::new(folder).writing(&log));
    let body = "{\"Name\":\"web\",\"TaskTemplate\":{\"ContainerSpec\":{\"Image\":\"x\"}}}";
    let head = "POST /services/create HTTP/1.1\r\nContent-Type: application/json\r\n";
    let length = body.len();
    let create = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    assert_eq!(status(&server.raw(create.as_bytes())), "201");
    let followers: Vec<_> = (0..80).filter_map(|_| followed(&server)).collect();
    assert_eq!(followers.len(), Limits::default().streams);
    let answer = server.raw(b"GET /services/web/logs?stdout=1&follow=1 HTTP/1.1\r\n\r\n");
    assert_eq!(status(&answer), "503");
    assert!(answer.contains("too many streams: 32 followed logs, pulls and loads"), "{answer}");
    for path in ["/_ping", "/services", "/services/web/logs?stdout=1&tail=0"] {
        let answer =
            server.raw(format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(status(&answer), "200", "{path}: {answer}");
    }
    drop(followers);
}

/// A client that follows and has got what there is; none where the server is full.
fn followed(server: &Server) -> Option<UnixStream> {
    let mut stream = server.connect();
    // Turned away, it may be closed before this is written.
    stream.write_all(b"GET /services/web/logs?stdout=1&follow=1 HTTP/1.1\r\n\r\n").ok()?;
    let mut text = Vec::new();
    let mut piece = [0; 1024];
    while !text.ends_with(b"two\n\r\n") {
        let n = stream.read(&mut piece).unwrap();
        text.extend_from_slice(&piece[..n]);
        if n == 0 {
            assert_eq!(status(&String::from_utf8(text).unwrap()), "503");
            return None;
        }
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("application/vnd.docker.multiplexed-stream"), "{text}");
    assert!(text.contains("\r\n\r\nc\r\n\u{1}\0\0\0\0\0\0\u{4}one\n\r\n"), "{text:?}");
    Some(stream)
}
