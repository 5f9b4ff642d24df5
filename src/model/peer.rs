//! Who a peer is, as its certificate proves it. An address is never proof of anything.

use crate::base::id::{ClusterId, NodeId};
use crate::base::time::Wall;

use super::node::Role;

/// What a certificate of a node says once its chain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Which node.
    pub node: NodeId,
    /// What it may do.
    pub role: Role,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// When the certificate ends.
    pub expires: Wall,
}
