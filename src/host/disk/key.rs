//! The file of the log's key. Where the key comes from is decided here alone: an unlock key that
//! an operator types takes this file's place, not the log's.

use std::fs;
use std::path::{Path, PathBuf};

use super::ledger::{self, LedgerError};
use super::seal::{self, LogKey};
use super::{IoFailed, segment, snapshot};
use crate::model::wire::Kind;

const FILE_NAME: &str = "log.key";
const VERSION: u16 = 1;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key's file cannot be read or written.
    #[error("cannot get the key of the log")]
    Ledger(#[from] LedgerError),
    /// The folder cannot be looked through.
    #[error(transparent)]
    Io(#[from] IoFailed),
    /// A log without its key.
    #[error("{} is missing, and the log beside it cannot be read without it (put it back from a copy; or, where other managers run, move the data root away and join again)", path.display())]
    Missing {
        /// The key's file.
        path: PathBuf,
    },
}

/// The key of the log in `dir`; made durable before the first record can need it.
pub fn load_or_create_key(dir: &Path) -> Result<LogKey, KeyError> {
    let path = dir.join(FILE_NAME);
    if let Some(bytes) = ledger::read::<[u8; 32]>(&path, Kind::LOG_KEY, VERSION)? {
        return Ok(LogKey::new(bytes));
    }
    for entry in fs::read_dir(dir).map_err(|e| IoFailed::new("list", dir, e))? {
        let name = entry.map_err(|e| IoFailed::new("list", dir, e))?.file_name();
        let name = name.to_string_lossy();
        if segment::parse_name(&name).is_some() || snapshot::parse_name(&name).is_some() {
            return Err(KeyError::Missing { path });
        }
    }
    let key = LogKey::new(seal::random());
    ledger::write(&path, Kind::LOG_KEY, VERSION, key.bytes())?;
    Ok(key)
}
