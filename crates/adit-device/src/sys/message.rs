//! `sendmsg`, `sendmmsg`, `recvmsg` and `recvmmsg` with their control messages. Addresses and control messages are
//! built and read as bytes, safely; only the calls themselves are `unsafe`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use arrayvec::ArrayVec;

use super::check;
#[cfg(test)]
use crate::counted;

/// Length of a `struct cmsghdr`.
const HEADER: usize = size_of::<libc::cmsghdr>();
/// Room for the control messages of one datagram: packet information, traffic class and segment size.
const CONTROL_LEN: usize = 128;
/// `sockaddr_in6`, the longer of the two addresses.
const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// Most messages one `sendmmsg` or `recvmmsg` takes; a bound on the stack used.
const MAX_MESSAGES: usize = 32;

// The code below depends on these sizes for the places of fields.
const _: () = assert!(HEADER == size_of::<usize>() + 8);
const _: () = assert!(NAME_LEN == 28 && size_of::<libc::sockaddr_in>() == 16);
const _: () = assert!(size_of::<libc::in6_pktinfo>() == 20 && size_of::<libc::in_pktinfo>() == 12);

/// What one `sendmsg` is to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    /// Where to.
    pub(crate) remote: SocketAddr,
    /// The address to send from, and the interface to send through (0: any).
    pub(crate) source: Option<(IpAddr, u32)>,
    /// The traffic class byte; 0 is the socket's default.
    pub(crate) tos: u8,
    /// The length of each datagram but the last, if `contents` is several.
    pub(crate) segment_size: Option<u16>,
    /// One datagram, or several of them one after another.
    pub(crate) contents: &'a [u8],
}

/// What `recvmsg` tells about a datagram, or about several that the kernel coalesced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes written to the buffer.
    pub(crate) len: usize,
    /// Bytes that came: more than `len` if the buffer was too short.
    pub(crate) came: usize,
    /// Who sent it; `None` for an address of neither IP family.
    pub(crate) remote: Option<SocketAddr>,
    /// Control messages.
    pub(crate) control: Control,
}

impl Received {
    /// How many datagrams found no room in the buffer, not counting one that found some.
    pub(crate) fn cut_off(&self) -> usize {
        let size = self.control.segment_size.unwrap_or(self.came).max(1);
        self.came.div_ceil(size) - self.len.div_ceil(size)
    }
}

/// What the control messages of a received datagram tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Control {
    /// The local address it was sent to.
    pub(crate) local: Option<IpAddr>,
    /// The interface it arrived on.
    pub(crate) ifindex: u32,
    /// Its traffic class byte.
    pub(crate) tos: u8,
    /// The length of each datagram but the last, if the kernel coalesced several.
    pub(crate) segment_size: Option<usize>,
}

/// What another kernel or device than is to be had may refuse: messages of several datagrams.
#[cfg(test)]
pub(crate) mod segmentation {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static REFUSED_WITH: Cell<Option<libc::c_int>> = const { Cell::new(None) };
    }

    /// Does `work` while these are refused with this error.
    pub(crate) fn while_refused_with(errno: libc::c_int, work: impl FnOnce()) {
        REFUSED_WITH.set(Some(errno));
        work();
        REFUSED_WITH.set(None);
    }

    pub(super) fn check(outgoing: &Outgoing<'_>) -> io::Result<()> {
        match REFUSED_WITH.get().filter(|_| outgoing.segment_size.is_some()) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

/// Sends one message.
pub(crate) fn send(fd: BorrowedFd<'_>, outgoing: &Outgoing<'_>) -> io::Result<()> {
    let mut name = Name::from(outgoing.remote);
    let mut control = ControlBuffer::new(outgoing);
    let mut vector = vector(outgoing.contents);
    let header = header(&mut name, &mut control, &mut vector);
    #[cfg(test)]
    counted::add(&counted::SENDS);
    #[cfg(test)]
    segmentation::check(outgoing)?;
    // SAFETY: `header` points to `name`, `control`, `vector` and the contents with their lengths; all outlive the call,
    // which only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends the first messages of `outgoing` in one system call and returns how many were sent, at least one. An error
/// is that of the first message.
pub(crate) fn send_many<'a>(fd: BorrowedFd<'_>, outgoing: impl Iterator<Item = Outgoing<'a>>) -> io::Result<usize> {
    let mut names = [Name::EMPTY; MAX_MESSAGES];
    let mut controls = [ControlBuffer::EMPTY; MAX_MESSAGES];
    let mut vectors = [vector(&[]); MAX_MESSAGES];
    let mut headers = [EMPTY_MESSAGE; MAX_MESSAGES];
    let mut count = 0;
    for ((((outgoing, name), control), vector_), header_) in
        outgoing.zip(&mut names).zip(&mut controls).zip(&mut vectors).zip(&mut headers)
    {
        #[cfg(test)]
        if let Err(error) = segmentation::check(&outgoing) {
            if count == 0 {
                return Err(error);
            }
            break;
        }
        *name = Name::from(outgoing.remote);
        *control = ControlBuffer::new(&outgoing);
        *vector_ = vector(outgoing.contents);
        header_.msg_hdr = header(name, control, vector_);
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    #[cfg(test)]
    counted::add(&counted::SENDS);
    // SAFETY: the first `count` headers point to elements of `names`, `controls` and `vectors` and to the contents,
    // with their lengths; all outlive the call, which reads them and writes `msg_len` of the headers.
    let sent = check(unsafe {
        libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_NOSIGNAL as _)
    })?;
    Ok(usize::try_from(sent).unwrap_or(0))
}

/// Receives one datagram, or several that the kernel coalesced.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut name = Name::EMPTY;
    let mut control = ControlBuffer::EMPTY;
    let mut vector = place(buffer);
    let mut header = empty_header(&mut name, &mut control, &mut vector);
    // SAFETY: `header` points to `name`, `control` and, through `vector`, to `buffer`, all writable and with their
    // lengths; all outlive the call.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, libc::MSG_TRUNC) };
    let came = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    Ok(received(&header, came, buffer.len(), name, control))
}

/// Receives what is there, as [`receive`] does, but up to [`MAX_MESSAGES`] times in one system call: each into the next
/// `size` bytes of `buffer`. An error is that of the first.
pub(crate) fn receive_many(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    size: usize,
) -> io::Result<ArrayVec<Received, MAX_MESSAGES>> {
    let mut names = [Name::EMPTY; MAX_MESSAGES];
    let mut controls = [ControlBuffer::EMPTY; MAX_MESSAGES];
    let mut vectors = [vector(&[]); MAX_MESSAGES];
    let mut headers = [EMPTY_MESSAGE; MAX_MESSAGES];
    let mut count = 0;
    for ((((place_, name), control), vector_), header_) in
        buffer.chunks_exact_mut(size).zip(&mut names).zip(&mut controls).zip(&mut vectors).zip(&mut headers)
    {
        *vector_ = place(place_);
        header_.msg_hdr = empty_header(name, control, vector_);
        count += 1;
    }
    // SAFETY: the first `count` headers point to elements of `names` and `controls` and, through `vectors`, to parts of
    // `buffer`, all different, writable and with their lengths; all outlive the call, which waits for nothing.
    let filled = check(unsafe {
        let nothing = ptr::null_mut();
        libc::recvmmsg(
            fd.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _,
            nothing,
        )
    })?;
    let filled = headers.iter().zip(names).zip(controls).take(usize::try_from(filled).unwrap_or(0));
    let received = |((header, name), control): ((&libc::mmsghdr, _), _)| {
        received(&header.msg_hdr, header.msg_len as usize, size, name, control)
    };
    Ok(filled.map(received).collect())
}

/// A vector for receiving.
fn place(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }
}

/// A header for receiving.
fn empty_header(name: &mut Name, control: &mut ControlBuffer, vector: &mut libc::iovec) -> libc::msghdr {
    let mut header = EMPTY_HEADER;
    header.msg_name = name.bytes.as_mut_ptr().cast();
    header.msg_namelen = NAME_LEN as _;
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN as _;
    header
}

/// What the kernel has written: `header`, and what it points to.
fn received(header: &libc::msghdr, came: usize, room: usize, mut name: Name, mut control: ControlBuffer) -> Received {
    name.len = (header.msg_namelen as usize).min(NAME_LEN);
    #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
    let control_len = header.msg_controllen as usize;
    control.len = control_len.min(CONTROL_LEN);
    Received { len: came.min(room), came, remote: name.address(), control: control.parse() }
}

// SAFETY: `msghdr` is a C struct of integers and pointers, for which all zeros is a valid value.
const EMPTY_HEADER: libc::msghdr = unsafe { std::mem::zeroed() };
const EMPTY_MESSAGE: libc::mmsghdr = libc::mmsghdr { msg_hdr: EMPTY_HEADER, msg_len: 0 };

/// A vector for sending: the kernel only reads what it points to, though its type says otherwise.
fn vector(contents: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: contents.as_ptr().cast_mut().cast(), iov_len: contents.len() }
}

fn header(name: &mut Name, control: &mut ControlBuffer, vector: &mut libc::iovec) -> libc::msghdr {
    let mut header = EMPTY_HEADER;
    header.msg_name = name.bytes.as_mut_ptr().cast();
    header.msg_namelen = name.len as _;
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    if control.len > 0 {
        header.msg_control = control.bytes.as_mut_ptr().cast();
        header.msg_controllen = control.len as _;
    } else {
        header.msg_control = ptr::null_mut();
    }
    header
}

/// A `sockaddr_in` or `sockaddr_in6`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; NAME_LEN],
    len: usize,
}

impl Name {
    const EMPTY: Name = Name { bytes: [0; NAME_LEN], len: 0 };

    fn address(&self) -> Option<SocketAddr> {
        let bytes = self.bytes.get(..self.len)?;
        let (family, rest) = bytes.split_first_chunk()?;
        let (port, rest) = rest.split_first_chunk()?;
        let port = u16::from_be_bytes(*port);
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let address = Ipv4Addr::from(*rest.first_chunk::<4>()?);
                Some(SocketAddr::V4(SocketAddrV4::new(address, port)))
            }
            libc::AF_INET6 => {
                let (flow, rest) = rest.split_first_chunk()?;
                let (address, rest) = rest.split_first_chunk::<16>()?;
                let scope = rest.first_chunk()?;
                Some(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(*address),
                    port,
                    u32::from_be_bytes(*flow),
                    u32::from_ne_bytes(*scope),
                )))
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Name {
        let mut name = Name::EMPTY;
        let bytes = &mut name.bytes;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&address.ip().octets());
                name.len = size_of::<libc::sockaddr_in>();
            }
            SocketAddr::V6(address) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes[8..24].copy_from_slice(&address.ip().octets());
                bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                name.len = NAME_LEN;
            }
        }
        name
    }
}

/// Control messages, aligned as the kernel's `cmsghdr` is.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlBuffer {
    bytes: [u8; CONTROL_LEN],
    len: usize,
}

impl ControlBuffer {
    const EMPTY: ControlBuffer = ControlBuffer { bytes: [0; CONTROL_LEN], len: 0 };

    fn new(outgoing: &Outgoing<'_>) -> ControlBuffer {
        let mut buffer = ControlBuffer::EMPTY;
        match outgoing.source {
            Some((IpAddr::V4(address), ifindex)) => {
                let mut info = [0; 12];
                info[..4].copy_from_slice(&ifindex.to_ne_bytes());
                info[4..8].copy_from_slice(&address.octets());
                buffer.push(libc::SOL_IP, libc::IP_PKTINFO, &info);
            }
            Some((IpAddr::V6(address), ifindex)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                info[16..].copy_from_slice(&ifindex.to_ne_bytes());
                buffer.push(libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        if outgoing.tos != 0 {
            let value = i32::from(outgoing.tos).to_ne_bytes();
            match outgoing.remote {
                SocketAddr::V4(_) => buffer.push(libc::SOL_IP, libc::IP_TOS, &value),
                SocketAddr::V6(_) => buffer.push(libc::SOL_IPV6, libc::IPV6_TCLASS, &value),
            }
        }
        if let Some(size) = outgoing.segment_size {
            buffer.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        buffer
    }

    /// Appends a control message. Only this file decides what is pushed, and it always fits: 40 + 24 + 24 bytes.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let message = &mut self.bytes[self.len..];
        message[..size_of::<usize>()].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        message[HEADER - 8..HEADER - 4].copy_from_slice(&level.to_ne_bytes());
        message[HEADER - 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER..HEADER + data.len()].copy_from_slice(data);
        self.len += HEADER + data.len().next_multiple_of(size_of::<usize>());
    }

    fn parse(&self) -> Control {
        let mut control = Control::default();
        let mut rest = self.bytes.get(..self.len).unwrap_or_default();
        while let Some((level, kind, data)) = next_message(&mut rest) {
            match (level, kind) {
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    if let Some((ifindex, data)) = data.split_first_chunk()
                        && let Some(address) = data.first_chunk::<4>()
                    {
                        control.ifindex = u32::from_ne_bytes(*ifindex);
                        control.local = Some(Ipv4Addr::from(*address)).filter(|a| !a.is_unspecified()).map(IpAddr::V4);
                    }
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    if let Some((address, data)) = data.split_first_chunk::<16>()
                        && let Some(ifindex) = data.first_chunk()
                    {
                        let address = Ipv6Addr::from(*address);
                        control.ifindex = u32::from_ne_bytes(*ifindex);
                        control.local =
                            Some(address).filter(|a| !a.is_unspecified() && !a.is_multicast()).map(IpAddr::V6);
                    }
                }
                // IP_TOS is one byte, IPV6_TCLASS an int.
                (libc::SOL_IP, libc::IP_TOS) => control.tos = data.first().copied().unwrap_or(0),
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                    control.tos = data.first_chunk().map_or(0, |class| u32::from_ne_bytes(*class) as u8);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    control.segment_size = data
                        .first_chunk()
                        .and_then(|size| usize::try_from(i32::from_ne_bytes(*size)).ok())
                        .filter(|&size| size > 0);
                }
                _ => {}
            }
        }
        control
    }
}

/// Takes the first control message off `rest`: its level, kind and data.
fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(i32, i32, &'a [u8])> {
    let bytes = *rest;
    let length = usize::from_ne_bytes(*bytes.first_chunk()?);
    let message = bytes.get(..length)?;
    let level = i32::from_ne_bytes(*message.get(HEADER - 8..)?.first_chunk()?);
    let kind = i32::from_ne_bytes(*message.get(HEADER - 4..)?.first_chunk()?);
    let data = message.get(HEADER..)?;
    *rest = bytes.get(length.checked_next_multiple_of(size_of::<usize>())?..).unwrap_or_default();
    Some((level, kind, data))
}
