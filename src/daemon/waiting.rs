//! What the brain's loop waits for: events, ends of containers, gossip's news, a deadline.

use async_channel::Receiver;
use async_io::Timer;
use smol::future::FutureExt;

use super::brain::reply;
use super::handle::{Event, Failure};
use super::steps::exit;
use crate::base::time::Time;
use crate::host::clock::Clock;
use crate::host::runtime::ExitEvent;

/// Why the loop goes on.
pub(super) enum Wake {
    Event(Event),
    Deadline,
    Closed,
}

/// Where events come from.
pub(super) struct Sources<'a> {
    pub(super) events: &'a Receiver<Event>,
    pub(super) exits: &'a Receiver<ExitEvent>,
    /// One for any number of changes of what gossip tells.
    pub(super) gossip: Option<Receiver<()>>,
}

/// Waits for the first of them.
pub(super) async fn wait(sources: Sources<'_>, deadline: Option<Time>, clock: &Clock) -> Wake {
    let Sources { events, exits, gossip } = sources;
    let event = async {
        match events.recv().await {
            Ok(event) => Wake::Event(event),
            Err(_) => Wake::Closed,
        }
    };
    let exit = async {
        match exits.recv().await {
            Ok(event) => Wake::Event(Event::Exited { task: event.task, exit: exit(&event.exit) }),
            Err(_) => Wake::Closed,
        }
    };
    let gossip = async {
        let Some(changes) = gossip else { return std::future::pending().await };
        match changes.recv().await {
            Ok(()) => Wake::Event(Event::Gossip),
            // It is stopped by the brain alone.
            Err(_) => std::future::pending().await,
        }
    };
    let event = event.or(exit).or(gossip);
    match deadline {
        None => event.await,
        Some(deadline) => {
            let left = deadline.since(clock.mono()).as_std();
            let timer = async {
                Timer::after(left).await;
                Wake::Deadline
            };
            event.or(timer).await
        }
    }
}

/// Answers the events of a node that is in no swarm, until it is told to make one or to stop.
pub(super) async fn idle(events: &Receiver<Event>) -> Option<Event> {
    loop {
        match events.recv().await {
            Ok(event @ (Event::Init { .. } | Event::Join { .. })) => return Some(event),
            Ok(Event::Stop) | Err(_) => return None,
            Ok(event) => without_swarm(event),
        }
    }
}

/// Answers the events of a node that joins a swarm, until it is told to stop.
pub(super) async fn joining(events: &Receiver<Event>) {
    loop {
        match events.recv().await {
            Ok(Event::Init { answer, .. }) => reply(&answer, Err(Failure::Joining)),
            Ok(Event::Join { answer, .. }) => reply(&answer, Err(Failure::Joining)),
            Ok(Event::Stop) | Err(_) => return,
            Ok(event) => without_swarm(event),
        }
    }
}

fn without_swarm(event: Event) {
    match event {
        Event::Tokens { answer } => reply(&answer, Err(Failure::NoSwarm)),
        Event::Command { answer, .. }
        | Event::ChangeTrust { answer, .. }
        | Event::ChangeLock { answer, .. } => reply(&answer, Err(Failure::NoSwarm)),
        Event::UnlockKey { answer } => reply(&answer, Err(Failure::NoSwarm)),
        Event::Unlock { answer, .. } => reply(&answer, Err(Failure::NoSwarm)),
        Event::Leave { answer, .. } => reply(&answer, Err(Failure::NotInSwarm)),
        // Nothing runs here.
        Event::GoDown { answer } => reply(&answer, Ok(())),
        // What a swarm left behind comes too late to matter.
        Event::Init { .. }
        | Event::Join { .. }
        | Event::Persisted { .. }
        | Event::PersistRefused { .. }
        | Event::SnapshotSaved { .. }
        | Event::SnapshotRefused { .. }
        | Event::Acted { .. }
        | Event::Absent { .. }
        | Event::Pulled { .. }
        | Event::Probed { .. }
        | Event::Exited { .. }
        | Event::RoutesApplied { .. }
        | Event::Logs { .. }
        | Event::Link(_)
        | Event::Gossip
        | Event::Stop => {}
    }
}
