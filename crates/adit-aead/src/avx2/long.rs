//! Long packets, one after the other: while the vector registers make key
//! stream, the general registers authenticate. Either by itself leaves half of
//! the CPU idle.
//!
//! When sealing, it is the ciphertext of the step before that is authenticated; when opening, it is the packet after
//! the one that is being decrypted.

use arrayvec::ArrayVec;
use zeroize::optimization_barrier;

use super::Avx2;
use super::chacha20::LANES;
use crate::poly1305::{BLOCK_LEN, Block};
use crate::scalar::Scalar;
use crate::stream::{self, GROUP, KeyStream, Segment, Vector};
use crate::{Packet, TAG_LEN};

/// Text that one step makes key stream for.
const STEP: usize = LANES * stream::BLOCK_LEN;
/// Blocks that are authenticated meanwhile, at most.
const BESIDE: usize = 40;

/// Whether the packets are long enough that this is the faster way.
pub(super) fn is_for(packets: &[Packet<'_>]) -> bool {
    let total: usize = packets.iter().map(|packet| packet.text.len()).sum();
    total >= packets.len() * STEP
}

/// See [`crate::seal`].
pub(super) fn seal(vector: Avx2, packets: &mut [Packet<'_>]) {
    let mut stream = KeyStream::new();
    let mut macs = Authenticators::new();
    // The packet that is being authenticated.
    let mut behind = 0;
    for i in 0..packets.len() {
        if i % GROUP == 0 {
            // Packets of the group before may still be worked on; empty packets can leave more than those behind.
            while behind + GROUP < i {
                *packets[behind].tag = macs.of(behind).finish(packets[behind].text);
                behind += 1;
            }
            macs.make(vector, packets, i, &mut stream);
        }
        for start in (0..packets[i].text.len()).step_by(STEP) {
            let segment = segment(&packets[i], start);
            let sealed = if behind < i { usize::MAX } else { start };
            macs.of(behind).step(vector, segment, &mut stream, packets[behind].text, sealed);
            if behind < i && macs.of(behind).is_near_end(packets[behind].text) {
                *packets[behind].tag = macs.of(behind).finish(packets[behind].text);
                behind += 1;
            }
            apply(vector, &mut packets[i], start, &stream);
        }
    }
    for (i, packet) in packets.iter_mut().enumerate().skip(behind) {
        *packet.tag = macs.of(i).finish(packet.text);
    }
}

/// See [`crate::open`].
pub(super) fn open(vector: Avx2, packets: &mut [Packet<'_>]) {
    let mut stream = KeyStream::new();
    let mut macs = Authenticators::new();
    macs.make(vector, packets, 0, &mut stream);
    for i in 0..packets.len() {
        if (i + 1) % GROUP == 0 {
            macs.make(vector, packets, i + 1, &mut stream);
        }
        let tag = macs.of(i).finish(packets[i].text);
        packets[i].authentic = stream::is_equal(packets[i].tag, &tag).into();
        if !packets[i].authentic {
            continue;
        }
        for start in (0..packets[i].text.len()).step_by(STEP) {
            let segment = segment(&packets[i], start);
            match packets.get(i + 1) {
                // As far as this packet has come, so that each step takes its share of the next one.
                Some(next) => macs.of(i + 1).step(vector, segment, &mut stream, next.text, start + STEP),
                None => vector.key_stream(&[segment], &mut stream),
            }
            apply(vector, &mut packets[i], start, &stream);
        }
    }
}

/// The authenticators of a group of packets and of the group before, so that work can go over from one group into the
/// next.
struct Authenticators([Progress; 2 * GROUP]);

impl Authenticators {
    fn new() -> Authenticators {
        Authenticators([const { Progress { mac: Scalar::EMPTY, done: 0 } }; 2 * GROUP])
    }

    /// That of packet `i`.
    fn of(&mut self, i: usize) -> &mut Progress {
        &mut self.0[i % (2 * GROUP)]
    }

    /// Makes those of the group that begins with packet `first`, with keys from a step of their own.
    fn make(&mut self, vector: Avx2, packets: &[Packet<'_>], first: usize, stream: &mut KeyStream<LANES>) {
        let group = packets[first..].iter().take(GROUP);
        let segments: ArrayVec<_, GROUP> =
            group.enumerate().map(|(i, packet)| stream::segment(packet, i, 0, 1)).collect();
        if segments.is_empty() {
            return;
        }
        vector.key_stream(&segments, stream);
        let keys = stream.0.iter().filter_map(|block| block.first_chunk());
        for (i, key) in keys.enumerate().take(segments.len()) {
            *self.of(first + i) = Progress { mac: Scalar::new(key), done: 0 };
        }
    }
}

/// A packet's authenticator, and how much of the text it has had.
struct Progress {
    mac: Scalar,
    done: usize,
}

impl Progress {
    /// Makes a segment's key stream, and authenticates as much of another
    /// text, up to `end`, as time allows.
    fn step(&mut self, vector: Avx2, segment: Segment<'_>, stream: &mut KeyStream<LANES>, text: &[u8], end: usize) {
        let (blocks, _) = text[self.done..text.len().min(end)].as_chunks();
        let blocks = &blocks[..blocks.len().min(BESIDE)];
        vector.key_stream_beside(&segment, stream, &mut self.mac, blocks);
        self.done += blocks.len() * BLOCK_LEN;
    }

    /// Whether all whole blocks are done.
    fn is_near_end(&self, text: &[u8]) -> bool {
        self.done + BLOCK_LEN > text.len()
    }

    /// Authenticates the rest, and gives the tag.
    fn finish(&mut self, text: &[u8]) -> [u8; TAG_LEN] {
        let last: Block = (u128::from(text.len() as u64) << 64).to_le_bytes();
        self.mac.finish(&text[self.done..], &last)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.mac = Scalar::EMPTY;
        optimization_barrier(self);
    }
}

/// The key stream for a step's text.
fn segment<'a>(packet: &Packet<'a>, start: usize) -> Segment<'a> {
    let blocks = (packet.text.len() - start).div_ceil(stream::BLOCK_LEN).min(LANES);
    // `Packet::new` bounds the text so that the block number fits.
    let counter = (start / stream::BLOCK_LEN) as u32 + 1;
    stream::segment(packet, 0, counter, blocks)
}

fn apply(vector: Avx2, packet: &mut Packet<'_>, start: usize, stream: &KeyStream<LANES>) {
    vector.xor(&mut packet.text[start..], &stream.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiping_tests::dropped;

    #[test]
    fn an_authenticator_dropped_before_its_tag_leaves_nothing_behind() {
        let progress = dropped(Progress { mac: Scalar::new(&[0x5a; 32]), done: 0 });
        assert!(progress.mac.is_empty());
    }
}
