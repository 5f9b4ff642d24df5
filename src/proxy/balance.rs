//! Which task gets the next connection: the fewest connections first, in turn among equals, those
//! that did not answer lately last.
//!
//! Pure; the time comes in. A task that left the table stays here, unseen, until its last
//! connection has ended.

use std::net::SocketAddr;

use crate::model::route::Backend;

/// How long a task that failed to answer waits for its next chance; doubles up to the maximum.
const REST_US_MIN: u64 = 250_000;
const REST_US_MAX: u64 = 4_000_000;

/// Names one task of one listener until its last connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(pub(super) u32);

/// A task that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) place: Place,
    pub(super) addr: SocketAddr,
    /// No other task is left to try.
    pub(super) last: bool,
}

/// The tasks of one listener.
#[derive(Debug, Default)]
pub(super) struct Balance {
    seats: Vec<Seat>,
    /// Where the last choice was, so that equals take turns.
    cursor: usize,
    next_place: u32,
}

#[derive(Debug)]
struct Seat {
    place: Place,
    backend: Backend,
    active: u32,
    /// Whether it is in the table.
    listed: bool,
    failures: u32,
    /// Not asked before this, unless nobody else is left.
    rests_until: u64,
}

impl Balance {
    /// Takes over the table's tasks; those that stay keep their counts.
    pub(super) fn update(&mut self, backends: &[Backend]) {
        for seat in &mut self.seats {
            seat.listed = backends.contains(&seat.backend);
        }
        for backend in backends {
            if !self.seats.iter().any(|seat| seat.backend == *backend) {
                let place = Place(self.next_place);
                self.next_place = self.next_place.wrapping_add(1);
                self.seats.push(Seat {
                    place,
                    backend: *backend,
                    active: 0,
                    listed: true,
                    failures: 0,
                    rests_until: 0,
                });
            }
        }
        self.seats.retain(|seat| seat.listed || seat.active > 0);
    }

    /// Chooses a task that is not among `tried` and counts a connection to it.
    pub(super) fn pick(&mut self, tried: &[Place], now: u64) -> Option<Picked> {
        let count = self.seats.len();
        let mut open = 0;
        let mut best: Option<(usize, (bool, u32))> = None;
        for step in 1..=count {
            let at = (self.cursor + step) % count;
            let seat = &self.seats[at];
            if !seat.listed || tried.contains(&seat.place) {
                continue;
            }
            open += 1;
            let cost = (seat.rests_until > now, seat.active);
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((at, cost));
            }
        }
        let (at, _) = best?;
        self.cursor = at;
        let seat = &mut self.seats[at];
        seat.active += 1;
        if seat.failures > 0 {
            // One connection finds out whether it is back; the others wait for what it finds.
            seat.rests_until = now + REST_US_MAX;
        }
        Some(Picked { place: seat.place, addr: seat.backend.addr, last: open == 1 })
    }

    /// It answered.
    pub(super) fn answered(&mut self, place: Place) {
        if let Some(seat) = self.seat(place) {
            (seat.failures, seat.rests_until) = (0, 0);
        }
    }

    /// It did not answer; the connection that was counted is not.
    pub(super) fn failed(&mut self, place: Place, now: u64) {
        if let Some(seat) = self.seat(place) {
            let rest = (REST_US_MIN << seat.failures.min(8)).min(REST_US_MAX);
            seat.failures = seat.failures.saturating_add(1);
            seat.rests_until = now + rest;
        }
        self.ended(place);
    }

    /// A connection has ended.
    pub(super) fn ended(&mut self, place: Place) {
        let Some(at) = self.seats.iter().position(|seat| seat.place == place) else { return };
        let seat = &mut self.seats[at];
        seat.active = seat.active.saturating_sub(1);
        if !seat.listed && seat.active == 0 {
            self.seats.remove(at);
        }
    }

    /// Whether new connections may go there.
    pub(super) fn is_listed(&self, place: Place) -> bool {
        self.seats.iter().any(|seat| seat.place == place && seat.listed)
    }

    fn seat(&mut self, place: Place) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.place == place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::TaskId;

    fn backends(tasks: &[u16]) -> Vec<Backend> {
        let backend = |t: &u16| Backend {
            task: TaskId::new(u128::from(*t)),
            addr: SocketAddr::from(([10, 0, 0, 2], *t)),
        };
        tasks.iter().map(backend).collect()
    }

    fn balance(tasks: &[u16]) -> Balance {
        let mut balance = Balance::default();
        balance.update(&backends(tasks));
        balance
    }

    fn ports(balance: &mut Balance, count: usize) -> Vec<u16> {
        (0..count).map(|_| balance.pick(&[], 0).unwrap().addr.port()).collect()
    }

    #[test]
    fn equals_take_turns_and_the_fewest_connections_come_first() {
        let mut b = balance(&[1, 2, 3]);
        let mut seen = ports(&mut b, 6);
        seen.sort_unstable();
        assert_eq!(seen, [1, 1, 2, 2, 3, 3]);
        let two = b.seats[1].place;
        b.ended(two);
        assert_eq!(b.pick(&[], 0).unwrap().place, two);
    }

    #[test]
    fn one_that_left_the_table_gets_nothing_new_and_keeps_its_count() {
        let mut b = balance(&[1, 2]);
        let Picked { place: first, addr, last } = b.pick(&[], 0).unwrap();
        assert!(!last);
        let other = if addr.port() == 1 { 2 } else { 1 };
        b.update(&backends(&[other]));
        assert!(!b.is_listed(first));
        assert!(ports(&mut b, 5).iter().all(|port| *port == other));
        assert_eq!(b.seats.len(), 2);
        b.update(&backends(&[1, 2]));
        assert!(b.is_listed(first));
        b.update(&backends(&[other]));
        b.ended(first);
        assert_eq!(b.seats.len(), 1);
    }

    #[test]
    fn one_that_fails_comes_last_until_one_connection_finds_it_back() {
        let mut b = balance(&[1, 2]);
        let bad = b.pick(&[], 0).unwrap().place;
        b.failed(bad, 0);
        let Picked { place: good, last, .. } = b.pick(&[bad], 0).unwrap();
        assert!(last);
        assert_ne!(bad, good);
        for _ in 0..3 {
            assert_eq!(b.pick(&[], 1).unwrap().place, good, "it rests");
        }
        assert_eq!(b.pick(&[good], 1).unwrap().place, bad, "nobody else is left");
        b.ended(bad);
        b.failed(bad, 1);
        let later = 1 + 2 * REST_US_MIN;
        assert_eq!(b.pick(&[], later).unwrap().place, bad, "one finds out");
        assert_eq!(b.pick(&[], later).unwrap().place, good, "the others wait");
        b.answered(bad);
        assert_eq!(b.pick(&[], later).unwrap().place, bad);
    }

    #[test]
    fn none_is_left_when_all_were_tried() {
        let mut b = balance(&[1, 2]);
        let one = b.pick(&[], 0).unwrap().place;
        let two = b.pick(&[one], 0).unwrap().place;
        assert_eq!(b.pick(&[one, two], 0), None);
        assert_eq!(balance(&[]).pick(&[], 0), None);
    }
}
