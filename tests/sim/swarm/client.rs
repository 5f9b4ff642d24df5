//! Clients: each asks for one thing at a time, again with the same request id at another manager when
//! no answer comes; and what must be true of the answers.

use std::collections::{BTreeMap, BTreeSet};

use skep::base::id::{NodeId, RequestId};
use skep::base::rng::Rng;
use skep::base::time::Span;
use skep::logic::manager::io::{Command, CommandError, Reply, View};
use skep::logic::store::ApplyResult;

use super::{Event, What, World};
use crate::faults::count;
use crate::trace::trace;

/// A client waits for an answer this long.
const PATIENCE: Span = Span::from_secs(3);

/// What is under way.
#[derive(Debug)]
pub(crate) struct Current {
    pub request: RequestId,
    pub command: Command,
    /// Index that was acknowledged to somebody when it was first asked.
    floor: u64,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub current: Option<Current>,
    /// Number of the wait: a later one makes earlier ones void.
    pub turn: u64,
    /// Whom the last answer named as the leader.
    hint: Option<NodeId>,
    /// Likes to change much, or little.
    pub pause: Span,
}

/// What was answered, to all clients.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Highest index of an acknowledged write or of a read.
    floor: u64,
    first: BTreeMap<RequestId, String>,
    refused: BTreeSet<RequestId>,
}

impl Client {
    pub(crate) fn new(number: u64, rng: &mut Rng) -> Self {
        let pause = Span::from_millis([300, 1_500, 5_000][usize::try_from(rng.below(3)).unwrap()]);
        Self { current: None, turn: number * 1_000_000, hint: None, pause }
    }
}

impl World {
    /// A client's turn: it asks for something new, or again.
    pub(super) fn client(&mut self, client: usize, turn: u64) {
        if self.clients[client].turn != turn && turn != 0 {
            return;
        }
        self.clients[client].turn += 1;
        let turn = self.clients[client].turn;
        if self.clients[client].current.is_none() {
            let Some(command) = self.next_command(client) else {
                return self.after(Span::from_millis(500), Event::Client(client, turn));
            };
            self.requests += 1;
            let request = RequestId::new(self.requests);
            trace!(self.now, "client {client} asks {request:?} {}", brief(&command));
            let floor = self.answers.floor;
            self.clients[client].current = Some(Current { request, command, floor });
        }
        self.after(PATIENCE, Event::Client(client, turn));
        let managers: Vec<usize> =
            (0..self.machines.len()).filter(|n| self.machines[*n].manager.is_some()).collect();
        let hint = self.clients[client].hint.take();
        let hinted = managers.iter().find(|n| Some(self.machines[**n].id) == hint).copied();
        if managers.is_empty() {
            return;
        }
        let any = managers[usize::try_from(self.rng.below(managers.len() as u64)).unwrap()];
        let to = hinted.unwrap_or(any);
        let Some(current) = &self.clients[client].current else { return };
        let (request, command) = (current.request, Box::new(current.command.clone()));
        let life = self.machines[to].life;
        let what = What::Command(request, command, client);
        self.after(Span(200), Event::Machine(to, life, what));
    }

    /// A manager answers; the moment counts, not when the client hears it.
    pub(super) fn heard_reply(&mut self, request: RequestId, reply: &Result<Reply, CommandError>) {
        match reply {
            Ok(Reply::View(view)) => self.invariant_reads_are_what_was_committed(view),
            Ok(Reply::Created { .. } | Reply::Done) => {
                self.invariant_acknowledged_is_committed(request, reply);
            }
            Err(
                CommandError::NotLeader { .. } | CommandError::Unavailable | CommandError::Busy(_),
            ) => {}
            Err(_) => {
                self.answers.refused.insert(request);
                self.invariant_what_was_refused_changes_nothing();
            }
        }
    }

    fn invariant_acknowledged_is_committed(
        &mut self,
        request: RequestId,
        reply: &Result<Reply, CommandError>,
    ) {
        let is_transfer = self.clients.iter().any(|client| {
            let current = client.current.as_ref().filter(|it| it.request == request);
            current.is_some_and(|it| matches!(it.command, Command::Transfer { .. }))
        });
        if is_transfer {
            return;
        }
        let applied = self.truth.applied.get(&request);
        let Some((index, result)) = applied.copied() else {
            panic!("invariant_acknowledged_is_committed: {request:?} {reply:?}");
        };
        let good = result != ApplyResult::Stale;
        assert!(good, "invariant_acknowledged_is_committed: {request:?} {reply:?} {result:?}");
        self.answers.floor = self.answers.floor.max(index);
        let said = format!("{reply:?}");
        let first = self.answers.first.entry(request).or_insert_with(|| said.clone());
        assert_eq!(*first, said, "invariant_a_retried_request_gets_its_first_answer: {request:?}");
        count(&mut self.counts, "acknowledged", 1);
    }

    /// A view holds exactly what was committed at its index.
    fn invariant_reads_are_what_was_committed(&mut self, view: &View) {
        let known = view.index <= self.truth.len();
        assert!(known, "invariant_reads_are_what_was_committed: {}", view.index);
        if view.index == self.truth.last.0 {
            let versions = view.services.iter().map(|it| (it.id, it.meta.version));
            let truth = self.truth.store.services().map(|it| (it.id, it.meta.version));
            assert!(versions.eq(truth), "invariant_reads_are_what_was_committed: services");
        }
        count(&mut self.counts, "reads", 1);
    }

    pub(super) fn invariant_what_was_refused_changes_nothing(&self) {
        for request in &self.answers.refused {
            if let Some((index, result)) = self.truth.applied.get(request) {
                let stale = *result == ApplyResult::Stale;
                assert!(stale, "invariant_what_was_refused_changes_nothing: {request:?} {index}");
            }
        }
    }

    /// A client hears an answer.
    pub(super) fn answered(
        &mut self,
        client: usize,
        request: RequestId,
        reply: Result<Reply, CommandError>,
    ) {
        let current = self.clients[client].current.as_ref();
        let Some(current) = current.filter(|current| current.request == request) else { return };
        trace!(self.now, "client {client} is answered {request:?} {}", told(&reply));
        let floor = current.floor;
        let again = match reply {
            Ok(Reply::View(view)) => {
                let index = view.index;
                let held = index >= floor;
                assert!(held, "invariant_reads_see_what_was_acknowledged: {index} of {floor}");
                self.answers.floor = self.answers.floor.max(index);
                None
            }
            Ok(Reply::Created { .. } | Reply::Done) => None,
            Err(CommandError::NotLeader { leader }) => {
                self.clients[client].hint = leader;
                Some(if leader.is_some() { 5 } else { 200 })
            }
            Err(CommandError::Unavailable | CommandError::Busy(_)) => Some(200),
            Err(error) => {
                trace!(self.now, "client {client} is refused: {error}");
                count(&mut self.counts, "refused commands", 1);
                None
            }
        };
        self.clients[client].turn += 1;
        let turn = self.clients[client].turn;
        let wait = if let Some(millis) = again {
            self.soon(millis)
        } else {
            self.clients[client].current = None;
            let pause = if self.faults { self.clients[client].pause.0 / 1_000 } else { 20 };
            self.soon(pause)
        };
        self.after(wait, Event::Client(client, turn));
    }
}

fn told(reply: &Result<Reply, CommandError>) -> String {
    match reply {
        Ok(Reply::View(view)) => format!("a view at {}", view.index),
        other => format!("{other:?}"),
    }
}

fn brief(command: &Command) -> String {
    match command {
        Command::CreateService { spec } => {
            let spec = spec.as_spec();
            format!("create {} {:?} {}", spec.name, spec.mode, spec.task.container.image)
        }
        Command::UpdateService { id, version, spec } => {
            let spec = spec.as_ref().map(|spec| spec.as_spec());
            let what = spec.map(|it| (&it.mode, &it.task.container.image, it.task.force_update));
            format!("update {id} from {version} to {what:?}")
        }
        other => format!("{other:?}"),
    }
}
