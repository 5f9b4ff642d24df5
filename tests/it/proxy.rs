//! The data plane against real sockets: one proxy process per test, in a network namespace of its
//! own that ends with the test's thread.

mod control;
mod tcp;
mod udp;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use skep::base::id::TaskId;
use skep::host::dataplane::{Dataplane, DataplaneConfig};
use skep::model::control::Applied;
use skep::model::route::{Backend, ListenKey, Listener, RouteTable};
use skep::model::service::{Protocol, PublishMode};

/// Nothing here takes longer on a machine that works.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `body` in a thread with a network namespace of its own, loopback up.
fn in_namespace(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this test needs root");
        ip(&["link", "set", "lo", "up"]);
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(args: &[&str]) {
    let done = Command::new("ip").args(args).status().expect("iproute2 is needed");
    assert!(done.success(), "ip {args:?}");
}

/// An exec root and the proxy that serves it, both gone at the end.
struct World {
    root: PathBuf,
    plane: Option<Dataplane>,
}

impl World {
    fn new() -> Self {
        let mut world = Self { root: temp_root(), plane: None };
        world.plane = Some(Dataplane::connect_or_spawn(world.config("build-1")).unwrap());
        world
    }

    /// With arguments that the daemon does not give.
    fn with_arguments(args: &[&str]) -> Self {
        let mut world = Self { root: temp_root(), plane: None };
        let started = Command::new(env!("CARGO_BIN_EXE_skep"))
            .args(["proxy", "--detach", "--build", "build-1", "--control"])
            .arg(world.socket())
            .args(args)
            .status();
        assert!(started.unwrap().success());
        world.plane = Some(Dataplane::connect_or_spawn(world.config("build-1")).unwrap());
        world
    }

    fn config(&self, build: &str) -> DataplaneConfig {
        DataplaneConfig {
            exec_root: self.root.clone(),
            binary: env!("CARGO_BIN_EXE_skep").into(),
            build: build.to_owned(),
            cgroup_procs: Vec::new(),
            deadline: DEADLINE,
        }
    }

    fn socket(&self) -> PathBuf {
        self.root.join("proxy.sock")
    }

    fn plane(&mut self) -> &mut Dataplane {
        self.plane.as_mut().unwrap()
    }

    fn pid(&self) -> u32 {
        self.plane.as_ref().unwrap().welcome().unwrap().pid
    }

    /// Puts routes in force that must all open.
    fn routes(&mut self, routes: &[(ListenKey, &[SocketAddr])]) {
        let applied = self.try_routes(routes);
        assert_eq!(applied.errors, []);
    }

    fn try_routes(&mut self, routes: &[(ListenKey, &[SocketAddr])]) -> Applied {
        self.plane().set_routes(&table(routes)).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Ok(Some(plane)) = Dataplane::connect(self.config("build-1")) {
            drop(plane.shutdown(false));
        }
        drop(std::fs::remove_dir_all(&self.root));
    }
}

fn temp_root() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let root = std::env::temp_dir().join(format!("skep-proxy-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&root).unwrap();
    root
}

fn table(routes: &[(ListenKey, &[SocketAddr])]) -> RouteTable {
    let mut table = RouteTable::new();
    for (key, addrs) in routes {
        let backend = |addr: &SocketAddr| Backend { task: task_of(*addr), addr: *addr };
        let backends = addrs.iter().map(backend).collect();
        table.insert(Listener { key: *key, mode: PublishMode::Ingress, backends }).unwrap();
    }
    table
}

fn task_of(addr: SocketAddr) -> TaskId {
    let host = match addr.ip() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    TaskId::new(host << 16 | u128::from(addr.port()))
}

fn tcp(port: u16) -> ListenKey {
    ListenKey::any(port, Protocol::Tcp)
}

fn udp(port: u16) -> ListenKey {
    ListenKey::any(port, Protocol::Udp)
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A task: `serve` runs for each connection, in threads that end with the process.
fn task(at: &str, serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

/// A task that says its name and then echoes.
fn echo_task(at: &str, name: &'static str) -> SocketAddr {
    task(at, move |mut stream| {
        if stream.write_all(name.as_bytes()).is_ok() {
            let mut buffer = [0; 4_096];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        }
    })
}

fn connect(at: &str) -> TcpStream {
    try_connect(at).unwrap()
}

fn try_connect(at: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr(at), DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

fn read_name(stream: &mut TcpStream, length: usize) -> std::io::Result<String> {
    let mut name = vec![0; length];
    stream.read_exact(&mut name)?;
    Ok(String::from_utf8(name).unwrap())
}

/// The name that whoever answers at `at` says.
fn name_at(at: &str) -> std::io::Result<String> {
    read_name(&mut try_connect(at)?, 3)
}

/// Waits for `done`, looking often.
#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z'))
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).unwrap().count()
}
