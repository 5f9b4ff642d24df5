//! What acts: everything that blocks, fails or differs between two runs.
