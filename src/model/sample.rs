//! One object of each kind with every field filled, for the tests of what is stored.

use std::net::{IpAddr, Ipv4Addr};

use super::cluster::Cluster;
use super::entry::{Change, Entry, Precondition};
use super::name::Name;
use super::network::{Network, Subnet};
use super::node::{Availability, Node, NodeDescription, NodeSpec, Platform, Role};
use super::object::{Meta, Object, ObjectId};
use super::payload::{Config, FileRef, Secret};
use super::resource::{Generic, Resource};
use super::service::{
    ContainerSpec, Device, Dns, EndpointMode, EndpointSpec, FailureAction, Health, JobStatus,
    Labels, LogDriver, Mode, Mount, MountKind, NetworkAttachment, OnDisconnect, Placement, Port,
    Propagation, Protocol, PublishMode, Resources, RestartCondition, RestartPolicy, Service,
    ServiceSpec, TaskSpec, Ulimit, UpdateConfig, UpdateOrder, UpdateState, UpdateStatus,
};
use super::task::{Address, Task, TaskState, TaskStatus};
use crate::base::id::{
    ClusterId, ConfigId, NetworkId, NodeId, RequestId, ResourceId, SecretId, ServiceId, TaskId,
};
use crate::base::time::{Span, Wall};

const META: Meta = Meta { version: 300, created: Wall(1), updated: Wall(70_000) };

fn labels(value: &str) -> Labels {
    [("key".to_owned(), value.to_owned())].into()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn port(mode: PublishMode) -> Port {
    let host_ip = (mode == PublishMode::Host).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (name, protocol) = ("web".to_owned(), Protocol::Udp);
    Port { name, protocol, target: 80, published: 8_080, mode, host_ip }
}

fn address() -> Address {
    Address { network: NetworkId::new(3), address: [10, 0, 0, 5].into() }
}

fn health() -> Health {
    Health {
        test: texts(&["CMD", "true"]),
        interval: Some(Span::from_secs(5)),
        timeout: Some(Span::from_secs(1)),
        retries: Some(3),
        start_period: Some(Span::from_secs(9)),
        start_interval: Some(Span::from_secs(2)),
    }
}

fn mounts() -> Vec<Mount> {
    let mount = |target: &str, kind| Mount { target: target.to_owned(), read_only: true, kind };
    let bind = MountKind::Bind {
        source: "/srv".to_owned(),
        propagation: Propagation::Rslave,
        non_recursive: true,
    };
    let volume = MountKind::Volume {
        name: "data".to_owned(),
        labels: labels("volume"),
        no_copy: true,
        subpath: "a/b".to_owned(),
    };
    let memory = MountKind::Tmpfs { size_bytes: 1 << 20, mode: 0o1777 };
    vec![mount("/bind", bind), mount("/volume", volume), mount("/memory", memory)]
}

fn container() -> ContainerSpec {
    let device = Device {
        path_on_host: "/dev/ttyUSB0".to_owned(),
        path_in_container: "/dev/tty0".to_owned(),
        permissions: "rw".to_owned(),
    };
    ContainerSpec {
        image: "skep/hello:latest".to_owned(),
        labels: labels("container"),
        command: texts(&["/bin/a"]),
        args: texts(&["-v", "x"]),
        hostname: "{{.Node.Hostname}}".to_owned(),
        env: texts(&["A=1"]),
        dir: "/work".to_owned(),
        user: "7:8".to_owned(),
        groups: texts(&["audio"]),
        tty: true,
        open_stdin: true,
        read_only: true,
        init: Some(true),
        stop_signal: "SIGINT".to_owned(),
        stop_grace: Some(Span::from_secs(30)),
        mounts: mounts(),
        hosts: texts(&["10.0.0.1 db"]),
        dns: Some(Dns {
            servers: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            search: texts(&["lan"]),
            options: texts(&["ndots:1"]),
        }),
        sysctls: labels("1"),
        cap_add: texts(&["CAP_NET_ADMIN"]),
        cap_drop: texts(&["ALL"]),
        ulimits: vec![Ulimit { name: "nofile".to_owned(), soft: 10, hard: -1 }],
        devices: vec![device],
        no_new_privileges: true,
        oom_score_adj: -5,
        health: Some(health()),
        secrets: vec![FileRef {
            id: SecretId::new(6),
            name: "key".to_owned(),
            file: "tls.key".to_owned(),
            uid: 7,
            gid: 8,
            mode: 0o400,
        }],
        configs: vec![FileRef {
            id: ConfigId::new(7),
            name: "conf".to_owned(),
            file: "/etc/app.conf".to_owned(),
            uid: 9,
            gid: 10,
            mode: 0o444,
        }],
    }
}

fn task_spec() -> TaskSpec {
    TaskSpec {
        container: container(),
        resources: Resources {
            limit_nano_cpus: 5,
            limit_memory_bytes: 6,
            limit_pids: 7,
            reserve_nano_cpus: 3,
            reserve_memory_bytes: 4,
            reserve_generic: vec![("gpu".to_owned(), 2)],
        },
        restart: RestartPolicy {
            condition: RestartCondition::OnFailure,
            delay: Span::from_secs(3),
            max_attempts: 4,
            window: Span::from_secs(60),
        },
        placement: Placement {
            constraints: texts(&["node.role==worker"]),
            spread: texts(&["node.labels.rack"]),
            max_replicas: 2,
            platforms: vec![platform()],
        },
        log: Some(LogDriver { name: "local".to_owned(), options: labels("10m") }),
        networks: vec![NetworkAttachment { network: NetworkId::new(3), aliases: texts(&["db"]) }],
        force_update: 9,
        on_disconnect: OnDisconnect::Stop,
    }
}

fn service_spec(mode: Mode) -> ServiceSpec {
    let update = UpdateConfig {
        parallelism: 2,
        delay: Span::from_secs(1),
        on_failure: FailureAction::Rollback,
        monitor: Span::from_secs(7),
        max_failure_ppm: 100_000,
        order: UpdateOrder::StartFirst,
    };
    ServiceSpec {
        name: Name::new("web").unwrap(),
        labels: labels("service"),
        task: task_spec(),
        mode,
        update: Some(update),
        rollback: Some(UpdateConfig::default()),
        endpoint: EndpointSpec { mode: EndpointMode::Dnsrr, ports: vec![port(PublishMode::Host)] },
    }
}

fn generic() -> Vec<Generic> {
    let named = Generic::Named { kind: "fpga".to_owned(), value: "f1".to_owned() };
    vec![Generic::Count { kind: "gpu".to_owned(), count: 2 }, named]
}

fn platform() -> Platform {
    Platform { os: "linux".to_owned(), arch: "arm".to_owned(), variant: "v7".to_owned() }
}

fn cluster() -> Cluster {
    Cluster {
        id: ClusterId::new(1),
        meta: META,
        name: "default".to_owned(),
        labels: labels("cluster"),
        task_history_limit: -1,
        pools: vec![Subnet { base: [10, 0, 0, 0].into(), prefix: 8 }],
        subnet_prefix: 24,
        epoch: 2,
        feature_level: 3,
        rebalance: true,
    }
}

pub(crate) fn node() -> Node {
    Node {
        id: NodeId::new(2),
        meta: META,
        spec: NodeSpec {
            labels: labels("node"),
            role: Role::Manager,
            availability: Availability::Drain,
        },
        description: NodeDescription {
            hostname: "pi".to_owned(),
            platform: platform(),
            nano_cpus: 4_000_000_000,
            memory_bytes: 1 << 30,
            generic: generic(),
            engine_labels: labels("engine"),
            engine_version: "0.1.0".to_owned(),
            devices: texts(&["/dev/ttyUSB0"]),
        },
        address: "192.168.1.2".to_owned(),
        manager: Some("192.168.1.2:2377".to_owned()),
    }
}

pub(crate) fn network() -> Network {
    Network {
        id: NetworkId::new(3),
        meta: META,
        name: "ingress".to_owned(),
        labels: labels("network"),
        subnet: Subnet { base: [10, 0, 0, 0].into(), prefix: 24 },
        ingress: true,
    }
}

fn service() -> Service {
    let update = UpdateStatus {
        state: UpdateState::RollbackPaused,
        started: Some(Wall(5)),
        completed: Some(Wall(6)),
        message: "update paused".to_owned(),
    };
    Service {
        id: ServiceId::new(4),
        meta: META,
        spec: service_spec(Mode::ReplicatedJob { max_concurrent: 2, total: 5 }),
        previous_spec: Some(Box::new(service_spec(Mode::Global))),
        spec_version: 299,
        ports: vec![port(PublishMode::Ingress)],
        update_status: Some(update),
        job: Some(JobStatus { iteration: 6, last_execution: Wall(4) }),
        vips: vec![address()],
    }
}

/// A task.
pub(crate) fn task() -> Task {
    Task {
        id: TaskId::new(5),
        meta: META,
        service: ServiceId::new(4),
        service_name: Name::new("web").unwrap(),
        slot: 3,
        node: Some(NodeId::new(2)),
        spec: task_spec(),
        spec_version: 299,
        service_labels: labels("service"),
        ports: vec![port(PublishMode::Host)],
        addresses: vec![address()],
        desired: TaskState::Shutdown,
        status: TaskStatus {
            state: TaskState::Failed,
            timestamp: Wall(8),
            message: "started".to_owned(),
            err: "task: non-zero exit (1)".to_owned(),
            pid: 77,
            exit_code: Some(1),
            ports: vec![port(PublishMode::Host)],
        },
        job_iteration: 6,
        not_before: Some(Wall(9)),
        generic: generic(),
        adopted_from: Some(TaskId::new(1)),
    }
}

fn secret() -> Secret {
    Secret {
        id: SecretId::new(6),
        meta: META,
        name: "key".to_owned(),
        labels: labels("secret"),
        data: b"secret".to_vec(),
        templating: true,
    }
}

fn config() -> Config {
    Config {
        id: ConfigId::new(7),
        meta: META,
        name: "conf".to_owned(),
        labels: labels("config"),
        data: b"config".to_vec(),
        templating: true,
    }
}

fn resource() -> Resource {
    Resource {
        id: ResourceId::new(8),
        meta: META,
        kind: "kind".to_owned(),
        name: "name".to_owned(),
        labels: labels("resource"),
        payload: b"payload".to_vec(),
    }
}

/// One of each kind, in the order of [`Object`].
pub(crate) fn objects() -> Vec<Object> {
    vec![
        Object::Cluster(Box::new(cluster())),
        Object::Node(Box::new(node())),
        Object::Network(Box::new(network())),
        Object::Service(Box::new(service())),
        Object::Task(Box::new(task())),
        Object::Secret(Box::new(secret())),
        Object::Config(Box::new(config())),
        Object::Resource(Box::new(resource())),
    ]
}

/// An entry that writes and removes each of these.
pub(crate) fn entry(objects: Vec<Object>) -> Entry {
    let ids: Vec<ObjectId> = objects.iter().map(Object::id).collect();
    let removed = ids.iter().copied().map(Change::Remove);
    Entry {
        request: RequestId::new(11),
        time: Wall(70_000),
        preconditions: vec![Precondition::Version(ids[0], 300), Precondition::Absent(ids[1])],
        changes: objects.into_iter().map(Change::Put).chain(removed).collect(),
    }
}

/// What version 1 could say of a spec.
fn spec_v1(spec: &mut TaskSpec) {
    spec.container.secrets.clear();
    spec.container.configs.clear();
    spec.on_disconnect = OnDisconnect::Keep;
}

/// [`task`] as version 1 could tell it.
pub(crate) fn task_v1() -> Task {
    let mut task = Task { generic: Vec::new(), adopted_from: None, ..task() };
    spec_v1(&mut task.spec);
    task
}

/// [`objects`] as version 1 could tell them.
pub(crate) fn objects_v1() -> Vec<Object> {
    let mut node = node();
    node.description.generic.truncate(1);
    node.description.devices.clear();
    let mut service = Service { job: None, vips: Vec::new(), ..service() };
    spec_v1(&mut service.spec.task);
    let previous = service.previous_spec.as_mut().unwrap();
    spec_v1(&mut previous.task);
    vec![
        Object::Cluster(Box::new(Cluster { rebalance: false, ..cluster() })),
        Object::Node(Box::new(node)),
        Object::Network(Box::new(network())),
        Object::Service(Box::new(service)),
        Object::Task(Box::new(task_v1())),
    ]
}
