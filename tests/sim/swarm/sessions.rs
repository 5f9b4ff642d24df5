//! Workers' sessions with the leader: how they begin, what goes over them, how they end, and what
//! the leader concludes about who is silent.

use skep::base::id::NodeId;
use skep::base::time::{Span, Time};
use skep::logic::manager::io as mio;
use skep::logic::membership::{Membership, PING, SILENCE};
use skep::logic::worker::io as wio;
use skep::model::node::Role;
use skep::model::peer::Parting;

use super::session::{AGAIN, Session, Word};
use super::{Event, World};
use crate::trace::trace;

/// Between two looks of a leader at who is silent.
const EVIDENCE: Span = Span::from_millis(200);

/// Between two tries of a worker to find the leader.
const RETRY: Span = Span::from_millis(300);

impl World {
    fn at(&self, id: NodeId) -> Option<usize> {
        self.machines.iter().position(|it| it.id == id)
    }

    /// Whether two machines hear each other.
    pub(super) fn both_hear(&self, a: usize, b: usize) -> bool {
        self.net.hears(a, b) && self.net.hears(b, a)
    }

    fn daemon_runs(&self, machine: usize) -> bool {
        self.machines[machine].is_up() && self.machines[machine].frozen <= self.now
    }

    /// A worker looks for the leader.
    pub(super) fn connect(&mut self, machine: usize, life: u64) {
        let it = &self.machines[machine];
        if it.life != life || !it.is_up() || it.session.is_some() {
            return;
        }
        let try_again = Event::Connect(machine, life);
        if it.frozen > self.now {
            return self.queue.push(it.frozen, try_again);
        }
        // It asks its own manager, or any; each names the leader that it knows.
        let managers: Vec<usize> =
            (0..self.machines.len()).filter(|n| self.machines[*n].manager.is_some()).collect();
        if managers.is_empty() || !it.joined {
            return self.after(RETRY, try_again);
        }
        let any = managers[usize::try_from(self.rng.below(managers.len() as u64)).unwrap()];
        let asked = if it.leader.is_some() { machine } else { any };
        let reached = self.both_hear(machine, asked) && self.daemon_runs(asked);
        let leader = self.machines[asked].leader.filter(|_| reached).and_then(|id| self.at(id));
        let Some(leader) = leader else { return self.after(RETRY, try_again) };
        let can = self.both_hear(machine, leader)
            && self.daemon_runs(leader)
            && self.machines[leader].leads();
        if can {
            self.begin_session(machine, leader);
        } else {
            self.after(RETRY, try_again);
        }
    }

    fn begin_session(&mut self, machine: usize, manager: usize) {
        self.sessions += 1;
        let number = self.sessions;
        let now = self.now;
        trace!(now, "{machine} has session {number} with {manager}");
        self.machines[machine].session = Some(Session {
            number,
            manager,
            life: self.machines[manager].life,
            reign: self.machines[manager].reign,
            down: std::collections::VecDeque::new(),
            up: std::collections::VecDeque::new(),
            worker_heard: now,
            manager_heard: now,
        });
        self.machines[machine].session_since = Some(now);
        let node = self.machines[machine].id;
        let description = self.machines[machine].description();
        self.machines[manager].membership.begin(now, node);
        self.machines[machine].doubted = Some(now);
        self.after(PING, Event::Ping(machine, number));
        self.tell_manager(manager, mio::Input::WorkerJoined { node, description });
    }

    /// Something for a worker, over its session with this manager.
    pub(super) fn say_down(&mut self, manager: usize, machine: usize, word: Word) {
        self.say(machine, Some(manager), word);
    }

    /// Something for the leader, over the worker's session.
    pub(super) fn say_up(&mut self, machine: usize, word: Word) {
        self.say(machine, None, word);
    }

    fn say(&mut self, machine: usize, from: Option<usize>, word: Word) {
        let Some(session) = &mut self.machines[machine].session else { return };
        if from.is_some_and(|manager| manager != session.manager) {
            return;
        }
        let up = from.is_none();
        let (number, manager) = (session.number, session.manager);
        let stream = if up { &mut session.up } else { &mut session.down };
        stream.push_back(word);
        assert!(stream.len() < 10_000, "invariant_queues_are_bounded: a session");
        if stream.len() == 1 {
            let wait = if machine == manager { Span(20) } else { self.net.delay(&mut self.rng) };
            self.after(wait, Event::Stream(machine, number, up));
        }
    }

    /// The head of a stream arrives, or is sent again.
    pub(super) fn stream(&mut self, machine: usize, number: u64, up: bool) {
        let now = self.now;
        let Some(session) = &self.machines[machine].session else { return };
        if session.number != number {
            return;
        }
        let manager = session.manager;
        // It leads anew: nothing of the old session is for it, or from it.
        if self.machines[manager].leads() && !self.is_led(session) {
            return;
        }
        let (from, to) = if up { (machine, manager) } else { (manager, machine) };
        let again = Event::Stream(machine, number, up);
        let frozen = self.machines[to].frozen;
        if frozen > now {
            return self.queue.push(frozen, again);
        }
        let lost = self.rng.below(1_000) < self.net.quality.loss;
        if !self.net.hears(from, to) || (lost && from != to) {
            return self.after(AGAIN, again);
        }
        let quick = if from == to { Span(20) } else { self.net.delay(&mut self.rng) };
        let Some(session) = &mut self.machines[machine].session else { return };
        let stream = if up { &mut session.up } else { &mut session.down };
        let Some(word) = stream.pop_front() else { return };
        if !stream.is_empty() {
            self.after(quick, again);
        }
        if up { self.hear_up(machine, manager, word) } else { self.hear_down(machine, word) }
    }

    fn hear_up(&mut self, machine: usize, manager: usize, word: Word) {
        let now = self.now;
        let node = self.machines[machine].id;
        if let Some(session) = &mut self.machines[machine].session {
            session.manager_heard = now;
        }
        self.machines[manager].membership.hear(now, node);
        match word {
            Word::Report(report) => {
                trace!(now, "{manager} hears from {machine} {}", reported(&report));
                self.tell_manager(manager, mio::Input::Report { node, report });
            }
            Word::Ping(sent) => {
                self.say_down(manager, machine, Word::Pong(sent));
                self.tell_manager(manager, mio::Input::Heard { node });
            }
            Word::Assign(_) | Word::Pong(_) => {}
        }
    }

    fn hear_down(&mut self, machine: usize, word: Word) {
        let now = self.now;
        if let Some(session) = &mut self.machines[machine].session {
            session.worker_heard = now;
        }
        match word {
            Word::Assign(assignments) => {
                trace!(now, "{machine} is assigned {}", shown(&assignments));
                self.tell_worker(machine, wio::Input::Assignments(assignments));
            }
            Word::Pong(sent) => {
                let alone = self.machines[machine].is_sole_manager();
                self.tell_worker(machine, wio::Input::LeaderHeard { at: sent, alone });
            }
            Word::Report(_) | Word::Ping(_) => {}
        }
    }

    /// A worker pings, and looks whether the leader is silent.
    pub(super) fn ping(&mut self, machine: usize, number: u64) {
        let Some(session) = &self.machines[machine].session else { return };
        if session.number != number {
            return;
        }
        let frozen = self.machines[machine].frozen;
        if frozen > self.now {
            return self.queue.push(frozen, Event::Ping(machine, number));
        }
        let gone = !self.is_led(session);
        if gone || self.now.since(session.worker_heard) > SILENCE {
            return self.lose_session(machine);
        }
        let manager = session.manager;
        self.follow_role(machine, manager);
        let sent = self.machines[machine].clock.mono(self.now);
        self.say_up(machine, Word::Ping(sent));
        self.after(PING, Event::Ping(machine, number));
    }

    /// The session tells a node what it is to be: a manager or a worker.
    fn follow_role(&mut self, machine: usize, manager: usize) {
        let Some(leader) = &self.machines[manager].manager else { return };
        let it = &self.machines[machine];
        let Some(node) = leader.store().node(it.id) else { return };
        let members = leader.raft().members();
        let member = members.voters.contains(&it.id) || members.learners.contains(&it.id);
        if node.spec.role == Role::Worker && !member && it.manager.is_some() {
            self.take_manager_away(machine);
        } else if node.spec.role == Role::Manager && it.manager.is_none() && it.can_manage {
            trace!(self.now, "{machine} is a manager again");
            let now = self.now;
            self.machines[machine].start_manager(&mut self.rng, now);
            self.machines[machine].note_deadline(now);
        }
    }

    /// The manager still leads, and has since the session began.
    fn is_led(&self, session: &Session) -> bool {
        let it = &self.machines[session.manager];
        it.life == session.life && it.reign == session.reign && it.leads()
    }

    /// A machine's manager ends, and its log goes.
    pub(super) fn take_manager_away(&mut self, machine: usize) {
        trace!(self.now, "{machine} is no manager any more");
        let fsync = self.fsync;
        let led = self.machines[machine].leads();
        self.machines[machine].drop_manager(fsync);
        if led {
            self.close_sessions_of(machine);
        }
        let now = self.now;
        self.machines[machine].note_deadline(now);
    }

    /// The worker's end of a session is over.
    pub(super) fn lose_session(&mut self, machine: usize) {
        let Some(session) = self.machines[machine].session.take() else { return };
        trace!(self.now, "{machine} loses session {}", session.number);
        self.machines[machine].session_since = None;
        let life = self.machines[machine].life;
        self.after(Span::from_millis(50), Event::Connect(machine, life));
        self.tell_worker(machine, wio::Input::SessionLost);
        let manager = session.manager;
        if self.is_led(&session) {
            let node = self.machines[machine].id;
            self.tell_manager(manager, mio::Input::WorkerLeft { node });
        }
    }

    /// A manager does not lead any more: its sessions end.
    pub(super) fn close_sessions_of(&mut self, manager: usize) {
        self.machines[manager].reign += 1;
        self.machines[manager].membership = Membership::default();
        for machine in 0..self.machines.len() {
            let session = self.machines[machine].session.as_ref();
            if let Some(session) = session.filter(|session| session.manager == manager) {
                // The worker's end notices with its next ping.
                self.after(Span::from_millis(5), Event::Ping(machine, session.number));
            }
        }
    }

    /// A manager leads: it looks at who is there. What its gossip knows it knows at once.
    pub(super) fn begin_evidence(&mut self, manager: usize) {
        for machine in 0..self.machines.len() {
            self.watch(manager, machine);
        }
        let life = self.machines[manager].life;
        self.after(EVIDENCE, Event::Evidence(manager, life));
    }

    /// What the kernel of a machine says to a manager; from when it has joined it is watched.
    fn watch(&mut self, manager: usize, machine: usize) {
        let now = self.now;
        let (node, joined) = (self.machines[machine].id, self.machines[machine].joined);
        let alive = self.machines[machine].power && self.both_hear(manager, machine);
        let membership = &mut self.machines[manager].membership;
        if joined {
            membership.watch(now, node, if alive { now } else { Time(0) });
        }
        if alive {
            membership.host_heard(now, node);
            membership.gossip_heard(now, node);
        }
    }

    /// A leader looks at who is silent.
    pub(super) fn evidence(&mut self, manager: usize, life: u64) {
        let it = &self.machines[manager];
        if it.life != life || !it.leads() {
            return;
        }
        let again = Event::Evidence(manager, life);
        if it.frozen > self.now {
            return self.queue.push(it.frozen, again);
        }
        let now = self.now;
        for machine in 0..self.machines.len() {
            self.watch(manager, machine);
            let session = self.machines[machine].session.as_ref();
            if session.is_none_or(|it| it.manager != manager || !self.is_led(it)) {
                let node = self.machines[machine].id;
                self.machines[manager].membership.end(node, Parting::Silent);
            }
        }
        let judged = self.machines[manager].membership.judge(now);
        // Before the leader decides anything on it.
        for machine in 0..self.machines.len() {
            if !self.machines[manager].membership.is_ready(self.machines[machine].id) {
                self.machines[machine].doubted = Some(now);
            }
        }
        for (node, state) in judged {
            let Some(machine) = self.at(node) else {
                // Its machine came back as another node.
                self.machines[manager].membership.forget(node);
                continue;
            };
            trace!(now, "{manager} holds {machine} for {state:?}");
            self.tell_manager(manager, mio::Input::Health { node, state });
            if self.machines[manager].life != life {
                return;
            }
        }
        self.after(EVIDENCE, again);
    }

    /// For how long this machine has had a session with nobody in doubt of it; `None` while it has
    /// none.
    pub(super) fn session_for(&self, machine: usize) -> Option<Span> {
        self.machines[machine].undoubted_for(self.now)
    }
}

fn shown(assignments: &mio::Assignments) -> String {
    let tasks: Vec<String> =
        assignments.tasks.iter().map(|task| format!("{}:{:?}", task.id, task.desired)).collect();
    let fence = assignments.fence;
    format!(
        "({},{},{}) complete {} {tasks:?} removed {:?}",
        fence.epoch, fence.term, fence.index, assignments.complete, assignments.removed
    )
}

fn reported(report: &mio::Report) -> String {
    let statuses: Vec<String> =
        report.statuses.iter().map(|(id, status)| format!("{id}:{:?}", status.state)).collect();
    let adopted: Vec<String> = report
        .adopted
        .iter()
        .map(|it| {
            let base = it.status.as_ref().map(|status| status.state);
            format!("{} ({base:?}) -> {} {:?}", it.base, it.task.id, it.task.status.state)
        })
        .collect();
    let (cleaned, removed) = (&report.cleaned, &report.removed);
    format!("{statuses:?} cleaned {cleaned:?} removed {removed:?} adopted {adopted:?}")
}
