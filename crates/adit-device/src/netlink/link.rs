//! Interfaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoTun, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::{Netlink, NetlinkError, Result};

/// Lets the kernel choose the number.
const ANY_NUMBER: i32 = -1;

/// `IFLA_TUN_PI`
const TUN_PACKET_INFORMATION: u16 = 4;
/// `IFLA_TUN_NUM_QUEUES`
const TUN_QUEUES: u16 = 8;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index, which no other interface of the namespace has.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `IFF_UP` and the other flags.
    pub flags: u32,
    /// The longest packet it carries.
    pub mtu: u32,
}

impl Link {
    /// Whether it is set up (administratively; it may have no carrier).
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Whether something is at the other end of the cable, if it has one.
    pub fn has_carrier(&self) -> bool {
        self.flags & libc::IFF_LOWER_UP as u32 != 0
    }

    pub(super) fn from_message(message: &LinkMessage) -> Link {
        let mut link =
            Link { index: message.header.index, name: String::new(), flags: message.header.flags.bits(), mtu: 0 };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        link
    }
}

impl Netlink {
    /// The interface of this name.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`] if there is none.
    pub fn link(&mut self, name: &str) -> Result<Link> {
        self.link_message(name).map(|message| Link::from_message(&message))
    }

    /// The interface of this index.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`] if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link> {
        let action = format!("cannot find the interface of index {index}");
        let mut request = LinkMessage::default();
        request.header.index = index;
        match self.get(&action, RouteNetlinkMessage::GetLink(request))? {
            RouteNetlinkMessage::NewLink(message) => Ok(Link::from_message(&message)),
            _ => Err(NetlinkError::new(&action, io::ErrorKind::InvalidData.into())),
        }
    }

    /// The interface of this name in the namespace of this number.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`] if there is none; EPERM without `CAP_NET_ADMIN` in that namespace.
    pub fn link_in(&mut self, namespace: i32, name: &str) -> Result<Link> {
        let action = format!("cannot find the interface {name} in another network namespace");
        let mut request = LinkMessage::default();
        request.attributes = vec![LinkAttribute::IfNetnsId(namespace), LinkAttribute::IfName(name.to_owned())];
        match self.get(&action, RouteNetlinkMessage::GetLink(request))? {
            RouteNetlinkMessage::NewLink(message) => Ok(Link::from_message(&message)),
            _ => Err(NetlinkError::new(&action, io::ErrorKind::InvalidData.into())),
        }
    }

    /// The number by which this network namespace knows another; it is given one if it has none.
    ///
    /// # Errors
    /// EPERM without `CAP_NET_ADMIN`.
    pub fn namespace_number(&mut self, namespace: BorrowedFd<'_>) -> Result<i32> {
        let action = "cannot give the network namespace a number";
        let by_fd = |id: Option<i32>| {
            let mut message = NsidMessage::default();
            message.attributes = vec![NsidAttribute::Fd(namespace.as_raw_fd().unsigned_abs())];
            message.attributes.extend(id.map(NsidAttribute::Id));
            message
        };
        match self.request(action, RouteNetlinkMessage::NewNsId(by_fd(Some(ANY_NUMBER))), NLM_F_CREATE) {
            Err(error) if !error.is_exists() => return Err(error),
            _ => {}
        }
        let answer = self.get(action, RouteNetlinkMessage::GetNsId(by_fd(None)))?;
        let number = match answer {
            RouteNetlinkMessage::NewNsId(message) => {
                message.attributes.into_iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(id) if id >= 0 => Some(id),
                    _ => None,
                })
            }
            _ => None,
        };
        number.ok_or_else(|| NetlinkError::new(action, io::ErrorKind::InvalidData.into()))
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&mut self, index: u32, up: bool) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        let action = format!("cannot set the interface of index {index} {}", if up { "up" } else { "down" });
        self.request(&action, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Sets the longest packet that an interface carries.
    ///
    /// # Errors
    /// EINVAL if it is out of the interface's bounds.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        let action = format!("cannot set the MTU of the interface of index {index} to {mtu}");
        self.request(&action, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Keeps the kernel from giving an interface a link-local address by itself: its addresses are left to whoever
    /// configures it.
    ///
    /// # Errors
    /// What the kernel says; it may have no IPv6.
    pub fn set_no_generated_addresses(&mut self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]));
        let action = format!("cannot leave the interface of index {index} without generated addresses");
        self.request(&action, RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`] if there is none.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let action = format!("cannot delete the interface of index {index}");
        self.request(&action, RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Makes a pair of interfaces, of which each delivers what the other sends, the second in another network
    /// namespace if one is given.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] if one of the names is taken.
    pub fn create_veth(&mut self, name: &str, peer: &str, peer_namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut other = LinkMessage::default();
        other.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        if let Some(namespace) = peer_namespace {
            other.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        let action = format!("cannot make the pair of interfaces {name} and {peer}");
        self.request(&action, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// How many queues of a TUN device are open, by any process.
    ///
    /// # Errors
    /// There is no such interface, or it is not a multi-queue TUN device.
    pub fn tun_queues(&mut self, name: &str) -> Result<u32> {
        let value = self.tun_attribute(name, TUN_QUEUES)?;
        value.first_chunk().map(|count| u32::from_ne_bytes(*count)).ok_or_else(|| unknown(name))
    }

    /// Whether a TUN device puts a header of its own before every packet (opened without `IFF_NO_PI`).
    ///
    /// # Errors
    /// There is no such interface, or it is not a TUN device.
    pub(crate) fn tun_has_packet_information(&mut self, name: &str) -> Result<bool> {
        let value = self.tun_attribute(name, TUN_PACKET_INFORMATION)?;
        value.first().map(|&flag| flag != 0).ok_or_else(|| unknown(name))
    }

    fn tun_attribute(&mut self, name: &str, kind: u16) -> Result<Vec<u8>> {
        let message = self.link_message(name)?;
        let infos = message.attributes.iter().filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
        let data = infos.flatten().filter_map(|info| match info {
            LinkInfo::Data(InfoData::Tun(data)) => Some(data),
            _ => None,
        });
        let value = data.flatten().find_map(|attribute| match attribute {
            InfoTun::Other(attribute) if attribute.kind() == kind => {
                let mut value = vec![0; attribute.value_len()];
                attribute.emit_value(&mut value);
                Some(value)
            }
            _ => None,
        });
        value.ok_or_else(|| unknown(name))
    }

    fn link_message(&mut self, name: &str) -> Result<LinkMessage> {
        let action = format!("cannot find the interface {name}");
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.get(&action, RouteNetlinkMessage::GetLink(request))? {
            RouteNetlinkMessage::NewLink(message) => Ok(message),
            _ => Err(NetlinkError::new(&action, io::ErrorKind::InvalidData.into())),
        }
    }
}

fn unknown(name: &str) -> NetlinkError {
    NetlinkError::new(&format!("cannot learn about the TUN device {name}"), io::ErrorKind::Unsupported.into())
}
