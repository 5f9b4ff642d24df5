//! Whatever a confused or hostile member says, in whatever state: no panic, and what was promised
//! holds (the checks of [`Member`](super::member::Member)).

use std::sync::Arc;

use super::lab::Lab;
use super::member::{Member, id};
use super::show;
use crate::base::id::RequestId;
use crate::base::rng::Rng;
use crate::base::time::{Span, Time};
use crate::logic::raft::io::{
    Body, Entry, Input, MemberChange, Members, Message, Output, Payload, Ticket, Timing,
};

struct Liar {
    rng: Rng,
}

impl Liar {
    /// Mostly small, so that it is near what is true; sometimes as large as it can be.
    fn number(&mut self) -> u64 {
        match self.rng.below(12) {
            0 => u64::MAX - self.rng.below(2),
            1 => 0,
            _ => self.rng.below(8),
        }
    }

    fn yes(&mut self) -> bool {
        self.rng.one_in(2)
    }

    fn members(&mut self) -> Members {
        let mut some = || {
            let count = self.rng.below(4);
            (0..count).map(|_| id(1 + self.rng.below(5))).collect()
        };
        Members { voters: some(), learners: some() }
    }

    fn entries(&mut self, after: u64) -> Vec<Entry> {
        let count = self.rng.below(4);
        let mut index = after;
        let mut term = self.number();
        let mut all = Vec::new();
        for _ in 0..count {
            index = if self.rng.one_in(10) { self.number() } else { index.wrapping_add(1) };
            term = if self.rng.one_in(4) { self.number() } else { term };
            let payload = match self.rng.below(6) {
                0 => Payload::Nothing,
                1 => Payload::Members(self.members()),
                _ => Payload::Command(Arc::from([1, 2, 3])),
            };
            all.push(Entry { index, term, payload });
        }
        all
    }

    fn body(&mut self) -> Body {
        match self.rng.below(14) {
            0 => Body::Vote {
                pre: self.yes(),
                transfer: self.yes(),
                last_index: self.number(),
                last_term: self.number(),
            },
            1 => Body::VoteReply { pre: self.yes(), granted: true, doubtful: self.yes() },
            2..=4 => {
                let previous_index = self.number();
                let entries = self.entries(previous_index);
                let (previous_term, commit) = (self.number(), self.number());
                Body::Append { previous_index, previous_term, entries, commit }
            }
            5 => Body::AppendOk { index: self.number() },
            6 => Body::AppendRejected {
                rejected: self.number(),
                hint_index: self.number(),
                hint_term: self.number(),
            },
            7 => {
                Body::Heartbeat { commit: self.number(), last: self.number(), read: self.number() }
            }
            8 => Body::HeartbeatReply { read: self.number() },
            9 => {
                let data = 7u64.to_le_bytes();
                let from = usize::try_from(self.rng.below(9)).expect("small");
                let checksum = if self.yes() { crc32fast::hash(&data) } else { 0 };
                Body::Snapshot {
                    index: self.number(),
                    term: self.number(),
                    members: self.members(),
                    offset: if self.yes() { 0 } else { self.number() },
                    total: if self.yes() { 8 } else { self.number() },
                    checksum,
                    piece: data[from.min(8) * usize::from(self.yes())..].to_vec(),
                }
            }
            10 => Body::SnapshotReply { index: self.number(), offset: self.number() },
            11 => Body::Read { id: self.number() },
            12 => Body::ReadReply { id: self.number(), index: self.number() },
            _ => {
                if self.yes() {
                    Body::TimeoutNow
                } else {
                    Body::GivenUp
                }
            }
        }
    }

    fn message(&mut self) -> Message {
        let epoch = if self.rng.one_in(60) { self.number() } else { 1 };
        let term = if self.rng.one_in(6) { self.number() } else { 1 + self.rng.below(4) };
        Message { epoch, term, body: self.body() }
    }

    fn change(&mut self) -> MemberChange {
        let whom = id(1 + self.rng.below(5));
        match self.rng.below(4) {
            0 => MemberChange::Add(whom),
            1 => MemberChange::Promote(whom),
            2 => MemberChange::Demote(whom),
            _ => MemberChange::Remove(whom),
        }
    }
}

/// One of the machine's calls, made at any time.
fn call(liar: &mut Liar, member: &mut Member, now: Time) -> Vec<Output> {
    let mut out = Vec::new();
    let snapshot = member.snapshot(8);
    let raft = member.raft();
    match liar.rng.below(9) {
        0 => raft.bootstrap(now, &mut out),
        1 => drop(raft.transfer(now, None, &mut out).is_ok()),
        2 => raft.read(now, RequestId::new(1), &mut out),
        3 => drop(raft.change_members(now, liar.change()).is_ok()),
        4 => raft.compact(liar.number()),
        5 => {
            if let Some(snapshot) = snapshot {
                raft.send_snapshot(now, id(1 + liar.rng.below(5)), snapshot, &mut out);
            }
        }
        6 if liar.rng.one_in(20) => raft.force_new_cluster(now, 1, &mut out),
        _ => drop(raft.propose(now, Arc::from([9])).is_ok()),
    }
    raft.flush(now, &mut out);
    out
}

fn run(seed: u64, loud: bool) {
    let mut liar = Liar { rng: Rng::new(seed) };
    let mut member = Member::new(1);
    let mut now = Time(1_000_000);
    if liar.yes() {
        let voters = (1..=1 + liar.rng.below(3)).map(id).collect();
        let payload = Payload::Members(Members { voters, learners: [].into() });
        member.disk.entries.push(Entry { index: 1, term: 1, payload });
        member.disk.hard.term = 1;
    }
    member.start(now, Timing::default());
    for _ in 0..120 {
        now = now + Span(liar.rng.below(200_000));
        let input = match liar.rng.below(10) {
            0 => Input::Tick,
            1 => match member.persist() {
                Some(ticket) => Input::Persisted { ticket },
                None => Input::Persisted { ticket: Ticket(0) },
            },
            2 if liar.rng.one_in(3) => {
                let ticket = member.under_way.pop_front().map_or(Ticket(9), |(ticket, _)| ticket);
                member.under_way.clear();
                Input::PersistRefused { ticket }
            }
            3 => Input::Reachable { peer: id(1 + liar.rng.below(5)) },
            4 => {
                let out = call(&mut liar, &mut member, now);
                member.take(&out);
                continue;
            }
            5 if liar.rng.one_in(8) => {
                member.start(now, Timing::default());
                Input::Tick
            }
            _ => {
                let from = id(1 + liar.rng.below(5));
                Input::Message { from, message: liar.message() }
            }
        };
        if loud {
            println!("{} {}", now.0, show::input(&input));
        }
        let out = member.step(now, input);
        if loud {
            out.iter().for_each(|output| println!("    {}", show::output(output)));
        }
    }
}

#[test]
fn no_message_breaks_a_member() {
    for seed in 0..4_000 {
        if std::panic::catch_unwind(|| run(seed, false)).is_err() {
            println!("seed {seed}, once more:");
            run(seed, true);
        }
    }
}

#[test]
fn pieces_of_a_snapshot_that_is_not_needed_any_more_are_let_go() {
    let mut lab = Lab::after(&[
        "members 1 2 3",
        "tick 1",
        "settle",
        "stop 3",
        "bytes 1 200000",
        "bytes 1 200000",
        "bytes 1 200000",
        "lose 1>3",
        "settle",
        "save 1",
        "start 3",
        "advance 200",
        "tick 1",
    ]);
    while !lab.text.contains("wants a snapshot") {
        lab.run("deliver");
    }
    lab.run("give 1 3 600000");
    lab.run("deliver");
    let keeps = |lab: &Lab| lab.members[&id(3)].raft.as_ref().unwrap().follow.restoring.is_some();
    assert!(keeps(&lab), "the first piece is there");
    for command in ["stop 1", "lose", "advance 1000", "tick 2", "settle", "tick 2", "settle"] {
        lab.run(command);
    }
    let raft = lab.members[&id(3)].raft.as_ref().unwrap();
    assert_eq!((raft.leader(), raft.commit()), (Some(id(2)), 6), "the next leader has the log");
    assert!(!keeps(&lab));
}
