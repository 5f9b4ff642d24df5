//! Containers with real runc, on a root file system made on the spot from busybox.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skep::base::id::TaskId;
use skep::host::runtime::{
    ContainerInputs, ExitRecord, ImageView, Runtime, RuntimeConfig, RuntimeError,
};
use skep::model::service::ContainerSpec;

mod bundle;
mod crash;
mod life;
mod logs;
mod probe;
mod shim;
mod stuck;

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A daemon's roots, an image, and the runtime on them. Leaves nothing behind, and checks that.
struct World {
    base: PathBuf,
    config: RuntimeConfig,
    runtime: Option<Runtime>,
}

impl World {
    fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skep-it-rt-{}-{n}", std::process::id());
        let base = std::env::temp_dir().join(&name);
        make_image(&base.join("image"));
        let config = RuntimeConfig {
            data_root: base.join("data"),
            exec_root: base.join("exec"),
            cgroup_parent: format!("/{name}"),
            runc: make_runc(&base),
            exe: env!("CARGO_BIN_EXE_skep").into(),
        };
        let runtime = Some(Runtime::open(config.clone()).unwrap());
        Self { base, config, runtime }
    }

    /// From now on, or no more, runc stands still where `word` is among its arguments.
    fn hang_runc(&self, word: &str, hang: bool) {
        let path = self.base.join(format!("hang-{word}"));
        if hang {
            std::fs::write(path, "").unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// The processes of runc that stand still.
    fn hanging(&self) -> Vec<(i32, String)> {
        let base = format!("hangs for {}", self.base.display());
        processes().into_iter().filter(|(_, args)| args.contains(&base)).collect()
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap()
    }

    /// As if the daemon had been restarted.
    fn reopen(&mut self) -> &Runtime {
        self.runtime = None;
        self.runtime = Some(Runtime::open(self.config.clone()).unwrap());
        self.runtime()
    }

    fn image(&self) -> PathBuf {
        self.base.join("image")
    }

    fn inputs(&self, command: &[&str]) -> ContainerInputs {
        ContainerInputs {
            container: ContainerSpec { command: strings(command), ..ContainerSpec::default() },
            image: ImageView { lowerdirs: vec![self.image()], ..ImageView::default() },
            etc_hosts: "127.0.0.1\tlocalhost\n".into(),
            etc_resolv_conf: "nameserver 10.9.8.7\n".into(),
            ..ContainerInputs::default()
        }
    }

    fn shell(&self, script: &str) -> ContainerInputs {
        self.inputs(&["sh", "-c", script])
    }

    fn launch(&self, task: TaskId, inputs: &ContainerInputs) -> Result<u32, RuntimeError> {
        self.runtime().prepare(task, inputs)?;
        self.runtime().create(task)?;
        self.runtime().start(task)
    }

    /// Runs a container to its end.
    fn run(&self, task: TaskId, inputs: &ContainerInputs) -> ExitRecord {
        self.launch(task, inputs).unwrap_or_else(|err| panic!("{}", err.full_text()));
        self.wait(task)
    }

    fn wait(&self, task: TaskId) -> ExitRecord {
        let events = self.runtime().events();
        let until = std::time::Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let event =
                smol::block_on(smol::future::or(async { events.recv().await.ok() }, async {
                    smol::Timer::after(left).await;
                    None
                }));
            let event = event.unwrap_or_else(|| panic!("{task} does not end"));
            if event.task == task {
                return event.exit;
            }
        }
    }

    /// Runs a script and returns what it printed.
    fn output(&self, task: TaskId, inputs: &ContainerInputs) -> String {
        let exit = self.run(task, inputs);
        let log = self.log(task);
        assert_eq!(exit.code, 0, "{log}");
        log
    }

    /// The text of all that a task printed on either stream.
    fn log(&self, task: TaskId) -> String {
        let folder = self.runtime().task_folder(task).join("log");
        let mut text = String::new();
        for name in ["json.log.2", "json.log.1", "json.log"] {
            let Ok(lines) = std::fs::read_to_string(folder.join(name)) else { continue };
            for line in lines.lines() {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                text += entry["log"].as_str().unwrap();
            }
        }
        text
    }

    /// Everything of these roots that the kernel still holds.
    fn leaks(&self) -> Vec<String> {
        let base = self.base.to_str().unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut leaks: Vec<String> =
            mounts.lines().filter(|line| line.contains(base)).map(str::to_owned).collect();
        let parent = self.config.cgroup_parent.trim_start_matches('/');
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            let path = hierarchy.unwrap().path().join(parent);
            if path.exists() {
                leaks.push(path.display().to_string());
            }
        }
        for (pid, args) in processes() {
            if args.contains(base) && args.contains("shim") {
                leaks.push(format!("process {pid}: {args}"));
            }
        }
        leaks
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        for found in runtime.found().unwrap_or_default() {
            if let Err(err) = runtime.remove(found.task) {
                panic_unless_panicking(&format!(
                    "cannot remove {}: {}",
                    found.task,
                    err.full_text()
                ));
            }
        }
        runtime.purge();
        let leaks = self.leaks();
        if !std::thread::panicking() {
            assert_eq!(leaks, Vec::<String>::new());
            let left: Vec<_> = std::fs::read_dir(self.base.join("exec/tasks")).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
            let left: Vec<_> = std::fs::read_dir(self.base.join("data/tasks")).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        self.runtime = None;
        if let Err(err) = std::fs::remove_dir_all(&self.base) {
            panic_unless_panicking(&err.to_string());
        }
    }
}

/// runc, behind a script that writes down how it is called and stands still when it is told to,
/// with a process of its own below it.
fn make_runc(base: &Path) -> PathBuf {
    let path = base.join("bin/runc");
    let base = base.display();
    let script = format!(
        "#!/bin/sh\n\
         echo \"$*\" >> {base}/runc-calls\n\
         for word in \"$@\"; do\n\
           [ -e \"{base}/hang-$word\" ] && sh -c 'sleep 1000; : hangs for {base}'\n\
         done\n\
         exec /usr/sbin/runc \"$@\"\n"
    );
    // By a process of its own: no other thread can then hold it open for writing (ETXTBSY).
    let made = std::process::Command::new("sh")
        .args(["-c", "mkdir -p ${0%/*} && printf %s \"$1\" > $0 && chmod +x $0"])
        .arg(&path)
        .arg(script)
        .status();
    assert!(made.unwrap().success());
    path
}

/// A second panic would end the process without a word about the first.
fn panic_unless_panicking(text: &str) {
    assert!(std::thread::panicking(), "{text}");
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The task with this number.
const fn task(n: u128) -> TaskId {
    TaskId::new(n)
}

/// A root file system with busybox, a few users and some files.
fn make_image(root: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "data/sub", "root"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    let busybox = root.join("bin/busybox");
    std::fs::copy("/bin/busybox", &busybox).expect("busybox-static is needed");
    // Not the copy: another thread may fork while it is still open for writing (ETXTBSY).
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
    for name in String::from_utf8(list.stdout).unwrap().lines() {
        if name != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
    }
    let write = |path: &str, text: &str| std::fs::write(root.join(path), text).unwrap();
    write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/data:/bin/sh\n");
    write("etc/group", "root:x:0:\nweb:x:34:\nvideo:x:44:web\ngpio:x:997:\n");
    write("data/file", "from the image\n");
    write("data/sub/deep", "deep\n");
    std::os::unix::fs::symlink("file", root.join("data/link")).unwrap();
    std::os::unix::fs::lchown(root.join("data"), Some(33), Some(34)).unwrap();
}

/// Every process and its command line.
fn processes() -> Vec<(i32, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Ok(args) = std::fs::read(entry.path().join("cmdline")) {
            all.push((pid, String::from_utf8_lossy(&args).replace('\0', " ")));
        }
    }
    all
}

/// The process of the shim of `task` in `world`.
fn shim_pid(world: &World, task: TaskId) -> i32 {
    let dir = format!("dir {}/tasks/{task} ", world.config.exec_root.display());
    let found = processes().into_iter().find(|(_, args)| args.contains(&dir));
    found.expect("there is a shim").0
}

/// Waits until `done`, a condition of the machine and not of this process.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + LIMIT;
    while !done() {
        assert!(std::time::Instant::now() < end, "{what} does not happen");
        std::thread::yield_now();
        smol::block_on(smol::Timer::after(Duration::from_millis(5)));
    }
}
