//! The Engine API: the front against rude clients, and Docker's own client against the whole.
//!
//! Behind the API is the real manager machine with a worker that pretends ([`twin`]), so nothing
//! here needs root or a container runtime; but [`real`] runs against a real node.

mod docker;
mod front;
mod real;
mod refused;
mod twin;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skep::api::front::Limits;
use skep::api::{Config, Running, start};

use twin::Twin;

/// An API on sockets of its own; everything is gone when it is dropped.
struct Server {
    running: Option<Running>,
    folder: PathBuf,
    socket: PathBuf,
}

impl Server {
    fn new() -> Self {
        Self::with(Limits::default(), Twin::new)
    }

    fn with(limits: Limits, twin: impl FnOnce(&Path) -> Twin) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("skep-api-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (socket, internal) = (folder.join("skep.sock"), folder.join("api.sock"));
        let config = Config { socket: socket.clone(), internal, limits };
        let running = Some(start(config, Box::new(twin(&folder))).unwrap());
        Self { running, folder, socket }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.take().unwrap().stop();
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// Limits that a test can wait for.
fn short() -> Limits {
    Limits {
        head_time: Duration::from_millis(400),
        body_time: Duration::from_millis(400),
        idle_time: Duration::from_millis(400),
        write_time: Duration::from_millis(400),
        ..Limits::default()
    }
}
