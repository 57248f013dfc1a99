//! Routes.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError, Result, family};

/// The table in which routes stand unless another is named.
pub const MAIN_TABLE: u32 = 254;

/// A route to whatever is behind an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// The table it stands in.
    pub table: u32,
    /// The interface.
    pub ifindex: u32,
    /// Of two routes to the same place, that of the lower metric counts; `None` leaves it to the kernel.
    pub metric: Option<u32>,
}

/// The way that a packet to some address would take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteLookup {
    /// The interface it would leave by.
    pub ifindex: u32,
    /// The address it would have as its source.
    pub source: Option<IpAddr>,
    /// The next router, unless the address is reached directly.
    pub gateway: Option<IpAddr>,
    /// The longest packet that fits, if the route itself says so; otherwise it is the interface's MTU.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// Adds a route.
    ///
    /// # Errors
    /// [`NetlinkError::is_exists`] if there is one to the same place in this table, of the same metric.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let action = format!("cannot add {}", describe(route));
        self.request(&action, RouteNetlinkMessage::NewRoute(new_route(route)), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// The routes of a table that lead to one interface each.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self, table: u32) -> Result<Vec<Route>> {
        Ok(self.all_routes(table)?.iter().filter_map(route_of).collect())
    }

    /// The way of a default route of the main table, if there is any: an IPv4 one rather than an IPv6 one. If it leads
    /// to several interfaces, 0 stands for them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn default_route(&mut self) -> Result<Option<RouteLookup>> {
        let is_default = |route: &RouteMessage| {
            route.header.kind == RouteType::Unicast && destination_of(route).is_some_and(|net| net.prefix_len() == 0)
        };
        let mut defaults = self.all_routes(MAIN_TABLE)?;
        defaults.retain(is_default);
        let is_v4 = |route: &&RouteMessage| route.header.address_family == AddressFamily::Inet;
        Ok(defaults.iter().find(is_v4).or(defaults.first()).map(lookup_of))
    }

    /// Whether there is any route in a table, be it to several interfaces or to none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has_routes(&mut self, table: u32) -> Result<bool> {
        Ok(!self.all_routes(table)?.is_empty())
    }

    fn all_routes(&mut self, table: u32) -> Result<Vec<RouteMessage>> {
        let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let answers = self.dump("cannot list the routes", request)?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => Some(message),
            _ => None,
        });
        Ok(routes.filter(|route| table_of(route) == table && !is_cached(route)).collect())
    }

    /// Asks which way a packet to `address` would take, if it carried this mark (0: none).
    ///
    /// # Errors
    /// ENETUNREACH if there is no way.
    pub fn route_to(&mut self, address: IpAddr, mark: u32) -> Result<RouteLookup> {
        self.look_up(address, question(address, mark))
    }

    /// As [`route_to`](Self::route_to), for a UDP datagram from `source` that asks for the interface of this index (0:
    /// none). The source that is told is not the one that was named, but that of a datagram that names none. Kernels
    /// before Linux 4.17 pass over the ports, for which they have no rules.
    ///
    /// # Errors
    /// EINVAL if an IPv4 source is no address of this host (of an IPv6 one this is not looked at), ENETUNREACH if there
    /// is no way.
    pub fn route_of_datagram(
        &mut self,
        source: SocketAddr,
        ifindex: u32,
        destination: SocketAddr,
        mark: u32,
    ) -> Result<RouteLookup> {
        const UDP: u8 = 17;
        let mut question = question(destination.ip(), mark);
        question.header.source_prefix_length = question.header.destination_prefix_length;
        question.attributes.extend([
            RouteAttribute::Source(source.ip().into()),
            RouteAttribute::IpProto(UDP),
            RouteAttribute::Sport(source.port()),
            RouteAttribute::Dport(destination.port()),
        ]);
        if ifindex != 0 {
            question.attributes.push(RouteAttribute::Oif(ifindex));
        }
        self.look_up(destination.ip(), question)
    }

    /// The index of the interface that has this address of this host.
    ///
    /// # Errors
    /// ENETUNREACH if there is no way to the address. If it is not this host's, the answer is where the way to it
    /// leads.
    pub fn link_of_address(&mut self, address: IpAddr) -> Result<u32> {
        let mut question = question(address, 0);
        // What the table of such addresses says, instead of what it leads to, which is the loopback interface for all.
        question.header.flags |= RouteFlags::FibMatch;
        Ok(self.look_up(address, question)?.ifindex)
    }

    fn look_up(&mut self, address: IpAddr, question: RouteMessage) -> Result<RouteLookup> {
        let action = format!("cannot find a route to {address}");
        let RouteNetlinkMessage::NewRoute(answer) = self.get(&action, RouteNetlinkMessage::GetRoute(question))? else {
            return Err(NetlinkError::new(&action, io::ErrorKind::InvalidData.into()));
        };
        Ok(lookup_of(&answer))
    }
}

/// Which way does a packet to `address` take, if it carries this mark (0: none)?
fn question(address: IpAddr, mark: u32) -> RouteMessage {
    let mut question = RouteMessage::default();
    question.header.address_family = family(&address);
    question.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
    question.header.flags = RouteFlags::LookupTable;
    question.attributes.push(RouteAttribute::Destination(address.into()));
    if mark != 0 {
        question.attributes.push(RouteAttribute::Mark(mark));
    }
    question
}

fn describe(route: &Route) -> String {
    format!("the route to {} by the interface of index {} in table {}", route.destination, route.ifindex, route.table)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn new_route(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let address = route.destination.network();
    message.header.address_family = family(&address);
    message.header.destination_prefix_length = route.destination.prefix_len();
    match u8::try_from(route.table) {
        Ok(table) => message.header.table = table,
        Err(_) => {
            message.header.table = RouteHeader::RT_TABLE_UNSPEC;
            message.attributes.push(RouteAttribute::Table(route.table));
        }
    }
    message.attributes.push(RouteAttribute::Destination(address.into()));
    message.attributes.push(RouteAttribute::Oif(route.ifindex));
    if let Some(metric) = route.metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.destination.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message
}

fn table_of(message: &RouteMessage) -> u32 {
    let number = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(number) => Some(*number),
        _ => None,
    });
    number.unwrap_or(message.header.table.into())
}

pub(super) fn destination_of(message: &RouteMessage) -> Option<IpNet> {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    // The default route has no destination attribute.
    let everywhere = everywhere(message.header.address_family)?;
    IpNet::new(destination.unwrap_or(everywhere.addr()), message.header.destination_prefix_length).ok()
}

/// All addresses of a family, if it is one of IP: forwarded multicast has families of its own.
pub(super) fn everywhere(family: AddressFamily) -> Option<IpNet> {
    match family {
        AddressFamily::Inet => Some(IpNet::V4(Ipv4Net::default())),
        AddressFamily::Inet6 => Some(IpNet::V6(Ipv6Net::default())),
        _ => None,
    }
}

/// Whether this is an entry of the kernel's cache, and no route.
pub(super) fn is_cached(message: &RouteMessage) -> bool {
    message.header.flags.contains(RouteFlags::Cloned)
}

fn lookup_of(message: &RouteMessage) -> RouteLookup {
    let mut lookup = RouteLookup::default();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => lookup.ifindex = *index,
            RouteAttribute::PrefSource(source) => lookup.source = ip(source),
            RouteAttribute::Gateway(gateway) => lookup.gateway = ip(gateway),
            RouteAttribute::Metrics(metrics) => {
                lookup.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    lookup
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let (mut ifindex, mut metric) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            _ => {}
        }
    }
    Some(Route { destination: destination_of(message)?, table: table_of(message), ifindex: ifindex?, metric })
}
