//! What a vector backend does, and the order in which it is asked to: the part
//! of sealing and opening that is the same for all of them, free of `unsafe`.

use subtle::ConstantTimeEq;
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

/// Key stream of one run, block after block.
#[repr(align(64))]
pub(crate) struct KeyStream(pub(crate) [u8; LANES * BLOCK_LEN]);

/// Consecutive blocks of one packet's key stream, a lane each.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    pub(crate) key: &'a [u8; 32],
    pub(crate) nonce: [u32; 3],
    /// The first block's number.
    pub(crate) counter: u32,
    /// How many, at least one.
    pub(crate) blocks: usize,
}

/// What one tag is made from: `text` padded with zeros to whole blocks, and a
/// last block (for a packet, the lengths of associated data and text).
#[derive(Clone, Copy)]
pub(crate) struct Mac<'a> {
    pub(crate) key: &'a [u8; 32],
    pub(crate) text: &'a [u8],
    pub(crate) last: [u64; 2],
}

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

/// See [`crate::seal`].
pub(crate) fn seal<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        let mut work = Work::begin(vector, group);
        work.apply(group, |_| true);
        while work.advance(group, |_| true) {
            work.apply(group, |_| true);
        }
        work.authenticate(group);
        for (packet, tag) in group.iter_mut().zip(&work.tags) {
            *packet.tag = *tag;
        }
    }
}

/// See [`crate::open`].
pub(crate) fn open<V: Vector>(vector: V, packets: &mut [Packet<'_>]) {
    for group in packets.chunks_mut(GROUP) {
        let mut work = Work::begin(vector, group);
        work.authenticate(group);
        for (packet, tag) in group.iter_mut().zip(&work.tags) {
            packet.authentic = packet.tag.ct_eq(tag).into();
        }
        work.apply(group, |packet| packet.authentic);
        while work.advance(group, |packet| packet.authentic) {
            work.apply(group, |packet| packet.authentic);
        }
    }
}

/// A place in a packet's text that lanes of the present run belong to.
#[derive(Clone, Copy, Default)]
struct Piece {
    packet: usize,
    first_lane: usize,
    start: usize,
    end: usize,
}

/// A group of packets on its way through the cipher.
///
/// The key stream is made in runs. The first has block 0 of every packet, from
/// which the authenticators' keys are taken, and the beginning of the texts in
/// the lanes that are left; so a few small packets need one run, and opening
/// needs no more runs than sealing. The following runs go on from there.
struct Work<V> {
    vector: V,
    stream: KeyStream,
    authenticator_keys: [[u8; 32]; GROUP],
    tags: [[u8; TAG_LEN]; GROUP],
    /// The texts that the present run is for.
    pieces: [Piece; LANES],
    piece_count: usize,
    /// Where the next run begins: a packet of the group, and a place in its text.
    next_packet: usize,
    next_start: usize,
}

impl<V: Vector> Work<V> {
    fn begin(vector: V, group: &[Packet<'_>]) -> Work<V> {
        let mut work = Work {
            vector,
            stream: KeyStream([0; LANES * BLOCK_LEN]),
            authenticator_keys: [[0; 32]; GROUP],
            tags: [[0; TAG_LEN]; GROUP],
            pieces: [Piece::default(); LANES],
            piece_count: 0,
            next_packet: 0,
            next_start: 0,
        };
        work.run(group, group.len(), |_| true);
        let (blocks, _) = work.stream.0.as_chunks::<BLOCK_LEN>();
        for (key, block) in work.authenticator_keys[..group.len()].iter_mut().zip(blocks) {
            key.copy_from_slice(&block[..32]);
        }
        work
    }

    /// Makes the next run's key stream, for the packets that are `wanted`;
    /// `false` when there is nothing left to do.
    fn advance(&mut self, group: &[Packet<'_>], wanted: impl Fn(&Packet<'_>) -> bool) -> bool {
        self.run(group, 0, wanted);
        self.piece_count > 0
    }

    fn run(&mut self, group: &[Packet<'_>], key_lanes: usize, wanted: impl Fn(&Packet<'_>) -> bool) {
        let Some(packet) = group.first() else { return };
        let mut segments = [segment(packet, 0, 0); LANES];
        for (segment_, packet) in segments.iter_mut().zip(&group[..key_lanes]) {
            *segment_ = segment(packet, 0, 1);
        }
        self.piece_count = 0;
        let mut lane = key_lanes;
        while lane < LANES && let Some(packet) = group.get(self.next_packet) {
            let start = self.next_start;
            let blocks = (packet.text.len() - start).div_ceil(BLOCK_LEN);
            if blocks == 0 || !wanted(packet) {
                self.next_packet += 1;
                self.next_start = 0;
                continue;
            }
            let blocks = blocks.min(LANES - lane);
            let end = packet.text.len().min(start + blocks * BLOCK_LEN);
            // Packet::new bounds the text so that the block number fits.
            let counter = (start / BLOCK_LEN) as u32 + 1;
            segments[key_lanes + self.piece_count] = segment(packet, counter, blocks);
            self.pieces[self.piece_count] = Piece {
                packet: self.next_packet,
                first_lane: lane,
                start,
                end,
            };
            self.piece_count += 1;
            self.next_start = end;
            lane += blocks;
        }
        let segments = &segments[..key_lanes + self.piece_count];
        if !segments.is_empty() {
            self.vector.key_stream(segments, &mut self.stream);
        }
    }

    /// XORs the present run's key stream into the texts that it is for, if
    /// their packets are `wanted`.
    fn apply(&self, group: &mut [Packet<'_>], wanted: impl Fn(&Packet<'_>) -> bool) {
        for piece in &self.pieces[..self.piece_count] {
            let packet = &mut group[piece.packet];
            if wanted(packet) {
                let stream = &self.stream.0[piece.first_lane * BLOCK_LEN..];
                self.vector.xor(&mut packet.text[piece.start..piece.end], stream);
            }
        }
    }

    /// Computes the tags of the group's ciphertexts.
    fn authenticate(&mut self, group: &[Packet<'_>]) {
        let mut macs = [Mac {
            key: &self.authenticator_keys[0],
            text: &[],
            last: [0; 2],
        }; GROUP];
        for ((mac, key), packet) in macs.iter_mut().zip(&self.authenticator_keys).zip(group) {
            mac.key = key;
            mac.text = packet.text;
            mac.last = [0, packet.text.len() as u64];
        }
        self.vector.tags(&macs[..group.len()], &mut self.tags[..group.len()]);
    }
}

impl<V> Drop for Work<V> {
    fn drop(&mut self) {
        // As `Zeroize` does it, but with vector stores.
        self.stream.0 = [0; LANES * BLOCK_LEN];
        self.authenticator_keys = [[0; 32]; GROUP];
        optimization_barrier(self);
    }
}

fn segment<'a>(packet: &Packet<'a>, counter: u32, blocks: usize) -> Segment<'a> {
    Segment {
        key: &packet.key.bytes,
        nonce: [0, packet.counter as u32, (packet.counter >> 32) as u32],
        counter,
        blocks,
    }
}
