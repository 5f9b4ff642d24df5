//! The shim itself: its size, its loss, its protocol.

use std::os::fd::AsRawFd;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
};
use nix::unistd::Pid;
use skep::host::runtime::FoundState;

use super::{World, shim_pid, task, until};

/// What one line of `/proc/PID/FILE` says.
fn proc_value(pid: i32, file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The process's own memory: without the program's text, which all skep processes share.
fn own_kib(pid: i32) -> u64 {
    proc_value(pid, "smaps_rollup", "Anonymous:")
}

#[test]
fn one_thread_and_the_same_memory_whatever_is_logged() {
    let world = World::new();
    let script = "head -c 1000 /dev/zero | tr '\\0' x; echo; read line < /dev/zero & \
        while [ ! -e /go ]; do sleep 0.05; done; \
        yes 'a line like many others that a program prints all day' | head -c 100000000; \
        touch /done; sleep 1000";
    world.launch(task(1), &world.shell(script)).unwrap();
    until("the first line", || world.log(task(1)).ends_with("x\n"));
    let shim = shim_pid(&world, task(1));
    assert_eq!(proc_value(shim, "status", "Threads:"), 1);
    let before = own_kib(shim);
    let root = world.config.exec_root.join(format!("tasks/{}/rootfs", task(1)));
    std::fs::write(root.join("go"), "").unwrap();
    until("the output", || root.join("done").exists());
    until("the log", || {
        let (written, _) = world.runtime().log_counts(task(1)).unwrap();
        written > 1_700_000
    });
    let after = own_kib(shim);
    assert!(after <= before + 64, "{before} KiB before and {after} KiB after 100 MB");
    // A machine may refuse even root a lower score; then the shim goes on without it.
    let allowed = std::process::Command::new("sh")
        .args(["-c", "echo -999 2>/dev/null >/proc/self/oom_score_adj"])
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
        .success();
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{shim}/oom_score_adj")).unwrap().trim() == "-999",
        allowed
    );
    // Lock, socket, signals, two pipes, the log, /dev/null and the three standard ones.
    let open = std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
    assert!(open <= 12, "{open} descriptors");
}

#[test]
fn a_lost_shim_is_told_and_its_container_cleared() {
    let mut world = World::new();
    let pid = world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    kill(Pid::from_raw(shim_pid(&world, task(1))), Signal::SIGKILL).unwrap();
    let exit = world.wait(task(1));
    assert_eq!((exit.code, exit.shim_lost), (255, true));
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "it runs on until cleared");
    let found = world.reopen().found().unwrap();
    assert!(matches!(found[0].state, FoundState::Exited(exit) if exit.shim_lost), "{found:?}");
    world.runtime().clean(task(1)).unwrap();
    until("the container's end", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    let found = world.reopen().found().unwrap();
    assert!(matches!(found[0].state, FoundState::Exited(exit) if exit.shim_lost), "{found:?}");
}

#[test]
fn termination_signals_do_not_end_it() {
    let world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let shim = Pid::from_raw(shim_pid(&world, task(1)));
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGUSR1]
    {
        kill(shim, signal).unwrap();
    }
    assert!(world.runtime().kill(task(1)).unwrap());
    assert_eq!(world.wait(task(1)).code, 137);
}

#[test]
fn an_exit_record_that_cannot_be_written_is_kept_and_tried_again() {
    let mut world = World::new();
    world.launch(task(1), &world.shell("sleep 0.3; exit 6")).unwrap();
    let folder = world.runtime().task_folder(task(1));
    std::fs::create_dir(folder.join("exit.new")).unwrap();
    assert_eq!(world.wait(task(1)).code, 6);
    assert_eq!(world.runtime().exit_record(task(1)).unwrap(), None);
    let found = world.reopen().found().unwrap();
    assert!(matches!(found[0].state, FoundState::Exited(exit) if exit.code == 6), "{found:?}");
    std::fs::remove_dir(folder.join("exit.new")).unwrap();
    until("the record", || world.runtime().exit_record(task(1)).unwrap().is_some());
    assert_eq!(world.runtime().exit_record(task(1)).unwrap().unwrap().code, 6);
}

#[test]
fn a_damaged_exit_record_is_not_used() {
    let mut world = World::new();
    world.run(task(1), &world.shell("exit 6"));
    let path = world.runtime().task_folder(task(1)).join("exit");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[12] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let found = world.reopen().found().unwrap();
    assert!(matches!(found[0].state, FoundState::Exited(exit) if exit.shim_lost), "{found:?}");
}

#[test]
fn nonsense_on_the_socket_ends_only_that_connection() {
    let world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let path = world.config.exec_root.join(format!("tasks/{}/shim.sock", task(1)));
    let open = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        connect(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        fd
    };
    for nonsense in
        [&b"x"[..], b"SK\x01\x02", &[0xff; 600], b"SK\x09\x01\x04\x00\x00\x00\x01\x00\x00\x00"]
    {
        let fd = open();
        send(fd.as_raw_fd(), nonsense, MsgFlags::empty()).unwrap();
        let mut buf = [0; 16];
        assert!(matches!(recv(fd.as_raw_fd(), &mut buf, MsgFlags::empty()), Ok(0) | Err(_)));
    }
    // Silent clients take up places until there are none; the daemon's own connection stays.
    let silent: Vec<_> = (0..20).map(|_| open()).collect();
    drop(silent);
    assert!(world.runtime().kill(task(1)).unwrap());
    assert_eq!(world.wait(task(1)).code, 137);
}

#[test]
fn a_start_costs_no_sync() {
    let world = World::new();
    let trace = world.base.join("trace");
    let status = super::crash::helper(&world, "life")
        .wrap(
            "strace",
            &["-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs,sync", "-o"],
        )
        .wrap_arg(trace.to_str().unwrap())
        .run();
    assert!(status.success());
    let text = std::fs::read_to_string(&trace).unwrap();
    let syncs: Vec<&str> =
        text.lines().filter(|line| line.contains("sync") && line.contains('(')).collect();
    // The file and the folder of the exit record.
    assert_eq!(syncs.len(), 2, "{syncs:?}");
}
