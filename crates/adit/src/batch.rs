//! Bursts of packets on their way through three steps: bookkeeping under the caller's lock, crypto
//! outside it, and bookkeeping again.
//!
//! A burst lies in one buffer of the caller's. Each datagram in it is 16 bytes of header, the
//! packet, padding and 16 bytes of tag, and is sealed or opened where it lies.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;

use crate::handshake::Admission;
use crate::limits::TRANSPORT_HEADER_LEN;
use crate::message::{Transport, transport_len};
use crate::noise::SessionKeys;
use crate::path::{Ecn, Path};
use crate::peer::PeerId;

/// How many packets are given to the cipher at a time.
const CIPHER_BATCH: usize = 64;

/// What has become of a packet so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It goes on to the next step.
    Going,
    /// It was opened, and its tag was right.
    Authentic,
    /// It is a handshake message, whose admission is still to be decided.
    Handshake,
    /// It came from inside, and there is no peer for it, or nobody knows where that peer is.
    Unreachable,
    /// It ends here.
    Gone,
}

/// One packet of a burst.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Where the datagram begins in the buffer.
    pub(crate) start: u32,
    /// The datagram's length.
    pub(crate) len: u32,
    /// Where the packet inside begins.
    pub(crate) packet_start: u32,
    /// Its length; 0 if there is none.
    pub(crate) packet_len: u32,
    pub(crate) counter: u64,
    /// Its place in `runs`.
    pub(crate) run: u32,
    /// Its place in `paths`.
    pub(crate) path: u32,
    pub(crate) ecn: Ecn,
    pub(crate) fate: Fate,
}

impl Entry {
    pub(crate) fn datagram(&self) -> Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }

    pub(crate) fn packet(&self) -> Range<usize> {
        self.packet_start as usize..self.packet_start as usize + self.packet_len as usize
    }
}

/// Packets in a row that belong to one session.
pub(crate) struct Run {
    pub(crate) peer: PeerId,
    pub(crate) keys: Arc<SessionKeys>,
    /// Sending: the peer's index. Receiving: this interface's.
    pub(crate) index: u32,
}

/// The burst itself, whatever step it is at. Its memory is used again and again.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    pub(crate) runs: Vec<Run>,
    pub(crate) paths: Vec<Path>,
    pub(crate) admission: Admission,
    /// Where the next datagram may begin.
    end: u32,
}

impl Batch {
    fn push(&mut self, start: usize, len: usize, packet_len: usize, path: u32, ecn: Ecn) -> bool {
        let (Ok(start), Ok(len), Ok(packet_len)) =
            (u32::try_from(start), u32::try_from(len), u32::try_from(packet_len))
        else {
            return false;
        };
        let Some(end) = start.checked_add(len).filter(|_| start >= self.end) else { return false };
        let Some(packet_start) = start.checked_add(TRANSPORT_HEADER_LEN as u32) else { return false };
        self.end = end;
        let (counter, run, fate) = (0, 0, Fate::Going);
        self.entries.push(Entry { start, len, packet_start, packet_len, counter, run, path, ecn, fate });
        true
    }

    /// The place of `path` in `paths`. It is added unless the last one is equal.
    pub(crate) fn path(&mut self, path: &Path) -> u32 {
        if self.paths.last() != Some(path) {
            self.paths.push(*path);
        }
        (self.paths.len() - 1) as u32
    }

    fn clear(mut self) -> Self {
        self.entries.clear();
        self.runs.clear();
        self.paths.clear();
        self.admission.clear();
        self.end = 0;
        self
    }

    /// Hands the datagrams that are still `Going` to `cipher`, some at a time, and tells `after` of each whether it is
    /// authentic, or `None` if it is no packet that the cipher could be given.
    fn each_going(
        &mut self,
        buffer: &mut [u8],
        key: impl Fn(&SessionKeys) -> &adit_aead::Key,
        cipher: impl Fn(&mut [adit_aead::Packet<'_>]),
        after: impl Fn(&mut Entry, Option<bool>),
    ) {
        let runs = &self.runs;
        let mut entries = self.entries.iter_mut().filter(|entry| entry.fate == Fate::Going).peekable();
        // Entries stand in the order of the buffer and do not overlap: `push` sees to it.
        let (mut rest, mut offset) = (buffer, 0);
        while entries.peek().is_some() {
            let mut packets = ArrayVec::<adit_aead::Packet<'_>, CIPHER_BATCH>::new();
            let mut batch = ArrayVec::<&mut Entry, CIPHER_BATCH>::new();
            for entry in entries.by_ref().take(CIPHER_BATCH) {
                let begin = entry.datagram().start + TRANSPORT_HEADER_LEN - offset;
                let len = entry.datagram().len() - TRANSPORT_HEADER_LEN;
                let packet = core::mem::take(&mut rest)
                    .split_at_mut_checked(begin)
                    .and_then(|(_, from)| from.split_at_mut_checked(len))
                    .and_then(|(text, after)| {
                        rest = after;
                        offset += begin + len;
                        let keys = &runs.get(entry.run as usize)?.keys;
                        adit_aead::Packet::new(key(keys), entry.counter, text)
                    });
                match packet {
                    Some(packet) => {
                        packets.push(packet);
                        batch.push(entry);
                    }
                    None => after(entry, None),
                }
            }
            cipher(&mut packets);
            for (entry, packet) in batch.into_iter().zip(&packets) {
                after(entry, Some(packet.is_authentic()));
            }
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("entries", &self.entries.len()).field("runs", &self.runs.len()).finish()
    }
}

/// Packets from inside, to be sealed: the beginning of the way out.
///
/// Each lies in the caller's buffer with [`TRANSPORT_HEADER_LEN`] bytes free before it, and behind
/// it as many as [`transport_len`] says for the MTU given to [`Packets::new`].
#[derive(Debug, Default)]
pub struct Packets {
    pub(crate) batch: Batch,
    pub(crate) mtu: u16,
}

impl Packets {
    /// An empty burst for a tunnel with this MTU: that of [`Interface::set_mtu`](crate::Interface::set_mtu).
    pub fn new(mtu: u16) -> Self {
        Self { batch: Batch::default(), mtu }
    }

    /// Sets the MTU for packets added from now on; 0 means that padding is not bounded by it.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Adds the packet of `len` bytes whose datagram begins at `start`, that is, which itself
    /// begins [`TRANSPORT_HEADER_LEN`] bytes later.
    ///
    /// Returns where the datagram ends, and so where the next one may begin. `None`, and nothing is
    /// added, if it begins before the end of the one before, or would end 4 GiB into the buffer or later.
    pub fn push(&mut self, start: usize, len: usize) -> Option<usize> {
        let datagram = transport_len(len, self.mtu);
        self.batch.push(start, datagram, len, 0, Ecn::NotEct).then(|| start + datagram)
    }

    /// Forgets the packets, and keeps the memory.
    pub fn clear(&mut self) {
        self.batch = core::mem::take(&mut self.batch).clear();
    }

    /// How many packets there are.
    pub fn len(&self) -> usize {
        self.batch.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.batch.entries.is_empty()
    }
}

/// Packets whose sessions are known and whose counters are reserved.
#[derive(Debug)]
#[must_use = "the counters are spent: seal the packets and send them"]
pub struct Sealing {
    pub(crate) batch: Batch,
    pub(crate) mtu: u16,
}

impl Sealing {
    /// Writes headers and padding, and encrypts. Needs no lock.
    ///
    /// `buffer` is the one in which the packets lie; what does not fit into it is left out.
    pub fn seal(mut self, buffer: &mut [u8]) -> Sealed {
        for entry in self.batch.entries.iter_mut().filter(|entry| entry.fate == Fate::Going) {
            let prepared = self.batch.runs.get(entry.run as usize).and_then(|run| {
                let header = Transport { receiver_index: run.index, counter: entry.counter };
                let datagram = buffer.get_mut(entry.datagram())?;
                let (place, rest) = datagram.split_first_chunk_mut()?;
                *place = header.to_bytes();
                let padded = rest.len().checked_sub(adit_aead::TAG_LEN)?;
                rest.get_mut(entry.packet_len as usize..padded)?.fill(0);
                Some(())
            });
            if prepared.is_none() {
                entry.fate = Fate::Gone;
            }
        }
        self.batch.each_going(
            buffer,
            |keys| &keys.sending,
            adit_aead::seal,
            |entry, sealed| {
                // What is not encrypted must not go out.
                if sealed.is_none() {
                    entry.fate = Fate::Gone;
                }
            },
        );
        Sealed { batch: self.batch, mtu: self.mtu }
    }
}

/// Datagrams that are ready for the network.
#[derive(Debug)]
#[must_use = "the packets are sealed: send them"]
pub struct Sealed {
    batch: Batch,
    mtu: u16,
}

impl Sealed {
    /// The datagrams in order, grouped so that each group may be sent as one: to one address, without gaps, and of
    /// equal length except for the last, which may be shorter.
    pub fn transmits(&self) -> impl Iterator<Item = Transmit> + '_ {
        let mut entries = self.batch.entries.iter().filter(|entry| entry.fate == Fate::Going).peekable();
        core::iter::from_fn(move || {
            let first = entries.next()?;
            let run = self.batch.runs.get(first.run as usize)?;
            let path = self.batch.paths.get(first.path as usize)?;
            let mut range = first.datagram();
            let mut last = first;
            while let Some(next) = entries.next_if(|next| {
                last.len == first.len
                    && next.len <= first.len
                    && next.start as usize == range.end
                    && next.ecn == first.ecn
                    && next.path == first.path
                    // Two peers may have one endpoint.
                    && self.batch.runs.get(next.run as usize).is_some_and(|next| next.peer == run.peer)
            }) {
                range.end = next.datagram().end;
                last = next;
            }
            Some(Transmit {
                peer: Some(run.peer),
                path: *path,
                tos: first.ecn.bits(),
                range,
                segment_size: first.len as usize,
            })
        })
    }

    /// Where the packets lie, as they were, that were dropped since no peer has their destination
    /// ([`DropReason::NoRoute`](crate::DropReason::NoRoute)) or it is not known where the peer is
    /// ([`DropReason::NoEndpoint`](crate::DropReason::NoEndpoint)). Their senders may be told: with an ICMP message,
    /// say.
    pub fn unreachable(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.batch.entries.iter().filter(|entry| entry.fate == Fate::Unreachable).map(Entry::packet)
    }

    /// An empty burst that uses this one's memory again.
    pub fn into_empty(self) -> Packets {
        Packets { batch: self.batch.clear(), mtu: self.mtu }
    }
}

/// One datagram, or several that may be handed to the network as one (`UDP_SEGMENT`).
///
/// How many a network takes at once is the caller's business: Linux takes at most 64 datagrams and 65,507 bytes, and
/// what exceeds that has to be handed over in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// The peer it is for; `None` for answers to a sender that has not shown itself to be a peer.
    pub peer: Option<PeerId>,
    /// Where to, and from which address and interface it should leave.
    pub path: Path,
    /// The outer header's type-of-service byte or traffic class: the congestion bits of what is
    /// inside, or AF41 for handshake messages.
    pub tos: u8,
    /// Where it lies in the buffer.
    pub range: Range<usize>,
    /// The length of each datagram in the range; the last one may be shorter.
    pub segment_size: usize,
}

impl Transmit {
    /// The datagrams, in the buffer that was given to the call that returned this. Each goes on the wire by itself.
    pub fn datagrams<'a>(&self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        buffer.get(self.range.clone()).unwrap_or_default().chunks(self.segment_size.max(1))
    }
}

/// Datagrams from the network, to be opened: the beginning of the way in.
#[derive(Debug, Default)]
pub struct Datagrams(pub(crate) Batch);

impl Datagrams {
    /// An empty burst.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the datagram that lies at `range` of the buffer, with the way it came and the
    /// congestion bits of its outer header.
    ///
    /// Returns false, and adds nothing, if it begins before the end of the one before, or lies 4 GiB into the buffer or
    /// later.
    pub fn push(&mut self, range: Range<usize>, path: &Path, ecn: Ecn) -> bool {
        let path = self.0.path(path);
        self.0.push(range.start, range.len(), 0, path, ecn)
    }

    /// Forgets the datagrams, and keeps the memory.
    pub fn clear(&mut self) {
        self.0 = core::mem::take(&mut self.0).clear();
    }

    /// How many datagrams there are.
    pub fn len(&self) -> usize {
        self.0.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.entries.is_empty()
    }
}

/// Transport messages whose sessions are known, and handshake messages that may be worth a Diffie-Hellman.
#[derive(Debug)]
#[must_use = "nothing has been decrypted yet"]
pub struct Opening(pub(crate) Batch);

impl Opening {
    /// Verifies and decrypts; checks the MACs of handshake messages. Needs no lock.
    pub fn open(mut self, buffer: &mut [u8]) -> Opened {
        Admission::check(&mut self.0, buffer);
        self.0.each_going(
            buffer,
            |keys| &keys.receiving,
            adit_aead::open,
            |entry, authentic| {
                if authentic == Some(true) {
                    entry.fate = Fate::Authentic;
                }
            },
        );
        Opened(self.0)
    }
}

/// Messages that have been verified, but not committed: they may be replays, or not allowed in.
#[derive(Debug)]
#[must_use = "nothing may be delivered before it is committed"]
pub struct Opened(pub(crate) Batch);

/// Packets for the inside of the tunnel.
#[derive(Debug)]
#[must_use = "these packets have arrived: deliver them"]
pub struct Delivered(pub(crate) Batch);

impl Delivered {
    /// Where the packets lie in the buffer, in the order in which they arrived, and whose they are.
    pub fn packets(&self) -> impl Iterator<Item = (PeerId, Range<usize>)> + '_ {
        let authentic = self.0.entries.iter().filter(|entry| entry.fate == Fate::Authentic);
        authentic.filter_map(|entry| Some((self.0.runs.get(entry.run as usize)?.peer, entry.packet())))
    }

    /// An empty burst that uses this one's memory again.
    pub fn into_empty(self) -> Datagrams {
        Datagrams(self.0.clear())
    }
}
