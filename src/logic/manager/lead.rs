//! What consensus wants done, and how leadership begins and ends.

use std::sync::Arc;

use super::flight::InFlight;
use super::io::{CommandError, Output, Reply};
use super::write::{all_services, reply};
use super::{Lead, Leads, Manager};
use crate::base::id::{NodeId, RequestId};
use crate::base::time::{Now, Time};
use crate::logic::codec;
use crate::logic::raft::io::{self as raft, Entry, Payload, Snapshot, Write};
use crate::logic::store::{Applied, Feed, Store};

impl Manager {
    /// Consensus takes an input in.
    pub(super) fn consensus(&mut self, now: Now, input: raft::Input, out: &mut Vec<Output>) {
        let mut wants = Vec::new();
        self.raft.step(now.mono, input, &mut wants);
        self.obey(now, wants, out);
    }

    /// Everything that was proposed goes out as one batch.
    pub(super) fn flush(&mut self, now: Now, out: &mut Vec<Output>) {
        let mut wants = Vec::new();
        self.raft.flush(now.mono, &mut wants);
        self.obey(now, wants, out);
        self.lead.flight.note_sent();
    }

    /// Does what consensus wants.
    pub(super) fn obey(&mut self, now: Now, wants: Vec<raft::Output>, out: &mut Vec<Output>) {
        for want in wants {
            if self.broken {
                return;
            }
            match want {
                raft::Output::Persist { ticket, write } => {
                    let urgent = self.is_urgent(&write);
                    self.urgent = urgent.then_some(ticket);
                    out.push(Output::Persist { ticket, write, urgent });
                }
                raft::Output::Send { to, message } => out.push(Output::Send { to, message }),
                raft::Output::Committed { entries } => {
                    for entry in entries {
                        self.committed(now, entry, out);
                    }
                }
                raft::Output::Restored { snapshot } => self.restored(&snapshot, out),
                raft::Output::Leads { term, index } => self.leads(now, term, index, out),
                raft::Output::Follows { term, leader } => self.follows(term, leader, out),
                raft::Output::ReadReady { request, index } => self.reads.push((request, index)),
                raft::Output::ReadFailed { request } => {
                    let leader = self.raft.leader();
                    let reply = Err(CommandError::NotLeader { leader });
                    out.push(Output::Reply { request, reply });
                }
                raft::Output::WantSnapshot { peer } => {
                    if let Some(snapshot) = self.snapshot() {
                        let mut more = Vec::new();
                        self.raft.send_snapshot(now.mono, peer, snapshot, &mut more);
                        self.obey(now, more, out);
                    }
                }
                raft::Output::CaughtUp { peer } => {
                    self.lead.caught_up.insert(peer);
                    self.lead.roles_at = Some(Time(0));
                }
                raft::Output::Removed => out.push(Output::Removed),
            }
        }
    }

    /// Whether all that is written makes room on a full disk. A follower looks only when its disk
    /// has refused something.
    fn is_urgent(&self, write: &Write) -> bool {
        let Write::Log { entries, .. } = write else { return false };
        let makes_room = |entry: &Entry| match &entry.payload {
            Payload::Nothing | Payload::Members(_) => false,
            Payload::Command(data) => match self.lead.flight.get(entry.index) {
                Some(own) => own.entry.makes_room(),
                None if self.blocked.is_none() => false,
                None => codec::decode_entry(data).is_ok_and(|entry| entry.makes_room()),
            },
        };
        !entries.is_empty() && entries.iter().all(makes_room)
    }

    fn committed(&mut self, now: Now, entry: Entry, out: &mut Vec<Output>) {
        let Entry { index, term, payload } = entry;
        debug_assert_eq!(index, self.committed.index() + 1, "entries are applied in order");
        self.blocked = None;
        let flown = self.lead.flight.pop(index);
        match payload {
            Payload::Nothing => self.committed.skip(index),
            Payload::Members(members) => {
                self.members = members;
                self.committed.skip(index);
                self.lead.roles_at = Some(Time(0));
            }
            Payload::Command(data) => {
                let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.grown_bytes = self.grown_bytes.saturating_add(bytes);
                match flown {
                    Some(InFlight { own: Some(own), .. }) => {
                        self.committed.install(index, &own.entry, &own.applied);
                        self.note(index, &own.applied);
                        answer(own.waiting, &own.applied, out);
                    }
                    Some(InFlight { own: None, .. }) | None => self.apply(index, &data, out),
                }
            }
        }
        self.committed_term = term;
        if self.leads == Leads::From(index) {
            self.decides(now, out);
        }
    }

    /// An entry that this manager has not proposed itself.
    fn apply(&mut self, index: u64, data: &[u8], out: &mut Vec<Output>) {
        match codec::decode_entry(data) {
            Ok(entry) => {
                let applied = self.committed.apply(index, &entry);
                self.note(index, &applied);
            }
            Err(error) => {
                self.broken = true;
                let reason = format!("cannot read the log's entry {index}: {error}");
                out.push(Output::Broken { reason });
            }
        }
    }

    /// Something is committed: whoever is to be told will be.
    fn note(&mut self, index: u64, applied: &Applied) {
        self.set_epoch();
        self.feed.note(index, applied);
        if self.leads == Leads::No {
            return;
        }
        for effect in &applied.effects {
            self.lead.dispatch.note(effect);
        }
        self.lead.reports.committed(&applied.effects);
    }

    fn set_epoch(&mut self) {
        if let Some(cluster) = self.committed.cluster() {
            self.raft.set_epoch(cluster.epoch);
        }
    }

    /// The leader's snapshot took the place of everything.
    fn restored(&mut self, snapshot: &Snapshot, out: &mut Vec<Output>) {
        match Store::restore(&snapshot.data) {
            Ok(store) => {
                self.committed = store;
                self.feed = Feed::new(&self.committed);
                self.committed_term = snapshot.term;
                self.members = snapshot.members.clone();
                (self.grown_bytes, self.state_bytes) = (0, snapshot.data.len() as u64);
                self.set_epoch();
                debug_assert_eq!(self.leads, Leads::No, "a leader takes no snapshot");
            }
            Err(error) => {
                self.broken = true;
                let index = snapshot.index;
                let reason = format!("cannot read the leader's snapshot at index {index}: {error}");
                out.push(Output::Broken { reason });
            }
        }
    }

    /// Elected, or (a sole voter whose disk refused) elected anew.
    fn leads(&mut self, now: Now, term: u64, index: u64, out: &mut Vec<Output>) {
        let again = self.leads != Leads::No;
        let refused = self.lead.flight.give_up();
        for request in refused {
            let reason = &self.refusal;
            let text = format!("cannot write the cluster's log: {reason}");
            out.push(Output::Reply { request, reply: Err(CommandError::Storage(text)) });
        }
        if again {
            // What workers told is still known and goes into other entries.
            self.lead.reports.retry();
            // A chain is told once: who is told everything again tells everything again.
            self.lead.dispatch.begin_again();
        } else {
            self.lead = Lead::default();
        }
        out.push(Output::Leader { term, leader: Some(self.config.node) });
        self.leads = Leads::From(index);
        if self.committed.index() >= index {
            self.decides(now, out);
        }
    }

    /// The first own entry is applied: from here on everything is planned on what is there.
    fn decides(&mut self, now: Now, out: &mut Vec<Output>) {
        self.leads = Leads::Yes;
        let lead = &mut self.lead;
        lead.planned = self.committed.clone();
        lead.nodes.reset(&lead.planned);
        lead.memories.clear();
        lead.wakes.clear();
        lead.waiting.clear();
        lead.held.clear();
        lead.dirty = all_services(&lead.planned);
        lead.roles_at = Some(Time(0));
        for (request, command) in std::mem::take(&mut lead.early) {
            self.command(now, request, command, out);
        }
    }

    /// Leadership is elsewhere: what waits may come to be or not.
    fn follows(&mut self, term: u64, leader: Option<NodeId>, out: &mut Vec<Output>) {
        if self.leads != Leads::No {
            let mut lead = std::mem::take(&mut self.lead);
            self.leads = Leads::No;
            let tell = |request: RequestId, error, out: &mut Vec<Output>| {
                out.push(Output::Reply { request, reply: Err(error) });
            };
            for request in lead.flight.give_up() {
                tell(request, CommandError::Unavailable, out);
            }
            for (request, _) in lead.early {
                tell(request, CommandError::NotLeader { leader }, out);
            }
        }
        // What they wait for may never come here.
        for (request, _) in std::mem::take(&mut self.reads) {
            let reply = Err(CommandError::NotLeader { leader });
            out.push(Output::Reply { request, reply });
        }
        out.push(Output::Leader { term, leader });
    }

    /// State and members as of what is committed.
    fn snapshot(&self) -> Option<Snapshot> {
        let data = self.committed.snapshot().ok()?;
        Some(Snapshot {
            index: self.committed.index(),
            term: self.committed_term,
            members: self.members.clone(),
            data: Arc::from(data),
        })
    }

    /// Asks for a snapshot when the log has grown enough.
    pub(super) fn save_snapshot(&mut self, out: &mut Vec<Output>) {
        let grown = self.grown_bytes >= self.config.snapshot_after_bytes.max(1);
        // A majority may have what this disk has not: the log goes on behind a snapshot only where
        // it holds the snapshot's entry.
        if !grown || self.committed.index() > self.raft.durable_index() {
            return;
        }
        self.grown_bytes = 0;
        if let Some(snapshot) = self.snapshot() {
            self.state_bytes = snapshot.data.len() as u64;
            out.push(Output::SaveSnapshot { snapshot });
        }
    }

    /// Answers the reads whose index is applied.
    pub(super) fn answer_reads(&mut self, out: &mut Vec<Output>) {
        let applied = self.committed.index();
        let (ready, wait) =
            std::mem::take(&mut self.reads).into_iter().partition(|r| r.1 <= applied);
        self.reads = wait;
        let ready: Vec<(RequestId, u64)> = ready;
        if ready.is_empty() {
            return;
        }
        let view = Arc::new(self.view());
        for (request, _) in ready {
            out.push(Output::Reply { request, reply: Ok(Reply::View(Arc::clone(&view))) });
        }
    }
}

fn answer(waiting: Vec<RequestId>, applied: &Applied, out: &mut Vec<Output>) {
    for request in waiting {
        out.push(Output::Reply { request, reply: reply(applied.result) });
    }
}
