//! The consensus machine alone: 1 to 7 members, a client and an operator, under all faults.

mod check;
pub(crate) mod election;
mod events;
mod node;
mod operator;

use skep::base::id::{NodeId, RequestId};
use skep::base::rng::Rng;
use skep::base::time::{Span, Time};
use skep::logic::raft::io::{Input, Members, Output, Ticket};

pub(crate) use self::check::invariant_nothing_is_said_before_it_is_durable;
use self::check::{App, Check};
use self::node::{Node, POINTS};
use crate::disk::{Disk, Done, Job};
use crate::faults::{Counts, Fault, Mix, count, plan};
use crate::net::{LAN, Net, Quality};
use crate::queue::Queue;
use crate::runner::{self, Options, Ran};
use crate::trace::trace;

/// Faults happen for so long.
const FAULTS_FOR: Span = Span::from_secs(60);

/// Faults have stopped, and within this time all members are of one mind.
const HEAL: Span = Span::from_secs(60);

/// Most events of one run.
const EVENTS_MAX: u64 = 3_000_000;

enum What {
    Message(NodeId, Box<skep::logic::raft::io::Message>),
    DiskDone,
    DiskRefused(Ticket),
}

enum Event {
    /// For one process of one machine.
    Node(usize, u64, What),
    /// For whatever process runs under this identity.
    Deliver(usize, NodeId, What),
    Up(usize),
    Fault(usize),
    Heal(u64),
    Flap(u64, crate::net::Parted, Span, u64),
    Weather,
    Room(usize),
    Fast(usize),
    Client,
    Operator,
}

pub(crate) struct World {
    options: Options,
    rng: Rng,
    now: Time,
    queue: Queue<Event>,
    net: Net,
    calm: Quality,
    fsync: Span,
    nodes: Vec<Node>,
    check: Check,
    plan: Vec<(Time, Fault)>,
    counts: Counts,
    faults: bool,
    /// The client is done: nothing is to happen any more.
    quiet: bool,
    /// Members are replaced and changed.
    operates: bool,
    parts: u64,
    requests: u128,
    proposals: u64,
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
        let members = [1, 2, 3, 3, 3, 3, 5, 5, 7][usize::try_from(rng.below(9)).unwrap()];
        let calm =
            [LAN, Quality { delay_min: Span::from_millis(20), ..LAN }][usize::from(rng.one_in(4))];
        let fsync = [Span(300), Span::from_millis(5), Span::from_millis(20), Span::from_millis(60)]
            [usize::try_from(rng.below(4)).unwrap()];
        let mix = Mix {
            managers: members,
            machines: members,
            points: POINTS,
            from: Span::from_secs(1),
            to: FAULTS_FOR,
            faults: rng.below(40),
        };
        let plan = plan(options.seed, &mix);
        runner::planned(plan.len());
        let mut world = Self::made(options.clone(), rng, members, calm, fsync, plan);
        let together = world.rng.one_in(2);
        world.begin(together);
        world
    }

    /// Members that were there from the start, and nothing goes wrong.
    fn bare(seed: u64, members: usize, calm: Quality, fsync: Span) -> Self {
        let options = Options { seed, faults: None };
        let mut world = Self::made(options, Rng::new(seed), members, calm, fsync, Vec::new());
        world.operates = false;
        world.begin(true);
        world
    }

    fn made(
        options: Options,
        mut rng: Rng,
        members: usize,
        calm: Quality,
        fsync: Span,
        plan: Vec<(Time, Fault)>,
    ) -> Self {
        let nodes = (0..members).map(|n| Node::new(n, &mut rng, fsync)).collect();
        Self {
            options,
            rng,
            now: Time(0),
            queue: Queue::new(),
            net: Net::new(members, calm),
            calm,
            fsync,
            nodes,
            check: Check::default(),
            plan,
            counts: Counts::new(),
            faults: true,
            quiet: false,
            operates: true,
            parts: 0,
            requests: 0,
            proposals: 0,
        }
    }

    /// Either all members are there from the start, or the first one makes the cluster and the
    /// others join.
    fn begin(&mut self, together: bool) {
        if self.nodes.len() > 1 && together {
            let voters = self.nodes.iter().map(|node| node.id).collect();
            let members = Members { voters, ..Members::default() };
            let mut app = App { index: 1, term: 1, hash: 1, members, since_snapshot: 0 };
            self.check.begin(&app);
            let snapshot = app.snapshot(0);
            for node in &mut self.nodes {
                node.disk.format(snapshot.clone());
            }
        }
        for node in 0..self.nodes.len() {
            self.up(node);
        }
        for (fault, (at, _)) in self.plan.iter().enumerate() {
            self.queue.push(*at, Event::Fault(fault));
        }
        self.after(Span(1), Event::Client);
        if self.operates {
            self.after(Span(2), Event::Operator);
        }
    }

    fn run(&mut self) {
        self.until(Time(0) + FAULTS_FOR);
        self.stop_faults();
        let end = self.now + HEAL;
        while !self.is_settled() && self.now < end {
            self.until(self.now + Span::from_millis(500));
        }
        assert!(self.is_settled(), "liveness: all members are of one mind: {}", self.describe());
        self.quiet = true;
        self.invariant_idle_is_silent();
    }

    fn after(&mut self, span: Span, event: Event) {
        self.queue.push(self.now + span, event);
    }

    fn until(&mut self, end: Time) {
        let mut events = 0;
        loop {
            let wakes = self.nodes.iter().enumerate();
            let wake = wakes.filter_map(|(n, node)| Some((node.wake?, n))).min();
            let queued = self.queue.next_at();
            let next = [wake.map(|(at, _)| at), queued].into_iter().flatten().min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            if queued.is_some_and(|queued| wake.is_none_or(|(wake, _)| queued <= wake)) {
                if let Some((_, event)) = self.queue.pop() {
                    self.happen(event);
                }
            } else if let Some((_, node)) = wake {
                self.tell(node, Input::Tick);
            }
            events += 1;
            assert!(events < EVENTS_MAX, "liveness: the members spin: {}", self.describe());
        }
        self.now = self.now.max(end);
    }

    /// Steps a member's machine and does what it wants.
    fn tell(&mut self, node: usize, input: Input) {
        let mut out = Vec::new();
        let now = self.now;
        let member = &mut self.nodes[node];
        let local = member.clock.mono(now);
        if let Some(raft) = &mut member.raft {
            raft.step(local, input, &mut out);
        }
        self.done(node, out);
    }

    fn done(&mut self, node: usize, out: Vec<Output>) {
        for output in out {
            let point = node::point_of(&output);
            if self.dies(node, point, false) {
                return;
            }
            self.output(node, output);
            if self.dies(node, point, true) {
                return;
            }
        }
        let now = self.now;
        self.nodes[node].note_deadline(now);
    }

    fn output(&mut self, node: usize, output: Output) {
        let id = self.nodes[node].id;
        match output {
            Output::Persist { ticket, write } => {
                trace!(self.now, "{node} persist {ticket:?} {}", events::shown(&write));
                if self.nodes[node].disk.push(Job::Write(ticket, write)) {
                    self.start_disk(node);
                }
            }
            Output::Send { to, message } => self.send(node, to, message),
            Output::Committed { entries } => {
                trace!(self.now, "{node} committed ..={}", entries.last().map_or(0, |e| e.index));
                self.committed(node, &entries);
            }
            Output::Restored { snapshot } => {
                trace!(self.now, "{node} restored {}", snapshot.index);
                let app = App::restore(&snapshot);
                self.check.invariant_snapshots_hold_what_was_committed(&app);
                assert!(app.index > self.nodes[node].app.index, "invariant_applied_only_grows");
                self.nodes[node].app = app;
            }
            Output::Leads { term, index } => {
                trace!(self.now, "{node} leads term {term} from {index}");
                self.check.invariant_one_leader_per_term(term, id);
                let last = self.nodes[node].raft.as_ref().map_or(0, |raft| raft.last_index());
                self.check.invariant_a_leader_holds_what_was_committed(term, last);
                self.nodes[node].leads = true;
                count(&mut self.counts, "elections", 1);
            }
            Output::Follows { term, leader } => {
                trace!(self.now, "{node} follows {leader:?} in term {term}");
                self.nodes[node].leads = false;
            }
            Output::ReadReady { request, index } => self.read_ready(node, request, index),
            Output::ReadFailed { request } => {
                self.nodes[node].reads.remove(&request);
            }
            Output::WantSnapshot { peer } => self.give_snapshot(node, peer),
            Output::CaughtUp { .. } => {}
            Output::Removed => {
                trace!(self.now, "{node} was removed");
                self.nodes[node].leaving = true;
            }
        }
    }

    fn read_ready(&mut self, node: usize, request: RequestId, index: u64) {
        if let Some(floor) = self.nodes[node].reads.remove(&request) {
            Check::invariant_reads_see_what_was_acknowledged(index, floor);
            count(&mut self.counts, "reads", 1);
        }
    }

    fn disk_of(&self, id: NodeId) -> Option<&Disk> {
        self.nodes.iter().find(|node| node.id == id).map(|node| &node.disk)
    }

    fn start_disk(&mut self, node: usize) {
        let (rng, now) = (&mut self.rng, self.now);
        if let Some(took) = self.nodes[node].disk.start(rng, now) {
            let life = self.nodes[node].life;
            self.after(took, Event::Node(node, life, What::DiskDone));
        }
    }

    fn disk_done(&mut self, node: usize) {
        if self.dies(node, "fdatasync", false) {
            return;
        }
        let done = self.nodes[node].disk.finish();
        trace!(self.now, "{node} disk {done:?}");
        if self.dies(node, "fdatasync", true) {
            return;
        }
        self.start_disk(node);
        for done in done {
            match done {
                Done::Persisted(ticket) => self.tell(node, Input::Persisted { ticket }),
                Done::Refused(ticket) => {
                    let wait = Span(1 + self.rng.below(50_000));
                    let life = self.nodes[node].life;
                    self.after(wait, Event::Node(node, life, What::DiskRefused(ticket)));
                    count(&mut self.counts, "refused writes", 1);
                }
                Done::Saved(index) => {
                    self.nodes[node].saving = false;
                    if self.dies(node, "save", true) {
                        return;
                    }
                    if let Some(raft) = &mut self.nodes[node].raft {
                        raft.compact(index);
                    }
                }
                Done::SaveRefused(_) => self.nodes[node].saving = false,
            }
        }
    }
}
