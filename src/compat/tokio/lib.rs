//! What chitchat calls of the crate `tokio`, on smol. `[patch.crates-io]` puts this package in the
//! place of the registry's, so that the unmodified chitchat runs without tokio's runtime.
//!
//! Not a replacement for tokio: an item is here because chitchat names it, with the meaning that
//! chitchat relies on and no more. Two items are not tokio's: [`runtime::Runtime`] is one thread
//! that its owner gives, and [`net::Datagram`] is what a [`net::UdpSocket`] sends and receives by,
//! which is where skep seals what chitchat says.

#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "I/O shell: sockets and clocks are what tokio is asked for"
)]

pub mod net;
pub mod runtime;
#[doc(hidden)]
pub mod select;
pub mod sync;
pub mod task;
pub mod time;

pub use task::spawn;

#[cfg(test)]
mod tests;
