//! Links: veth pairs, names, flags. Verbs on [`Socket`].

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use super::{Result, Socket};

/// A hardware address.
pub type Mac = [u8; 6];

/// A link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The text attached to it.
    pub alias: Option<String>,
    /// The largest packet it takes.
    pub mtu: u32,
    /// Number of the other end of a veth, in the other end's namespace.
    pub peer: Option<u32>,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
}

/// A veth pair to be made: the host's end here, the other end in another namespace.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// Name of the end in this namespace.
    pub name: &'a str,
    /// Hardware address of that end.
    pub mac: Mac,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Hardware address of the other end.
    pub peer_mac: Mac,
    /// Where the other end is born.
    pub peer_netns: BorrowedFd<'a>,
    /// The largest packet, of both ends.
    pub mtu: u32,
}

impl Socket {
    /// Makes a veth pair; refused if the name is taken.
    ///
    /// # Errors
    /// What the kernel says; `EOPNOTSUPP` where it has no veth.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.peer_name.to_owned()),
            LinkAttribute::Address(pair.peer_mac.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::NetNsFd(pair.peer_netns.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(pair.name.to_owned()),
            LinkAttribute::Address(pair.mac.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let doing = format!("create the veth link {}", pair.name);
        self.change(&doing, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        ];
        match self.question(&format!("show the link {name}"), RouteNetlinkMessage::GetLink(message))
        {
            Ok(found) => Ok(found.iter().find_map(link_of)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links of this namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        let found = self.dump("list the links", &RouteNetlinkMessage::GetLink(message))?;
        Ok(found.iter().filter_map(link_of).collect())
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&mut self, link: &Link) -> Result<()> {
        self.set_flags(link, LinkFlags::Up, "up")
    }

    /// Takes a link down; its routes go with that.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_down(&mut self, link: &Link) -> Result<()> {
        self.set_flags(link, LinkFlags::empty(), "down")
    }

    fn set_flags(&mut self, link: &Link, flags: LinkFlags, to: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.header.flags = flags;
        message.header.change_mask = LinkFlags::Up;
        let doing = format!("bring the link {} {to}", link.name);
        self.change(&doing, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Attaches a text to a link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_alias(&mut self, link: &Link, alias: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        let doing = format!("label the link {}", link.name);
        self.change(&doing, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Removes a link, with its other end; false if there was none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete_link(&mut self, name: &str) -> Result<bool> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let doing = format!("remove the link {name}");
        match self.change(&doing, RouteNetlinkMessage::DelLink(message), 0) {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn link_of(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        mtu: 0,
        peer: None,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(peer) => link.peer = Some(*peer),
            _ => {}
        }
    }
    Some(link)
}

