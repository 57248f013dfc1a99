//! Cutting what a TUN device gives into packets.

use super::checksum::Sum;
use super::vnet::{Gso, VnetHeader};
use super::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER, TCP_PSH, UDP_HEADER};

/// Where the checksum is in the header.
const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Flags of TCP that the segments do not share, beside [`TCP_PSH`].
const TCP_FIN: u8 = 0x01;
const TCP_CWR: u8 = 0x80;

/// What was read from a TUN device, cut into packets that are ready for the tunnel: every header and checksum right.
///
/// A packet is made when it is asked for, at the place that the caller chooses.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a mut [u8],
    kind: Kind,
    /// Length of the headers that every segment has.
    headers: usize,
    /// Length of each segment's payload but the last's.
    size: usize,
    count: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// One packet, whose checksum is to be completed here.
    Single {
        checksum: Option<(usize, usize)>,
    },
    Segments {
        v6: bool,
        udp: bool,
        l4: usize,
        pseudo: Sum,
    },
}

/// Why what was read cannot be cut. It is the kernel that made it so; the packet is to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// There is no packet.
    #[error("found nothing, expected a packet")]
    Empty,
    /// A kind of segmentation that was not asked for.
    #[error("found segmentation of kind {0}, expected 1, 4 or 5: TCP in IPv4, TCP in IPv6, UDP")]
    UnknownGso(u8),
    /// Neither IPv4 nor IPv6, or not the one that the header says.
    #[error("found IP version {0}, expected 4 or 6, and the one that the kind of segmentation names")]
    BadVersion(u8),
    /// The headers do not fit into the packet.
    #[error("found a packet of {length} bytes, expected at least the {headers} that its headers take")]
    Truncated {
        /// Bytes that the headers take.
        headers: usize,
        /// Bytes that there are.
        length: usize,
    },
    /// The packet is longer than a packet can be.
    #[error("found a packet of {0} bytes, expected no more than the length field of IP can tell")]
    TooLong(usize),
    /// A header's own length is too small.
    #[error("found a header of {0} bytes, expected its kind's least or more, and the next one behind it")]
    BadHeaderLength(usize),
    /// The protocol is not the one of the segmentation.
    #[error("found protocol {0}, expected that of the segmentation: 6 for TCP, 17 for UDP")]
    BadProtocol(u8),
    /// Several segments in a fragment.
    #[error("found a fragment of several segments, expected a whole packet")]
    Fragment,
    /// Segments without payload.
    #[error("found segments of no bytes, expected one byte or more in each")]
    NoSegmentSize,
    /// Segments without a partial checksum, or it is in another place than this protocol has it.
    #[error("found no checksum to complete where TCP or UDP has it, expected one in each kind of segment")]
    BadChecksumPlace,
}

impl<'a> Split<'a> {
    /// Looks at what was read: the header before the packet, and the packet.
    ///
    /// # Errors
    /// A [`SplitError`] if the two do not fit together. No bytes cause a panic.
    pub fn new(vnet: &VnetHeader, packet: &'a mut [u8]) -> Result<Split<'a>, SplitError> {
        let gso = Gso::from_bits(vnet.gso_type).ok_or(SplitError::UnknownGso(vnet.gso_type))?;
        match gso {
            Gso::None => Split::single(vnet, packet),
            Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => Split::segments(gso, vnet, packet),
        }
    }

    fn single(vnet: &VnetHeader, packet: &'a mut [u8]) -> Result<Split<'a>, SplitError> {
        if packet.is_empty() {
            return Err(SplitError::Empty);
        }
        let mut checksum = None;
        if vnet.needs_checksum() {
            let start = usize::from(vnet.csum_start);
            let place = start + usize::from(vnet.csum_offset);
            if place + 2 > packet.len() {
                return Err(SplitError::Truncated { headers: place + 2, length: packet.len() });
            }
            checksum = Some((start, place));
        }
        let size = packet.len();
        Ok(Split { packet, kind: Kind::Single { checksum }, headers: 0, size, count: 1 })
    }

    fn segments(gso: Gso, vnet: &VnetHeader, packet: &'a mut [u8]) -> Result<Split<'a>, SplitError> {
        let length = packet.len();
        let version = packet.first().ok_or(SplitError::Empty)? >> 4;
        let v6 = match (gso, version) {
            (Gso::Tcp4 | Gso::Udp, 4) => false,
            (Gso::Tcp6 | Gso::Udp, 6) => true,
            _ => return Err(SplitError::BadVersion(version)),
        };
        let udp = gso == Gso::Udp;
        let l4 = usize::from(vnet.csum_start);
        if v6 {
            if l4 < IPV6_HEADER {
                return Err(SplitError::BadHeaderLength(l4));
            }
        } else {
            let header = packet.first_chunk::<IPV4_HEADER>();
            let header = header.ok_or(SplitError::Truncated { headers: IPV4_HEADER, length })?;
            let header_length = usize::from(header[0] & 0x0f) * 4;
            if header_length < IPV4_HEADER || header_length != l4 {
                return Err(SplitError::BadHeaderLength(header_length));
            }
            if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
                return Err(SplitError::Fragment);
            }
            let protocol = if udp { libc::IPPROTO_UDP } else { libc::IPPROTO_TCP };
            if i32::from(header[9]) != protocol {
                return Err(SplitError::BadProtocol(header[9]));
            }
        }
        let shortest = l4 + if udp { UDP_HEADER } else { TCP_HEADER };
        if length < shortest {
            return Err(SplitError::Truncated { headers: shortest, length });
        }
        let headers = if udp {
            shortest
        } else {
            let header_length = packet.get(l4 + 12).map_or(0, |offset| usize::from(offset >> 4) * 4);
            if header_length < TCP_HEADER {
                return Err(SplitError::BadHeaderLength(header_length));
            }
            l4 + header_length
        };
        if length < headers {
            return Err(SplitError::Truncated { headers, length });
        }
        // The longest is a whole IPv6 payload behind its header.
        let l4_length = u16::try_from(length - l4).map_err(|_| SplitError::TooLong(length))?;
        if length > usize::from(u16::MAX) + if v6 { IPV6_HEADER } else { 0 } {
            return Err(SplitError::TooLong(length));
        }
        if vnet.gso_size == 0 {
            return Err(SplitError::NoSegmentSize);
        }
        let checksum = if udp { UDP_CHECKSUM } else { TCP_CHECKSUM };
        if !vnet.needs_checksum() || vnet.csum_offset != checksum {
            return Err(SplitError::BadChecksumPlace);
        }
        // The field holds the sum of the pseudo-header, with the length of all segments together. The kernel's own sum
        // is taken, since with a routing header the addresses in it are not those in the IPv6 header.
        let at = l4 + usize::from(checksum);
        let partial = packet.get(at..at + 2).map_or(Sum::default(), Sum::of);
        let pseudo = partial + Sum::minus_word(l4_length);
        let size = usize::from(vnet.gso_size);
        let count = (length - headers).div_ceil(size).max(1);
        Ok(Split { packet, kind: Kind::Segments { v6, udp, l4, pseudo }, headers, size, count })
    }

    /// How many packets these are, at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The length of the packet of this index; 0 if there is none.
    pub fn len(&self, index: usize) -> usize {
        self.payload(index).map_or(0, |payload| self.headers + payload.len())
    }

    /// Whether there is no packet: never.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// If this is one packet, finishes it where it is.
    pub fn finish_in_place(&mut self) -> Option<&mut [u8]> {
        let Kind::Single { checksum } = &mut self.kind else { return None };
        if let Some((start, place)) = checksum.take() {
            complete(self.packet, start, place);
        }
        Some(self.packet)
    }

    /// Writes the packet of this index to the beginning of `out` and returns its length, or `None` if there is no such
    /// packet, or `out` is too short for it.
    pub fn write(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        let payload = self.payload(index)?;
        let headers = self.packet.get(..self.headers)?;
        let length = headers.len() + payload.len();
        let out = out.get_mut(..length)?;
        let (out_headers, out_payload) = out.split_at_mut(headers.len());
        out_headers.copy_from_slice(headers);
        match self.kind {
            Kind::Single { checksum } => {
                out_payload.copy_from_slice(payload);
                if let Some((start, place)) = checksum {
                    complete(out, start, place);
                }
            }
            Kind::Segments { v6, udp, l4, pseudo } => {
                let (ip, transport) = out_headers.split_at_mut_checked(l4)?;
                self.fix_ip(v6, index, length, ip)?;
                let l4_length = u16::try_from(length - l4).ok()?;
                let sum = pseudo + Sum::word(l4_length) + Sum::of_copied(payload, out_payload);
                if udp {
                    fix_udp(transport, l4_length, sum)?;
                } else {
                    self.fix_tcp(transport, index, sum)?;
                }
            }
        }
        Some(length)
    }

    fn payload(&self, index: usize) -> Option<&[u8]> {
        if index >= self.count {
            return None;
        }
        let payload = self.packet.get(self.headers..)?;
        let begin = index.checked_mul(self.size)?;
        payload.get(begin..payload.len().min(begin + self.size))
    }

    fn fix_ip(&self, v6: bool, index: usize, length: usize, ip: &mut [u8]) -> Option<()> {
        if v6 {
            let payload = u16::try_from(length.checked_sub(IPV6_HEADER)?).ok()?;
            *ip.get_mut(4..)?.first_chunk_mut()? = payload.to_be_bytes();
            return Some(());
        }
        let header = ip.first_chunk_mut::<IPV4_HEADER>()?;
        let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(index as u16);
        [header[2], header[3]] = u16::try_from(length).ok()?.to_be_bytes();
        [header[4], header[5]] = id.to_be_bytes();
        [header[10], header[11]] = [0, 0];
        let checksum = Sum::of(ip).checksum();
        *ip.get_mut(10..)?.first_chunk_mut()? = checksum;
        Some(())
    }

    fn fix_tcp(&self, transport: &mut [u8], index: usize, sum: Sum) -> Option<()> {
        let header = transport.first_chunk_mut::<TCP_HEADER>()?;
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let sequence = sequence.wrapping_add(u32::try_from(index * self.size).ok()?);
        [header[4], header[5], header[6], header[7]] = sequence.to_be_bytes();
        if index + 1 < self.count {
            header[13] &= !(TCP_FIN | TCP_PSH);
        }
        if index > 0 {
            header[13] &= !TCP_CWR;
        }
        [header[16], header[17]] = [0, 0];
        let checksum = (sum + Sum::of(transport)).checksum();
        *transport.get_mut(16..)?.first_chunk_mut()? = checksum;
        Some(())
    }
}

fn fix_udp(transport: &mut [u8], length: u16, sum: Sum) -> Option<()> {
    let header = transport.first_chunk_mut::<UDP_HEADER>()?;
    [header[4], header[5]] = length.to_be_bytes();
    [header[6], header[7]] = [0, 0];
    let checksum = (sum + Sum::of(header)).checksum();
    [header[6], header[7]] = no_zero(checksum);
    Some(())
}

/// Completes a checksum: its field holds the sum of the pseudo-header, and what follows `start` is added.
fn complete(packet: &mut [u8], start: usize, place: usize) {
    let Some(covered) = packet.get(start..) else { return };
    let mut checksum = Sum::of(covered).checksum();
    if place - start == usize::from(UDP_CHECKSUM) {
        checksum = no_zero(checksum);
    }
    if let Some(field) = packet.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
        *field = checksum;
    }
}

/// UDP writes a checksum of zero as all ones, since zero says that there is none.
fn no_zero(checksum: [u8; 2]) -> [u8; 2] {
    if checksum == [0, 0] { [0xff, 0xff] } else { checksum }
}

#[cfg(test)]
mod tests;
