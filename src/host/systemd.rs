//! Runs the daemon as a unit of systemd: installs the units that the binary holds where there are
//! none of their names, enables and starts. A unit that somebody has installed or changed is used
//! as it is and never overwritten.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The daemon's unit, with the path of an installed binary in it.
const UNIT: &str = include_str!("../../systemd/skep.service");

/// The unit that has the tasks' cgroup.
const TASKS_UNIT: &str = include_str!("../../systemd/skep-tasks.service");

/// Name of the second.
const TASKS_NAME: &str = "skep-tasks.service";

/// The command in [`UNIT`] that is replaced.
const COMMAND: &str = "/usr/local/bin/skep daemon";

/// The one that tells the daemon of the system's shutdown; replaced, too.
const SHUTDOWN: &str = "/usr/local/bin/skep system shutdown";

/// Where an administrator's units are (`systemd.unit(5)`).
const UNIT_DIR: &str = "/etc/systemd/system";

/// There while systemd is process 1 (`sd_booted(3)`).
const BOOTED_DIR: &str = "/run/systemd/system";

/// Lines of the journal that are shown when a start fails.
const JOURNAL_LINES_SHOWN: &str = "5";

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// `systemctl` cannot be run.
    #[error("cannot run systemctl")]
    Run(#[source] io::Error),
    /// `systemctl` refused.
    #[error("cannot {doing} {unit}: {said} (see: journalctl -u {unit})")]
    Refused {
        /// What was to be done.
        doing: &'static str,
        /// To which unit.
        unit: String,
        /// What was said.
        said: String,
    },
    /// A unit's file cannot be written.
    #[error("cannot write the unit {path}", path = .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether systemd is process 1.
#[must_use]
pub fn is_booted() -> bool {
    Path::new(BOOTED_DIR).is_dir()
}

/// Whether systemd is taking the whole system down, not only a unit: it says `stopping` from the moment
/// on that the jobs of `shutdown.target` are queued (`systemctl(1)`). Where nobody can tell, it is not.
#[must_use]
pub fn is_stopping() -> bool {
    // What it exits with tells of failed units, too.
    let said = is_booted().then(|| run("systemctl", &["is-system-running"]));
    said.and_then(Result::ok).is_some_and(|said| said.stdout.trim_ascii() == b"stopping")
}

/// Starts the daemon's unit and waits until the daemon is ready. `name` is the unit's without its
/// ending, `command` the binary and its arguments, `host` the daemon's socket.
///
/// # Errors
/// When a unit cannot be written, or does not start: with what the daemon said last.
pub fn start(name: &str, command: &[String], host: &str) -> Result<(), SystemdError> {
    let unit = format!("{name}.service");
    if !is_known(&unit)? {
        if !is_known(TASKS_NAME)? {
            write(TASKS_NAME, TASKS_UNIT)?;
        }
        write(&unit, &unit_text(command, host))?;
        systemctl("reload the units for", &["daemon-reload"], &unit)?;
    }
    systemctl("enable", &["enable", "--quiet", &unit], &unit)?;
    systemctl("start", &["start", &unit], &unit).map_err(|error| with_journal(error, &unit))
}

/// Whether systemd knows a unit of this name, from wherever.
fn is_known(unit: &str) -> Result<bool, SystemdError> {
    let output = run("systemctl", &["show", "--property=LoadState", "--value", unit])?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() != "not-found")
}

fn write(unit: &str, text: &str) -> Result<(), SystemdError> {
    let path = Path::new(UNIT_DIR).join(unit);
    let new = Path::new(UNIT_DIR).join(format!(".{unit}.new"));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|source| SystemdError::Write { path, source })
}

fn systemctl(doing: &'static str, args: &[&str], unit: &str) -> Result<(), SystemdError> {
    let output = run("systemctl", args)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("no reason given").to_owned();
    Err(SystemdError::Refused { doing, unit: unit.to_owned(), said })
}

/// Puts what the daemon said last in the place of systemctl's "see the journal".
fn with_journal(error: SystemdError, unit: &str) -> SystemdError {
    let args = ["-u", unit, "-n", JOURNAL_LINES_SHOWN, "-o", "cat", "--no-pager", "-q"];
    match (error, run("journalctl", &args)) {
        (SystemdError::Refused { doing, unit, said }, Ok(output)) => {
            let last = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
            let said = if last.is_empty() { said } else { last };
            SystemdError::Refused { doing, unit, said }
        }
        (error, _) => error,
    }
}

fn run(program: &str, args: &[&str]) -> Result<Output, SystemdError> {
    Command::new(program).args(args).output().map_err(SystemdError::Run)
}

/// The daemon's unit with this command, of a daemon with this socket.
fn unit_text(command: &[String], host: &str) -> String {
    let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let program = words.first().cloned().unwrap_or_default();
    let shutdown = format!("{program} -H {} system shutdown", quoted(host));
    UNIT.replace(COMMAND, &words.join(" ")).replace(SHUTDOWN, &shutdown)
}

/// A word of a unit's command line (`systemd.service(5)`, "Command lines").
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '%' | '$' => text.extend([c, c]),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_put_into_the_unit_and_quoted() {
        assert_eq!(UNIT.matches(COMMAND).count(), 1, "the unit's command has another form");
        let words = ["/opt/my skep", "daemon", "--data-root", "/a%b", "-H", "unix:///run/x.sock"];
        let text = unit_text(&words.map(str::to_owned), "unix:///run/x.sock");
        let line = "ExecStart=\"/opt/my skep\" daemon --data-root \"/a%%b\" -H unix:///run/x.sock";
        assert!(text.lines().any(|found| found == line), "{text}");
        let line = "ExecStop=\"/opt/my skep\" -H unix:///run/x.sock system shutdown --if-stopping";
        assert!(text.lines().any(|found| found == line), "{text}");
        assert_eq!(quoted("a\"b\\c$d"), "\"a\\\"b\\\\c$$d\"");
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn the_units_keep_what_the_design_rests_on() {
        for line in ["Type=notify", "KillMode=process", "Restart=always", "StartLimitIntervalSec=0"] {
            assert!(UNIT.lines().any(|found| found == line), "{line}");
        }
        for line in ["Delegate=yes", "Type=exec", "OOMPolicy=continue", "OOMScoreAdjust=-1000"] {
            assert!(TASKS_UNIT.lines().any(|found| found == line), "{line}");
        }
    }
}
