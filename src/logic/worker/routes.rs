//! The table of ports that the proxy is to hold, made anew from the tasks and sent when it changed.
//!
//! A port is asked for as soon as a task that publishes it is prepared, so that a port that cannot
//! be had is known before the task starts. Tasks of one service share its ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::io::{Output, PortRoute, RefusedPort};
use super::machine::{Machine, Wanted};
use crate::base::id::TaskId;
use crate::model::service::{Port, Protocol, PublishMode};
use crate::model::task::Backend;

/// First and last number that is taken for a host-mode port left open (the kernel's own range).
pub const OPEN_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A task is rejected after this many numbers were refused for its open ports.
pub const OPEN_PORTS_TRIES_MAX: u32 = 8;

/// What names a port on a node.
pub(super) type PortKey = (Protocol, u16, Option<IpAddr>);

/// The table and what the proxy said of it.
#[derive(Debug, Default)]
pub(super) struct Routes {
    generation: u64,
    applied: u64,
    table: Vec<PortRoute>,
    /// The proxy may hold a table of an earlier run.
    stale: bool,
}

impl Routes {
    /// With the knowledge whether an earlier run may have left a table.
    pub(super) fn new(stale: bool) -> Self {
        Self { stale, ..Self::default() }
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) const fn applied(&self) -> u64 {
        self.applied
    }

    /// The proxy took a table.
    pub(super) fn note_applied(&mut self, generation: u64) {
        self.applied = self.applied.max(generation.min(self.generation));
    }

    /// Makes the table anew; sends it when it changed.
    pub(super) fn update(&mut self, tasks: &BTreeMap<TaskId, Machine>, out: &mut Vec<Output>) {
        let mut ports: BTreeMap<PortKey, Vec<Backend>> = BTreeMap::new();
        for machine in tasks.values().filter(|machine| holds_ports(machine)) {
            for (key, target) in port_keys(machine) {
                let backends = ports.entry(key).or_default();
                if machine.in_rotation()
                    && let Some(lease) = machine.task.addresses.first()
                {
                    let address = IpAddr::V4(lease.address);
                    backends.push(Backend { task: machine.task.id, address, port: target });
                }
            }
        }
        let table: Vec<PortRoute> = ports
            .into_iter()
            .map(|((protocol, published, host_ip), backends)| PortRoute {
                protocol,
                published,
                host_ip,
                backends,
            })
            .collect();
        let stale = std::mem::take(&mut self.stale);
        if stale || table != self.table {
            self.generation += 1;
            self.table.clone_from(&table);
            out.push(Output::Routes { generation: self.generation, ports: table });
        }
    }

    /// Takes a number for each open port that has none: the same one for the same task in every
    /// run, so that a restarted daemon asks for what the proxy holds.
    pub(super) fn take_open_ports(&self, machine: &mut Machine) {
        for (at, port) in machine.task.ports.iter().enumerate() {
            if !is_open(port) || machine.open_ports.iter().any(|(place, _)| *place == at) {
                continue;
            }
            let span = u64::from(*OPEN_PORTS.end() - *OPEN_PORTS.start()) + 1;
            let seed = [
                u64::try_from(machine.task.id.0.0 & u128::from(u64::MAX)).unwrap_or(0),
                u64::try_from(at).unwrap_or(0),
                u64::from(machine.open_ports_tried),
            ];
            let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hash = seed.into_iter().fold(0, mix) >> 16;
            let free = (0..span)
                .filter_map(|n| u16::try_from((hash.wrapping_add(n)) % span).ok())
                .map(|n| *OPEN_PORTS.start() + n)
                .find(|number| {
                    let taken = |route: &PortRoute| {
                        route.published == *number && route.protocol == port.protocol
                    };
                    !self.table.iter().any(taken)
                });
            machine.open_ports.extend(free.map(|number| (at, number)));
        }
    }
}

impl Machine {
    /// The numbers that the task's own status tells.
    pub(super) fn keep_open_ports(&mut self) {
        for (at, port) in self.task.ports.iter().enumerate() {
            let same = |told: &&Port| {
                told.target == port.target && told.protocol == port.protocol && told.published != 0
            };
            if is_open(port)
                && let Some(told) = self.status.ports.iter().find(same)
            {
                self.open_ports.retain(|(other, _)| *other != at);
                self.open_ports.push((at, told.published));
            }
        }
    }

    /// The number of a port on this node; 0 while none is taken.
    pub(super) fn published(&self, at: usize, port: &Port) -> u16 {
        let open = self.open_ports.iter().find(|(place, _)| *place == at);
        open.map_or(port.published, |(_, number)| *number)
    }

    pub(super) fn host_ports(&self) -> Vec<Port> {
        let ports = self.task.ports.iter().enumerate();
        let host = ports.filter(|(_, port)| port.mode == PublishMode::Host);
        host.map(|(at, port)| Port { published: self.published(at, port), ..port.clone() })
            .collect()
    }
}

/// A host-mode port whose number the node picks.
fn is_open(port: &Port) -> bool {
    port.mode == PublishMode::Host && port.published == 0
}

/// A task holds its ports from the moment it is prepared until it is to stop.
pub(super) fn holds_ports(machine: &Machine) -> bool {
    machine.wanted() >= Wanted::Ready && !machine.is_over()
}

/// The ports of a task on this node, and where each goes in the container.
pub(super) fn port_keys(machine: &Machine) -> impl Iterator<Item = (PortKey, u16)> {
    machine.task.ports.iter().enumerate().filter_map(|(at, port)| {
        let published = machine.published(at, port);
        (published != 0).then_some(((port.protocol, published, port.host_ip), port.target))
    })
}

/// The text for a task whose port cannot be had.
pub(super) fn refusal(port: &RefusedPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("cannot publish port {}/{protocol}: {}", port.published, port.reason)
}
