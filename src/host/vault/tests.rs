//! The vault on a real disk, cut off behind every step.

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
    expect_test::expect_file!["../../../tests/data/wire/vault-1.hex"].assert_eq(&text);
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
