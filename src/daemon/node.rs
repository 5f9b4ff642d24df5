//! The host parts of one daemon, and the life of a node in a swarm: made and left. How it is started is
//! beside, in `starting`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::acts::Acts;
use super::brain::Node;
use super::handle::{Facts, Failure, InitRequest};
use super::identity::{self, Identity};
use super::options::Options;
use super::papers;
use super::records;
use super::rotating::check_life;
use super::{Fatal, facts};
use crate::base::chain;
use crate::base::id::{ClusterId, NodeId};
use crate::host::clock::Clock;
use crate::host::dataplane::{Dataplane, DataplaneConfig};
use crate::host::disk::layout::{DataRoot, ExecRoot};
use crate::host::disk::lock::RootLock;
use crate::host::images::{ImageStore, RegistryConfig};
use crate::host::net::{Net, NetConfig};
use crate::host::runtime::{Runtime, RuntimeConfig};
use crate::host::failpoint::NoSuchPoint;
use crate::host::{cgroup_home, entropy, failpoint};
use crate::model::network::Subnet;

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
    pub(super) net: Arc<Net>,
    pub(super) data: DataRoot,
    pub(super) plane: DataplaneConfig,
    pub(super) clock: Clock,
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

    /// Ends a node that leaves, its threads by `others`, and removes everything of it; answers who asked for that. From the
    /// mark on, a start that finds it goes on with the removal.
    pub(super) async fn leave(
        &self,
        mut acts: Acts,
        others: impl FnOnce(),
        mut identity: Identity,
        events: &async_channel::Receiver<super::handle::Event>,
    ) {
        let answer = acts.take_leaving();
        identity.leaving = true;
        let marked = identity.write(self.data.path());
        // What is being made would be made behind the removal's back.
        acts.give_up(events).await;
        others();
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
        self.parts().1();
    }

    /// What is needed until the end, and what ends the threads.
    pub(super) fn parts(self) -> (Acts, impl FnOnce()) {
        let Self { seat, plane, links, acts, .. } = self;
        let stop = move || {
            links.finish();
            if let Some(seat) = seat {
                seat.log.finish();
            }
            plane.finish();
        };
        (acts, stop)
    }
}

/// Removes what is in a folder.
pub(super) fn empty(folder: &std::path::Path) -> Result<(), Fatal> {
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
