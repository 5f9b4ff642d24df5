//! Docker's client and ours on one real node print the same and end with the same code.
//!
//! Each line of a table is one command: words are parted by blanks, `~` is a blank inside a word.
//! What is ours on purpose is in [`OURS`], with the reason.

use std::time::{Duration, Instant};

use crate::client::Docker;
use crate::node::{Node, Said};

/// Commands that only look: all they print is the same.
const LOOKS: &str = "
node ls
node ls -q
node ls --format {{.Hostname}}~{{.Self}}~{{.ManagerStatus}}
node ls --format table~{{.ID}}\\t{{.TLSStatus}}
node ls -f role=worker
node ls -f role=manager
node ls -f bogus=1
node ls -f role
node inspect self
node inspect --pretty self
node inspect -f {{.Status.State}}~{{.Spec.Role}} self
node inspect missing
node inspect self missing
node inspect --pretty missing
node inspect --pretty self missing
node ps
node ps self
node ps -q
node ps --format {{.Name}} self
node ps missing
service ls
service ls -q
service ls -fname=we -q
service ls --filter name=we
service ls -f mode=global
service ls -f label=x
service ls -f label=x=y
service ls -f bogus=1
service ls -f bogus
service ls --format table
service ls --format table~{{.Name}}\\t{{.Ports}}
service ls --format {{.Name}}:~{{upper~.Mode}}~{{.Replicas}}
service ls --format {{range~.}}
service ls --format {{foo~.ID}}
service ls -q --format {{.Name}}
service ls -q --format table
service ps web every
service ps -q web
service ps -q --no-trunc web
service ps --no-trunc big
service ps --no-resolve web
service ps --format {{.Name}}~{{.DesiredState}}~{{.Image}} web
service ps --format table~{{.ID}}\\t{{.Node}} web
service ps --filter=node=self web
service ps -f name=web.1 web
service ps -f desired-state=running web
service ps -f desired-state=bogus web
service ps -f node=missing web
service ps -f bogus=1 web
service ps web missing
service ps missing
service ps missing gone
service inspect web every big
service inspect --pretty web
service inspect --pretty every
service inspect --pretty big
service inspect --pretty web every
service inspect -f {{.ID}} web every
service inspect -f {{.Spec.Name}}~{{json~.Spec.Labels}} every
service inspect -f {{range~.Endpoint.Ports}}{{.TargetPort}};{{end}} web
service inspect -f {{.Spec.TaskTemplate.ContainerSpec.Env}} every
service inspect -f {{.Spec.Mode.Replicated.Replicas}} web
service inspect -f {{len~.Endpoint.Ports}} web
service inspect -f {{index~.Spec.Labels~\"x\"}} every
service inspect -f {{println~.ID}} web
service inspect -f {{if~.UpdateStatus}}yes{{else}}no{{end}} web
service inspect missing
service inspect web missing
service inspect missing gone
service inspect --pretty missing
service inspect --pretty web missing
service inspect --pretty -f x web
service logs every
service logs -t every
service logs --tail 1 every
service logs -t -n 1 --no-task-ids every
service logs --no-trunc every
service logs --no-resolve every
service logs --details every
service logs --raw every
service logs --tail x every
service logs missing
";

/// Commands that change something, by one client and then the other, or that are refused.
const CHANGES: &str = "
service scale -d web=3 talk=2
service scale -d missing=1 web=2
service scale every=1
service scale -d web=x
service scale -d web=-1
service scale -d web=1=2
service update -d --env-add=C=3 --publish-rm=8081 web
service update -d --replicas=1 every
service update missing
service inspect -f {{json~.Spec.TaskTemplate.ContainerSpec.Env}} web
service rollback -d web
service rollback missing
service create -d --name web skep/hello
service create -d --name a~b skep/hello
service create -d --mode bogus skep/hello
service create -d --mode global --replicas 2 skep/hello
service create -d -p 80:80 --no-resolve-image skep/hello
service create -d --constraint foo --no-resolve-image skep/hello
service create -d --limit-memory 1 --no-resolve-image skep/hello
service create -d --endpoint-mode bogus --no-resolve-image skep/hello
service create -d --env-file /missing skep/hello
service create -d Bad/Image
service rm missing gone
service rm own-a missing
swarm init
swarm leave
";

/// Command lines that never reach the daemon.
const USAGE: &str = "
node ls extra
node ls --nope
node inspect
service ls extra
service ls -z
service ps
service inspect
service logs
service logs a b
service scale --nope
service update
service update a b
service update -d --nope web
service update -d --env-add
service update -d --replicas x web
service rollback
service rm
service create
service create --name
service create -d --replicas x skep/hello
service create -d -p 99999:80 skep/hello
service create -d -p abc skep/hello
service create -d -p mode=bogus,target=80 skep/hello
service create -d --limit-memory x skep/hello
service create -d --limit-cpu x skep/hello
service create -d --restart-delay x skep/hello
service create -d --mount type=bind skep/hello
service create -d --mount type=bogus,dst=/x skep/hello
service create -d --mount x skep/hello
service create -d --ulimit x skep/hello
service create -d --host x skep/hello
service create -d --placement-pref x skep/hello
";

/// What is printed as JSON: the same values; `\\u003e` and `>` are one letter there, and fields have
/// no order.
const JSON: &str = "
node ls --format {{json~.}}
node inspect -f {{json~.}} self
node inspect -f {{json~.Description}} self
service ls --format {{json~.}}
service ps --format {{json~.}} web
service inspect -f {{json~.}} big
service inspect -f {{json~.Spec.TaskTemplate}} big
service inspect -f {{json~.Endpoint}} web
";

/// What is ours on purpose: the command, our exit code, a part of what we print, and why.
const OURS: &[(&str, i32, &str, &str)] = &[
    (
        "service ls --format json",
        0,
        "\"Name\":\"web\"",
        "as Docker 23 and later do; earlier ones print the word",
    ),
    ("service ps --format json web", 0, "\"Name\":\"web.1\"", "as above"),
    ("node ls --format json", 0, "\"Self\":true", "as above"),
    (
        "service ls --format {{.Nope}}",
        1,
        "can't evaluate field Nope",
        "Docker adds the names of its Go types",
    ),
    ("node ls --format {{.Nope}}", 1, "can't evaluate field Nope", "as above"),
    (
        "service inspect -f {{.Nope}} web",
        0,
        "<no value>",
        "templates are filled from JSON, where a field that is unset looks like one that is not known",
    ),
    (
        "service inspect -f {{.Spec.UpdateConfig.Delay}} big",
        0,
        "90000000000",
        "templates are filled from JSON, where a duration is a number; Docker's see Go's values",
    ),
    (
        "service inspect -f {{.Spec.Mode}} web",
        0,
        "map[Replicated:map[Replicas:2]]",
        "as above; Docker prints the address of a pointer",
    ),
    (
        "node inspect --pretty -f x self",
        1,
        "--format is incompatible with human friendly format",
        "Docker says so of services and ignores the format of nodes",
    ),
    (
        "service scale -d web",
        1,
        "Usage:  skep service scale [OPTIONS] SERVICE=REPLICAS",
        "Docker's usage line leaves its options out",
    ),
    ("service scale", 1, "\"skep service scale\" requires at least 1 argument.", "as above"),
    ("service scale -d web=", 1, "Invalid scale specifier 'web='.", "as Docker 26 and later do"),
    ("service scale -d =1", 1, "Invalid scale specifier '=1'.", "as above"),
    (
        "service create --replica 2 skep/hello",
        125,
        "Did you mean --replicas?",
        "the nearest flag is told besides",
    ),
    ("service lss", 1, "Did you mean 'ls'?", "Docker 20 prints the help of the group"),
    ("nope", 1, "skep: unknown command: skep nope", "in the words of Docker 28"),
    (
        "service create -d --dns x skep/hello",
        125,
        "IP address is not correctly formatted: x",
        "in the words of Docker 28",
    ),
    (
        "service create -d --network missing skep/hello",
        1,
        "network missing not found",
        "in the words of Docker 28",
    ),
    (
        "service create -d --secret x skep/hello",
        1,
        "--secret is not yet supported by skep",
        "secrets come later",
    ),
];

/// Longest time in which both clients look again.
const LOOKING: Duration = Duration::from_secs(15);

/// Both clients and their node.
struct Both {
    node: Node,
    docker: Docker,
    /// Whether errors are compared too: Docker 28 has words of its own for what is wrong with a
    /// command line and for what is not there; those of the versions before are ours.
    words: bool,
}

impl Both {
    /// With services to look at.
    fn start() -> Self {
        let node = Node::swarm();
        let docker = Docker::on(&node);
        let version = docker.ok(&["version", "--format", "{{.Client.Version}}"]);
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        let words = major.unwrap_or_else(|| panic!("no version: {version}")) < 28;
        let both = Self { node, docker, words };
        for create in [
            "--name web --replicas=2 -p80:8080 -p81:8081 -p 53:53/udp skep/hello",
            "--name=every --mode global -eA=1 -e B=2 -lx=y --label z skep/hello",
            "--name big --limit-memory=64m --limit-cpu=.5 --reserve-memory 32m --mount \
             type=tmpfs,dst=/t --mount type=volume,src=vol,dst=/v --constraint node.role==manager \
             --placement-pref spread=node.labels.x --replicas-max-per-node 4 -w/ -u1 \
             --update-delay=1m30s --update-max-failure-ratio .1 --cap-add=NET_ADMIN --cap-drop ALL \
             --ulimit=nofile=100:200 --log-driver json-file --log-opt=max-size=1m --log-opt \
             max-file=3 --hostname h --stop-grace-period 3s --stop-signal SIGTERM --restart-condition \
             on-failure --restart-max-attempts 3 --host a:1.2.3.4 --dns 1.1.1.1 --group 3 \
             --read-only --limit-pids 100 --sysctl net.core.somaxconn=10 --init skep/hello",
            "--name talk --log-driver json-file skep/hello",
            "--name own-a skep/hello",
            "--name own-b skep/hello",
        ] {
            let create = create.split_whitespace();
            let line: Vec<&str> =
                ["service", "create", "-d", "-q"].into_iter().chain(create).collect();
            both.node.ok(&line);
        }
        both.node.wait_running("web", 2);
        both.node.wait_running("every", 1);
        both.node.wait("the log of every", || {
            let said = both.node.skep(&["service", "logs", "every"]);
            said.err.contains("listens on port 80").then_some(())
        });
        both
    }

    /// What both say to a line, with our name for Docker's. Of `own-a` Docker has its own, `own-b`.
    fn run(&self, line: &str) -> (Said, Said) {
        let theirs = line.replace("own-a", "own-b");
        let words = |line: &str| -> Vec<String> {
            line.split(' ').map(|word| word.replace('~', " ")).collect()
        };
        let (ours, theirs) = (words(line), words(&theirs));
        let mut ours = self.node.skep(&ours.iter().map(String::as_str).collect::<Vec<_>>());
        let mut theirs = self.docker.run(&theirs.iter().map(String::as_str).collect::<Vec<_>>());
        for text in [&mut ours.out, &mut ours.err, &mut theirs.out, &mut theirs.err] {
            *text = text.replace("docker", "skep");
        }
        if line.contains("own-a") {
            for text in [&mut theirs.out, &mut theirs.err] {
                *text = text.replace("own-b", "own-a");
            }
        }
        (ours, theirs)
    }

    fn same(&self, (ours, theirs): &(Said, Said)) -> bool {
        let words = !self.words || ours.err == theirs.err;
        words && ours.out == theirs.out && ours.code == theirs.code
    }

    /// Lets both look until they agree: an age may change between the two, and the more tasks
    /// there are the more often one does.
    fn look(&self, line: &str, agree: impl Fn(&(Said, Said)) -> bool) -> (Said, Said) {
        let begun = Instant::now();
        loop {
            let said = self.run(line);
            if agree(&said) || begun.elapsed() > LOOKING {
                return said;
            }
        }
    }

    /// Compares every line of a table.
    fn compare(&self, table: &str, looks: bool) {
        let mut wrong = Vec::new();
        for line in table.lines().filter(|line| !line.is_empty()) {
            let said = if looks { self.look(line, |said| self.same(said)) } else { self.run(line) };
            if !self.same(&said) {
                let (ours, theirs) = said;
                wrong.push(format!("{line}\n  ours:   {ours:?}\n  theirs: {theirs:?}"));
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[test]
fn both_clients_see_the_same() {
    let both = Both::start();
    both.compare(LOOKS, true);
    both.compare(USAGE, false);
    let values = |said: &Said| -> Vec<serde_json::Value> {
        let line =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
        said.out.lines().map(line).collect()
    };
    for line in JSON.lines().filter(|line| !line.is_empty()) {
        let said = both.look(line, |said| values(&said.0) == values(&said.1));
        assert_eq!(values(&said.0), values(&said.1), "{line}");
        assert!(!said.0.out.is_empty() && said.0.code == 0, "{line}: {said:?}");
    }
}

#[test]
fn both_clients_change_the_same() {
    let both = Both::start();
    both.compare(CHANGES, false);
}

#[test]
fn what_is_ours_is_as_it_is_said() {
    let both = Both::start();
    for (line, code, part, why) in OURS {
        let (ours, theirs) = both.run(line);
        assert_eq!(ours.code, *code, "{line}: {ours:?}");
        assert!(format!("{}{}", ours.out, ours.err).contains(part), "{line} ({why}): {ours:?}");
        let known =
            theirs.code == *code || line.contains("{{.Nope}}") || line.contains("--pretty -f");
        assert!(known || line.contains("--secret"), "{line}: {theirs:?}");
    }
    // A group alone shows its commands, and not as output.
    for group in ["service", "node", "swarm"] {
        let (ours, theirs) = both.run(group);
        assert_eq!((&*ours.out, ours.code), (&*theirs.out, theirs.code), "{group}");
        assert!(ours.err.contains(&format!("Usage:  skep {group} COMMAND\n")), "{ours:?}");
    }
}

#[test]
fn both_clients_wait_for_the_same() {
    let both = Both::start();
    for (line, first, progress) in [
        ("service scale own-a=2", "own-a scaled to 2", "overall progress: 2 out of 2 tasks"),
        ("service update --env-add A=1 own-a", "own-a", "overall progress: 2 out of 2 tasks"),
        (
            "service rollback own-a",
            "own-a",
            "overall progress: rolling back update: 2 out of 2 tasks",
        ),
    ] {
        let (ours, theirs) = both.run(line);
        for said in [&ours, &theirs] {
            assert_eq!((said.out.lines().next(), said.code), (Some(first), 0), "{line}: {said:?}");
            let last = said.out.lines().next_back().unwrap_or_default();
            // Docker names the service since 27.
            let verdicts = ["verify: Service own-a converged", "verify: Service converged"];
            assert!(verdicts.contains(&last), "{line}: {said:?}");
            assert!(said.out.contains(progress), "{line}: {said:?}");
        }
        assert!(ours.out.ends_with("verify: Service own-a converged\n"), "{line}: {ours:?}");
    }
}
