//! A user: one request after the other, asked again with the same id when no answer came, and what
//! must be true of everything that was answered.

use std::collections::{BTreeMap, VecDeque};

use skep::base::id::{RequestId, ServiceId};
use skep::base::rng::Rng;
use skep::base::time::Span;
use skep::logic::manager::io::{Command, CommandError, Reply};
use skep::logic::store::Store;
use skep::model::name::Name;
use skep::model::service::{
    ContainerSpec, EndpointSpec, Mode, OnDisconnect, Placement, Port, PublishMode, Resources,
    RestartPolicy, ServiceSpec, TaskSpec, UpdateConfig,
};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create { name: String, image: &'static str, replicas: u64, port: u16 },
    Scale { name: String, replicas: u64 },
    Image { name: String, image: &'static str },
    Remove { name: String },
}

impl Op {
    fn name(&self) -> &str {
        match self {
            Self::Create { name, .. }
            | Self::Scale { name, .. }
            | Self::Image { name, .. }
            | Self::Remove { name } => name,
        }
    }
}

/// What was answered about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expect {
    pub id: ServiceId,
    pub replicas: u64,
    pub image: String,
}

#[derive(Debug)]
struct Current {
    op: Op,
    request: RequestId,
    command: Command,
}

#[derive(Debug)]
pub(crate) struct Client {
    script: VecDeque<Op>,
    current: Option<Current>,
    requests: u128,
    pub expect: BTreeMap<String, Expect>,
}

const IMAGES: [&str; 8] =
    ["run", "run", "run", "stubborn", "exit-1-200", "exit-0-15000", "nostart", "noimage"];

impl Client {
    /// A script of about `length` requests.
    pub(crate) fn new(rng: &mut Rng, length: u64) -> Self {
        let mut script = VecDeque::new();
        let mut names: Vec<String> = Vec::new();
        let image = |rng: &mut Rng| IMAGES[usize::try_from(rng.below(8)).unwrap()];
        for n in 0..length {
            let pick = |rng: &mut Rng, names: &[String]| {
                let at = rng.below(names.len() as u64);
                names[usize::try_from(at).unwrap()].clone()
            };
            let op = match (names.is_empty(), rng.below(6)) {
                (true, _) | (false, 0 | 1) => {
                    let name = format!("s{n}");
                    names.push(name.clone());
                    let open = rng.below(3);
                    let port = if open == 0 { 8_000 + u16::try_from(n).unwrap() } else { 0 };
                    Op::Create { name, image: image(rng), replicas: 1 + rng.below(4), port }
                }
                (false, 2 | 3) => Op::Scale { name: pick(rng, &names), replicas: rng.below(6) },
                (false, 4) => Op::Image { name: pick(rng, &names), image: image(rng) },
                (false, _) => {
                    let name = pick(rng, &names);
                    names.retain(|other| *other != name);
                    Op::Remove { name }
                }
            };
            script.push_back(op);
        }
        Self { script, current: None, requests: 0, expect: BTreeMap::new() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.current.is_none() && self.script.is_empty()
    }

    /// Removes everything that is left.
    pub(crate) fn remove_all(&mut self) {
        let removes = self.expect.keys().map(|name| Op::Remove { name: name.clone() });
        self.script.extend(removes);
    }

    /// The request that is to be sent now: the one without an answer, or the next one.
    pub(crate) fn ask(&mut self, store: &Store) -> Option<(RequestId, Command)> {
        if self.current.is_none() {
            let op = self.script.pop_front()?;
            self.requests += 1;
            let request = RequestId::new(self.requests);
            let command = self.command(&op, store);
            self.current = Some(Current { op, request, command });
        }
        let current = self.current.as_ref()?;
        Some((current.request, current.command.clone()))
    }

    fn command(&self, op: &Op, store: &Store) -> Command {
        let service = |name: &str| {
            let expect = &self.expect[name];
            store.service(expect.id).expect("invariant: what was acknowledged is there")
        };
        let update = |name: &str, change: &dyn Fn(&mut ServiceSpec)| {
            let service = service(name);
            let mut spec = service.spec.clone();
            change(&mut spec);
            let spec = Some(Box::new(spec.validate().unwrap()));
            Command::UpdateService { id: service.id, version: service.meta.version, spec }
        };
        match op {
            Op::Create { name, image, replicas, port } => {
                let spec = spec(name, image, *replicas, *port).validate().unwrap();
                Command::CreateService { spec: Box::new(spec) }
            }
            Op::Scale { name, replicas } => {
                update(name, &|spec| spec.mode = Mode::Replicated { replicas: *replicas })
            }
            Op::Image { name, image } => {
                update(name, &|spec| (*image).clone_into(&mut spec.task.container.image))
            }
            Op::Remove { name } => Command::RemoveService { id: service(name).id },
        }
    }

    /// An answer came.
    pub(crate) fn answered(
        &mut self,
        request: RequestId,
        reply: Result<Reply, CommandError>,
        store: &Store,
    ) {
        let Some(current) = self.current.take_if(|current| current.request == request) else {
            return;
        };
        match (&current.op, reply) {
            (Op::Create { name, image, replicas, .. }, Ok(Reply::Created { id })) => {
                let expect = Expect { id, replicas: *replicas, image: (*image).to_owned() };
                self.expect.insert(name.clone(), expect);
            }
            (Op::Scale { name, replicas }, Ok(Reply::Done)) => {
                self.expect.get_mut(name).unwrap().replicas = *replicas;
            }
            (Op::Image { name, image }, Ok(Reply::Done)) => {
                (*image).clone_into(&mut self.expect.get_mut(name).unwrap().image);
            }
            (Op::Remove { name }, Ok(Reply::Done)) => {
                self.expect.remove(name);
            }
            (op, Err(CommandError::OutOfSequence | CommandError::Busy(_))) => {
                self.script.push_front(op.clone());
            }
            (op, Err(CommandError::Storage(text))) => {
                assert!(text.contains("no space left on device"), "{text}");
                if let Op::Create { name, .. } = op {
                    let there = store.service_named(&Name::new(name).unwrap());
                    assert!(there.is_none(), "invariant: a refused write changes nothing");
                }
                self.script.push_front(op.clone());
            }
            (op, reply) => panic!("{op:?} was answered {reply:?}"),
        }
    }

    /// What was answered is so, whatever crashed since.
    pub(crate) fn invariant_acknowledged_is_kept(&self, store: &Store) {
        let busy = self.current.as_ref().map(|current| current.op.name());
        for (name, expect) in &self.expect {
            if busy == Some(name) {
                continue;
            }
            let service = store.service(expect.id);
            let service = service.unwrap_or_else(|| panic!("invariant: service {name} is kept"));
            let replicas = expect.replicas;
            assert_eq!(service.spec.mode, Mode::Replicated { replicas }, "replicas of {name}");
            assert_eq!(service.spec.task.container.image, expect.image, "image of {name}");
        }
        for service in store.services() {
            let name = service.spec.name.as_str();
            let known = self.expect.get(name).is_some_and(|expect| expect.id == service.id);
            assert!(known || busy == Some(name), "invariant: service {name} was removed");
        }
    }
}

fn spec(name: &str, image: &str, replicas: u64, port: u16) -> ServiceSpec {
    let published = |published| Port {
        name: String::new(),
        protocol: skep::model::service::Protocol::Tcp,
        target: 80,
        published,
        mode: PublishMode::Ingress,
        host_ip: None,
    };
    ServiceSpec {
        name: Name::new(name).unwrap(),
        labels: BTreeMap::new(),
        task: TaskSpec {
            container: ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() },
            resources: Resources::default(),
            restart: RestartPolicy { delay: Span::from_secs(1), ..RestartPolicy::default() },
            placement: Placement::default(),
            log: None,
            networks: Vec::new(),
            force_update: 0,
            on_disconnect: OnDisconnect::Keep,
        },
        mode: Mode::Replicated { replicas },
        update: Some(UpdateConfig { parallelism: 2, ..UpdateConfig::default() }),
        rollback: None,
        endpoint: EndpointSpec {
            ports: if port == 0 { Vec::new() } else { vec![published(port)] },
            ..EndpointSpec::default()
        },
    }
}
