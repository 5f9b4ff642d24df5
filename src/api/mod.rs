//! The Docker Engine API on a unix socket: `front` takes connections, `server` requests, `router`
//! finds what is asked for, `handlers` ask the daemon, `convert` goes between its types and JSON.
//!
//! Nothing here decides: what a request means for the cluster is the manager's business, behind
//! [`engine::Engine`]. Only `server` knows tiny_http, so it can be replaced in one file.
//!
//! **Threads.** One for the front; tiny_http's own; at most [`server::WORKERS_MAX`] that answer.

pub mod call;
pub mod convert;
pub mod engine;
pub mod errors;
pub mod front;
mod handlers;
pub mod lookup;
pub mod query;
mod random_name;
pub mod respond;
pub mod router;
pub mod server;
mod socket;
pub mod version;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use engine::Engine;
use front::{Clients, Limits};

/// The group whose members may use the public socket, where it exists.
pub const SOCKET_GROUP: &str = "skep";

/// Where the API is served and what clients may cost.
#[derive(Clone, Debug)]
pub struct Config {
    /// The public socket.
    pub socket: PathBuf,
    /// The socket between the front and the server behind it, in a folder that only root sees.
    pub internal: PathBuf,
    /// What clients may cost.
    pub limits: Limits,
}

/// What handlers share.
pub(crate) struct Api {
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) clients: Clients,
    pub(crate) stopping: AtomicBool,
    server: Mutex<Weak<server::Server>>,
}

/// Why the API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The public socket.
    #[error("listening for API clients at {path}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket behind the front.
    #[error("setting up the API server at {path}")]
    Internal {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread.
    #[error("starting a thread of the API")]
    Thread(#[source] io::Error),
}

/// The API at work. Dropped, it goes on; [`Running::stop`] ends it.
#[derive(Debug)]
pub struct Running {
    stop: async_channel::Sender<()>,
    api: Arc<Api>,
    threads: Vec<JoinHandle<()>>,
    socket: PathBuf,
}

/// Serves the API.
///
/// # Errors
/// When one of the sockets or threads cannot be had.
pub fn start(config: Config, engine: Box<dyn Engine>) -> Result<Running, StartError> {
    let api = Arc::new(Api {
        engine,
        clients: Clients::default(),
        stopping: AtomicBool::new(false),
        server: Mutex::default(),
    });
    let (ready, is_ready) = sync_channel(1);
    let (behind, path) = (Arc::clone(&api), config.internal.clone());
    let server = thread("api-server", move || server::run(&path, &behind, &ready))?;
    let internal = |source| StartError::Internal { path: config.internal.clone(), source };
    is_ready.recv().map_err(|gone| internal(io::Error::other(gone)))?.map_err(internal)?;

    let listener = socket::listen_for_clients(&config.socket, SOCKET_GROUP)
        .map_err(|source| StartError::Listen { path: config.socket.clone(), source })?;
    let (stop, stopped) = async_channel::bounded(1);
    let (clients, limits, path) = (api.clients.clone(), config.limits, config.internal);
    let front = thread("api-front", move || {
        if let Err(error) = front::run(listener, path, limits, clients, &stopped) {
            log::error!("the API's front ended: {error}");
        }
    })?;
    Ok(Running { stop, api, threads: vec![front, server], socket: config.socket })
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(StartError::Thread)
}

impl Running {
    /// Takes no more requests, ends streams and waits for the two threads that carry the rest; what
    /// a handler still does goes on in its own thread.
    pub fn stop(self) {
        self.api.stopping.store(true, Ordering::Release);
        self.stop.close();
        if let Err(error) = std::fs::remove_file(&self.socket) {
            log::warn!("removing {}: {error}", self.socket.display());
        }
        let server = self.api.server.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(server) = server {
            server.end();
        }
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!("a thread of the API panicked");
            }
        }
    }
}

impl Api {
    fn serving(&self, server: &Arc<server::Server>) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(server);
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}
