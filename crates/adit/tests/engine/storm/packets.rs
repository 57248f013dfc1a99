//! Packets that can be told from all others: each carries a number.

use crate::sim::packet;

/// A packet from one node's inside to another's, of a length and family that its number chooses.
pub(super) fn make(from: usize, to: usize, number: u64) -> Vec<u8> {
    let len = [0, 1, 4, 36, 84, 200, 1_000][(number % 7) as usize];
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend((0..len).map(|at| (number as u8).wrapping_mul(31).wrapping_add(at as u8)));
    if number % 5 == 4 {
        packet::v6(packet::inside_v6(from), packet::inside_v6(to), &payload)
    } else {
        packet::v4(packet::inside(from), packet::inside(to), &payload)
    }
}

/// The number that a packet carries.
pub(super) fn number(packet: &[u8]) -> Option<u64> {
    let header = if packet.first()? >> 4 == 4 { 20 } else { 40 };
    packet.get(header..)?.first_chunk().copied().map(u64::from_be_bytes)
}
