//! The daemon's own command line.

use std::path::PathBuf;

use argh::FromArgs;

/// Where state lives that must survive a reboot.
pub const DATA_ROOT_DEFAULT: &str = "/var/lib/skep";

/// Where state lives that must not.
pub const EXEC_ROOT_DEFAULT: &str = "/run/skep";

/// Run a node's daemon in the foreground. systemd or `skep init` start it; it needs root.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
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
    /// end at this named point, as a crash would (for tests)
    #[argh(option, hidden_help)]
    pub failpoint: Option<String>,
}

impl Options {
    /// Parses what stands after `skep daemon`.
    ///
    /// # Errors
    /// With the text to print and the exit code: 0 for `--help`, 1 for what is not understood.
    pub fn parse(args: &[String]) -> Result<Self, (String, u8)> {
        let mut words = Vec::with_capacity(args.len());
        for arg in args {
            match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => words.extend([flag, value]),
                Some(_) | None => words.push(arg),
            }
        }
        let options = Self::from_args(&["skep", "daemon"], &words)
            .map_err(|exit| (exit.output, u8::from(exit.status.is_err())))?;
        for root in [&options.data_root, &options.exec_root] {
            if !root.is_absolute() {
                let text = format!("a root folder must be an absolute path, not {}", root.display());
                return Err((text, 1));
            }
        }
        options.socket().map(|_| ()).map_err(|text| (text, 1))?;
        Ok(options)
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
        for bad in ["--nope", "--data-root a", "-H tcp://0.0.0.0:2375", "extra"] {
            assert_eq!(parse(bad).expect_err(bad).1, 1, "{bad}");
        }
    }
}
