//! The keys of a manager that locks itself: those of its log and of its certificate.
//!
//! Both are sealed with a secret that is drawn when the lock is turned on. One small file, `node/vault`,
//! holds that secret, sealed with the unlock key; so another unlock key is one file replaced. Not here: when
//! the lock is on, and with which key; the store says it, in a resource whose version is kept beside.
//!
//! ```text
//! on    vault: secret sealed with the key      then both keys are sealed with the secret
//! key   vault: secret sealed with the new key
//! off   vault: secret open                     then both keys are opened, then vault: no secret
//! ```
//! **Invariant:** whatever step a crash comes behind, what the vault holds opens both keys, sealed or not,
//! and the next start or the next word of the store does the steps that are left.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::disk::key::{self, KeyError};
use super::disk::layout::DataRoot;
use super::disk::ledger::{self, LedgerError};
use super::disk::sealed::{Sealed, Secret};
use super::disk::LogKey;
use super::pki::{Credentials, CredentialsError};
use crate::model::node::Role;
use crate::model::unlock_key::UnlockKey;
use crate::model::wire::Kind;

const VERSION: u16 = 1;

const PURPOSE: &[u8] = b"skep vault 1";

/// The file.
#[derive(Serialize, Deserialize)]
enum File {
    /// As of this version of the resource; with a secret while keys may be sealed with it still.
    Off { version: u64, secret: Option<[u8; 32]> },
    On { version: u64, secret: Sealed },
}

/// Why keys cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The vault's own file.
    #[error("cannot use the vault of this node's keys")]
    Ledger(#[from] LedgerError),
    /// The log's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate and its key.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// What a node finds at its start.
#[derive(Debug)]
pub enum Found {
    /// Its keys can be read.
    Open(Vault),
    /// They cannot, without the unlock key.
    Locked(Locked),
}

/// A vault that waits for its key.
#[derive(Debug)]
pub struct Locked {
    data: DataRoot,
    version: u64,
    secret: Sealed,
}

/// What became of the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// It is as it was.
    Nothing,
    /// The node will need its key after a restart.
    On,
    /// It will not any more.
    Off,
    /// It will need another one.
    Rotated,
}

/// A vault whose keys can be read. Clones are one.
#[derive(Clone, Debug)]
pub struct Vault {
    data: DataRoot,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// What keys may be sealed with.
    secret: Option<Secret>,
    /// The lock is on, with this key.
    key: Option<UnlockKey>,
    /// A step may be left to be done.
    unsettled: bool,
}

impl State {
    /// What seals a key that is written.
    fn sealing(&self) -> Option<&Secret> {
        self.secret.as_ref().filter(|_| self.key.is_some())
    }
}

fn path(data: &DataRoot) -> PathBuf {
    data.node().join("vault")
}

/// Forgets what seals the keys, which go with it.
///
/// # Errors
/// When the file cannot be removed.
pub fn remove(data: &DataRoot) -> Result<(), LedgerError> {
    ledger::remove(&path(data))
}

impl Vault {
    /// What there is of a node that is in a swarm.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn find(data: &DataRoot) -> Result<Found, VaultError> {
        let open = |state| Found::Open(Self { data: data.clone(), state: Arc::new(Mutex::new(state)) });
        match ledger::read(&path(data), Kind::VAULT, VERSION)? {
            None => Ok(open(State::default())),
            Some(File::Off { version, secret: None }) => {
                Ok(open(State { version, ..State::default() }))
            }
            Some(File::Off { version, secret: Some(bytes) }) => {
                let secret = Some(Secret::new(bytes));
                Ok(open(State { version, secret, key: None, unsettled: true }))
            }
            Some(File::On { version, secret }) => {
                let shown = Credentials::shown(data.path())?;
                let worker =
                    shown.is_some_and(|it| !it.sealed && it.verified.identity.role == Role::Worker);
                if worker {
                    // It was a manager; its log goes, and with it all that was sealed.
                    remove(data)?;
                    return Ok(open(State::default()));
                }
                Ok(Found::Locked(Locked { data: data.clone(), version, secret }))
            }
        }
    }

    /// Does what a version of the store's resource says; an older one than the last says nothing.
    ///
    /// # Errors
    /// When a file cannot be written: what is left is done the next time.
    pub fn turn(&self, version: u64, key: Option<&UnlockKey>) -> Result<Turned, VaultError> {
        let mut state = self.state();
        if state.unsettled {
            self.settle_now(&mut state)?;
        }
        if version <= state.version {
            return Ok(Turned::Nothing);
        }
        let file = match key {
            Some(key) => {
                let secret = state.secret.clone().unwrap_or_else(Secret::draw);
                let sealed = Secret::new(key.0).seal(PURPOSE, b"", secret.bytes());
                state.secret = Some(secret);
                File::On { version, secret: sealed }
            }
            None => File::Off { version, secret: state.secret.as_ref().map(|it| *it.bytes()) },
        };
        ledger::write(&path(&self.data), Kind::VAULT, VERSION, &file)?;
        let turned = match (&state.key, key) {
            (None, None) => Turned::Nothing,
            (None, Some(_)) => Turned::On,
            (Some(_), None) => Turned::Off,
            (Some(old), Some(new)) if old == new => Turned::Nothing,
            (Some(_), Some(_)) => Turned::Rotated,
        };
        (state.version, state.key, state.unsettled) = (version, key.cloned(), true);
        self.settle_now(&mut state)?;
        Ok(turned)
    }

    /// Does the steps that an earlier run has left.
    ///
    /// # Errors
    /// As [`Self::turn`].
    pub fn settle(&self) -> Result<(), VaultError> {
        let mut state = self.state();
        if state.unsettled { self.settle_now(&mut state) } else { Ok(()) }
    }

    fn settle_now(&self, state: &mut State) -> Result<(), VaultError> {
        let seal = state.key.is_some();
        key::reseal_key(&self.data.raft(), state.secret.as_ref(), seal)?;
        Credentials::reseal(self.data.path(), state.secret.as_ref(), seal)?;
        if !seal && state.secret.is_some() {
            let file = File::Off { version: state.version, secret: None };
            ledger::write(&path(&self.data), Kind::VAULT, VERSION, &file)?;
            state.secret = None;
        }
        state.unsettled = false;
        Ok(())
    }

    /// The node is a manager no more: nothing of it is locked.
    ///
    /// # Errors
    /// When a file cannot be written; then the node needs its key after a restart.
    pub fn give_up(&self) -> Result<(), VaultError> {
        let mut state = self.state();
        // It may have become a manager again by now.
        Credentials::reseal(self.data.path(), state.secret.as_ref(), false)?;
        remove(&self.data)?;
        *state = State::default();
        Ok(())
    }

    /// The key of the node's log; made where there is no log.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn log_key(&self) -> Result<LogKey, VaultError> {
        let state = self.state();
        let seal = state.sealing().is_some();
        Ok(key::open_key(&self.data.raft(), state.secret.as_ref(), seal)?)
    }

    /// What the node proves itself with.
    ///
    /// # Errors
    /// As [`Credentials::read`].
    pub fn credentials(&self) -> Result<Option<Credentials>, CredentialsError> {
        Credentials::read(self.data.path(), self.state().secret.as_ref())
    }

    /// Makes them durable.
    ///
    /// # Errors
    /// As [`Credentials::write`].
    pub fn keep(&self, credentials: &Credentials) -> Result<(), CredentialsError> {
        credentials.write(self.data.path(), self.state().sealing())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Locked {
    /// Opens it, if the key is the one that it was locked with last.
    #[must_use]
    pub fn open(&self, key: &UnlockKey) -> Option<Vault> {
        let opened = Secret::new(key.0).open(PURPOSE, b"", &self.secret)?;
        let secret = Some(Secret::new(opened.try_into().ok()?));
        let (version, key) = (self.version, Some(key.clone()));
        let state = State { version, secret, key, unsettled: true };
        Some(Vault { data: self.data.clone(), state: Arc::new(Mutex::new(state)) })
    }
}


#[cfg(test)]
mod tests;
