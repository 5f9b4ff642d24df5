//! One node and what is taken of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::generic::Held;
use crate::model::node::{Node, NodeState};
use crate::model::resource::Generic;
use crate::model::service::{Port, Protocol, PublishMode};
use crate::model::task::Task;

/// Memory use is compared in steps of this many percent, so that a little more or less moves
/// nothing.
const MEMORY_STEP_PERCENT: u64 = 10;

/// How much of its memory a node says it uses: a hint, never a reason to refuse a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes that there are.
    pub total_bytes: u64,
}

impl MemoryUse {
    /// 0…10; nothing known is nothing used.
    fn step(self) -> u64 {
        let percent = u128::from(self.used_bytes) * 100 / u128::from(self.total_bytes.max(1));
        u64::try_from(percent).unwrap_or(100).min(100) / MEMORY_STEP_PERCENT
    }
}

/// A node and what is taken of it by tasks that have not ended.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub(super) node: Arc<Node>,
    pub(super) state: NodeState,
    pub(super) tasks: u64,
    memory: MemoryUse,
    nano_cpus: u128,
    memory_bytes: u128,
    generic: Held,
    /// How many tasks hold a host-mode port. On which address comes last, so that all of a number
    /// are beside each other.
    host_ports: BTreeMap<(u16, Protocol, Option<IpAddr>), u32>,
}

impl NodeInfo {
    pub(super) fn new(node: Arc<Node>, state: NodeState) -> Self {
        Self {
            node,
            state,
            tasks: 0,
            memory: MemoryUse::default(),
            nano_cpus: 0,
            memory_bytes: 0,
            generic: Held::default(),
            host_ports: BTreeMap::new(),
        }
    }

    pub(super) fn set_memory(&mut self, memory: MemoryUse) {
        self.memory = memory;
    }

    /// Steps of memory in use.
    pub(super) fn memory_step(&self) -> u64 {
        self.memory.step()
    }

    /// A task that has not ended takes what it reserves.
    pub(super) fn add(&mut self, task: &Task) {
        let resources = &task.spec.resources;
        self.nano_cpus += u128::from(resources.reserve_nano_cpus);
        self.memory_bytes += u128::from(resources.reserve_memory_bytes);
        self.generic.add(task);
        for key in host_ports(&task.ports) {
            *self.host_ports.entry(key).or_default() += 1;
        }
        self.tasks += 1;
    }

    /// The task that was added takes nothing any more.
    pub(super) fn remove(&mut self, task: &Task) {
        let resources = &task.spec.resources;
        self.nano_cpus = self.nano_cpus.saturating_sub(resources.reserve_nano_cpus.into());
        self.memory_bytes = self.memory_bytes.saturating_sub(resources.reserve_memory_bytes.into());
        self.generic.remove(task);
        for key in host_ports(&task.ports) {
            if let Some(held) = self.host_ports.get_mut(&key) {
                *held = held.saturating_sub(1);
                if *held == 0 {
                    self.host_ports.remove(&key);
                }
            }
        }
        self.tasks = self.tasks.saturating_sub(1);
    }

    /// Whether what the task reserves is there.
    pub(super) fn has_room(&self, task: &Task) -> bool {
        let (wanted, has) = (&task.spec.resources, &self.node.description);
        let fits = |wanted: u64, taken: u128, all: u64| {
            wanted == 0 || taken + u128::from(wanted) <= all.into()
        };
        fits(wanted.reserve_nano_cpus, self.nano_cpus, has.nano_cpus)
            && fits(wanted.reserve_memory_bytes, self.memory_bytes, has.memory_bytes)
            && (wanted.reserve_generic.is_empty() || self.claim(task).is_some())
    }

    /// The generic resources that the task gets here.
    pub(super) fn claim(&self, task: &Task) -> Option<Vec<Generic>> {
        self.generic.claim(&self.node.description.generic, task)
    }

    /// Whether no task has one of the task's host-mode ports. A port on every address is in the way
    /// of one on a single address, and the other way round.
    pub(super) fn ports_free(&self, task: &Task) -> bool {
        host_ports(&task.ports).all(|(number, protocol, ip)| {
            let same = self.host_ports.range((number, protocol, None)..);
            !same
                .map(|(key, _)| *key)
                .take_while(|(n, p, _)| (*n, *p) == (number, protocol))
                .any(|(_, _, held)| ip.is_none() || held.is_none() || held == ip)
        })
    }
}

/// Host-mode ports with a number; one without is the node's to pick.
fn host_ports(ports: &[Port]) -> impl Iterator<Item = (u16, Protocol, Option<IpAddr>)> {
    let host = |port: &&Port| port.mode == PublishMode::Host && port.published != 0;
    ports.iter().filter(host).map(|port| (port.published, port.protocol, port.host_ip))
}
