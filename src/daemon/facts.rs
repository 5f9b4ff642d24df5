//! What this machine is, read once at start.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::sys::sysinfo::sysinfo;
use nix::sys::utsname::uname;

use super::handle::Facts;
use super::options::Options;
use crate::model::node::{DEVICES_MAX, NodeDescription, Platform};

/// How far below `/dev` devices are looked for: `/dev/bus/usb/001`.
const DEVICE_DEPTH_MAX: usize = 3;

/// Reads what the node will say of itself.
pub(super) fn read(options: &Options, runc: &str) -> Facts {
    let (kernel, hostname, machine) = match uname() {
        Ok(names) => (
            names.release().to_string_lossy().into_owned(),
            names.nodename().to_string_lossy().into_owned(),
            names.machine().to_string_lossy().into_owned(),
        ),
        Err(_) => (String::new(), "localhost".to_owned(), std::env::consts::ARCH.to_owned()),
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = sysinfo().map_or(0, |info| info.ram_total());
    let engine_labels = options
        .label
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Facts {
        description: NodeDescription {
            hostname,
            platform: platform(&machine),
            nano_cpus: u64::try_from(cpus).unwrap_or(1).saturating_mul(1_000_000_000),
            memory_bytes: memory,
            generic: Vec::new(),
            engine_labels,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            devices: devices(Path::new("/dev")),
        },
        kernel,
        os: os_name(),
        machine,
        runc: runc.to_owned(),
        cgroup_version: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "2" } else { "1" }
            .to_owned(),
        data_root: options.data_root.display().to_string(),
    }
}

/// Holds the terminals of who is logged in just now: no devices of the machine.
const TERMINALS: &str = "/dev/pts";

/// The devices below `root` and the folders that hold some, by path, at most [`DEVICES_MAX`]. What
/// cannot be read or whose path is no text is left out.
fn devices(root: &Path) -> Vec<String> {
    let mut found = BTreeSet::new();
    walk_devices(root, DEVICE_DEPTH_MAX, &mut found);
    found.into_iter().take(DEVICES_MAX).collect()
}

/// Whether there is a device in `folder` or below.
fn walk_devices(folder: &Path, depth: usize, found: &mut BTreeSet<String>) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let mut any = false;
    for entry in entries.flatten() {
        // Links are not followed: what they lead to is found by its own name.
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        let holds = if kind.is_dir() {
            depth > 1 && path != Path::new(TERMINALS) && walk_devices(&path, depth - 1, found)
        } else {
            kind.is_char_device() || kind.is_block_device()
        };
        if holds && let Some(path) = path.to_str() {
            found.insert(path.to_owned());
            any = true;
        }
    }
    any
}

/// Docker's words for what `uname -m` says.
#[must_use]
pub fn platform(machine: &str) -> Platform {
    let (arch, variant) = match machine {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        "armv7l" | "armv8l" => ("arm", "v7"),
        "armv6l" => ("arm", "v6"),
        other => (other, ""),
    };
    Platform { os: "linux".to_owned(), arch: arch.to_owned(), variant: variant.to_owned() }
}

fn os_name() -> String {
    std::fs::read_to_string("/etc/os-release")
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("PRETTY_NAME="))
                .map(|name| name.trim_matches('"').to_owned())
        })
        .unwrap_or_else(|| "Linux".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_the_folders_that_hold_some_are_told_in_order() {
        let found = devices(Path::new("/dev"));
        assert!(found.contains(&"/dev/null".to_owned()), "{found:?}");
        assert!(!found.iter().any(|path| path.starts_with(TERMINALS)), "{found:?}");
        assert!(found.is_sorted() && found.len() <= DEVICES_MAX);
        assert!(devices(Path::new("/proc/self/fdinfo")).is_empty());
        let mut all = BTreeSet::new();
        assert!(walk_devices(Path::new("/"), 2, &mut all), "the folder /dev holds devices");
        assert!(all.contains("/dev") && all.contains("/dev/null"));
        assert!(!walk_devices(Path::new("/"), 1, &mut BTreeSet::new()), "they are too deep");
    }

    #[test]
    fn machines_have_dockers_names() {
        assert_eq!(platform("armv6l").variant, "v6");
        assert_eq!(platform("aarch64").arch, "arm64");
        assert_eq!(platform("riscv64").arch, "riscv64");
    }
}
