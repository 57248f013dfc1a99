//! ChaCha20, sixteen blocks at a time, or two times sixteen: each vector holds
//! one word of the state of sixteen.

use core::arch::x86_64::*;
use core::ptr;

use super::quarters;
use crate::avx2::chacha20 as avx2;
use crate::rounds::{CONSTANTS, double_round, lanes_from, numbers_from};
use crate::stream::{self, BLOCK_LEN, Segment};

/// Blocks at a time.
const LANES: usize = 16;

/// See [`crate::stream::Vector::key_stream`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn key_stream(segments: &[Segment<'_>], out: &mut [[u8; BLOCK_LEN]]) {
    let blocks: usize = segments.iter().map(|segment| segment.blocks).sum();
    debug_assert!(blocks <= out.len(), "{blocks} blocks in {}", out.len());
    if blocks <= avx2::LANES {
        return half_key_stream(segments, out);
    }
    match out.as_chunks_mut().0 {
        [first, second] if blocks > LANES => double_key_stream(segments, first, second),
        [first, ..] => {
            let initial = initial_state(segments, 0);
            let mut x = initial;
            for _ in 0..10 {
                double_round!(
                    x,
                    _mm512_add_epi32,
                    _mm512_xor_si512,
                    _mm512_rol_epi32::<16>,
                    _mm512_rol_epi32::<12>,
                    _mm512_rol_epi32::<8>,
                    _mm512_rol_epi32::<7>
                );
            }
            write_blocks(x, &initial, first);
        }
        [] => {}
    }
}

/// Sixteen blocks, and sixteen more while the first ones wait for their results: each of the 32 registers holds one
/// word of sixteen blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn double_key_stream(
    segments: &[Segment<'_>],
    first: &mut [[u8; BLOCK_LEN]; LANES],
    second: &mut [[u8; BLOCK_LEN]; LANES],
) {
    let initial = [initial_state(segments, 0), initial_state(segments, 1)];
    let mut x: [Pair; 16] = core::array::from_fn(|i| [initial[0][i], initial[1][i]]);
    for _ in 0..10 {
        double_round!(x, add, xor_pair, left::<16>, left::<12>, left::<8>, left::<7>);
    }
    write_blocks(core::array::from_fn(|i| x[i][0]), &initial[0], first);
    write_blocks(core::array::from_fn(|i| x[i][1]), &initial[1], second);
}

/// Two vectors that do not wait for each other: a word of sixteen blocks, and of
/// sixteen more.
pub(super) type Pair = [__m512i; 2];

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn add(a: Pair, b: Pair) -> Pair {
    [_mm512_add_epi32(a[0], b[0]), _mm512_add_epi32(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn xor_pair(a: Pair, b: Pair) -> Pair {
    [_mm512_xor_si512(a[0], b[0]), _mm512_xor_si512(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn left<const BITS: i32>(pair: Pair) -> Pair {
    [_mm512_rol_epi32::<BITS>(pair[0]), _mm512_rol_epi32::<BITS>(pair[1])]
}

/// Eight blocks at most, as AVX2 does it except for the rotations: the vectors are half as wide, but have one more
/// execution port.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn half_key_stream(segments: &[Segment<'_>], out: &mut [[u8; BLOCK_LEN]]) {
    let initial = avx2::initial_state(segments, 0);
    let mut x = initial;
    for _ in 0..10 {
        double_round!(
            x,
            _mm256_add_epi32,
            _mm256_xor_si256,
            _mm256_rol_epi32::<16>,
            _mm256_rol_epi32::<12>,
            _mm256_rol_epi32::<8>,
            _mm256_rol_epi32::<7>
        );
    }
    if let Some(out) = out.first_chunk_mut() {
        avx2::write_blocks(x, initial, out);
    }
}

/// See [`crate::stream::Vector::xor`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn xor(text: &mut [u8], stream: &[[u8; BLOCK_LEN]]) {
    let (text, rest) = text.as_chunks_mut::<BLOCK_LEN>();
    let last = stream.get(text.len());
    let both = text.len().min(stream.len());
    let (text_fours, text) = text[..both].as_chunks_mut::<4>();
    let (stream_fours, stream) = stream[..both].as_chunks::<4>();
    for (text, stream) in text_fours.iter_mut().zip(stream_fours) {
        xor_blocks(text, stream);
    }
    xor_blocks(text, stream);
    if !rest.is_empty()
        && let Some(stream) = last
    {
        let mask = !0 >> (BLOCK_LEN - rest.len());
        // SAFETY: the mask has a bit for each byte of `rest`, which is shorter than a block, and for no other.
        unsafe {
            let vector = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, rest.as_ptr().cast()), load(stream));
            _mm512_mask_storeu_epi8(rest.as_mut_ptr().cast(), mask, vector);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn xor_blocks(text: &mut [[u8; BLOCK_LEN]], stream: &[[u8; BLOCK_LEN]]) {
    for (text, stream) in text.iter_mut().zip(stream) {
        store(text, _mm512_xor_si512(load(text), load(stream)));
    }
}

/// Adds the state before the first round to the one after the last, and writes
/// it block after block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn write_blocks(mut state: [__m512i; 16], initial: &[__m512i; 16], out: &mut [[u8; BLOCK_LEN]; LANES]) {
    for i in 0..16 {
        state[i] = _mm512_add_epi32(state[i], initial[i]);
    }
    for (out, block) in out.iter_mut().zip(transpose(state)) {
        store(out, block);
    }
}

/// The state before the first round for sixteen lanes, which are the `part`th sixteen of all lanes.
///
/// All take the first segment's words; then the lanes from the next segment's first one on take that segment's words
/// instead, and so on.
///
/// When the run before ends, instructions are queued at the port for shuffles. Anything here that needs that port, as
/// masks and moves from general registers do, would wait in that queue, and the rounds with it; loads and logic do not.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn initial_state(segments: &[Segment<'_>], part: usize) -> [__m512i; 16] {
    let mut state = [_mm512_setzero_si512(); 16];
    for (word, constant) in state.iter_mut().zip(CONSTANTS) {
        *word = _mm512_set1_epi32(constant as i32);
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
            let set = |word: &mut __m512i, values: __m512i| {
                *word = if is_first {
                    values
                } else {
                    // `values` where there are lanes, and `word` elsewhere.
                    _mm512_ternarylogic_epi32::<0xca>(lanes, values, *word)
                };
            };
            if !key.is_some_and(|key| ptr::eq(key, segment.key)) {
                key = Some(segment.key);
                let (words, _) = segment.key.as_chunks();
                for (word, bytes) in state[4..12].iter_mut().zip(words) {
                    set(word, _mm512_set1_epi32(i32::from_le_bytes(*bytes)));
                }
            }
            let counter = _mm512_set1_epi32(segment.counter as i32);
            let counters = _mm512_add_epi32(counter, load_part(numbers_from(begin), part));
            set(&mut state[12], counters);
            for (word, value) in state[13..].iter_mut().zip(segment.nonce) {
                set(word, _mm512_set1_epi32(value as i32));
            }
        }
        begin = end;
    }
    state
}

/// From vectors of one word of all blocks to vectors of all words of one block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn transpose(words: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    // Pairs of words, then quadruples, within each 128-bit quarter: quarter q
    // of quads[4 * w + b] is words 4w to 4w + 3 of block 4q + b.
    let mut pairs = [zero; 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(words[2 * i], words[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(words[2 * i], words[2 * i + 1]);
    }
    let mut quads = [zero; 16];
    for i in 0..4 {
        quads[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    let mut blocks = [zero; 16];
    for b in 0..4 {
        let quarters = quarters([quads[b], quads[4 + b], quads[8 + b], quads[12 + b]]);
        for (q, quarter) in quarters.into_iter().enumerate() {
            blocks[4 * q + b] = quarter;
        }
    }
    blocks
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load(bytes: &[u8; BLOCK_LEN]) -> __m512i {
    // SAFETY: 64 bytes are read, from an array of 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn store(bytes: &mut [u8; BLOCK_LEN], vector: __m512i) {
    // SAFETY: 64 bytes are written, to an array of 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}

/// A part of the lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load_part(words: &[u32; stream::LANES], part: usize) -> __m512i {
    let (parts, _) = words.as_chunks::<LANES>();
    // SAFETY: 64 bytes are read, from an array of sixteen words.
    unsafe { _mm512_loadu_si512(parts[part].as_ptr().cast()) }
}
