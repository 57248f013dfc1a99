//! News of interfaces, addresses and routes.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::address::address_of;
use super::route::{destination_of, everywhere, is_cached};
use super::{BUFFER_SIZE, Link, NetlinkError, Result, messages};
use crate::sys;

const LINK_GROUPS: [u32; 3] = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
const ROUTE_GROUPS: [u32; 4] =
    [libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV4_RULE, libc::RTNLGRP_IPV6_ROUTE, libc::RTNLGRP_IPV6_RULE];

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
    /// Too much happened at once to be told: ask for the present state.
    Lost,
}

/// Listens for [`LinkEvent`]s of the network namespace in which it was opened. It never blocks: wait until its file
/// descriptor is readable.
pub struct LinkMonitor {
    socket: Socket,
    buffer: Vec<u8>,
    events: VecDeque<LinkEvent>,
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
        socket().and_then(|socket| LinkMonitor::listen(socket, &ROUTE_GROUPS)).map_err(cannot_listen)
    }

    fn listen(socket: Socket, groups: &[u32]) -> io::Result<LinkMonitor> {
        for &group in groups {
            socket.add_membership(group)?;
        }
        Ok(LinkMonitor { socket, buffer: Vec::with_capacity(BUFFER_SIZE), events: VecDeque::new() })
    }

    /// The next event, if there is one.
    ///
    /// # Errors
    /// The socket fails for good.
    pub fn next_event(&mut self) -> io::Result<Option<LinkEvent>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Others than the kernel may send to this socket, but are not believed.
                Ok((_, sender)) if sender.port_number() != 0 => continue,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(Some(LinkEvent::Lost)),
                Err(error) => return Err(error),
            }
            self.events.extend(messages(&self.buffer).filter_map(|message| match message.payload {
                NetlinkPayload::InnerMessage(message) => event_of(&message),
                _ => None,
            }));
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
