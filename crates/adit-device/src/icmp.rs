//! What is said to whoever sends a packet into the tunnel that no peer takes: that the host is unreachable. The
//! kernel's WireGuard says it too, in its own name.

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use crate::offload::{IPV4_HEADER, IPV6_HEADER, Sum};

/// The longest message in IPv4 (RFC 1812, §4.3.2.3).
const MAX_LEN_V4: usize = 576;
/// The longest message in IPv6, which every link carries (RFC 4443, §3.1).
const MAX_LEN_V6: usize = 1280;
/// Type, code, checksum, and four bytes that mean nothing here.
const ICMP_HEADER: usize = 8;
/// Protocol number and next header.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// How many links the message may cross, which are none unless the sender is behind this node.
const HOPS: u8 = 64;

/// The message that the destination of `packet` is unreachable. It is for the packet's source, and comes in the name of
/// the destination: what comes out of a tunnel in the name of the node itself, its kernel takes for forged.
///
/// `None` for what must not be answered so (RFC 1122, §3.2.2; RFC 4443, §2.4 e): other errors, redirects, what may be
/// one of these, packets from what is no single host or to more than one, fragments other than the first, and what is
/// no packet. Which addresses a network on the link has for all of its hosts is not known here; in such a one's name,
/// nobody takes a message.
pub(crate) fn unreachable(packet: &[u8]) -> Option<ArrayVec<u8, MAX_LEN_V6>> {
    match packet.first()? >> 4 {
        4 => unreachable_v4(packet),
        6 => unreachable_v6(packet),
        _ => None,
    }
}

/// What the packets of a flow have in common at the same place: the addresses, and the ports if they come next.
pub(crate) fn flow(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => packet.get(12..IPV4_HEADER + 4),
        6 => packet.get(8..IPV6_HEADER + 4),
        _ => None,
    }
}

fn unreachable_v4(packet: &[u8]) -> Option<ArrayVec<u8, MAX_LEN_V6>> {
    const HOST_UNREACHABLE: [u8; 2] = [3, 1];
    /// The precedence of what networks say of themselves (RFC 1812, §4.3.2.5).
    const TOS: u8 = 0xc0;
    let header = packet.first_chunk::<IPV4_HEADER>()?;
    let source = Ipv4Addr::from(*header.get(12..)?.first_chunk::<4>()?);
    let destination = Ipv4Addr::from(*header.get(16..)?.first_chunk::<4>()?);
    let is_later_fragment = (header[6] & 0x1f, header[7]) != (0, 0);
    let is_error = header[9] == ICMP && {
        let header_len = usize::from(header[0] & 0xf) * 4;
        // Unreachable, source quench, redirect, time exceeded, parameter problem, and what is not known.
        packet.get(header_len).is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12 | 19..))
    };
    let is_not_of_one_host = source.is_unspecified()
        || source.is_loopback()
        || source.octets()[0] >= 224
        || destination.is_multicast()
        || destination.is_broadcast();
    if is_later_fragment || is_error || is_not_of_one_host {
        return None;
    }
    let quoted = packet.get(..packet.len().min(MAX_LEN_V4 - IPV4_HEADER - ICMP_HEADER))?;
    let [high, low] = ((IPV4_HEADER + ICMP_HEADER + quoted.len()) as u16).to_be_bytes();
    let mut outer = [0x45, TOS, high, low, 0, 0, 0, 0, HOPS, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    outer[12..16].copy_from_slice(&destination.octets());
    outer[16..].copy_from_slice(&source.octets());
    let checksum = Sum::of(&outer).checksum();
    outer[10..12].copy_from_slice(&checksum);
    Some(message(&outer, HOST_UNREACHABLE, Sum::default(), quoted))
}

fn unreachable_v6(packet: &[u8]) -> Option<ArrayVec<u8, MAX_LEN_V6>> {
    const ADDRESS_UNREACHABLE: [u8; 2] = [1, 3];
    let header = packet.first_chunk::<IPV6_HEADER>()?;
    let source = Ipv6Addr::from(*header.get(8..)?.first_chunk::<16>()?);
    let destination = Ipv6Addr::from(*header.get(24..)?.first_chunk::<16>()?);
    let is_not_of_one_host =
        source.is_unspecified() || source.is_loopback() || source.is_multicast() || destination.is_multicast();
    if is_not_of_one_host || !may_be_answered(header[6], packet.get(IPV6_HEADER..)?) {
        return None;
    }
    let quoted = packet.get(..packet.len().min(MAX_LEN_V6 - IPV6_HEADER - ICMP_HEADER))?;
    let len = (ICMP_HEADER + quoted.len()) as u16;
    let mut outer = [0; IPV6_HEADER];
    outer[0] = 0x60;
    outer[4..6].copy_from_slice(&len.to_be_bytes());
    outer[6..8].copy_from_slice(&[ICMPV6, HOPS]);
    outer[8..24].copy_from_slice(&destination.octets());
    outer[24..].copy_from_slice(&source.octets());
    // The pseudo-header: both addresses, the length, and what follows.
    let pseudo = Sum::of(&outer[8..]) + Sum::word(len) + Sum::word(ICMPV6.into());
    Some(message(&outer, ADDRESS_UNREACHABLE, pseudo, quoted))
}

/// Whether what follows the header of an IPv6 packet is neither an error, nor a redirect, nor a later fragment.
fn may_be_answered(mut next: u8, mut rest: &[u8]) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const REDIRECT: u8 = 137;
    loop {
        let stated = usize::from(rest.get(1).copied().unwrap_or_default());
        let len = match next {
            ICMPV6 => return rest.first().is_some_and(|kind| *kind >= 128 && *kind != REDIRECT),
            FRAGMENT if rest.get(2..4).is_none_or(|offset| (offset[0], offset[1] >> 3) != (0, 0)) => return false,
            FRAGMENT => 8,
            HOP_BY_HOP | ROUTING | DESTINATION => (stated + 1) * 8,
            AUTHENTICATION => (stated + 2) * 4,
            _ => return true,
        };
        let (Some(after), Some(beyond)) = (rest.first(), rest.get(len..)) else { return false };
        (next, rest) = (*after, beyond);
    }
}

/// A message with its checksum, to which `pseudo` belongs.
fn message(outer: &[u8], kind: [u8; 2], pseudo: Sum, quoted: &[u8]) -> ArrayVec<u8, MAX_LEN_V6> {
    let mut header = [kind[0], kind[1], 0, 0, 0, 0, 0, 0];
    let checksum = (pseudo + Sum::of(&header) + Sum::of(quoted)).checksum();
    header[2..4].copy_from_slice(&checksum);
    outer.iter().chain(&header).chain(quoted).copied().take(MAX_LEN_V6).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const A4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

    fn a6() -> IpAddr {
        "fd00::1".parse().unwrap()
    }

    fn b6() -> IpAddr {
        "2001:db8::9".parse().unwrap()
    }

    /// A packet with these addresses, whose payload, if it is not a later fragment, begins a protocol of this number.
    fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let len = payload.len() as u16;
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [high, low] = (20 + len).to_be_bytes();
                let header = [0x45, 0, high, low, 7, 7, 0, 0, 64, protocol, 0, 0];
                [&header[..], &source.octets(), &destination.octets(), payload].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let [high, low] = len.to_be_bytes();
                let header = [0x60, 0, 0, 0, high, low, protocol, 64];
                [&header[..], &source.octets(), &destination.octets(), payload].concat()
            }
            _ => panic!("both of one family"),
        }
    }

    /// The sum of RFC 1071, word by word, of bytes that include their checksum: 0xffff if that is right.
    fn ones(bytes: &[u8]) -> u32 {
        let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
        words.fold(0, |sum, word| if sum + word > 0xffff { sum + word - 0xffff } else { sum + word })
    }

    #[test]
    fn the_message_of_ipv4_goes_to_the_source_in_the_name_of_the_destination_and_quotes_the_packet() {
        let sent = packet(A4, B4, 17, &[0xab; 100]);
        let message = unreachable(&sent).unwrap();
        assert_eq!(message.len(), 20 + 8 + sent.len());
        assert_eq!(message[..10], [0x45, 0xc0, 0, 148, 0, 0, 0, 0, 64, 1]);
        assert_eq!(message[12..20], [192, 0, 2, 9, 10, 0, 0, 1]);
        assert_eq!(message[20..22], [3, 1]);
        assert_eq!(message[24..28], [0; 4]);
        assert_eq!(message[28..], sent);
        assert_eq!(ones(&message[..20]), 0xffff);
        assert_eq!(ones(&message[20..]), 0xffff);
    }

    #[test]
    fn the_message_of_ipv6_goes_to_the_source_in_the_name_of_the_destination_and_quotes_the_packet() {
        let sent = packet(a6(), b6(), 17, &[0xab; 101]);
        let message = unreachable(&sent).unwrap();
        assert_eq!(message.len(), 40 + 8 + sent.len());
        assert_eq!(message[..8], [0x60, 0, 0, 0, 0, 149, 58, 64]);
        assert_eq!(message[8..24], sent[24..40]);
        assert_eq!(message[24..40], sent[8..24]);
        assert_eq!(message[40..42], [1, 3]);
        assert_eq!(message[44..48], [0; 4]);
        assert_eq!(message[48..], sent);
        let pseudo = [&message[8..40], &[0, 0, 0, 149, 0, 0, 0, 58][..], &message[40..]].concat();
        assert_eq!(ones(&pseudo), 0xffff);
    }

    #[test]
    fn of_a_long_packet_as_much_is_quoted_as_every_link_carries() {
        let sent = packet(A4, B4, 6, &[1; 1_400]);
        let message = unreachable(&sent).unwrap();
        assert_eq!((message.len(), &message[2..4]), (576, &576u16.to_be_bytes()[..]));
        assert_eq!(message[28..], sent[..548]);
        let sent = packet(a6(), b6(), 6, &[1; 1_400]);
        let message = unreachable(&sent).unwrap();
        assert_eq!((message.len(), &message[4..6]), (1_280, &1_240u16.to_be_bytes()[..]));
        assert_eq!(message[48..], sent[..1_232]);
    }

    #[test]
    fn an_error_is_not_answered_and_what_only_resembles_one_is() {
        for (kinds, answered) in [(&[0, 8, 13, 18][..], true), (&[3, 4, 5, 11, 12, 19, 255], false)] {
            for &kind in kinds {
                let sent = packet(A4, B4, 1, &[kind, 0, 0, 0, 0, 0, 0, 0]);
                assert_eq!(unreachable(&sent).is_some(), answered, "ICMP of type {kind}");
            }
        }
        for (kind, answered) in [(1, false), (2, false), (127, false), (128, true), (136, true), (137, false)] {
            let sent = packet(a6(), b6(), 58, &[kind, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(unreachable(&sent).is_some(), answered, "ICMPv6 of type {kind}");
        }
        assert!(unreachable(&packet(A4, B4, 58, &[1; 8])).is_some(), "ICMPv6's number means nothing in IPv4");
        assert!(unreachable(&packet(a6(), b6(), 1, &[3; 8])).is_some(), "nor ICMP's in IPv6");
        let mut options = packet(A4, B4, 1, &[8, 0, 0, 0, 3, 0, 0, 0]);
        options[0] = 0x46;
        assert!(unreachable(&options).is_none(), "the type stands behind the options");
        assert!(unreachable(&packet(A4, B4, 1, &[])).is_none(), "one whose type is missing may be anything");
        assert!(unreachable(&packet(a6(), b6(), 58, &[])).is_none(), "one whose type is missing may be anything");
    }

    #[test]
    fn an_error_of_ipv6_is_found_behind_other_headers() {
        let behind =
            |headers: &[u8], kind: u8| packet(a6(), b6(), headers[0], &[&headers[1..], &[kind, 0, 0, 0]].concat());
        // Hop-by-hop options, routing of 16 bytes, destination options, authentication, ICMPv6.
        let mut headers = vec![0, 43, 1];
        headers.extend([9; 14]);
        headers.extend([60, 0, 9, 9, 9, 9, 9, 9]);
        headers.extend([51, 0, 9, 9, 9, 9, 9, 9]);
        // Here the length counts words of four bytes.
        headers.extend([58, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        assert!(unreachable(&behind(&headers, 1)).is_none());
        assert!(unreachable(&behind(&headers, 128)).is_some());
        let first_fragment = [44, 58, 0, 0, 1, 0, 0, 0, 0];
        assert!(unreachable(&behind(&first_fragment, 1)).is_none());
        assert!(unreachable(&behind(&first_fragment, 128)).is_some());
        let whole = behind(&headers, 128);
        for len in 40..whole.len() - 3 {
            assert!(unreachable(&whole[..len]).is_none(), "{len} bytes tell too little");
        }
    }

    #[test]
    fn a_later_fragment_is_not_answered() {
        for (place, value) in [(7, 1), (6, 1), (6, 0x20), (6, 0x40)] {
            let mut sent = packet(A4, B4, 17, &[0; 64]);
            sent[place] = value;
            let is_first = value >= 0x20;
            assert_eq!(unreachable(&sent).is_some(), is_first, "byte {place} = {value:#x}");
        }
        for (offset, is_first) in [([0, 8], false), ([1, 0], false), ([0, 1], true), ([0, 0], true)] {
            let sent = packet(a6(), b6(), 44, &[17, 0, offset[0], offset[1], 0, 0, 0, 0, 5, 5, 5, 5]);
            assert_eq!(unreachable(&sent).is_some(), is_first, "{offset:?}");
        }
    }

    #[test]
    fn what_is_from_or_for_more_than_one_host_is_not_answered() {
        for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            assert!(unreachable(&packet(source.parse().unwrap(), B4, 17, &[0; 8])).is_none(), "from {source}");
        }
        for destination in ["224.0.0.251", "239.1.2.3", "255.255.255.255"] {
            assert!(unreachable(&packet(A4, destination.parse().unwrap(), 17, &[0; 8])).is_none(), "to {destination}");
        }
        for source in ["::", "::1", "ff02::1"] {
            assert!(unreachable(&packet(source.parse().unwrap(), b6(), 17, &[0; 8])).is_none(), "from {source}");
        }
        assert!(unreachable(&packet(a6(), "ff02::2".parse().unwrap(), 17, &[0; 8])).is_none(), "to all routers");
    }

    #[test]
    fn what_is_no_packet_is_not_answered() {
        for packet in [packet(A4, B4, 17, &[]), packet(a6(), b6(), 17, &[])] {
            assert!(unreachable(&packet).is_some());
            for len in 0..packet.len() {
                assert!(unreachable(&packet[..len]).is_none(), "{len} bytes of {}", packet.len());
            }
        }
        assert!(unreachable(&[0x50; 64]).is_none());
    }

    proptest! {
        #[test]
        fn whatever_is_sent_its_answer_is_a_whole_message(is_v4: bool, mut sent in vec(any::<u8>(), 1..1_500)) {
            sent[0] = if is_v4 { 0x45 } else { 0x60 };
            if let Some(message) = unreachable(&sent) {
                let stated = if is_v4 { &message[2..4] } else { &message[4..6] };
                let beyond = if is_v4 { 0 } else { 40 };
                prop_assert_eq!(usize::from(stated[0]) << 8 | usize::from(stated[1]), message.len() - beyond);
                let quoted = &message[if is_v4 { 28 } else { 48 }..];
                prop_assert!(!quoted.is_empty() && sent.starts_with(quoted));
            }
        }
    }
}
