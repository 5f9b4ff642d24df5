//! What the user mounts into a container, checked against this machine and turned into the
//! bundle's mounts.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use serde_json::{Value, json};

use super::bundle::DeviceNode;
use super::error::{Doing, RuntimeError};
use super::inputs::ContainerInputs;
use super::rootdir::RootDir;
use super::volume::Volumes;
use crate::base::id::TaskId;
use crate::model::service::{Device, Mount, MountKind, Propagation};

/// Where the tiny first process is mounted.
pub(super) const INIT_PATH: &str = "/sbin/docker-init";

/// Devices below a folder that was given as a device.
const DEVICES_MAX: usize = 256;

/// One mount of the bundle besides Docker's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BindMount {
    pub(super) target: String,
    /// `bind` or `tmpfs`.
    kind: &'static str,
    source: PathBuf,
    options: Vec<String>,
    propagation: Propagation,
}

/// A volume that may have to be filled from the image before the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fill {
    pub(super) volume: String,
    pub(super) target: String,
}

impl BindMount {
    /// A file or folder of the node, not recursive in what the container may change.
    pub(super) fn bind(source: &Path, target: &str, read_only: bool) -> Self {
        let access = if read_only { "ro" } else { "rw" };
        Self {
            target: clean(target),
            kind: "bind",
            source: source.to_owned(),
            options: vec!["rbind".to_owned(), "rprivate".to_owned(), access.to_owned()],
            propagation: Propagation::Rprivate,
        }
    }

    pub(super) fn to_oci(&self) -> Value {
        json!({
            "destination": self.target,
            "type": self.kind,
            "source": self.source,
            "options": self.options,
        })
    }
}

/// What the root file system's own propagation has to be for the mounts to get theirs.
pub(super) fn root_propagation(mounts: &[BindMount]) -> Option<&'static str> {
    let mut slave = None;
    for mount in mounts {
        match mount.propagation {
            Propagation::Shared | Propagation::Rshared => return Some("shared"),
            Propagation::Slave | Propagation::Rslave => slave = Some("rslave"),
            Propagation::Private | Propagation::Rprivate => {}
        }
    }
    slave
}

/// `target` with single slashes and none at the end.
pub(super) fn clean(target: &str) -> String {
    let parts: Vec<&str> = target.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    format!("/{}", parts.join("/"))
}

fn invalid(kind: &'static str, why: impl Into<String>) -> RuntimeError {
    RuntimeError::Mount { kind, why: why.into() }
}

/// The user's mounts and the anonymous volumes of the image, each with its source in place.
pub(super) fn user_mounts(
    inputs: &ContainerInputs,
    task: TaskId,
    volumes: &Volumes,
    can_rro: bool,
) -> Result<(Vec<BindMount>, Vec<Fill>), RuntimeError> {
    let (mut mounts, mut fills) = (Vec::new(), Vec::new());
    let mut targets = BTreeSet::new();
    for mount in &inputs.container.mounts {
        let target = clean(&mount.target);
        if target == "/" || !mount.target.starts_with('/') || target.split('/').any(|p| p == "..") {
            let why = format!("invalid specification: destination can't be '{}'", mount.target);
            return Err(invalid(kind_name(&mount.kind), why));
        }
        if !targets.insert(target.clone()) {
            return Err(invalid(kind_name(&mount.kind), format!("duplicate mount point: {target}")));
        }
        mounts.push(user_mount(mount, target, task, volumes, &mut fills, can_rro)?);
    }
    for target in &inputs.image.volumes {
        let target = clean(target);
        if target == "/" || target.split('/').any(|part| part == "..") || !targets.insert(target.clone()) {
            continue;
        }
        let name = Volumes::anonymous_name(task, &target);
        let source = volumes.ensure(&name, &crate::model::service::Labels::new())?;
        mounts.push(BindMount::bind(&source, &target, false));
        fills.push(Fill { volume: name, target });
    }
    Ok((mounts, fills))
}

const fn kind_name(kind: &MountKind) -> &'static str {
    match kind {
        MountKind::Bind { .. } | MountKind::BindReadOnly { .. } => "bind",
        MountKind::Volume { .. } => "volume",
        MountKind::Tmpfs { .. } => "tmpfs",
    }
}

fn user_mount(
    mount: &Mount,
    target: String,
    task: TaskId,
    volumes: &Volumes,
    fills: &mut Vec<Fill>,
    can_rro: bool,
) -> Result<BindMount, RuntimeError> {
    match &mount.kind {
        MountKind::Bind { source, propagation, non_recursive } => {
            let access = access(mount.read_only, *non_recursive, can_rro);
            bind_mount(source, target, access, *propagation, *non_recursive)
        }
        MountKind::BindReadOnly { source, propagation, recursive } => {
            let access = access_below(*recursive, can_rro)?;
            bind_mount(source, target, access, *propagation, false)
        }
        MountKind::Volume { name, labels, no_copy, subpath } => {
            let anonymous = name.is_empty();
            let name =
                if anonymous { Volumes::anonymous_name(task, &target) } else { name.clone() };
            let mut source = volumes.ensure(&name, labels)?;
            if subpath.is_empty() {
                if !no_copy {
                    fills.push(Fill { volume: name, target: target.clone() });
                }
            } else {
                let inside = RootDir::open(&source)?.resolve(Path::new(subpath))?;
                let full = source.join(inside.strip_prefix("/").unwrap_or(&inside));
                if std::fs::symlink_metadata(&full).is_err() {
                    let why = format!("cannot access path {subpath} in volume {name}");
                    return Err(invalid("volume", why));
                }
                source = full;
            }
            Ok(BindMount::bind(&source, &target, mount.read_only))
        }
        MountKind::Tmpfs { size_bytes, mode } => {
            let mut options: Vec<String> =
                ["noexec", "nosuid", "nodev", "rprivate"].map(str::to_owned).into();
            if *size_bytes > 0 {
                options.push(format!("size={size_bytes}"));
            }
            options.push(format!("mode={:o}", if *mode == 0 { 0o1777 } else { *mode & 0o7777 }));
            if mount.read_only {
                options.push("ro".to_owned());
            }
            let (source, propagation) = (PathBuf::from("tmpfs"), Propagation::Rprivate);
            Ok(BindMount { target, kind: "tmpfs", source, options, propagation })
        }
    }
}

/// How a bind mount may be used. Recursively read-only, as Docker since 25, where the kernel can:
/// otherwise a mount below stays writable, as in Docker on such a kernel.
const fn access(read_only: bool, non_recursive: bool, can_rro: bool) -> &'static str {
    match (read_only, non_recursive) {
        (false, _) => "rw",
        (true, false) if can_rro => "rro",
        (true, _) => "ro",
    }
}

/// The same for `bind-recursive=readonly` and `bind-recursive=writable`.
fn access_below(recursive: bool, can_rro: bool) -> Result<&'static str, RuntimeError> {
    match (recursive, can_rro) {
        (true, true) => Ok("rro"),
        (true, false) => Err(invalid(
            "bind",
            "bind-recursive=readonly needs Linux 5.12 on this node: use bind-recursive=writable or \
             bind-recursive=disabled, or a newer kernel",
        )),
        (false, _) => Ok("ro"),
    }
}

/// Whether the kernel has what recursive read-only mounts are made with: `mount_setattr(2)`, since
/// Linux 5.12.
pub(super) fn can_rro() -> bool {
    let nothing = std::ptr::null::<u8>();
    // SAFETY: a size of zero is refused before anything is read or done.
    let done = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, nothing, 0, nothing, 0usize) };
    done == 0 || Errno::last() != Errno::ENOSYS
}

fn bind_mount(
    source: &str,
    target: String,
    access: &str,
    propagation: Propagation,
    non_recursive: bool,
) -> Result<BindMount, RuntimeError> {
    if !source.starts_with('/') {
        let why = format!("invalid mount path: '{source}' mount path must be absolute");
        return Err(invalid("bind", why));
    }
    if let Err(err) = std::fs::metadata(source) {
        if err.kind() == std::io::ErrorKind::NotFound {
            return Err(invalid("bind", format!("bind source path does not exist: {source}")));
        }
        return Err(err).doing("look at the bind source", source);
    }
    let name = match propagation {
        Propagation::Rprivate => "rprivate",
        Propagation::Private => "private",
        Propagation::Rshared => "rshared",
        Propagation::Shared => "shared",
        Propagation::Rslave => "rslave",
        Propagation::Slave => "slave",
    };
    let bind = if non_recursive { "bind" } else { "rbind" };
    let options = vec![bind.to_owned(), name.to_owned(), access.to_owned()];
    Ok(BindMount { target, kind: "bind", source: PathBuf::from(source), options, propagation })
}

/// The device nodes behind `--device`; a folder stands for all devices in it.
pub(super) fn devices(wanted: &[Device]) -> Result<Vec<DeviceNode>, RuntimeError> {
    let mut nodes = Vec::new();
    for device in wanted {
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        if !access.bytes().all(|byte| matches!(byte, b'r' | b'w' | b'm')) {
            return Err(RuntimeError::Spec(format!("invalid device mode: {access}")));
        }
        let inside = if device.path_in_container.is_empty() {
            &device.path_on_host
        } else {
            &device.path_in_container
        };
        if !inside.starts_with('/') || inside.split('/').any(|part| part == "..") {
            return Err(RuntimeError::Spec(format!("invalid device path in container: {inside}")));
        }
        let before = nodes.len();
        find_devices(Path::new(&device.path_on_host), inside, access, &mut nodes)?;
        if nodes.len() == before {
            return Err(RuntimeError::Spec(format!(
                "error gathering device information while adding custom device \"{}\": not a device node",
                device.path_on_host
            )));
        }
    }
    Ok(nodes)
}

fn find_devices(
    path: &Path,
    inside: &str,
    access: &str,
    out: &mut Vec<DeviceNode>,
) -> Result<(), RuntimeError> {
    let meta = std::fs::metadata(path).map_err(|err| {
        let why = match err.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => err.to_string(),
        };
        RuntimeError::Spec(format!(
            "error gathering device information while adding custom device {path:?}: {why}"
        ))
    })?;
    let kind = meta.file_type();
    if kind.is_dir() {
        for entry in std::fs::read_dir(path).doing("list", path)? {
            let entry = entry.doing("list", path)?;
            let name = entry.file_name();
            // Links are left out: what they lead to has a place of its own.
            if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) && out.len() < DEVICES_MAX {
                let inside = format!("{inside}/{}", name.to_string_lossy());
                find_devices(&entry.path(), &inside, access, out)?;
            }
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        out.push(DeviceNode {
            path: inside.to_owned(),
            kind: if kind.is_char_device() { 'c' } else { 'b' },
            major: nix::sys::stat::major(meta.rdev()),
            minor: nix::sys::stat::minor(meta.rdev()),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            access: access.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_cleaned() {
        assert_eq!(clean("//a/./b//"), "/a/b");
        assert_eq!(clean("/"), "/");
    }

    #[test]
    fn read_only_is_recursive_where_the_kernel_can() {
        assert_eq!(access(true, false, true), "rro");
        assert_eq!(access(true, false, false), "ro");
        assert_eq!(access(true, true, true), "ro");
        assert_eq!(access(false, false, true), "rw");
    }

    #[test]
    fn what_is_below_is_read_only_or_the_task_is_refused() {
        assert_eq!(access_below(true, true).unwrap(), "rro");
        assert_eq!(access_below(false, true).unwrap(), "ro");
        assert_eq!(access_below(false, false).unwrap(), "ro");
        let refused = access_below(true, false).unwrap_err().to_string();
        assert!(refused.contains("needs Linux 5.12"), "{refused}");
    }

    #[test]
    fn a_missing_source_is_dockers_error() {
        let err = bind_mount("/nope/x", "/x".into(), "rw", Propagation::Rprivate, false);
        assert_eq!(
            err.unwrap_err().to_string(),
            "invalid mount config for type \"bind\": bind source path does not exist: /nope/x"
        );
    }

    #[test]
    fn devices_are_found() {
        let device = |path: &str, permissions: &str| Device {
            path_on_host: path.into(),
            path_in_container: String::new(),
            permissions: permissions.into(),
        };
        let nodes = devices(&[device("/dev/null", "rw")]).unwrap();
        assert_eq!((nodes[0].kind, nodes[0].major, nodes[0].minor), ('c', 1, 3));
        assert_eq!((nodes[0].path.as_str(), nodes[0].access.as_str()), ("/dev/null", "rw"));
        for bad in [device("/dev/nope", ""), device("/etc/passwd", ""), device("/dev/null", "x")] {
            assert!(devices(&[bad]).is_err());
        }
    }
}
