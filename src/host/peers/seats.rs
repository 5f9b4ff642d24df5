//! How many connections there may be: few of those who have proved nothing, and some of each node.
//!
//! At a limit the new connection is closed and the old ones stay: a peer dials again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::id::NodeId;

/// Connections at a time whose peer has proved nothing.
pub(super) const STRANGERS_MAX: usize = 64;

/// Of these, from one address: so that one hostile machine cannot keep others from joining.
pub(super) const STRANGERS_OF_ADDRESS_MAX: usize = 24;

/// Connections at a time of one node.
pub(super) const OF_NODE_MAX: usize = 16;

/// All seats. Clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Seats {
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    strangers: BTreeMap<IpAddr, usize>,
    nodes: BTreeMap<NodeId, usize>,
}

/// One seat; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    holder: Holder,
}

#[derive(Clone, Copy, Debug)]
enum Holder {
    Stranger(IpAddr),
    Node(NodeId),
}

impl Seats {
    /// A seat for a connection from this address, if there is one.
    pub(super) fn stranger(&self, address: IpAddr) -> Option<Seat> {
        let mut taken = self.lock();
        let all: usize = taken.strangers.values().sum();
        let of_address = taken.strangers.entry(address).or_default();
        if all >= STRANGERS_MAX || *of_address >= STRANGERS_OF_ADDRESS_MAX {
            if *of_address == 0 {
                taken.strangers.remove(&address);
            }
            return None;
        }
        *of_address += 1;
        drop(taken);
        Some(Seat { seats: self.clone(), holder: Holder::Stranger(address) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The peer has proved which node it is: it takes one of that node's seats, if there is one.
    /// The stranger's is free again.
    pub(super) fn known(self, node: NodeId) -> Option<Self> {
        let seats = self.seats.clone();
        drop(self);
        let mut taken = seats.lock();
        let of_node = taken.nodes.entry(node).or_default();
        if *of_node >= OF_NODE_MAX {
            return None;
        }
        *of_node += 1;
        drop(taken);
        Some(Self { seats, holder: Holder::Node(node) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        match self.holder {
            Holder::Stranger(address) => release(&mut taken.strangers, address),
            Holder::Node(node) => release(&mut taken.nodes, node),
        }
    }
}

fn release<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn strangers_are_few_and_one_address_cannot_take_all() {
        let seats = Seats::default();
        let take = |last| {
            let seats = &seats;
            std::iter::from_fn(move || seats.stranger(address(last))).take(1_000)
        };
        let mut held: Vec<Seat> = take(1).collect();
        assert_eq!(held.len(), STRANGERS_OF_ADDRESS_MAX);
        held.extend(take(2).chain(take(3)));
        assert_eq!(held.len(), STRANGERS_MAX);
        assert!(seats.stranger(address(4)).is_none());
        // Who has proved itself leaves its seat to others.
        let known = held.pop().and_then(|seat| seat.known(NodeId::new(1))).unwrap();
        held.push(seats.stranger(address(4)).unwrap());
        drop(held);
        assert!(seats.lock().strangers.is_empty());
        drop(known);
        assert!(seats.lock().nodes.is_empty());
    }

    #[test]
    fn a_node_has_its_own_seats() {
        let seats = Seats::default();
        let take = |node| seats.stranger(address(1)).and_then(|seat| seat.known(NodeId::new(node)));
        let held: Vec<Seat> = std::iter::from_fn(|| take(1)).take(1_000).collect();
        assert_eq!(held.len(), OF_NODE_MAX);
        assert!(take(2).is_some());
        drop(held);
        assert!(take(1).is_some());
    }
}
