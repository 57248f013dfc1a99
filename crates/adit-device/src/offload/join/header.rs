//! The headers of a packet that may be put together with others.

use super::{Gso, Sum};
use crate::offload::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER, TCP_PSH, UDP_HEADER};

const TCP: u8 = libc::IPPROTO_TCP as u8;
const UDP: u8 = libc::IPPROTO_UDP as u8;

const TCP_ACK: u8 = 0x10;
/// With one of these a packet stays alone: CWR, URG, RST, SYN, FIN.
const TCP_ALONE: u8 = 0xa7;

const DONT_FRAGMENT: u8 = 0x40;

/// Source and destination. Those of IPv4 are followed by zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses([u8; 32]);

impl Addresses {
    /// Those of any IP packet.
    pub(super) fn of(packet: &[u8]) -> Option<Addresses> {
        let mut addresses = [0; 32];
        match packet.first()? >> 4 {
            4 => {
                let header = packet.first_chunk::<IPV4_HEADER>()?;
                *addresses.first_chunk_mut()? = *header[12..].first_chunk::<8>()?;
            }
            6 => {
                let header = packet.first_chunk::<IPV6_HEADER>()?;
                addresses = *header[8..].first_chunk()?;
            }
            _ => return None,
        }
        Some(Addresses(addresses))
    }
}

/// What all packets of a flow share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    ports: [u8; 4],
    v6: bool,
    udp: bool,
    pub(super) addresses: Addresses,
}

/// Where the headers of a packet are, and what is needed of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) flow: Flow,
    /// Where TCP or UDP begins.
    pub(super) l4: usize,
    /// Length of all headers.
    pub(super) length: usize,
    /// Length of what follows them.
    pub(super) payload: usize,
    /// The identification (IPv4).
    pub(super) id: u16,
    /// Whether the identification means nothing, since the packet may not be fragmented.
    atomic: bool,
    sequence: u32,
    /// Whether TCP wants the data delivered now.
    push: bool,
}

/// How the identifications (IPv4) of the packets of a run follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    /// There is one packet so far; or it is IPv6, which has none.
    Unknown,
    /// Each is one more than the one before.
    Rise,
    /// All are the same, which is allowed where they mean nothing.
    Stay,
}

impl Header {
    /// Looks at a packet; `None` if it is to be written alone: no TCP or UDP, a fragment, options or extension headers
    /// of IP, no payload, no checksum, flags of TCP that mean more than "here is data", or lengths that do not agree.
    pub(super) fn parse(packet: &[u8]) -> Option<Header> {
        let v6 = match packet.first()? {
            // No options.
            0x45 => false,
            first if first >> 4 == 6 => true,
            _ => return None,
        };
        let (l4, protocol, total, id, atomic);
        if v6 {
            let ip = packet.first_chunk::<IPV6_HEADER>()?;
            l4 = IPV6_HEADER;
            protocol = ip[6];
            total = usize::from(u16::from_be_bytes([ip[4], ip[5]])) + IPV6_HEADER;
            (id, atomic) = (0, true);
        } else {
            let ip = packet.first_chunk::<IPV4_HEADER>()?;
            l4 = IPV4_HEADER;
            protocol = ip[9];
            total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            id = u16::from_be_bytes([ip[4], ip[5]]);
            atomic = ip[6] & DONT_FRAGMENT != 0;
            // The reserved bit, more fragments, or an offset.
            if ip[6] & !DONT_FRAGMENT != 0 || ip[7] != 0 {
                return None;
            }
        }
        if total != packet.len() {
            return None;
        }
        let transport = packet.get(l4..)?;
        let (header_length, sequence, push) = match protocol {
            TCP => {
                let tcp = transport.first_chunk::<TCP_HEADER>()?;
                if tcp[13] & (TCP_ALONE | TCP_ACK) != TCP_ACK {
                    return None;
                }
                let header_length = usize::from(tcp[12] >> 4) * 4;
                if header_length < TCP_HEADER {
                    return None;
                }
                (header_length, u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]), tcp[13] & TCP_PSH != 0)
            }
            UDP => {
                let udp = transport.first_chunk::<UDP_HEADER>()?;
                let same = usize::from(u16::from_be_bytes([udp[4], udp[5]])) == transport.len();
                if !same || [udp[6], udp[7]] == [0, 0] {
                    return None;
                }
                (UDP_HEADER, 0, false)
            }
            _ => return None,
        };
        let length = l4 + header_length;
        let payload = packet.len().checked_sub(length).filter(|&payload| payload > 0)?;
        let flow =
            Flow { ports: *transport.first_chunk()?, v6, udp: protocol == UDP, addresses: Addresses::of(packet)? };
        Some(Header { flow, l4, length, payload, id, atomic, sequence, push })
    }

    pub(super) fn is_udp(&self) -> bool {
        self.flow.udp
    }

    pub(super) fn is_v6(&self) -> bool {
        self.flow.v6
    }

    /// Whether no packet may follow this one in a run.
    pub(super) fn is_last(&self) -> bool {
        self.push
    }

    pub(super) fn gso(&self) -> Gso {
        match (self.flow.udp, self.flow.v6) {
            (true, _) => Gso::Udp,
            (false, false) => Gso::Tcp4,
            (false, true) => Gso::Tcp6,
        }
    }

    /// Whether `next`, the headers of `packet`, continue a run of `length` bytes that begins with these, the headers of
    /// `first`: equal in all that the kernel copies from the first, and next in order.
    pub(super) fn is_continued_by(&self, next: &Header, first: &[u8], packet: &[u8], length: usize) -> bool {
        if self.length != next.length {
            return false;
        }
        let same = |range: std::ops::Range<usize>| match (first.get(range.clone()), packet.get(range)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        };
        let ip = if self.flow.v6 {
            // Version, traffic class, flow label; hop limit.
            same(0..4) && same(7..8)
        } else {
            // Traffic class; "don't fragment"; time to live.
            same(1..2) && same(6..7) && same(8..9)
        };
        if self.flow.udp {
            return ip;
        }
        let l4 = self.l4;
        let data = length.saturating_sub(self.length);
        let in_order = u32::try_from(data).is_ok_and(|data| next.sequence == self.sequence.wrapping_add(data));
        let flags = |bytes: &[u8]| bytes.get(l4 + 13).map(|flags| flags & !TCP_PSH);
        ip && in_order
            // Acknowledgement, header length and reserved bits.
            && same(l4 + 8..l4 + 13)
            && flags(first) == flags(packet)
            // Window; urgent pointer and options.
            && same(l4 + 14..l4 + 16)
            && same(l4 + 18..self.length)
    }

    /// How the identifications of the run go on with the next packet, of which `last` is the latest so far. `None` if
    /// it does not continue them.
    pub(super) fn continues_ids(&self, next: &Header, last: u16, ids: Ids) -> Option<Ids> {
        if self.flow.v6 {
            return Some(ids);
        }
        let is_same = next.id == last;
        let is_next = next.id == last.wrapping_add(1);
        match ids {
            Ids::Unknown if is_next => Some(Ids::Rise),
            Ids::Unknown if is_same && self.atomic => Some(Ids::Stay),
            Ids::Rise if is_next => Some(ids),
            Ids::Stay if is_same => Some(ids),
            _ => None,
        }
    }

    /// Whether the packet's checksums are right, that of IPv4 and that of TCP or UDP.
    pub(super) fn is_right(&self, packet: &[u8]) -> bool {
        let Some((ip, transport)) = packet.split_at_checked(self.l4) else { return false };
        (self.flow.v6 || Sum::of(ip).is_right()) && (self.pseudo(transport.len()) + Sum::of(transport)).is_right()
    }

    /// The sum of the pseudo-header for this many bytes of TCP or UDP.
    fn pseudo(&self, length: usize) -> Sum {
        let protocol = if self.flow.udp { UDP } else { TCP };
        // The zeros behind the addresses of IPv4 add nothing.
        Sum::of(&self.flow.addresses.0) + Sum::word(u16::from(protocol)) + Sum::word(length as u16)
    }

    /// Makes these headers, at the beginning of `first`, those of a packet of `length` bytes with a partial checksum.
    pub(super) fn finish(&self, first: &mut [u8], length: usize, push: bool) {
        let l4_length = length.saturating_sub(self.l4);
        let partial = self.pseudo(l4_length).folded();
        let Some((ip, transport)) = first.split_at_mut_checked(self.l4) else { return };
        if self.flow.v6 {
            if let Some(ip) = ip.first_chunk_mut::<IPV6_HEADER>() {
                [ip[4], ip[5]] = (l4_length as u16).to_be_bytes();
            }
        } else if let Some(ip) = ip.first_chunk_mut::<IPV4_HEADER>() {
            [ip[2], ip[3]] = (length as u16).to_be_bytes();
            [ip[10], ip[11]] = [0, 0];
            [ip[10], ip[11]] = Sum::of(ip).checksum();
        }
        if self.flow.udp {
            if let Some(udp) = transport.first_chunk_mut::<UDP_HEADER>() {
                [udp[4], udp[5]] = (l4_length as u16).to_be_bytes();
                [udp[6], udp[7]] = partial;
            }
        } else if let Some(tcp) = transport.first_chunk_mut::<TCP_HEADER>() {
            if push {
                tcp[13] |= TCP_PSH;
            }
            [tcp[16], tcp[17]] = partial;
        }
    }
}
