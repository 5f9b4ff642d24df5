//! The route table of the data plane: which ports listen and which tasks stand behind them.
//!
//! Pure data. What travels between the daemon and the proxy is in [`crate::model::control`].
//! Invariants of a [`RouteTable`]: at most [`LISTENERS_MAX`] listeners, at most [`BACKENDS_MAX`]
//! backends each, no port 0, no task twice behind one listener.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::base::id::TaskId;
use crate::model::service::{Protocol, PublishMode};

/// Listeners of one proxy: more published ports than the dynamic range has are a mistake.
pub const LISTENERS_MAX: usize = 4_096;

/// Tasks behind one listener. One listener with all of them fits into one control packet.
pub const BACKENDS_MAX: usize = 1_024;

/// What makes a listener the same listener: changing any of it closes one socket and opens another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ListenKey {
    /// Only on this address of the host; `None` is every address, IPv4 and IPv6.
    pub ip: Option<IpAddr>,
    /// Port on the host, never 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// One task behind a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Backend {
    /// The task; a task keeps its place and its count of connections when the table changes.
    pub task: TaskId,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// One published port and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Address, port and protocol.
    pub key: ListenKey,
    /// Whether every node answers or only the task's own. The proxy treats both alike.
    pub mode: PublishMode,
    /// The tasks that take connections now. Empty is legal: clients are reset.
    pub backends: Vec<Backend>,
}

/// Everything the proxy of one node carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    listeners: BTreeMap<ListenKey, Listener>,
}

/// What turns one table into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteDelta {
    /// New listeners and those whose backends or mode differ.
    pub set: Vec<Listener>,
    /// Listeners that are gone.
    pub remove: Vec<ListenKey>,
}

/// Why a listener or a table is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRoute {
    /// Port 0 cannot be published.
    #[error("port 0 cannot be published; choose one from 1 to 65535")]
    PortZero,
    /// A task without a port.
    #[error("task {task} behind port {key} has port 0")]
    BackendPortZero {
        /// The listener.
        key: ListenKey,
        /// The task.
        task: TaskId,
    },
    /// The same task twice.
    #[error("task {task} stands twice behind port {key}")]
    TaskTwice {
        /// The listener.
        key: ListenKey,
        /// The task.
        task: TaskId,
    },
    /// Over [`BACKENDS_MAX`].
    #[error("port {key} has {count} tasks, at most {BACKENDS_MAX} are possible")]
    TooManyBackends {
        /// The listener.
        key: ListenKey,
        /// How many were given.
        count: usize,
    },
    /// Over [`LISTENERS_MAX`].
    #[error("port {key} would be one more than the {LISTENERS_MAX} a node can publish")]
    TooManyListeners {
        /// The listener that did not fit.
        key: ListenKey,
    },
}

impl ListenKey {
    /// Every address of the host.
    #[must_use]
    pub const fn any(port: u16, protocol: Protocol) -> Self {
        Self { ip: None, port, protocol }
    }
}

impl fmt::Display for ListenKey {
    /// `80/tcp`, `127.0.0.1:80/tcp`, `[::1]:80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        match self.ip {
            None => write!(f, "{}/{protocol}", self.port),
            Some(ip) => write!(f, "{}/{protocol}", SocketAddr::new(ip, self.port)),
        }
    }
}

impl Listener {
    /// Checks what a listener must hold, whoever made it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), BadRoute> {
        let key = self.key;
        if key.port == 0 {
            return Err(BadRoute::PortZero);
        }
        if self.backends.len() > BACKENDS_MAX {
            return Err(BadRoute::TooManyBackends { key, count: self.backends.len() });
        }
        let mut tasks: Vec<TaskId> = self.backends.iter().map(|b| b.task).collect();
        tasks.sort_unstable();
        if let Some(pair) = tasks.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BadRoute::TaskTwice { key, task: pair[0] });
        }
        match self.backends.iter().find(|b| b.addr.port() == 0) {
            Some(backend) => Err(BadRoute::BackendPortZero { key, task: backend.task }),
            None => Ok(()),
        }
    }
}

impl RouteTable {
    /// A table without listeners.
    #[must_use]
    pub const fn new() -> Self {
        Self { listeners: BTreeMap::new() }
    }

    /// Adds a listener or replaces the one with the same key.
    ///
    /// # Errors
    /// When the listener is not legal or the table is full; the table is then unchanged.
    pub fn insert(&mut self, listener: Listener) -> Result<(), BadRoute> {
        listener.check()?;
        let key = listener.key;
        if self.listeners.len() >= LISTENERS_MAX && !self.listeners.contains_key(&key) {
            return Err(BadRoute::TooManyListeners { key });
        }
        self.listeners.insert(key, listener);
        Ok(())
    }

    /// Takes a listener out; `None` when it was not there.
    pub fn remove(&mut self, key: &ListenKey) -> Option<Listener> {
        self.listeners.remove(key)
    }

    /// One listener.
    #[must_use]
    pub fn listener(&self, key: &ListenKey) -> Option<&Listener> {
        self.listeners.get(key)
    }

    /// All listeners in the order of their keys.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.values()
    }

    /// How many listeners there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Whether nothing is published.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// What must be told to somebody who has `old` so that they have `self`.
    #[must_use]
    pub fn since(&self, old: &Self) -> RouteDelta {
        let changed = |l: &&Listener| old.listeners.get(&l.key) != Some(*l);
        let gone = |k: &&ListenKey| !self.listeners.contains_key(*k);
        RouteDelta {
            set: self.listeners.values().filter(changed).cloned().collect(),
            remove: old.listeners.keys().filter(gone).copied().collect(),
        }
    }

    /// Applies what [`Self::since`] gave.
    ///
    /// # Errors
    /// When a listener is not legal or does not fit; the table may then be half changed, so work on
    /// a copy.
    pub fn apply(&mut self, delta: RouteDelta) -> Result<(), BadRoute> {
        for key in &delta.remove {
            self.listeners.remove(key);
        }
        delta.set.into_iter().try_for_each(|listener| self.insert(listener))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(port: u16, tasks: &[u128]) -> Listener {
        let backend = |t: &u128| Backend {
            task: TaskId::new(*t),
            addr: SocketAddr::from(([10, 0, 0, 2], 80)),
        };
        Listener {
            key: ListenKey::any(port, Protocol::Tcp),
            mode: PublishMode::Ingress,
            backends: tasks.iter().map(backend).collect(),
        }
    }

    #[test]
    fn a_delta_turns_the_old_table_into_the_new_one() {
        let (mut old, mut new) = (RouteTable::new(), RouteTable::new());
        for (port, tasks) in [(80, &[1, 2][..]), (81, &[1]), (82, &[])] {
            old.insert(listener(port, tasks)).unwrap();
        }
        for (port, tasks) in [(80, &[1, 2][..]), (81, &[1, 3]), (90, &[4])] {
            new.insert(listener(port, tasks)).unwrap();
        }
        let delta = new.since(&old);
        assert_eq!(delta.set.iter().map(|l| l.key.port).collect::<Vec<_>>(), [81, 90]);
        assert_eq!(delta.remove, [ListenKey::any(82, Protocol::Tcp)]);
        old.apply(delta).unwrap();
        assert_eq!(old, new);
        assert_eq!(new.since(&old), RouteDelta::default());
    }

    #[test]
    fn what_is_not_legal_is_refused() {
        let mut table = RouteTable::new();
        assert_eq!(table.insert(listener(0, &[])), Err(BadRoute::PortZero));
        let twice = table.insert(listener(80, &[7, 8, 7])).unwrap_err();
        assert!(matches!(twice, BadRoute::TaskTwice { task, .. } if task == TaskId::new(7)));
        let many: Vec<u128> = (0..=BACKENDS_MAX as u128).collect();
        assert!(matches!(
            table.insert(listener(80, &many)),
            Err(BadRoute::TooManyBackends { count: 1_025, .. })
        ));
        let mut no_port = listener(80, &[7]);
        no_port.backends[0].addr.set_port(0);
        assert!(matches!(table.insert(no_port), Err(BadRoute::BackendPortZero { .. })));
        assert!(table.is_empty());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = RouteTable::new();
        for port in 1..=u16::try_from(LISTENERS_MAX).unwrap() {
            table.insert(listener(port, &[])).unwrap();
        }
        assert!(matches!(
            table.insert(listener(50_000, &[])),
            Err(BadRoute::TooManyListeners { .. })
        ));
        table.insert(listener(80, &[1])).unwrap();
        assert_eq!(table.len(), LISTENERS_MAX);
    }

    #[test]
    fn keys_print_as_people_write_them() {
        let key = |ip: Option<&str>| ListenKey {
            ip: ip.map(|text| text.parse().unwrap()),
            port: 80,
            protocol: Protocol::Udp,
        };
        assert_eq!(key(None).to_string(), "80/udp");
        assert_eq!(key(Some("127.0.0.1")).to_string(), "127.0.0.1:80/udp");
        assert_eq!(key(Some("::1")).to_string(), "[::1]:80/udp");
    }
}
