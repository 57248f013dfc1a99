//! IP packets for the inside of the tunnel.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The IPv4 address of a node inside the tunnel.
pub(crate) fn inside(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node + 1).unwrap())
}

/// The IPv6 address of a node inside the tunnel.
pub(crate) fn inside_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::try_from(node + 1).unwrap())
}

/// An IPv4 packet with a right checksum.
pub(crate) fn v4(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    v4_with_tos(source, destination, 0, payload)
}

/// An IPv4 packet with a type-of-service byte.
pub(crate) fn v4_with_tos(source: Ipv4Addr, destination: Ipv4Addr, tos: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, tos, len[0], len[1], 0, 0, 0x40, 0, 64, 253, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let checksum = checksum_of(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&checksum);
    packet.extend(payload);
    packet
}

/// An IPv6 packet.
pub(crate) fn v6(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], 253, 64];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// The one's complement checksum: zero over a header that holds its own.
pub(crate) fn checksum_of(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
