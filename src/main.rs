//! Picks the face of the one binary: command line, daemon, proxy, shim or hello.

fn main() {}
