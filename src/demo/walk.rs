//! The walk: each step is a command that is shown, run, and must succeed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::machines::{COUNT, Machines, inside};
use super::{Result, failed, say};

/// How long anything may take that the walk waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a web server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The most of an answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Walks through a swarm's life on machines that are in none.
pub(super) fn walk(machines: &Machines) -> Result<()> {
    let walk = Walk { machines };
    walk.form()?;
    walk.serve()?;
    walk.lose_a_node()?;
    walk.lose_the_leader()?;
    walk.leave_running()
}

struct Walk<'a> {
    machines: &'a Machines,
}

impl Walk<'_> {
    fn form(&self) -> Result<()> {
        say("# Three machines, pi-1 to pi-3, on one switch. The first makes a swarm, the others join it.\n")?;
        let first = Machines::address(1).to_string();
        self.run(1, &["init", "--advertise-addr", &first])?;
        let token = self.ask(1, &["join-token", "-q", "worker"])?;
        for machine in 2..=COUNT {
            self.run(machine, &["join", "--token", &token, &format!("{first}:2377")])?;
        }
        self.until("all nodes are ready", || Ok(self.count("Ready")? == usize::from(COUNT)))?;
        self.run(1, &["node", "ls"])
    }

    fn serve(&self) -> Result<()> {
        say("\n# A service: a replica for each node, published on port 80.\n")?;
        self.run(
            1,
            &["service", "create", "--name", "website", "--publish", "80:80", "--replicas", "3", "skep/hello"],
        )?;
        self.run(1, &["service", "ps", "website"])?;
        self.call_all()?;
        self.lose_a_container()?;
        say("\n# More of them.\n")?;
        self.run(1, &["service", "scale", "website=5"])?;
        self.run(1, &["service", "ps", "website"])
    }

    fn lose_a_container(&self) -> Result<()> {
        let words =
            ["service", "ps", "-q", "--no-trunc", "--filter", "desired-state=running", "website"];
        let all = self.ask(1, &words)?;
        let task = all.lines().next().unwrap_or_default();
        let pid = self.pid_of(task).map_err(failed(format!("find the process of task {task}")))?;
        say(&format!("\n# The process of a container is killed: another task takes its place.\n\n$ kill -9 {pid}\n"))?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(failed(format!("kill process {pid}")))?;
        self.until("it is replaced", || {
            Ok(!self.ask(1, &words)?.contains(task) && self.homes()?.len() == 3)
        })?;
        self.run(1, &["service", "ps", "website"])
    }

    /// The first process of a task's container, by the API, which also Docker's clients ask.
    fn pid_of(&self, task: &str) -> std::io::Result<i32> {
        let socket = self.machines.socket(1);
        let mut stream = UnixStream::connect(socket.trim_start_matches("unix://"))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let body = body(&mut stream, &format!("/tasks/{task}"))?;
        let task: serde_json::Value = serde_json::from_str(&body)?;
        let pid = task["Status"]["ContainerStatus"]["PID"].as_i64();
        pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1).ok_or_else(|| {
            std::io::Error::other("the API tells none")
        })
    }

    fn lose_a_node(&self) -> Result<()> {
        say("\n# The cable of pi-3 is pulled.\n")?;
        let begun = Instant::now();
        self.machines.cable(3, false)?;
        self.until("pi-3 is down", || Ok(self.count("Down")? == 1))?;
        say(&format!("(pi-3 is seen as down after {:.1} s)\n", begun.elapsed().as_secs_f64()))?;
        self.until("five replicas run elsewhere", || {
            let homes = self.homes()?;
            Ok(homes.len() == 5 && !homes.contains(&Machines::host_name(3)))
        })?;
        say(&format!("(five replicas run elsewhere after {:.1} s)\n", begun.elapsed().as_secs_f64()))?;
        self.run(1, &["node", "ls"])?;
        self.run(1, &["service", "ps", "--filter", "desired-state=running", "website"])?;
        say("\n# It is put in again: no replica is there twice.\n")?;
        self.machines.cable(3, true)?;
        self.until("pi-3 is ready", || Ok(self.count("Ready")? == usize::from(COUNT)))?;
        self.run(1, &["service", "ls"])
    }

    fn lose_the_leader(&self) -> Result<()> {
        say("\n# One manager is one too few: the others become managers as well.\n")?;
        self.run(1, &["node", "promote", "pi-2", "pi-3"])?;
        self.until("all managers are reachable", || {
            let all = self.ask(1, &["node", "ls", "--format", "{{.ManagerStatus}}"])?;
            Ok(all.lines().filter(|line| *line == "Leader" || *line == "Reachable").count() == 3)
        })?;
        say("\n# kill -9 of the daemon on pi-1, the leader. Its containers go on; another one leads.\n")?;
        self.machines.end(1, Signal::SIGKILL)?;
        let begun = Instant::now();
        self.run(2, &["service", "scale", "--detach", "website=6"])?;
        say(&format!("(taken after {:.1} s)\n", begun.elapsed().as_secs_f64()))?;
        self.until("six replicas run", || Ok(self.homes()?.len() == 6))?;
        self.machines.start(1)?;
        self.until("pi-1 is back", || Ok(self.count("Ready")? == usize::from(COUNT)))?;
        self.run(2, &["node", "ls"])?;
        self.run(2, &["service", "ps", "--filter", "desired-state=running", "website"])
    }

    fn leave_running(&self) -> Result<()> {
        let name = self.machines.name();
        say(&format!(
            "
The machines are running.
  look around:  export SKEP_HOST={socket}
                skep node ls; skep service ps website; skep service logs website
  be a client:  ip netns exec {name}-switch curl http://{address}/
  stop them:    skep demo --name {name} --clean
",
            socket = self.machines.socket(1),
            address = Machines::address(2),
        ))
    }

    /// Runs a command on a machine for all to see.
    fn run(&self, machine: u8, words: &[&str]) -> Result<()> {
        let name = Machines::host_name(machine);
        say(&format!("\n{name}$ skep {}\n", words.join(" ")))?;
        let status = self.command(machine, words).status();
        let status = status.map_err(failed(format!("run skep {}", words.join(" "))))?;
        if status.success() {
            return Ok(());
        }
        Err(failed(format!("go on after skep {}", words.join(" ")))(format!("it ended with {status}")))
    }

    /// What a command prints, without the line's end.
    fn ask(&self, machine: u8, words: &[&str]) -> Result<String> {
        let doing = || format!("run skep {}", words.join(" "));
        let output = self.command(machine, words).output().map_err(failed(doing()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(doing())(said));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn command(&self, machine: u8, words: &[&str]) -> Command {
        let mut command = Command::new(&self.machines.exe);
        command.arg("-H").arg(self.machines.socket(machine)).args(words).stdin(Stdio::null());
        command
    }

    /// Nodes in a state, by pi-2.
    fn count(&self, state: &str) -> Result<usize> {
        let by = if self.is_manager(2)? { 2 } else { 1 };
        let all = self.ask(by, &["node", "ls", "--format", "{{.Status}}"])?;
        Ok(all.lines().filter(|line| *line == state).count())
    }

    fn is_manager(&self, machine: u8) -> Result<bool> {
        Ok(self.ask(machine, &["info", "--format", "{{.Swarm.ControlAvailable}}"])? == "true")
    }

    /// The machines that replicas run on.
    fn homes(&self) -> Result<Vec<String>> {
        let by = if self.is_manager(2)? { 2 } else { 1 };
        let words =
            ["service", "ps", "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}", "website"];
        let all = self.ask(by, &words)?;
        let running = all.lines().filter_map(|line| line.split_once(" Running "));
        Ok(running.map(|(node, _since)| node.to_owned()).collect())
    }

    /// Calls the published port of each machine.
    fn call_all(&self) -> Result<()> {
        say("\n")?;
        for machine in 1..=COUNT {
            let address = SocketAddr::from((Machines::address(machine), 80));
            let said = inside(&self.machines.switch(), || {
                get(address).map_err(failed(format!("get http://{address}/")))
            })?;
            say(&format!("http://{}/ says: {}\n", address.ip(), said.trim()))?;
        }
        Ok(())
    }

    fn until(&self, what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < PATIENCE {
            match done() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => last = Some(error),
            }
            thread::sleep(LOOK_EVERY);
        }
        let doing = format!("wait until {what}, for {} s", PATIENCE.as_secs());
        Err(last.map_or_else(|| failed(doing.clone())("it is not so"), |error| failed(doing.clone())(error)))
    }
}

/// The body of a web server's answer.
fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    body(&mut stream, "/")
}

fn body(stream: &mut (impl Read + Write), path: &str) -> std::io::Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_head, body)| body.to_owned());
    body.ok_or_else(|| std::io::Error::other("the answer has no body"))
}
