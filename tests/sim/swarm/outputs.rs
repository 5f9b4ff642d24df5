//! What managers and workers want, done or died at.

use skep::base::id::NodeId;
use skep::base::time::Span;
use skep::logic::manager::io as mio;
use skep::logic::raft::io::{Body, Entry, Message, Write};
use skep::logic::worker::io::{self as wio, Action};

use super::session::Word;
use super::{Event, What, World};
use crate::disk::{Done, Job};
use crate::faults::{body_point, count};
use crate::trace::trace;

/// Largest message between managers, with its head.
const MESSAGE_BYTES_MAX: usize = (1 << 20) + (16 << 10);

const fn manager_point(output: &mio::Output) -> &'static str {
    match output {
        mio::Output::Persist { urgent: true, .. } => "persist urgent",
        mio::Output::Persist { .. } => "persist",
        mio::Output::SaveSnapshot { .. } => "save snapshot",
        mio::Output::Send { message, .. } => body_point(&message.body),
        mio::Output::Leader { .. } => "leader",
        mio::Output::Removed => "removed",
        mio::Output::Broken { .. } => "broken",
        mio::Output::Reply { .. } => "reply",
        mio::Output::Assign { .. } => "assign",
    }
}

const fn worker_point(output: &wio::Output) -> &'static str {
    match output {
        wio::Output::Act { action, .. } => act_point(action),
        wio::Output::Probe { .. } => "probe",
        wio::Output::Routes { .. } => "routes",
        wio::Output::Report(_) => "report",
        wio::Output::KeepFence { .. } => "keep fence",
    }
}

pub(super) const fn act_point(action: &Action) -> &'static str {
    match action {
        Action::Prepare(_) => "act prepare",
        Action::Start { .. } => "act start",
        Action::Stop => "act stop",
        Action::Kill => "act kill",
        Action::Clean => "act clean",
        Action::Remove => "act remove",
        Action::Remember => "act remember",
    }
}

impl World {
    pub(super) fn manager_outputs(&mut self, machine: usize, out: Vec<mio::Output>) {
        let life = self.machines[machine].life;
        for output in out {
            let point = manager_point(&output);
            if self.dies(machine, point, false) || self.machines[machine].life != life {
                return;
            }
            self.manager_output(machine, output);
            if self.dies(machine, point, true) || self.machines[machine].life != life {
                return;
            }
        }
    }

    fn manager_output(&mut self, machine: usize, output: mio::Output) {
        match output {
            mio::Output::Persist { ticket, write, urgent } => {
                trace!(self.now, "{machine} persist {ticket:?} urgent {urgent} {}", shown(&write));
                let full = self.machines[machine].disk.full;
                // The log's reserve is there for what makes room.
                let job = if urgent && full {
                    Job::Urgent(ticket, write)
                } else {
                    Job::Write(ticket, write)
                };
                if self.machines[machine].disk.push(job) {
                    self.start_disk(machine);
                }
            }
            mio::Output::SaveSnapshot { snapshot } => {
                trace!(self.now, "{machine} saves a snapshot at {}", snapshot.index);
                if self.machines[machine].disk.push(Job::Save(snapshot)) {
                    self.start_disk(machine);
                }
            }
            mio::Output::Send { to, message } => self.send(machine, to, message),
            mio::Output::Leader { term, leader } => self.note_leader(machine, term, leader),
            mio::Output::Removed => {
                trace!(self.now, "{machine} is no manager any more");
                // Only a hint: who was added again replays its removal. The session decides.
                trace!(self.now, "{machine} is told that it was removed");
            }
            mio::Output::Broken { reason } => panic!("invariant_the_log_can_be_read: {reason}"),
            mio::Output::Reply { request, reply } => {
                if let Some(client) = self.machines[machine].waiting.remove(&request) {
                    self.heard_reply(request, &reply);
                    self.after(Span(200), Event::Answer(client, request, Box::new(reply)));
                }
            }
            mio::Output::Assign { node, assignments } => {
                let to = self.machines.iter().position(|it| it.id == node);
                if let Some(to) = to {
                    self.say_down(machine, to, Word::Assign(assignments));
                }
            }
        }
    }

    fn note_leader(&mut self, machine: usize, term: u64, leader: Option<NodeId>) {
        trace!(self.now, "{machine} knows leader {leader:?} of term {term}");
        let it = &mut self.machines[machine];
        let (id, led) = (it.id, it.leads());
        it.leader = leader;
        // In a term that is not durable a sole voter leads only itself.
        let durable = it.manager.as_ref().is_some_and(|it| it.raft().durable_term() == term);
        if leader == Some(id) {
            let last = it.manager.as_ref().map_or(0, |manager| manager.raft().last_index());
            if durable {
                let other = *self.leaders.entry(term).or_insert(id);
                assert_eq!(other, id, "invariant_one_leader_per_term: {term}");
                self.truth.invariant_a_leader_holds_what_was_committed(term, last);
                self.count("elections");
            }
            if !led {
                self.begin_evidence(machine);
            }
        } else if led {
            self.close_sessions_of(machine);
        }
    }

    fn send(&mut self, machine: usize, to: NodeId, message: Message) {
        let it = &self.machines[machine];
        let (from, disk) = (it.id, &it.disk);
        crate::raft_alone::invariant_nothing_is_said_before_it_is_durable(to, &message, disk);
        let bytes = match &message.body {
            Body::Append { entries, .. } if entries.len() > 1 => {
                entries.iter().map(entry_bytes).sum()
            }
            Body::Snapshot { piece, .. } => piece.len(),
            _ => 0,
        };
        assert!(bytes <= MESSAGE_BYTES_MAX, "invariant_messages_are_bounded: {bytes}");
        let Some(target) = self.machines.iter().position(|other| other.id == to) else { return };
        for span in self.net.deliver(&mut self.rng, machine, target).into_iter().flatten() {
            self.after(span, Event::Peer(target, to, from, Box::new(message.clone())));
        }
    }

    pub(super) fn start_disk(&mut self, machine: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        if let Some(took) = self.machines[machine].disk.start(rng, now) {
            let life = self.machines[machine].life;
            self.after(took, Event::Machine(machine, life, What::DiskDone));
        }
    }

    pub(super) fn disk_done(&mut self, machine: usize) {
        if self.dies(machine, "fdatasync", false) {
            return;
        }
        let done = self.machines[machine].disk.finish();
        trace!(self.now, "{machine} disk {done:?}");
        if self.dies(machine, "fdatasync", true) {
            return;
        }
        self.start_disk(machine);
        let life = self.machines[machine].life;
        for done in done {
            if self.machines[machine].life != life {
                return;
            }
            match done {
                Done::Persisted(ticket) => {
                    self.tell_manager(machine, mio::Input::Persisted { ticket });
                }
                Done::Refused(ticket) => {
                    let wait = self.soon(50);
                    self.after(wait, Event::Machine(machine, life, What::DiskRefused(ticket)));
                    count(&mut self.counts, "refused writes", 1);
                }
                Done::Saved(index) => {
                    if self.dies(machine, "save", true) {
                        return;
                    }
                    self.tell_manager(machine, mio::Input::SnapshotSaved { index });
                }
                Done::SaveRefused(index) => {
                    self.tell_manager(machine, mio::Input::SnapshotRefused { index });
                }
            }
        }
    }

    pub(super) fn worker_outputs(&mut self, machine: usize, out: Vec<wio::Output>) {
        let life = self.machines[machine].life;
        for output in out {
            let point = worker_point(&output);
            if self.dies(machine, point, false) || self.machines[machine].life != life {
                return;
            }
            self.worker_output(machine, output);
            if self.dies(machine, point, true) || self.machines[machine].life != life {
                return;
            }
        }
    }

    fn worker_output(&mut self, machine: usize, output: wio::Output) {
        let life = self.machines[machine].life;
        match output {
            wio::Output::Act { task, action, record } => {
                trace!(self.now, "{machine} {} {task}{}", act_point(&action), of(&action));
                // Signals touch no disk and have a lane of their own, so nothing holds them up.
                let signal = matches!(action, Action::Stop | Action::Kill) && record.is_none();
                let hangs = self.faults && !signal && self.rng.one_in(80);
                let wait = self.soon(if hangs { 60_000 } else { 50 });
                let what = What::Act(task, Box::new(action), record);
                self.after(wait, Event::Machine(machine, life, what));
            }
            wio::Output::Probe { task, probe } => self.begin_probe(machine, task, &probe),
            wio::Output::Routes { generation, ports } => {
                let slow = self.faults && self.rng.one_in(20);
                let wait = self.soon(if slow { 3_000 } else { 10 });
                // Another program has the number.
                let refuses = self.faults && self.rng.one_in(30);
                let refused = ports.last().filter(|_| refuses).map(|port| wio::RefusedPort {
                    protocol: port.protocol,
                    published: port.published,
                    host_ip: port.host_ip,
                    reason: "address already in use".to_owned(),
                });
                let refused = refused.into_iter().collect();
                let input = Box::new(wio::Input::RoutesApplied { generation, refused });
                self.after(wait, Event::Machine(machine, life, What::Worker(input)));
            }
            wio::Output::Report(report) => self.say_up(machine, Word::Report(report)),
            wio::Output::KeepFence { fence } => {
                let kept = &mut self.machines[machine].host.fence;
                assert!(fence >= *kept, "invariant_fences_only_grow: {kept:?} {fence:?}");
                *kept = fence;
            }
        }
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    use skep::logic::raft::io::Payload;
    match &entry.payload {
        Payload::Command(data) => data.len(),
        Payload::Nothing | Payload::Members(_) => 0,
    }
}

fn shown(write: &Write) -> String {
    match write {
        Write::Log { hard_state, entries, .. } => {
            let entries: Vec<_> = entries.iter().map(|e| (e.index, e.term)).collect();
            format!("{hard_state:?} {entries:?}")
        }
        Write::Snapshot { snapshot, .. } => format!("snapshot {}", snapshot.index),
    }
}

/// What is prepared.
fn of(action: &Action) -> String {
    let Action::Prepare(prepare) = action else { return String::new() };
    let task = &prepare.task;
    let addresses: Vec<_> = task.addresses.iter().map(|it| it.address).collect();
    format!(
        " {}.{} at {addresses:?} own {:?} of {:?}",
        task.service_name, task.slot, prepare.own, task.adopted_from
    )
}
