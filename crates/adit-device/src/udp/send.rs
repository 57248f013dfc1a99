//! Sending: coalesced (GSO) where the kernel takes it, otherwise many datagrams per system call.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use adit::Path;
use std::net::SocketAddr;

use super::{Sockets, UdpSocket};
use crate::sys::{self, Outgoing};

/// Most datagrams that one coalesced send may hold.
const MAX_SEGMENTS: usize = 64;
/// Most bytes that one send may hold: an IPv4 packet without its headers.
pub const MAX_SENT: usize = 65_507;
/// How many sends go out datagram by datagram before a coalesced one is tried again, if it was refused for something
/// that the route or its device lacks, and that may change: room for the packets in one piece, or checksum offload.
const PAUSE: u32 = 256;
/// How often a message is retried that failed because of a signal, or with the error of an earlier message.
const MAX_RETRIES: usize = 4;

/// Datagrams for one peer that lie one after another.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// Where to, and from which address and interface.
    pub path: Path,
    /// The traffic class byte: ECN in the lowest two bits, DSCP above.
    pub tos: u8,
    /// The datagrams.
    pub contents: &'a [u8],
    /// The length of each but the last, which may be shorter. 0 stands for one datagram.
    pub segment_size: usize,
}

/// What became of a [`Group`].
#[derive(Debug, Default)]
#[must_use = "datagrams may have been dropped, and the source may be gone"]
pub struct SendOutcome {
    /// Datagrams that the kernel took.
    pub sent: usize,
    /// Datagrams that the kernel refused for the reason in `error`.
    pub dropped: usize,
    /// Datagrams at the end of the group that were not tried, since the socket's buffer is full (`WouldBlock`). They
    /// may be sent again once the socket is writable.
    pub unsent: usize,
    /// The last error, if any datagram was not sent.
    pub error: Option<io::Error>,
    /// The kernel refused the source of the path, but not the datagrams without it: the engine should forget it.
    pub source_gone: bool,
}

impl Sockets {
    /// Sends datagrams to one peer, of `segment_size` bytes each, but the last, which may be shorter.
    #[cfg(test)]
    pub(crate) fn send(&self, path: &Path, tos: u8, contents: &[u8], segment_size: usize) -> SendOutcome {
        let group = Group { path: *path, tos, contents, segment_size };
        match self.socket(&path.remote) {
            Some(socket) => socket.send(path, tos, contents, segment_size),
            None => no_family(&group),
        }
    }

    /// Sends datagrams to several peers in as few system calls as can be: one a family in most cases. `report` is
    /// called once for every group, with its index.
    pub fn send_many(&self, groups: &[Group<'_>], mut report: impl FnMut(usize, SendOutcome)) {
        for family_v4 in [true, false] {
            if groups.iter().all(|group| group.path.remote.is_ipv4() != family_v4) {
                continue;
            }
            match if family_v4 { &self.v4 } else { &self.v6 } {
                Some(socket) => Sending::new(socket, groups, family_v4).run(&mut report),
                None => {
                    for (index, group) in groups.iter().enumerate() {
                        if group.path.remote.is_ipv4() == family_v4 {
                            report(index, no_family(group));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
impl UdpSocket {
    /// Sends datagrams to one peer, of `segment_size` bytes each, but the last, which may be shorter. The destination
    /// must be of this socket's family.
    pub(crate) fn send(&self, path: &Path, tos: u8, contents: &[u8], segment_size: usize) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let group = Group { path: *path, tos, contents, segment_size };
        Sending::new(self, &[group], path.remote.is_ipv4()).run(&mut |_, result| outcome = result);
        outcome
    }

    /// Whether several datagrams are sent as one at present.
    pub(crate) fn is_coalescing(&self) -> bool {
        self.segmentation.pause.load(Ordering::Relaxed) == 0
    }
}

/// Whether the kernel takes several datagrams in one message (`UDP_SEGMENT`).
#[derive(Debug)]
pub(super) struct Segmentation {
    /// Sends that still go out datagram by datagram; `u32::MAX` for all.
    pause: AtomicU32,
}

impl Segmentation {
    const NEVER: u32 = u32::MAX;

    pub(super) fn new(offload: bool) -> Segmentation {
        Segmentation { pause: AtomicU32::new(if offload { 0 } else { Self::NEVER }) }
    }

    /// Asks whether to coalesce the next group of several.
    fn is_on(&self) -> bool {
        match self.pause.load(Ordering::Relaxed) {
            0 => true,
            Self::NEVER => false,
            left => {
                // A count lost between two threads would not matter, and each socket has its own.
                self.pause.store(left - 1, Ordering::Relaxed);
                false
            }
        }
    }

    fn refused(&self, error: &io::Error) {
        // Older kernels report packets that must be fragmented by EINVAL, not EMSGSIZE, so EINVAL does not mean that
        // the kernel lacks segmentation.
        let pause = match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT) => Self::NEVER,
            _ => PAUSE,
        };
        self.pause.store(pause, Ordering::Relaxed);
    }
}

/// Whether a refused coalesced send may succeed datagram by datagram: no checksum offload (EIO), a kernel without it or
/// with other limits (EINVAL, EOPNOTSUPP, ...), or packets that must be fragmented (EMSGSIZE; EINVAL in older kernels).
fn blames_segmentation(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::E2BIG)
    )
}

/// Whether a refused send may succeed from another source: the address or interface is gone, or leads nowhere. EPERM is
/// what a firewall says, which is not to be asked once more in the hope of another answer.
fn blames_source(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
                | libc::ENXIO
                | libc::ENETDOWN
                | libc::EACCES
        )
    )
}

/// Whether the error tells of a signal, or of an earlier datagram.
fn is_of_another(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNREFUSED | libc::ECONNRESET))
}

fn no_family(group: &Group<'_>) -> SendOutcome {
    SendOutcome {
        dropped: group.count(),
        error: Some(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        ..SendOutcome::default()
    }
}

impl<'a> Group<'a> {
    fn segment_size(&self) -> usize {
        if self.segment_size == 0 { self.contents.len().max(1) } else { self.segment_size }
    }

    /// How many datagrams these are.
    fn count(&self) -> usize {
        self.contents.len().div_ceil(self.segment_size())
    }
}

/// One message: datagrams of one group.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    index: usize,
    end: usize,
    count: usize,
    outgoing: Outgoing<'a>,
}

/// The progress of one call to send.
struct Sending<'s, 'g, 'a> {
    socket: &'s UdpSocket,
    groups: &'g [Group<'a>],
    /// Groups of the other family are passed over.
    family_v4: bool,
    /// The group in hand, and how many bytes of it are done.
    index: usize,
    offset: usize,
    /// Whether several datagrams go in one message now.
    coalesce: bool,
    /// Why a coalesced message was refused, until it is known whether its first datagram passes alone.
    suspicion: Option<io::Error>,
    outcome: SendOutcome,
    retries: usize,
}

impl<'s, 'g, 'a> Sending<'s, 'g, 'a> {
    fn new(socket: &'s UdpSocket, groups: &'g [Group<'a>], family_v4: bool) -> Self {
        let several = groups.iter().any(|group| group.contents.len() > group.segment_size());
        Sending {
            socket,
            groups,
            family_v4,
            index: 0,
            offset: 0,
            coalesce: several && socket.segmentation.is_on(),
            suspicion: None,
            outcome: SendOutcome::default(),
            retries: 0,
        }
    }

    fn run(mut self, report: &mut impl FnMut(usize, SendOutcome)) {
        self.settle(report);
        while self.index < self.groups.len() {
            let Some(first) = self.chunks().next() else { return };
            let several = self.chunks().nth(1).is_some();
            let result = if several {
                sys::send_many(self.socket.as_fd(), self.chunks().map(|chunk| chunk.outgoing))
            } else {
                sys::send(self.socket.as_fd(), &first.outgoing).map(|()| 1)
            };
            match result {
                Ok(messages) => self.sent(messages, report),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.stop(report),
                Err(error) => self.recover(first, error, report),
            }
        }
    }

    /// The messages that are still to be sent, in order.
    fn chunks(&self) -> impl Iterator<Item = Chunk<'a>> + use<'a, 'g> {
        let (groups, family_v4, coalesce) = (self.groups, self.family_v4, self.coalesce);
        let (mut index, mut offset) = (self.index, self.offset);
        let (gone, first) = (self.outcome.source_gone, self.index);
        std::iter::from_fn(move || {
            loop {
                let group = groups.get(index)?;
                let rest = group.contents.get(offset..).unwrap_or_default();
                if rest.is_empty() || group.path.remote.is_ipv4() != family_v4 {
                    (index, offset) = (index + 1, 0);
                    continue;
                }
                let size = group.segment_size();
                let most = if coalesce { (MAX_SENT / size).clamp(1, MAX_SEGMENTS) } else { 1 };
                let length = rest.len().min(size.saturating_mul(most));
                let contents = rest.get(..length)?;
                offset += length;
                let source = group.path.local.filter(|_| !(gone && index == first));
                // A remote of the wrong family is refused by the kernel; a source of the wrong family is left out here.
                let source = source.filter(|local| local.is_ipv4() == family_v4);
                return Some(Chunk {
                    index,
                    end: offset,
                    count: length.div_ceil(size),
                    outgoing: Outgoing {
                        remote: with_scope(&group.path),
                        source: source.map(|local| (local, group.path.ifindex)),
                        tos: group.tos,
                        segment_size: u16::try_from(size).ok().filter(|_| length > size),
                        contents,
                    },
                });
            }
        })
    }

    /// Accounts for messages that the kernel took.
    fn sent(&mut self, messages: usize, report: &mut impl FnMut(usize, SendOutcome)) {
        if let Some(error) = self.suspicion.take() {
            self.socket.segmentation.refused(&error);
        }
        let chunks = self.chunks();
        for chunk in chunks.take(messages) {
            self.advance_to(&chunk, report);
            self.outcome.sent += chunk.count;
            self.offset = chunk.end;
            self.retries = 0;
        }
        self.settle(report);
    }

    /// Finds what the kernel had against the message, and a way around it.
    fn recover(&mut self, chunk: Chunk<'a>, error: io::Error, report: &mut impl FnMut(usize, SendOutcome)) {
        self.advance_to(&chunk, report);
        let mut blamed = None;
        if chunk.outgoing.source.is_some() && blames_source(&error) {
            let outgoing = Outgoing { source: None, ..chunk.outgoing };
            match sys::send(self.socket.as_fd(), &outgoing) {
                Ok(()) => {
                    self.outcome.source_gone = true;
                    return self.sent(1, report);
                }
                // Without the source it is no longer refused, but the socket's buffer is full: it is tried once more.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.outcome.source_gone = true;
                    return;
                }
                Err(error) => blamed = Some(error),
            }
        }
        if chunk.outgoing.segment_size.is_some() && blames_segmentation(blamed.as_ref().unwrap_or(&error)) {
            self.suspicion = Some(blamed.unwrap_or(error));
            self.coalesce = false;
            return;
        }
        if is_of_another(&error) && self.retries < MAX_RETRIES {
            self.retries += 1;
            return;
        }
        // If a datagram cannot be sent alone either, to port 0 say, that tells nothing about coalescing.
        self.coalesce |= self.suspicion.take().is_some();
        self.outcome.dropped += chunk.count;
        self.outcome.error = Some(error);
        self.offset = chunk.end;
        self.retries = 0;
        self.settle(report);
    }

    /// The socket's buffer is full: nothing more can be sent now.
    fn stop(mut self, report: &mut impl FnMut(usize, SendOutcome)) {
        while let Some(chunk) = self.chunks().next() {
            self.advance_to(&chunk, report);
            self.outcome.unsent += chunk.count;
            self.outcome.error = Some(io::ErrorKind::WouldBlock.into());
            self.offset = chunk.end;
        }
        self.settle(report);
    }

    /// Moves to the group of this chunk, reporting those passed on the way.
    fn advance_to(&mut self, chunk: &Chunk<'_>, report: &mut impl FnMut(usize, SendOutcome)) {
        while self.index < chunk.index {
            self.finish(report);
        }
    }

    /// Reports the group in hand, and those behind it that have nothing to send, if it is done.
    fn settle(&mut self, report: &mut impl FnMut(usize, SendOutcome)) {
        while let Some(group) = self.groups.get(self.index)
            && (self.offset >= group.contents.len() || group.path.remote.is_ipv4() != self.family_v4)
        {
            self.finish(report);
        }
    }

    fn finish(&mut self, report: &mut impl FnMut(usize, SendOutcome)) {
        let outcome = std::mem::take(&mut self.outcome);
        if self.groups.get(self.index).is_some_and(|group| group.path.remote.is_ipv4() == self.family_v4) {
            report(self.index, outcome);
        }
        self.index += 1;
        self.offset = 0;
        self.retries = 0;
    }
}

/// A link-local destination means something only with an interface: if it names none, the one of the path is used.
fn with_scope(path: &Path) -> SocketAddr {
    let mut remote = path.remote;
    if let SocketAddr::V6(address) = &mut remote
        && address.scope_id() == 0
        && address.ip().is_unicast_link_local()
    {
        address.set_scope_id(path.ifindex);
    }
    remote
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_without_segmentation_is_never_asked_for_it_again() {
        let table = [
            (libc::EOPNOTSUPP, false),
            (libc::ENOPROTOOPT, false),
            (libc::EMSGSIZE, true),
            (libc::EINVAL, true),
            (libc::EIO, true),
            (libc::E2BIG, true),
        ];
        for (errno, returns) in table {
            let segmentation = Segmentation::new(true);
            assert!(segmentation.is_on());
            segmentation.refused(&io::Error::from_raw_os_error(errno));
            assert!(!segmentation.is_on(), "errno {errno}: not at once");
            assert_eq!((0..1_000).any(|_| segmentation.is_on()), returns, "errno {errno}");
        }
        let unwanted = Segmentation::new(false);
        assert!((0..1_000).all(|_| !unwanted.is_on()));
    }

    #[test]
    fn only_a_message_of_several_datagrams_tells_their_length() {
        let path = Path { remote: ([127, 0, 0, 1], 1).into(), local: None, ifindex: 0 };
        let groups = [100, 50, 250].map(|len| Group { path, tos: 0, contents: &[0; 250][..len], segment_size: 100 });
        for (offload, expected) in [(true, vec![None, None, Some(100)]), (false, vec![None; 5])] {
            let sockets = super::super::bind(0, 1, 0, offload).expect("bound").remove(0);
            let sending = Sending::new(sockets.v4.as_ref().expect("IPv4"), &groups, true);
            let sizes: Vec<_> = sending.chunks().map(|chunk| chunk.outgoing.segment_size).collect();
            assert_eq!(sizes, expected);
        }
    }

    #[test]
    fn an_error_is_blamed_on_what_may_have_caused_it() {
        // The errors, and whether they are blamed on segmentation, on the source, and on another datagram.
        let table = [
            (libc::EIO, [true, false, false]),
            (libc::EMSGSIZE, [true, false, false]),
            (libc::EOPNOTSUPP, [true, false, false]),
            (libc::ENOPROTOOPT, [true, false, false]),
            (libc::E2BIG, [true, false, false]),
            (libc::EINVAL, [true, true, false]),
            (libc::ENETUNREACH, [false, true, false]),
            (libc::EHOSTUNREACH, [false, true, false]),
            (libc::EADDRNOTAVAIL, [false, true, false]),
            (libc::ENODEV, [false, true, false]),
            (libc::ENXIO, [false, true, false]),
            (libc::ENETDOWN, [false, true, false]),
            (libc::EPERM, [false; 3]),
            (libc::EACCES, [false, true, false]),
            (libc::EINTR, [false, false, true]),
            (libc::ECONNREFUSED, [false, false, true]),
            (libc::ECONNRESET, [false, false, true]),
            (libc::ENOBUFS, [false; 3]),
            (libc::ENOMEM, [false; 3]),
            (libc::EAGAIN, [false; 3]),
            (libc::EBADF, [false; 3]),
        ];
        for (errno, blamed) in table {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!([blames_segmentation(&error), blames_source(&error), is_of_another(&error)], blamed, "{error}");
        }
        let error = io::Error::other("not of the kernel");
        assert!(!blames_segmentation(&error) && !blames_source(&error) && !is_of_another(&error));
    }
}
