//! The program runc: its version and the calls that the daemon makes itself. Create and start are
//! the shim's.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::error::RuntimeError;
use super::prepare::PATH;
use crate::host::child::{self, ChildError};

/// How long what the daemon itself asks of runc may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Major, minor and patch.
type Number = (u32, u32, u32);

/// The oldest that works: the one of Debian 12.
const OLDEST: Number = (1, 1, 5);
const OLDEST_TEXT: &str = "1.1.5";

/// Holes that let a container out, and the releases of each line that closed them.
const HOLES: [(&str, &[Number]); 3] = [
    ("CVE-2024-21626", &[(1, 1, 12)]),
    ("CVE-2024-45310", &[(1, 1, 14), (1, 2, 0)]),
    ("CVE-2025-31133, CVE-2025-52565, CVE-2025-52881", &[(1, 2, 8), (1, 3, 3), (1, 4, 0)]),
];

/// runc with its state folder.
#[derive(Clone, Debug)]
pub(super) struct Runc {
    pub(super) path: PathBuf,
    pub(super) root: PathBuf,
    pub(super) version: RuncVersion,
    limit: Duration,
}

/// What runc's files tell of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traces {
    /// It is not made, or half.
    Parts,
    /// It is made and waits for its start.
    Created,
    /// It was started.
    Started,
}

/// What `runc --version` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuncVersion {
    /// The words after `runc version`.
    pub text: String,
    number: Number,
    /// The revision of Debian's package, which may hold fixes that the number does not show.
    debian: Option<String>,
}

impl RuncVersion {
    /// From the output of `runc --version`.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let mut lines = output.lines();
        let text = lines.next()?.strip_prefix("runc version ")?.trim().to_owned();
        let mut parts = text.split(['.', '-', '+', '~', ' ']).map_while(|part| part.parse().ok());
        let number = (parts.next()?, parts.next()?, parts.next()?);
        let commit = lines.find_map(|line| line.strip_prefix("commit: "));
        let debian = [Some(text.as_str()), commit].into_iter().flatten().find_map(|text| {
            let (_, revision) = text.split_once("+deb")?;
            revision.starts_with(|c: char| c.is_ascii_digit()).then(|| revision.to_owned())
        });
        Some(Self { text, number, debian })
    }

    /// New enough to work with.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        self.number >= OLDEST
    }

    /// Known holes of this version, as a warning for the log; none when there are none.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let closed = |fixes: &[Number]| {
            fixes.iter().any(|fix| (fix.0, fix.1) == (self.number.0, self.number.1) && self.number >= *fix)
                || fixes.iter().all(|fix| self.number >= *fix)
        };
        // Debian's 1.1.5+ds1-1+deb12u1 is 1.1.5 with the fix of the first hole.
        let patched = usize::from(self.debian.is_some() && self.number >= OLDEST);
        let open = HOLES.iter().skip(patched).filter(|(_, fixes)| !closed(fixes));
        let names: Vec<&str> = open.map(|(name, _)| *name).collect();
        if names.is_empty() {
            return None;
        }
        let unless = match self.debian {
            Some(_) => " unless Debian has fixed them in this revision",
            None => "",
        };
        Some(format!(
            "runc {} has known holes that let a container out ({}){unless}: upgrade runc",
            self.text,
            names.join(", ")
        ))
    }
}

impl Runc {
    /// Asks the program for its version and checks it.
    pub(super) fn open(path: &Path, root: &Path) -> Result<Self, RuntimeError> {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let path = &locate(path, &own)?;
        let output = run(Command::new(path).arg("--version"), "runc --version", LIMIT)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = RuncVersion::parse(&text).ok_or_else(|| {
            RuntimeError::Runc(format!("{path:?} did not tell its version but: {}", text.trim()))
        })?;
        if !version.is_supported() {
            return Err(RuntimeError::OldRunc { found: version.text, minimum: OLDEST_TEXT });
        }
        Ok(Self { path: path.to_owned(), root: root.to_owned(), version, limit: LIMIT })
    }

    /// runc knows a container of this name.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    /// How far the container of this name has come, as far as runc's own files tell.
    pub(super) fn traces(&self, id: &str) -> Traces {
        let folder = self.root.join(id);
        if !folder.join("state.json").exists() {
            Traces::Parts
        } else if folder.join("exec.fifo").exists() {
            Traces::Created
        } else {
            Traces::Started
        }
    }

    /// Kills and forgets a container; none of that name is fine.
    pub(super) fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        if !self.knows(id) {
            return Ok(());
        }
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(&self.root).args(["delete", "--force", id]);
        let output = run(&mut command, "runc delete", self.limit)?;
        if output.status.success() || !self.knows(id) {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(RuntimeError::Runc(format!("runc delete failed: {}", text.trim())))
    }
}

/// The program's absolute path: the shim, with another folder and another search path, is to run
/// the one that was checked. A name alone is looked for in `own`, then where the shim would look.
fn locate(program: &Path, own: &OsStr) -> Result<PathBuf, RuntimeError> {
    let failed = |source| RuntimeError::NoRunc { path: program.to_owned(), source };
    if program.components().count() > 1 {
        return std::path::absolute(program).map_err(failed);
    }
    let found = std::env::split_paths(own)
        .chain(std::env::split_paths(PATH))
        .map(|dir| dir.join(program))
        .find(|path| is_program(path))
        .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    std::path::absolute(found).map_err(failed)
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn run(command: &mut Command, what: &str, limit: Duration) -> Result<Output, RuntimeError> {
    child::run(command, b"", limit).map_err(|err| match err {
        ChildError::Io(source) => {
            RuntimeError::NoRunc { path: command.get_program().into(), source }
        }
        ChildError::Late(limit) => RuntimeError::Late { what: what.to_owned(), limit },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_path_is_absolute() {
        let own = "/nonexistent:/usr/sbin:/bin".as_ref();
        assert_eq!(locate("sh".as_ref(), own).unwrap(), Path::new("/bin/sh"));
        // A daemon may have no search path.
        assert!(locate("sh".as_ref(), "".as_ref()).unwrap().is_absolute());
        assert_eq!(locate("/x/runc".as_ref(), own).unwrap(), Path::new("/x/runc"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(locate("x/runc".as_ref(), own).unwrap(), here.join("x/runc"));
        assert!(matches!(locate("no-such".as_ref(), own), Err(RuntimeError::NoRunc { .. })));
    }

    #[test]
    fn one_that_stands_still_is_not_waited_for() {
        let version = version("1.1.5", "x");
        let limit = Duration::from_millis(200);
        let path = child::program_that_stands_still("runc");
        let runc = Runc { path: path.clone(), root: "/".into(), version, limit };
        let err = runc.delete("usr").unwrap_err();
        assert_eq!(err.to_string(), "runc delete did not end within 0 s and was killed");
        assert!(err.is_temporary());
        std::fs::remove_file(path).unwrap();
    }

    fn version(text: &str, commit: &str) -> RuncVersion {
        RuncVersion::parse(&format!("runc version {text}\ncommit: {commit}\nspec: 1.0.2\n")).unwrap()
    }

    #[test]
    fn holes_are_named() {
        let plain = version("1.1.5", "v1.1.5-0-gf19387a6");
        assert!(plain.is_supported());
        assert!(plain.warning().unwrap().contains("CVE-2024-21626"));
        let debian = version("1.1.5+ds1", "1.1.5+ds1-1+deb12u1");
        let warning = debian.warning().unwrap();
        assert!(!warning.contains("CVE-2024-21626") && warning.contains("CVE-2025-31133"));
        assert!(version("1.2.7", "x").warning().unwrap().contains("CVE-2025-52881"));
        for good in ["1.2.8", "1.3.3", "1.4.0", "1.4.2", "2.0.0"] {
            assert_eq!(version(good, "x").warning(), None, "{good}");
        }
        assert!(version("1.3.2", "x").warning().is_some());
    }

    #[test]
    fn old_and_strange_ones_are_refused() {
        assert!(!version("1.1.4", "x").is_supported());
        assert!(!version("1.0.0-rc93", "x").is_supported());
        assert!(version("1.3.0-rc.1", "x").is_supported());
        assert_eq!(RuncVersion::parse("something else\n"), None);
        assert_eq!(RuncVersion::parse("runc version unknown\n"), None);
    }
}
