//! Looks at whether a container is well, in real ones.

use std::time::Duration;

use skep::host::runtime::Look;

use super::{LIMIT, World, processes, strings, task, until};

/// Folders of the cgroup of looks of a task.
fn cgroups(world: &World, n: u128) -> Vec<String> {
    let below = format!("{}/{}/probe", world.config.cgroup_parent.trim_start_matches('/'), task(n));
    let all = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let all = all.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    let folders = all.map(|root: std::path::PathBuf| root.join(&below)).filter(|it| it.exists());
    folders.map(|folder| folder.display().to_string()).collect()
}

fn running(words: &str) -> bool {
    processes().iter().any(|(_, args)| args.trim() == words)
}

#[test]
fn a_look_has_the_containers_user_environment_and_folder() {
    let world = World::new();
    let mut inputs = world.shell("sleep 1000");
    inputs.container.env = vec!["COLOUR=green".into()];
    inputs.container.user = "12:34".into();
    inputs.container.dir = "/tmp".into();
    world.launch(task(1), &inputs).unwrap();
    let script = "echo $COLOUR $(id -u) $(id -g) $(pwd); echo oops >&2; exit 3";
    let look = world.runtime().look(task(1), &strings(&["sh", "-c", script]), LIMIT).unwrap();
    let output = "green 12 34 /tmp\noops\n".to_owned();
    assert_eq!(look, Look::Exited { code: 3, output });
    let look = world.runtime().look(task(1), &strings(&["true"]), LIMIT).unwrap();
    assert_eq!(look, Look::Exited { code: 0, output: String::new() });
    let look = world.runtime().look(task(1), &strings(&["/nope", "-x"]), LIMIT).unwrap();
    let Look::Exited { code, output } = look else { panic!("{look:?}") };
    assert!(code != 0 && output.contains("/nope"), "{code}: {output}");
    assert_eq!(cgroups(&world, 1), Vec::<String>::new());
}

#[test]
fn what_takes_too_long_is_killed_with_all_that_it_has_started() {
    let world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let script = "(sleep 4241 &) ; sleep 4242 & sleep 4243";
    let short = Duration::from_secs(2);
    let look = world.runtime().look(task(1), &strings(&["sh", "-c", script]), short).unwrap();
    assert_eq!(look, Look::Late);
    // Also what one has left behind that ended in time.
    let script = "(sleep 4244 >/dev/null 2>&1 &) ; exit 0";
    let look = world.runtime().look(task(1), &strings(&["sh", "-c", script]), LIMIT).unwrap();
    assert_eq!(look, Look::Exited { code: 0, output: String::new() });
    for left in ["sleep 4241", "sleep 4242", "sleep 4243", "sleep 4244"] {
        until(left, || !running(left));
    }
    assert_eq!(cgroups(&world, 1), Vec::<String>::new());
    assert!(running("sleep 1000"), "the container goes on");
}

#[test]
fn what_is_printed_is_cut() {
    let world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    let script = "yes | head -c 20000; yes | head -c 20000 >&2";
    let look = world.runtime().look(task(1), &strings(&["sh", "-c", script]), LIMIT).unwrap();
    let Look::Exited { code: 0, output } = look else { panic!("{look:?}") };
    assert_eq!(output.len(), 4096);
}

#[test]
fn a_container_that_ended_is_not_looked_at() {
    let world = World::new();
    world.launch(task(1), &world.shell("sleep 1000")).unwrap();
    std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            let argv = strings(&["sh", "-c", "sleep 4245"]);
            world.runtime().look(task(1), &argv, LIMIT).unwrap()
        });
        until("the look", || running("sleep 4245"));
        world.runtime().kill(task(1)).unwrap();
        assert_eq!(look.join().unwrap(), Look::Ended);
    });
    world.wait(task(1));
    let look = world.runtime().look(task(1), &strings(&["true"]), LIMIT).unwrap();
    assert_eq!(look, Look::Ended);
}
