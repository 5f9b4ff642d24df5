//! What acts: everything that blocks, fails or differs between two runs.

pub mod address;
pub mod cgroup_home;
pub mod child;
pub mod clock;
pub mod dataplane;
pub mod disk;
pub mod entropy;
pub mod failpoint;
pub mod gossip;
pub mod images;
pub mod log;
pub mod net;
pub mod netlink;
pub mod notify;
pub mod peers;
pub mod pki;
pub mod process;
pub mod runtime;
pub mod seqpacket;
pub mod start;
pub mod systemd;
pub mod tree;
pub mod vault;
