//! What decides: pure and deterministic state machines. No clock, file, socket, thread or chance.
