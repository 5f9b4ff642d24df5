//! What each action of the worker does on this machine.
//!
//! Runs on the pool's threads. Every step finds what an earlier try left and goes on from there:
//! the process may have died between any two of them. The task's folder is made first and goes last,
//! so that whatever else is there has an owner.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use super::{Fatal, checks};
use super::lanes::Absent;
use super::records::{self, TaskRecord};
use crate::base::chain;
use crate::base::id::TaskId;
use crate::base::time::Time;
use crate::host::clock::Clock;
use crate::host::disk::layout::DataRoot;
use crate::host::images::{ErrorKind, ImageError, ImageRecord, ImageStore, Lease};
use crate::host::net::{Net, NetError, TaskAddress, TaskNet, files};
use crate::host::runtime::{
    ContainerInputs, ExitRecord, FoundState, ImageView, Runtime, RuntimeError,
};
use crate::logic::manager::io::Fence;
use crate::logic::worker::Check;
use crate::logic::worker::io::{Action, Exit, Found, FoundContainer, Outcome, Prepare, Record};
use crate::model::image_ref::Reference;
use crate::model::node::NodeDescription;
use crate::model::task::{Address, Task};

/// The host parts that actions need.
#[derive(Debug)]
pub(super) struct Steps {
    data: DataRoot,
    images: Arc<ImageStore>,
    pub(super) runtime: Arc<Runtime>,
    net: Arc<Net>,
    description: NodeDescription,
    clock: Clock,
    boot: String,
    /// The node leaves: nothing is made any more.
    closed: AtomicBool,
    /// The fence that is kept: writes are in order, whichever thread comes first.
    kept: Mutex<Fence>,
}

/// What is to be done to a task.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) action: Action,
    /// Written beside, whatever the action does.
    pub(super) record: Option<Box<Record>>,
    /// Keeps the image that was pulled for it.
    pub(super) lease: Option<Arc<Lease>>,
}

/// How an action went.
#[derive(Debug)]
pub(super) enum Performed {
    Ended(Outcome),
    /// Nothing was done yet: its image is not here.
    Absent(Absent, Work),
}

/// Why a step did not work; only the text and whether to try again leave this module.
struct Failed {
    err: String,
    temporary: bool,
    /// It was the container that did not start.
    starting: bool,
}

impl Steps {
    pub(super) fn new(
        data: DataRoot,
        images: Arc<ImageStore>,
        runtime: Arc<Runtime>,
        net: Arc<Net>,
        description: NodeDescription,
        clock: Clock,
        boot: String,
    ) -> Self {
        let (closed, kept) = (AtomicBool::new(false), Mutex::default());
        Self { data, images, runtime, net, description, clock, boot, closed, kept }
    }

    /// From here on no step makes anything.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn still_open(&self) -> Result<(), Failed> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Failed::host("the node leaves its swarm, or goes down".to_owned()));
        }
        Ok(())
    }

    pub(super) const fn description(&self) -> &NodeDescription {
        &self.description
    }

    /// Carries out one action and writes the task's record beside it. What is done for the record's
    /// sake has failed where that could not be written: an address is told to be free behind it.
    pub(super) fn perform(&self, task: TaskId, work: Work) -> Performed {
        if let Action::Prepare(prepare) = &work.action {
            match self.absent(&prepare.container.image) {
                Ok(None) => {}
                Ok(Some(image)) => return Performed::Absent(image, work),
                Err(failed) => return Performed::Ended(failed.into()),
            }
        }
        let Work { action, record, lease } = work;
        let done = std::thread::scope(|scope| {
            let needs_record = matches!(action, Action::Clean | Action::Remember);
            let beside = record.map(|record| side(scope, || self.remember(task, *record)));
            let done = self.act(task, action);
            let written = beside.map_or(Ok(()), |thread| thread.and_then(joined).flatten());
            match written {
                Ok(()) => done,
                Err(failed) => {
                    log::warn!("cannot write the record of task {task}: {}", failed.err);
                    if needs_record { done.and(Err(failed)) } else { done }
                }
            }
        });
        drop(lease);
        Performed::Ended(done.unwrap_or_else(Outcome::from))
    }

    fn act(&self, task: TaskId, action: Action) -> Result<Outcome, Failed> {
        match action {
            Action::Prepare(prepare) => self.prepare(task, &prepare),
            Action::Start { by } => self.start(task, by),
            Action::Stop => self.runtime.stop(task).map(|_| Outcome::Signalled).map_err(Failed::from),
            Action::Kill => self.runtime.kill(task).map(|_| Outcome::Signalled).map_err(Failed::from),
            Action::Clean => self.clean(task),
            Action::Remove => self.remove(task),
            Action::Remember => Ok(Outcome::Remembered),
        }
    }

    /// Writes a task's record anew; its image and boot stay.
    fn remember(&self, task: TaskId, record: Record) -> Result<(), Failed> {
        let written = TaskRecord::read(&self.data, task).and_then(|old| {
            let Some(TaskRecord { image, boot, .. }) = old else { return Ok(()) };
            let Record { task, networks, own, fence } = record;
            TaskRecord { task, networks, own, fence, image, boot }.write(&self.data)
        });
        written.map_err(|err| Failed::host(chain::text(&err)))
    }

    /// Keeps the fence of a newer leader. Where that fails, an older leader may be heard again after
    /// a restart of the daemon.
    pub(super) fn keep_fence(&self, fence: Fence) {
        let mut kept = match self.kept.lock() {
            Ok(kept) => kept,
            Err(poisoned) => poisoned.into_inner(),
        };
        if fence <= *kept || self.closed.load(Ordering::SeqCst) {
            return;
        }
        match records::write_fence(&self.data, fence) {
            Ok(()) => *kept = fence,
            Err(err) => log::warn!("cannot keep the fence: {}", chain::text(&err)),
        }
    }

    fn prepare(&self, task: TaskId, prepare: &Prepare) -> Result<Outcome, Failed> {
        let image = self.images.resolve(&prepare.container.image)?;
        self.still_open()?;
        // Held until the record names the image: from then on the record keeps it.
        let lease = self.images.lease(image.id)?;
        std::fs::create_dir_all(self.data.task(task))
            .map_err(|err| Failed::host(format!("cannot make the folder of task {task}: {err}")))?;
        let record = TaskRecord {
            task: prepare.task.clone(),
            networks: prepare.networks.clone(),
            own: prepare.own,
            fence: prepare.fence,
            image: image.id,
            boot: self.boot.clone(),
        };
        // By its folder everything of a task is found, so what else there is to do need not wait for
        // a slow card, only the outcome does. The same goes for nft: nothing runs yet.
        std::thread::scope(|scope| {
            let recorded = side(scope, || record.write(&self.data))?;
            let net = Arc::new(task_net(task, prepare));
            let cannot = |err: NetError| {
                Failed::host(format!("cannot set up the network of task {task}: {}", chain::text(&err)))
            };
            let own = Arc::clone(&net);
            let linked = side(scope, move || self.net.link_task(&own).map(drop))?;
            let inputs = self.inputs(task, prepare, &image)?;
            let made = self.runtime.prepare(task, &inputs);
            joined(linked)?.map_err(cannot)?;
            made?;
            self.still_open()?;
            let opened = side(scope, move || self.net.open_task(&net))?;
            let created = self.runtime.create(task);
            joined(opened)?.map_err(cannot)?;
            joined(recorded)?.map_err(|err| Failed::host(chain::text(&err)))?;
            created.map_err(Failed::starting)
        })?;
        drop(lease);
        Ok(Outcome::Prepared { check: checks::check(&prepare.task, Some(&image)) })
    }

    /// What the container is made from.
    fn inputs(
        &self,
        task: TaskId,
        prepare: &Prepare,
        image: &ImageRecord,
    ) -> Result<ContainerInputs, Failed> {
        let mut container = prepare.container.clone();
        if container.hostname.is_empty() {
            container.hostname = task.short();
        }
        let etc_hosts = hosts(prepare, &container.hostname);
        Ok(ContainerInputs {
            container,
            resources: prepare.task.spec.resources.clone(),
            log: prepare.task.spec.log.clone(),
            image: self.view(image)?,
            netns: Some(self.net.netns_path(task)),
            etc_hosts,
            etc_resolv_conf: resolv_conf(prepare),
            ..ContainerInputs::default()
        })
    }

    fn start(&self, task: TaskId, by: Option<Time>) -> Result<Outcome, Failed> {
        self.still_open()?;
        let by = by.map(|by| self.clock.instant(by));
        let started = self.runtime.start_by(task, by).map_err(Failed::starting)?;
        Ok(started.map_or(Outcome::Late, |pid| Outcome::Started { pid }))
    }

    fn clean(&self, task: TaskId) -> Result<Outcome, Failed> {
        self.runtime.clean(task)?;
        self.remove_net(task)?;
        Ok(Outcome::Cleaned)
    }

    fn remove(&self, task: TaskId) -> Result<Outcome, Failed> {
        self.runtime.clean(task)?;
        self.remove_net(task)?;
        // The folder goes last: while it is there, somebody finds the rest by it.
        self.runtime.remove(task)?;
        Ok(Outcome::Removed)
    }

    fn remove_net(&self, task: TaskId) -> Result<(), Failed> {
        self.net
            .remove_task(task)
            .map_err(|err| Failed::host(format!("cannot remove the network of task {task}: {}", chain::text(&err))))
    }

    /// The image of a task where it has to be pulled. What is there (or packed of the binary itself)
    /// goes first, unlike with Docker: a node starts its tasks without a registry, and a service that
    /// shall follow a tag was given the tag's digest when it was made.
    fn absent(&self, name: &str) -> Result<Option<Absent>, Failed> {
        match self.images.resolve(name) {
            Ok(_) => return Ok(None),
            Err(err) if err.kind() != ErrorKind::NotFound => return Err(err.into()),
            Err(_) => {}
        }
        let reference = reference(name)?;
        Ok(Some(Absent { registry: reference.domain().to_owned(), name: name.to_owned() }))
    }

    /// Pulls an image for tasks.
    pub(super) fn pull(&self, name: &str) -> Result<Arc<Lease>, Outcome> {
        let pulled = self.still_open().and_then(|()| reference(name)).and_then(|reference| {
            let image = self.images.pull_for_task(&reference)?;
            Ok(Arc::new(self.images.lease(image.id)?))
        });
        pulled.map_err(|failed| {
            // Docker's words first, which people look for; then why.
            let err = format!("No such image: {name}: {}", failed.err);
            Outcome::from(Failed { err, ..failed })
        })
    }

    fn view(&self, image: &ImageRecord) -> Result<ImageView, Failed> {
        let config = &image.config;
        Ok(ImageView {
            lowerdirs: self.images.layers(image)?,
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            env: config.env.clone(),
            user: config.user.clone(),
            workdir: config.working_dir.clone(),
            volumes: config.volumes.clone(),
            stop_signal: config.stop_signal.clone(),
        })
    }

    /// The tasks whose folders are there, and the highest fence among them. Where a record is damaged
    /// or missing the log's copy of the task, which `known` gives, takes its place; a folder of a
    /// task that the log does not know either is told and removed.
    pub(super) fn found(
        &self,
        known: impl Fn(TaskId) -> Option<Task>,
    ) -> Result<(Vec<Found>, Fence), Fatal> {
        let folders = records::folders(&self.data)
            .map_err(|err| Fatal::new("cannot list the task folders", err))?;
        let states = self
            .runtime
            .found()
            .map_err(|err| Fatal::new("cannot tell how the containers are", err))?;
        let states: BTreeMap<TaskId, FoundState> =
            states.into_iter().map(|found| (found.task, found.state)).collect();
        let mut all = Vec::new();
        let mut fence = records::read_fence(&self.data)
            .map_err(|err| Fatal::new("cannot tell which leader was heard last", err))?;
        for id in folders {
            let container = match states.get(&id) {
                None | Some(FoundState::Parts) => FoundContainer::None,
                Some(FoundState::Created) => FoundContainer::Created,
                Some(FoundState::Running { pid, .. }) => FoundContainer::Running { pid: *pid },
                Some(FoundState::Exited(record)) => FoundContainer::Exited(exit(record)),
                // It runs as far as anybody can tell; its end is told.
                Some(FoundState::Silent) => FoundContainer::Running { pid: 0 },
            };
            let why = match TaskRecord::read(&self.data, id) {
                Ok(Some(record)) => {
                    fence = fence.max(record.fence);
                    let rebooted = record.boot != self.boot;
                    let TaskRecord { task, networks, own, image, .. } = record;
                    let check = self.found_check(&task, &image.to_string(), &container);
                    all.push(Found { task, networks, own, container, rebooted, check });
                    continue;
                }
                Ok(None) => "it has no record".to_owned(),
                Err(err) => chain::text(&err),
            };
            match known(id).filter(|_| container != FoundContainer::None) {
                Some(task) => {
                    log::warn!("the record of task {id} is made again from the log: {why}");
                    let running = matches!(container, FoundContainer::Running { .. });
                    self.remember_again(&task, running);
                    let (networks, own, rebooted) = (Vec::new(), None, !running);
                    let image = task.spec.container.image.clone();
                    let check = self.found_check(&task, &image, &container);
                    all.push(Found { task, networks, own, container, rebooted, check });
                }
                None => self.discard(id, &why),
            }
        }
        Ok((all, fence))
    }

    /// The health check of what was found, of which no earlier daemon's probe is left.
    fn found_check(&self, task: &Task, image: &str, container: &FoundContainer) -> Option<Check> {
        if matches!(container, FoundContainer::Running { .. })
            && let Err(err) = self.runtime.end_looks(task.id)
        {
            log::warn!("cannot end a probe of task {}: {}", task.id, chain::text(&err));
        }
        checks::check(task, self.images.resolve(image).ok().as_ref())
    }

    /// Writes the record of a task anew. Where that fails the task goes on all the same, and the next
    /// start tries again.
    fn remember_again(&self, task: &Task, running: bool) {
        let boot = if running { self.boot.clone() } else { String::new() };
        let written = self.images.resolve(&task.spec.container.image).map_err(|err| chain::text(&err));
        let written = written.and_then(|image| {
            let (networks, own, fence) = (Vec::new(), None, Fence::default());
            let record =
                TaskRecord { task: task.clone(), networks, own, fence, image: image.id, boot };
            record.write(&self.data).map_err(|err| chain::text(&err))
        });
        if let Err(why) = written {
            log::warn!("cannot write the record of task {}: {why}", task.id);
        }
    }

    fn discard(&self, task: TaskId, why: &str) {
        log::warn!("removing the folder of task {task}: {why}");
        if let Err(failed) = self.remove(task) {
            log::error!("cannot remove the folder of task {task}: {}", failed.err);
        }
    }
}

fn reference(name: &str) -> Result<Reference, Failed> {
    Reference::parse(name).map_err(|err| Failed {
        err: format!("invalid reference format: {err}"),
        temporary: false,
        starting: false,
    })
}

/// The network that a task wants: its addresses on the networks that are known.
fn task_net(task: TaskId, prepare: &Prepare) -> TaskNet {
    let address = |own: &Address| {
        let network = prepare.networks.iter().find(|network| network.id == own.network)?;
        Some(TaskAddress { network: own.network, address: own.address, subnet: network.subnet })
    };
    TaskNet { task, addresses: prepare.task.addresses.iter().filter_map(address).collect() }
}

/// Runs `work` beside, on a thread that ends with it.
fn side<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, Failed> {
    let thread = std::thread::Builder::new().name("task".to_owned()).spawn_scoped(scope, work);
    thread.map_err(|err| Failed::host(format!("cannot start a thread: {err}")))
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T, Failed> {
    thread.join().map_err(|_panic| Failed::host("a thread of the daemon has panicked".to_owned()))
}

impl Failed {
    /// Something of the machine: worth another try.
    fn host(err: String) -> Self {
        Self { err, temporary: true, starting: false }
    }

    /// The container did not start, in Docker's words.
    fn starting(err: RuntimeError) -> Self {
        let failed = Self::from(err);
        Self { err: format!("starting container failed: {}", failed.err), starting: true, ..failed }
    }
}

impl From<Failed> for Outcome {
    fn from(failed: Failed) -> Self {
        let Failed { err, temporary, starting } = failed;
        Self::Failed { err, temporary, starting }
    }
}

impl From<RuntimeError> for Failed {
    fn from(err: RuntimeError) -> Self {
        Self { temporary: err.is_temporary(), err: err.full_text(), starting: false }
    }
}

impl From<ImageError> for Failed {
    fn from(err: ImageError) -> Self {
        // Docker's word for an image that cannot be had; the task fails and its successor tries
        // again, later and later.
        let temporary = matches!(err.kind(), ErrorKind::NoSpace);
        Self { err: chain::text(&err), temporary, starting: false }
    }
}

/// What the worker is told of a container's end.
pub(super) const fn exit(record: &ExitRecord) -> Exit {
    Exit {
        code: record.code,
        oom: record.oom,
        shim_lost: record.shim_lost,
        at: record.finished,
    }
}

/// The text of a task's `/etc/hosts`. A line of the spec is `IP name [alias…]`; one that is not was
/// refused when the service was made, and is left out here.
fn hosts(prepare: &Prepare, hostname: &str) -> String {
    let mut extra = Vec::new();
    for line in &prepare.container.hosts {
        let mut words = line.split_whitespace();
        if let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) {
            extra.extend(words.map(|name| (name.to_owned(), address)));
        }
    }
    let own: Vec<_> = prepare.task.addresses.iter().map(|own| own.address).collect();
    files::render_hosts(hostname, &own, &extra)
}

/// The text of a task's `/etc/resolv.conf`.
fn resolv_conf(prepare: &Prepare) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut host = read("/etc/resolv.conf");
    if files::only_loopback_servers(&host) {
        host = read(files::RESOLVED_FILE);
    }
    let dns = prepare.container.dns.clone().unwrap_or_default();
    let wanted = files::Resolver {
        nameservers: dns.servers,
        search: dns.search,
        options: dns.options,
    };
    files::render_resolv_conf(&host, &wanted)
}
