//! Opening the sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::steer::steer;
use super::{Sockets, UdpSocket};
use crate::sys;

/// The size asked for each socket's buffers, in bytes. A burst of 64 KiB from each of many peers must fit between two
/// turns of a worker; the kernel takes the memory only while packets are in it.
pub const BUFFER_SIZE: i32 = 4 << 20;

/// How often another port is tried when the kernel chose one that is free for one family only.
const PORT_TRIES: usize = 64;

/// Why the sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("UDP port {port}, {family}: {action}: {source}")]
pub struct BindError {
    /// The port asked for.
    pub port: u16,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl BindError {
    /// The POSIX error number, EADDRINUSE for one.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EIO)
    }
}

/// Opens the sockets of `workers` workers on one port; with port 0, on one that the kernel chooses. A family that the
/// host lacks is left out.
///
/// One more is returned, at the end, to which everything goes that is not a transport message. Where the kernel cannot
/// tell these apart it is empty, and the workers get everything.
///
/// # Errors
/// The port is taken by any socket that is not of this call (EADDRINUSE), the host has neither family
/// (EAFNOSUPPORT), or the mark is not permitted (EPERM).
pub fn bind(port: u16, workers: usize, fwmark: u32, offload: bool) -> Result<Vec<Sockets>, BindError> {
    let workers = workers.max(1);
    let mut tries = PORT_TRIES;
    loop {
        tries -= 1;
        match bind_both(port, workers, fwmark, offload) {
            Err(error) if port == 0 && tries > 0 && error.errno() == libc::EADDRINUSE => {}
            result => return result,
        }
    }
}

fn bind_both(port: u16, workers: usize, fwmark: u32, offload: bool) -> Result<Vec<Sockets>, BindError> {
    let v4 = bind_family(Family::V4, port, workers, fwmark, offload)?;
    let chosen = v4.as_ref().map_or(port, |(_, port)| *port);
    let v6 = bind_family(Family::V6, chosen, workers, fwmark, offload)?;
    let Some(chosen) = v4.as_ref().or(v6.as_ref()).map(|(_, port)| *port) else {
        let source = io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        return Err(BindError { port, family: "IPv4 and IPv6", action: "the host has neither", source });
    };
    let sockets = |family: Option<(Vec<UdpSocket>, u16)>| family.map(|(sockets, _)| sockets);
    let mut families = [sockets(v4), sockets(v6)];
    make_even(&mut families);
    let [mut v4, mut v6] = families.map(|sockets| sockets.map(Vec::into_iter));
    Ok((0..=workers)
        .map(|_| Sockets {
            v4: v4.as_mut().and_then(Iterator::next),
            v6: v6.as_mut().and_then(Iterator::next),
            port: chosen,
        })
        .collect())
}

/// Where the kernel can steer one family only, neither has a socket for handshakes: what belongs there goes to the
/// workers then, who answer, and need a socket of each family for it. What was to be steered to a socket that is
/// closed, the kernel shares out among the others.
fn make_even<T>(families: &mut [Option<Vec<T>>]) {
    let fewest = families.iter().flatten().map(Vec::len).min().unwrap_or(0);
    for sockets in families.iter_mut().flatten() {
        sockets.truncate(fewest);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// One socket per worker and, if the kernel can steer, one for the rest; and the port that they are bound to. `None` if
/// the host lacks this family.
fn bind_family(
    family: Family,
    port: u16,
    workers: usize,
    fwmark: u32,
    offload: bool,
) -> Result<Option<(Vec<UdpSocket>, u16)>, BindError> {
    let error = |action| {
        let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
        move |source| BindError { port, family, action, source }
    };
    let mut port = port;
    let mut count = workers + 1;
    let mut sockets = Vec::with_capacity(count);
    while sockets.len() < count {
        let number = sockets.len();
        let socket = match open(family, fwmark, offload) {
            Err((_, source)) if number == 0 && is_absent(&source) => return Ok(None),
            opened => opened.map_err(|(action, source)| error(action)(source))?,
        };
        // The kernel lets a socket with SO_REUSEPORT share a port with others of the same user. So the first is bound
        // without it, which fails if anyone at all has the port, and only then opened to our own further ones.
        if number > 0 {
            socket.socket.set_reuse_port(true).map_err(error("SO_REUSEPORT cannot be set"))?;
        }
        let address = match family {
            Family::V4 => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            Family::V6 => SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        };
        match socket.socket.bind(&address.into()) {
            Err(source) if number == 0 && is_absent(&source) => return Ok(None),
            bound => bound.map_err(error("it cannot be bound"))?,
        }
        if number == 0 {
            let bound = socket.socket.local_addr().map_err(error("its port cannot be read"))?;
            port = bound.as_socket().map_or(port, |address| address.port());
            socket.socket.set_reuse_port(true).map_err(error("SO_REUSEPORT cannot be set"))?;
        }
        sockets.push(socket);
        // The reuseport group exists once there are two sockets. Until the last one has joined it, nothing goes there.
        if number == 1
            && let Some(socket) = sockets.last()
            && let Err(source) = steer(socket.as_fd(), family, u32::try_from(workers).unwrap_or(u32::MAX))
        {
            tracing::debug!(%source, "the kernel cannot tell handshakes from packets");
            count = workers;
            sockets.truncate(count);
        }
    }
    Ok(Some((sockets, port)))
}

/// Whether the host lacks the address family.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EPFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

/// Whether several datagrams may be sent as one: if that is wanted, and the kernel knows the option that tells it their
/// length. `ask` reads that option; whatever the error, datagrams then go out one by one.
pub(super) fn can_segment(offload: bool, ask: impl FnOnce() -> io::Result<i32>) -> bool {
    offload
        && ask()
            .inspect_err(|source| tracing::debug!(%source, "the kernel cannot send several datagrams as one"))
            .is_ok()
}

/// A socket that is not yet bound, with all options set.
fn open(family: Family, fwmark: u32, offload: bool) -> Result<UdpSocket, (&'static str, io::Error)> {
    let because = |action| move |source| (action, source);
    let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(because("it cannot be opened"))?;
    socket.set_nonblocking(true).map_err(because("it cannot be made non-blocking"))?;
    let set = |level, name, value| sys::set_option(socket.as_fd(), level, name, value);
    // The first form may exceed the limit of net.core, but takes CAP_NET_ADMIN. Smaller buffers still work.
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        let _ = set(libc::SOL_SOCKET, force, BUFFER_SIZE).or_else(|_| set(libc::SOL_SOCKET, plain, BUFFER_SIZE));
    }
    if fwmark != 0 {
        socket.set_mark(fwmark).map_err(because("the mark cannot be set"))?;
    }
    // An outer packet may be fragmented on its way, as with every WireGuard: what is inside must fit the tunnel's MTU.
    let options: &[(i32, i32, i32)] = match family {
        Family::V4 => &[
            (libc::SOL_IP, libc::IP_PKTINFO, 1),
            (libc::SOL_IP, libc::IP_RECVTOS, 1),
            (libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        ],
        Family::V6 => &[
            (libc::SOL_IPV6, libc::IPV6_V6ONLY, 1),
            (libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1),
            (libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1),
            (libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT),
        ],
    };
    for &(level, name, value) in options {
        set(level, name, value).map_err(because("an option cannot be set"))?;
    }
    if offload {
        // Linux 5.0 and later; without it every datagram is read by itself.
        let _ = set(libc::SOL_UDP, libc::UDP_GRO, 1);
    }
    Ok(UdpSocket::new(socket, offload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_one_family_has_no_socket_for_handshakes_the_other_has_none_either() {
        for (families, expected) in [
            ([Some(vec![0, 1, 2]), Some(vec![3, 4])], [Some(vec![0, 1]), Some(vec![3, 4])]),
            ([Some(vec![0, 1]), Some(vec![3, 4, 5])], [Some(vec![0, 1]), Some(vec![3, 4])]),
            ([Some(vec![0, 1, 2]), Some(vec![3, 4, 5])], [Some(vec![0, 1, 2]), Some(vec![3, 4, 5])]),
            ([None, Some(vec![3, 4, 5])], [None, Some(vec![3, 4, 5])]),
            ([None, None], [None, None]),
        ] {
            let mut even = families.clone();
            make_even(&mut even);
            assert_eq!(even, expected, "{families:?}");
        }
    }
}
