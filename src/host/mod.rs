//! What acts: everything that blocks, fails or differs between two runs.

pub mod cgroup_home;
pub mod clock;
pub mod dataplane;
pub mod disk;
pub mod entropy;
pub mod failpoint;
pub mod log;
pub mod net;
pub mod images;
pub mod netlink;
pub mod notify;
pub mod process;
pub mod seqpacket;
pub mod runtime;
