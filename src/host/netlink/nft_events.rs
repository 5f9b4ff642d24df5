//! Hears when an nft table is removed. Not a client of nf_tables: rules are set by `nft`.
//!
//! The kernel sends one message for each change of any table of the namespace; between changes a
//! waiting thread costs nothing.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::errno::Errno;

use super::{NetlinkError, Result, attributes, messages};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE`.
const TABLE_REMOVED: u16 = 10 << 8 | 2;

/// Length of the headers of netlink and nfnetlink.
const HEADERS_LEN: usize = 16 + 4;

/// `NFTA_TABLE_NAME`.
const NAME_ATTR: u16 = 1;

/// A socket that hears changes of the tables in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct NftEvents {
    raw: RawSocket,
}

impl NftEvents {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let mut raw = RawSocket::new(NETLINK_NETFILTER).map_err(NetlinkError::Open)?;
        raw.bind(&SocketAddr::new(0, 0)).map_err(NetlinkError::Open)?;
        raw.add_membership(GROUP).map_err(NetlinkError::Open)?;
        Ok(Self { raw })
    }

    /// Waits until a table of this name is removed, or may have been: the kernel drops messages
    /// that are not read in time and says so.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait_removed(&self, table: &str) -> Result<()> {
        loop {
            match self.raw.recv_from_full() {
                Ok((bytes, _)) if messages(&bytes).any(|m| is_removal(m, table)) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let doing = "listen for changes of the nft tables".to_owned();
                    return Err(NetlinkError::Receive { doing, source });
                }
            }
        }
    }
}

fn is_removal(message: &[u8], table: &str) -> bool {
    let kind = message.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    kind == Some(TABLE_REMOVED)
        && attributes(message.get(HEADERS_LEN..).unwrap_or_default())
            .any(|(kind, value)| kind == NAME_ATTR && value.strip_suffix(b"\0") == Some(table.as_bytes()))
}
