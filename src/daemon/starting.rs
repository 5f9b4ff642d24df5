//! How a node begins: its papers and its log are opened, what runs is found, its threads are started.
//!
//! What runs needs neither papers nor log ([`Hands`]): a locked manager has only that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::acts::Acts;
use super::brain::{Brain, Node, Seat, Setting};
use super::handle::Shared;
use super::identity::Identity;
use super::links::{Links, Setup};
use super::log_thread::LogThread;
use super::node::{Host, empty};
use super::papers;
use super::plane_thread::PlaneThread;
use super::steps::Steps;
use super::Fatal;
use crate::base::chain;
use crate::base::id::TaskId;
use crate::base::rng::Rng;
use crate::base::time::Span;
use crate::host::disk::Wal;
use crate::host::peers::{Clocks, Endpoint};
use crate::host::pki::{Authority, Credentials, Trust};
use crate::host::vault::Vault;
use crate::host::{clock, entropy};
use crate::logic::manager::{self, Manager, wire};
use crate::logic::raft::codec;
use crate::logic::raft::io::{Recovered, Snapshot, Timing};
use crate::logic::worker::{self, Worker};
use crate::model::node::Role;
use crate::model::peer::{ManagerAddress, Present};
use crate::model::task::Task;

/// Reports of a worker are gathered for this long before they are logged.
const REPORT_BATCH: Span = Span::from_millis(100);

/// The log is compacted when it has grown by this much since the last snapshot.
const SNAPSHOT_AFTER_BYTES: u64 = 4 << 20;

/// What runs the tasks of a node; needs no papers and no log.
#[derive(Debug)]
pub(super) struct Hands {
    pub(super) worker: Worker,
    pub(super) plane: PlaneThread,
    pub(super) acts: Acts,
}

/// What a node has besides.
struct Opened {
    credentials: Credentials,
    /// The root of a cluster that has none in its store yet.
    founding: Option<Authority>,
    managers: Vec<ManagerAddress>,
    /// None on a worker.
    seat: Option<Seat>,
    vault: Vault,
}

impl Host {
    /// Recovers the node from its papers, its log and its task folders.
    pub(super) fn start_node(
        host: &Arc<Self>,
        identity: &Identity,
        shared: &Arc<Shared>,
        vault: Vault,
    ) -> Result<Brain, Fatal> {
        let opened = host.open_papers(identity, shared, vault)?;
        let hands = Self::hands(host, identity, shared, |id| {
            let store = opened.seat.as_ref().map(|seat| seat.manager.store());
            store.and_then(|store| store.task(id)).map(|task| (**task).clone())
        })?;
        Self::brain(host, identity, shared, opened, hands).map_err(|failed| failed.0)
    }

    /// The node with papers and log, where only `hands` were there until now, which go on as they are.
    ///
    /// # Errors
    /// With the hands, when papers or log cannot be opened, or the address is taken.
    pub(super) fn unlock_node(
        host: &Arc<Self>,
        identity: &Identity,
        shared: &Arc<Shared>,
        vault: Vault,
        hands: Hands,
    ) -> Result<Brain, Box<(Fatal, Hands)>> {
        match host.open_papers(identity, shared, vault) {
            Ok(opened) => Self::brain(host, identity, shared, opened, hands),
            Err(fatal) => Err(Box::new((fatal, hands))),
        }
    }

    fn open_papers(
        &self,
        identity: &Identity,
        shared: &Arc<Shared>,
        vault: Vault,
    ) -> Result<Opened, Fatal> {
        if let Err(err) = vault.settle() {
            log::error!("{} (it is tried again)", chain::text(&err));
        }
        let (credentials, founding) = self.credentials(identity, &vault)?;
        let managers = self.managers()?;
        let seat = match credentials.verified().identity.role {
            Role::Manager => Some(self.open_seat(identity, shared, &vault)?),
            Role::Worker => {
                self.empty_log()?;
                None
            }
        };
        Ok(Opened { credentials, founding, managers, seat, vault })
    }

    fn managers(&self) -> Result<Vec<ManagerAddress>, Fatal> {
        papers::read_managers(&self.data)
            .map_err(|err| Fatal::new("cannot tell where the managers are", err))
    }

    /// Finds what runs. `known` is what a log says of a task whose record cannot be read.
    pub(super) fn hands(
        host: &Arc<Self>,
        identity: &Identity,
        shared: &Arc<Shared>,
        known: impl Fn(TaskId) -> Option<Task>,
    ) -> Result<Hands, Fatal> {
        let events = shared.brain.clone();
        let steps = Arc::new(Steps::new(
            host.data.clone(),
            Arc::clone(&host.images),
            Arc::clone(&host.runtime),
            Arc::clone(&host.net),
            host.facts.description.clone(),
            host.clock,
            clock::boot_id().map_err(|err| Fatal::new("cannot read the boot id", err))?,
        ));
        let now = host.clock.now();
        let (found, fence) = steps.found(known)?;
        let keep: BTreeSet<TaskId> = found.iter().map(|found| found.task.id).collect();
        match host.net.retain(&keep) {
            Ok(removed) => removed.iter().for_each(|what| log::info!("removed leftover {what}")),
            Err(err) => log::warn!("cannot remove leftovers: {}", chain::text(&err)),
        }
        let worker = Worker::new(
            worker::io::Config {
                node: identity.node,
                description: host.facts.description.clone(),
                seed: seed()?,
                found,
                fence,
                // Who joined a cluster has others to take over its tasks.
                alone: host.managers()?.is_empty(),
            },
            now,
        );
        let plane = PlaneThread::start(host.plane.clone(), events.clone())
            .map_err(|err| thread("proxy", err))?;
        Ok(Hands { worker, plane, acts: Acts::new(steps, events) })
    }

    fn brain(
        host: &Arc<Self>,
        identity: &Identity,
        shared: &Arc<Shared>,
        opened: Opened,
        hands: Hands,
    ) -> Result<Brain, Box<(Fatal, Hands)>> {
        let Opened { credentials, founding, managers, seat, vault } = opened;
        let begun = host
            .links(identity, credentials, managers.clone(), shared, &vault)
            .and_then(|links| Ok((links, Rng::from_entropy(seed()?))));
        let (links, requests) = match begun {
            Ok(begun) => begun,
            Err(fatal) => {
                if let Some(seat) = seat {
                    seat.log.finish();
                }
                return Err(Box::new((fatal, hands)));
            }
        };
        let Hands { worker, plane, acts } = hands;
        let node = Node { id: identity.node, seat, worker, plane, acts, links };
        let setting = Setting {
            host: Arc::clone(host),
            shared: Arc::clone(shared),
            identity: identity.clone(),
            clock: host.clock,
            requests,
            managers,
            founding,
            vault,
        };
        Ok(Brain::new(node, setting, host.runtime.events()))
    }

    /// What the node proves itself with. One that has made its cluster and has no papers yet, also one
    /// of a release that knew none, makes them, with a root for the cluster's store.
    fn credentials(
        &self,
        identity: &Identity,
        vault: &Vault,
    ) -> Result<(Credentials, Option<Authority>), Fatal> {
        let found = vault
            .credentials()
            .map_err(|err| Fatal::new("cannot read this node's certificate", err))?;
        if let Some(found) = found.filter(|it| it.verified().identity.node == identity.node) {
            return Ok((found, None));
        }
        let failed = |err| Fatal::new("cannot make this node's certificate", err);
        let authority = papers::new_authority(identity.cluster).map_err(failed)?;
        let made = papers::found(&authority, identity.node).map_err(failed)?;
        vault
            .keep(&made)
            .map_err(|err| Fatal::new("cannot keep this node's certificate", err))?;
        Ok((made, Some(authority)))
    }

    /// The thread of the connections.
    fn links(
        &self,
        identity: &Identity,
        credentials: Credentials,
        managers: Vec<ManagerAddress>,
        shared: &Arc<Shared>,
        vault: &Vault,
    ) -> Result<Links, Fatal> {
        let failed = |err| Fatal::new("cannot use this node's certificate", err);
        let trust = Trust::new(credentials.roots().to_vec()).map_err(failed)?;
        let endpoint = Endpoint::new(&credentials, trust, Clocks::default()).map_err(failed)?;
        let description = wire::encode_description(&self.facts.description)
            .map_err(|err| Fatal::new("cannot tell other nodes of this one", err))?;
        let present = Present { description, advertise: identity.advertise.clone() };
        let listen = identity.listen.parse().map_err(|err| {
            Fatal::new(format!("cannot listen at {}", identity.listen), std::io::Error::other(err))
        })?;
        Links::start(Setup {
            endpoint,
            credentials,
            listen,
            events: shared.brain.clone(),
            clock: self.clock,
            vault: vault.clone(),
            present,
            managers,
            runtime: Arc::clone(&self.runtime),
        })
        .map_err(|err| Fatal::new(format!("cannot listen at {listen} for other nodes"), err))
    }

    /// A manager with what its log holds.
    fn open_seat(
        &self,
        identity: &Identity,
        shared: &Arc<Shared>,
        vault: &Vault,
    ) -> Result<Seat, Fatal> {
        let (wal, recovered) = self.open_log(vault)?;
        let manager = Manager::new(
            manager::io::Config {
                node: identity.node,
                cluster: identity.cluster,
                seed: seed()?,
                report_batch: REPORT_BATCH,
                snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
                advertise: identity.advertise.clone(),
                timing: Timing::default(),
            },
            recovered,
            self.clock.now(),
        )
        .map_err(|err| Fatal::new("cannot read what the log holds", err))?;
        let log = LogThread::start(wal, shared.brain.clone()).map_err(|err| thread("log", err))?;
        Ok(Seat { manager, log })
    }

    /// A manager without a log: it is told everything.
    pub(super) fn new_seat(
        &self,
        identity: &Identity,
        shared: &Arc<Shared>,
        vault: &Vault,
    ) -> Result<Seat, Fatal> {
        self.empty_log()?;
        self.open_seat(identity, shared, vault)
    }

    /// Forgets what a manager of this node held.
    pub(super) fn empty_log(&self) -> Result<(), Fatal> {
        empty(&self.data.raft())
    }

    fn open_log(&self, vault: &Vault) -> Result<(Wal, Recovered), Fatal> {
        let raft = self.data.raft();
        let key = vault
            .log_key()
            .map_err(|err| Fatal::new("cannot use the key of the log", err))?;
        let (wal, found) =
            Wal::open(&raft, &key).map_err(|err| Fatal::new("cannot open the log", err))?;
        if let Some(cut) = &found.cut {
            log::warn!("{cut}");
        }
        for damaged in &found.damaged_snapshots {
            log::warn!("{damaged}");
        }
        let unreadable = |err| Fatal::new("cannot read what the log holds", err);
        let snapshot = found.snapshot.map(|found| {
            let (members, data) = codec::from_snapshot(&found.data)?;
            Ok(Snapshot { index: found.index, term: found.term, members, data })
        });
        let entries = found.entries.into_iter().map(codec::from_record);
        let recovered = Recovered {
            hard_state: found.hard_state,
            snapshot: snapshot.transpose().map_err(unreadable)?,
            entries: entries.collect::<Result<_, _>>().map_err(unreadable)?,
            doubt: found.doubt,
        };
        Ok((wal, recovered))
    }
}

fn seed() -> Result<[u8; 32], Fatal> {
    entropy::bytes32().map_err(|err| Fatal::new("cannot read the system's entropy", err))
}

fn thread(what: &str, err: std::io::Error) -> Fatal {
    Fatal::new(format!("cannot start the thread of the {what}"), err)
}
