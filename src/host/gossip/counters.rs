//! What was sent and received, and what was not taken, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Datagrams sent.
    Sent,
    /// Bytes of these, without the heads of UDP and IP.
    SentBytes,
    /// Datagrams that the kernel did not take: its queue was full, or there is no way there.
    NotSent,
    /// Datagrams received.
    Received,
    /// Bytes of these.
    ReceivedBytes,
    /// Not taken: too short, too long, of another version, or not a part of anything.
    Malformed,
    /// Not taken: for another member, or for this one before it started anew.
    NotForUs,
    /// Not taken: sealed with a key that is not in use.
    UnknownKey,
    /// Not taken: the seal does not hold.
    Forged,
    /// Not taken: seen before, or older than what is remembered.
    Replayed,
    /// Messages of members that say what no honest member says.
    Refused,
    /// Things in a message that were left out, as they go beyond a limit or concern a node that
    /// is not admitted.
    LeftOut,
    /// The loop of gossip ended and was started again.
    Restarted,
    /// A start was given up for the next one, as others knew more of it than it had said.
    Renewed,
}

const COUNT: usize = 14;

/// All counters, from the start on.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; COUNT]);

impl Counters {
    /// How often this happened.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, counter: Counter) {
        self.add_many(counter, 1);
    }

    pub(super) fn add_many(&self, counter: Counter, count: usize) {
        self.0[counter as usize].fetch_add(count as u64, Ordering::Relaxed);
    }
}

const _: () = assert!(Counter::Renewed as usize + 1 == COUNT);
