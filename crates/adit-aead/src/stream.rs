//! What a vector backend provides, and the order in which it is used: the part of sealing and opening that is the same
//! for all of them, free of `unsafe`.

use arrayvec::ArrayVec;
use subtle::{Choice, ConstantTimeEq};
use zeroize::optimization_barrier;

use crate::{Packet, TAG_LEN};

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

    /// XORs `stream` into `text`, which is as long.
    fn xor(self, text: &mut [u8], stream: &[u8]);

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
pub(crate) fn seal<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        if is_small(group) { seal_group::<_, FEW>(vector, group) } else { seal_group::<_, LANES>(vector, group) }
    }
}

fn seal_group<V: Vector, const FIRST: usize>(vector: V, group: &mut [Packet<'_>]) {
    let mut first = KeyStream::<FIRST>::new();
    let mut run = Run::new(vector);
    run.begin(group, &mut first);
    run.apply(group, &first);
    run.finish(group);
    let tags = run.tags(group, &first);
    for (packet, tag) in group.iter_mut().zip(&tags) {
        *packet.tag = *tag;
    }
}

/// See [`crate::open`].
pub(crate) fn open<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        if is_small(group) { open_group::<_, FEW>(vector, group) } else { open_group::<_, LANES>(vector, group) }
    }
}

fn open_group<V: Vector, const FIRST: usize>(vector: V, group: &mut [Packet<'_>]) {
    let mut first = KeyStream::<FIRST>::new();
    let mut run = Run::new(vector);
    run.begin(group, &mut first);
    let tags = run.tags(group, &first);
    for ((packet, tag), wanted) in group.iter_mut().zip(&tags).zip(&mut run.wanted) {
        packet.authentic = is_equal(packet.tag, tag).into();
        *wanted = packet.authentic;
    }
    run.apply(group, &first);
    run.finish(group);
}

/// Whether [`FEW`] blocks are enough.
fn is_small(group: &[Packet<'_>]) -> bool {
    group.iter().map(all_blocks).sum::<usize>() <= FEW
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
    /// Where each packet's block 0 is in the first run.
    key_lanes: [u8; GROUP],
    /// Where the next run begins: a packet of the group, and a block of its text.
    next_packet: usize,
    next_block: usize,
    /// The packets whose texts are worked on; the others are passed over.
    wanted: [bool; GROUP],
}

impl<'a, V: Vector> Run<'a, V> {
    fn new(vector: V) -> Run<'a, V> {
        Run {
            vector,
            segments: ArrayVec::new(),
            key_lanes: [0; GROUP],
            next_packet: 0,
            next_block: 0,
            wanted: [true; GROUP],
        }
    }

    /// Makes the first run's key stream.
    fn begin<const FIRST: usize>(&mut self, group: &[Packet<'a>], stream: &mut KeyStream<FIRST>) {
        let blocks: usize = group.iter().map(all_blocks).sum();
        if blocks <= FIRST {
            // Everything fits: a segment a packet.
            let mut lane = 0;
            for (i, packet) in group.iter().enumerate() {
                let segment = segment(packet, i, 0, all_blocks(packet));
                self.key_lanes[i] = lane;
                lane += segment.blocks as u8;
                self.segments.push(segment);
            }
            self.next_packet = group.len();
        } else {
            for (i, packet) in group.iter().enumerate() {
                self.key_lanes[i] = i as u8;
                self.segments.push(segment(packet, i, 0, 1));
            }
            self.fill(group, group.len());
        }
        self.vector.key_stream(&self.segments, stream);
    }

    /// All runs after the first.
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
    fn fill(&mut self, group: &[Packet<'a>], mut lane: usize) {
        while lane < LANES
            && let Some(packet) = group.get(self.next_packet)
        {
            let left = text_blocks(packet) - self.next_block;
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
    fn apply<const BLOCKS: usize>(&self, group: &mut [Packet<'_>], stream: &KeyStream<BLOCKS>) {
        let mut lane = 0;
        for segment in &self.segments {
            // Block 0 is not for the text, which begins with block 1.
            let skipped = usize::from(segment.counter == 0);
            let start = (segment.counter as usize + skipped - 1) * BLOCK_LEN;
            let blocks = stream.0[lane + skipped..lane + segment.blocks].as_flattened();
            lane += segment.blocks;
            if !blocks.is_empty() && self.wanted[segment.packet] {
                let text = &mut group[segment.packet].text[start..];
                let len = text.len().min(blocks.len());
                self.vector.xor(&mut text[..len], &blocks[..len]);
            }
        }
    }

    /// The tags of the group's ciphertexts; `first` is the first run's key stream.
    fn tags<const FIRST: usize>(&self, group: &[Packet<'_>], first: &KeyStream<FIRST>) -> [[u8; TAG_LEN]; GROUP] {
        let mut macs = ArrayVec::<Mac<'_>, GROUP>::new();
        for (packet, lane) in group.iter().zip(self.key_lanes) {
            let (halves, _) = first.0[usize::from(lane)].as_chunks();
            macs.push(Mac {
                key: &halves[0],
                text: packet.text,
                last: (u128::from(packet.text.len() as u64) << 64).to_le_bytes(),
            });
        }
        let mut tags = [[0; TAG_LEN]; GROUP];
        self.vector.tags(&macs, &mut tags[..group.len()]);
        tags
    }
}

pub(crate) fn segment<'a>(packet: &Packet<'a>, index: usize, counter: u32, blocks: usize) -> Segment<'a> {
    Segment {
        key: &packet.key.bytes,
        nonce: [packet.nonce_head(), packet.counter as u32, (packet.counter >> 32) as u32],
        counter,
        blocks,
        packet: index,
    }
}

fn text_blocks(packet: &Packet<'_>) -> usize {
    packet.text.len().div_ceil(BLOCK_LEN)
}

/// Including the one that makes the authenticator's key.
fn all_blocks(packet: &Packet<'_>) -> usize {
    1 + text_blocks(packet)
}

/// Compares in constant time.
pub(crate) fn is_equal(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> Choice {
    let different = u128::from_le_bytes(*a) ^ u128::from_le_bytes(*b);
    // Both halves in one 64-bit word, the longest that `subtle` has.
    (different as u64 | (different >> 64) as u64).ct_eq(&0)
}
