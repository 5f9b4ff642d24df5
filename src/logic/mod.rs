//! What decides: pure and deterministic state machines. No clock, file, socket, thread or chance.
//!
//! Two composite machines have the same shape, `step(now, input, &mut outputs)`, which never
//! blocks and never fails, and `deadline()`: [`manager`] (log, store, orchestrator, allocator,
//! scheduler, dispatch) and [`worker`] (assignments and one task machine each). The daemon and the
//! simulator drive exactly this code.

pub mod allocator;
pub mod codec;
#[cfg(test)]
mod fixture;
pub mod manager;
pub mod membership;
pub mod orchestrator;
pub mod raft;
pub mod scheduler;
pub mod store;
pub mod template;
pub mod worker;
