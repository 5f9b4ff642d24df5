//! What acts: everything that blocks, fails or differs between two runs.

pub mod disk;
pub mod failpoint;

pub mod net;
pub mod netlink;
pub mod dataplane;
pub mod seqpacket;
