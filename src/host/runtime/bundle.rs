//! The OCI `config.json` of a container: Docker's defaults and what the specification changes.
//!
//! Everything that has to be looked up on the machine or in the image comes in resolved; nothing
//! here reads or writes a file.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::RuntimeError;
use super::inputs::ContainerInputs;
use super::mounts::BindMount;
use super::seccomp;
use super::user::User;
use crate::model::service::Ulimit;

/// Paths of the kernel's that no container may read.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths of the kernel's that no container may write.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Length of one CPU period for limits.
const CPU_PERIOD_US: u64 = 100_000;

/// The kernel's limit of a host name.
const HOSTNAME_BYTES_MAX: usize = 64;

/// Settings of the kernel that belong to a container's own namespaces, besides `net.` and
/// `fs.mqueue.`.
const SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The soft limit of open files that containers get, as programs are written for it. It is said and
/// not inherited: a runc that was built with Go 1.19 to 1.20.3 raises its own and hands that down.
const FILES_SOFT: u64 = 1024;

const RLIMITS: [&str; 15] = [
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
    "rss", "rtprio", "rttime", "sigpending", "stack",
];

/// A device node that was found on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    /// `c` or `b`.
    pub(super) kind: char,
    pub(super) major: u64,
    pub(super) minor: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Some of `rwm`.
    pub(super) access: String,
}

/// What the machine can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    pub(super) cgroup_v2: bool,
    pub(super) can_limit_memory: bool,
    pub(super) can_limit_swap: bool,
    pub(super) arch: &'a str,
    /// Further paths to mask, which depend on the processor.
    pub(super) masked: &'a [String],
    /// The daemon's own hard limit of open files.
    pub(super) files_hard: u64,
}

/// Everything resolved.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) inputs: &'a ContainerInputs,
    pub(super) machine: Machine<'a>,
    pub(super) hostname: &'a str,
    pub(super) rootfs: &'a Path,
    pub(super) cgroup: &'a str,
    pub(super) user: User,
    pub(super) workdir: &'a Path,
    pub(super) bounding: Vec<String>,
    pub(super) devices: Vec<DeviceNode>,
    pub(super) mounts: Vec<BindMount>,
    /// The binary to run as the first process, where one was asked for.
    pub(super) init: bool,
}

/// The bundle's `config.json`.
pub(super) fn config(parts: &Parts<'_>) -> Result<Value, RuntimeError> {
    let spec = &parts.inputs.container;
    if parts.hostname.len() > HOSTNAME_BYTES_MAX || parts.hostname.contains('\0') {
        return Err(RuntimeError::Spec(format!(
            "invalid hostname {:?}: at most {HOSTNAME_BYTES_MAX} bytes are possible",
            parts.hostname
        )));
    }
    let mut linux = json!({
        "cgroupsPath": parts.cgroup,
        "namespaces": namespaces(parts),
        "resources": resources(parts),
        "devices": parts.devices.iter().map(device).collect::<Vec<_>>(),
        "sysctl": sysctls(parts)?,
        "maskedPaths": masked(parts),
        "readonlyPaths": READONLY,
        "seccomp": seccomp::profile(&parts.bounding, parts.machine.arch),
    });
    if let Some(propagation) = super::mounts::root_propagation(&parts.mounts) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process(parts)?,
        "root": {"path": parts.rootfs, "readonly": spec.read_only},
        "hostname": parts.hostname,
        "mounts": mounts(parts),
        "annotations": parts.inputs.annotations,
        "linux": linux,
    }))
}

fn process(parts: &Parts<'_>) -> Result<Value, RuntimeError> {
    let spec = &parts.inputs.container;
    let mut argv = parts.inputs.argv();
    if argv.is_empty() {
        return Err(RuntimeError::Spec(
            "no command specified: neither the service nor the image names one".to_owned(),
        ));
    }
    if parts.init {
        let init = [super::mounts::INIT_PATH.to_owned(), "--".to_owned()];
        argv.splice(0..0, init);
    }
    let env = parts.inputs.env(parts.hostname);
    if let Some(bad) = argv.iter().chain(&env).find(|word| word.contains('\0')) {
        return Err(RuntimeError::Spec(format!("a NUL byte in {bad:?}")));
    }
    let user = &parts.user;
    // The own group among the extra ones: a program that drops extra groups must not gain rights
    // that a "deny this group" mode takes from it (CVE-2022-36109).
    let mut groups = vec![user.gid];
    groups.extend(user.groups.iter().filter(|gid| **gid != user.gid));
    let effective: &[String] = if user.uid == 0 { &parts.bounding } else { &[] };
    let mut rlimits: Vec<Value> = spec.ulimits.iter().map(rlimit).collect::<Result<_, _>>()?;
    if !spec.ulimits.iter().any(|limit| limit.name == "nofile") {
        let hard = parts.machine.files_hard;
        rlimits.push(json!({"type": "RLIMIT_NOFILE", "soft": FILES_SOFT.min(hard), "hard": hard}));
    }
    Ok(json!({
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": groups},
        "args": argv,
        "env": env,
        "cwd": parts.workdir,
        "capabilities": {
            "bounding": parts.bounding,
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": rlimits,
        "noNewPrivileges": spec.no_new_privileges,
        "oomScoreAdj": spec.oom_score_adj.clamp(-1000, 1000),
    }))
}

fn rlimit(limit: &Ulimit) -> Result<Value, RuntimeError> {
    if !RLIMITS.contains(&limit.name.as_str()) {
        return Err(RuntimeError::Spec(format!("invalid ulimit type: {}", limit.name)));
    }
    // −1 is the kernel's "no limit", which is all ones.
    let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    if value(limit.soft) > value(limit.hard) {
        return Err(RuntimeError::Spec(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            limit.soft, limit.hard
        )));
    }
    Ok(json!({
        "type": format!("RLIMIT_{}", limit.name.to_uppercase()),
        "soft": value(limit.soft),
        "hard": value(limit.hard),
    }))
}

fn namespaces(parts: &Parts<'_>) -> Value {
    let mut network = json!({"type": "network"});
    if let Some(path) = &parts.inputs.netns {
        network["path"] = json!(path);
    }
    let mut all = vec![network];
    let own = ["pid", "ipc", "uts", "mount"].into_iter();
    let cgroup = parts.machine.cgroup_v2.then_some("cgroup");
    all.extend(own.chain(cgroup).map(|kind| json!({"type": kind})));
    Value::Array(all)
}

fn resources(parts: &Parts<'_>) -> Value {
    let limits = &parts.inputs.resources;
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    let mut allow = |kind: &str, major: Option<u64>, minor: Option<u64>, access: &str| {
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        if let Some(major) = major {
            rule["major"] = json!(major);
        }
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        devices.push(rule);
    };
    // null, zero, full, random, urandom, tty, console; runc adds terminals of its own.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)] {
        allow("c", Some(major), Some(minor), "rwm");
    }
    for node in &parts.devices {
        allow(&node.kind.to_string(), Some(node.major), Some(node.minor), &node.access);
    }
    let mut out = json!({"devices": devices});
    if limits.limit_memory_bytes > 0 && parts.machine.can_limit_memory {
        let limit = limits.limit_memory_bytes;
        out["memory"] = json!({"limit": limit});
        if parts.machine.can_limit_swap {
            out["memory"]["swap"] = json!(limit.saturating_mul(2).min(i64::MAX.unsigned_abs()));
        }
    }
    if limits.limit_nano_cpus > 0 {
        let quota = u128::from(limits.limit_nano_cpus) * u128::from(CPU_PERIOD_US) / 1_000_000_000;
        let quota = u64::try_from(quota).unwrap_or(u64::MAX).max(1_000);
        out["cpu"] = json!({"period": CPU_PERIOD_US, "quota": quota});
    }
    if limits.limit_pids > 0 {
        out["pids"] = json!({"limit": limits.limit_pids});
    }
    out
}

fn device(node: &DeviceNode) -> Value {
    json!({
        "path": node.path,
        "type": node.kind.to_string(),
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    })
}

fn sysctls(parts: &Parts<'_>) -> Result<Value, RuntimeError> {
    let mut all = Map::new();
    // As Docker: low ports and ping without a capability.
    all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), json!("0"));
    all.insert("net.ipv4.ping_group_range".to_owned(), json!("0 2147483647"));
    for (name, value) in &parts.inputs.container.sysctls {
        let own = SYSCTLS.contains(&name.as_str())
            || name.starts_with("net.")
            || name.starts_with("fs.mqueue.");
        if !own || name.contains("..") || name.contains('/') {
            return Err(RuntimeError::Spec(format!("sysctl '{name}' is not allowed")));
        }
        all.insert(name.clone(), json!(value));
    }
    Ok(Value::Object(all))
}

fn masked(parts: &Parts<'_>) -> Vec<String> {
    let fixed = MASKED.iter().map(|path| (*path).to_owned());
    fixed.chain(parts.machine.masked.iter().cloned()).collect()
}

/// Docker's own mounts, less those the user mounts something else at, then the user's with the
/// outer ones first.
fn mounts(parts: &Parts<'_>) -> Vec<Value> {
    let fixed: [(&str, &str, &[&str]); 7] = [
        ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ];
    let hidden = |target: &str| {
        parts.mounts.iter().any(|mount| {
            mount.target == target || target.starts_with(&format!("{}/", mount.target))
        })
    };
    let mut all: Vec<Value> = Vec::new();
    for (target, kind, options) in fixed {
        if !hidden(target) {
            all.push(
                json!({"destination": target, "type": kind, "source": kind, "options": options}),
            );
        }
    }
    let mut own: Vec<&BindMount> = parts.mounts.iter().collect();
    own.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    all.extend(own.into_iter().map(BindMount::to_oci));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::{ContainerSpec, Resources};

    fn parts(inputs: &ContainerInputs) -> Parts<'_> {
        Parts {
            inputs,
            machine: Machine {
                cgroup_v2: true,
                can_limit_memory: true,
                can_limit_swap: true,
                arch: "x86_64",
                masked: &[],
                files_hard: 4096,
            },
            hostname: "host",
            rootfs: Path::new("/root"),
            cgroup: "/skep/x",
            user: User { uid: 33, gid: 34, groups: vec![34, 44] },
            workdir: Path::new("/"),
            bounding: vec!["CAP_CHOWN".to_owned()],
            devices: Vec::new(),
            mounts: Vec::new(),
            init: false,
        }
    }

    fn inputs(container: ContainerSpec) -> ContainerInputs {
        ContainerInputs { container, ..ContainerInputs::default() }
    }

    #[test]
    fn limits_are_dockers() {
        let mut inputs =
            inputs(ContainerSpec { command: vec!["x".into()], ..ContainerSpec::default() });
        inputs.resources = Resources {
            limit_nano_cpus: 500_000_000,
            limit_memory_bytes: 8 << 20,
            limit_pids: 7,
            ..Resources::default()
        };
        let config = config(&parts(&inputs)).unwrap();
        let resources = &config["linux"]["resources"];
        assert_eq!(resources["memory"], json!({"limit": 8 << 20, "swap": 16 << 20}));
        assert_eq!(resources["cpu"], json!({"period": 100_000, "quota": 50_000}));
        assert_eq!(resources["pids"], json!({"limit": 7}));
        assert_eq!(config["process"]["user"]["additionalGids"], json!([34, 44]));
        assert_eq!(config["process"]["capabilities"]["effective"], json!([]));
        assert_eq!(config["process"]["oomScoreAdj"], json!(0));
    }

    #[test]
    fn open_files_are_limited_as_usual_unless_it_is_said() {
        let limits = |ulimits: Vec<Ulimit>, files_hard: u64| {
            let command = vec!["x".into()];
            let inputs = inputs(ContainerSpec { command, ulimits, ..ContainerSpec::default() });
            let mut parts = parts(&inputs);
            parts.machine.files_hard = files_hard;
            config(&parts).unwrap()["process"]["rlimits"].clone()
        };
        let files = |soft: u64, hard: u64| json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard});
        assert_eq!(limits(Vec::new(), 5_000), json!([files(1024, 5_000)]));
        assert_eq!(limits(Vec::new(), 500), json!([files(500, 500)]));
        let said = Ulimit { name: "nofile".into(), soft: 7, hard: 8 };
        assert_eq!(limits(vec![said], 5_000), json!([files(7, 8)]));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let check = |spec: ContainerSpec| {
            let inputs = inputs(spec);
            config(&parts(&inputs)).map(drop).map_err(|err| err.to_string())
        };
        let base = ContainerSpec { command: vec!["x".into()], ..ContainerSpec::default() };
        assert!(check(ContainerSpec::default()).unwrap_err().contains("no command specified"));
        for name in ["kernel.hostname", "vm.swappiness", "net./../kernel", "net..x"] {
            let mut spec = base.clone();
            spec.sysctls.insert(name.into(), "1".into());
            assert_eq!(check(spec), Err(format!("sysctl '{name}' is not allowed")));
        }
        let mut spec = base.clone();
        spec.ulimits = vec![Ulimit { name: "nofile".into(), soft: -1, hard: 5 }];
        assert!(check(spec.clone()).unwrap_err().contains("soft limit"));
        spec.ulimits = vec![Ulimit { name: "nofiles".into(), soft: 1, hard: 5 }];
        assert_eq!(check(spec), Err("invalid ulimit type: nofiles".to_owned()));
        assert_eq!(check(base), Ok(()));
    }
}
