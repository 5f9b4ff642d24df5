//! A network of members in virtual time, and what is known of the whole to check them against.

use std::collections::{BTreeMap, BTreeSet};

use super::member::{Member, id};
use super::show;
use crate::base::id::{NodeId, RequestId};
use crate::base::rng::Rng;
use crate::base::time::{Span, Time};
use crate::logic::raft::io::{
    Body, Entry, Input, MemberChange, Message, Output, Payload, Ticket, Timing,
};

pub(super) const NODES: u64 = 5;

#[derive(Clone, Debug)]
enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        message: Message,
    },
    /// The disk of this life of a member does its oldest write.
    Disk {
        at: NodeId,
        life: u64,
    },
    Start {
        at: NodeId,
    },
}

/// What is known of the whole, to check against.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) leaders: BTreeMap<u64, NodeId>,
    pub(super) committed: BTreeMap<u64, Entry>,
    /// State after an index.
    states: BTreeMap<u64, u64>,
    /// Term before, and payload, of what was ever durable or sent.
    entries: BTreeMap<(u64, u64), (u64, Payload)>,
    /// Who asked, and what was committed then.
    reads: BTreeMap<RequestId, (NodeId, u64)>,
    pub(super) reads_ready: u64,
    pub(super) stuck: u64,
}

pub(super) struct Net {
    rng: Rng,
    pub(super) now: Time,
    pub(super) members: BTreeMap<NodeId, Member>,
    lives: BTreeMap<NodeId, u64>,
    events: BTreeMap<(Time, u64), Event>,
    pub(super) numbers: u64,
    pub(super) truth: Truth,
    cut_off: BTreeSet<NodeId>,
    pub(super) faults: bool,
    /// What a write takes; `None`: it differs.
    pub(super) disk: Option<u64>,
    /// Says what happens; for a seed that failed.
    loud: bool,
}

impl Net {
    pub(super) fn new(seed: u64, voters: u64, loud: bool) -> Self {
        let mut net = Self {
            rng: Rng::new(seed),
            now: Time(1_000),
            members: (1..=NODES).map(|it| (id(it), Member::salted(it, seed))).collect(),
            lives: BTreeMap::new(),
            events: BTreeMap::new(),
            numbers: 0,
            truth: Truth::default(),
            cut_off: BTreeSet::new(),
            faults: true,
            disk: None,
            loud,
        };
        for number in 1..=voters {
            net.start(id(number));
        }
        let mut out = Vec::new();
        let first = net.members.get_mut(&id(1)).expect("a member");
        first.raft().bootstrap(net.now, &mut out);
        first.take(&out);
        net.take(id(1), out);
        net
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.loud {
            println!("{:>12} {}", self.now.0, what());
        }
    }

    fn at(&mut self, after: u64, event: Event) {
        self.numbers += 1;
        self.events.insert((self.now + Span(after), self.numbers), event);
    }

    fn start(&mut self, at: NodeId) {
        let member = self.members.get_mut(&at).expect("a member");
        if member.raft.is_some() {
            return;
        }
        member.start(self.now, Timing::default());
        *self.lives.entry(at).or_default() += 1;
        self.say(|| format!("{} starts", at.0.0));
        self.step(at, Input::Tick);
    }

    fn crash(&mut self, at: NodeId) {
        let after = 1 + self.rng.below(600_000);
        let writes = self.rng.below(3);
        let member = self.members.get_mut(&at).expect("a member");
        if member.raft.take().is_none() {
            return;
        }
        // Some of what was on its way has reached the disk.
        for _ in 0..writes {
            member.persist();
        }
        self.note_disk(at);
        self.truth.reads.retain(|_, (reader, _)| *reader != at);
        self.say(|| format!("{} crashes", at.0.0));
        self.at(after, Event::Start { at });
    }

    fn step(&mut self, at: NodeId, input: Input) {
        self.say(|| format!("{} <- {}", at.0.0, show::input(&input)));
        let member = self.members.get_mut(&at).expect("a member");
        if member.raft.is_some() {
            let out = member.step(self.now, input);
            self.take(at, out);
        }
    }

    /// What a member did.
    fn take(&mut self, at: NodeId, out: Vec<Output>) {
        for output in out {
            self.say(|| format!("  {} -> {}", at.0.0, show::output(&output)));
            match output {
                Output::Persist { .. } => {
                    let most = if self.rng.one_in(20) { 500_000 } else { 20_000 };
                    let after = self.disk.unwrap_or_else(|| self.rng.below(most));
                    let life = self.lives[&at];
                    self.at(after, Event::Disk { at, life });
                }
                Output::Send { to, message } => self.send(at, to, message),
                Output::Committed { entries } => {
                    for entry in entries {
                        let old = self.truth.committed.entry(entry.index).or_insert(entry.clone());
                        assert_eq!(*old, entry, "what is committed never changes");
                    }
                }
                Output::WantSnapshot { peer } => {
                    let padding = if self.rng.one_in(8) { 300_000 } else { 10 };
                    let member = self.members.get_mut(&at).expect("a member");
                    if let Some(snapshot) = member.snapshot(padding) {
                        let mut out = Vec::new();
                        member.raft().send_snapshot(self.now, peer, snapshot, &mut out);
                        member.take(&out);
                        self.take(at, out);
                    }
                }
                Output::ReadReady { request, index } => {
                    let (_, least) = self.truth.reads.remove(&request).expect("answered once");
                    assert!(index >= least, "a read sees {index}, {least} was committed before it");
                    self.truth.reads_ready += 1;
                }
                Output::ReadFailed { request } => {
                    self.truth.reads.remove(&request).expect("answered once");
                }
                Output::CaughtUp { peer } => self.change(at, MemberChange::Promote(peer)),
                Output::Restored { .. }
                | Output::Leads { .. }
                | Output::Follows { .. }
                | Output::Removed => {}
            }
        }
        self.check(at);
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if let Body::Append { previous_index: _, previous_term, entries, .. } = &message.body {
            self.note(*previous_term, entries);
        }
        let is_cut = self.cut_off.contains(&from) != self.cut_off.contains(&to);
        if is_cut || (self.faults && self.rng.one_in(20)) {
            return;
        }
        let copies = if self.faults && self.rng.one_in(20) { 2 } else { 1 };
        for _ in 0..copies {
            let slow = self.faults && self.rng.one_in(30);
            let most = if self.disk.is_some() { 1_000 } else { 5_000 };
            let after = 200 + self.rng.below(if slow { 300_000 } else { most });
            self.at(after, Event::Deliver { from, to, message: message.clone() });
        }
    }

    /// Log matching (paper 5.3): what has the same index and term is the same, and so is its past.
    fn note(&mut self, mut previous: u64, entries: &[Entry]) {
        for entry in entries {
            let new = (previous, entry.payload.clone());
            let old = self.truth.entries.entry((entry.index, entry.term)).or_insert(new.clone());
            assert_eq!(*old, new, "log matching at {} of term {}", entry.index, entry.term);
            previous = entry.term;
        }
    }

    fn note_disk(&mut self, at: NodeId) {
        let disk = &self.members[&at].disk;
        let (entries, base) = (disk.entries.clone(), disk.base().1);
        self.note(base, &entries);
    }

    fn check(&mut self, at: NodeId) {
        let member = &self.members[&at];
        let Some(raft) = &member.raft else { return };
        if raft.is_leader() {
            let leader = *self.truth.leaders.entry(raft.term()).or_insert(at);
            assert_eq!(leader, at, "two leaders in term {}", raft.term());
        }
        let state = *self.truth.states.entry(member.applied).or_insert(member.state);
        assert_eq!(state, member.state, "another state at {}", member.applied);
        assert!(raft.commit() <= raft.last_index());
    }

    fn leaders(&self) -> Vec<NodeId> {
        let leads = |it: &&Member| it.raft.as_ref().is_some_and(|raft| raft.is_leader());
        self.members.values().filter(leads).map(|it| it.id).collect()
    }

    fn any_member(&mut self) -> NodeId {
        id(1 + self.rng.below(NODES))
    }

    fn flush(&mut self, at: NodeId) {
        let now = self.now;
        let mut out = Vec::new();
        let member = self.members.get_mut(&at).expect("a member");
        member.raft().flush(now, &mut out);
        member.take(&out);
        self.take(at, out);
    }

    pub(super) fn change(&mut self, at: NodeId, change: MemberChange) {
        let now = self.now;
        let raft = self.members.get_mut(&at).expect("a member").raft();
        let done = raft.change_members(now, change);
        self.say(|| format!("{} {change:?}: {done:?}", at.0.0));
        self.flush(at);
    }

    fn propose(&mut self) {
        let count = 1 + self.rng.below(4);
        for at in self.leaders() {
            for _ in 0..count {
                self.numbers += 1;
                let size = if self.rng.one_in(10) { 60_000 } else { 8 };
                let mut data = self.numbers.to_le_bytes().to_vec();
                data.resize(size, 1);
                let now = self.now;
                let raft = self.members.get_mut(&at).expect("a member").raft();
                let _full = raft.propose(now, data.into());
            }
            self.flush(at);
        }
    }

    fn read(&mut self) {
        let at = self.any_member();
        self.numbers += 1;
        let request = RequestId::new(u128::from(self.numbers));
        let commits = self.members.values().filter_map(|it| it.raft.as_ref().map(|r| r.commit()));
        let least = commits.max().unwrap_or(0);
        let now = self.now;
        let member = self.members.get_mut(&at).expect("a member");
        if let Some(raft) = &mut member.raft {
            self.truth.reads.insert(request, (at, least));
            let mut out = Vec::new();
            raft.read(now, request, &mut out);
            raft.flush(now, &mut out);
            member.take(&out);
            self.take(at, out);
        }
    }

    fn save(&mut self) {
        let at = self.any_member();
        let member = self.members.get_mut(&at).expect("a member");
        if member.raft.is_some()
            && let Some(snapshot) = member.snapshot(8)
            && snapshot.index <= member.raft().durable_index()
            && snapshot.index > member.disk.base().0
        {
            let index = snapshot.index;
            member.disk.save(snapshot);
            member.raft().compact(index);
        }
    }

    fn refuse(&mut self) {
        let at = self.any_member();
        let from = self.rng.below(3);
        let member = self.members.get_mut(&at).expect("a member");
        let Some((ticket, _)) =
            member.under_way.get(usize::try_from(from).expect("small")).cloned()
        else {
            return;
        };
        if member.raft.is_some() {
            member.under_way.retain(|(own, _)| *own < ticket);
            self.step(at, Input::PersistRefused { ticket });
        }
    }

    fn fault(&mut self) {
        match self.rng.below(14) {
            0 => {
                let at = self.any_member();
                self.crash(at);
            }
            1 => self.refuse(),
            2 => {
                let at = self.any_member();
                if !self.cut_off.remove(&at) && self.cut_off.len() < 2 {
                    self.cut_off.insert(at);
                }
            }
            3 => self.cut_off.clear(),
            4 | 5 => self.save(),
            6 => {
                let to = self.any_member();
                for at in self.leaders() {
                    let mut out = Vec::new();
                    let member = self.members.get_mut(&at).expect("a member");
                    let _nobody = member.raft().transfer(self.now, Some(to), &mut out);
                    member.take(&out);
                    self.take(at, out);
                }
            }
            7 => {
                let to = self.any_member();
                let change = match self.rng.below(4) {
                    0 => MemberChange::Demote(to),
                    1 => MemberChange::Remove(to),
                    2 => MemberChange::Promote(to),
                    _ => MemberChange::Add(to),
                };
                for at in self.leaders() {
                    self.change(at, change);
                }
            }
            8..=10 => self.read(),
            11 => {
                let (at, peer) = (self.any_member(), self.any_member());
                self.step(at, Input::Reachable { peer });
            }
            _ => self.propose(),
        }
    }

    /// The end of a log is lost while its member is down: of one at a time, since what two of three
    /// have acknowledged is gone when both lose it, and not the entry that names the members, since
    /// who takes itself for the only voter is not in doubt.
    fn lose_tail(&mut self, at: NodeId) {
        let is_whole = self.members.values().all(|it| it.disk.cut.is_none());
        let count = self.rng.below(4);
        let disk = &mut self.members.get_mut(&at).expect("a member").disk;
        for _ in 0..count {
            let last = disk.entries.last().map(|it| &it.payload);
            let is_plain = matches!(last, Some(Payload::Command(_) | Payload::Nothing));
            let has_peers = disk.members().is_some_and(|it| it.voters.len() > 2);
            if is_whole && is_plain && has_peers {
                disk.entries.pop();
                disk.cut = Some(disk.last().0);
            }
        }
    }

    /// What happens next; false when nothing does before `until`.
    pub(super) fn next(&mut self, until: Time) -> bool {
        let due = |it: &Member| it.raft.as_ref().and_then(|raft| raft.deadline());
        let tick = self.members.values().filter_map(|it| Some((due(it)?, it.id))).min();
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let at = tick.map(|(at, _)| at).into_iter().chain(event).min();
        let Some(at) = at.filter(|at| *at <= until) else { return false };
        self.now = self.now.max(at);
        if event.is_some_and(|event| event <= at) {
            let (_, event) = self.events.pop_first().expect("an event");
            self.happen(event);
        } else if let Some((_, id)) = tick {
            self.step(id, Input::Tick);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, message } => {
                self.step(to, Input::Message { from, message });
            }
            Event::Disk { at, life } => {
                let member = self.members.get_mut(&at).expect("a member");
                if life == self.lives[&at]
                    && member.raft.is_some()
                    && let Some(ticket) = member.persist()
                {
                    self.persisted(at, ticket);
                }
            }
            Event::Start { at } => {
                if self.faults && self.rng.one_in(3) {
                    self.lose_tail(at);
                }
                self.start(at);
            }
        }
    }

    fn persisted(&mut self, at: NodeId, ticket: Ticket) {
        self.note_disk(at);
        self.step(at, Input::Persisted { ticket });
    }

    pub(super) fn run(&mut self, span: Span) {
        let until = self.now + span;
        while self.next(until) {
            if self.faults && self.rng.one_in(10) {
                self.fault();
            }
        }
        self.now = self.now.max(until);
    }

    /// All goes well from now on: a leader is found, and all its members get all of it.
    pub(super) fn heal(&mut self) {
        self.faults = false;
        self.cut_off.clear();
        for number in 1..=NODES {
            self.start(id(number));
        }
        self.run(Span::from_secs(8));
        self.propose();
        self.run(Span::from_secs(4));
        let leaders = self.leaders();
        if leaders.is_empty() && self.members.values().any(|it| it.disk.cut.is_some()) {
            // Its vote is needed and cannot be given: that takes a person.
            self.truth.stuck += 1;
            return;
        }
        let newest = leaders.iter().max_by_key(|it| self.members[it].raft.as_ref().unwrap().term());
        let leader = newest.expect("a leader is found");
        let raft = self.members[leader].raft.as_ref().unwrap();
        let (members, commit) = (raft.members().clone(), raft.commit());
        assert_eq!(commit, raft.last_index(), "all is committed");
        for member in self.members.values().filter(|it| members.contains(it.id)) {
            assert_eq!(member.applied, commit, "{} follows", member.id.0.0);
        }
        assert!(self.truth.reads.is_empty(), "every read is answered: {:?}", self.truth.reads);
    }
}
