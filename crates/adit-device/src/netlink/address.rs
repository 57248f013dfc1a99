//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};

use super::{Netlink, Result, family};

impl Netlink {
    /// Gives an interface an address with its prefix, or changes nothing if it has it. Without duplicate address
    /// detection (`nodad`) an IPv6 address is usable at once.
    ///
    /// # Errors
    /// What the kernel says: EACCES or ENOTSUP, for one, if IPv6 is turned off on the interface.
    pub fn add_address(&mut self, index: u32, address: IpNet, nodad: bool) -> Result<()> {
        let mut message = address_message(index, address);
        if nodad && address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let action = format!("cannot add the address {address} to the interface of index {index}");
        self.request(&action, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    /// [`NetlinkError::is_not_found`](super::NetlinkError::is_not_found) if it does not have it.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let action = format!("cannot remove the address {address} from the interface of index {index}");
        self.request(&action, RouteNetlinkMessage::DelAddress(address_message(index, address)), 0)
    }

    /// The addresses of an interface, each with its prefix length.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump("cannot list the addresses", request)?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                    let address = address_of(message)?;
                    IpNet::new(address, message.header.prefix_len).ok()
                }
                _ => None,
            })
            .collect())
    }
}

/// The interface's own address in a message: on a point-to-point link the other attribute is the far end's.
pub(super) fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(&address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}
