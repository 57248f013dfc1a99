//! What a vector backend does, and the order in which it is asked to: the part
//! of sealing and opening that is the same for all of them, free of `unsafe`.

use subtle::{Choice, ConstantTimeEq};
use zeroize::optimization_barrier;

use crate::{Packet, TAG_LEN};

/// Blocks in one run of the key stream.
pub(crate) const LANES: usize = 16;
/// Length of a ChaCha20 block.
pub(crate) const BLOCK_LEN: usize = 64;
/// Packets that are worked on together: each needs a lane for its block 0 in
/// the first run, and 24 KiB of 1,500-byte packets still sit in the L1 cache
/// when the authenticator comes to them.
const GROUP: usize = LANES;

/// The primitives of a backend.
pub(crate) trait Vector: Copy {
    /// Fills `out` with the segments' key stream from its beginning; bytes
    /// after the last segment have no meaning.
    ///
    /// There is at least one segment, and there are at most [`LANES`] blocks.
    fn key_stream(self, segments: &[Segment<'_>], out: &mut KeyStream);

    /// XORs `stream` into `text`, which is not longer.
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
    pub(crate) last: [u64; 2],
}

/// Key stream of one run, block after block.
#[repr(align(64))]
pub(crate) struct KeyStream(pub(crate) [u8; LANES * BLOCK_LEN]);

impl KeyStream {
    pub(crate) fn new() -> KeyStream {
        KeyStream([0; LANES * BLOCK_LEN])
    }
}

impl Drop for KeyStream {
    fn drop(&mut self) {
        // What `Zeroize` does, but with vector stores instead of a byte at a time.
        self.0 = [0; LANES * BLOCK_LEN];
        optimization_barrier(self);
    }
}

/// See [`crate::seal`].
pub(crate) fn seal<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        let mut first = KeyStream::new();
        let mut run = Run::begin(vector, group, &mut first);
        run.apply(vector, group, &first);
        run.finish(vector, group);
        let tags = run.tags(vector, group, &first);
        for (packet, tag) in group.iter_mut().zip(&tags) {
            *packet.tag = *tag;
        }
    }
}

/// See [`crate::open`].
pub(crate) fn open<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        let mut first = KeyStream::new();
        let mut run = Run::begin(vector, group, &mut first);
        let tags = run.tags(vector, group, &first);
        for (packet, tag) in group.iter_mut().zip(&tags) {
            packet.authentic = is_equal(packet.tag, tag).into();
        }
        run.wanted = |packet| packet.authentic;
        run.apply(vector, group, &first);
        run.finish(vector, group);
    }
}

/// A run of key stream for a group of packets.
///
/// The first run has block 0 of every packet, from which the authenticators'
/// keys are taken, and the beginning of the texts in the lanes that are left;
/// so a few small packets need one run, and opening needs no more runs than
/// sealing. The other runs go on from there.
struct Run<'a> {
    segments: [Segment<'a>; LANES],
    segment_count: usize,
    /// Where each packet's block 0 is in the first run.
    key_lanes: [u8; GROUP],
    /// Where the next run begins: a packet of the group, and a block of its text.
    next_packet: usize,
    next_block: usize,
    /// The packets whose texts are worked on; the others are passed over.
    wanted: fn(&Packet<'_>) -> bool,
}

impl<'a> Run<'a> {
    /// Makes the first run, and its key stream.
    fn begin<V: Vector>(vector: V, group: &[Packet<'a>], stream: &mut KeyStream) -> Run<'a> {
        let mut run = Run {
            segments: [segment(group, 0, 0, 1); LANES],
            segment_count: 0,
            key_lanes: [0; GROUP],
            next_packet: 0,
            next_block: 0,
            wanted: |_| true,
        };
        if group.iter().map(|packet| 1 + text_blocks(packet)).sum::<usize>() <= LANES {
            // Everything fits: a segment a packet.
            let mut lane = 0;
            for (i, packet) in group.iter().enumerate() {
                let blocks = 1 + text_blocks(packet);
                run.key_lanes[i] = lane as u8;
                run.push(segment(group, i, 0, blocks));
                lane += blocks;
            }
            run.next_packet = group.len();
        } else {
            for i in 0..group.len() {
                run.key_lanes[i] = i as u8;
                run.push(segment(group, i, 0, 1));
            }
            run.fill(group, group.len());
        }
        vector.key_stream(&run.segments[..run.segment_count], stream);
        run
    }

    /// All runs after the first.
    fn finish<V: Vector>(&mut self, vector: V, group: &mut [Packet<'a>]) {
        if self.next_packet == group.len() {
            return;
        }
        let mut stream = KeyStream::new();
        loop {
            self.segment_count = 0;
            self.fill(group, 0);
            if self.segment_count == 0 {
                return;
            }
            vector.key_stream(&self.segments[..self.segment_count], &mut stream);
            self.apply(vector, group, &stream);
        }
    }

    /// Gives the lanes from `lane` on to the texts.
    fn fill(&mut self, group: &[Packet<'a>], mut lane: usize) {
        while lane < LANES && let Some(packet) = group.get(self.next_packet) {
            let left = text_blocks(packet) - self.next_block;
            if left == 0 || !(self.wanted)(packet) {
                self.next_packet += 1;
                self.next_block = 0;
                continue;
            }
            let blocks = left.min(LANES - lane);
            // `Packet::new` bounds the text so that the block number fits.
            let counter = self.next_block as u32 + 1;
            self.push(segment(group, self.next_packet, counter, blocks));
            self.next_block += blocks;
            lane += blocks;
        }
    }

    fn push(&mut self, segment: Segment<'a>) {
        self.segments[self.segment_count] = segment;
        self.segment_count += 1;
    }

    /// XORs the run's key stream into the texts.
    fn apply<V: Vector>(&self, vector: V, group: &mut [Packet<'_>], stream: &KeyStream) {
        let mut stream = &stream.0[..];
        for segment in &self.segments[..self.segment_count] {
            let (mut blocks, others) = stream.split_at(segment.blocks * BLOCK_LEN);
            stream = others;
            if segment.counter == 0 {
                blocks = &blocks[BLOCK_LEN..];
            }
            let packet = &mut group[segment.packet];
            if !blocks.is_empty() && (self.wanted)(packet) {
                let start = (segment.counter.max(1) - 1) as usize * BLOCK_LEN;
                let text = &mut packet.text[start..];
                let len = text.len().min(blocks.len());
                vector.xor(&mut text[..len], blocks);
            }
        }
    }

    /// The tags of the group's ciphertexts; `first` is the first run's key stream.
    fn tags<V: Vector>(
        &self,
        vector: V,
        group: &[Packet<'_>],
        first: &KeyStream,
    ) -> [[u8; TAG_LEN]; GROUP] {
        let (blocks, _) = first.0.as_chunks::<BLOCK_LEN>();
        let mac = |i: usize| {
            let text: &[u8] = group[i].text;
            let (halves, _) = blocks[usize::from(self.key_lanes[i])].as_chunks::<32>();
            Mac {
                key: &halves[0],
                text,
                last: [0, text.len() as u64],
            }
        };
        let mut macs = [mac(0); GROUP];
        for (i, slot) in macs.iter_mut().enumerate().take(group.len()) {
            *slot = mac(i);
        }
        let mut tags = [[0; TAG_LEN]; GROUP];
        vector.tags(&macs[..group.len()], &mut tags[..group.len()]);
        tags
    }
}

fn segment<'a>(group: &[Packet<'a>], packet: usize, counter: u32, blocks: usize) -> Segment<'a> {
    let Packet { key, counter: nonce, .. } = group[packet];
    Segment {
        key: &key.bytes,
        nonce: [0, nonce as u32, (nonce >> 32) as u32],
        counter,
        blocks,
        packet,
    }
}

fn text_blocks(packet: &Packet<'_>) -> usize {
    packet.text.len().div_ceil(BLOCK_LEN)
}

/// Compares in constant time, a word at a time.
fn is_equal(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> Choice {
    let words = |tag: &[u8; TAG_LEN]| {
        let tag = u128::from_le_bytes(*tag);
        (tag as u64, (tag >> 64) as u64)
    };
    let (a, b) = (words(a), words(b));
    a.0.ct_eq(&b.0) & a.1.ct_eq(&b.1)
}
