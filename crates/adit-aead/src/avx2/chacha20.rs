//! ChaCha20, eight blocks at a time: each vector holds one word of the state of
//! all of them.

use core::arch::x86_64::*;
use core::hint::black_box;
use core::ptr;

use crate::poly1305::Block;
use crate::rounds::{CONSTANTS, double_round, lanes_from, numbers_from};
use crate::scalar::Scalar;
use crate::stream::{self, BLOCK_LEN, KeyStream, Segment};

/// Blocks at a time.
pub(crate) const LANES: usize = 8;

/// See [`crate::stream::Vector::key_stream`].
#[target_feature(enable = "avx2")]
pub(super) fn key_stream(segments: &[Segment<'_>], out: &mut [[u8; BLOCK_LEN]]) {
    let blocks: usize = segments.iter().map(|segment| segment.blocks).sum();
    let orders = byte_orders();
    let (parts, _) = out.as_chunks_mut();
    for (i, part) in parts.iter_mut().take(blocks.div_ceil(LANES)).enumerate() {
        let initial = initial_state(segments, i);
        let mut x = initial;
        for _ in 0..10 {
            double_round!(
                x,
                _mm256_add_epi32,
                _mm256_xor_si256,
                |x| _mm256_shuffle_epi8(x, orders[0]),
                left_12,
                |x| _mm256_shuffle_epi8(x, orders[1]),
                left_7
            );
        }
        write_blocks(x, initial, part);
    }
}

/// See [`super::Avx2::key_stream_beside`].
#[target_feature(enable = "avx2,bmi2")]
pub(super) fn key_stream_beside(segment: &Segment<'_>, out: &mut KeyStream<LANES>, mac: &mut Scalar, blocks: &[Block]) {
    let initial = initial_state(core::slice::from_ref(segment), 0);
    let mut x = initial;
    // The two kinds of work do not wait for each other, so the CPU does both at the same time if they come in small
    // portions.
    let orders = byte_orders();
    let mut blocks = blocks.iter();
    for _ in 0..10 {
        double_round!(
            x,
            _mm256_add_epi32,
            _mm256_xor_si256,
            |x| _mm256_shuffle_epi8(x, orders[0]),
            left_12,
            |x| _mm256_shuffle_epi8(x, orders[1]),
            left_7,
            if let Some(block) = blocks.next() {
                mac.absorb(block);
            }
        );
    }
    write_blocks(x, initial, &mut out.0);
}

/// See [`crate::stream::Vector::xor`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn xor(text: &mut [u8], stream: &[[u8; BLOCK_LEN]]) {
    let (text, text_rest) = text.as_chunks_mut();
    let (stream, _) = stream.as_flattened().as_chunks();
    for (text, stream) in text.iter_mut().zip(stream) {
        store(text, _mm256_xor_si256(load(text), load(stream)));
    }
    if let Some(stream) = stream.get(text.len()) {
        for (text, stream) in text_rest.iter_mut().zip(stream) {
            *text ^= stream;
        }
    }
}

/// The state before the first round for eight lanes, which are the `part`th eight of all lanes.
///
/// All take the first segment's words; then the lanes from the next segment's first one on take that segment's words
/// instead, and so on.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn initial_state(segments: &[Segment<'_>], part: usize) -> [__m256i; 16] {
    let mut state = [_mm256_setzero_si256(); 16];
    for (word, constant) in state.iter_mut().zip(CONSTANTS) {
        *word = _mm256_set1_epi32(constant as i32);
    }
    let mut begin = 0;
    let mut key: Option<&[u8; 32]> = None;
    for segment in segments {
        if begin >= (part + 1) * LANES {
            break;
        }
        let end = begin + segment.blocks;
        if end > part * LANES {
            let lanes = load_part(lanes_from(begin), part);
            let is_first = begin <= part * LANES;
            let set = |word: &mut __m256i, values: __m256i| {
                *word = if is_first { values } else { _mm256_blendv_epi8(*word, values, lanes) };
            };
            if !key.is_some_and(|key| ptr::eq(key, segment.key)) {
                key = Some(segment.key);
                let (words, _) = segment.key.as_chunks();
                for (word, bytes) in state[4..12].iter_mut().zip(words) {
                    set(word, _mm256_set1_epi32(i32::from_le_bytes(*bytes)));
                }
            }
            let counter = _mm256_set1_epi32(segment.counter as i32);
            let counters = _mm256_add_epi32(counter, load_part(numbers_from(begin), part));
            set(&mut state[12], counters);
            for (word, value) in state[13..].iter_mut().zip(segment.nonce) {
                set(word, _mm256_set1_epi32(value as i32));
            }
        }
        begin = end;
    }
    state
}

/// Adds the state before the first round to the one after the last, and writes
/// it block after block.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn write_blocks(mut state: [__m256i; 16], initial: [__m256i; 16], out: &mut [[u8; BLOCK_LEN]; LANES]) {
    for i in 0..16 {
        state[i] = _mm256_add_epi32(state[i], initial[i]);
    }
    let (low, high) = state.split_at(8);
    // Words 0 to 7 of a block are one vector, and words 8 to 15 another.
    let (vectors, _) = out.as_flattened_mut().as_chunks_mut();
    for (i, words) in [low, high].into_iter().enumerate() {
        let blocks = transpose(words);
        for block in 0..LANES {
            store(&mut vectors[2 * block + i], blocks[block]);
        }
    }
}

/// From vectors of one word of all blocks to vectors of all eight words of one block.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(words: &[__m256i]) -> [__m256i; 8] {
    let zero = _mm256_setzero_si256();
    // Pairs of words, then quadruples, within each 128-bit half: half h of
    // quads[4 * w + b] is words 4w to 4w + 3 of block 4h + b.
    let mut pairs = [zero; 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(words[2 * i], words[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(words[2 * i], words[2 * i + 1]);
    }
    let mut quads = [zero; 8];
    for i in 0..2 {
        quads[4 * i] = _mm256_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm256_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm256_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm256_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    // Then the halves.
    let mut blocks = [zero; 8];
    for b in 0..4 {
        blocks[b] = _mm256_permute2x128_si256::<0x20>(quads[b], quads[4 + b]);
        blocks[4 + b] = _mm256_permute2x128_si256::<0x31>(quads[b], quads[4 + b]);
    }
    blocks
}

/// Rotations by 16 and by 8, for a shuffle to do in one step.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn byte_orders() -> [__m256i; 2] {
    let left_16 = _mm256_setr_epi8(
        2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, //
        2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13,
    );
    let left_8 = _mm256_setr_epi8(
        3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, //
        3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14,
    );
    // A compiler that knew these values would load them into registers each time, and there are none to spare.
    black_box([left_16, left_8])
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn left_12(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<12>(x), _mm256_srli_epi32::<20>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn left_7(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<7>(x), _mm256_srli_epi32::<25>(x))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes are read, from an array of 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(bytes: &mut [u8; 32], vector: __m256i) {
    // SAFETY: 32 bytes are written, to an array of 32 bytes.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

/// A part of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn load_part(words: &[u32; stream::LANES], part: usize) -> __m256i {
    let (parts, _) = words.as_chunks::<LANES>();
    // SAFETY: 32 bytes are read, from an array of eight words.
    unsafe { _mm256_loadu_si256(parts[part].as_ptr().cast()) }
}
