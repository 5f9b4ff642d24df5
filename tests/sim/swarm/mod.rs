//! A whole swarm: managers and workers as they run in production, clients, and everything that can
//! go wrong between them.

mod act;
mod client;
mod events;
mod host;
mod machine;
mod outputs;
mod running;
pub(crate) mod session;
mod sessions;
mod settled;
mod truth;
mod workload;

use std::collections::BTreeSet;

use skep::base::id::{NodeId, RequestId, TaskId};
use skep::base::rng::Rng;
use skep::base::time::{Span, Time};
use skep::logic::manager::io as mio;
use skep::logic::raft::io::{Message, Ticket, Write};
use skep::logic::worker::io as wio;

use self::client::{Answers, Client};
use self::machine::Machine;
use self::running::Running;
use self::truth::Truth;
use crate::faults::{Counts, Fault, Mix, count, plan};
use crate::net::{LAN, Net, Parted, Quality};
use crate::queue::Queue;
use crate::runner::{self, Options, Ran};
use crate::trace::trace;

/// Faults happen for so long.
const FAULTS_FOR: Span = Span::from_secs(90);

/// Faults have stopped, and within this time everything is as it should be: longer than the longest
/// back-off and the longest update.
const HEAL: Span = Span::from_secs(15 * 60);

/// Most events of one run.
const EVENTS_MAX: u64 = 3_000_000;

/// Where a machine may die: before and behind each.
const POINTS: &[&str] = &[
    "persist",
    "persist urgent",
    "fdatasync",
    "save snapshot",
    "save",
    "send vote",
    "send vote reply",
    "send append",
    "send append ok",
    "send append rejected",
    "send heartbeat",
    "send heartbeat reply",
    "send snapshot",
    "send snapshot reply",
    "send timeout now",
    "leader",
    "reply",
    "assign",
    "act prepare",
    "act start",
    "act stop",
    "act kill",
    "act clean",
    "act remove",
    "act remember",
    "routes",
    "report",
    "keep fence",
];

pub(super) enum What {
    DiskDone,
    DiskRefused(Ticket),
    Act(TaskId, Box<wio::Action>, Option<Box<wio::Record>>),
    Worker(Box<wio::Input>),
    /// A probe of the container with this process ends, well or not.
    Probe(TaskId, u32, wio::Probed),
    Command(RequestId, Box<mio::Command>, usize),
}

pub(super) enum Event {
    /// For one process of one machine.
    Machine(usize, u64, What),
    /// For whatever manager runs under this identity.
    Peer(usize, NodeId, NodeId, Box<Message>),
    Exit(usize, TaskId, u32, i32),
    /// The head of a session's stream arrives: machine, session, towards the manager.
    Stream(usize, u64, bool),
    Ping(usize, u64),
    Connect(usize, u64),
    Evidence(usize, u64),
    Join(usize, u64),
    Answer(usize, RequestId, Box<Result<mio::Reply, mio::CommandError>>),
    Client(usize, u64),
    Up(usize),
    Fault(usize),
    Heal(u64),
    Flap(u64, Parted, Span, u64),
    Weather,
    Room(usize),
    Fast(usize),
}

/// The swarm.
pub(crate) struct World {
    options: Options,
    rng: Rng,
    now: Time,
    queue: Queue<Event>,
    net: Net,
    calm: Quality,
    fsync: Span,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    answers: Answers,
    /// The clients are to remove everything.
    removing: bool,
    /// From here on nobody is excused by what was.
    healed: Time,
    truth: Truth,
    running: Running,
    plan: Vec<(Time, Fault)>,
    counts: Counts,
    faults: bool,
    parts: u64,
    sessions: u64,
    requests: u128,
    /// A disk lost what it had acknowledged.
    lost: bool,
    leaders: std::collections::BTreeMap<u64, NodeId>,
}

/// One run.
pub(crate) fn run(options: &Options) -> Ran {
    let mut world = World::new(options);
    world.run();
    Ran { span: Span(world.now.0), counts: world.counts }
}

impl World {
    fn new(options: &Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let managers = [1, 1, 3, 3, 3, 3, 5][usize::try_from(rng.below(7)).unwrap()];
        let workers = usize::try_from(rng.below(4)).unwrap();
        let machines = managers + workers;
        let calm =
            [LAN, Quality { delay_min: Span::from_millis(10), ..LAN }][usize::from(rng.one_in(4))];
        let fsync = [Span(300), Span::from_millis(5), Span::from_millis(20), Span::from_millis(60)]
            [usize::try_from(rng.below(4)).unwrap()];
        let (from, to) = (Span::from_secs(3), FAULTS_FOR);
        let faults = rng.below(40);
        let mix = Mix { managers, machines, points: POINTS, from, to, faults };
        let plan = plan(options.seed, &mix);
        runner::planned(plan.len());
        let all = 0..machines;
        let machines: Vec<_> =
            all.map(|n| Machine::new(n, n < managers, &mut rng, fsync)).collect();
        let clients = (0..1 + rng.below(2)).map(|n| Client::new(n, &mut rng)).collect();
        let mut world = Self {
            options: options.clone(),
            rng,
            now: Time(0),
            queue: Queue::new(),
            net: Net::new(machines.len(), calm),
            calm,
            fsync,
            machines,
            clients,
            answers: Answers::default(),
            removing: false,
            healed: Time(0),
            truth: Truth::default(),
            running: Running::default(),
            plan,
            counts: Counts::new(),
            faults: true,
            parts: 0,
            sessions: 0,
            requests: 0,
            lost: false,
            leaders: std::collections::BTreeMap::new(),
        };
        for machine in 0..world.machines.len() {
            world.up(machine);
        }
        for fault in 0..world.plan.len() {
            world.queue.push(world.plan[fault].0, Event::Fault(fault));
        }
        for client in 0..world.clients.len() {
            world.after(Span::from_millis(500), Event::Client(client, 0));
        }
        world
    }

    fn run(&mut self) {
        self.until(Time(0) + FAULTS_FOR, |world| !world.faults);
        self.stop_faults();
        let end = self.now + HEAL;
        self.until(end, Self::is_settled);
        assert!(self.is_settled(), "liveness_every_slot_runs: {}", self.describe());
        self.invariant_all_managers_end_the_same();
        self.remove_all();
        self.until(self.now + HEAL, Self::is_empty);
        assert!(self.is_empty(), "liveness_what_was_removed_is_gone: {}", self.describe());
        self.invariant_idle_is_silent();
    }

    fn after(&mut self, span: Span, event: Event) {
        self.queue.push(self.now + span, event);
    }

    fn soon(&mut self, millis: u64) -> Span {
        Span(1 + self.rng.below(millis * 1_000))
    }

    fn until(&mut self, end: Time, done: impl Fn(&Self) -> bool) {
        let mut events = 0u64;
        loop {
            // Looking whether all is done costs more than an event.
            if events.is_multiple_of(64) && done(self) {
                return;
            }
            let wakes = self.machines.iter().enumerate();
            let wake = wakes.filter_map(|(n, machine)| Some((machine.wake?, n))).min();
            let queued = self.queue.next_at();
            let next = [wake.map(|(at, _)| at), queued].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if queued.is_some_and(|queued| wake.is_none_or(|(wake, _)| queued <= wake)) {
                if let Some((_, event)) = self.queue.pop() {
                    self.happen(event);
                }
            } else if let Some((_, machine)) = wake {
                self.tick(machine);
            }
            events += 1;
            assert!(events < EVENTS_MAX, "liveness_the_swarm_spins: {}", self.describe());
        }
        self.now = self.now.max(end);
    }

    /// A deadline of the machine's has passed.
    fn tick(&mut self, machine: usize) {
        let now = self.machines[machine].clock.mono(self.now);
        let is_due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let life = self.machines[machine].life;
        if is_due(self.machines[machine].manager.as_ref().and_then(|it| it.deadline())) {
            self.tell_manager(machine, mio::Input::Tick);
        }
        if self.machines[machine].life == life
            && is_due(self.machines[machine].worker.as_ref().and_then(|it| it.deadline()))
        {
            self.tell_worker(machine, wio::Input::Tick);
        }
        let now = self.now;
        self.machines[machine].note_deadline(now);
    }

    fn tell_manager(&mut self, machine: usize, input: mio::Input) {
        let mut out = Vec::new();
        let it = &mut self.machines[machine];
        let now = it.clock.now(self.now);
        if let Some(manager) = &mut it.manager {
            manager.step(now, input, &mut out);
        }
        self.manager_done(machine, out);
    }

    /// What a manager wants is done, once what it holds for committed was looked at.
    fn manager_done(&mut self, machine: usize, out: Vec<mio::Output>) {
        for output in &out {
            if let mio::Output::Persist { write, .. } = output {
                self.machines[machine].note_write(write);
                self.note_proposed(write);
            }
        }
        self.look_at_committed(machine);
        self.manager_outputs(machine, out);
        let now = self.now;
        self.machines[machine].note_deadline(now);
    }

    fn tell_worker(&mut self, machine: usize, input: wio::Input) {
        let mut out = Vec::new();
        let it = &mut self.machines[machine];
        let now = it.clock.now(self.now);
        if let Some(worker) = &mut it.worker {
            let before = worker.fence();
            worker.step(now, input, &mut out);
            // The only manager is behind nobody, whatever term a full disk took from it.
            let held = worker.fence() >= before
                || self.machines.iter().filter(|it| it.can_manage).count() == 1;
            assert!(held, "invariant_fences_only_grow: {machine} {before:?}");
        }
        self.worker_outputs(machine, out);
        let now = self.now;
        self.machines[machine].note_deadline(now);
    }

    /// The truth grows by what this manager holds for committed, and both are the same.
    fn look_at_committed(&mut self, machine: usize) {
        let Self { machines, truth, now, .. } = self;
        let Some(manager) = &machines[machine].manager else { return };
        let (seen, index) = (machines[machine].seen, manager.store().index());
        if index <= seen {
            return;
        }
        let shaky = |node: NodeId| is_shaky(machines, *now, node);
        for at in seen + 1..=index {
            match machines[machine].log.get(&at) {
                Some(entry) => truth.invariant_committed_entries_never_change(entry, &shaky),
                None => assert!(at <= truth.len(), "invariant_committed_is_known: {at}"),
            }
        }
        truth.invariant_same_index_same_state(manager.store());
        trace!(*now, "{machine} committed ..={index}");
        let it = &mut machines[machine];
        it.seen = index;
        it.log = it.log.split_off(&(index + 1));
    }

    /// Who is shaky when an entry is first written is what its leader decided it on.
    fn note_proposed(&mut self, write: &Write) {
        let Write::Log { entries, .. } = write else { return };
        let shaky = self.machines.iter().map(|it| it.id);
        let shaky: BTreeSet<NodeId> =
            shaky.filter(|id| is_shaky(&self.machines, self.now, *id)).collect();
        for entry in entries {
            self.truth.note_proposed(entry, &shaky);
        }
    }

    fn count(&mut self, what: &'static str) {
        count(&mut self.counts, what, 1);
    }
}

/// Nobody has heard of the node, or had not a moment ago.
fn is_shaky(machines: &[Machine], now: Time, node: NodeId) -> bool {
    let of = machines.iter().find(|it| it.id == node);
    of.is_none_or(|it| it.undoubted_for(now).is_none_or(|span| span < HEALED))
}

/// A node that has had a session for this long is no excuse any more (DESIGN section 6).
pub(super) const HEALED: Span = Span::from_secs(5);
