//! What happens to the members: messages, faults, deaths and returns.

use skep::base::id::NodeId;
use skep::base::time::{Span, Time};
use skep::logic::raft::Raft;
use skep::logic::raft::io::{Body, Entry, Input, Members, Message, Write};

use super::check::{
    invariant_messages_are_bounded, invariant_nothing_is_said_before_it_is_durable,
};
use super::{Event, What, World};
use crate::disk::Job;
use crate::faults::{Armed, Fault, count};
use crate::trace::{self, trace};

/// Applied entries after which a member saves a snapshot.
const SNAPSHOT_ENTRIES: u64 = 50;

/// All of a write in a line.
pub(super) fn shown(write: &Write) -> String {
    match write {
        Write::Log { hard_state, entries, .. } => {
            let entries: Vec<_> = entries.iter().map(|e| (e.index, e.term)).collect();
            format!("{hard_state:?} {entries:?}")
        }
        Write::Snapshot { snapshot, hard_state } => {
            format!("{hard_state:?} snapshot {} {}", snapshot.index, snapshot.term)
        }
    }
}

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Node(node, life, what) => {
                if self.nodes[node].life != life {
                    return;
                }
                let frozen = self.nodes[node].frozen;
                if frozen > self.now {
                    return self.queue.push(frozen, Event::Node(node, life, what));
                }
                self.happen_to(node, what);
            }
            Event::Deliver(node, id, what) => {
                let member = &self.nodes[node];
                if member.id != id || member.raft.is_none() {
                    return;
                }
                if member.frozen > self.now {
                    return self.queue.push(member.frozen, Event::Deliver(node, id, what));
                }
                self.happen_to(node, what);
            }
            Event::Up(node) => {
                if self.nodes[node].raft.is_none() {
                    self.up(node);
                }
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Heal(number) => self.net.heal(number),
            Event::Flap(number, parted, period, times) => {
                if times % 2 == 0 {
                    self.net.part(number, parted);
                } else {
                    self.net.heal(number);
                }
                if times > 0 && self.faults {
                    self.after(period, Event::Flap(number, parted, period, times - 1));
                } else {
                    self.net.heal(number);
                }
            }
            Event::Weather => self.net.quality = self.calm,
            Event::Room(node) => self.nodes[node].disk.full = false,
            Event::Fast(node) => self.nodes[node].disk.fsync = self.fsync,
            Event::Client => self.client(),
            Event::Operator => self.operator(),
        }
    }

    fn happen_to(&mut self, node: usize, what: What) {
        match what {
            What::Message(from, message) => {
                if !trace::is_quiet(&message.body) {
                    trace!(self.now, "{node} hears {from:?} {}", brief(&message));
                }
                self.tell(node, Input::Message { from, message: *message });
            }
            What::DiskDone => self.disk_done(node),
            What::DiskRefused(ticket) => {
                self.nodes[node].disk.resume();
                self.tell(node, Input::PersistRefused { ticket });
            }
        }
    }

    pub(super) fn up(&mut self, node: usize) {
        let now = self.now;
        let first = self.nodes[node].identities == 0 && node == 0;
        let member = &mut self.nodes[node];
        member.start(&mut self.rng, now);
        trace!(now, "{node} starts as {:?} at {}", member.id, member.app.index);
        let empty = member.disk.last() == 0 && member.disk.vote().0 == 0;
        if first && empty && self.check.committed_index() == 0 {
            let local = member.clock.mono(now);
            let mut out = Vec::new();
            if let Some(raft) = &mut member.raft {
                raft.bootstrap(local, &mut out);
            }
            self.done(node, out);
        }
    }

    pub(super) fn send(&mut self, node: usize, to: NodeId, message: Message) {
        let from = self.nodes[node].id;
        invariant_nothing_is_said_before_it_is_durable(to, &message, &self.nodes[node].disk);
        invariant_messages_are_bounded(&message);
        if let Body::Append { entries, .. } = &message.body {
            self.check.invariant_same_index_and_term_same_entry(entries);
        }
        let Some(target) = self.nodes.iter().position(|other| other.id == to) else { return };
        assert_ne!(target, node, "a member tells itself something: {message:?}");
        for span in self.net.deliver(&mut self.rng, node, target).into_iter().flatten() {
            let what = What::Message(from, Box::new(message.clone()));
            self.after(span, Event::Deliver(target, to, what));
        }
    }

    pub(super) fn committed(&mut self, node: usize, entries: &[Entry]) {
        let member = &self.nodes[node];
        if member.leads
            && let Some(raft) = &member.raft
        {
            let disks = |id| self.disk_of(id);
            self.check.invariant_committed_is_on_a_majority(entries, raft.members(), disks);
            // Who is alone has nobody to disagree with.
            if raft.members().voters.len() > 1 {
                self.check.invariant_only_the_own_term_is_counted(entries, raft.term());
            }
        }
        let member = &mut self.nodes[node];
        self.check.invariant_committed_entries_never_change(&mut member.app, entries);
        for entry in entries {
            if member.pending.remove(&entry.index) == Some(entry.term) && member.leads {
                self.check.acknowledge(entry.index);
                count(&mut self.counts, "acknowledged", 1);
            }
        }
        if member.app.since_snapshot >= SNAPSHOT_ENTRIES && !member.saving {
            let padding = if self.rng.one_in(8) { 700_000 } else { 100 };
            let snapshot = member.app.snapshot(padding);
            member.saving = true;
            if member.disk.push(Job::Save(snapshot)) {
                self.start_disk(node);
            }
        }
    }

    pub(super) fn give_snapshot(&mut self, node: usize, peer: NodeId) {
        let padding = if self.rng.one_in(4) { 700_000 } else { 100 };
        let member = &mut self.nodes[node];
        let local = member.clock.mono(self.now);
        let mut app = member.app.clone();
        let snapshot = app.snapshot(padding);
        trace!(self.now, "{node} gives {peer:?} a snapshot at {}", snapshot.index);
        let mut out = Vec::new();
        if let Some(raft) = &mut member.raft {
            raft.send_snapshot(local, peer, snapshot, &mut out);
        }
        count(&mut self.counts, "snapshots sent", 1);
        self.done(node, out);
    }

    /// Whether a member dies at this place; if so it is dead.
    pub(super) fn dies(&mut self, node: usize, what: &'static str, after: bool) -> bool {
        let Some(armed) = &mut self.nodes[node].armed else {
            return self.nodes[node].raft.is_none();
        };
        if !self.faults || (armed.point.what, armed.point.after) != (what, after) {
            return false;
        }
        armed.times -= 1;
        if armed.times > 0 {
            return false;
        }
        let (power, down) = (armed.power, armed.down);
        trace!(self.now, "{node} dies at a fail point: {what} after={after}");
        count(&mut self.counts, "deaths at a fail point", 1);
        self.crash(node, power, down);
        true
    }

    pub(super) fn crash(&mut self, node: usize, power: bool, down: Span) {
        if self.nodes[node].raft.is_none() {
            return;
        }
        // One torn tail at a time, and only where the others are a majority: whoever is in doubt does
        // not vote.
        let may_tear = !self.check.lost
            && self.nodes.iter().all(|other| {
                let voters = other.raft.as_ref().map(|raft| raft.members().voters.len());
                !other.disk.is_cut() && voters.is_none_or(|voters| voters > 2)
            });
        let now = self.now;
        let member = &mut self.nodes[node];
        let torn = member.disk.crash(&mut self.rng, may_tear);
        member.stop();
        if power {
            member.clock.reboot(&mut self.rng, now);
        }
        trace!(now, "{node} is down, power {power}, torn {torn}");
        count(&mut self.counts, "torn tails", u64::from(torn));
        self.after(down, Event::Up(node));
    }

    fn fault(&mut self, number: usize) {
        if !self.options.has(number) || !self.faults {
            return;
        }
        let fault = self.plan[number].1.clone();
        trace!(self.now, "fault {number}: {fault:?}");
        count(&mut self.counts, fault.name(), 1);
        let now = self.now;
        match fault {
            Fault::Crash { node, power, down } => self.crash(node, power, down),
            Fault::CrashAt { node, point, times, power, down } => {
                self.nodes[node].armed = Some(Armed { point, times, power, down });
            }
            Fault::Part { parted, span } => {
                self.parts += 1;
                self.net.part(self.parts, parted);
                self.after(span, Event::Heal(self.parts));
            }
            Fault::Flap { parted, period, times } => {
                self.parts += 1;
                self.after(Span(0), Event::Flap(self.parts, parted, period, 2 * times));
            }
            Fault::Weather { quality, span } => {
                self.net.quality = quality;
                self.after(span, Event::Weather);
            }
            Fault::Full { node, span } => {
                self.nodes[node].disk.full = true;
                self.after(span, Event::Room(node));
            }
            Fault::Slow { node, fsync, span } => {
                self.nodes[node].disk.fsync = fsync;
                self.after(span, Event::Fast(node));
            }
            Fault::Stall { node, span } => self.nodes[node].disk.stalled = now + span,
            Fault::LoseTail { node, entries, vote, down } => {
                self.lose(node, down, Some((entries, vote)));
            }
            Fault::LoseDisk { node, down } => self.lose(node, down, None),
            Fault::WallJump { node, wall } => self.nodes[node].clock.set_wall(now, wall),
            Fault::Drift { node, ppm } => {
                self.nodes[node].clock.drift(now, ppm);
                self.nodes[node].note_deadline(now);
            }
            Fault::Freeze { node, span } => {
                self.nodes[node].frozen = now + span;
                self.nodes[node].note_deadline(now);
            }
        }
    }

    /// A disk loses what it acknowledged: only one at a time, and only where the others can go on.
    fn lose(&mut self, node: usize, down: Span, tail: Option<(u64, bool)>) {
        if !self.can_lose() {
            return;
        }
        self.check.lost = true;
        count(&mut self.counts, "losses done", 1);
        self.crash(node, true, down);
        match tail {
            Some((entries, vote)) => self.nodes[node].disk.lose_tail(entries, vote),
            None => self.nodes[node].wipe(node, self.fsync),
        }
    }

    /// Whether everybody is up, undamaged, and knows of nobody without a vote: then a majority is
    /// left without this one, whatever is not committed yet.
    fn can_lose(&self) -> bool {
        let knows_all = |members: &Members| {
            members.learners.is_empty()
                && members.voters.len() == self.nodes.len()
                && self.nodes.iter().all(|node| members.voters.contains(&node.id))
        };
        self.nodes.len() > 2
            && self.nodes.iter().all(|node| {
                let members = node.raft.as_ref().map(Raft::members);
                members.is_some_and(knows_all) && !node.disk.is_cut() && !node.leaving
            })
    }

    pub(super) fn stop_faults(&mut self) {
        trace!(self.now, "faults stop");
        self.faults = false;
        self.net.heal_all();
        self.net.quality = self.calm;
        let now = self.now;
        for n in 0..self.nodes.len() {
            let node = &mut self.nodes[n];
            (node.disk.full, node.disk.fsync) = (false, self.fsync);
            node.disk.stalled = Time(0);
            (node.frozen, node.armed) = (Time(0), None);
            node.clock.drift(now, 0);
            node.note_deadline(now);
            if node.raft.is_none() {
                self.after(Span(1), Event::Up(n));
            }
        }
        let (lost, doubled, late) = (self.net.lost, self.net.doubled, self.net.late);
        count(&mut self.counts, "lost messages", lost);
        count(&mut self.counts, "doubled messages", doubled);
        count(&mut self.counts, "late messages", late);
    }

    /// One leader, everybody has applied what it has, and all are voters.
    pub(super) fn is_settled(&self) -> bool {
        let mut leaders = self.nodes.iter().filter(|node| node.leads);
        let (Some(leader), None) = (leaders.next(), leaders.next()) else { return false };
        let Some(members) = self.members() else { return false };
        let index = leader.app.index;
        index > 0
            && index == self.check.committed_index()
            && leader.raft.as_ref().is_some_and(|raft| raft.last_index() == index)
            && members.learners.is_empty()
            && members.voters.len() == self.nodes.len()
            && self.nodes.iter().all(|node| {
                node.app.index == index
                    && node.disk.is_idle()
                    && node.raft.is_some()
                    && members.voters.contains(&node.id)
            })
    }

    /// Nothing is written while nothing changes, nobody is elected, a sole member has no deadline.
    pub(super) fn invariant_idle_is_silent(&mut self) {
        self.until(self.now + Span::from_secs(2));
        let writes = |world: &Self| world.nodes.iter().map(|node| node.disk.writes).sum::<u64>();
        let before = (writes(self), self.check.committed_index());
        self.until(self.now + Span::from_secs(30));
        let after = (writes(self), self.check.committed_index());
        assert_eq!(after, before, "invariant_idle_is_silent: writes, committed");
        if let [only] = &self.nodes[..] {
            let deadline = only.raft.as_ref().and_then(Raft::deadline);
            assert_eq!(deadline, None, "invariant_idle_is_silent: a sole member waits for nothing");
        }
    }

    pub(super) fn describe(&self) -> String {
        let mut text = format!("committed {}", self.check.committed_index());
        for (n, node) in self.nodes.iter().enumerate() {
            let raft = node.raft.as_ref();
            text += &format!(
                "\n  {n} {:?} up {} leads {} term {:?} leader {:?} last {:?} applied {} disk {:?} cut {} members {:?}",
                node.id,
                raft.is_some(),
                node.leads,
                raft.map(Raft::term),
                raft.and_then(Raft::leader),
                raft.map(Raft::last_index),
                node.app.index,
                node.disk.vote(),
                node.disk.is_cut(),
                raft.map(Raft::members),
            );
        }
        text
    }
}

/// A message in a line.
fn brief(message: &Message) -> String {
    let term = message.term;
    match &message.body {
        Body::Append { previous_index, previous_term, entries, commit } => {
            let last = entries.last().map(|entry| (entry.index, entry.term));
            format!(
                "t{term} append behind {previous_index}.{previous_term} {} ..={last:?} commit {commit}",
                entries.len()
            )
        }
        Body::Snapshot { index, offset, total, .. } => {
            format!("t{term} snapshot {index} {offset} of {total}")
        }
        other => format!("t{term} {other:?}"),
    }
}
