//! What the engine needs to know of the IP packets it carries. Every function takes any bytes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::path::Ecn;

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;
const FRAGMENT_HEADER_LEN: usize = 8;

/// The length that an IP packet's header states, if it is one and `bytes` holds all of it.
pub(crate) fn packet_len(bytes: &[u8]) -> Option<usize> {
    let first = *bytes.first()?;
    let (least, stated) = match first >> 4 {
        4 => (usize::from(first & 0xf) * 4, usize::from(be16(bytes, 2)?)),
        6 => (IPV6_HEADER_LEN, IPV6_HEADER_LEN + usize::from(be16(bytes, 4)?)),
        _ => return None,
    };
    let least = least.max(IPV4_HEADER_LEN);
    (least <= stated && stated <= bytes.len()).then_some(stated)
}

/// The source address of a packet that [`packet_len`] accepts.
pub(crate) fn source(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 12, 8)
}

/// The destination address of a packet.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 16, 24)
}

fn address(packet: &[u8], v4: usize, v6: usize) -> Option<IpAddr> {
    match *packet.first()? >> 4 {
        4 if packet.len() >= IPV4_HEADER_LEN => {
            packet.get(v4..)?.first_chunk::<4>().map(|&octets| Ipv4Addr::from(octets).into())
        }
        6 if packet.len() >= IPV6_HEADER_LEN => {
            packet.get(v6..)?.first_chunk::<16>().map(|&octets| Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The destination port and the payload, if the packet is UDP, or the first fragment of it, and begins with its UDP
/// header.
pub(crate) fn udp(packet: &[u8]) -> Option<(u16, &[u8])> {
    const UDP: u8 = 17;
    const FRAGMENT: u8 = 44;
    let first = *packet.first()?;
    let (protocol, header_len, is_later_fragment) = match (first >> 4, *packet.get(6)?) {
        (4, _) => (*packet.get(9)?, usize::from(first & 0xf) * 4, be16(packet, 6)? & 0x1fff != 0),
        (_, FRAGMENT) => {
            let header = packet.get(IPV6_HEADER_LEN..)?.first_chunk::<FRAGMENT_HEADER_LEN>()?;
            (header[0], IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN, be16(header, 2)? >> 3 != 0)
        }
        (_, protocol) => (protocol, IPV6_HEADER_LEN, false),
    };
    let port = be16(packet, header_len + 2)?;
    let payload = packet.get(header_len + 8..)?;
    (protocol == UDP && !is_later_fragment).then_some((port, payload))
}

/// The congestion bits of a packet.
pub(crate) fn ecn(packet: &[u8]) -> Ecn {
    match *packet {
        [first, tos, ..] if first >> 4 == 4 => Ecn::from_bits(tos),
        [first, second, ..] if first >> 4 == 6 => Ecn::from_bits((first << 4 | second >> 4) & 3),
        _ => Ecn::NotEct,
    }
}

/// Writes the congestion bits of a packet, and keeps an IPv4 header's checksum right.
pub(crate) fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    match *packet {
        [first, tos, _, _, _, _, _, _, _, _, high, low, ..] if first >> 4 == 4 => {
            let changed = tos & !3 | ecn.bits();
            // RFC 1624: HC' = ~(~HC + ~m + m'), in one's complement.
            let sum = u32::from(!u16::from_be_bytes([high, low]))
                + u32::from(!u16::from_be_bytes([first, tos]))
                + u32::from(u16::from_be_bytes([first, changed]));
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            let checksum = (!(sum as u16)).to_be_bytes();
            packet[1] = changed;
            packet[10] = checksum[0];
            packet[11] = checksum[1];
        }
        [first, second, ..] if first >> 4 == 6 => packet[1] = second & !0x30 | ecn.bits() << 4,
        _ => {}
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&bytes| u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn a_packet_is_as_long_as_its_header_says_and_no_shorter_than_that_header() {
        // First byte, stated length field, bytes at hand, expected.
        let v4 = [
            (0x45, 20, 20, Some(20)),
            (0x45, 20, 32, Some(20)),
            (0x45, 19, 32, None),
            (0x45, 33, 32, None),
            (0x46, 20, 32, None),
            (0x44, 20, 32, Some(20)),
            (0x45, 0, 0, None),
        ];
        for (first, stated, len, expected) in v4 {
            let mut packet = vec![0; len];
            if len > 3 {
                packet[0] = first;
                packet[3] = stated;
            }
            assert_eq!(packet_len(&packet), expected, "{first:#x}, {stated} stated, {len} bytes");
        }
        for (stated, len, expected) in [(0, 40, Some(40)), (8, 48, Some(48)), (8, 47, None), (0, 39, None)] {
            let mut packet = vec![0; len];
            packet[0] = 0x60;
            packet[5] = stated;
            assert_eq!(packet_len(&packet), expected, "IPv6, {stated} stated, {len} bytes");
        }
        assert_eq!(packet_len(&[0x50; 64]), None);
    }

    #[test]
    fn only_a_packet_with_a_udp_header_is_udp() {
        let mut packet = vec![0; 30];
        packet[28..].copy_from_slice(&[7, 8]);
        packet[0] = 0x45;
        packet[9] = 17;
        packet[22..24].copy_from_slice(&[0x12, 0x34]);
        assert_eq!(udp(&packet), Some((0x1234, &[7, 8][..])));
        for (place, value) in [(9, 6), (7, 1), (6, 0x01), (0, 0x4f)] {
            let mut other = packet.clone();
            other[place] = value;
            assert_eq!(udp(&other), None, "byte {place} = {value:#x}");
        }
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[6] = 17;
        packet[43] = 9;
        assert_eq!(udp(&packet), Some((9, &[][..])));

        let mut packet = vec![0; 58];
        packet[56..].copy_from_slice(&[7, 8]);
        (packet[0], packet[6], packet[40]) = (0x60, 44, 17);
        // More fragments follow.
        packet[43] = 1;
        packet[51] = 9;
        assert_eq!(udp(&packet), Some((9, &[7, 8][..])), "the first fragment");
        for (place, value) in [(40, 6), (43, 8), (42, 1)] {
            let mut other = packet.clone();
            other[place] = value;
            assert_eq!(udp(&other), None, "byte {place} = {value:#x}");
        }
        for len in 0..56 {
            assert_eq!(udp(&packet[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn setting_ecn_keeps_the_ipv4_checksum_right() {
        // A header whose words sum to 0xffff with its checksum, which is how a receiver checks it.
        let mut packet = [0x45, 0xb8, 0x00, 0x54, 0xbe, 0xef, 0x40, 0x00, 0x40, 0x01, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let sum = |packet: &[u8]| {
            let total: u32 = packet.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
            let total = (total & 0xffff) + (total >> 16);
            (total & 0xffff) + (total >> 16)
        };
        let checksum = (!(sum(&packet) as u16)).to_be_bytes();
        packet[10..12].copy_from_slice(&checksum);
        for code in [Ecn::Ce, Ecn::Ect0, Ecn::NotEct, Ecn::Ect1] {
            set_ecn(&mut packet, code);
            assert_eq!(ecn(&packet), code);
            assert_eq!(packet[1] & !3, 0xb8, "the DSCP stays");
            assert_eq!(sum(&packet), 0xffff, "checksum after {code:?}");
        }
    }

    #[test]
    fn ecn_of_ipv6_stands_in_the_traffic_class() {
        let mut packet = [0; 40];
        packet[0] = 0x6a;
        packet[1] = 0xc5;
        set_ecn(&mut packet, Ecn::Ce);
        assert_eq!((packet[0], packet[1]), (0x6a, 0xf5));
        set_ecn(&mut packet, Ecn::Ect0);
        assert_eq!((packet[1], ecn(&packet)), (0xe5, Ecn::Ect0));
    }
}
