//! IP packets: made, and looked at by the letter of the RFCs.

use std::net::IpAddr;

/// A packet from one address to another of the same family, with these bits of congestion. The payload is no protocol
/// that anybody knows.
pub(crate) fn build(source: IpAddr, destination: IpAddr, ecn: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = (20 + payload.len()) as u16;
            packet.extend([0x45, ecn]);
            packet.extend(len.to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, 253, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = checksum(&packet).to_be_bytes();
            packet[10..12].copy_from_slice(&sum);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, ecn << 4, 0, 0]);
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([253, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => unreachable!("the callers choose both of one family"),
    }
    packet.extend(payload);
    packet
}

/// The packet that these bytes begin with: as long as its header says. `None` if they are none.
pub(crate) fn trimmed(bytes: &[u8]) -> Option<&[u8]> {
    let (header, len) = match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes.first()? & 0xf) * 4;
            (header.max(20), usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])))
        }
        6 => (40, 40 + usize::from(u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]))),
        _ => return None,
    };
    bytes.get(..len).filter(|packet| packet.len() >= header)
}

/// Source and destination of a packet that [`trimmed`] has found to be one.
pub(crate) fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes"));
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes"));
    if packet[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}

/// The bits of congestion.
pub(crate) fn ecn(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] & 3 } else { packet[1] >> 4 & 3 }
}

/// The packet with other bits of congestion, and the checksum of its header made to follow as RFC 1624 says.
pub(crate) fn with_ecn(packet: &[u8], ecn: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & 0xcf | ecn << 4;
        return packet;
    }
    let before = u16::from_be_bytes([packet[0], packet[1]]);
    packet[1] = packet[1] & 0xfc | ecn;
    let after = u16::from_be_bytes([packet[0], packet[1]]);
    let old = u16::from_be_bytes([packet[10], packet[11]]);
    // HC' = ~(~HC + ~m + m')
    let sum = fold(u32::from(!old) + u32::from(!before) + u32::from(after));
    packet[10..12].copy_from_slice(&(!sum).to_be_bytes());
    packet
}

/// The Internet checksum by the letter of RFC 1071, word by word. Zero over what holds its own.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The sum of the words of `bytes`, folded at every step so that it cannot run over.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(0, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        u32::from(fold(sum + u32::from(word)))
    })
}

/// The sum in 16 bits.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}
