//! Runs `nft`: one transaction on its standard input, nothing else.
//!
//! The child inherits the calling thread's network namespace, so a caller never runs this from
//! a thread that has entered a task's.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::host::child::{self, ChildError};

/// How long one transaction may take: others wait for the table meanwhile.
const LIMIT: Duration = Duration::from_secs(10);

/// Where `nft` is looked for after the directories of `PATH`, which a daemon may lack.
const DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"];

/// What may go wrong with `nft`.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not installed.
    #[error("nft is not installed (install it: apt install nftables, or apk add nftables)")]
    Missing,
    /// The program cannot be run.
    #[error("cannot run {path}", path = .path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program stood still.
    #[error("nft did not {doing} within {} s and was killed", .limit.as_secs())]
    Late {
        /// What was to be done.
        doing: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The kernel lacks what the table needs.
    #[error(
        "the kernel lacks a netfilter part that the table needs: nft says {said:?} (load or build \
         nf_tables, nft_ct, nft_masq and nft_chain_nat)"
    )]
    Kernel {
        /// The first line of what nft said.
        said: String,
    },
    /// The table is gone: another program has flushed the rules.
    #[error("the nft table is gone: another program has flushed the rules")]
    TableGone,
    /// nft refused the transaction.
    #[error("nft refused to {doing}: {said}")]
    Refused {
        /// What was to be done.
        doing: String,
        /// What nft said.
        said: String,
    },
}

/// The `nft` program.
#[derive(Clone, Debug)]
pub(super) struct Nft {
    path: PathBuf,
    limit: Duration,
}

impl Nft {
    /// Finds the program.
    pub(super) fn find() -> Result<Self, NftError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(DIRS.iter().map(PathBuf::from))
            .map(|dir| dir.join("nft"))
            .find(|path| path.is_file())
            .map(|path| Self { path, limit: LIMIT })
            .ok_or(NftError::Missing)
    }

    /// Runs one transaction: all of it or nothing.
    pub(super) fn apply(&self, doing: &str, transaction: &str) -> Result<(), NftError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let output = self.output(doing, &["-f", "-"], transaction)?;
        if output.status.success() {
            return Ok(());
        }
        Err(refusal(doing, transaction, &String::from_utf8_lossy(&output.stderr)))
    }

    /// What `nft list …` prints; empty when what was asked for is not there.
    pub(super) fn list(&self, what: &[&str]) -> Result<String, NftError> {
        let output = self.output("list the rules", &[&["list"], what].concat(), "")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn output(&self, doing: &str, args: &[&str], input: &str) -> Result<Output, NftError> {
        let mut command = Command::new(&self.path);
        command.args(args).current_dir(Path::new("/"));
        child::run(&mut command, input.as_bytes(), self.limit).map_err(|err| match err {
            ChildError::Io(source) => NftError::Run { path: self.path.clone(), source },
            ChildError::Late(limit) => NftError::Late { doing: doing.to_owned(), limit },
        })
    }
}

/// Puts nft's words into a case that the caller can act on.
fn refusal(doing: &str, transaction: &str, said: &str) -> NftError {
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned();
    let whole = transaction.contains("chain postrouting");
    if said.contains("Operation not supported") || said.contains("Protocol not supported") {
        return NftError::Kernel { said: first };
    }
    if said.contains("No such file or directory") {
        // In a whole table only a missing expression or chain type can be meant.
        return if whole { NftError::Kernel { said: first } } else { NftError::TableGone };
    }
    NftError::Refused { doing: doing.to_owned(), said: first }
}

/// Chains of other tables, in the text of `nft list chains`, that drop what is forwarded: a drop
/// is final whatever our own table says.
pub(super) fn forward_drops(listing: &str) -> Vec<String> {
    let (mut table, mut chain) = ("", "");
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if line.contains("hook forward") && line.contains("policy drop") {
            found.push(format!("{table} {chain}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_another_table_is_found() {
        let listing = "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority \
                       filter; policy drop;\n\t}\n\tchain INPUT {\n\t\ttype filter hook input \
                       priority filter; policy drop;\n\t}\n}\ntable inet skep {\n\tchain forward \
                       {\n\t\ttype filter hook forward priority filter; policy accept;\n\t}\n}\n";
        assert_eq!(forward_drops(listing), ["ip filter FORWARD"]);
        assert!(forward_drops("rubbish").is_empty());
    }

    #[test]
    fn one_that_stands_still_is_not_waited_for() {
        let path = child::program_that_stands_still("nft");
        let nft = Nft { path: path.clone(), limit: Duration::from_millis(200) };
        let err = nft.apply("let a task through", "x").unwrap_err();
        assert_eq!(err.to_string(), "nft did not let a task through within 0 s and was killed");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_nft_says_gets_a_name() {
        let gone = "/dev/stdin:1:1-9: Error: Could not process rule: No such file or directory";
        assert!(matches!(refusal("add", "add element …", gone), NftError::TableGone));
        assert!(matches!(refusal("make", "chain postrouting", gone), NftError::Kernel { .. }));
        let unsupported = "\nError: Could not process rule: Operation not supported\n";
        let NftError::Kernel { said } = refusal("make", "x", unsupported) else { panic!() };
        assert!(said.starts_with("Error: Could"));
        assert!(matches!(refusal("make", "x", "syntax error"), NftError::Refused { .. }));
    }
}
