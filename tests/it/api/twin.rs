//! A daemon without a machine: the real manager, a log in memory, a worker that only pretends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use skep::api::engine::{Engine, LogSource};
use skep::api::errors::ApiError;
use skep::base::id::{ClusterId, NodeId, RequestId, TaskId};
use skep::base::time::{Now, Span, Time, Wall};
use skep::daemon::handle::{
    Command, Facts, Failure, InitRequest, JoinRequest, LockChange, Reply, SwarmState, Tokens,
    TrustChange, View,
};
use skep::daemon::logs::LinesNext;
use skep::daemon::shown::{ImageStore, InUse, Volume};
use skep::host::images::{Platform as ImagePlatform, RegistryConfig};
use skep::logic::manager::Manager;
use skep::logic::manager::io::{Assignments, Config, Input, Output, Report};
use skep::logic::raft::io::{Recovered, Timing};
use skep::model::node::{NodeDescription, Platform, Role};
use skep::model::peer::{AskedLogs, TaskLine};
use skep::model::task::{Task, TaskState, TaskStatus};
use skep::model::unlock_key::UnlockKey;

const NODE: NodeId = NodeId::new(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
const CLUSTER: ClusterId = ClusterId::new(7);

pub(super) struct Twin {
    state: Mutex<State>,
    facts: Facts,
    images: ImageStore,
    volumes: Mutex<BTreeMap<String, Volume>>,
    /// What every task writes: `Some` is a line, `None` a pause of a follower.
    log: Vec<Option<(bool, &'static str)>>,
}

struct State {
    manager: Option<Manager>,
    started: Instant,
    requests: u128,
}

impl Twin {
    /// In a swarm of its own.
    pub(super) fn new(folder: &Path) -> Self {
        let twin = Self::alone(folder);
        twin.init(InitRequest::default()).unwrap();
        twin
    }

    /// In no swarm.
    pub(super) fn alone(folder: &Path) -> Self {
        let description = NodeDescription {
            hostname: "node1".to_owned(),
            platform: Platform {
                os: "linux".to_owned(),
                arch: "amd64".to_owned(),
                variant: String::new(),
            },
            nano_cpus: 2_000_000_000,
            memory_bytes: 1 << 30,
            engine_version: "0.1.0".to_owned(),
            ..NodeDescription::default()
        };
        let facts = Facts {
            description,
            kernel: "6.18.0".to_owned(),
            os: "Twin Linux".to_owned(),
            machine: "x86_64".to_owned(),
            runc: "1.1.5".to_owned(),
            cgroup_version: "2".to_owned(),
            data_root: "/var/lib/skep".to_owned(),
        };
        let state = State { manager: None, started: Instant::now(), requests: 0 };
        let registry = RegistryConfig { attempts_max: 1, ..RegistryConfig::default() };
        let platform = ImagePlatform::linux("amd64", "");
        Self {
            state: Mutex::new(state),
            facts,
            images: ImageStore::open(&folder.join("images"), platform, registry).unwrap(),
            volumes: Mutex::default(),
            log: Vec::new(),
        }
    }

    /// With tasks that write this.
    pub(super) fn writing(mut self, log: &[Option<(bool, &'static str)>]) -> Self {
        self.log = log.to_vec();
        self
    }
}

/// A log that was written beforehand; the lines have the times 1 s, 2 s, …
struct Script {
    task: TaskId,
    follow: bool,
    lines: VecDeque<(u32, Option<(bool, &'static str)>)>,
}

impl LogSource for Script {
    fn next(&mut self, wait: Duration) -> Result<LinesNext, ApiError> {
        Ok(match self.lines.pop_front() {
            Some((n, Some((is_stderr, text)))) => LinesNext::Line(TaskLine {
                task: self.task,
                is_stderr,
                time_ns: i128::from(n) * 1_000_000_000,
                text: text.to_owned(),
            }),
            Some((_, None)) | None if self.follow => {
                std::thread::sleep(wait);
                LinesNext::Idle
            }
            Some((_, None)) | None => LinesNext::End,
        })
    }
}

impl Engine for Twin {
    fn command(&self, command: Command) -> Result<Reply, Failure> {
        let mut state = self.state.lock().unwrap();
        if state.manager.is_none() {
            return Err(Failure::NoSwarm);
        }
        state.requests += 1;
        let request = RequestId::new(state.requests);
        state.tick();
        state.run(Input::Command { request, command }, Some(request)).unwrap()
    }

    fn view(&self) -> Result<Arc<View>, Failure> {
        match self.command(Command::Read)? {
            Reply::View(view) => Ok(view),
            other => panic!("{other:?}"),
        }
    }

    fn swarm(&self) -> SwarmState {
        match self.state.lock().unwrap().manager {
            Some(_) => SwarmState::Active { node: NODE, cluster: CLUSTER, manager: true },
            None => SwarmState::Inactive,
        }
    }

    fn init(&self, _request: InitRequest) -> Result<NodeId, Failure> {
        let mut state = self.state.lock().unwrap();
        if state.manager.is_some() {
            return Err(Failure::AlreadySwarm);
        }
        let config = Config {
            node: NODE,
            cluster: CLUSTER,
            seed: [7; 32],
            report_batch: Span::ZERO,
            snapshot_after_bytes: u64::MAX,
            advertise: "10.77.0.1:2377".to_owned(),
            timing: Timing::default(),
        };
        let now = state.now();
        let mut manager = Manager::new(config, Recovered::default(), now).unwrap();
        let mut out = Vec::new();
        manager.bootstrap(now, self.facts.description.clone(), &mut out);
        state.manager = Some(manager);
        state.perform(out, None);
        let description = self.facts.description.clone();
        state.run(Input::WorkerJoined { node: NODE, description }, None);
        Ok(NODE)
    }

    fn join(&self, _request: JoinRequest) -> Result<Role, Failure> {
        Err(Failure::Join("the twin joins nobody".to_owned()))
    }

    fn tokens(&self) -> Result<Tokens, Failure> {
        Ok(Tokens::default())
    }

    fn change_trust(&self, _change: TrustChange) -> Result<(), Failure> {
        Ok(())
    }

    fn unlock_key(&self) -> Result<Option<UnlockKey>, Failure> {
        Ok(None)
    }

    fn change_lock(&self, _change: LockChange) -> Result<(), Failure> {
        Ok(())
    }

    fn unlock(&self, _key: UnlockKey) -> Result<(), Failure> {
        Err(Failure::NotLocked)
    }

    fn go_down(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn leave(&self, force: bool) -> Result<(), Failure> {
        let mut state = self.state.lock().unwrap();
        match (&state.manager, force) {
            (None, _) => Err(Failure::NotInSwarm),
            (Some(_), false) => Err(Failure::LastManager),
            (Some(_), true) => {
                state.manager = None;
                Ok(())
            }
        }
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn images(&self) -> &ImageStore {
        &self.images
    }

    fn images_in_use(&self) -> Result<InUse, Failure> {
        Ok(InUse::new())
    }

    fn volumes(&self) -> Result<Vec<Volume>, ApiError> {
        Ok(self.volumes.lock().unwrap().values().cloned().collect())
    }

    fn unused_volumes(&self) -> Result<BTreeSet<String>, ApiError> {
        Ok(self.volumes.lock().unwrap().keys().cloned().collect())
    }

    fn volume_create(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Volume, ApiError> {
        let volume = Volume {
            name: name.to_owned(),
            labels: labels.clone(),
            created: Wall(0),
            mountpoint: PathBuf::from("/var/lib/skep/volumes").join(name),
        };
        let mut volumes = self.volumes.lock().unwrap();
        Ok(volumes.entry(name.to_owned()).or_insert(volume).clone())
    }

    fn volume_remove(&self, name: &str) -> Result<(), ApiError> {
        self.volumes.lock().unwrap().remove(name).unwrap();
        Ok(())
    }

    fn logs(&self, _node: NodeId, query: AskedLogs) -> Result<Box<dyn LogSource>, ApiError> {
        let mut lines: VecDeque<_> = (1..).zip(self.log.iter().copied()).collect();
        let skipped =
            query.tail.map_or(0, |tail| lines.len().saturating_sub(usize::try_from(tail).unwrap()));
        lines.drain(..skipped);
        Ok(Box::new(Script { task: query.tasks[0], follow: query.follow, lines }))
    }
}

impl State {
    fn now(&self) -> Now {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap();
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Now { mono: Time(micros(self.started.elapsed()) + 1), wall: Wall(micros(wall)) }
    }

    fn tick(&mut self) {
        let now = self.now();
        if self.manager.as_ref().unwrap().deadline().is_some_and(|at| at <= now.mono) {
            self.run(Input::Tick, None);
        }
    }

    fn run(&mut self, input: Input, wanted: Option<RequestId>) -> Option<Result<Reply, Failure>> {
        let mut out = Vec::new();
        let now = self.now();
        self.manager.as_mut().unwrap().step(now, input, &mut out);
        self.perform(out, wanted)
    }

    /// Does what the manager wants: everything is durable at once and every task runs at once.
    fn perform(
        &mut self,
        out: Vec<Output>,
        wanted: Option<RequestId>,
    ) -> Option<Result<Reply, Failure>> {
        let mut found = None;
        for output in out {
            let next = match output {
                Output::Persist { ticket, .. } => self.run(Input::Persisted { ticket }, wanted),
                Output::Assign { node, assignments } => match self.report(assignments) {
                    Some(report) => self.run(Input::Report { node, report }, wanted),
                    None => None,
                },
                Output::Reply { request, reply } => {
                    (Some(request) == wanted).then(|| reply.map_err(Failure::Refused))
                }
                Output::SaveSnapshot { .. } | Output::Leader { .. } => None,
                Output::Send { .. } | Output::Removed | Output::Broken { .. } => {
                    unreachable!("one manager alone")
                }
            };
            found = found.or(next);
        }
        found
    }

    fn report(&self, assignments: Assignments) -> Option<Report> {
        let statuses: Vec<_> =
            assignments.tasks.iter().filter_map(|task| self.status(task)).collect();
        let removed = assignments.removed;
        (!statuses.is_empty() || !removed.is_empty()).then_some(Report {
            statuses,
            removed,
            ..Report::default()
        })
    }

    fn status(&self, task: &Task) -> Option<(TaskId, TaskStatus)> {
        let (state, message) = match task.desired {
            TaskState::Running => (TaskState::Running, "started"),
            TaskState::Ready => (TaskState::Ready, "prepared"),
            _ => (TaskState::Shutdown, "shutdown"),
        };
        if task.status.state >= state {
            return None;
        }
        let status = TaskStatus {
            state,
            timestamp: self.now().wall,
            message: message.to_owned(),
            pid: if state == TaskState::Running { 4242 } else { 0 },
            ..task.status.clone()
        };
        Some((task.id, status))
    }
}
