//! The daemon is killed between any two steps; what comes after it clears up or goes on.
//!
//! The daemon is this test program itself, started again with [`helper_process`] as its only
//! test.

use std::process::{Command, ExitStatus, Stdio};

use skep::base::rng::Rng;
use skep::host::failpoint::{self, Point};
use skep::host::runtime::{FoundState, Runtime, RuntimeConfig};

use super::{World, task, until};

/// Where the helper finds what it is to do.
const JOB: &str = "SKEP_IT_HELPER";

/// Times a daemon is killed at a random moment.
const RANDOM_KILLS: u32 = 12;

/// A helper that can be put behind another program.
pub(super) struct Helper {
    job: String,
    wrapper: Vec<String>,
}

/// A helper on the roots of `world` that does `job`: `life`, `life=POINT` or `forever`.
pub(super) fn helper(world: &World, job: &str) -> Helper {
    let config = &world.config;
    let job = format!(
        "{}\n{}\n{}\n{job}",
        config.data_root.display(),
        config.exec_root.display(),
        config.cgroup_parent
    );
    Helper { job, wrapper: Vec::new() }
}

impl Helper {
    pub(super) fn wrap(mut self, program: &str, args: &[&str]) -> Self {
        self.wrapper = super::strings(&[&[program], args].concat());
        self
    }

    pub(super) fn wrap_arg(mut self, arg: &str) -> Self {
        self.wrapper.push(arg.to_owned());
        self
    }

    fn command(&self) -> Command {
        let own = std::env::current_exe().unwrap();
        let mut words = self.wrapper.iter().map(Into::into).chain([own.into_os_string()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        command.args(["--exact", "--ignored", "runtime::crash::helper_process"]);
        command.env(JOB, &self.job).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        command
    }

    /// Runs it with another search path.
    pub(super) fn run_with_path(&self, path: &str) -> ExitStatus {
        self.command().env("PATH", path).status().unwrap()
    }

    pub(super) fn run(&self) -> ExitStatus {
        self.command().status().unwrap()
    }
}

#[test]
#[ignore = "the daemon of the other tests; does nothing by itself"]
fn helper_process() {
    let job = std::env::var(JOB).unwrap();
    let lines: Vec<&str> = job.lines().collect();
    let config = RuntimeConfig {
        data_root: lines[0].into(),
        exec_root: lines[1].into(),
        cgroup_parent: lines[2].into(),
        runc: "runc".into(),
        exe: env!("CARGO_BIN_EXE_skep").into(),
    };
    let base = config.data_root.parent().unwrap().to_owned();
    let runtime = Some(Runtime::open(config.clone()).unwrap());
    let mut world = World { base, config, runtime };
    if let Some(point) = lines[3].strip_prefix("life=") {
        failpoint::arm(point.parse().unwrap());
    }
    let mut n = 1;
    loop {
        one_life(&world, task(n));
        n += 1;
        if lines[3] != "forever" {
            break;
        }
    }
    // The roots are the caller's.
    world.runtime = None;
}

fn inputs(world: &World) -> skep::host::runtime::ContainerInputs {
    let mut inputs = world.shell("cat /data/file; exit 3");
    if std::env::var(JOB).is_ok_and(|job| job.ends_with("\nlife")) {
        return inputs;
    }
    inputs.image.volumes = super::strings(&["/data"]);
    inputs
}

fn one_life(world: &World, task: skep::base::id::TaskId) {
    assert_eq!(world.run(task, &inputs(world)).code, 3);
    world.runtime().clean(task).unwrap();
    if !std::env::var(JOB).unwrap().ends_with("life") {
        world.runtime().remove(task).unwrap();
    }
}

fn container_points() -> impl Iterator<Item = Point> {
    Point::ALL.iter().copied().filter(|point| point.name().starts_with("container."))
}

/// Kills a daemon at `point` and opens the runtime again.
fn killed_at(point: Point) -> World {
    let mut world = World::new();
    world.runtime = None;
    let status = helper(&world, &format!("life={}", point.name())).run();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "{} is not on the way",
        point.name()
    );
    world.reopen();
    world
}

#[test]
fn killed_at_every_step_it_is_cleared_up() {
    for point in container_points() {
        let world = killed_at(point);
        let found = world.runtime().found().unwrap();
        assert!(found.len() <= 1, "{} {found:?}", point.name());
        world.runtime().remove(task(1)).unwrap();
        assert_eq!(world.runtime().found().unwrap(), []);
        assert_eq!(world.runtime().volumes().list().unwrap(), [], "{}", point.name());
        // What was left of a volume goes in the background.
        until("nothing of its volume", || {
            std::fs::read_dir(world.config.data_root.join("volumes")).unwrap().count() == 0
        });
    }
}

#[test]
fn killed_at_every_step_it_goes_on() {
    for point in container_points() {
        let world = killed_at(point);
        let runtime = world.runtime();
        let found = runtime.found().unwrap();
        let state = found.first().map_or(FoundState::Parts, |found| found.state);
        match state {
            FoundState::Parts => {
                runtime.prepare(task(1), &inputs(&world)).unwrap();
                runtime.create(task(1)).unwrap();
                runtime.start(task(1)).unwrap();
            }
            FoundState::Created => drop(runtime.start(task(1)).unwrap()),
            FoundState::Running { .. } | FoundState::Exited(_) => {}
            FoundState::Silent => panic!("{}: {found:?}", point.name()),
        }
        until("the exit record", || runtime.exit_record(task(1)).unwrap().is_some());
        let exit = runtime.exit_record(task(1)).unwrap().unwrap();
        assert_eq!((exit.code, exit.shim_lost), (3, false), "{}", point.name());
        // The output came once, or twice where everything had been taken away before.
        assert!(world.log(task(1)).starts_with("from the image\n"), "{}", point.name());
    }
}

#[test]
fn killed_at_random_moments_nothing_is_left() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for _ in 0..RANDOM_KILLS {
        let mut world = World::new();
        world.runtime = None;
        let mut daemon = helper(&world, "forever").command().spawn().unwrap();
        let pause = std::time::Duration::from_millis(rng.below(1_500));
        smol::block_on(smol::Timer::after(pause));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        world.reopen();
        for found in world.runtime().found().unwrap() {
            world.runtime().remove(found.task).unwrap();
        }
        assert_eq!(world.runtime().volumes().list().unwrap(), [], "seed {seed}");
        world.runtime().purge();
        assert_eq!(world.leaks(), Vec::<String>::new(), "seed {seed}");
    }
}
