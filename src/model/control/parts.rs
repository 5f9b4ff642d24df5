//! Tables and counters that are larger than a packet: cut into parts and gathered again.
//!
//! Pure. What is gathered takes effect as a whole or not at all.

use serde::Serialize;

use crate::model::control::{Change, PACKET_BYTES_MAX, RouteStats, Stats, Totals};
use crate::model::route::{BACKENDS_MAX, BadRoute, LISTENERS_MAX, RouteDelta, RouteTable};

/// A full packet is closed at this size, which leaves room for the rest of a message.
const CHUNK_BYTES: usize = PACKET_BYTES_MAX - 256;

/// The longest postcard of one listener: its key and mode, and 40 bytes for each backend.
const _: () = assert!(64 + BACKENDS_MAX * 40 < CHUNK_BYTES);

/// Cuts a delta into messages that fit into packets. There is always at least one.
#[must_use]
pub fn changes(full: bool, base: u64, version: u64, delta: RouteDelta) -> Vec<Change> {
    let empty =
        || Change { full, base, version, part: 0, parts: 0, set: Vec::new(), remove: Vec::new() };
    let mut all = vec![empty()];
    let mut used = 0usize;
    let mut place = |all: &mut Vec<Change>, size: usize| {
        if used + size > CHUNK_BYTES {
            all.push(empty());
            used = 0;
        }
        used += size;
        all.len() - 1
    };
    for key in delta.remove {
        let at = place(&mut all, encoded_bytes(&key));
        all[at].remove.push(key);
    }
    for listener in delta.set {
        let at = place(&mut all, encoded_bytes(&listener));
        all[at].set.push(listener);
    }
    let parts = u32::try_from(all.len()).unwrap_or(u32::MAX);
    for (part, change) in (0..parts).zip(&mut all) {
        (change.part, change.parts) = (part, parts);
    }
    all
}

/// Cuts counters into messages that fit into packets. There is always at least one.
#[must_use]
pub fn stats(totals: Totals, routes: &[RouteStats]) -> Vec<Stats> {
    /// Longest postcard of one: six counters of 10 bytes, key and fault.
    const ROUTE_BYTES: usize = 96;
    let per_packet = CHUNK_BYTES / ROUTE_BYTES;
    let parts = u32::try_from(routes.len().div_ceil(per_packet).max(1)).unwrap_or(u32::MAX);
    let mut chunks = routes.chunks(per_packet);
    (0..parts)
        .map(|part| {
            let routes = chunks.next().unwrap_or_default().to_vec();
            Stats { part, parts, totals, routes }
        })
        .collect()
}

fn encoded_bytes<T: Serialize>(value: &T) -> usize {
    postcard::to_extend(value, Vec::new()).map_or(PACKET_BYTES_MAX, |bytes| bytes.len())
}

/// Gathers the parts of a [`Change`]; bounded by what a table can hold.
#[derive(Debug, Default)]
pub struct Gather {
    first: Option<Change>,
    next: u32,
}

/// Why parts do not make a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGather {
    /// A part is missing, or belongs to something else.
    #[error("part {0} of the routes came out of order")]
    Order(u32),
    /// It is a delta to another version.
    #[error("the routes are a delta to version {base}, version {have} is in force")]
    Base {
        /// What it is a delta to.
        base: u64,
        /// What is in force.
        have: u64,
    },
    /// A listener that is not legal.
    #[error("the routes hold a listener that is not legal")]
    Route(#[source] BadRoute),
}

impl Gather {
    /// Takes a part. With the last one gives the table after the change, with its version.
    ///
    /// # Errors
    /// When the parts do not fit together, to `have` or into a table; what was gathered is dropped.
    pub fn take(
        &mut self,
        part: Change,
        have: u64,
        table: &RouteTable,
    ) -> Result<Option<(RouteTable, u64)>, BadGather> {
        let mut whole = self.join(part)?;
        if self.next < whole.parts {
            self.first = Some(whole);
            return Ok(None);
        }
        self.next = 0;
        if !whole.full && whole.base != have {
            return Err(BadGather::Base { base: whole.base, have });
        }
        let mut after = if whole.full { RouteTable::new() } else { table.clone() };
        let delta = RouteDelta {
            set: std::mem::take(&mut whole.set),
            remove: std::mem::take(&mut whole.remove),
        };
        after.apply(delta).map_err(BadGather::Route)?;
        Ok(Some((after, whole.version)))
    }

    fn join(&mut self, part: Change) -> Result<Change, BadGather> {
        let expected = std::mem::replace(&mut self.next, part.part + 1);
        let Some(mut first) = self.first.take() else {
            return if part.part == 0 { Ok(part) } else { Err(self.lost(part.part)) };
        };
        let same = (first.full, first.base, first.version, first.parts)
            == (part.full, part.base, part.version, part.parts);
        let fits = first.set.len() + part.set.len() <= LISTENERS_MAX
            && first.remove.len() + part.remove.len() <= LISTENERS_MAX;
        if !same || !fits || part.part != expected {
            return Err(self.lost(part.part));
        }
        first.set.extend(part.set);
        first.remove.extend(part.remove);
        Ok(first)
    }

    fn lost(&mut self, part: u32) -> BadGather {
        self.next = 0;
        BadGather::Order(part)
    }
}
