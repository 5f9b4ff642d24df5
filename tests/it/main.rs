//! Integration tests: real kernel, real runc, real namespaces. They need root and fail loudly without.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests act on the machine, and what fails there fails the test"
)]

mod api;
mod autolock;
mod busybox;
mod cli;
mod client;
mod cluster;
mod demo;
mod disk;
mod gossip;
mod health;
mod images;
mod lists;
mod mishaps;
mod net;
mod node;
mod proxy;
mod pushed;
mod runtime;
mod service;
mod service_image;
mod survival;
mod trust;
mod website;
