//! UDP sockets: one of each IP family per worker, all on one port, with segmentation offload both ways, the local
//! address of every datagram, and ECN.
//!
//! Whatever the kernel refuses has a fallback that loses nothing: a coalesced send goes out datagram by datagram, and a
//! source address that is gone is left to the routing table. A kernel before Linux 4.18 would not refuse a coalesced
//! send but pass over the length of the datagrams, and send them as one: each socket is asked before its first send.

mod bind;
mod send;
mod steer;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use adit::{Ecn, Path};

pub use bind::{BUFFER_SIZE, BindError, bind};
pub use send::{Group, MAX_SENT, SendOutcome};

use crate::sys;
use send::Segmentation;

/// Room for the longest read: everything the kernel may coalesce into one.
pub const MAX_RECEIVED: usize = 65_535;

/// The sockets of one thread: of a worker, which has at least one of them, or of the one for handshakes.
#[derive(Debug)]
pub struct Sockets {
    /// For IPv4, if the host has it.
    pub v4: Option<UdpSocket>,
    /// For IPv6, if the host has it.
    pub v6: Option<UdpSocket>,
    /// The local port of both.
    pub port: u16,
}

/// One non-blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: socket2::Socket,
    segmentation: Segmentation,
    /// Datagrams of coalesced ones that found no room in the reader's buffer.
    cut_off: AtomicU64,
}

/// One datagram, or several of one sender that the kernel coalesced, as [`UdpSocket::recv`] found them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer.
    pub len: usize,
    /// Length of each datagram but the last, which may be shorter; `len` if there is one datagram only. Never 0.
    pub segment_size: usize,
    /// Who sent them, and where they arrived.
    pub path: Path,
    /// The congestion mark that all of them carry.
    pub ecn: Ecn,
}

impl Received {
    /// `None` if the address is of neither family.
    fn new(received: &sys::Received) -> Option<Self> {
        let sys::Received { len, control, .. } = *received;
        Some(Self {
            len,
            segment_size: control.segment_size.unwrap_or(len).min(len).max(1),
            path: Path { remote: received.remote?, local: control.local, ifindex: control.ifindex },
            ecn: Ecn::from_bits(control.tos),
        })
    }

    /// The places of the datagrams in the buffer; of one empty datagram, one empty range.
    pub fn datagrams(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Received { len, segment_size, .. } = *self;
        (0..len.div_ceil(segment_size).max(1)).map(move |i| i * segment_size..((i + 1) * segment_size).min(len))
    }
}

impl Sockets {
    /// The socket for this destination, if the host has its family.
    pub fn socket(&self, remote: &SocketAddr) -> Option<&UdpSocket> {
        match remote {
            SocketAddr::V4(_) => self.v4.as_ref(),
            SocketAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// The sockets that there are.
    pub fn iter(&self) -> impl Iterator<Item = &UdpSocket> {
        self.v4.iter().chain(&self.v6)
    }

    /// Datagrams that came and found no room, in the sockets' buffers or in those of [`UdpSocket::recv_many`].
    pub fn overflows(&self) -> u64 {
        let overflows = |socket: &UdpSocket| {
            let dropped = sys::receive_buffer(socket.as_fd()).map_or(0, |buffer| u64::from(buffer.dropped));
            dropped + socket.cut_off.load(Ordering::Relaxed)
        };
        self.iter().map(overflows).sum()
    }

    /// Whether what waits to be read fills more than half of a socket's buffer: the next to come may find no room.
    pub fn are_filling(&self) -> bool {
        let is_filling =
            |socket: &UdpSocket| sys::receive_buffer(socket.as_fd()).is_ok_and(|buffer| buffer.used > buffer.limit / 2);
        self.iter().any(is_filling)
    }

    /// Bytes of memory that datagrams use which have not left the machine yet: as far as is known, since a device need
    /// not tell.
    pub fn waiting(&self) -> usize {
        self.iter().map(|socket| sys::waiting(socket.as_fd()).unwrap_or(0)).sum()
    }

    /// Those of [`Sockets::overflows`] that the kernel does not count, and only this process knows.
    pub(crate) fn cut_off(&self) -> u64 {
        self.iter().map(|socket| socket.cut_off.load(Ordering::Relaxed)).sum()
    }

    /// Marks everything sent from now on (`SO_MARK`); 0 takes the mark away.
    ///
    /// # Errors
    /// The process lacks `CAP_NET_ADMIN`.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.iter().try_for_each(|socket| socket.set_mark(mark))
    }
}

impl UdpSocket {
    fn new(socket: socket2::Socket, offload: bool) -> Self {
        let coalesces = bind::can_segment(offload, || sys::option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT));
        Self { socket, segmentation: Segmentation::new(coalesces), cut_off: AtomicU64::new(0) }
    }

    /// A socket that another process of this program has opened and set up.
    pub(crate) fn adopt(fd: OwnedFd, offload: bool) -> Self {
        Self::new(fd.into(), offload)
    }

    /// Receives one datagram, or several that the kernel coalesced. What does not fit into `buffer` is lost: it should
    /// hold [`MAX_RECEIVED`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, or what the kernel says of the socket itself.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            if let Some(received) = Received::new(&sys::receive(self.as_fd(), buffer)?) {
                return Ok(received);
            }
        }
    }

    /// Receives as [`UdpSocket::recv`] does, but many times in one system call: as long as datagrams wait, and `buffer`
    /// has room for `size` bytes more. Calls `take` with the place in `buffer` where each begins. Returns how many
    /// bytes of it are used, and whether more may wait.
    ///
    /// # Errors
    /// As [`UdpSocket::recv`].
    pub fn recv_many(
        &self,
        buffer: &mut [u8],
        size: usize,
        mut take: impl FnMut(usize, &Received),
    ) -> io::Result<(usize, bool)> {
        let size = size.max(1);
        let all = sys::receive_many(self.as_fd(), buffer, size)?;
        for (index, received) in all.iter().enumerate() {
            let lost = received.cut_off();
            if lost > 0 {
                self.cut_off.fetch_add(lost as u64, Ordering::Relaxed);
            }
            if let Some(received) = Received::new(received) {
                take(index * size, &received);
            }
        }
        let most = all.capacity().min(buffer.len() / size);
        Ok((all.len() * size, all.len() == most))
    }

    /// Marks everything sent from now on (`SO_MARK`); 0 takes the mark away.
    ///
    /// # Errors
    /// The process lacks `CAP_NET_ADMIN`.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_mark(mark)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
