//! A group of packets whose key stream fits in one run: each has its block 0 there, and then the blocks of its text.

use core::borrow::Borrow;

use arrayvec::ArrayVec;

use crate::Packet;
use crate::stream::{self, BLOCK_LEN, GROUP, KeyStream, Vector};

/// See [`crate::seal`].
#[inline(always)]
pub(crate) fn seal<const BLOCKS: usize>(vector: impl Vector, group: &mut [Packet<'_>]) {
    let mut stream = KeyStream::<BLOCKS>::new();
    make(vector, group, &mut stream);
    for (packet, blocks) in shares(group.iter_mut(), &stream) {
        vector.xor(packet.text, &blocks[1..]);
    }
    let tags = stream::tags(vector, shares(group.iter(), &stream).map(|(packet, blocks)| (packet, &blocks[0])));
    for (packet, tag) in group.iter_mut().zip(&tags) {
        *packet.tag = *tag;
    }
}

/// See [`crate::open`].
#[inline(always)]
pub(crate) fn open<const BLOCKS: usize>(vector: impl Vector, group: &mut [Packet<'_>]) {
    let mut stream = KeyStream::<BLOCKS>::new();
    make(vector, group, &mut stream);
    let tags = stream::tags(vector, shares(group.iter(), &stream).map(|(packet, blocks)| (packet, &blocks[0])));
    for ((packet, blocks), tag) in shares(group.iter_mut(), &stream).zip(&tags) {
        packet.authentic = stream::is_equal(packet.tag, tag).into();
        if packet.authentic {
            vector.xor(packet.text, &blocks[1..]);
        }
    }
}

#[inline(always)]
fn make<const BLOCKS: usize>(vector: impl Vector, group: &[Packet<'_>], stream: &mut KeyStream<BLOCKS>) {
    let mut segments = ArrayVec::<_, GROUP>::new();
    for packet in group {
        segments.push(stream::segment(packet, 0, 0, stream::all_blocks(packet)));
    }
    vector.key_stream(&segments, stream);
}

/// Each packet with the blocks that are its own.
#[inline(always)]
fn shares<'a, 's, P: Borrow<Packet<'a>>, const BLOCKS: usize>(
    packets: impl Iterator<Item = P>,
    stream: &'s KeyStream<BLOCKS>,
) -> impl Iterator<Item = (P, &'s [[u8; BLOCK_LEN]])> {
    let mut left = stream.0.as_slice();
    packets.map(move |packet| {
        let (blocks, rest) = left.split_at(stream::all_blocks(packet.borrow()));
        left = rest;
        (packet, blocks)
    })
}
