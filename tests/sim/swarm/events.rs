//! What happens to machines: messages, faults, deaths and returns.

use skep::base::id::{NodeId, RequestId};
use skep::base::time::{Span, Time};
use skep::logic::manager::io as mio;
use skep::logic::raft::io::Members;

use super::{Event, HEALED, What, World};
use crate::faults::{Armed, Fault, count};
use crate::trace::{self, trace};

/// Who waits for an answer with a number from here on is a machine that joins.
const JOINS: usize = 1_000;

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Machine(machine, life, what) => {
                if self.machines[machine].life != life {
                    return;
                }
                let frozen = self.machines[machine].frozen;
                if frozen > self.now {
                    return self.queue.push(frozen, Event::Machine(machine, life, what));
                }
                self.happen_to(machine, what);
            }
            Event::Peer(machine, id, from, message) => {
                let it = &self.machines[machine];
                if it.id != id || it.manager.is_none() {
                    return;
                }
                if it.frozen > self.now {
                    return self.queue.push(it.frozen, Event::Peer(machine, id, from, message));
                }
                if !trace::is_quiet(&message.body) {
                    trace!(self.now, "{machine} hears {from} t{} {:?}", message.term, message.body);
                }
                self.tell_manager(machine, mio::Input::Peer { from, message: *message });
            }
            Event::Exit(machine, task, pid, code) => self.exit(machine, task, pid, code),
            Event::Stream(machine, number, up) => self.stream(machine, number, up),
            Event::Ping(machine, number) => self.ping(machine, number),
            Event::Connect(machine, life) => self.connect(machine, life),
            Event::Evidence(manager, life) => self.evidence(manager, life),
            Event::Join(machine, life) => self.join(machine, life),
            Event::Answer(client, request, reply) if client >= JOINS => {
                self.joined(client - JOINS, request, reply.is_ok());
            }
            Event::Answer(client, request, reply) => self.answered(client, request, *reply),
            Event::Client(client, turn) => self.client(client, turn),
            Event::Up(machine) => {
                if !self.machines[machine].is_up() {
                    self.up(machine);
                }
            }
            Event::Fault(fault) => self.fault(fault),
            Event::Heal(number) => self.net.heal(number),
            Event::Flap(number, parted, period, times) => {
                if times == 0 || !self.faults {
                    return self.net.heal(number);
                }
                if times % 2 == 0 {
                    self.net.part(number, parted);
                } else {
                    self.net.heal(number);
                }
                self.after(period, Event::Flap(number, parted, period, times - 1));
            }
            Event::Weather => self.net.quality = self.calm,
            Event::Room(machine) => self.machines[machine].disk.full = false,
            Event::Fast(machine) => self.machines[machine].disk.fsync = self.fsync,
        }
        self.invariant_one_container_runs_in_a_slot();
    }

    fn happen_to(&mut self, machine: usize, what: What) {
        match what {
            What::DiskDone => self.disk_done(machine),
            What::DiskRefused(ticket) => {
                self.machines[machine].disk.resume();
                let reason = "no space left on device".to_owned();
                self.tell_manager(machine, mio::Input::PersistRefused { ticket, reason });
                self.start_disk(machine);
            }
            What::Act(task, action, record) => {
                self.act(machine, task, &action, record.as_deref(), true);
            }
            What::Probe(task, pid, probed) => self.end_probe(machine, task, pid, probed),
            What::Worker(input) => self.tell_worker(machine, *input),
            What::Command(request, command, client) => {
                if self.machines[machine].manager.is_some() {
                    self.machines[machine].waiting.insert(request, client);
                    self.tell_manager(machine, mio::Input::Command { request, command: *command });
                }
            }
        }
    }

    /// A machine that is no node yet asks the leader to be one.
    fn join(&mut self, machine: usize, life: u64) {
        let it = &self.machines[machine];
        if it.life != life || it.joined {
            return;
        }
        self.after(Span::from_secs(1), Event::Join(machine, life));
        let leads = |n: &usize| {
            let runs = self.machines[*n].frozen <= self.now;
            runs && self.machines[*n].leads() && self.both_hear(machine, *n)
        };
        let leader = (0..self.machines.len()).find(leads);
        let Some(leader) = leader else { return };
        // One id for each identity: a join that is asked for again is the same join.
        let request = RequestId::new((1 << 100) + self.machines[machine].id.0.0);
        let command = Box::new(self.join_command(machine));
        let life = self.machines[leader].life;
        let wait = self.net.delay(&mut self.rng);
        let what = What::Command(request, command, JOINS + machine);
        self.after(wait, Event::Machine(leader, life, what));
    }

    fn joined(&mut self, machine: usize, request: RequestId, yes: bool) {
        let it = &mut self.machines[machine];
        let same = request == RequestId::new((1 << 100) + it.id.0.0);
        if yes && same && !it.joined {
            trace!(self.now, "{machine} has joined as {}", it.id);
            it.joined = true;
        }
    }

    pub(super) fn up(&mut self, machine: usize) {
        let now = self.now;
        let none = self.truth.store.cluster().is_none();
        let first = machine == 0 && self.machines[machine].identities == 0 && none;
        let sole = first && self.managers() == 1;
        let it = &mut self.machines[machine];
        it.start(&mut self.rng, now, sole);
        let life = it.life;
        trace!(now, "{machine} starts as {}", it.id);
        if first {
            it.joined = true;
            let both = it.clock.now(now);
            let description = it.description();
            let mut out = Vec::new();
            if let Some(manager) = &mut it.manager {
                manager.step(both, mio::Input::Tick, &mut out);
                manager.bootstrap(both, description, &mut out);
            }
            self.manager_done(machine, out);
        } else {
            self.look_at_committed(machine);
        }
        if self.machines[machine].life == life {
            let wait = self.soon(50);
            self.after(wait, Event::Connect(machine, life));
            self.after(wait, Event::Join(machine, life));
        }
    }

    /// Whether a machine dies at this place; if so it is dead.
    pub(super) fn dies(&mut self, machine: usize, what: &'static str, after: bool) -> bool {
        let faults = self.faults;
        let Some(armed) = &mut self.machines[machine].armed else { return false };
        if !faults || (armed.point.what, armed.point.after) != (what, after) {
            return false;
        }
        armed.times -= 1;
        if armed.times > 0 {
            return false;
        }
        let (power, down) = (armed.power, armed.down);
        trace!(self.now, "{machine} dies at a fail point: {what} after={after}");
        count(&mut self.counts, "deaths at a fail point", 1);
        self.crash(machine, power, down);
        true
    }

    fn crash(&mut self, machine: usize, power: bool, down: Span) {
        if !self.machines[machine].is_up() {
            return;
        }
        // One torn tail at a time, and only where the others are a majority: whoever is in doubt does
        // not vote.
        let may_tear = !self.lost
            && self.managers() > 2
            && self.machines.iter().all(|it| {
                let voters = it.manager.as_ref().map(|it| it.raft().members().voters.len());
                !it.disk.is_cut() && voters.is_none_or(|voters| voters > 2)
            });
        let now = self.now;
        let life = self.machines[machine].life;
        let torn = self.machines[machine].disk.crash(&mut self.rng, may_tear);
        count(&mut self.counts, "torn tails", u64::from(torn));
        trace!(now, "{machine} is down, power {power}, torn {torn}");
        // What was being done to containers was done, or was not.
        let mine = |event: &Event| matches!(event, Event::Machine(it, of, _) if (*it, *of) == (machine, life));
        let begun = self.queue.take(mine);
        self.machines[machine].stop();
        for (_, event) in begun {
            if let Event::Machine(_, _, What::Act(task, action, record)) = event
                && self.rng.one_in(2)
            {
                self.act(machine, task, &action, record.as_deref(), false);
            }
        }
        let it = &mut self.machines[machine];
        if power {
            it.clock.reboot(&mut self.rng, now);
            let in_order = self.rng.one_in(3);
            it.host.reboot(in_order, it.clock.now(now).wall);
            it.power = false;
            self.note_running(machine);
        }
        self.after(down, Event::Up(machine));
        for other in 0..self.machines.len() {
            let session = self.machines[other].session.as_ref();
            if let Some(session) = session.filter(|session| session.manager == machine) {
                // A process that was killed is noticed at once, a machine without power is not.
                let wait = Span::from_millis(if power { 1_300 } else { 5 });
                self.after(wait, Event::Ping(other, session.number));
            }
        }
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
                self.machines[node].armed = Some(Armed { point, times, power, down });
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
                self.machines[node].disk.full = true;
                self.after(span, Event::Room(node));
            }
            Fault::Slow { node, fsync, span } => {
                self.machines[node].disk.fsync = fsync;
                self.after(span, Event::Fast(node));
            }
            Fault::Stall { node, span } => self.machines[node].disk.stalled = now + span,
            Fault::LoseTail { node, entries, vote, down } => {
                self.lose(node, down, Some((entries, vote)));
            }
            Fault::LoseDisk { node, down } => self.lose(node, down, None),
            Fault::WallJump { node, wall } => self.machines[node].clock.set_wall(now, wall),
            Fault::Drift { node, ppm } => {
                self.machines[node].clock.drift(now, ppm);
                self.machines[node].note_deadline(now);
            }
            Fault::Freeze { node, span } => {
                self.machines[node].frozen = now + span;
                self.machines[node].running_since = now + span;
                self.machines[node].note_deadline(now);
            }
        }
    }

    /// A disk loses what it acknowledged: one at a time, and only where the others can go on.
    fn lose(&mut self, machine: usize, down: Span, tail: Option<(u64, bool)>) {
        if !self.can_lose(machine) {
            return;
        }
        self.lost = true;
        count(&mut self.counts, "losses done", 1);
        self.crash(machine, true, down);
        if let Some((entries, vote)) = tail {
            self.machines[machine].disk.lose_tail(entries, vote);
            return;
        }
        let it = &mut self.machines[machine];
        it.identities += 1;
        it.id = NodeId::new(it.identities * 100 + machine as u128 + 1);
        it.disk.wipe(self.fsync);
        it.host = super::host::Host::default();
        it.joined = false;
        self.note_running(machine);
    }

    /// Whether all managers are up, undamaged, and know of nobody without a vote: then a majority is
    /// left without this one, whatever is not committed yet.
    fn can_lose(&self, machine: usize) -> bool {
        let managers = || self.machines.iter().filter(|it| it.can_manage);
        let knows_all = |members: &Members| {
            members.learners.is_empty()
                && members.voters.len() == managers().count()
                && managers().all(|it| members.voters.contains(&it.id))
        };
        managers().count() > 2
            && self.machines[machine].is_manager
            && managers().all(|it| {
                let members = it.manager.as_ref().map(|it| it.raft().members());
                members.is_some_and(knows_all) && !it.disk.is_cut()
            })
    }

    pub(super) fn stop_faults(&mut self) {
        trace!(self.now, "faults stop");
        self.faults = false;
        self.net.heal_all();
        self.net.quality = self.calm;
        let now = self.now;
        for n in 0..self.machines.len() {
            let it = &mut self.machines[n];
            (it.disk.full, it.disk.fsync) = (false, self.fsync);
            it.disk.stalled = Time(0);
            (it.frozen, it.armed) = (Time(0), None);
            it.clock.drift(now, 0);
            it.clock.right_wall();
            it.note_deadline(now);
            if !it.is_up() {
                self.after(Span(1), Event::Up(n));
            }
        }
        self.healed = now + HEALED;
        let (lost, doubled, late) = (self.net.lost, self.net.doubled, self.net.late);
        count(&mut self.counts, "lost messages", lost);
        count(&mut self.counts, "doubled messages", doubled);
        count(&mut self.counts, "late messages", late);
    }
}
