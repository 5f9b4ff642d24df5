//! Wiring: start order, loops, shutdown.
//!
//! [`run`] is the daemon's whole life: options, lock, host parts, the API, then the brain's loop on
//! the main thread. Which threads there are is told in `ARCHITECTURE.md`. A stop leaves containers
//! and proxy running; only `leave` removes them.

mod acts;
mod asking;
mod beginning;
mod brain;
mod checks;
mod entering;
pub mod facts;
mod following;
mod going_down;
mod gossiping;
pub mod handle;
mod hearing;
pub mod shown;
mod identity;
mod issuing;
mod joining;
mod lanes;
mod leading;
mod links;
mod locked;
mod locking;
mod log_thread;
pub mod logs;
mod node;
pub mod options;
mod papers;
mod plane_thread;
mod records;
mod rotating;
mod signals;
mod starting;
mod steps;
mod waiting;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, RwLock};

use async_channel::Receiver;

use self::brain::{Brain, Ended};
use self::entering::Entry;
use self::handle::{Event, Failure, Handle, Shared, SwarmState};
use self::identity::Identity;
use self::locked::After;
use self::node::Host;
use self::options::Options;
use crate::base::chain;
use crate::host;
use crate::host::vault::{Found, Locked, Vault};

/// Events that may wait for the brain; a sender on a thread of its own waits beyond that, an API
/// thread is told that the daemon is busy.
const EVENTS_MAX: usize = 4_096;

/// Why the daemon could not start or go on; its text and causes are printed once, at the end.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct Fatal {
    doing: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Fatal {
    /// With what was being done and why it failed.
    pub fn new(
        doing: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { doing: doing.into(), source: Some(Box::new(source)) }
    }

    fn told(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), source: None }
    }
}

/// Starts the API on a socket, with a second socket behind it that only root sees; `main` hands it
/// in, since the daemon does not know the API. What it gives back ends the API.
pub type StartApi = fn(Handle, &Path, &Path) -> Result<StopApi, Fatal>;

/// Ends the API.
pub type StopApi = Box<dyn FnOnce()>;

/// Runs a daemon in the foreground until it is told to stop.
#[must_use]
pub fn run(args: &[String], start_api: StartApi) -> ExitCode {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err((text, code)) => {
            let mut text = text;
            text.push('\n');
            host::log::plain(&text, code != 0);
            return ExitCode::from(code);
        }
    };
    if let Some(file) = &options.clock_offset {
        host::clock::set_wrong_by(file.clone());
    }
    host::log::init();
    match serve(&options, start_api) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            log::error!("{}", chain::text(&fatal));
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options, start_api: StartApi) -> Result<(), Fatal> {
    if let Err(err) = host::process::raise_files() {
        log::warn!("the limit of open files stays as it is: {err}");
    }
    signals::block().map_err(|err| Fatal::new("cannot block signals", err))?;
    let host = Arc::new(Host::open(options)?);
    let (sender, events) = async_channel::bounded(EVENTS_MAX);
    signals::watch(sender.clone()).map_err(|err| Fatal::new("cannot wait for signals", err))?;
    let shared = Arc::new(Shared {
        brain: sender.clone(),
        swarm: RwLock::new(SwarmState::Inactive),
        facts: host.facts.clone(),
        images: Arc::clone(&host.images),
        runtime: Arc::clone(&host.runtime),
        data: host.data.clone(),
    });
    let socket = options.socket().map_err(Fatal::told)?;
    let mut identity = Identity::read(&options.data_root)
        .map_err(|err| Fatal::new("cannot tell whether this node is in a swarm", err))?;
    if identity.as_ref().is_none_or(|identity| identity.leaving) {
        host.sweep(identity.is_some())?;
        identity = None;
    }
    let mut api = None;
    let mut start = || -> Result<(), Fatal> {
        if api.is_none() {
            let handle = Handle::new(Arc::clone(&shared));
            api = Some(start_api(handle, &socket, &options.exec_root.join("api.sock"))?);
            host::notify::ready();
            log::info!("ready on {}", socket.display());
        }
        Ok(())
    };
    smol::block_on(lives(&host, &shared, &events, identity, &mut start))?;
    host::notify::stopping();
    if let Some(stop) = api {
        stop();
    }
    log::info!("stopped; containers and published ports go on");
    Ok(())
}

/// Takes back what was made of a swarm that the node cannot be in.
fn give_up(host: &Host, fatal: &Fatal) -> Failure {
    if let Err(err) = host.remove_swarm() {
        log::error!("{} (the next start tries again)", chain::text(&err));
    }
    Failure::Host(chain::text(fatal))
}

/// Ends the node's threads; where the machine goes down, what runs before that.
async fn stop(
    host: &Host,
    mut node: brain::Node,
    goes_down: bool,
    events: &Receiver<Event>,
) -> Result<(), Fatal> {
    if goes_down {
        host.stop_what_runs(&mut node.acts, &node.plane, events).await;
    }
    node.stop();
    Ok(())
}

/// The node as its files leave it, and who has just asked for it.
enum Begun {
    Node(Box<Brain>),
    /// It is a manager that waits for its unlock key.
    Locked(Locked),
    /// It could not, and who asked for it is told.
    Refused,
}

/// Starts the node; one that was asked for is answered.
async fn begin(
    host: &Arc<Host>,
    shared: &Arc<Shared>,
    known: &Identity,
    entry: Option<Entry>,
) -> Result<Begun, Fatal> {
    let made = match &entry {
        Some(Entry::Made { unlock, .. }) => unlock.as_ref().map(|(vault, _)| vault.clone()),
        Some(Entry::Joined { .. }) | None => None,
    };
    let found = match made {
        Some(vault) => Ok(Found::Open(vault)),
        None => Vault::find(&host.data),
    };
    let started = match found.map_err(|err| Fatal::new("cannot read the keys of this node", err)) {
        Ok(Found::Locked(locked)) if entry.is_none() => return Ok(Begun::Locked(locked)),
        Ok(Found::Locked(_)) => Err(Fatal::told("the keys of another swarm are in the way")),
        Ok(Found::Open(vault)) => Host::start_node(host, known, shared, vault),
        Err(fatal) => Err(fatal),
    };
    match (started, entry) {
        (Ok(mut brain), Some(Entry::Made { founding, certificate_life, unlock, answer })) => {
            brain.lock.found(unlock.map(|(_, key)| key));
            brain.answer_init(founding, certificate_life, answer);
            Ok(Begun::Node(Box::new(brain)))
        }
        (Ok(brain), Some(Entry::Joined { role, answer })) => {
            brain.tell_api();
            brain::reply(&answer, Ok(role));
            Ok(Begun::Node(Box::new(brain)))
        }
        (Ok(brain), None) => Ok(Begun::Node(Box::new(brain))),
        // Who has just asked for a swarm is told; a daemon that was in one cannot go on.
        (Err(fatal), Some(how)) => {
            if matches!(how, Entry::Joined { .. }) {
                host.withdraw().await;
            }
            how.refuse(give_up(host, &fatal));
            Ok(Begun::Refused)
        }
        (Err(fatal), None) => Err(fatal),
    }
}

/// From swarm to none and back, until the daemon is told to stop.
async fn lives(
    host: &Arc<Host>,
    shared: &Arc<Shared>,
    events: &Receiver<Event>,
    mut identity: Option<Identity>,
    start: &mut dyn FnMut() -> Result<(), Fatal>,
) -> Result<(), Fatal> {
    let mut entry = None;
    loop {
        let Some(known) = identity.take() else {
            start()?;
            let Some((made, how)) = entering::enter(host, events).await else {
                host.close();
                return Ok(());
            };
            (identity, entry) = (Some(made), Some(how));
            continue;
        };
        let brain = match begin(host, shared, &known, entry.take()).await? {
            Begun::Node(brain) => brain,
            Begun::Refused => continue,
            Begun::Locked(keys) => {
                let hands = Host::hands(host, &known, shared, |_task| None)?;
                brain::publish(shared, SwarmState::Locked);
                start()?;
                match locked::run(host, shared, known.clone(), keys, hands, events).await {
                    After::Unlocked(brain) => brain,
                    After::Stopped => return Ok(()),
                    After::Left => continue,
                }
            }
        };
        brain.tell_api();
        start()?;
        let (node, ended) = brain.run(events).await;
        match ended {
            Ended::Stop | Ended::GoesDown => {
                return stop(host, node, ended == Ended::GoesDown, events).await;
            }
            Ended::Broken(reason) => {
                node.stop();
                return Err(Fatal::told(format!(
                    "{reason} (was it written by a newer release? containers go on)"
                )));
            }
            Ended::Leave => {
                brain::publish(shared, SwarmState::Inactive);
                let (acts, others) = node.parts();
                host.leave(acts, others, known, events).await;
            }
        }
    }
}
