//! ChaCha20, sixteen blocks at a time: each vector holds one word of the state
//! of all of them.

use core::arch::x86_64::*;
use core::ptr;

use crate::avx2::chacha20 as avx2;
use crate::rounds::{CONSTANTS, double_round, lanes_from, numbers_from};
use crate::stream::{BLOCK_LEN, KeyStream, LANES, Segment};

/// See [`crate::stream::Vector::key_stream`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn key_stream(segments: &[Segment<'_>], out: &mut KeyStream) {
    let blocks: usize = segments.iter().map(|segment| segment.blocks).sum();
    if blocks <= LANES / 2 {
        return half_key_stream(segments, out);
    }
    let initial = initial_state(segments);
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
    for i in 0..LANES {
        x[i] = _mm512_add_epi32(x[i], initial[i]);
    }
    let x = transpose(x);
    let (blocks, _) = out.0.as_chunks_mut::<BLOCK_LEN>();
    for i in 0..LANES {
        store(&mut blocks[i], x[i]);
    }
}

/// Eight blocks at most, as AVX2 does it, but for the rotations: half as wide,
/// but on one more port.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn half_key_stream(segments: &[Segment<'_>], out: &mut KeyStream) {
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
    if let Some(out) = out.0.first_chunk_mut() {
        avx2::write_blocks(x, initial, out);
    }
}

/// See [`crate::stream::Vector::xor`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn xor(text: &mut [u8], stream: &[u8]) {
    let (text_parts, text) = text.as_chunks_mut::<{ 4 * BLOCK_LEN }>();
    let (stream_parts, stream) = stream.as_chunks::<{ 4 * BLOCK_LEN }>();
    for (text, stream) in text_parts.iter_mut().zip(stream_parts) {
        xor_blocks(text, stream);
    }
    let (text_blocks, text) = text.as_chunks_mut::<BLOCK_LEN>();
    let (stream_blocks, stream) = stream.as_chunks::<BLOCK_LEN>();
    for (text, stream) in text_blocks.iter_mut().zip(stream_blocks) {
        xor_blocks(text, stream);
    }
    let count = text.len().min(stream.len());
    if let Some(mask) = (!0_u64).checked_shr(64 - count as u32) {
        // SAFETY: the mask has a bit for each of the first `count` bytes only,
        // and both slices have them.
        unsafe {
            let vector = _mm512_maskz_loadu_epi8(mask, text.as_ptr().cast());
            let stream = _mm512_maskz_loadu_epi8(mask, stream.as_ptr().cast());
            let vector = _mm512_xor_si512(vector, stream);
            _mm512_mask_storeu_epi8(text.as_mut_ptr().cast(), mask, vector);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn xor_blocks<const LEN: usize>(text: &mut [u8; LEN], stream: &[u8; LEN]) {
    let (text, _) = text.as_chunks_mut();
    let (stream, _) = stream.as_chunks();
    for (text, stream) in text.iter_mut().zip(stream) {
        store(text, _mm512_xor_si512(load(text), load(stream)));
    }
}

/// The state before the first round. All lanes take the first segment's words,
/// and those from the next segment's first on take its words instead, and so on.
///
/// The run before ends with a queue at the shuffles' port. What needed that port
/// here, as masks and what comes from general registers do, would wait in the
/// queue, and the rounds with it; loads and logic do not.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn initial_state(segments: &[Segment<'_>]) -> [__m512i; 16] {
    let mut state = [_mm512_setzero_si512(); 16];
    for (word, constant) in state.iter_mut().zip(CONSTANTS) {
        *word = _mm512_set1_epi32(constant as i32);
    }
    let mut lane = 0;
    let mut key: Option<&[u8; 32]> = None;
    for segment in segments {
        let lanes = load_words(lanes_from(lane));
        let is_first = lane == 0;
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
        let counters = _mm512_add_epi32(counter, load_words(numbers_from(lane)));
        set(&mut state[12], counters);
        for (word, value) in state[13..].iter_mut().zip(segment.nonce) {
            set(word, _mm512_set1_epi32(value as i32));
        }
        lane += segment.blocks;
    }
    state
}

/// From one word of all blocks a vector to all words of one block a vector.
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
    // Then the quarters.
    let mut blocks = [zero; 16];
    for b in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x44>(quads[b], quads[4 + b]);
        let high = _mm512_shuffle_i32x4::<0xee>(quads[b], quads[4 + b]);
        let low_end = _mm512_shuffle_i32x4::<0x44>(quads[8 + b], quads[12 + b]);
        let high_end = _mm512_shuffle_i32x4::<0xee>(quads[8 + b], quads[12 + b]);
        blocks[b] = _mm512_shuffle_i32x4::<0x88>(low, low_end);
        blocks[4 + b] = _mm512_shuffle_i32x4::<0xdd>(low, low_end);
        blocks[8 + b] = _mm512_shuffle_i32x4::<0x88>(high, high_end);
        blocks[12 + b] = _mm512_shuffle_i32x4::<0xdd>(high, high_end);
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
fn store(bytes: &mut [u8; BLOCK_LEN], vector: __m512i) {
    // SAFETY: 64 bytes are written, to an array of 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load_words(words: &[u32; LANES]) -> __m512i {
    // SAFETY: 64 bytes are read, from an array of sixteen words.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}
