//! The file of the log's key: open, or sealed with the node's secret where managers lock themselves
//! (`host::vault`). The log itself knows of neither.

use std::fs;
use std::path::{Path, PathBuf};

use super::ledger::{self, LedgerError};
use super::seal::{self, LogKey};
use super::sealed::{Sealed, Secret};
use super::{IoFailed, segment, snapshot};
use crate::model::wire::{Frame, Kind};

const FILE_NAME: &str = "log.key";

/// Version of the open file: the key.
const OPEN: u16 = 1;

/// Version of the sealed one: a [`Sealed`] key.
const SEALED: u16 = 2;

const PURPOSE: &[u8] = b"skep log key 1";

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
    /// Sealed, and nothing here opens it.
    #[error("{} is sealed, and node/vault does not hold what opens it (put both back from one copy; or, where other managers run, move the data root away and join again)", path.display())]
    Sealed {
        /// The key's file.
        path: PathBuf,
    },
}

/// The key of the log in `dir`, of a node that seals nothing; made durable before the first record can
/// need it.
pub fn load_or_create_key(dir: &Path) -> Result<LogKey, KeyError> {
    open_key(dir, None, false)
}

/// The same, of a node whose files `secret` may have sealed; `seal`: a key that is made is sealed, too.
pub fn open_key(dir: &Path, secret: Option<&Secret>, seal: bool) -> Result<LogKey, KeyError> {
    let path = dir.join(FILE_NAME);
    if let Some((key, _was_sealed)) = read(&path, secret)? {
        return Ok(key);
    }
    for entry in fs::read_dir(dir).map_err(|e| IoFailed::new("list", dir, e))? {
        let name = entry.map_err(|e| IoFailed::new("list", dir, e))?.file_name();
        let name = name.to_string_lossy();
        if segment::parse_name(&name).is_some() || snapshot::parse_name(&name).is_some() {
            return Err(KeyError::Missing { path });
        }
    }
    let key = LogKey::new(seal::random());
    write(&path, &key, secret.filter(|_| seal))?;
    Ok(key)
}

/// Seals the key's file, or opens it for good; one that is so already, and none, are left as they are.
pub fn reseal_key(dir: &Path, secret: Option<&Secret>, seal: bool) -> Result<(), KeyError> {
    let path = dir.join(FILE_NAME);
    match read(&path, secret)? {
        Some((key, was_sealed)) if was_sealed != seal => write(&path, &key, secret.filter(|_| seal)),
        Some(_) | None => Ok(()),
    }
}

/// The key, and whether it was sealed.
fn read(path: &Path, secret: Option<&Secret>) -> Result<Option<(LogKey, bool)>, KeyError> {
    let Some((version, payload)) = ledger::load(path, Kind::LOG_KEY)? else { return Ok(None) };
    let frame = Frame { kind: Kind::LOG_KEY, version, payload: &payload };
    let shape = |source| LedgerError::Decode { path: path.to_owned(), source };
    if version != SEALED {
        let bytes: [u8; 32] = frame.decode(Kind::LOG_KEY, OPEN).map_err(shape)?;
        return Ok(Some((LogKey::new(bytes), false)));
    }
    let sealed: Sealed = frame.decode(Kind::LOG_KEY, SEALED).map_err(shape)?;
    let opened = secret.and_then(|secret| secret.open(PURPOSE, b"", &sealed));
    let bytes = opened.and_then(|bytes| bytes.try_into().ok());
    let bytes = bytes.ok_or_else(|| KeyError::Sealed { path: path.to_owned() })?;
    Ok(Some((LogKey::new(bytes), true)))
}

fn write(path: &Path, key: &LogKey, secret: Option<&Secret>) -> Result<(), KeyError> {
    match secret {
        None => ledger::write(path, Kind::LOG_KEY, OPEN, key.bytes())?,
        Some(secret) => {
            let sealed = secret.seal(PURPOSE, b"", key.bytes());
            ledger::write(path, Kind::LOG_KEY, SEALED, &sealed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A difference means that a log that an older release wrote cannot be opened: make a new version.
    #[test]
    fn the_sealed_file_is_frozen() {
        let secret = Secret::new([7; 32]);
        let sealed = secret.seal_with([0x22; 32], PURPOSE, b"", &[0x11; 32]);
        let bytes = ledger::encode(Path::new("log.key"), Kind::LOG_KEY, SEALED, &sealed).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect_file!["../../../tests/data/wire/log-key-2.hex"].assert_eq(&(hex + "\n"));
    }

    #[test]
    fn the_same_key_comes_out_of_both_forms_and_only_with_the_secret() {
        let dir = std::env::temp_dir().join(format!("skep-log-key-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (secret, other) = (Secret::draw(), Secret::draw());
        reseal_key(&dir, Some(&secret), true).unwrap();
        assert!(!dir.join(FILE_NAME).exists(), "there is none to be sealed");
        let made = *load_or_create_key(&dir).unwrap().bytes();
        for seal in [true, true, false, false, true] {
            reseal_key(&dir, Some(&secret), seal).unwrap();
            let file = fs::read(dir.join(FILE_NAME)).unwrap();
            assert_eq!(file.windows(32).any(|it| it == made), !seal);
            assert_eq!(*open_key(&dir, Some(&secret), true).unwrap().bytes(), made);
        }
        for wrong in [None, Some(&other)] {
            let refused = open_key(&dir, wrong, true).unwrap_err();
            assert!(matches!(refused, KeyError::Sealed { .. }), "{refused}");
        }
        fs::remove_file(dir.join(FILE_NAME)).unwrap();
        let made = *open_key(&dir, Some(&secret), true).unwrap().bytes();
        let file = fs::read(dir.join(FILE_NAME)).unwrap();
        assert!(!file.windows(32).any(|it| it == made), "a new one is sealed from the start");
        fs::remove_dir_all(&dir).unwrap();
    }
}
