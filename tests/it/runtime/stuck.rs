//! Shims and runc that stand still: what hangs is settled, and nobody else has to wait for it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep::host::runtime::FoundState;

use super::{World, shim_pid, task, until};

/// Stops the shim of a task where it is.
fn freeze(world: &World, n: u128) -> Pid {
    let shim = Pid::from_raw(shim_pid(world, task(n)));
    kill(shim, Signal::SIGSTOP).unwrap();
    shim
}

#[test]
fn shims_that_do_not_answer_keep_nobody_waiting() {
    let mut world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    world.launch(task(2), &world.shell("sleep 1000")).unwrap();
    let inputs = world.shell("echo ran; sleep 1000");
    world.runtime().prepare(task(3), &inputs).unwrap();
    world.runtime().create(task(3)).unwrap();
    let frozen = [freeze(&world, 1), freeze(&world, 3)];
    // A daemon that died while runc made a container.
    world.runtime().prepare(task(4), &inputs).unwrap();
    world.hang_runc("create", true);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| world.runtime().create(task(4)));
        until("runc hangs", || !world.hanging().is_empty());
        let begun = Instant::now();
        let found = world.runtime().found().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].state, FoundState::Silent);
        assert!(matches!(found[1].state, FoundState::Running { .. }), "{found:?}");
        assert_eq!(found[2].state, FoundState::Created);
        assert_eq!(found[3].state, FoundState::Parts);
        for (pid, _) in world.hanging() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
        making.join().unwrap().unwrap();
    });
    world.hang_runc("create", false);
    world.reopen().found().unwrap();
    for shim in frozen {
        kill(shim, Signal::SIGCONT).unwrap();
    }
    // Its end is told although it was silent when it was found.
    world.runtime().kill(task(1)).unwrap();
    assert_eq!(world.wait(task(1)).code, 137);
    world.runtime().start(task(3)).unwrap();
    until("the output", || world.log(task(3)) == "ran\n");
}

#[test]
fn a_shim_whose_socket_is_full_is_watched_all_the_same() {
    let mut world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let shim = freeze(&world, 1);
    // Connections that it never takes are all that can wait.
    for _ in 0..6 {
        assert_eq!(world.reopen().found().unwrap()[0].state, FoundState::Silent);
    }
    let path = world.config.exec_root.join(format!("tasks/{}/shim.sock", task(1)));
    let waiting = fill_up(&path);
    assert_eq!(world.reopen().found().unwrap()[0].state, FoundState::Silent);
    drop(waiting);
    kill(shim, Signal::SIGKILL).unwrap();
    let exit = world.wait(task(1));
    assert_eq!((exit.code, exit.shim_lost), (255, true));
}

#[test]
fn a_shim_that_takes_no_connection_is_tried_again_while_others_speak() {
    let mut world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let shim = freeze(&world, 1);
    let path = world.config.exec_root.join(format!("tasks/{}/shim.sock", task(1)));
    let waiting = fill_up(&path);
    assert_eq!(world.reopen().found().unwrap()[0].state, FoundState::Silent);
    let (told, spoken) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !told.load(Ordering::SeqCst) {
                let n = spoken.fetch_add(1, Ordering::SeqCst) + 2;
                world.launch(task(n.into()), &world.inputs(&["true"])).unwrap();
                world.runtime().remove(task(n.into())).unwrap();
            }
        });
        until("another one speaks", || spoken.load(Ordering::SeqCst) > 1);
        kill(shim, Signal::SIGKILL).unwrap();
        // Whatever happens, the other thread ends.
        let exit = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.wait(task(1))));
        told.store(true, Ordering::SeqCst);
        let exit = exit.unwrap();
        assert_eq!((exit.code, exit.shim_lost), (255, true));
    });
    drop(waiting);
}

/// Connections until no more are taken.
fn fill_up(path: &std::path::Path) -> Vec<std::os::fd::OwnedFd> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let mut all = Vec::new();
    loop {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
        let address = UnixAddr::new(path).unwrap();
        match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
            Ok(()) => all.push(fd),
            Err(err) => {
                assert_eq!(err, nix::errno::Errno::EAGAIN);
                return all;
            }
        }
    }
}

/// The shim of a prepared task gives runc this long.
fn limit_runc(world: &World, n: u128, seconds: u32) {
    let path = world.config.exec_root.join(format!("tasks/{}/shim.args", task(n)));
    let text = std::fs::read_to_string(&path).unwrap();
    let short = |text: String, key: &str, long: u32| {
        let (old, new) = (format!("{key}\0{long}\0"), format!("{key}\0{seconds}\0"));
        assert!(text.contains(&old), "{text:?}");
        text.replace(&old, &new)
    };
    let text = short(short(text, "create-seconds", 120), "start-seconds", 60);
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_runc_that_takes_too_long_is_killed() {
    let world = World::new();
    let inputs = world.shell("sleep 1000");
    for word in ["create", "start"] {
        world.hang_runc(word, true);
        world.runtime().prepare(task(1), &inputs).unwrap();
        limit_runc(&world, 1, 1);
        let begun = Instant::now();
        let made = world.runtime().create(task(1)).and_then(|()| world.runtime().start(task(1)));
        let text = made.unwrap_err().full_text();
        assert_eq!(text, format!("runc {word} did not end within 1 s and was killed"));
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        until("its end", || world.hanging().is_empty());
        world.hang_runc(word, false);
        if word == "start" {
            assert!(world.runtime().start(task(1)).unwrap() > 0, "another try may work");
        }
        world.runtime().remove(task(1)).unwrap();
    }
}

#[test]
fn removal_does_not_wait_for_a_runc_that_stands_still() {
    let world = World::new();
    let inputs = world.shell("sleep 1000");
    for word in ["create", "start"] {
        world.runtime().prepare(task(1), &inputs).unwrap();
        world.hang_runc(word, true);
        std::thread::scope(|scope| {
            // As an earlier daemon began it.
            let made = scope.spawn(|| {
                world.runtime().create(task(1)).and_then(|()| world.runtime().start(task(1)))
            });
            until("runc hangs", || !world.hanging().is_empty());
            let begun = Instant::now();
            world.runtime().clean(task(1)).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
            until("its end", || world.hanging().is_empty());
            assert!(made.join().unwrap().is_err());
        });
        world.hang_runc(word, false);
        world.runtime().remove(task(1)).unwrap();
        let calls = std::fs::read_to_string(world.base.join("runc-calls")).unwrap();
        assert!(calls.contains(word), "{calls}");
        assert_eq!(world.runtime().found().unwrap(), []);
    }
}

/// A process that has ended, and may have yet to be reaped.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_container_whose_shim_stands_still_can_be_killed() {
    let world = World::new();
    let pid = world.launch(task(1), &world.shell("sleep 1000 & sleep 1000")).unwrap();
    freeze(&world, 1);
    assert!(world.runtime().kill(task(1)).unwrap());
    until("its end", || has_ended(pid));
    let exit = world.wait(task(1));
    assert_eq!((exit.code, exit.shim_lost), (255, true));
    world.runtime().clean(task(1)).unwrap();
    assert!(world.runtime().exit_record(task(1)).unwrap().unwrap().shim_lost);
}

#[test]
fn a_container_whose_shim_stands_still_can_be_removed() {
    let world = World::new();
    let pid = world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let path = world.config.exec_root.join(format!("tasks/{}/shim.sock", task(1)));
    freeze(&world, 1);
    let waiting = fill_up(&path);
    world.runtime().remove(task(1)).unwrap();
    assert!(has_ended(pid));
    drop(waiting);

    // So can one that is just made: no runc goes on with it.
    world.runtime().prepare(task(2), &world.shell("sleep 1000")).unwrap();
    world.hang_runc("create", true);
    std::thread::scope(|scope| {
        let made = scope.spawn(|| world.runtime().create(task(2)));
        until("runc hangs", || !world.hanging().is_empty());
        freeze(&world, 2);
        world.runtime().remove(task(2)).unwrap();
        until("its end", || world.hanging().is_empty());
        assert!(made.join().unwrap().is_err());
    });
    assert_eq!(world.runtime().found().unwrap(), []);
}

#[test]
fn a_container_whose_shim_stands_still_is_not_started_and_ends() {
    let world = World::new();
    world.runtime().prepare(task(1), &world.shell("sleep 1000")).unwrap();
    world.runtime().create(task(1)).unwrap();
    freeze(&world, 1);
    assert!(world.runtime().start(task(1)).unwrap_err().is_temporary());
    let err = world.runtime().start(task(1)).unwrap_err();
    assert!(!err.is_temporary(), "tried again for ever: {}", err.full_text());
    assert!(world.wait(task(1)).shim_lost);
}

#[test]
fn the_runc_that_was_checked_is_the_one_that_runs() {
    let mut world = World::new();
    world.runtime = None;
    let calls = world.base.join("runc-calls");
    std::fs::remove_file(&calls).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/bin", world.base.join("bin").display());
    assert!(super::crash::helper(&world, "life").run_with_path(&path).success());
    let calls = std::fs::read_to_string(calls).unwrap();
    for word in ["--version", " create ", " start "] {
        assert!(calls.contains(word), "{calls}");
    }
    world.reopen();
}
