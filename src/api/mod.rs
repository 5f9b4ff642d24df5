//! The Docker Engine API on the daemon socket.
