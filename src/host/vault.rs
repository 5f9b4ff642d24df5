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
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::id::{ClusterId, NodeId};
    use crate::base::time::Wall;
    use crate::host::pki::{Authority, NodeKey, Request};
    use crate::model::validity::{CERTIFICATE_LIFE, Validity};

    /// A manager's data root with a log's key and a certificate.
    struct Root {
        data: DataRoot,
        log_key: String,
        node_key: Vec<u8>,
    }

    fn credentials(role: Role) -> Credentials {
        let authority = Authority::generate(ClusterId::new(1), Wall(5_000_000)).unwrap();
        let key = NodeKey::generate().unwrap();
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let validity = Validity::from_base(Wall(7_000_000), CERTIFICATE_LIFE);
        let der = authority.issue(&request, NodeId::new(3), role, validity).unwrap();
        Credentials::new(key, der, vec![authority.root().clone()], Wall(9)).unwrap()
    }

    impl Root {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("skep-vault-{name}-{}", std::process::id()));
            let data = DataRoot::prepare(&dir).unwrap();
            let vault = opened(Vault::find(&data).unwrap());
            let made = credentials(Role::Manager);
            vault.keep(&made).unwrap();
            let log_key = shown(&vault.log_key().unwrap());
            Self { data, log_key, node_key: made.key().pkcs8().to_vec() }
        }

        fn open(&self) -> Vault {
            opened(Vault::find(&self.data).unwrap())
        }

        fn locked(&self) -> Locked {
            match Vault::find(&self.data).unwrap() {
                Found::Locked(locked) => locked,
                Found::Open(_) => panic!("it is not locked"),
            }
        }

        /// Both keys come out as they went in.
        fn check(&self, vault: &Vault) {
            assert_eq!(shown(&vault.log_key().unwrap()), self.log_key);
            let read = vault.credentials().unwrap().unwrap();
            assert_eq!(read.key().pkcs8(), self.node_key);
        }

        /// Whether each of the two keys can be read by anybody.
        fn open_files(&self) -> (bool, bool) {
            let sealed = Credentials::shown(self.data.path()).unwrap().unwrap().sealed;
            (key::load_or_create_key(&self.data.raft()).is_ok(), !sealed)
        }

        /// As a crash leaves it: these files are as they were in the copy.
        fn put_back(&self, from: &Path, files: &[&str]) {
            for file in files {
                std::fs::copy(from.join(file), self.data.path().join(file)).unwrap();
            }
        }

        fn copy(&self, name: &str) -> PathBuf {
            let to = std::env::temp_dir().join(format!("skep-vault-{name}-{}", std::process::id()));
            for file in [LOG, NODE, VAULT] {
                std::fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
                let from = self.data.path().join(file);
                if from.exists() {
                    std::fs::copy(from, to.join(file)).unwrap();
                }
            }
            to
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            std::fs::remove_dir_all(self.data.path()).unwrap();
        }
    }

    const LOG: &str = "raft/log.key";
    const NODE: &str = "node/certificate";
    const VAULT: &str = "node/vault";

    fn opened(found: Found) -> Vault {
        match found {
            Found::Open(vault) => vault,
            Found::Locked(_) => panic!("it is locked"),
        }
    }

    /// A key's bytes, which it tells nobody: what it derives from a salt stands for them.
    fn shown(key: &LogKey) -> String {
        key.fingerprint()
    }

    fn unlock_key(n: u8) -> UnlockKey {
        UnlockKey([n; 32])
    }

    #[test]
    fn the_file_is_frozen() {
        let secret = Secret::new([1; 32]).seal_with([0x22; 32], PURPOSE, b"", &[0x11; 32]);
        let files = [
            File::Off { version: 300, secret: None },
            File::Off { version: 301, secret: Some([7; 32]) },
            File::On { version: 302, secret },
        ];
        let mut text = String::new();
        for file in files {
            let bytes = postcard::to_allocvec(&file).unwrap();
            text += &bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            text.push('\n');
        }
        expect_test::expect_file!["../../tests/data/wire/vault-1.hex"].assert_eq(&text);
    }

    #[test]
    fn on_another_key_and_off() {
        let root = Root::new("turns");
        let vault = root.open();
        assert_eq!(vault.turn(5, Some(&unlock_key(1))).unwrap(), Turned::On);
        assert_eq!(root.open_files(), (false, false));
        root.check(&vault);
        assert!(root.locked().open(&unlock_key(2)).is_none());
        let vault = root.locked().open(&unlock_key(1)).unwrap();
        root.check(&vault);
        // What a log that is behind says.
        assert_eq!(vault.turn(4, None).unwrap(), Turned::Nothing);
        assert_eq!(vault.turn(5, None).unwrap(), Turned::Nothing);
        assert_eq!(vault.turn(6, Some(&unlock_key(1))).unwrap(), Turned::Nothing);
        assert_eq!(vault.turn(7, Some(&unlock_key(2))).unwrap(), Turned::Rotated);
        assert!(root.locked().open(&unlock_key(1)).is_none());
        root.check(&root.locked().open(&unlock_key(2)).unwrap());
        assert_eq!(vault.turn(8, None).unwrap(), Turned::Off);
        assert_eq!(root.open_files(), (true, true));
        root.check(&root.open());
        assert_eq!(root.open().turn(7, Some(&unlock_key(2))).unwrap(), Turned::Nothing);
        let before = std::fs::read(root.data.path().join(VAULT)).unwrap();
        assert_eq!(vault.turn(9, Some(&unlock_key(2))).unwrap(), Turned::On);
        assert!(root.locked().open(&unlock_key(2)).is_some());
        assert!(!before.windows(32).any(|it| it == root.secret(2)), "another secret each time");
    }

    impl Root {
        /// The secret of a vault that is locked with this key.
        fn secret(&self, key: u8) -> [u8; 32] {
            let vault = self.locked().open(&unlock_key(key)).unwrap();
            let state = vault.state();
            *state.secret.as_ref().unwrap().bytes()
        }
    }

    #[test]
    fn a_crash_behind_any_step_leaves_keys_that_open_and_the_rest_is_done_later() {
        for cut in [&[LOG, NODE][..], &[NODE], &[LOG], &[]] {
            let root = Root::new("crash");
            let before = root.copy("crash-before");
            root.open().turn(5, Some(&unlock_key(1))).unwrap();
            root.put_back(&before, cut);
            let vault = root.locked().open(&unlock_key(1)).unwrap();
            root.check(&vault);
            vault.settle().unwrap();
            assert_eq!(root.open_files(), (false, false), "{cut:?}");
            root.check(&vault);

            // And off: the vault is open then, the keys are sealed still.
            let before = root.copy("crash-before");
            let secret = root.secret(1);
            vault.turn(6, None).unwrap();
            root.put_back(&before, cut);
            let file = File::Off { version: 6, secret: Some(secret) };
            ledger::write(&path(&root.data), Kind::VAULT, VERSION, &file).unwrap();
            let vault = root.open();
            root.check(&vault);
            vault.settle().unwrap();
            assert_eq!(root.open_files(), (true, true), "{cut:?}");
            root.check(&root.open());
            let file = std::fs::read(root.data.path().join(VAULT)).unwrap();
            assert!(!file.windows(32).any(|it| it == secret), "{cut:?}");
            std::fs::remove_dir_all(before).unwrap();
        }
    }

    #[test]
    fn what_the_disk_refuses_is_done_the_next_time() {
        let root = Root::new("refused");
        let vault = root.open();
        // Nothing can be written under this name.
        let block = root.data.path().join("node/certificate.tmp");
        std::fs::create_dir(&block).unwrap();
        assert!(vault.turn(5, Some(&unlock_key(1))).is_err());
        root.check(&root.locked().open(&unlock_key(1)).unwrap());
        assert!(vault.turn(6, None).is_err());
        std::fs::remove_dir(&block).unwrap();
        assert_eq!(vault.turn(5, None).unwrap(), Turned::Nothing);
        assert_eq!(root.open_files(), (false, false));
        assert_eq!(vault.turn(6, None).unwrap(), Turned::Off);
        root.check(&root.open());
    }

    #[test]
    fn a_torn_vault_is_told_and_opens_nothing() {
        let root = Root::new("torn");
        root.open().turn(5, Some(&unlock_key(1))).unwrap();
        let file = root.data.path().join(VAULT);
        let whole = std::fs::read(&file).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&file, &whole[..length]).unwrap();
            let told = Vault::find(&root.data).unwrap_err().to_string();
            assert!(told.contains("vault"), "{told}");
        }
        std::fs::write(&file, &whole).unwrap();
        root.check(&root.locked().open(&unlock_key(1)).unwrap());
        std::fs::remove_file(&file).unwrap();
        assert!(root.open().log_key().is_err());
        assert!(root.open().credentials().is_err());
    }

    #[test]
    fn a_worker_is_never_locked() {
        let root = Root::new("worker");
        let vault = root.open();
        vault.turn(5, Some(&unlock_key(1))).unwrap();
        vault.keep(&credentials(Role::Worker)).unwrap();
        assert!(!Credentials::shown(root.data.path()).unwrap().unwrap().sealed);
        assert!(root.open().credentials().unwrap().is_some());
        assert!(!root.data.path().join(VAULT).exists());

        let root = Root::new("demoted");
        let vault = root.open();
        vault.turn(5, Some(&unlock_key(1))).unwrap();
        vault.keep(&credentials(Role::Worker)).unwrap();
        // It is to be a manager again before its own has ended.
        vault.keep(&credentials(Role::Manager)).unwrap();
        vault.give_up().unwrap();
        assert!(root.open().credentials().unwrap().is_some());
    }
}
