//! From the first step of a container to its last.

use std::collections::BTreeSet;

use skep::host::runtime::FoundState;

use super::{World, task, until};

#[test]
fn exit_codes_output_and_times() {
    let world = World::new();
    let exit = world.run(task(1), &world.shell("echo out; sleep 0.1; echo err >&2; exit 42"));
    assert_eq!((exit.code, exit.oom, exit.shim_lost), (42, false, false));
    assert!(exit.started.0 > 0 && exit.started <= exit.finished);
    assert_eq!(world.log(task(1)), "out\nerr\n");
    let raw = std::fs::read_to_string(world.runtime().task_folder(task(1)).join("log/json.log"));
    let raw = raw.unwrap();
    assert!(raw.contains(r#"{"log":"out\n","stream":"stdout","time":"20"#), "{raw}");
    assert!(raw.contains(r#"{"log":"err\n","stream":"stderr","time":"20"#), "{raw}");
    assert_eq!(world.run(task(2), &world.inputs(&["true"])).code, 0);
    world.runtime().remove(task(1)).unwrap();
    world.runtime().remove(task(1)).unwrap();
    assert!(!world.runtime().task_folder(task(1)).exists());
}

#[test]
fn signals_reach_the_process_and_kill_ends_it() {
    let world = World::new();
    let script = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    world.launch(task(1), &world.shell(script)).unwrap();
    until("the trap", || world.log(task(1)).contains("ready"));
    assert!(world.runtime().stop(task(1)).unwrap());
    assert_eq!(world.wait(task(1)).code, 7);
    assert!(!world.runtime().stop(task(1)).unwrap(), "nobody is left");

    let mut inputs = world.shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done");
    inputs.image.stop_signal = "SIGUSR1".into();
    world.launch(task(2), &inputs).unwrap();
    until("the trap", || world.log(task(2)).contains("ready"));
    world.runtime().stop(task(2)).unwrap();
    assert_eq!(world.wait(task(2)).code, 9);

    world.launch(task(3), &world.shell("trap '' TERM; sleep 1000")).unwrap();
    assert!(world.runtime().kill(task(3)).unwrap());
    assert_eq!(world.wait(task(3)).code, 137);
    assert!(world.runtime().signal(task(9), 15).is_ok_and(|sent| !sent));
}

/// Freezes a container as `runc pause` does.
fn pause(world: &World, n: u128) {
    let id = format!("{}/{}", world.config.cgroup_parent.trim_start_matches('/'), task(n));
    let (one, two) = (format!("/sys/fs/cgroup/freezer/{id}"), format!("/sys/fs/cgroup/{id}"));
    if std::path::Path::new(&one).exists() {
        // What forks meanwhile may get away, or wait for a child that is frozen already: it is told
        // again, and let go now and then, as by runc.
        let mut tries = 0;
        until("it is frozen", || {
            let state = format!("{one}/freezer.state");
            tries += 1;
            if tries % 20 == 0 {
                std::fs::write(&state, "THAWED").unwrap();
                return false;
            }
            std::fs::write(&state, "FROZEN").unwrap();
            std::fs::read_to_string(&state).unwrap().trim() == "FROZEN"
        });
    } else {
        std::fs::write(format!("{two}/cgroup.freeze"), "1").unwrap();
        until("it is frozen", || {
            std::fs::read_to_string(format!("{two}/cgroup.events")).unwrap().contains("frozen 1")
        });
    }
}

#[test]
fn a_paused_container_acts_on_its_signals() {
    let world = World::new();
    let script = "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    world.launch(task(1), &world.shell(script)).unwrap();
    until("the trap", || world.log(task(1)).contains("ready"));
    pause(&world, 1);
    assert!(world.runtime().stop(task(1)).unwrap());
    assert_eq!(world.wait(task(1)).code, 7);

    world.launch(task(2), &world.shell("trap '' TERM; sleep 1000")).unwrap();
    pause(&world, 2);
    assert!(world.runtime().kill(task(2)).unwrap());
    assert_eq!(world.wait(task(2)).code, 137);

    // Also where nobody is there that could send one.
    world.launch(task(3), &world.shell("sleep 1000")).unwrap();
    pause(&world, 3);
    world.runtime().remove(task(3)).unwrap();
}

#[test]
fn errors_are_runcs_and_dockers() {
    let world = World::new();
    let text = |inputs| {
        let err = world.launch(task(1), &inputs).unwrap_err();
        world.runtime().remove(task(1)).unwrap();
        err.full_text()
    };
    let err = text(world.inputs(&["/nope"]));
    assert!(err.starts_with("runc create failed: ") && err.contains("/nope"), "{err}");
    assert_eq!(err.matches("runc create failed").count(), 1, "{err}");
    assert!(err.contains("no such file or directory"), "{err}");
    let err = text(world.inputs(&["nope"]));
    assert!(err.contains("exec: \"nope\": executable file not found in $PATH"), "{err}");
    let err = text(world.inputs(&["/etc/passwd"]));
    assert!(err.contains("permission denied"), "{err}");
    assert!(text(world.inputs(&[])).contains("no command specified"));
    let mut inputs = world.inputs(&["true"]);
    inputs.image.lowerdirs.push(world.base.join("gone"));
    assert!(text(inputs).contains("gone\": No such file"));
    assert!(world.runtime().start(task(5)).unwrap_err().to_string().contains("not started"));
}

#[test]
fn memory_limit_is_told() {
    let world = World::new();
    let mut inputs = world.shell("x=a; while :; do x=$x$x; done");
    inputs.resources.limit_memory_bytes = 16 << 20;
    let exit = world.run(task(1), &inputs);
    assert_eq!((exit.code, exit.oom), (137, true));
    let exit = world.runtime().exit_record(task(1)).unwrap().unwrap();
    assert!(exit.oom);
    world.launch(task(2), &world.shell("sleep 1000")).unwrap();
    world.runtime().kill(task(2)).unwrap();
    assert!(!world.wait(task(2)).oom);
    let mut inputs = world.shell("sh -c 'x=a; while :; do x=$x$x; done'; exit 3");
    inputs.resources.limit_memory_bytes = 16 << 20;
    let exit = world.run(task(3), &inputs);
    assert_eq!((exit.code, exit.oom), (3, true), "any of its processes counts");
}

#[test]
fn adoption_after_a_restart() {
    let mut world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let inputs = world.shell("exit 3");
    world.runtime().prepare(task(2), &inputs).unwrap();
    world.runtime().create(task(2)).unwrap();
    world.runtime().prepare(task(3), &inputs).unwrap();
    world.run(task(4), &inputs);
    let runtime = world.reopen();
    let found = runtime.found().unwrap();
    assert_eq!(found.len(), 4);
    let FoundState::Running { pid, started } = found[0].state else { panic!("{found:?}") };
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists() && started.0 > 0);
    assert_eq!(found[1].state, FoundState::Created);
    assert_eq!(found[2].state, FoundState::Parts);
    let FoundState::Exited(exit) = found[3].state else { panic!("{found:?}") };
    assert_eq!((exit.code, exit.shim_lost), (3, false));
    // They go on where they were.
    runtime.start(task(2)).unwrap();
    assert_eq!(world.wait(task(2)).code, 3);
    world.runtime().kill(task(1)).unwrap();
    assert_eq!(world.wait(task(1)).code, 137);
    world.runtime().create(task(3)).unwrap();
    world.runtime().start(task(3)).unwrap();
    assert_eq!(world.wait(task(3)).code, 3);
}

#[test]
fn an_end_while_nobody_watches_is_found() {
    let mut world = World::new();
    let script = "while [ ! -e /go ]; do sleep 0.05; done; exit 5";
    world.launch(task(1), &world.shell(script)).unwrap();
    world.runtime = None;
    let root = world.config.exec_root.join(format!("tasks/{}/rootfs", task(1)));
    std::fs::write(root.join("go"), "").unwrap();
    let record = world.config.data_root.join(format!("tasks/{}/exit", task(1)));
    until("the record", || record.exists());
    let found = world.reopen().found().unwrap();
    let FoundState::Exited(exit) = found[0].state else { panic!("{found:?}") };
    assert_eq!(exit.code, 5);
}

#[test]
fn every_call_may_come_twice() {
    let world = World::new();
    let inputs = world.shell("sleep 1000");
    for _ in 0..2 {
        world.runtime().prepare(task(1), &inputs).unwrap();
    }
    for _ in 0..2 {
        world.runtime().create(task(1)).unwrap();
        world.runtime().prepare(task(1), &inputs).unwrap();
    }
    let first = world.runtime().start(task(1)).unwrap();
    assert_eq!(world.runtime().start(task(1)).unwrap(), first);
    assert!(first > 0);
    for _ in 0..2 {
        world.runtime().clean(task(1)).unwrap();
    }
    let exit = world.runtime().exit_record(task(1)).unwrap().unwrap();
    assert_eq!(exit.code, 137);
    assert!(world.runtime().task_folder(task(1)).join("log").exists());
}

#[test]
fn many_at_once() {
    let world = World::new();
    let world = &world;
    std::thread::scope(|scope| {
        for n in 1..=8 {
            scope.spawn(move || {
                let inputs = world.shell(&format!("echo I am {n}; exit {n}"));
                world.launch(task(n), &inputs).unwrap();
            });
        }
    });
    let mut left: BTreeSet<u128> = (1..=8).collect();
    while !left.is_empty() {
        let event = world.runtime().events().recv_blocking().unwrap();
        let n = event.task.0.0;
        assert_eq!(event.exit.code, i32::try_from(n).unwrap());
        assert_eq!(world.log(event.task), format!("I am {n}\n"));
        left.remove(&n);
    }
}

#[test]
fn after_a_reboot_everything_is_parts() {
    let mut world = World::new();
    let inputs = world.shell("echo $((1+1)) >> /kept; cat /kept; sleep 1000");
    world.launch(task(1), &inputs).unwrap();
    until("the output", || world.log(task(1)).contains('2'));
    // The reboot: every process gone, every mount gone, another boot id; the disk as it was.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(super::shim_pid(&world, task(1))),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let id = task(1).to_string();
    let runc = world.config.exec_root.join("runc");
    let root = world.config.exec_root.join(format!("tasks/{id}/rootfs"));
    let deleted = std::process::Command::new("runc")
        .args(["--root", runc.to_str().unwrap(), "delete", "--force", &id])
        .status()
        .unwrap();
    assert!(deleted.success());
    world.runtime = None;
    nix::mount::umount(&root).unwrap();
    std::fs::create_dir_all(runc.join(&id)).unwrap();
    std::fs::write(world.config.exec_root.join("boot-id"), "another\n").unwrap();
    let found = world.reopen().found().unwrap();
    assert_eq!(found[0].state, FoundState::Parts);
    world.launch(task(1), &inputs).unwrap();
    until("the output", || world.log(task(1)).ends_with("2\n2\n2\n"));
}

#[test]
fn no_signal_comes_blocked_or_ignored() {
    let world = World::new();
    let text =
        world.output(task(1), &world.inputs(&["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]));
    assert_eq!(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}
