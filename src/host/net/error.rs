//! What may go wrong with the tasks' network. Each variant is one operation; the source is apart.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use super::netns::NetnsError;
use super::nft::NftError;
use super::sysctl::SysctlError;
use crate::base::id::TaskId;
use crate::host::netlink::NetlinkError;

/// What may go wrong.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Routing netlink.
    #[error("cannot set up the network of task {task}")]
    Task {
        /// Which task.
        task: TaskId,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Links or routes of the host.
    #[error("cannot examine or change the host's network")]
    Host(#[source] NetlinkError),
    /// A namespace.
    #[error("cannot handle the namespace of task {task}")]
    Netns {
        /// Which task.
        task: TaskId,
        /// Why.
        #[source]
        source: NetnsError,
    },
    /// The nft table.
    #[error("cannot change the packet rules")]
    Nft(#[source] NftError),
    /// A kernel setting.
    #[error("cannot prepare the kernel's network")]
    Sysctl(#[source] SysctlError),
    /// A directory or file under the exec root.
    #[error("cannot {doing} {path}", path = .path.display())]
    File {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel makes no veth.
    #[error("the kernel has no veth links (run: modprobe veth, or build it with CONFIG_VETH)")]
    NoVeth,
    /// Another program's link or task has the address.
    #[error(
        "the address {address} of task {task} is in use on another link of this machine (see: ip \
         route get {address})"
    )]
    AddressTaken {
        /// Which task.
        task: TaskId,
        /// Which address.
        address: Ipv4Addr,
    },
    /// Another task has the link's name.
    #[error("the link {link} of task {task} belongs to {owner:?}")]
    LinkTaken {
        /// Which task.
        task: TaskId,
        /// Which link.
        link: String,
        /// Its label.
        owner: String,
    },
    /// The caller gave no address, too many, or one outside its subnet.
    #[error("task {task} has {detail}")]
    BadTask {
        /// Which task.
        task: TaskId,
        /// What is wrong.
        detail: String,
    },
    /// No thread that keeps the table.
    #[error("cannot start the thread that keeps the packet rules")]
    Watch(#[source] io::Error),
    /// No helper thread.
    #[error("cannot start a thread for the namespace of task {task}")]
    Thread {
        /// Which task.
        task: TaskId,
        /// Why.
        #[source]
        source: io::Error,
    },
}
