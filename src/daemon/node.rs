//! The host parts of one daemon, and the life of a node in a swarm: made, started, left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::acts::Acts;
use super::brain::{Brain, Node, Seat, Setting};
use super::handle::{Facts, Failure, InitRequest, Shared};
use super::identity::{self, Identity};
use super::links::{Links, Setup};
use super::log_thread::LogThread;
use super::options::Options;
use super::papers;
use super::plane_thread::PlaneThread;
use super::records;
use super::rotating::check_life;
use super::steps::Steps;
use super::{Fatal, facts};
use crate::base::chain;
use crate::base::id::{ClusterId, NodeId, TaskId};
use crate::base::rng::Rng;
use crate::base::time::Span;
use crate::host::clock::Clock;
use crate::host::dataplane::{Dataplane, DataplaneConfig};
use crate::host::disk::layout::{DataRoot, ExecRoot};
use crate::host::disk::lock::RootLock;
use crate::host::disk::{Wal, key};
use crate::host::images::{ImageStore, RegistryConfig};
use crate::host::net::{Net, NetConfig};
use crate::host::peers::{Clocks, Endpoint};
use crate::host::pki::{Authority, Credentials, Trust};
use crate::host::runtime::{Runtime, RuntimeConfig};
use crate::host::failpoint::NoSuchPoint;
use crate::host::{cgroup_home, clock, entropy, failpoint};
use crate::logic::raft::codec;
use crate::logic::raft::io::{Recovered, Snapshot, Timing};
use crate::logic::manager::{self, Manager, wire};
use crate::logic::worker::{self, Worker};
use crate::model::network::Subnet;
use crate::model::node::Role;
use crate::model::peer::{ManagerAddress, Present};

/// Reports of a worker are gathered for this long before they are logged.
const REPORT_BATCH: Span = Span::from_millis(100);

/// The log is compacted when it has grown by this much since the last snapshot.
const SNAPSHOT_AFTER_BYTES: u64 = 4 << 20;

/// The block that the cluster's networks get their subnets from.
const POOL: Subnet = Subnet { base: std::net::Ipv4Addr::new(10, 0, 0, 0), prefix: 8 };

/// The longest that the proxy may take to start and to take a table.
const PLANE_DEADLINE: Duration = Duration::from_secs(10);

/// What a daemon holds whether or not it is in a swarm.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) facts: Facts,
    pub(super) images: Arc<ImageStore>,
    pub(super) runtime: Arc<Runtime>,
    net: Arc<Net>,
    pub(super) data: DataRoot,
    plane: DataplaneConfig,
    clock: Clock,
    // Held for the whole life of the process.
    _locks: [RootLock; 2],
}

impl Host {
    /// Takes the data root and opens everything that a node needs.
    pub(super) fn open(options: &Options) -> Result<Self, Fatal> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Fatal::told("the daemon needs root (sudo skep daemon)"));
        }
        let point = options.failpoint.clone().or_else(|| std::env::var("SKEP_FAILPOINT").ok());
        if let Some(text) = point {
            let armed = text.parse().map_err(|err: NoSuchPoint| Fatal::new("cannot arm a fail point", err))?;
            failpoint::arm(armed);
        }
        let data = DataRoot::prepare(&options.data_root)
            .map_err(|err| Fatal::new("cannot use the data root", err))?;
        let exec = ExecRoot::prepare(&options.exec_root)
            .map_err(|err| Fatal::new("cannot use the exec root", err))?;
        if data.path().canonicalize().ok() == exec.path().canonicalize().ok() {
            return Err(Fatal::told("the data root and the exec root must be two folders"));
        }
        // Before anything in them is touched: another daemon's containers hang on both.
        let lock = |what, path| {
            RootLock::take(what, path)
                .map_err(|err| Fatal::new(format!("cannot take the {what} root"), err))
        };
        let locks = [lock("data", data.path())?, lock("exec", exec.path())?];
        let home = cgroup_home::enter(data.path())
            .map_err(|err| Fatal::new("cannot set up the cgroups", err))?;
        let exe = std::env::current_exe().map_err(|err| Fatal::new("cannot tell which program this is", err))?;
        let runtime = Runtime::open(RuntimeConfig {
            data_root: data.path().to_owned(),
            exec_root: exec.path().to_owned(),
            cgroup_parent: home.tasks.clone(),
            runc: PathBuf::from("runc"),
            exe: exe.clone(),
        })
        .map_err(|err| Fatal::new("cannot use runc", err))?;
        let facts = facts::read(options, runtime.runc_version());
        let images = ImageStore::open(
            &data.images(),
            platform(&facts.description.platform),
            RegistryConfig {
                insecure: options.insecure_registry.clone(),
                ca_files: options.registry_ca.iter().cloned().collect(),
                ..RegistryConfig::default()
            },
        )
        .map_err(|err| Fatal::new("cannot open the image store", err))?;
        let net = Net::open(NetConfig {
            data_root: data.path().to_owned(),
            exec_root: exec.path().to_owned(),
            pools: vec![POOL],
        })
        .map_err(|err| Fatal::new("cannot set up networking", err))?;
        for warning in net.warnings() {
            log::warn!("{warning}");
        }
        let net = Arc::new(net);
        net.keep_table().map_err(|err| Fatal::new("cannot watch over the packet rules", err))?;
        let plane = DataplaneConfig {
            exec_root: exec.path().to_owned(),
            build: build(&exe)?,
            binary: exe,
            cgroup_procs: home.daemon_procs.clone(),
            deadline: PLANE_DEADLINE,
        };
        Ok(Self {
            facts,
            images: Arc::new(images),
            runtime: Arc::new(runtime),
            net,
            data,
            plane,
            clock: Clock::new(),
            _locks: locks,
        })
    }

    /// Takes away what a daemon that is in no swarm has put into the kernel.
    pub(super) fn close(&self) {
        if let Err(err) = self.net.teardown_all() {
            log::warn!("cannot remove the packet rules: {}", chain::text(&err));
        }
    }

    /// Removes what a swarm that this node is in no more has left here. `leaving`: a removal was begun
    /// and not finished.
    ///
    /// # Errors
    /// When there is a log and nothing tells whose: removing it is for somebody who knows.
    pub(super) fn sweep(&self, leaving: bool) -> Result<(), Fatal> {
        let raft = self.data.raft();
        if !leaving && std::fs::read_dir(&raft).is_ok_and(|mut files| files.next().is_some()) {
            return Err(Fatal::told(format!(
                "{} is missing and the log in {} is there (put it back from a copy; or, to give up the \
                 swarm, remove the log)",
                Identity::path(self.data.path()).display(),
                raft.display()
            )));
        }
        let none = self.runtime.found().is_ok_and(|found| found.is_empty())
            && records::folders(&self.data).is_ok_and(|tasks| tasks.is_empty());
        if !leaving && none {
            return Ok(());
        }
        log::info!("removing what is left of the swarm that this node was in");
        if let Err(err) = self.remove_swarm() {
            log::error!("leave: {} (the next start or init tries again)", chain::text(&err));
        }
        Ok(())
    }

    /// Makes this node the first of a new cluster.
    pub(super) fn make_identity(&self, request: &InitRequest) -> Result<Identity, Failure> {
        request.certificate_life.map_or(Ok(()), check_life)?;
        let (advertise, listen) = identity::addresses(request).map_err(Failure::Invalid)?;
        if Identity::path(self.data.path()).exists() {
            // The removal that `leave` began has failed so far; its log must not become ours.
            self.remove_swarm().map_err(|err| Failure::Host(chain::text(&err)))?;
        }
        let random = |what: &str| {
            entropy::u128().map_err(|err| Failure::Host(format!("cannot make {what} id: {err}")))
        };
        let made = Identity {
            node: NodeId::new(random("a node")?),
            cluster: ClusterId::new(random("a cluster")?),
            foreign: identity::is_foreign(&advertise),
            advertise,
            listen,
            leaving: false,
        };
        // Those of a join that was cut short are not of this cluster.
        papers::remove(&self.data)
            .map_err(|err| Failure::Host(format!("cannot remove an old certificate: {}", chain::text(&err))))?;
        made.write(self.data.path())
            .map_err(|err| Failure::Host(format!("cannot keep the identity: {}", chain::text(&err))))?;
        Ok(made)
    }

    /// Recovers the node from its papers, its log and its task folders.
    pub(super) fn start_node(
        host: &Arc<Self>,
        identity: &Identity,
        shared: &Arc<Shared>,
    ) -> Result<Brain, Fatal> {
        let events = shared.brain.clone();
        let (credentials, founding) = host.credentials(identity)?;
        let managers = papers::read_managers(&host.data)
            .map_err(|err| Fatal::new("cannot tell where the managers are", err))?;
        let seat = match credentials.verified().identity.role {
            Role::Manager => Some(host.open_seat(identity, shared)?),
            Role::Worker => {
                host.empty_log()?;
                None
            }
        };
        let now = host.clock.now();
        let steps = Arc::new(Steps::new(
            host.data.clone(),
            Arc::clone(&host.images),
            Arc::clone(&host.runtime),
            Arc::clone(&host.net),
            host.facts.description.clone(),
            host.clock,
            clock::boot_id().map_err(|err| Fatal::new("cannot read the boot id", err))?,
        ));
        let known = |id| {
            let store = seat.as_ref().map(|seat| seat.manager.store());
            store.and_then(|store| store.task(id)).map(|task| (**task).clone())
        };
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
                alone: managers.is_empty(),
            },
            now,
        );
        let plane = PlaneThread::start(host.plane.clone(), events.clone())
            .map_err(|err| thread("proxy", err))?;
        let links = host.links(identity, credentials, managers.clone(), shared)?;
        let acts = Acts::new(steps, events);
        let node = Node { id: identity.node, seat, worker, plane, acts, links };
        let setting = Setting {
            host: Arc::clone(host),
            shared: Arc::clone(shared),
            identity: identity.clone(),
            clock: host.clock,
            requests: Rng::from_entropy(seed()?),
            managers,
            founding,
        };
        Ok(Brain::new(node, setting, host.runtime.events()))
    }

    /// What the node proves itself with. One that has made its cluster and has no papers yet, also one
    /// of a release that knew none, makes them, with a root for the cluster's store.
    fn credentials(&self, identity: &Identity) -> Result<(Credentials, Option<Authority>), Fatal> {
        let found = Credentials::read(self.data.path())
            .map_err(|err| Fatal::new("cannot read this node's certificate", err))?;
        if let Some(found) = found.filter(|it| it.verified().identity.node == identity.node) {
            return Ok((found, None));
        }
        let failed = |err| Fatal::new("cannot make this node's certificate", err);
        let authority = papers::new_authority(identity.cluster).map_err(failed)?;
        let made = papers::found(&authority, identity.node).map_err(failed)?;
        made.write(self.data.path())
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
            data_root: self.data.path().to_owned(),
            present,
            managers,
            runtime: Arc::clone(&self.runtime),
        })
        .map_err(|err| Fatal::new(format!("cannot listen at {listen} for other nodes"), err))
    }

    /// A manager with what its log holds.
    fn open_seat(&self, identity: &Identity, shared: &Arc<Shared>) -> Result<Seat, Fatal> {
        let (wal, recovered) = self.open_log()?;
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
    ) -> Result<Seat, Fatal> {
        self.empty_log()?;
        self.open_seat(identity, shared)
    }

    /// Forgets what a manager of this node held.
    pub(super) fn empty_log(&self) -> Result<(), Fatal> {
        empty(&self.data.raft())
    }

    fn open_log(&self) -> Result<(Wal, Recovered), Fatal> {
        let raft = self.data.raft();
        let key = key::load_or_create_key(&raft)
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

    /// Ends a node that leaves and removes everything of it; answers who asked for that. From the
    /// mark on, a start that finds it goes on with the removal.
    pub(super) async fn leave(
        &self,
        mut node: Node,
        mut identity: Identity,
        events: &async_channel::Receiver<super::handle::Event>,
    ) {
        let answer = node.acts.take_leaving();
        identity.leaving = true;
        let marked = identity.write(self.data.path());
        // What is being made would be made behind the removal's back.
        node.acts.give_up(events).await;
        node.stop();
        let removed = match marked {
            Ok(()) => self.remove_swarm(),
            Err(err) => Err(Fatal::new("cannot mark the node as leaving", err)),
        };
        if let Err(err) = &removed {
            log::error!("leave: {}", chain::text(err));
        }
        if let Some(answer) = answer {
            let result = removed.map_err(|err| Failure::Host(chain::text(&err)));
            super::brain::reply(&answer, result);
        }
    }

    /// Removes containers, networks, ports and state of the swarm; volumes and images stay, as they
    /// do in Docker. May be cut short and begun again.
    pub(super) fn remove_swarm(&self) -> Result<(), Fatal> {
        let tasks = records::folders(&self.data)
            .map_err(|err| Fatal::new("cannot list the task folders", err))?;
        for task in tasks {
            self.runtime
                .remove(task)
                .map_err(|err| Fatal::new(format!("cannot remove task {task}"), err))?;
        }
        let running = Dataplane::connect(self.plane.clone());
        if let Some(dataplane) = running.map_err(|err| Fatal::new("cannot reach the proxy", err))? {
            dataplane.shutdown(false).map_err(|err| Fatal::new("cannot end the proxy", err))?;
        }
        self.net.teardown_all().map_err(|err| Fatal::new("cannot remove the network", err))?;
        self.runtime.purge();
        for folder in [self.data.raft(), self.data.tasks()] {
            empty(&folder)?;
        }
        records::remove_fence(&self.data)
            .map_err(|err| Fatal::new("cannot remove the fence", err))?;
        papers::remove(&self.data)
            .map_err(|err| Fatal::new("cannot remove the certificate", err))?;
        // Last: without it, the node is in no swarm.
        crate::host::disk::ledger::remove(&Identity::path(self.data.path()))
            .map_err(|err| Fatal::new("cannot remove the identity", err))
    }
}

impl Node {
    /// Ends the threads; what is queued for the log is written. Containers and proxy go on.
    pub(super) fn stop(self) {
        self.links.finish();
        if let Some(seat) = self.seat {
            seat.log.finish();
        }
        self.plane.finish();
    }
}

fn seed() -> Result<[u8; 32], Fatal> {
    entropy::bytes32().map_err(|err| Fatal::new("cannot read the system's entropy", err))
}

fn thread(what: &str, err: std::io::Error) -> Fatal {
    Fatal::new(format!("cannot start the thread of the {what}"), err)
}

fn empty(folder: &std::path::Path) -> Result<(), Fatal> {
    let failed = |err| Fatal::new(format!("cannot empty {}", folder.display()), err);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(failed(err)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        crate::host::tree::remove_tree(&path).map_err(failed)?;
    }
    Ok(())
}

/// Names the file that this process runs, so that a proxy of another one is taken over from.
fn build(exe: &std::path::Path) -> Result<String, Fatal> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(exe).map_err(|err| Fatal::new("cannot look at this program", err))?;
    Ok(format!("{}-{}-{}.{}", env!("CARGO_PKG_VERSION"), file.size(), file.mtime(), file.mtime_nsec()))
}

fn platform(own: &crate::model::node::Platform) -> crate::host::images::Platform {
    crate::host::images::Platform {
        os: own.os.clone(),
        architecture: own.arch.clone(),
        variant: own.variant.clone(),
    }
}
