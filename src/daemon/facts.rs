//! What this machine is, read once at start.

use std::path::Path;

use nix::sys::sysinfo::sysinfo;
use nix::sys::utsname::uname;

use super::handle::Facts;
use super::options::Options;
use crate::model::node::{NodeDescription, Platform};

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
    fn machines_have_dockers_names() {
        assert_eq!(platform("armv6l").variant, "v6");
        assert_eq!(platform("aarch64").arch, "arm64");
        assert_eq!(platform("riscv64").arch, "riscv64");
    }
}
