//! A machine for tests: a network namespace with a daemon in it that has roots of its own.
//!
//! Everything it made is gone when it is dropped, and a drop that finds something left fails the
//! test. Several run side by side.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const SKEP: &str = env!("CARGO_BIN_EXE_skep");

/// Longest wait for anything in a test: the machines that run these are small and busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) netns: String,
    daemon: Option<Child>,
    extra: Vec<String>,
    /// The program that the daemon is started from.
    pub(crate) program: PathBuf,
}

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: i32,
}

impl Said {
    /// Of a process that ended; the code of one that was killed is -1.
    pub(crate) fn of(output: Output) -> Self {
        Self {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

impl Node {
    /// A machine whose daemon runs and is in no swarm.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with more arguments for the daemon.
    pub(crate) fn start_with(extra: &[&str]) -> Self {
        Self::start_prepared(extra, |_| {})
    }

    fn start_prepared(extra: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root: sudo tests/run.sh");
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = format!("skt{}n{n}", std::process::id());
        let dir = std::env::temp_dir().join(&netns);
        fs::create_dir_all(&dir).expect("test folder");
        must(Command::new("ip").args(["netns", "add", &netns]));
        must(Command::new("ip").args(["-n", &netns, "link", "set", "lo", "up"]));
        prepare(&dir);
        let mut node = Self {
            dir,
            netns,
            daemon: None,
            extra: extra.iter().map(|word| (*word).to_owned()).collect(),
            program: PathBuf::from(SKEP),
        };
        node.start_daemon();
        node
    }

    /// A machine whose data root is a file system of its own of `bytes`.
    pub(crate) fn start_on_small_disk(bytes: u64) -> Self {
        Self::start_prepared(&[], |dir| {
            let data = dir.join("data");
            fs::create_dir_all(&data).expect("data root");
            let options = format!("size={bytes},mode=0700");
            nix::mount::mount(
                Some("tmpfs"),
                &data,
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some(options.as_str()),
            )
            .expect("tmpfs");
        })
    }

    /// Takes all space of the file system that `ballast` is on.
    pub(crate) fn fill(&self, ballast: &Path) {
        let mut file = fs::File::create(ballast).expect("ballast");
        for chunk in [1 << 20, 4096, 1] {
            let zeros = vec![0_u8; chunk];
            while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
        }
    }

    /// A machine that is a swarm of its own.
    pub(crate) fn swarm() -> Self {
        let node = Self::start();
        node.ok(&["init", "--advertise-addr", "127.0.0.1"]);
        node
    }

    pub(crate) fn data_root(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(crate) fn exec_root(&self) -> PathBuf {
        self.dir.join("exec")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.exec_root().join("skep.sock")
    }

    /// A program inside the machine's network.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg("--").arg(program.as_ref());
        command.env("SKEP_HOST", format!("unix://{}", self.socket().display()));
        command
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start_daemon(&mut self) {
        self.spawn_daemon(&[]);
        self.wait_ready();
    }

    /// Starts the daemon with more environment, without waiting.
    pub(crate) fn spawn_daemon(&mut self, env: &[(&str, &str)]) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("daemon.log"))
            .expect("daemon log");
        let mut command = self.command(&self.program);
        command
            .arg("daemon")
            .arg("--data-root")
            .arg(self.data_root())
            .arg("--exec-root")
            .arg(self.exec_root())
            .args(&self.extra)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("daemon log"))
            .stderr(log);
        self.daemon = Some(command.spawn().expect("daemon"));
    }

    /// Waits until the daemon answers.
    pub(crate) fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ping = self
                .command("curl")
                .args(["-sf", "-m", "5", "--unix-socket"])
                .arg(self.socket())
                .arg("http://localhost/_ping")
                .output()
                .expect("curl");
            if ping.status.success() {
                return;
            }
            if let Some(daemon) = &mut self.daemon
                && let Some(status) = daemon.try_wait().expect("daemon")
            {
                panic!("the daemon ended by {status}:\n{}", self.daemon_log());
            }
            assert!(Instant::now() < deadline, "not ready:\n{}", self.daemon_log());
            pause();
        }
    }

    pub(crate) fn daemon_log(&self) -> String {
        fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    /// Process id of the daemon (`nsenter` becomes the program it runs).
    pub(crate) fn daemon_pid(&self) -> i32 {
        i32::try_from(self.daemon.as_ref().expect("the daemon was started").id()).expect("pid")
    }

    /// Process id of the node's proxy.
    pub(crate) fn proxy_pid(&self) -> i32 {
        let control = self.exec_root().join("proxy.sock").display().to_string();
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_proxy = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.get(1) == Some(&&b"proxy"[..]) && words.contains(&control.as_bytes())
        };
        pids.find(is_proxy).expect("the node has a proxy")
    }

    /// SIGKILL to the daemon alone.
    pub(crate) fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("kill");
            daemon.wait().expect("wait");
        }
    }

    /// Whether the daemon ended by itself.
    pub(crate) fn daemon_has_ended(&self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.daemon_pid());
        let flags = nix::sys::wait::WaitPidFlag::WEXITED
            | nix::sys::wait::WaitPidFlag::WNOHANG
            | nix::sys::wait::WaitPidFlag::WNOWAIT;
        let status = nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags);
        status.expect("waitid") != nix::sys::wait::WaitStatus::StillAlive
    }

    /// Starts the daemon again after it has ended by itself.
    pub(crate) fn start_after_end(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let status = daemon.wait().expect("wait");
            assert!(status.success(), "ended by {status}:\n{}", self.daemon_log());
        }
        self.start_daemon();
    }

    /// SIGTERM to the daemon, and waits for its end. Gives the time it took.
    pub(crate) fn stop_daemon(&mut self) -> Duration {
        let begun = Instant::now();
        if let Some(mut daemon) = self.daemon.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("pid"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
            let status = daemon.wait().expect("wait");
            assert!(status.success(), "a clean stop ended by {status}:\n{}", self.daemon_log());
        }
        begun.elapsed()
    }

    /// Runs `skep ARGS`.
    pub(crate) fn skep(&self, args: &[&str]) -> Said {
        Said::of(self.command(SKEP).args(args).stdin(Stdio::null()).output().expect("skep"))
    }

    /// Runs `skep ARGS`, which must succeed; what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let said = self.skep(args);
        assert_eq!(said.code, 0, "skep {args:?}: {said:?}\n{}", self.daemon_log());
        said.out.trim_end().to_owned()
    }

    /// Runs `skep ARGS`, which must fail; what it said.
    pub(crate) fn fails(&self, args: &[&str]) -> Said {
        let said = self.skep(args);
        assert_ne!(said.code, 0, "skep {args:?} must fail: {said:?}");
        said
    }

    /// Body of `http://ADDRESS/` as seen on the machine; `None` when it does not answer.
    pub(crate) fn get(&self, address: &str) -> Option<String> {
        let output = self
            .command("curl")
            .args(["-sf", "-m", "5", &format!("http://{address}/")])
            .output()
            .expect("curl");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A GET on the daemon's socket, as JSON.
    pub(crate) fn api(&self, path: &str) -> serde_json::Value {
        let output = Command::new("curl")
            .args(["-s", "-m", "30", "--unix-socket"])
            .arg(self.socket())
            .arg(format!("http://localhost{path}"))
            .output()
            .expect("curl");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|err| {
            panic!("{path}: {err}: {}", String::from_utf8_lossy(&output.stdout))
        })
    }

    /// Tasks of a service in a state, newest information.
    pub(crate) fn tasks(&self, service: &str, state: &str) -> Vec<serde_json::Value> {
        let filter = format!("%7B%22service%22%3A%5B%22{service}%22%5D%7D");
        let all = self.api(&format!("/tasks?filters={filter}"));
        let all = all.as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|task| task["Status"]["State"] == state).collect()
    }

    /// Waits until a service has exactly this many running tasks; gives them.
    pub(crate) fn wait_running(&self, service: &str, count: usize) -> Vec<serde_json::Value> {
        self.wait(&format!("{service} has {count} running tasks"), || {
            let running = self.tasks(service, "running");
            (running.len() == count).then_some(running)
        })
    }

    /// Waits until `probe` gives something.
    pub(crate) fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain: {what}\n{}\n{}",
                self.skep(&["service", "ls"]).out,
                self.daemon_log()
            );
            pause();
        }
    }

    /// An image of a static busybox, loaded into the node's store.
    pub(crate) fn load_busybox(&self, name: &str) {
        let tarball = self.dir.join("busybox.tar");
        crate::busybox::busybox_archive(&tarball, name, &self.dir);
        self.ok(&["image", "load", "-q", "-i", tarball.to_str().expect("path")]);
    }

    fn leave(&mut self) {
        if self.daemon.is_some() && self.daemon_has_ended() {
            self.kill_daemon();
        }
        if self.daemon.is_none() && self.data_root().join("node/identity").exists() {
            self.program = PathBuf::from(SKEP);
            self.start_daemon();
        }
        if self.daemon.is_some() {
            let said = self.skep(&["leave", "--force"]);
            if said.code != 0 && !said.err.contains("not part of a swarm") {
                eprintln!("leave: {said:?}\n{}", self.daemon_log());
            }
            self.stop_daemon();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- daemon log of {}\n{}", self.netns, self.daemon_log());
        }
        if !std::thread::panicking() {
            self.leave();
        }
        self.kill_daemon();
        if let Err(err) = nix::mount::umount(&self.data_root())
            && err != nix::errno::Errno::EINVAL
        {
            eprintln!("umount {}: {err}", self.data_root().display());
        }
        let mut left = sweep(&self.dir);
        let tables = self.command("nft").args(["list", "tables"]).output();
        let tables = tables.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        left.extend(tables.unwrap_or_default().lines().map(|line| format!("nft {line}")));
        let gone = Command::new("ip").args(["netns", "del", &self.netns]).status();
        if let Err(err) = fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {err}", self.dir.display());
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "left behind by the node: {left:#?}");
            assert!(gone.is_ok_and(|status| status.success()), "netns {} stays", self.netns);
        }
    }
}

/// A process whose command line has all of these words in it.
pub(crate) fn process_with(words: &[&str]) -> Option<i32> {
    fs::read_dir("/proc").expect("/proc").flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        words.iter().all(|word| line.contains(word)).then_some(pid)
    })
}

/// Ends and unmounts what uses `dir`, and tells what there was: nothing, when skep did its work.
pub(crate) fn sweep(dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let needle = dir.display().to_string();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("{needle}/"))
            && pid != i32::try_from(std::process::id()).unwrap_or(0)
        {
            left.push(format!("process {pid}: {line}"));
            if let Err(err) = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            ) {
                eprintln!("kill {pid}: {err}");
            }
        }
    }
    sweep_cgroups(dir, &mut left);
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
    for target in mounts.lines().filter_map(|line| line.split(' ').nth(1)).rev() {
        if target.starts_with(&format!("{needle}/")) {
            left.push(format!("mount {target}"));
            if let Err(err) = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH) {
                eprintln!("umount {target}: {err}");
            }
        }
    }
    left
}

/// Ends the containers of the node in `dir`, whose own words tell nothing of it, and removes their
/// cgroups, as a power cut does.
fn sweep_cgroups(dir: &Path, left: &mut Vec<String>) {
    let name = format!("skep-{}", skep::host::net::Names::new(&dir.join("data")).tag);
    let roots =
        fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
    for root in roots.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let mut folders = vec![root.join(&name)];
        let mut at = 0;
        while at < folders.len() {
            let below = fs::read_dir(&folders[at]).into_iter().flatten().flatten();
            folders.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
            at += 1;
        }
        for folder in folders.iter().rev().filter(|folder| folder.exists()) {
            left.push(format!("cgroup {}", folder.display()));
            let deadline = Instant::now() + PATIENCE;
            while fs::remove_dir(folder).is_err() {
                let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                for pid in pids.lines().filter_map(|line| line.parse().ok()) {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    if let Err(err) = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)
                    {
                        eprintln!("kill {pid}: {err}");
                    }
                }
                assert!(Instant::now() < deadline, "{} cannot be removed", folder.display());
                pause();
            }
        }
    }
}

/// Runs a command that must succeed.
pub(crate) fn must(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Between two looks at a condition that has a deadline.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
