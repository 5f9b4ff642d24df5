//! Wiring: start order, loops, shutdown.
