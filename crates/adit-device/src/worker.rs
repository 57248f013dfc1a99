//! A worker: one TUN queue, a UDP socket of each family, and one loop that serves both sides.
//!
//! A burst is read, the engine is asked once for all of it, it is sealed or opened where it lies,
//! and written. Nothing is handed to another thread but what no packet waits for.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use adit::limits::{PADDING, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD};
use adit::{Datagrams, Packets, Sealed};
use arrayvec::ArrayVec;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::offload::{Joiner, Split, VnetHeader};
use crate::shared::{Shared, group, is_idle, now};
use crate::tun::TunQueue;
use crate::udp::{Group, MAX_RECEIVED, Sockets};

pub(crate) const WAKER: Token = Token(0);
const TUN: Token = Token(1);
const UDP_V4: Token = Token(2);
const UDP_V6: Token = Token(3);

const TAG_LEN: usize = TRANSPORT_OVERHEAD - TRANSPORT_HEADER_LEN;
/// Room for what one read of the TUN device may give, with what the tunnel adds.
const READ_LEN: usize = TRANSPORT_HEADER_LEN + 65_536;
/// Room for one read cut into segments of an ordinary size, each with headers of its own. Smaller
/// segments than that are sent in several goes.
const SPLIT_LEN: usize = 65_536 + 64 * (TRANSPORT_OVERHEAD + 80);
/// What a burst from inside may take: a read, its segments, and other packets before.
const OUT_LEN: usize = READ_LEN + SPLIT_LEN + (96 << 10);
/// What a burst from the network may take.
const IN_LEN: usize = 4 * (MAX_RECEIVED + 1);
/// The most packets in a burst: more would keep the other side waiting.
const BURST: usize = 128;
/// The most groups of datagrams that are given to the kernel at a time.
const GROUPS: usize = 32;

pub(crate) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    poll: Poll,
    tun: TunQueue,
    sockets: Arc<Sockets>,
    /// The burst from inside, and the burst from the network.
    outbound: Box<[u8]>,
    inbound: Box<[u8]>,
    packets: Packets,
    datagrams: Datagrams,
    joiner: Joiner,
    /// What was read from inside and is not yet cut up to its end.
    rest: Option<Read>,
    ready: Ready,
}

/// A packet, or several segments in one, as read from the TUN device.
#[derive(Clone, Copy)]
struct Read {
    vnet: VnetHeader,
    /// Where it begins in the buffer, and its length.
    begin: usize,
    len: usize,
    /// The first segment that has not been laid out.
    segment: usize,
}

/// What may have something to read: the kernel tells once, and then it is read until it is empty.
#[derive(Clone, Copy, Default)]
struct Ready {
    tun: bool,
    v4: bool,
    v6: bool,
}

impl Ready {
    fn any(self) -> bool {
        self.tun || self.v4 || self.v6
    }
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, index: usize, poll: Poll, tun: TunQueue) -> io::Result<Self> {
        let sockets = shared.sockets(index).ok_or(io::ErrorKind::NotFound)?;
        poll.registry().register(&mut SourceFd(&tun.as_raw_fd()), TUN, Interest::READABLE)?;
        register(&poll, &sockets)?;
        Ok(Self {
            shared,
            index,
            poll,
            tun,
            sockets,
            outbound: vec![0; OUT_LEN].into_boxed_slice(),
            inbound: vec![0; IN_LEN].into_boxed_slice(),
            packets: Packets::default(),
            datagrams: Datagrams::default(),
            joiner: Joiner::new(),
            rest: None,
            ready: Ready::default(),
        })
    }

    /// Serves until the device ends.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(8);
        while !self.shared.ends.load(Ordering::Relaxed) {
            match self.poll.poll(&mut events, None) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "a worker cannot wait for packets");
                    self.shared.tun_is_gone.store(true, Ordering::Relaxed);
                    self.shared.wake_control();
                    return;
                }
            }
            for event in &events {
                match event.token() {
                    WAKER => self.adopt_sockets(),
                    TUN => self.ready.tun = true,
                    UDP_V4 => self.ready.v4 = true,
                    _ => self.ready.v6 = true,
                }
            }
            // Both sides are served in turn until neither has anything left.
            while self.ready.any() && !self.shared.ends.load(Ordering::Relaxed) {
                if self.ready.tun {
                    self.serve_tun();
                }
                if self.ready.v4 || self.ready.v6 {
                    self.serve_network();
                }
            }
        }
    }

    /// The control thread may have bound other sockets.
    fn adopt_sockets(&mut self) {
        let Some(sockets) = self.shared.sockets(self.index) else { return };
        if Arc::ptr_eq(&sockets, &self.sockets) {
            return;
        }
        for socket in self.sockets.iter() {
            // Closing removes it as well.
            let _ = self.poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd()));
        }
        if let Err(error) = register(&self.poll, &sockets) {
            tracing::error!(%error, "the new sockets cannot be watched");
        }
        self.sockets = sockets;
        (self.ready.v4, self.ready.v6) = (true, true);
    }

    /// One burst from inside the tunnel to the network.
    fn serve_tun(&mut self) {
        let mut packets = std::mem::take(&mut self.packets);
        packets.set_mtu(self.shared.mtu.load(Ordering::Relaxed));
        let mut end = 0;
        if let Some(rest) = self.rest.take() {
            end = self.lay_out(rest, &mut packets);
        }
        while self.rest.is_none() && packets.len() < BURST && end + READ_LEN + SPLIT_LEN <= self.outbound.len() {
            match self.read_packet(end) {
                Ok(Some(read)) => end = self.lay_out(read, &mut packets),
                Ok(None) => {}
                Err(error) => {
                    self.ready.tun = false;
                    self.tun_failed(&error);
                    break;
                }
            }
        }
        if packets.is_empty() {
            self.packets = packets;
            return;
        }
        let (sealing, aftermath) = {
            let mut interface = self.shared.interface();
            let sealing = interface.begin_seal(now(), packets, &self.outbound);
            (sealing, self.shared.aftermath(&interface))
        };
        let sealed = sealing.seal(&mut self.outbound);
        self.send(&sealed);
        self.packets = sealed.into_empty();
        if aftermath.transmits {
            self.shared.transmit_all(&self.sockets, &mut self.inbound);
        }
        self.shared.settle(aftermath);
    }

    /// Reads once from the TUN device, for a datagram that begins at `start`. `None` is a packet
    /// that cannot be used.
    fn read_packet(&mut self, start: usize) -> io::Result<Option<Read>> {
        let begin = start + TRANSPORT_HEADER_LEN;
        let header_len = if self.shared.vnet_header { VnetHeader::LEN } else { 0 };
        // The device's header comes to lie where the tunnel's will be, so that a whole packet is
        // in its place at once.
        let place = self.outbound.get_mut(begin - header_len..begin + 65_536).ok_or(io::ErrorKind::OutOfMemory)?;
        let len = self.tun.read(place)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let vnet = match place.first_chunk().filter(|_| header_len > 0) {
            Some(header) => VnetHeader::from_bytes(header),
            None => VnetHeader::default(),
        };
        Ok(len.checked_sub(header_len).map(|len| Read { vnet, begin, len, segment: 0 }))
    }

    /// Lays out the packets in what was read, each with room before and behind it; what finds no
    /// room is kept in `self.rest`. Returns where the next datagram may begin.
    fn lay_out(&mut self, read: Read, packets: &mut Packets) -> usize {
        let Read { vnet, begin, len, segment } = read;
        let start = begin - TRANSPORT_HEADER_LEN;
        let origin = begin + len;
        let Some((before, after)) = self.outbound.split_at_mut_checked(origin) else { return start };
        let Some(packet) = before.get_mut(begin..) else { return start };
        let mut split = match Split::new(&vnet, packet) {
            Ok(split) => split,
            Err(error) => {
                tracing::debug!(%error, "a packet from inside cannot be used");
                self.shared.tun_errors.fetch_add(1, Ordering::Relaxed);
                return start;
            }
        };
        if split.finish_in_place().is_some() {
            return packets.push(start, len).unwrap_or(start);
        }
        let mut end = origin;
        for segment in segment..split.count() {
            let len = split.len(segment);
            let offset = end - origin + TRANSPORT_HEADER_LEN;
            // Room for the padding and the tag as well.
            let room = after.get_mut(offset..offset + len + PADDING + TAG_LEN);
            let Some(place) = room.and_then(|room| room.get_mut(..len)) else {
                if segment > read.segment {
                    self.rest = Some(Read { segment, ..read });
                }
                break;
            };
            if split.write(segment, place).is_some() {
                end = packets.push(end, len).unwrap_or(end);
            }
        }
        end
    }

    fn tun_failed(&self, error: &io::Error) {
        if is_idle(error) {
            return;
        }
        // EIO and the like pass with the link's state; without the device nothing is left to do.
        if matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV)) {
            self.shared.tun_is_gone.store(true, Ordering::Relaxed);
            self.shared.wake_control();
        } else {
            tracing::debug!(%error, "the TUN device cannot be read");
        }
    }

    fn send(&self, sealed: &Sealed) {
        let mut transmits = sealed.transmits().peekable();
        while transmits.peek().is_some() {
            let mut groups = ArrayVec::<Group<'_>, GROUPS>::new();
            let mut peers = ArrayVec::<_, GROUPS>::new();
            for transmit in transmits.by_ref().take(GROUPS) {
                groups.push(group(&transmit, &self.outbound));
                peers.push(transmit.peer);
            }
            self.sockets.send_many(&groups, |index, outcome| {
                self.shared.sent(peers.get(index).copied().flatten(), &outcome);
            });
        }
    }

    /// One burst from the network to the inside of the tunnel.
    fn serve_network(&mut self) {
        let mut datagrams = std::mem::take(&mut self.datagrams);
        let mut end = 0;
        let Ready { v4, v6, .. } = &mut self.ready;
        for (socket, ready) in [(&self.sockets.v4, v4), (&self.sockets.v6, v6)] {
            while *ready {
                let Some(socket) = socket else {
                    *ready = false;
                    break;
                };
                let place = self.inbound.get_mut(end..end + MAX_RECEIVED);
                let Some(place) = place.filter(|_| datagrams.len() < BURST) else { break };
                match socket.recv(place) {
                    Ok(received) => {
                        for datagram in received.datagrams() {
                            datagrams.push(end + datagram.start..end + datagram.end, &received.path, received.ecn);
                        }
                        end += received.len;
                    }
                    Err(error) => {
                        *ready = false;
                        if !is_idle(&error) {
                            tracing::debug!(%error, "a socket cannot be read");
                        }
                    }
                }
            }
        }
        if datagrams.is_empty() {
            self.datagrams = datagrams;
            return;
        }
        let now = now();
        let opening = self.shared.interface().begin_open(now, datagrams, &self.inbound);
        let opened = opening.open(&mut self.inbound);
        let (delivered, aftermath) = {
            let mut interface = self.shared.interface();
            let delivered = interface.commit(now, opened, &mut self.inbound);
            (delivered, self.shared.aftermath(&interface))
        };
        let ranges = delivered.packets().map(|(_, range)| range);
        for run in self.joiner.join(&mut self.inbound, ranges, self.shared.offloads) {
            let written = run.with_slices(self.shared.vnet_header, |slices| self.tun.write_vectored(slices));
            if let Err(error) = written {
                self.shared.tun_errors.fetch_add(run.count() as u64, Ordering::Relaxed);
                tracing::debug!(%error, packets = run.count(), "the TUN device did not take a packet");
            }
        }
        self.datagrams = delivered.into_empty();
        if aftermath.transmits {
            self.shared.transmit_all(&self.sockets, &mut self.inbound);
        }
        self.shared.settle(aftermath);
    }
}

fn register(poll: &Poll, sockets: &Sockets) -> io::Result<()> {
    for (socket, token) in [(&sockets.v4, UDP_V4), (&sockets.v6, UDP_V6)] {
        if let Some(socket) = socket {
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        }
    }
    Ok(())
}
