//! What a vector backend provides, and the order in which it is used: the part of sealing and opening that is the same
//! for all of them, free of `unsafe`.
//!
//! What is marked `inline(always)`, here and in [`crate::few`] and [`crate::poly1305`], becomes part of a backend's
//! function, and so is compiled for the backend's instructions. Lists are filled where they stay: a copy of what was
//! just written in smaller pieces would wait until that has reached the cache.

use arrayvec::ArrayVec;
use subtle::{Choice, ConstantTimeEq};
use zeroize::optimization_barrier;

use crate::{Packet, TAG_LEN, few};

/// Blocks in one run of the key stream, at most.
pub(crate) const LANES: usize = 32;
/// Blocks in the run of a few small packets, which need no more.
pub(crate) const FEW: usize = 16;
/// Length of a ChaCha20 block.
pub(crate) const BLOCK_LEN: usize = 64;
/// Packets that are worked on together: as many as an authenticator has lanes. At 1,500 bytes each these are 12 KiB,
/// which are still in the L1 cache when the authenticator comes to them.
pub(crate) const GROUP: usize = 8;

/// The primitives of a backend.
pub(crate) trait Vector: Copy {
    /// Fills `out` with the segments' key stream from its beginning; blocks
    /// after the last segment have no meaning.
    ///
    /// There is at least one segment, and `out` has room for all blocks.
    fn key_stream<const BLOCKS: usize>(self, segments: &[Segment<'_>], out: &mut KeyStream<BLOCKS>);

    /// XORs the blocks of `stream` into `text` from its beginning, as far as both go.
    fn xor(self, text: &mut [u8], stream: &[[u8; BLOCK_LEN]]);

    /// Computes the tag of each of `macs`; `tags` is as long.
    fn tags(self, macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]);
}

/// Consecutive blocks of one packet's key stream, a lane each.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) key: &'a [u8; 32],
    pub(crate) nonce: [u32; 3],
    /// The first block's number: block 0 makes the authenticator's key, and
    /// the text begins with block 1.
    pub(crate) counter: u32,
    /// How many, at least one.
    pub(crate) blocks: usize,
    /// Which packet of the group.
    pub(crate) packet: usize,
}

/// What one tag is made from: `text` padded with zeros to whole blocks, and a
/// last block (for a packet, the lengths of associated data and text).
#[derive(Clone, Copy)]
pub(crate) struct Mac<'a> {
    pub(crate) key: &'a [u8; 32],
    pub(crate) text: &'a [u8],
    pub(crate) last: [u8; 16],
}

/// Key stream of one run, block after block. It is filled in place, and not moved before it is wiped, since a move
/// would leave a copy behind.
#[repr(align(64))]
pub(crate) struct KeyStream<const BLOCKS: usize>(pub(crate) [[u8; BLOCK_LEN]; BLOCKS]);

impl<const BLOCKS: usize> KeyStream<BLOCKS> {
    pub(crate) fn new() -> KeyStream<BLOCKS> {
        KeyStream([[0; BLOCK_LEN]; BLOCKS])
    }
}

impl<const BLOCKS: usize> Drop for KeyStream<BLOCKS> {
    fn drop(&mut self) {
        // What `Zeroize` does, but with vector stores instead of a byte at a time.
        self.0 = [[0; BLOCK_LEN]; BLOCKS];
        optimization_barrier(self);
    }
}

/// See [`crate::seal`].
#[inline(always)]
pub(crate) fn seal<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        let blocks = blocks_of(group);
        if blocks <= FEW {
            few::seal::<FEW>(vector, group);
        } else if blocks <= LANES {
            few::seal::<LANES>(vector, group);
        } else {
            seal_group(vector, group);
        }
    }
}

#[inline(always)]
fn seal_group<V: Vector>(vector: V, group: &mut [Packet<'_>]) {
    let mut first = KeyStream::new();
    let mut run = Run::new(vector);
    run.begin(group, &mut first);
    run.apply(group, &first);
    run.finish(group);
    let tags = tags(vector, group.iter().zip(&first.0));
    for (packet, tag) in group.iter_mut().zip(&tags) {
        *packet.tag = *tag;
    }
}

/// See [`crate::open`].
#[inline(always)]
pub(crate) fn open<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        let blocks = blocks_of(group);
        if blocks <= FEW {
            few::open::<FEW>(vector, group);
        } else if blocks <= LANES {
            few::open::<LANES>(vector, group);
        } else {
            open_group(vector, group);
        }
    }
}

#[inline(always)]
fn open_group<V: Vector>(vector: V, group: &mut [Packet<'_>]) {
    let mut first = KeyStream::new();
    let mut run = Run::new(vector);
    run.begin(group, &mut first);
    let tags = tags(vector, group.iter().zip(&first.0));
    for ((packet, tag), wanted) in group.iter_mut().zip(&tags).zip(&mut run.wanted) {
        packet.authentic = is_equal(packet.tag, tag).into();
        *wanted = packet.authentic;
    }
    run.apply(group, &first);
    run.finish(group);
}

/// How many blocks of key stream the group needs in all.
#[inline(always)]
fn blocks_of(group: &[Packet<'_>]) -> usize {
    group.iter().map(all_blocks).sum()
}

/// A run of key stream for a group of packets.
///
/// The first run has block 0 of every packet, from which the authenticators'
/// keys are taken, and the beginning of the texts in the lanes that are left;
/// so a few small packets need one run, and opening needs no more runs than
/// sealing. The other runs go on from there.
struct Run<'a, V> {
    vector: V,
    segments: ArrayVec<Segment<'a>, LANES>,
    /// Where the next run begins: a packet of the group, and a block of its text.
    next_packet: usize,
    next_block: usize,
    /// The packets whose texts are worked on; the others are passed over.
    wanted: [bool; GROUP],
}

impl<'a, V: Vector> Run<'a, V> {
    #[inline(always)]
    fn new(vector: V) -> Run<'a, V> {
        Run { vector, segments: ArrayVec::new(), next_packet: 0, next_block: 0, wanted: [true; GROUP] }
    }

    /// Makes the first run's key stream.
    #[inline(always)]
    fn begin(&mut self, group: &[Packet<'a>], stream: &mut KeyStream<LANES>) {
        for (i, packet) in group.iter().enumerate() {
            self.segments.push(segment(packet, i, 0, 1));
        }
        self.fill(group, group.len());
        self.vector.key_stream(&self.segments, stream);
    }

    /// All runs after the first.
    #[inline(always)]
    fn finish(&mut self, group: &mut [Packet<'a>]) {
        if self.next_packet == group.len() {
            return;
        }
        let mut stream = KeyStream::<LANES>::new();
        loop {
            self.segments.clear();
            self.fill(group, 0);
            if self.segments.is_empty() {
                return;
            }
            self.vector.key_stream(&self.segments, &mut stream);
            self.apply(group, &stream);
        }
    }

    /// Gives the lanes from `lane` on to the texts.
    #[inline(always)]
    fn fill(&mut self, group: &[Packet<'a>], mut lane: usize) {
        while lane < LANES
            && let Some(packet) = group.get(self.next_packet)
        {
            let left = all_blocks(packet) - 1 - self.next_block;
            if left == 0 || !self.wanted[self.next_packet] {
                self.next_packet += 1;
                self.next_block = 0;
                continue;
            }
            let blocks = left.min(LANES - lane);
            // `Packet::new` bounds the text so that the block number fits.
            let counter = self.next_block as u32 + 1;
            self.segments.push(segment(packet, self.next_packet, counter, blocks));
            self.next_block += blocks;
            lane += blocks;
        }
    }

    /// XORs the run's key stream into the texts.
    #[inline(always)]
    fn apply(&self, group: &mut [Packet<'_>], stream: &KeyStream<LANES>) {
        let mut left = stream.0.as_slice();
        for segment in &self.segments {
            let (blocks, rest) = left.split_at(segment.blocks);
            left = rest;
            // Block 0 is not for the text, which begins with block 1.
            if segment.counter > 0 && self.wanted[segment.packet] {
                let start = (segment.counter as usize - 1) * BLOCK_LEN;
                self.vector.xor(&mut group[segment.packet].text[start..], blocks);
            }
        }
    }
}

#[inline(always)]
pub(crate) fn segment<'a>(packet: &Packet<'a>, index: usize, counter: u32, blocks: usize) -> Segment<'a> {
    Segment {
        key: &packet.key.bytes,
        nonce: [packet.nonce_head(), packet.counter as u32, (packet.counter >> 32) as u32],
        counter,
        blocks,
        packet: index,
    }
}

/// The tags of ciphertexts, each packet with its block 0.
#[inline(always)]
pub(crate) fn tags<'a>(
    vector: impl Vector,
    packets: impl Iterator<Item = (&'a Packet<'a>, &'a [u8; BLOCK_LEN])>,
) -> [[u8; TAG_LEN]; GROUP] {
    let mut macs = ArrayVec::<_, GROUP>::new();
    for (packet, block) in packets {
        let (halves, _) = block.as_chunks();
        let last = (u128::from(packet.text.len() as u64) << 64).to_le_bytes();
        macs.push(Mac { key: &halves[0], text: packet.text, last });
    }
    let mut tags = [[0; TAG_LEN]; GROUP];
    vector.tags(&macs, &mut tags[..macs.len()]);
    tags
}

/// How many blocks of key stream a packet needs: one makes the authenticator's key, and the others are for the text.
pub(crate) fn all_blocks(packet: &Packet<'_>) -> usize {
    // Rounded up; `Packet::new` bounds the text.
    (packet.text.len() + 2 * BLOCK_LEN - 1) / BLOCK_LEN
}

/// Compares in constant time.
#[inline(always)]
pub(crate) fn is_equal(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> Choice {
    let different = u128::from_le_bytes(*a) ^ u128::from_le_bytes(*b);
    // Both halves in one 64-bit word, the longest that `subtle` has.
    (different as u64 | (different >> 64) as u64).ct_eq(&0)
}
