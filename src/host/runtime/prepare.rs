//! Making a container: folders, volumes, root file system, bundle; then the shim that creates it.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::bundle::{self, Machine, Parts};
use super::cgroup::CgroupVersion;
use super::error::{Doing, RuntimeError, unless_absent};
use super::inputs::ContainerInputs;
use super::mounts::{self, BindMount, INIT_PATH};
use super::overlay::{make_dir, mount_root};
use super::rootdir::RootDir;
use super::shim_client::ShimClient;
use super::volume::Volumes;
use super::{
    CREATE_LIMIT, Places, Runtime, SHIM_LIMIT, START_LIMIT, caps, has_shim, signals, try_lock, user,
};
use crate::base::id::TaskId;
use crate::base::shim_wire::{Phase, Request};
use crate::host::failpoint::{Point, hit};
use crate::model::service::{LogDriver, MountKind};

/// The longest `passwd` or `group` of an image that is read.
const PASSWD_BYTES_MAX: u64 = 4 << 20;

/// Docker has no limit of its own; these keep a card from filling up.
const LOG_BYTES_DEFAULT: u64 = 10_000_000;
const LOG_FILES_DEFAULT: u32 = 3;
const LOG_FILES_MAX: u32 = 1_000;

/// The search path of the shim and of runc.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Runtime {
    /// Makes everything a container needs short of the container itself. Whatever is there
    /// already is used.
    ///
    /// # Errors
    /// With the user's mistake or what the machine said.
    pub fn prepare(&self, task: TaskId, inputs: &ContainerInputs) -> Result<(), RuntimeError> {
        let places = self.places(task);
        if has_shim(&places)? {
            // An earlier try came further than this one would.
            return Ok(());
        }
        signals::number(inputs.stop_signal())?;
        make_dir(&places.exec, 0o700)?;
        make_dir(&places.data.join("log"), 0o700)?;
        for stale in [places.exit_record(), places.lost()] {
            unless_absent(std::fs::remove_file(&stale)).doing("remove", &stale)?;
        }
        hit(Point::ContainerFolders);
        let names = volume_names(inputs, task);
        let list = places.volumes();
        std::fs::write(&list, names.join("\n")).doing("write", &list)?;
        let (mut mounts, fills) = mounts::user_mounts(inputs, task, &self.volumes, self.can_rro)?;
        hit(Point::ContainerVolumes);
        let root = places.root();
        mount_root(
            &inputs.image.lowerdirs,
            &places.data.join("upper"),
            &places.data.join("work"),
            &places.exec.join("links"),
            &root,
        )?;
        hit(Point::ContainerMounted);
        let dir = RootDir::open(&root)?;
        for fill in &fills {
            self.volumes.fill(&fill.volume, &dir, &fill.target)?;
        }
        hit(Point::ContainerFilled);
        self.write_bundle(task, inputs, &places, &dir, &mut mounts)?;
        hit(Point::ContainerBundled);
        Ok(())
    }

    fn write_bundle(
        &self,
        task: TaskId,
        inputs: &ContainerInputs,
        places: &Places,
        dir: &RootDir,
        mounts: &mut Vec<BindMount>,
    ) -> Result<(), RuntimeError> {
        let spec = &inputs.container;
        let id = task.to_string();
        let hostname = &inputs.hostname(task);
        etc_files(inputs, places, hostname, mounts)?;
        let init = spec.init == Some(true);
        if init {
            mounts.push(BindMount::bind(&self.config.exe, INIT_PATH, true));
        }
        let passwd = dir.read("/etc/passwd", PASSWD_BYTES_MAX)?.unwrap_or_default();
        let group = dir.read("/etc/group", PASSWD_BYTES_MAX)?.unwrap_or_default();
        let workdir = workdir(inputs, dir)?;
        let machine = Machine {
            cgroup_v2: self.cgroups.version() == CgroupVersion::V2,
            can_limit_memory: self.cgroups.has("memory"),
            can_limit_swap: self.cgroups.has_swap(),
            arch: std::env::consts::ARCH,
            masked: &self.masked,
            files_hard: self.files_hard,
        };
        if inputs.resources.limit_memory_bytes > 0 && !machine.can_limit_memory {
            log::warn!(
                "task {id}: the kernel has no memory cgroup, so the memory limit has no effect \
                 (on a Raspberry Pi: add cgroup_enable=memory to cmdline.txt)"
            );
        }
        let config = bundle::config(&Parts {
            inputs,
            machine,
            hostname,
            rootfs: &places.root(),
            cgroup: &self.cgroups.path(&id),
            user: user::resolve(inputs.user(), &spec.groups, &passwd, &group)?,
            workdir: &workdir,
            bounding: caps::bounding(&spec.cap_add, &spec.cap_drop, self.capabilities)?,
            devices: mounts::devices(&spec.devices)?,
            mounts: std::mem::take(mounts),
            init,
        })?;
        let bundle = places.exec.join("bundle");
        make_dir(&bundle, 0o700)?;
        let path = bundle.join("config.json");
        std::fs::write(&path, config.to_string()).doing("write", &path)?;
        let path = places.stop_signal();
        std::fs::write(&path, inputs.stop_signal()).doing("write", &path)?;
        let path = places.shim_args();
        let args = self.shim_args(&id, inputs, places)?;
        let bytes = args.iter().map(|word| word.as_bytes()).collect::<Vec<_>>().join(&0);
        std::fs::write(&path, bytes).doing("write", &path)
    }

    /// The words after `skep shim`.
    fn shim_args(
        &self,
        id: &str,
        inputs: &ContainerInputs,
        places: &Places,
    ) -> Result<Vec<OsString>, RuntimeError> {
        let mut args: Vec<OsString> = Vec::new();
        let mut pair = |key: &str, value: OsString| args.extend([OsString::from(key), value]);
        pair("task", id.into());
        pair("dir", places.exec.clone().into());
        pair("runc", self.runc.path.clone().into());
        pair("runc-root", self.runc.root.clone().into());
        pair("record", places.exit_record().into());
        let log = log_options(inputs.log.as_ref())?;
        if log.keep {
            pair("log", places.log().into());
        }
        pair("log-max-bytes", log.bytes_max.to_string().into());
        pair("log-max-files", log.files_max.to_string().into());
        if let Some(path) = self.cgroups.oom_file(id) {
            pair("oom", path.into());
        }
        pair("create-seconds", CREATE_LIMIT.as_secs().to_string().into());
        pair("start-seconds", START_LIMIT.as_secs().to_string().into());
        pair("tty", if inputs.container.tty { "1" } else { "0" }.into());
        Ok(args)
    }

    /// Makes the container of a task that was prepared; it waits for its start.
    ///
    /// # Errors
    /// With runc's words, or what kept the shim from starting.
    pub fn create(&self, task: TaskId) -> Result<(), RuntimeError> {
        let places = self.places(task);
        if let Some(lock) = try_lock(&places.lock())? {
            // Left by a shim that died, or by a try that this one replaces.
            self.runc.delete(&task.to_string())?;
            hit(Point::ContainerBeforeShim);
            self.spawn_shim(&places, lock)?;
            hit(Point::ContainerShimStarted);
        }
        let client = self.connect(&places)?.ok_or_else(|| {
            RuntimeError::Shim("ended before it created the container".to_owned())
        })?;
        client.hello()?;
        let made = client.wait_state(CREATE_LIMIT + SHIM_LIMIT, |state| {
            state.phase != Phase::Creating
        });
        let state = self.or_end(task, &places, made)?;
        hit(Point::ContainerCreated);
        match state {
            Some(state) if state.phase == Phase::Failed => {
                client.send(Request::Bye)?;
                Err(RuntimeError::Runc(state.text.as_str().to_owned()))
            }
            Some(_) => {
                self.watcher.watch(task, client);
                Ok(())
            }
            None => Err(RuntimeError::Shim("ended before it created the container".to_owned())),
        }
    }

    fn spawn_shim(
        &self,
        places: &Places,
        lock: std::os::fd::OwnedFd,
    ) -> Result<(), RuntimeError> {
        let path = places.shim_args();
        let words = std::fs::read(&path).doing("read", &path)?;
        let words = words.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
        let mut child = Command::new(&self.config.exe)
            .arg("shim")
            .args(words)
            // NOTIFY_SOCKET and whatever else the daemon has is none of a container's business.
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(lock)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing("run the shim", &self.config.exe)?;
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            out.read_to_string(&mut said).doing("hear the shim", &self.config.exe)?;
        }
        child.wait().doing("wait for the shim", &self.config.exe)?;
        match said.as_str() {
            "ready" => Ok(()),
            "" => Err(RuntimeError::Shim("ended while it was starting".to_owned())),
            text => Err(RuntimeError::Shim(format!("did not start: {text}"))),
        }
    }

    /// The connection to a task's shim, which may be just starting. None when there is no shim.
    pub(super) fn connect(&self, places: &Places) -> Result<Option<ShimClient>, RuntimeError> {
        let until = Instant::now() + SHIM_LIMIT;
        loop {
            if let Some(client) = ShimClient::connect(&places.exec)? {
                return Ok(Some(client));
            }
            if !has_shim(places)? {
                // It may have come up and gone in between, but it is gone.
                return Ok(None);
            }
            if Instant::now() >= until {
                return Err(RuntimeError::Shim("does not take connections".to_owned()));
            }
            nix::poll::poll(&mut [], 5u16).doing("wait for the shim in", &places.exec)?;
        }
    }
}

/// The volumes a container uses, by name: those that [`mounts::user_mounts`] makes, and maybe one
/// of the image's more, where the user mounts something else.
fn volume_names(inputs: &ContainerInputs, task: TaskId) -> Vec<String> {
    let named = inputs.container.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, .. } if !name.is_empty() => Some(name.clone()),
        MountKind::Volume { .. } => Some(Volumes::anonymous_name(task, &mount.target)),
        MountKind::Bind { .. } | MountKind::BindReadOnly { .. } | MountKind::Tmpfs { .. } => None,
    });
    let of_image = inputs.image.volumes.iter();
    named.chain(of_image.map(|target| Volumes::anonymous_name(task, target))).collect()
}

/// Writes the files that the node gives, and mounts them where the user mounts nothing else.
fn etc_files(
    inputs: &ContainerInputs,
    places: &Places,
    hostname: &str,
    mounts: &mut Vec<BindMount>,
) -> Result<(), RuntimeError> {
    let spec = &inputs.container;
    let files = [
        ("hosts", inputs.etc_hosts.clone()),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", inputs.etc_resolv_conf.clone()),
    ];
    for (name, text) in files {
        if text.is_empty() {
            continue;
        }
        let (path, target) = (places.exec.join(name), format!("/etc/{name}"));
        std::fs::write(&path, text).doing("write", &path)?;
        if !mounts.iter().any(|mount| mount.target == target) {
            mounts.push(BindMount::bind(&path, &target, spec.read_only));
        }
    }
    Ok(())
}

/// The working directory, refused where it would lead below `/proc`: a directory there can be a
/// handle on something outside (CVE-2024-21626).
fn workdir(inputs: &ContainerInputs, dir: &RootDir) -> Result<PathBuf, RuntimeError> {
    let wanted = inputs.workdir();
    if !wanted.starts_with('/') {
        return Err(RuntimeError::Spec(format!(
            "the working directory '{wanted}' is invalid, it needs to be an absolute path"
        )));
    }
    let resolved = dir.resolve(Path::new(wanted))?;
    if resolved.starts_with("/proc") {
        return Err(RuntimeError::Spec(format!(
            "the working directory '{wanted}' is refused: it leads to {}",
            resolved.display()
        )));
    }
    Ok(resolved)
}

/// How a log is kept.
struct LogOptions {
    keep: bool,
    bytes_max: u64,
    files_max: u32,
}

fn log_options(driver: Option<&LogDriver>) -> Result<LogOptions, RuntimeError> {
    let mut options =
        LogOptions { keep: true, bytes_max: LOG_BYTES_DEFAULT, files_max: LOG_FILES_DEFAULT };
    let Some(driver) = driver else { return Ok(options) };
    match driver.name.as_str() {
        "" | "json-file" | "local" => {}
        "none" => options.keep = false,
        other => {
            return Err(RuntimeError::Spec(format!(
                "logger: no log driver named '{other}' is registered (use json-file, local or none)"
            )));
        }
    }
    for (key, value) in &driver.options {
        let bad = || RuntimeError::Spec(format!("invalid value for {key}: {value}"));
        match key.as_str() {
            "max-size" => options.bytes_max = bytes(value).ok_or_else(bad)?,
            "max-file" => {
                let files = value.parse().ok().filter(|n| (1..=LOG_FILES_MAX).contains(n));
                options.files_max = files.ok_or_else(bad)?;
            }
            // What Docker's drivers know and a log on this node does without.
            "compress" | "labels" | "labels-regex" | "env" | "env-regex" | "tag" | "mode"
            | "max-buffer-size" => {}
            _ => {
                let text = format!("unknown log opt '{key}' for {} log driver", driver.name);
                return Err(RuntimeError::Spec(text));
            }
        }
    }
    Ok(options)
}

/// A size as Docker's log options write it: decimal units, `10m` is 10,000,000; −1 is no limit.
fn bytes(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(u64::MAX);
    }
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, unit) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1_000),
        b'm' => (&lower[..lower.len() - 1], 1_000_000),
        b'g' => (&lower[..lower.len() - 1], 1_000_000_000),
        _ => (lower, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

/// Paths that tell about the processors' heat, which Docker masks since it tells about others'
/// work.
pub(super) fn masked_by_processor() -> Vec<String> {
    let paths = (0..).map(|n| format!("/sys/devices/system/cpu/cpu{n}/thermal_throttle"));
    paths.take_while(|path| Path::new(path).exists()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::{Labels, Mount};

    #[test]
    fn volumes_in_use_are_those_that_are_mounted() {
        let root = std::env::temp_dir().join(format!("skep-volume-names-{}", std::process::id()));
        let volumes = Volumes::open(root.clone()).unwrap();
        let mount = |name: &str, target: &str| Mount {
            target: target.to_owned(),
            read_only: false,
            kind: MountKind::Volume {
                name: name.to_owned(),
                labels: Labels::new(),
                no_copy: false,
                subpath: String::new(),
            },
        };
        let mut inputs = ContainerInputs::default();
        inputs.container.mounts = vec![mount("named", "/named"), mount("", "/data/")];
        inputs.image.volumes = vec!["/of/image//".to_owned()];
        let task = TaskId::new(7);
        mounts::user_mounts(&inputs, task, &volumes, true).unwrap();
        let mut names = volume_names(&inputs, task);
        names.sort();
        let made: Vec<String> = volumes.list().unwrap().into_iter().map(|v| v.name).collect();
        assert_eq!(names, made);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn sizes_of_logs() {
        assert_eq!(bytes("10m"), Some(10_000_000));
        assert_eq!(bytes("1kb"), Some(1_000));
        assert_eq!(bytes("5"), Some(5));
        assert_eq!(bytes("-1"), Some(u64::MAX));
        for bad in ["", "m", "0", "-2", "x", "1.5m", "99999999999999999999"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn log_drivers() {
        let driver = |name: &str, key: &str, value: &str| LogDriver {
            name: name.into(),
            options: [(key.to_owned(), value.to_owned())].into(),
        };
        let good = log_options(Some(&driver("json-file", "max-size", "1m"))).unwrap();
        assert_eq!((good.keep, good.bytes_max, good.files_max), (true, 1_000_000, 3));
        assert!(!log_options(Some(&driver("none", "max-file", "1"))).unwrap().keep);
        assert!(log_options(Some(&driver("syslog", "max-file", "1"))).is_err());
        assert!(log_options(Some(&driver("json-file", "max-file", "0"))).is_err());
        assert!(log_options(Some(&driver("json-file", "nope", "0"))).is_err());
    }
}
