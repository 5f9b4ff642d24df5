//! The tasks' network on a real kernel. Each test is a machine of its own: a thread in a fresh
//! network namespace, and a directory that holds the pins.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use skep::base::id::{NetworkId, TaskId};
use skep::host::net::{Names, Net, NetConfig, NetError, Step, TaskAddress, TaskEndpoint, TaskNet};
use skep::host::netlink::Socket;
use skep::model::network::Subnet;

/// A dial that is let through ends long before; one that is dropped costs the test this long.
const DIAL_WAIT: Duration = Duration::from_millis(400);

const POOL: Subnet = Subnet { base: Ipv4Addr::new(10, 210, 0, 0), prefix: 16 };

/// The pins and settings of one daemon; nothing of it is left when it is dropped.
struct Root(PathBuf);

impl Root {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("skep-net-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn config(&self) -> NetConfig {
        NetConfig {
            data_root: self.0.join("data"),
            exec_root: self.0.join("exec"),
            pools: vec![POOL],
        }
    }

    fn open(&self) -> Net {
        Net::open(self.config()).unwrap()
    }

    fn pins(&self) -> usize {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let own = self.0.to_str().unwrap();
        mounts.lines().filter(|line| line.contains(own)).count()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Ok(pins) = fs::read_dir(self.0.join("exec/netns")) {
            for pin in pins.flatten() {
                let gone = umount2(&pin.path(), MntFlags::MNT_DETACH);
                assert!(matches!(gone, Ok(()) | Err(Errno::EINVAL)), "{gone:?}");
            }
        }
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Runs the test on a machine of its own.
fn machine(test: impl FnOnce(&Root) + Send) {
    assert!(nix::unistd::geteuid().is_root(), "the integration tests need root");
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh("ip link set lo up");
            test(&Root::new());
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs a command line of ours; its output.
fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs something in a namespace.
fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    let netns = File::open(netns).unwrap();
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A server in a namespace that answers each connection with the address it saw, for ever.
fn serve(netns: &Path, port: u16) {
    let listener = inside(netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            if stream.write_all(peer.to_string().as_bytes()).is_err() {
                return;
            }
        }
    });
}

/// What the server at this address answers; `None` if it cannot be reached.
fn dial(address: Ipv4Addr, port: u16) -> Option<String> {
    let to = SocketAddrV4::new(address, port).into();
    let mut stream = TcpStream::connect_timeout(&to, DIAL_WAIT).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Some(answer)
}

fn subnet(n: u8) -> Subnet {
    Subnet { base: Ipv4Addr::new(10, 210, n, 0), prefix: 24 }
}

fn address(network: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 210, network, host)
}

fn task_id(n: u8) -> TaskId {
    // Its digits differ in the ones that a link's name holds.
    TaskId::new((u128::from(n) + 1) << 100)
}

/// A task with one address on each of these networks; the host part is its number.
fn task(n: u8, networks: &[u8]) -> TaskNet {
    let address = |network: &u8| TaskAddress {
        network: NetworkId::new(u128::from(*network)),
        address: address(*network, n),
        subnet: subnet(*network),
    };
    TaskNet { task: task_id(n), addresses: networks.iter().map(address).collect() }
}

fn up(net: &Net, n: u8, networks: &[u8]) -> TaskEndpoint {
    ensure(net, &task(n, networks)).unwrap()
}

/// As the daemon does it.
fn ensure(net: &Net, wanted: &TaskNet) -> Result<TaskEndpoint, NetError> {
    let endpoint = net.link_task(wanted)?;
    net.open_task(wanted)?;
    Ok(endpoint)
}

/// Links, routes and table of this machine, without the counters.
fn traces() -> String {
    let table = "nft -s list ruleset | sed '/counter/d'";
    sh(&format!("ip -o link | cut -d: -f2; ip route show table main; {table}"))
}

#[test]
fn a_task_reaches_its_network_and_no_other() {
    machine(|root| {
        let net = root.open();
        let (a, b, c) = (up(&net, 2, &[1]), up(&net, 3, &[1]), up(&net, 4, &[2]));
        for endpoint in [&a, &b, &c] {
            serve(&endpoint.netns, 80);
        }
        assert_eq!(dial(address(1, 2), 80), Some(net.names().gateway.to_string()), "host to task");
        assert_eq!(inside(&a.netns, || dial(address(1, 3), 80)), Some("10.210.1.2".into()));
        assert_eq!(inside(&b.netns, || dial(address(1, 2), 80)), Some("10.210.1.3".into()));
        assert_eq!(inside(&a.netns, || dial(address(2, 4), 80)), None, "another network");
        assert_eq!(inside(&c.netns, || dial(address(1, 2), 80)), None, "another network");
        let both = up(&net, 5, &[1, 2]);
        assert_eq!(inside(&both.netns, || dial(address(1, 2), 80)), Some("10.210.1.5".into()));
        assert_eq!(inside(&both.netns, || dial(address(2, 4), 80)), Some("10.210.2.5".into()));
        // An address that no task has is refused at once and leaves by no other way.
        let start = Instant::now();
        assert_eq!(inside(&a.netns, || dial(address(1, 77), 80)), None);
        assert_eq!(dial(address(1, 77), 80), None);
        assert!(start.elapsed() < 2 * DIAL_WAIT + DIAL_WAIT / 2);
    });
}

#[test]
fn a_forged_source_goes_nowhere() {
    machine(|root| {
        let net = root.open();
        let (a, b, c) = (up(&net, 2, &[1]), up(&net, 3, &[1]), up(&net, 4, &[2]));
        let heard_b = inside(&b.netns, || UdpSocket::bind((address(1, 3), 9)).unwrap());
        let heard_c = inside(&c.netns, || UdpSocket::bind((address(2, 4), 9)).unwrap());
        let gateway = net.names().gateway;
        let heard_host = UdpSocket::bind((gateway, 9)).unwrap();
        for heard in [&heard_b, &heard_c, &heard_host] {
            heard.set_read_timeout(Some(DIAL_WAIT)).unwrap();
        }
        let forged = [address(2, 66), address(2, 4), address(1, 3), Ipv4Addr::new(192, 0, 2, 9)];
        inside(&a.netns, || {
            for source in forged {
                sh(&format!("ip addr replace {source}/32 dev eth0"));
                let socket = UdpSocket::bind((source, 0)).unwrap();
                for to in [address(1, 3), address(2, 4), gateway] {
                    // Its own addresses a task reaches inside; those never leave.
                    if let Err(error) = socket.send_to(b"forged", (to, 9)) {
                        eprintln!("{source} to {to}: {error}");
                    }
                }
            }
            sh("ip addr del 10.210.1.3/32 dev eth0; ip addr del 10.210.2.4/32 dev eth0");
            let honest = UdpSocket::bind((address(1, 2), 0)).unwrap();
            honest.send_to(b"honest", (address(1, 3), 9)).unwrap();
            honest.send_to(b"honest", (gateway, 9)).unwrap();
        });
        let mut buffer = [0; 16];
        for heard in [&heard_b, &heard_host] {
            let (len, from) = heard.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], b"honest", "from {from}");
            assert!(heard.recv_from(&mut buffer).is_err());
        }
        assert!(heard_c.recv_from(&mut buffer).is_err());
        let table = net.names().table.clone();
        let chain = sh(&format!("nft list chain inet {table} from_link"));
        assert!(!chain.contains("packets 0 "), "{chain}");
        // A task that makes itself an IPv6 address is not heard either.
        inside(&a.netns, || {
            assert_eq!(sh("ip -6 addr show dev eth0"), "");
            assert!(sh("ip -6 addr show dev lo").contains("::1/128"));
        });
    });
}

#[test]
fn tasks_reach_the_outside_masked_and_the_outside_reaches_no_task() {
    machine(|root| {
        let outside = root.0.join("outside");
        File::create(&outside).unwrap();
        // A second machine on a cable: 192.0.2.1 is here, 192.0.2.9 is there.
        inside_new(&outside);
        let at = outside.display();
        sh(&format!(
            "ip link add up0 mtu 1400 type veth peer name cable && nsenter --net={at} true && \
             exec 9<{at} && ip link set cable netns /proc/self/fd/9 && ip addr add 192.0.2.1/24 \
             dev up0 && ip link set up0 up && ip route add default via 192.0.2.9"
        ));
        inside(&outside, || {
            sh("ip addr add 192.0.2.9/24 dev cable && ip link set cable up && ip link set lo up");
            sh("ip route add 10.210.0.0/16 via 192.0.2.1");
        });
        let net = root.open();
        let a = up(&net, 2, &[1]);
        serve(&a.netns, 80);
        serve(&outside, 80);
        let seen = inside(&a.netns, || dial(Ipv4Addr::new(192, 0, 2, 9), 80));
        assert_eq!(seen, Some("192.0.2.1".into()));

        assert!(inside(&a.netns, || sh("ip link show eth0")).contains("mtu 1400"));
        assert_eq!(inside(&outside, || dial(address(1, 2), 80)), None, "from outside to a task");
        let gateway = net.names().gateway;
        let listener = TcpListener::bind((gateway, 80)).unwrap();
        inside(&outside, || {
            sh(&format!("ip route add {gateway}/32 via 192.0.2.1"));
            assert_eq!(dial(gateway, 80), None, "from outside to the gateway");
        });
        drop(listener);
        umount2(&outside, MntFlags::MNT_DETACH).unwrap();
    });
}

/// Pins a new namespace on a file.
fn inside_new(path: &Path) {
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            sh(&format!("mount --bind /proc/self/ns/net {}", path.display()));
        });
    });
}

#[test]
fn a_crash_behind_any_step_is_repaired_or_cleared() {
    machine(|root| {
        let net = root.open();
        let keep = up(&net, 9, &[1]);
        let before = traces();
        for last in [Step::Pinned, Step::Linked, Step::Configured, Step::Routed, Step::Ruled] {
            let wanted = task(2, &[1, 2]);
            // Crash, restart, go on.
            net.ensure_until(&wanted, last).unwrap();
            let net = root.open();
            assert!(net.list_tasks().unwrap().contains(&wanted.task), "{last:?}");
            let endpoint = ensure(&net, &wanted).unwrap();
            assert_eq!(ensure(&net, &wanted).unwrap(), endpoint);
            serve(&endpoint.netns, 80);
            assert!(inside(&keep.netns, || dial(address(1, 2), 80)).is_some(), "{last:?}");
            net.remove_task(wanted.task).unwrap();
            assert_eq!(traces(), before, "{last:?}");
            // Crash, restart, the task is not wanted any more.
            net.ensure_until(&wanted, last).unwrap();
            let net = root.open();
            let gone = net.retain(&BTreeSet::from([task_id(9)])).unwrap();
            assert_eq!(gone, [wanted.task.to_string()], "{last:?}");
            assert_eq!(traces(), before, "{last:?}");
            assert_eq!(root.pins(), 1, "{last:?}");
        }
        // A removal that lost its memory: the pin is gone, the link is not.
        net.ensure_until(&task(2, &[1]), Step::Linked).unwrap();
        umount2(&net.netns_path(task_id(2)), MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(net.netns_path(task_id(2))).unwrap();
        net.retain(&BTreeSet::from([task_id(9)])).unwrap();
        assert_eq!(traces(), before);
        // The link has ended by itself with its namespace.
        let endpoint = up(&net, 2, &[1, 2]);
        sh(&format!("ip link del {}", endpoint.link));
        net.remove_task(task_id(2)).unwrap();
        assert_eq!(traces(), before);
        net.remove_task(task_id(9)).unwrap();
        net.remove_task(task_id(9)).unwrap();
        assert_eq!(root.pins(), 0);
    });
}

#[test]
fn a_link_that_goes_while_the_table_is_made_anew_leaves_nothing_in_it() {
    machine(|root| {
        let net = root.open();
        up(&net, 9, &[1]);
        let before = traces();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // Its link ends by itself: its removal makes the table anew.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let endpoint = up(&net, 2, &[1]);
                    sh(&format!("ip link del {}", endpoint.link));
                    net.remove_task(task_id(2)).unwrap();
                }
            });
            for _ in 0..40 {
                up(&net, 3, &[1]);
                net.remove_task(task_id(3)).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        assert_eq!(traces(), before);
        net.remove_task(task_id(9)).unwrap();
    });
}

#[test]
fn taking_all_away_leaves_the_machine_as_it_was() {
    machine(|root| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let before = traces();
        let net = root.open();
        for n in 2..6 {
            up(&net, n, &[1, n]);
        }
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "1\n");
        net.teardown_all().unwrap();
        assert_eq!(traces(), before);
        assert_eq!(root.pins(), 0);
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), "0\n");
        net.teardown_all().unwrap();
    });
}

#[test]
fn two_daemons_on_one_machine_leave_each_other_alone() {
    machine(|root| {
        let other_root = Root::new();
        let (net, other) = (root.open(), other_root.open());
        let (a, b) = (up(&net, 2, &[1]), up(&net, 3, &[1]));
        let x = up(&other, 4, &[1]);
        for endpoint in [&a, &b, &x] {
            serve(&endpoint.netns, 80);
        }
        assert_eq!(inside(&a.netns, || dial(address(1, 3), 80)), Some("10.210.1.2".into()));
        assert!(dial(address(1, 4), 80).is_some(), "the other daemon's host reaches its task");
        assert_eq!(inside(&a.netns, || dial(address(1, 4), 80)), None, "across daemons");
        assert_eq!(inside(&x.netns, || dial(address(1, 2), 80)), None, "across daemons");
        let taken = TaskNet { task: task_id(7), ..task(2, &[1]) };
        let error = ensure(&other, &taken).unwrap_err();
        assert!(matches!(error, NetError::AddressTaken { .. }), "{error}");
        other.remove_task(taken.task).unwrap();
        assert_eq!(other.list_tasks().unwrap(), BTreeSet::from([task_id(4)]));
        other.retain(&BTreeSet::new()).unwrap();
        other.teardown_all().unwrap();
        assert_eq!(inside(&a.netns, || dial(address(1, 3), 80)), Some("10.210.1.2".into()));
        net.teardown_all().unwrap();
    });
}

#[test]
fn a_flushed_table_comes_back() {
    machine(|root| {
        let net = root.open();
        let a = up(&net, 2, &[1]);
        serve(&a.netns, 80);
        assert!(!net.repair_table().unwrap());
        sh("nft flush ruleset");
        let b = up(&net, 3, &[1]);
        assert!(sh("nft list ruleset").contains("10.210.1.2"), "the first task is in it again");
        sh("nft flush ruleset");
        assert!(net.repair_table().unwrap());
        assert!(sh("nft list ruleset").contains("10.210.1.3"));
        assert!(inside(&b.netns, || dial(address(1, 2), 80)).is_some());
        sh("nft flush ruleset");
        net.remove_task(task_id(3)).unwrap();
        // From here on it is kept without a call.
        let net = Arc::new(net);
        net.keep_table().unwrap();
        assert!(net.repair_table().unwrap());
        for _ in 0..3 {
            sh("nft flush ruleset");
            let until = Instant::now() + Duration::from_secs(20);
            while !sh("nft list ruleset").contains("10.210.1.2") {
                assert!(Instant::now() < until, "the table does not come back");
            }
        }
    });
}

#[test]
fn what_is_in_the_way_is_told() {
    machine(|root| {
        sh("nft add table ip filter; nft add chain ip filter FORWARD \
            '{ type filter hook forward priority 0; policy drop; }'");
        sh(
            "ip link add d0 type veth peer name d1; ip link set d0 up; ip route add 10.210.7.0/24 dev d0",
        );
        let net = root.open();
        assert_eq!(net.warnings().len(), 1);
        assert!(net.warnings()[0].contains("ip filter FORWARD"), "{}", net.warnings()[0]);
        assert_eq!(net.overlapping_routes(POOL).unwrap(), [subnet(7)]);
        // The link's name is another's.
        let names = Names::new(&root.config().data_root);
        let link = names.link(task_id(2));
        sh(&format!(
            "ip link add {link} type veth peer name v1; ip link set {link} alias precious"
        ));
        let error = ensure(&net, &task(2, &[1])).unwrap_err();
        assert!(matches!(error, NetError::LinkTaken { .. }), "{error}");
        assert!(Socket::open().unwrap().link(&link).unwrap().is_some(), "it is not ours to remove");
        net.remove_task(task_id(2)).unwrap();
        assert!(Socket::open().unwrap().link(&link).unwrap().is_some(), "nor afterwards");
        assert_eq!(root.pins(), 0);
    });
}

#[test]
fn a_hundred_tasks_come_and_go() {
    machine(|root| {
        let net = root.open();
        let before = (traces(), descriptors(root));
        let start = Instant::now();
        for n in 1..=100 {
            up(&net, n, &[1]);
        }
        let added = start.elapsed();
        let start = Instant::now();
        let net = root.open();
        let opened = start.elapsed();
        assert_eq!(net.list_tasks().unwrap().len(), 100);
        let start = Instant::now();
        for n in 1..=100 {
            net.remove_task(task_id(n)).unwrap();
        }
        eprintln!(
            "100 tasks: added in {added:?}, opened in {opened:?}, removed in {:?}",
            start.elapsed()
        );
        assert_eq!((traces(), descriptors(root)), before);
        assert_eq!(root.pins(), 0);
    });
}

/// Descriptors of this process that are on a pin of this test: other tests open files meanwhile.
fn descriptors(root: &Root) -> usize {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.starts_with(&root.0)).count()
}
