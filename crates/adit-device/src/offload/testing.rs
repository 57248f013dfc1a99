//! Packets for tests, built word by word, with none of the code under test but its types.

use proptest::prelude::*;

use super::checksum::tests::naive;
use super::vnet::VnetHeader;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

/// Everything that a packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    pub(crate) host: u8,
    pub(crate) port: u16,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Spec {
    pub(crate) fn tcp4(payload: usize) -> Spec {
        Spec {
            v6: false,
            udp: false,
            host: 7,
            port: 443,
            tos: 0,
            ttl: 64,
            id: 0x1000,
            dont_fragment: true,
            sequence: 1_000_000,
            acknowledgement: 77,
            flags: ACK,
            window: 512,
            options: Vec::new(),
            payload: (0..payload).map(|i| (i * 7 + i / 251) as u8).collect(),
        }
    }

    pub(crate) fn tcp6(payload: usize) -> Spec {
        Spec { v6: true, ..Spec::tcp4(payload) }
    }

    pub(crate) fn udp4(payload: usize) -> Spec {
        Spec { udp: true, ..Spec::tcp4(payload) }
    }

    pub(crate) fn udp6(payload: usize) -> Spec {
        Spec { v6: true, ..Spec::udp4(payload) }
    }

    pub(crate) fn l4(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    pub(crate) fn headers(&self) -> usize {
        self.l4() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    /// The finished packet.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut packet = self.build_without_checksum();
        self.complete(&mut packet);
        packet
    }

    /// The finished packet after a change to its bytes that leaves the lengths, and the header of IPv4, as they are.
    pub(crate) fn build_changed(&self, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut packet = self.build_without_checksum();
        change(&mut packet);
        self.complete(&mut packet);
        packet
    }

    fn complete(&self, packet: &mut [u8]) {
        let at = self.checksum_at();
        let mut checksum = naive(&with_pseudo_header(packet, self.l4()));
        if self.udp && checksum == 0 {
            checksum = 0xffff;
        }
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The packet with its checksum left to be completed, and what says so: one of segments of `size` bytes, or a
    /// single one.
    pub(crate) fn build_unfinished(&self, size: Option<u16>) -> (VnetHeader, Vec<u8>) {
        let mut packet = self.build_without_checksum();
        let l4 = self.l4();
        let pseudo = with_pseudo_header(&packet, l4);
        let partial = !naive(&pseudo[..pseudo.len() - (packet.len() - l4)]);
        let at = self.checksum_at();
        packet[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        let vnet = VnetHeader {
            flags: 1,
            gso_type: match (size, self.udp, self.v6) {
                (None, ..) => 0,
                (_, true, _) => 5,
                (_, false, false) => 1,
                (_, false, true) => 4,
            },
            hdr_len: self.headers() as u16,
            gso_size: size.unwrap_or(0),
            csum_start: l4 as u16,
            csum_offset: (at - l4) as u16,
        };
        (vnet, packet)
    }

    /// The packets that a sender without offloads would have sent instead of this one.
    pub(crate) fn segments(&self, size: usize) -> Vec<Spec> {
        let count = self.payload.len().div_ceil(size).max(1);
        (0..count)
            .map(|i| {
                let mut segment = self.clone();
                segment.payload = self.payload.chunks(size).nth(i).unwrap_or_default().to_vec();
                segment.sequence = self.sequence.wrapping_add((i * size) as u32);
                segment.id = self.id.wrapping_add(i as u16);
                if i + 1 < count {
                    segment.flags &= !(FIN | PSH);
                }
                if i > 0 {
                    segment.flags &= !CWR;
                }
                segment
            })
            .collect()
    }

    fn checksum_at(&self) -> usize {
        self.l4() + if self.udp { 6 } else { 16 }
    }

    fn build_without_checksum(&self) -> Vec<u8> {
        let protocol = if self.udp { 17 } else { 6 };
        let length = self.headers() + self.payload.len();
        let mut packet = Vec::new();
        if self.v6 {
            packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0x12, 0x34]);
            packet.extend(((length - 40) as u16).to_be_bytes());
            packet.extend([protocol, self.ttl]);
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, self.host]);
        } else {
            packet.extend([0x45, self.tos]);
            packet.extend((length as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
            packet.extend([10, 1, 2, 3, 10, 99, 0, self.host]);
            let checksum = naive(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet.extend(5_555u16.to_be_bytes());
        packet.extend(self.port.to_be_bytes());
        if self.udp {
            packet.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            packet.extend([0, 0]);
        } else {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(self.acknowledgement.to_be_bytes());
            packet.extend([((20 + self.options.len()) * 4) as u8, self.flags]);
            packet.extend(self.window.to_be_bytes());
            packet.extend([0, 0, 0, 0]);
            packet.extend(&self.options);
        }
        packet.extend(&self.payload);
        packet
    }
}

/// The pseudo-header of a packet without IP options or extension headers, and its TCP or UDP with the checksum zeroed.
fn with_pseudo_header(packet: &[u8], l4: usize) -> Vec<u8> {
    let v6 = packet[0] >> 4 == 6;
    let (addresses, protocol) = if v6 { (&packet[8..40], packet[6]) } else { (&packet[12..20], packet[9]) };
    let mut bytes = addresses.to_vec();
    bytes.extend([0, protocol]);
    bytes.extend(((packet.len() - l4) as u16).to_be_bytes());
    let start = bytes.len();
    bytes.extend(&packet[l4..]);
    let at = start + if protocol == 17 { 6 } else { 16 };
    bytes[at..at + 2].fill(0);
    bytes
}

/// Panics unless lengths and checksums of a packet are right.
pub(crate) fn assert_sound(packet: &[u8]) {
    let v6 = packet[0] >> 4 == 6;
    let l4 = if v6 { 40 } else { 20 };
    if v6 {
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40, packet.len(), "IPv6 length");
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len(), "IPv4 length");
        assert_eq!(naive(&packet[..20]), 0, "IPv4 header checksum");
    }
    let udp = packet[if v6 { 6 } else { 9 }] == 17;
    let at = l4 + if udp { 6 } else { 16 };
    let mut checksum = naive(&with_pseudo_header(packet, l4));
    if udp && checksum == 0 {
        checksum = 0xffff;
    }
    assert_eq!(u16::from_be_bytes([packet[at], packet[at + 1]]), checksum, "TCP or UDP checksum");
}

/// Any packet with a payload of `payload` bytes, whose flags of TCP are among `flags`.
pub(crate) fn any_spec(payload: std::ops::Range<usize>, flags: u8) -> impl Strategy<Value = Spec> {
    let addressing = (any::<bool>(), any::<bool>(), any::<u8>(), any::<u16>());
    let ip = (any::<u8>(), any::<u8>(), any::<u16>(), any::<bool>());
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), 0usize..=10);
    (addressing, ip, tcp, proptest::collection::vec(any::<u8>(), payload)).prop_map(
        move |((v6, udp, host, port), (tos, ttl, id, dont_fragment), tcp, payload)| {
            let (sequence, acknowledgement, own_flags, window, options) = tcp;
            Spec {
                v6,
                udp,
                host,
                port,
                tos,
                ttl,
                id,
                dont_fragment,
                sequence,
                acknowledgement,
                flags: own_flags & flags | ACK,
                window,
                options: (0..options * 4).map(|i| i as u8 | 1).collect(),
                payload,
            }
        },
    )
}
