//! A manager's lock as the store says it: on, off, or with another key.
//!
//! The key is a resource in the store, so each manager learns of a change with its log and seals its own
//! files anew; one that was away does it when it is back. A manager that was unlocked with an old key goes on
//! with that until it hears of the new one. Not here: the files (`host::vault`), and what a locked manager
//! does (`locked`).

use std::sync::mpsc::SyncSender;

use super::asking::Waiter;
use super::brain::{Brain, reply};
use super::handle::{Failure, LockChange, Reply};
use crate::base::chain;
use crate::base::time::{Span, Time};
use crate::host::entropy;
use crate::host::vault::{Turned, Vault};
use crate::logic::manager::io::Command;
use crate::model::unlock_key::{Autolock, RESOURCE_KIND, RESOURCE_NAME, UnlockKey};

/// After files that could not be written.
const AGAIN: Span = Span::from_secs(10);

/// What the brain keeps of it.
#[derive(Debug)]
pub(super) struct Locking {
    pub(super) vault: Vault,
    /// Version of the resource that was looked at last.
    seen: u64,
    /// The files are to be tried again then.
    again: Option<Time>,
    /// The key of a new cluster, while it is not in the store yet.
    founding: Option<UnlockKey>,
    /// It is on its way there.
    asked: bool,
}

impl Locking {
    pub(super) fn new(vault: Vault) -> Self {
        Self { vault, seen: 0, again: None, founding: None, asked: false }
    }

    /// When to look although nothing is heard.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.again
    }

    /// A new cluster is to have this key, and has it not yet.
    pub(super) fn is_founding(&self) -> bool {
        self.founding.is_some()
    }

    /// A new cluster has this key.
    pub(super) fn found(&mut self, key: Option<UnlockKey>) {
        self.founding = key;
    }
}

/// A key that nobody has had before.
///
/// # Errors
/// When the kernel gives no random numbers.
pub(super) fn new_key() -> Result<UnlockKey, Failure> {
    let bytes = entropy::bytes32();
    bytes.map(UnlockKey).map_err(|err| Failure::Host(format!("cannot make an unlock key: {err}")))
}

impl Brain {
    /// What the store says of the lock is done; a new cluster's key is put there.
    pub(super) fn look_at_lock(&mut self, now: Time) {
        let Some(seat) = &self.node.seat else { return };
        let Some(resource) = seat.manager.store().resource_named(RESOURCE_KIND, RESOURCE_NAME)
        else {
            return self.found_lock();
        };
        let version = resource.meta.version;
        if version == self.lock.seen && self.lock.again.is_none_or(|at| at > now) {
            return;
        }
        let key = match Autolock::decode(&resource.payload) {
            Ok(Autolock { key }) => key,
            Err(err) => {
                self.broken = Some(format!("the swarm's unlock key cannot be used: {err}"));
                return;
            }
        };
        (self.lock.seen, self.lock.again, self.lock.founding) = (version, None, None);
        match self.lock.vault.turn(version, key.as_ref()) {
            Ok(Turned::Nothing) => {}
            Ok(Turned::On) => {
                log::info!("this manager locks itself: it needs the unlock key after a restart");
                // The one there is was on the disk in plain.
                self.node.links.renew();
            }
            Ok(Turned::Rotated) => log::info!("this manager has another unlock key"),
            Ok(Turned::Off) => log::info!("this manager needs no unlock key any more"),
            Err(err) => {
                log::error!("cannot seal the keys of this manager: {}", chain::text(&err));
                self.lock.again = Some(now + AGAIN);
            }
        }
    }

    /// Puts the key of a new cluster into its store.
    fn found_lock(&mut self) {
        // Behind the trust, which it is a part of.
        if self.lead.is_none() || self.issuer.is_none() || self.lock.asked {
            return;
        }
        let Some(key) = &self.lock.founding else { return };
        match set(Some(key.clone())) {
            Ok(command) => {
                self.lock.asked = true;
                self.put(command, Waiter::Lock);
            }
            Err(failure) => self.broken = Some(failure.to_string()),
        }
    }

    /// The key of a new cluster is in the store, or could not be put there.
    pub(super) fn lock_written(&mut self, done: bool) {
        self.lock.asked = done;
    }

    /// This node is a manager no more.
    pub(super) fn give_up_lock(&mut self) {
        (self.lock.seen, self.lock.again) = (0, None);
        if let Err(err) = self.lock.vault.give_up() {
            log::error!("cannot open the keys of this node for good: {}", chain::text(&err));
        }
    }

    /// The key of all managers.
    pub(super) fn unlock_key(&self) -> Result<Option<UnlockKey>, Failure> {
        let seat = self.node.seat.as_ref().ok_or(Failure::NotManager)?;
        match seat.manager.store().resource_named(RESOURCE_KIND, RESOURCE_NAME) {
            None => Ok(None),
            Some(resource) => Autolock::decode(&resource.payload)
                .map(|autolock| autolock.key)
                .map_err(|err| Failure::Host(err.to_string())),
        }
    }

    /// Why this node cannot be unlocked.
    pub(super) fn not_locked(&self) -> Failure {
        if self.node.seat.is_some() { Failure::NotLocked } else { Failure::NotManager }
    }

    /// A user wants the lock to be another one.
    pub(super) fn change_lock(
        &mut self,
        change: LockChange,
        answer: SyncSender<Result<Reply, Failure>>,
    ) {
        let key = self.unlock_key().and_then(|key| match (change, key) {
            (LockChange::On, None) | (LockChange::Rotate, Some(_)) => new_key().map(Some).map(Some),
            (LockChange::Off, Some(_)) => Ok(Some(None)),
            (LockChange::On, Some(_)) | (LockChange::Off, None) => Ok(None),
            (LockChange::Rotate, None) => Err(Failure::Invalid(
                "cannot rotate because autolock is not turned on".to_owned(),
            )),
        });
        match key.and_then(|key| key.map(set).transpose()) {
            Ok(Some(command)) => self.ask(command, answer),
            Ok(None) => reply(&answer, Ok(Reply::Done)),
            Err(failure) => reply(&answer, Err(failure)),
        }
    }
}

fn set(key: Option<UnlockKey>) -> Result<Command, Failure> {
    let payload = Autolock { key }.encode().map_err(|err| Failure::Host(err.to_string()))?;
    let (kind, name) = (RESOURCE_KIND.to_owned(), RESOURCE_NAME.to_owned());
    Ok(Command::SetResource { kind, name, payload })
}
