//! Tests of the command line without a daemon: spellings, help, and that the two agree.

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfoKind, FromArgs};
use expect_test::{expect, expect_file};

use super::args::Skep;
use super::argv::{self, normalise};
use super::explain;

fn split(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

/// The rewritten line, or what is told instead.
fn rewritten(line: &[&str]) -> String {
    match normalise(Skep::get_args_info(), &split(line)) {
        Ok(invocation) => invocation.args.join(" "),
        Err(stop) => explain(&stop, 80).0.lines().next().unwrap_or("").to_owned(),
    }
}

#[test]
fn dockers_spellings_become_arghs() {
    for (line, expected) in [
        (&["service", "ls"][..], "service ls --"),
        (&["service", "list", "-q"], "service ls --quiet --"),
        (&["images"], "image ls --"),
        (&["rmi", "-f", "a", "b"], "image rm --force -- a b"),
        (&["swarm", "init", "--advertise-addr=10.0.0.1"], "swarm init --advertise-addr 10.0.0.1 --"),
        (&["-H", "unix:///x", "service", "ls"], "--host unix:///x service ls --"),
        (&["service", "-Hunix:///x", "ls"], "unknown shorthand flag: 'H' in -Hunix:///x"),
        (&["service", "create", "-dtp80:80", "img"],
            "service create --detach --publish 80:80 --tty true -- img"),
        (&["service", "create", "-eA=b", "-e=C=d", "-e", "E=f=g", "img"],
            "service create --env A=b --env C=d --env E=f=g -- img"),
        (&["service", "create", "--detach=false", "--init", "img"],
            "service create --init true -- img"),
        (&["service", "create", "--init=false", "--name=a", "--name=b", "img"],
            "service create --init false --name b -- img"),
        (&["service", "create", "img", "sh", "-c", "ls -l", "--help"],
            "service create -- img sh -c ls -l --help"),
        (&["service", "create", "--name=a", "--", "img", "-x", "--", "help"],
            "service create --name a -- img -x -- help"),
        (&["service", "update", "web", "--force", "--image=", "-d"],
            "service update --detach --force --image  -- web"),
        (&["service", "logs", "-ftn5", "web"],
            "service logs --follow --tail 5 --timestamps -- web"),
        (&["service", "scale", "-d", "a=1", "b=2"], "service scale --detach -- a=1 b=2"),
        (&["service", "ps", "--", "-x"], "service ps -- -x"),
        (&["daemon", "--data-root=/x", "-H", "y", "--help"], "daemon -- --data-root=/x -H y --help"),
        (&["volume", "create"], "volume create --"),
    ] {
        assert_eq!(rewritten(line), expected, "{line:?}");
        if let Ok(invocation) = normalise(Skep::get_args_info(), &split(line)) {
            let words: Vec<&str> = invocation.args.iter().map(String::as_str).collect();
            assert!(Skep::from_args(&["skep"], &words).is_ok(), "{words:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (line, expected) in [
        (&["service", "create", "--bogus", "x"][..], "unknown flag: --bogus"),
        (&["service", "create", "-n"], "unknown shorthand flag: 'n' in -n"),
        (&["service", "create", "-dn"], "unknown shorthand flag: 'n' in -dn"),
        (&["service", "create", "--name"], "flag needs an argument: --name"),
        (&["service", "create", "-e"], "flag needs an argument: 'e' in -e"),
        (&["service", "create", "-q=x", "i"],
            "invalid argument \"x\" for \"-q, --quiet\" flag: strconv.ParseBool: parsing \"x\": invalid syntax"),
        (&["service", "create", "--stop-grace-period=-1s", "i"],
            "invalid argument \"-1s\" for \"--stop-grace-period\" flag: duration cannot be negative"),
        (&["service", "create", "-e", "=x", "i"],
            "invalid argument \"=x\" for \"-e, --env\" flag: invalid environment variable: =x"),
        (&["service", "create", "--limit-memory=x", "i"],
            "invalid argument \"x\" for \"--limit-memory\" flag: invalid size: 'x'"),
        (&["service", "ls", "-f", "abc"],
            "invalid argument \"abc\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"),
        (&["service", "ls", "x"], "\"skep service ls\" accepts no arguments."),
        (&["service", "rm"], "\"skep service rm\" requires at least 1 argument."),
        (&["service", "update"], "\"skep service update\" requires exactly 1 argument."),
        (&["service", "update", "a", "b"], "\"skep service update\" requires exactly 1 argument."),
        (&["volume", "create", "a", "b"], "\"skep volume create\" requires at most 1 argument."),
        (&["service", "update", "--rollback", "--image", "x", "web"],
            "other flags may not be combined with --rollback"),
        (&["service", "update", "--rollback=false", "-dq", "--image", "x", "web"],
            "service update --detach --image x --quiet -- web"),
        (&["service", "update", "--rollback", "-dq", "web"],
            "service update --detach --quiet --rollback -- web"),
        (&["service", "inspect", ""], "invalid service name or ID: value is empty"),
        (&["service", "logs", ""], "invalid service name or ID: value is empty"),
        (&["service", "ps", "web", ""], "invalid service name or ID: value is empty"),
        (&["service", "rm", "", "web"], "invalid service name or ID: value is empty"),
        (&["node", "inspect", ""], "invalid node name or ID: value is empty"),
        (&["node", "ps", ""], "invalid node name or ID: value is empty"),
        (&["image", "rm", ""], "invalid image name or ID: value is empty"),
        (&["image", "inspect", ""], "invalid image name or ID: value is empty"),
        (&["volume", "rm", ""], "invalid volume name or ID: value is empty"),
        (&["volume", "create", ""], "volume create -- "),
        (&["service", "create", "web", ""], "service create -- web "),
        (&["swarm", "update", "--autolock=x"],
            "invalid argument \"x\" for \"--autolock\" flag: strconv.ParseBool: parsing \"x\": invalid syntax"),
        (&["update", "--autolock"], "update --autolock true --"),
        (&["stack", "deploy", "-c", "x.yaml", "web"],
            "skep: 'skep stack' is a command of Docker that skep does not have yet"),
        (&["secret", "--help"],
            "skep: 'skep secret' is a command of Docker that skep does not have yet"),
        (&["swarm", "unlock-key"],
            "skep: 'skep swarm unlock-key' is a command of Docker that skep does not have yet"),
        (&["srevice"], "skep: unknown command: skep srevice"),
        (&["node", "foo"], "skep: unknown command: skep node foo"),
        (&["service", "ls", "-h"], "Usage:  skep service ls [OPTIONS]"),
        (&["service", "create", "--name=x", "--help"],
            "Usage:  skep service create [OPTIONS] IMAGE [COMMAND] [ARG...]"),
        (&["service"], "Usage:  skep service COMMAND"),
        (&["help", "service", "ls"], "Usage:  skep service ls [OPTIONS]"),
        (&["service", "help", "foo"], "skep: unknown command: skep service foo"),
        (&[], "Usage:  skep [OPTIONS] COMMAND"),
        (&["--version"], concat!("skep version ", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(rewritten(line), expected, "{line:?}");
    }
}

/// Every command without commands below it, with its path.
fn leaves(path: &[&'static str], info: CommandInfoWithArgs, out: &mut Vec<Vec<&'static str>>) {
    if info.commands.is_empty() {
        out.push(path.to_vec());
    }
    for sub in info.commands {
        let path = [path, &[sub.name]].concat();
        leaves(&path, sub.command, out);
    }
}

fn info(path: &[&str]) -> CommandInfoWithArgs {
    path.iter().fold(Skep::get_args_info(), |info, name| {
        let found = info.commands.into_iter().find(|sub| sub.name == *name);
        found.map(|sub| sub.command).unwrap()
    })
}

fn sample(kind: &str) -> &'static str {
    match kind {
        "uint" | "int" | "decimal" | "float" => "1",
        "bytes" => "64m",
        "duration" => "1s",
        "bool" => "true",
        "port" => "80",
        "mount" => "target=/x",
        "network" => "front",
        "ulimit" => "nofile=1",
        "filter" => "name=x",
        "pref" => "spread=node.labels.x",
        "command" => "sh -c ls",
        "device" => "/dev/null",
        _ => "10.0.0.1",
    }
}

#[test]
fn every_flag_in_the_help_is_parsed() {
    let mut all = Vec::new();
    leaves(&[], Skep::get_args_info(), &mut all);
    let mut flags = 0;
    for path in all {
        if path == ["daemon"] {
            continue;
        }
        let info = info(&path);
        let needed = argv::synopsis(&info).split(' ').filter(|w| !w.is_empty() && !w.starts_with('['));
        let words: Vec<String> = needed.map(|_| "a=1".to_owned()).collect();
        for flag in argv::flags(&info) {
            flags += 1;
            let value = match flag.kind {
                FlagInfoKind::Switch => "true",
                FlagInfoKind::Option { .. } if flag.long.contains("host-") || flag.long == "--host" => {
                    "h:10.0.0.1"
                }
                FlagInfoKind::Option { .. } if flag.long.contains("dns-search") => "example.com",
                FlagInfoKind::Option { arg_name } => sample(arg_name),
            };
            let mut spellings = vec![vec![format!("{}={value}", flag.long)]];
            if argv::is_boolean(flag) {
                spellings.push(vec![flag.long.to_owned()]);
                spellings.extend(flag.short.map(|short| vec![format!("-{short}")]));
            } else {
                spellings.push(vec![flag.long.to_owned(), value.to_owned()]);
                spellings.extend(flag.short.map(|short| vec![format!("-{short}{value}")]));
            }
            for spelling in spellings {
                let mut line = split(&path);
                line.extend(spelling);
                line.extend(words.clone());
                let invocation = normalise(Skep::get_args_info(), &line)
                    .unwrap_or_else(|stop| panic!("{line:?}: {}", explain(&stop, 80).0));
                let rewritten: Vec<&str> = invocation.args.iter().map(String::as_str).collect();
                assert!(rewritten.contains(&flag.long), "{line:?}: {rewritten:?}");
                let parsed = Skep::from_args(&["skep"], &rewritten);
                assert!(parsed.is_ok(), "{line:?}: {}", parsed.unwrap_err().output);
            }
        }
    }
    assert!(flags > 150, "only {flags} flags were seen");
}

fn help(line: &[&str], columns: usize) -> String {
    let line: Vec<String> = split(line).into_iter().chain(["--help".to_owned()]).collect();
    explain(&normalise(Skep::get_args_info(), &line).unwrap_err(), columns).0
}

#[test]
fn help_is_laid_out_as_dockers() {
    expect_file!["../../tests/data/cli/help-service-create.txt"]
        .assert_eq(&help(&["service", "create"], 80));
    expect_file!["../../tests/data/cli/help-service-update.txt"]
        .assert_eq(&help(&["service", "update"], 80));
    expect_file!["../../tests/data/cli/help-skep.txt"].assert_eq(&help(&[], 80));
    expect![[r#"
        Usage:  skep service COMMAND

        Manage Swarm services

        Commands:
          create      Create a new service
          inspect     Display detailed information on one or more services
          logs        Fetch the logs of a service or task
          ls          List services
          ps          List the tasks of one or more services
          rm          Remove one or more services
          rollback    Revert changes to a service's configuration
          scale       Scale one or multiple replicated services
          update      Update a service

        Run 'skep service COMMAND --help' for more information on a command.
    "#]]
    .assert_eq(&help(&["service"], 80));
    expect![[r#"
        Usage:  skep service ps [OPTIONS] SERVICE [SERVICE...]

        List the tasks of one or more services

        Options:
          -f, --filter filter   Filter output based on conditions provided
              --format string   Format output: "table", "table TEMPLATE", "json"
                                or a Go template
              --no-resolve      Do not map IDs to Names
              --no-trunc        Do not truncate output
          -q, --quiet           Only display task IDs
    "#]]
    .assert_eq(&help(&["service", "ps"], 80));
    expect![[r#"
        Usage:  skep image ls [OPTIONS] [REPOSITORY[:TAG]]

        List images

        Aliases:
          skep image ls, skep images, skep image list
    "#]]
    .assert_eq(help(&["image", "ls"], 80).split("\nOptions").next().unwrap());
    assert!(help(&["service", "create"], 200).lines().any(|line| line.len() > 100));
}
