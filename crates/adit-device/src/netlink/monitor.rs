//! News of interfaces, addresses and routes.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ipnet::IpNet;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::address::address_of;
use super::route::{destination_of, everywhere, is_cached};
use super::{BUFFER_SIZE, Link, NetlinkError, Result, parts};
use crate::sys;

const LINK_GROUPS: [u32; 3] = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
const ROUTE_GROUPS: [u32; 4] =
    [libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV4_RULE, libc::RTNLGRP_IPV6_ROUTE, libc::RTNLGRP_IPV6_RULE];
/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`, which the libraries do not know.
const NEXT_HOP_CHANGES: [u16; 2] = [104, 105];
/// After as many errors one upon the other, a socket does not recover at once.
const MAX_ERRORS: u32 = 16;

/// Something happened to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// It appeared, or changed: its name, flags or MTU.
    Changed(Link),
    /// It was deleted, or left for another namespace.
    Deleted(Link),
    /// It lost an address.
    AddressRemoved {
        /// The interface.
        ifindex: u32,
        /// The address.
        address: IpAddr,
    },
    /// A route was added or removed; a changed rule counts as a route to everywhere, of its IP family.
    RouteChanged {
        /// Where it leads.
        destination: IpNet,
    },
    /// A next hop that routes name was added, changed or removed. They lead elsewhere then, and need not be told.
    NextHopChanged,
    /// Too much happened at once to be told: ask for the present state.
    Lost,
}

/// Listens for [`LinkEvent`]s of the network namespace in which it was opened. It never blocks: wait until its file
/// descriptor is readable.
pub struct LinkMonitor {
    socket: Socket,
    buffer: Vec<u8>,
    events: VecDeque<LinkEvent>,
    /// How many errors have come one after the other.
    errors: u32,
}

impl std::fmt::Debug for LinkMonitor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LinkMonitor").field("events", &self.events).finish_non_exhaustive()
    }
}

impl LinkMonitor {
    /// Begins to listen in the calling thread's network namespace. What happens from now on is told.
    ///
    /// # Errors
    /// The kernel has no netlink, or there are no file descriptors left.
    pub fn open() -> Result<LinkMonitor> {
        socket().and_then(|socket| LinkMonitor::listen(socket, &LINK_GROUPS)).map_err(cannot_listen)
    }

    /// As [`open`](Self::open), for routes and rules. They have a monitor of their own, since there may be so many that
    /// other events would be lost among them.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_for_routes() -> Result<LinkMonitor> {
        let monitor = socket().and_then(|socket| LinkMonitor::listen(socket, &ROUTE_GROUPS)).map_err(cannot_listen)?;
        // A kernel before 5.3 has neither the group nor what it tells of.
        let _ = monitor.socket.add_membership(libc::RTNLGRP_NEXTHOP);
        Ok(monitor)
    }

    fn listen(socket: Socket, groups: &[u32]) -> io::Result<LinkMonitor> {
        for &group in groups {
            socket.add_membership(group)?;
        }
        Ok(LinkMonitor { socket, buffer: Vec::with_capacity(BUFFER_SIZE), events: VecDeque::new(), errors: 0 })
    }

    /// The next event, if there is one.
    ///
    /// # Errors
    /// The socket fails again and again. What happens once it does not is told, and its file descriptor is readable
    /// then.
    pub fn next_event(&mut self) -> io::Result<Option<LinkEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Others than the kernel may send to this socket, but are not believed.
                Ok((_, sender)) if sender.port_number() != 0 => continue,
                Ok(_) => self.errors = 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.errors = 0;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if self.errors == MAX_ERRORS => return Err(error),
                // Mostly ENOBUFS. Whatever else the kernel could not tell is forgotten once it is reported, too.
                Err(_) => {
                    self.errors += 1;
                    return Ok(Some(LinkEvent::Lost));
                }
            }
            self.events.extend(parts(&self.buffer).filter_map(event_in));
        }
    }
}

/// The right to listen to every namespace that the present one has a number for, not used yet. It is taken early, since
/// entering another namespace takes more rights than a process should keep for the day on which its interface is moved
/// there.
pub struct FarLinkMonitor {
    socket: Socket,
}

impl std::fmt::Debug for FarLinkMonitor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FarLinkMonitor").finish_non_exhaustive()
    }
}

impl FarLinkMonitor {
    /// Takes the right.
    ///
    /// # Errors
    /// EPERM without `CAP_NET_BROADCAST`, which is not needed any more afterwards.
    pub fn open() -> Result<FarLinkMonitor> {
        let open = || {
            let socket = socket()?;
            socket.set_listen_all_namespaces(true)?;
            Ok(FarLinkMonitor { socket })
        };
        open().map_err(cannot_listen)
    }

    /// The right that another process has taken and handed over.
    pub(crate) fn adopt(fd: OwnedFd) -> FarLinkMonitor {
        FarLinkMonitor { socket: sys::netlink_socket(fd) }
    }

    /// Begins to listen. An event does not say which namespace it is from, so it is no more than an occasion to ask.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listen(self) -> Result<LinkMonitor> {
        LinkMonitor::listen(self.socket, &LINK_GROUPS).map_err(cannot_listen)
    }
}

fn socket() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

fn cannot_listen(source: io::Error) -> NetlinkError {
    NetlinkError::new("cannot listen for changes of interfaces", source)
}

impl AsFd for FarLinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LinkMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn event_in(message: &[u8]) -> Option<LinkEvent> {
    let kind = message.get(4..).and_then(|message| message.first_chunk()).copied().map(u16::from_ne_bytes);
    if kind.is_some_and(|kind| NEXT_HOP_CHANGES.contains(&kind)) {
        return Some(LinkEvent::NextHopChanged);
    }
    match NetlinkMessage::deserialize(message).ok()?.payload {
        NetlinkPayload::InnerMessage(message) => event_of(&message),
        _ => None,
    }
}

fn event_of(message: &RouteNetlinkMessage) -> Option<LinkEvent> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(LinkEvent::Changed(Link::from_message(message))),
        RouteNetlinkMessage::DelLink(message) => Some(LinkEvent::Deleted(Link::from_message(message))),
        RouteNetlinkMessage::DelAddress(message) => {
            Some(LinkEvent::AddressRemoved { ifindex: message.header.index, address: address_of(message)? })
        }
        // What the kernel remembers of a destination follows from the routes, and changes with the traffic.
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) if !is_cached(message) => {
            Some(LinkEvent::RouteChanged { destination: destination_of(message)? })
        }
        RouteNetlinkMessage::NewRule(message) | RouteNetlinkMessage::DelRule(message) => {
            Some(LinkEvent::RouteChanged { destination: everywhere(message.header.family)? })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    fn monitor_of(fd: impl Into<OwnedFd>) -> LinkMonitor {
        LinkMonitor::listen(sys::netlink_socket(fd.into()), &[]).unwrap()
    }

    #[test]
    fn an_error_that_passes_is_a_loss_and_no_end() {
        let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.connect(closed).unwrap();
        let mut monitor = monitor_of(socket.try_clone().unwrap());
        // More often than an error that stays is told.
        for _ in 0..2 * MAX_ERRORS {
            socket.send(b"to nobody, which the socket is told as an error").unwrap();
            assert_eq!(monitor.next_event().unwrap(), Some(LinkEvent::Lost));
            assert_eq!(monitor.next_event().unwrap(), None);
        }
    }

    #[test]
    fn an_error_that_stays_is_told() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let mut monitor = monitor_of(reader);
        for _ in 0..MAX_ERRORS {
            assert_eq!(monitor.next_event().unwrap(), Some(LinkEvent::Lost));
        }
        assert_eq!(monitor.next_event().unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }
}
