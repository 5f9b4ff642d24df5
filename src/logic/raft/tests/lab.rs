//! A few members, moved by hand: one command a line.
//!
//! ```text
//! members 1 2 3 [learners 4]  start with these; entry 1 of term 1 names them, durable and committed
//! fresh 4                     starts a member that knows nothing | bootstrap N | force N EPOCH
//! entries N 2/1 3/2 …         what else is in N's log; before it starts: stop it first
//! tick N                      time goes on to N's deadline | advance MS
//! deliver [A>B]               each message under way (from A to B) arrives once
//! lose [A>B] | repeat A>B     those under way are lost, or stay under way when delivered next
//! persist [N] | refuse N      the disk does all of its writes, or refuses all
//! settle                      deliver and persist until nothing is left
//! stop N | start N | cut N    a crash, a start; a start after the log's tail was lost to its last entry
//! propose N TEXT | bytes N COUNT | read N NUMBER | transfer N [TO] | reach N PEER
//! add|promote|demote|remove N WHOM
//! save N                      a snapshot of what is applied is durable, the log behind it is cut
//! give N PEER BYTES           the leader's snapshot, with that much beside the state
//! say N FROM TERM BODY…       a message made up: heartbeat COMMIT [LAST], timeout, append …
//! quiet COMMAND…              without its lines
//! show                        each member's state
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use super::member::{Member, id};
use super::show;
use crate::base::id::{NodeId, RequestId};
use crate::base::time::{Span, Time};
use crate::logic::raft::Raft;
use crate::logic::raft::io::{
    Body, Entry, Input, MemberChange, Members, Message, Output, Payload, ProposeError, Timing,
};

#[derive(Debug, Default)]
pub(super) struct Lab {
    pub(super) now: Time,
    pub(super) members: BTreeMap<NodeId, Member>,
    pub(super) under_way: VecDeque<(NodeId, NodeId, Message)>,
    pub(super) text: String,
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("a number, not {text}"))
}

fn ids(words: &[&str]) -> impl Iterator<Item = NodeId> {
    words.iter().map(|word| id(number(word)))
}

fn pair(text: &str) -> (u64, u64) {
    let (a, b) = text.split_once(['/', '>']).expect("two numbers");
    (number(a), number(b))
}

impl Lab {
    /// After these commands.
    pub(super) fn after(commands: &[&str]) -> Self {
        let mut lab = Self { now: Time(1_000_000), ..Self::default() };
        for command in commands {
            lab.run(command);
        }
        lab
    }

    pub(super) fn member(&mut self, number: u64) -> &mut Member {
        self.members.entry(id(number)).or_insert_with(|| Member::new(number))
    }

    pub(super) fn raft(&mut self, number: u64) -> &mut Raft {
        self.member(number).raft()
    }

    /// The members that lead.
    pub(super) fn leaders(&self) -> Vec<u64> {
        let leads = |it: &&Member| it.raft.as_ref().is_some_and(Raft::is_leader);
        let number = |it: &Member| u64::try_from(it.id.0.0).expect("small");
        self.members.values().filter(leads).map(number).collect()
    }

    /// The log of a member as `index/term` of each entry.
    pub(super) fn log(&mut self, number: u64) -> String {
        let raft = self.raft(number);
        let all = raft.first_index()..=raft.last_index();
        let shown = all.map(|index| format!("{index}/{}", raft.term_at(index).unwrap_or(0)));
        shown.collect::<Vec<_>>().join(" ")
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string");
    }

    fn take(&mut self, at: NodeId, out: Vec<Output>) {
        for output in out {
            self.line(format_args!("  {} {}", show::name(at), show::output(&output)));
            if let Output::Send { to, message } = output {
                self.under_way.push_back((at, to, message));
            }
        }
    }

    fn step(&mut self, at: NodeId, input: Input) {
        let now = self.now;
        let Some(member) = self.members.get_mut(&at).filter(|it| it.raft.is_some()) else {
            return;
        };
        let out = member.step(now, input);
        self.take(at, out);
    }

    /// Calls the machine and flushes it.
    fn call<T>(&mut self, at: u64, call: impl FnOnce(&mut Raft, Time, &mut Vec<Output>) -> T) -> T {
        let (now, mut out) = (self.now, Vec::new());
        let member = self.member(at);
        let result = call(member.raft(), now, &mut out);
        member.raft().flush(now, &mut out);
        member.take(&out);
        self.take(id(at), out);
        result
    }

    fn told(&mut self, result: Result<u64, ProposeError>) {
        if let Err(error) = result {
            self.line(format_args!("  {error}"));
        }
    }

    fn start_with(&mut self, words: &[&str]) {
        let split = words.iter().position(|word| *word == "learners").unwrap_or(words.len());
        let learners = words.get(split + 1..).unwrap_or_default();
        let members =
            Members { voters: ids(&words[..split]).collect(), learners: ids(learners).collect() };
        for word in words.iter().filter(|word| **word != "learners") {
            let payload = Payload::Members(members.clone());
            let member = self.member(number(word));
            member.disk.entries = vec![Entry { index: 1, term: 1, payload }];
            (member.disk.hard.term, member.disk.hard.commit) = (1, 1);
            self.start(number(word));
        }
    }

    fn start(&mut self, number: u64) {
        let now = self.now;
        self.member(number).start(now, Timing::default());
        self.step(id(number), Input::Tick);
    }

    /// Further entries in a member's log, on its disk.
    fn entries(&mut self, at: u64, words: &[&str]) {
        for word in words {
            let (index, term) = pair(word);
            let payload = Payload::Command(format!("e{index}t{term}").as_bytes().into());
            let disk = &mut self.member(at).disk;
            disk.entries.push(Entry { index, term, payload });
            disk.hard.term = disk.hard.term.max(term);
        }
    }

    fn deliver(&mut self, only: Option<&str>) {
        let only = only.map(pair).map(|(from, to)| (id(from), id(to)));
        let count = self.under_way.len();
        for _ in 0..count {
            let (from, to, message) = self.under_way.pop_front().expect("counted");
            if only.is_some_and(|only| only != (from, to)) {
                self.under_way.push_back((from, to, message));
                continue;
            }
            let (a, b) = (show::name(from), show::name(to));
            self.line(format_args!("{a}>{b} {}", show::message(&message)));
            self.step(to, Input::Message { from, message });
        }
    }

    fn persist(&mut self, only: Option<&str>) {
        let all: Vec<NodeId> = self.members.keys().copied().collect();
        for at in all {
            if only.is_some_and(|only| id(number(only)) != at) {
                continue;
            }
            let member = self.members.get_mut(&at).expect("listed");
            let mut last = None;
            while member.raft.is_some()
                && let Some(ticket) = member.persist()
            {
                last = Some(ticket);
            }
            if let Some(ticket) = last {
                self.line(format_args!("{} persisted #{}", show::name(at), ticket.0));
                self.step(at, Input::Persisted { ticket });
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let writes = self.members.values().any(|it| !it.under_way.is_empty());
            if self.under_way.is_empty() && !writes {
                return;
            }
            self.deliver(None);
            self.persist(None);
        }
        panic!("no rest: {}", self.text);
    }

    fn disk(&mut self, command: &str, at: u64, rest: &[&str]) {
        let now = self.now;
        let member = self.member(at);
        match command {
            "refuse" => {
                let refused = member.under_way.front().map(|(ticket, _)| *ticket);
                let ticket = refused.expect("a write under way");
                member.under_way.clear();
                self.step(id(at), Input::PersistRefused { ticket });
            }
            "stop" => {
                member.raft = None;
                member.under_way.clear();
            }
            "cut" => {
                member.disk.entries.pop();
                member.disk.cut = Some(member.disk.last().0);
                self.start(at);
            }
            "save" => {
                let snapshot = member.snapshot(0).expect("something is applied");
                let index = snapshot.index;
                member.disk.save(snapshot);
                member.raft().compact(index);
                let first = member.raft().first_index();
                self.line(format_args!("  {at} begins at {first}"));
            }
            "give" => {
                let padding = usize::try_from(number(rest[1])).expect("small");
                let snapshot = member.snapshot(padding).expect("something is applied");
                let mut out = Vec::new();
                member.raft().send_snapshot(now, id(number(rest[0])), snapshot, &mut out);
                self.take(id(at), out);
            }
            _ => panic!("unknown command {command}"),
        }
    }

    fn ask(&mut self, command: &str, at: u64, rest: &[&str]) {
        let whom = || id(number(rest[0]));
        match command {
            "propose" => {
                let data = rest.join(" ");
                let done = self.call(at, |raft, now, _| raft.propose(now, data.as_bytes().into()));
                self.told(done);
            }
            "bytes" => {
                let data = vec![7; usize::try_from(number(rest[0])).expect("small")];
                let done = self.call(at, |raft, now, _| raft.propose(now, data.into()));
                self.told(done);
            }
            "read" => {
                let request = RequestId::new(u128::from(number(rest[0])));
                self.call(at, |raft, now, out| raft.read(now, request, out));
            }
            "transfer" => {
                let to = rest.first().map(|to| id(number(to)));
                let done = self.call(at, |raft, now, out| raft.transfer(now, to, out));
                self.told(done.map(|()| 0));
            }
            "bootstrap" => self.call(at, |raft, now, out| raft.bootstrap(now, out)),
            "force" => {
                let epoch = number(rest[0]);
                self.call(at, |raft, now, out| raft.force_new_cluster(now, epoch, out));
            }
            "add" | "promote" | "demote" | "remove" => {
                let change = match command {
                    "add" => MemberChange::Add(whom()),
                    "promote" => MemberChange::Promote(whom()),
                    "demote" => MemberChange::Demote(whom()),
                    _ => MemberChange::Remove(whom()),
                };
                let done = self.call(at, |raft, now, _| raft.change_members(now, change));
                self.told(done);
            }
            _ => self.disk(command, at, rest),
        }
    }

    fn say(&mut self, at: u64, rest: &[&str]) {
        let (from, term) = (id(number(rest[0])), number(rest[1]));
        let body = match rest[2] {
            "heartbeat" => {
                let last = rest.get(4).map_or(0, |last| number(last));
                Body::Heartbeat { commit: number(rest[3]), last, read: 0 }
            }
            "timeout" => Body::TimeoutNow,
            "ok" => Body::AppendOk { index: number(rest[3]) },
            "vote" => {
                let (last_index, last_term) = pair(rest[3]);
                Body::Vote { pre: false, transfer: false, last_index, last_term }
            }
            "append" => {
                let (previous_index, previous_term) = pair(rest[3]);
                let entries = rest[4..].iter().map(|word| {
                    let (index, term) = pair(word);
                    let payload = Payload::Command(format!("e{index}t{term}").as_bytes().into());
                    Entry { index, term, payload }
                });
                let entries = entries.collect();
                Body::Append { previous_index, previous_term, entries, commit: 0 }
            }
            other => panic!("unknown message {other}"),
        };
        self.step(id(at), Input::Message { from, message: Message { epoch: 1, term, body } });
    }

    fn show(&mut self) {
        let mut lines = Vec::new();
        for member in self.members.values() {
            let name = show::name(member.id);
            let Some(raft) = &member.raft else {
                lines.push(format!("{name} is down"));
                continue;
            };
            let leader = raft.leader().map_or("nobody".to_owned(), show::name);
            let role =
                if raft.is_leader() { "leads".to_owned() } else { format!("follows {leader}") };
            lines.push(format!(
                "{name} {role} t{} commit {} last {}/{} {}",
                raft.term(),
                raft.commit(),
                raft.last_index(),
                raft.term_at(raft.last_index()).unwrap_or(0),
                show::members(raft.members()),
            ));
        }
        for line in lines {
            self.line(format_args!("{line}"));
        }
    }

    pub(super) fn run(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let first = words.get(1).copied();
        match words[0] {
            "members" => self.start_with(&words[1..]),
            "fresh" | "start" => self.start(number(words[1])),
            "entries" => self.entries(number(words[1]), &words[2..]),
            "tick" => {
                let due = self.raft(number(words[1])).deadline().expect("a deadline");
                self.now = self.now.max(due);
                self.step(id(number(words[1])), Input::Tick);
            }
            "advance" => self.now = self.now + Span::from_millis(number(words[1])),
            "deliver" => self.deliver(first),
            "lose" => {
                let only = first.map(pair).map(|(from, to)| (id(from), id(to)));
                self.under_way.retain(|(from, to, _)| only.is_some_and(|it| it != (*from, *to)));
            }
            "repeat" => {
                let only = first.map(pair).map(|(from, to)| (id(from), id(to)));
                let same = self.under_way.iter().filter(|(a, b, _)| only == Some((*a, *b)));
                let copies: Vec<_> = same.cloned().collect();
                self.under_way.extend(copies);
            }
            "persist" => self.persist(first),
            "settle" => self.settle(),
            "show" => self.show(),
            "say" => self.say(number(words[1]), &words[2..]),
            "reach" => {
                let peer = id(number(words[2]));
                self.step(id(number(words[1])), Input::Reachable { peer });
            }
            "quiet" => {
                let text = std::mem::take(&mut self.text);
                self.run(&words[1..].join(" "));
                self.text = text;
            }
            command => self.ask(command, number(words[1]), &words[2..]),
        }
    }
}
