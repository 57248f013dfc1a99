//! Putting packets together for a TUN device.

use std::io::IoSlice;
use std::ops::Range;

use super::Offloads;
use super::checksum::Sum;
use super::vnet::{Gso, NEEDS_CSUM, VnetHeader};

mod header;
#[cfg(test)]
mod tests;

use header::{Addresses, Header, Ids};

/// Most packets of a run of UDP.
const MAX_UDP: usize = 64;
/// Most packets of a run of TCP.
const MAX_TCP: usize = 128;
/// Most slices of a run: a header and a slice for each packet.
const MAX_SLICES: usize = MAX_TCP + 1;
/// The longest packet.
const MAX_LENGTH: usize = 65_535;
/// How many flows are followed at once.
const MAX_OPEN: usize = 16;

/// Finds runs of packets that may be written as one. One joiner serves any number of batches; it allocates only when a
/// batch has more packets than any before.
///
/// The rules are those of the kernel's own receive offload: packets of one flow, in order, whose headers differ only
/// where those of segments must. Cutting a run apart again gives the same packets (except for IDs of IPv4 packets that
/// must not be fragmented, which then mean nothing). A packet whose checksum is wrong is never joined with another, so
/// that its receiver still sees it wrong.
#[derive(Debug, Default)]
pub struct Joiner {
    packets: Vec<Packet>,
    runs: Vec<RunState>,
    /// Runs to which packets may still be added, the one last used first.
    open: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Packet {
    range: Range<usize>,
    /// The next packet of its run.
    next: Option<usize>,
}

#[derive(Debug, Clone)]
struct RunState {
    /// The first packet, and its headers if it may be followed by others.
    first: usize,
    last: usize,
    header: Option<Header>,
    /// Packets.
    count: usize,
    /// Length of the packet they make together.
    length: usize,
    /// The identification (IPv4) of the last packet.
    id: u16,
    ids: Ids,
    push: bool,
    /// Whether the checksum of the first packet is known to be right.
    verified: bool,
}

/// The runs of a batch, in the order of their first packets. Two packets of one flow are never reordered.
#[derive(Debug)]
pub struct Runs<'a> {
    arena: &'a [u8],
    packets: &'a [Packet],
    runs: std::slice::Iter<'a, RunState>,
}

/// One or several packets to be written as one.
#[derive(Debug)]
pub struct Run<'a> {
    arena: &'a [u8],
    packets: &'a [Packet],
    state: &'a RunState,
}

impl Joiner {
    /// A joiner.
    pub fn new() -> Joiner {
        Joiner::default()
    }

    /// Joins what can be joined. `packets` are the places of IP packets in `arena`, in the order of arrival; a place
    /// outside of it is passed over. The headers of a run's first packet are changed where they are.
    pub fn join<'a>(
        &'a mut self,
        arena: &'a mut [u8],
        packets: impl IntoIterator<Item = Range<usize>>,
        offloads: Offloads,
    ) -> Runs<'a> {
        self.packets.clear();
        self.runs.clear();
        self.open.clear();
        for range in packets {
            if let Some(packet) = arena.get(range.clone())
                && !packet.is_empty()
            {
                self.add(arena, packet, range, offloads);
            }
        }
        for run in &self.runs {
            if let Some(packet) = self.packets.get(run.first).and_then(|first| arena.get_mut(first.range.clone())) {
                run.finish(packet);
            }
        }
        Runs { arena, packets: &self.packets, runs: self.runs.iter() }
    }

    fn add(&mut self, arena: &[u8], packet: &[u8], range: Range<usize>, offloads: Offloads) {
        let index = self.packets.len();
        let length = range.len();
        self.packets.push(Packet { range, next: None });
        let header = Header::parse(packet).filter(|header| match (header.is_udp(), header.is_v6()) {
            (true, _) => offloads.checksum && offloads.udp,
            (false, false) => offloads.checksum && offloads.tcp4,
            (false, true) => offloads.checksum && offloads.tcp6,
        });
        if let Some(header) = &header {
            if let Some(place) = self.open.iter().position(|&run| self.runs.get(run).is_some_and(|r| r.is_of(header))) {
                if self.append(arena, packet, place, index, header) {
                    return;
                }
                self.open.remove(place);
            }
        } else if let Some(addresses) = Addresses::of(packet) {
            // It may belong to one of the flows between these hosts, whose later packets must not overtake it.
            let runs = &self.runs;
            self.open.retain(|&run| runs.get(run).is_none_or(|run| !run.is_between(&addresses)));
        }
        // A packet with PSH is the last of its run.
        let open = header.as_ref().is_some_and(|header| !header.is_last());
        self.runs.push(RunState {
            first: index,
            last: index,
            count: 1,
            length,
            id: header.as_ref().map_or(0, |header| header.id),
            ids: Ids::Unknown,
            push: false,
            verified: false,
            header,
        });
        if open {
            self.open.truncate(MAX_OPEN - 1);
            self.open.insert(0, self.runs.len() - 1);
        }
    }

    /// Adds a packet to the open run at `place` if it continues it.
    fn append(&mut self, arena: &[u8], packet: &[u8], place: usize, index: usize, header: &Header) -> bool {
        let Some(&run_index) = self.open.get(place) else { return false };
        let Some(run) = self.runs.get_mut(run_index) else { return false };
        let Some(first) = self.packets.get(run.first).and_then(|first| arena.get(first.range.clone())) else {
            return false;
        };
        let Some(mut change) = run.accepts(header, packet, first) else { return false };
        if !run.verified {
            if run.header.is_none_or(|header| !header.is_right(first)) {
                return false;
            }
            run.verified = true;
        }
        if !header.is_right(packet) {
            return false;
        }
        if let Some(last) = self.packets.get_mut(run.last) {
            last.next = Some(index);
        }
        run.last = index;
        run.count += 1;
        run.length += header.payload;
        run.id = header.id;
        run.ids = change.ids;
        run.push |= header.is_last();
        change.closes |= header.is_last();
        if change.closes {
            self.open.remove(place);
        } else if place > 0 {
            // At the front the busiest flow is found first, and stays longest.
            self.open.swap(0, place);
        }
        true
    }
}

/// What a packet that continues a run changes.
struct Change {
    ids: Ids,
    closes: bool,
}

impl RunState {
    fn is_of(&self, header: &Header) -> bool {
        self.header.is_some_and(|own| own.flow == header.flow)
    }

    fn is_between(&self, addresses: &Addresses) -> bool {
        self.header.is_some_and(|own| own.flow.addresses == *addresses)
    }

    /// Whether a packet of the same flow continues this run, its checksum apart.
    fn accepts(&self, header: &Header, packet: &[u8], first: &[u8]) -> Option<Change> {
        let own = self.header?;
        let most = if own.is_udp() { MAX_UDP } else { MAX_TCP };
        if self.count >= most || header.payload > own.payload || self.length + header.payload > MAX_LENGTH {
            return None;
        }
        if !own.is_continued_by(header, first, packet, self.length) {
            return None;
        }
        let ids = own.continues_ids(header, self.id, self.ids)?;
        let closes = header.payload < own.payload || self.count + 1 == most;
        Some(Change { ids, closes })
    }

    fn vnet(&self) -> VnetHeader {
        match &self.header {
            Some(header) if self.count > 1 => VnetHeader {
                flags: NEEDS_CSUM,
                gso_type: header.gso().bits(),
                hdr_len: u16::try_from(header.length).unwrap_or(0),
                gso_size: u16::try_from(header.payload).unwrap_or(0),
                csum_start: u16::try_from(header.l4).unwrap_or(0),
                csum_offset: if header.is_udp() { 6 } else { 16 },
            },
            _ => VnetHeader::default(),
        }
    }

    /// Makes the first packet's headers those of the whole.
    fn finish(&self, first: &mut [u8]) {
        if self.count > 1
            && let Some(header) = &self.header
        {
            header.finish(first, self.length, self.push);
        }
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        self.runs.next().map(|state| Run { arena: self.arena, packets: self.packets, state })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.runs.size_hint()
    }
}

impl ExactSizeIterator for Runs<'_> {}

impl<'a> Run<'a> {
    /// The header to be written before the packet.
    pub fn vnet(&self) -> VnetHeader {
        self.state.vnet()
    }

    /// How many packets these are.
    pub fn count(&self) -> usize {
        self.state.count
    }

    /// The length of the packet they make together.
    pub fn len(&self) -> usize {
        self.state.length
    }

    /// Whether there is nothing to write: never.
    pub fn is_empty(&self) -> bool {
        self.state.length == 0
    }

    /// The parts of the packet that they make together, to be written one after another.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> {
        let (arena, packets, state) = (self.arena, self.packets, self.state);
        let mut next = Some(state.first);
        std::iter::from_fn(move || {
            let index = next?;
            let packet = packets.get(index)?;
            next = packet.next;
            let headers = if index == state.first { 0 } else { state.header.map_or(0, |header| header.length) };
            arena.get(packet.range.start + headers..packet.range.end)
        })
    }

    /// Gives `write` all that is to be written at once: the [`VnetHeader`] if the device has them, and the packet.
    pub fn with_slices<T>(&self, vnet_header: bool, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let header = self.vnet().to_bytes();
        let header = vnet_header.then_some(header.as_slice());
        let parts = header.into_iter().chain(self.parts());
        // Most runs of one packet are short, and clearing the longer array would cost as much as all else.
        if self.count() == 1 {
            write(fill(&mut [IoSlice::new(&[]); 2], parts))
        } else {
            write(fill(&mut [IoSlice::new(&[]); MAX_SLICES], parts))
        }
    }
}

/// Puts the parts into `slices`, which has room for all of them.
fn fill<'s, 'a>(slices: &'s mut [IoSlice<'a>], parts: impl Iterator<Item = &'a [u8]>) -> &'s [IoSlice<'a>] {
    let mut count = 0;
    for (slice, part) in slices.iter_mut().zip(parts) {
        *slice = IoSlice::new(part);
        count += 1;
    }
    slices.get(..count).unwrap_or_default()
}
