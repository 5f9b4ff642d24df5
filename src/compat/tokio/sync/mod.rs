//! Channels and locks that are waited for without blocking the thread.

pub mod mpsc;
pub mod watch;

pub use async_lock::{Mutex, RwLock};
