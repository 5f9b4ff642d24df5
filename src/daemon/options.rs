//! The daemon's own command line.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use crate::base::{chain, nearest};
use crate::host::images;

/// Where state lives that must survive a reboot.
pub const DATA_ROOT_DEFAULT: &str = "/var/lib/skep";

/// Where state lives that must not.
pub const EXEC_ROOT_DEFAULT: &str = "/run/skep";

/// Run a node's daemon in the foreground. systemd or `skep init` start it; it needs root.
#[derive(FromArgs, ArgsInfo, Clone, Debug, PartialEq, Eq)]
#[argh(name = "skep daemon")]
pub struct Options {
    /// state that survives a reboot (default /var/lib/skep)
    #[argh(option, default = "PathBuf::from(DATA_ROOT_DEFAULT)")]
    pub data_root: PathBuf,
    /// sockets, pids and mounts (default /run/skep)
    #[argh(option, default = "PathBuf::from(EXEC_ROOT_DEFAULT)")]
    pub exec_root: PathBuf,
    /// socket of the API (default unix://EXEC_ROOT/skep.sock)
    #[argh(option, short = 'H')]
    pub host: Option<String>,
    /// registry HOST[:PORT] that is spoken to by HTTP; may be repeated
    #[argh(option)]
    pub insecure_registry: Vec<String>,
    /// file of PEM certificates that registries may be signed by, besides the system's
    #[argh(option)]
    pub registry_ca: Option<PathBuf>,
    /// label KEY=VALUE of this node's engine; may be repeated
    #[argh(option)]
    pub label: Vec<String>,
    /// a file of seconds that the wall clock is wrong by (for tests)
    #[argh(option, hidden_help)]
    pub clock_offset: Option<PathBuf>,
    /// end at this named point, as a crash would (for tests)
    #[argh(option, hidden_help)]
    pub failpoint: Option<String>,
}

impl Options {
    /// Parses what stands after `skep daemon`.
    ///
    /// # Errors
    /// With the text to print and the exit code: 0 for `--help`, 125 for a flag that is not known, 1
    /// for a value that cannot be used.
    pub fn parse(args: &[String]) -> Result<Self, (String, u8)> {
        let mut words = Vec::with_capacity(args.len());
        for arg in args {
            match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => words.extend([flag, value]),
                Some(_) | None => words.push(arg),
            }
        }
        check_flags(&words).map_err(|text| (text, 125))?;
        let options = Self::from_args(&["skep", "daemon"], &words)
            .map_err(|exit| (exit.output, u8::from(exit.status.is_err())))?;
        for root in [&options.data_root, &options.exec_root] {
            if !root.is_absolute() {
                let text = format!("a root folder must be an absolute path, not {}", root.display());
                return Err((text, 1));
            }
        }
        options.socket().map(|_| ()).map_err(|text| (text, 1))?;
        options.check_values().map_err(|text| (text, 1))?;
        Ok(options)
    }

    /// What would be noticed otherwise when a task or a pull needs it.
    fn check_values(&self) -> Result<(), String> {
        for label in &self.label {
            if label.split_once('=').is_none_or(|(key, _)| key.trim().is_empty()) {
                return Err(format!("--label {label:?}: bad attribute format: write KEY=VALUE"));
            }
        }
        for registry in &self.insecure_registry {
            if !is_host_and_port(registry) {
                return Err(format!(
                    "--insecure-registry {registry:?}: write HOST or HOST:PORT, without a scheme \
                     and without a path"
                ));
            }
        }
        let Some(path) = &self.registry_ca else { return Ok(()) };
        let advice = "name a file of PEM certificates that can be read";
        match images::certificates(path) {
            Ok(found) if found.is_empty() => {
                Err(format!("--registry-ca {}: no certificate is in it; {advice}", path.display()))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(format!("--registry-ca: {}; {advice}", chain::text(&error))),
        }
    }

    /// Path of the API's socket.
    ///
    /// # Errors
    /// With a text for the user when the host is no unix socket.
    pub fn socket(&self) -> Result<PathBuf, String> {
        match self.host.as_deref() {
            None => Ok(self.exec_root.join("skep.sock")),
            Some(host) => match host.strip_prefix("unix://") {
                Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
                Some(_) | None => Err(format!(
                    "cannot listen on \"{host}\": only unix:///absolute/path is supported"
                )),
            },
        }
    }
}

/// Refuses a flag that is not known, in Docker's words. All flags but `--help` have a value.
fn check_flags(words: &[&str]) -> Result<(), String> {
    let known = || Options::get_args_info().flags.iter().filter(|flag| !flag.hidden);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let hidden = matches!(*word, "--failpoint" | "--clock-offset");
        let found = known().any(|flag| flag.long == *word) || *word == "-H" || hidden;
        let why = match word.strip_prefix("--") {
            _ if matches!(*word, "--help" | "-h") => return Ok(()),
            _ if found && rest.next().is_some() => continue,
            _ if found => format!("flag needs an argument: {word}"),
            Some(name) => {
                let names = known().map(|flag| flag.long.trim_start_matches('-'));
                let names: Vec<&str> = names.collect();
                let near = nearest::nearest(name, names.iter().copied());
                let near = near.map(|near| format!("\nDid you mean --{near}?"));
                format!("unknown flag: {word}{}", near.unwrap_or_default())
            }
            None if word.len() > 1 && word.starts_with('-') => {
                let short = word.chars().nth(1).unwrap_or('-');
                format!("unknown shorthand flag: '{short}' in {word}")
            }
            None => "\"skep daemon\" accepts no arguments.".to_owned(),
        };
        return Err(format!("{why}\nSee 'skep daemon --help'."));
    }
    Ok(())
}

/// `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, "1"),
    };
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_host = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    is_host && !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, (String, u8)> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn spellings() {
        let options = parse("--data-root=/a --exec-root /b --label x=y").expect("valid");
        assert_eq!(options.data_root, PathBuf::from("/a"));
        assert_eq!(options.label, ["x=y"]);
        assert_eq!(options.socket(), Ok(PathBuf::from("/b/skep.sock")));
        assert_eq!(parse("-H unix:///s").expect("valid").socket(), Ok(PathBuf::from("/s")));
    }

    #[test]
    fn refusals() {
        assert_eq!(parse("--help").expect_err("help").1, 0);
        for bad in ["--data-root a", "-H tcp://0.0.0.0:2375"] {
            assert_eq!(parse(bad).expect_err(bad).1, 1, "{bad}");
        }
        for (bad, text) in [
            ("--nope", "unknown flag: --nope"),
            ("--data-rot /x", "unknown flag: --data-rot\nDid you mean --data-root?"),
            ("--label a=b -x", "unknown shorthand flag: 'x' in -x"),
            ("--label", "flag needs an argument: --label"),
            ("extra", "\"skep daemon\" accepts no arguments."),
        ] {
            let text = format!("{text}\nSee 'skep daemon --help'.");
            assert_eq!(parse(bad).expect_err(bad), (text, 125), "{bad}");
        }
    }

    #[test]
    fn values_are_checked_at_start() {
        for good in ["pi", "pi:5000", "10.0.0.1:5000", "[fd00::1]:5000", "[fd00::1]", "a.b-c.lan"] {
            assert!(parse(&format!("--insecure-registry {good}")).is_ok(), "{good}");
        }
        for bad in ["http://pi:5000", "pi:5000/x", "pi:", "pi:99999", "pi:0", ":5000", "[pi]:1"] {
            let (text, code) = parse(&format!("--insecure-registry {bad}")).expect_err(bad);
            assert!(code == 1 && text.contains("--insecure-registry"), "{bad}: {text}");
        }
        for bad in ["x", "=x"] {
            let (text, _) = parse(&format!("--label {bad}")).expect_err(bad);
            assert!(text.starts_with("--label ") && text.ends_with("KEY=VALUE"), "{text}");
        }
        assert!(parse("--label x=").is_ok());
        let file = std::env::temp_dir().join(format!("skep-ca-{}.pem", std::process::id()));
        let line = format!("--registry-ca {}", file.display());
        let refused = || parse(&line).expect_err("no certificate").0;
        assert!(refused().contains("No such file"), "{}", refused());
        std::fs::write(&file, "no certificate").unwrap();
        assert!(refused().contains("no certificate is in it"), "{}", refused());
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&file, pem).unwrap();
        assert!(parse(&line).is_ok());
        std::fs::remove_file(&file).unwrap();
    }
}
