//! ChaCha20, few blocks at a time: each vector holds a row of the state, four
//! words, of four blocks.

use core::arch::x86_64::*;

use super::chacha20::{Pair, add, left, store, xor_pair};
use super::quarters;
use crate::rounds::CONSTANTS;
use crate::stream::{BLOCK_LEN, Segment};

/// Blocks at a time: each row is in two vectors, so that one is worked on while the other waits for its last result.
pub(super) const BLOCKS: usize = 8;

/// The key stream of a segment's first block and of those after it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn key_stream(segment: &Segment<'_>, out: &mut [[u8; BLOCK_LEN]; BLOCKS]) {
    let (key, _) = segment.key.as_chunks();
    let [n0, n1, n2] = segment.nonce;
    let numbers = |first: u32| {
        let first = segment.counter.wrapping_add(first);
        let row = _mm_setr_epi32(first as i32, n0 as i32, n1 as i32, n2 as i32);
        let steps = _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0);
        _mm512_add_epi32(_mm512_broadcast_i32x4(row), steps)
    };
    let [c0, c1, c2, c3] = CONSTANTS.map(|word| word as i32);
    // Each row of four blocks, and of four more.
    let initial: [Pair; 4] = [
        [_mm512_broadcast_i32x4(_mm_setr_epi32(c0, c1, c2, c3)); 2],
        [four_times(&key[0]); 2],
        [four_times(&key[1]); 2],
        [numbers(0), numbers(4)],
    ];
    let [mut a, mut b, mut c, mut d] = initial;
    for _ in 0..10 {
        quarter_rounds(&mut a, &mut b, &mut c, &mut d);
        // The diagonals become columns, and then go back to where they were.
        b = b.map(|row| _mm512_shuffle_epi32::<0b00_11_10_01>(row));
        c = c.map(|row| _mm512_shuffle_epi32::<0b01_00_11_10>(row));
        d = d.map(|row| _mm512_shuffle_epi32::<0b10_01_00_11>(row));
        quarter_rounds(&mut a, &mut b, &mut c, &mut d);
        b = b.map(|row| _mm512_shuffle_epi32::<0b10_01_00_11>(row));
        c = c.map(|row| _mm512_shuffle_epi32::<0b01_00_11_10>(row));
        d = d.map(|row| _mm512_shuffle_epi32::<0b00_11_10_01>(row));
    }
    let rows = [add(a, initial[0]), add(b, initial[1]), add(c, initial[2]), add(d, initial[3])];
    for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        for (out, block) in out.iter_mut().zip(quarters(rows.map(|row| row[i]))) {
            store(out, block);
        }
    }
}

/// Four quarter rounds for each block, one in each column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn quarter_rounds(a: &mut Pair, b: &mut Pair, c: &mut Pair, d: &mut Pair) {
    *a = add(*a, *b);
    *d = left::<16>(xor_pair(*d, *a));
    *c = add(*c, *d);
    *b = left::<12>(xor_pair(*b, *c));
    *a = add(*a, *b);
    *d = left::<8>(xor_pair(*d, *a));
    *c = add(*c, *d);
    *b = left::<7>(xor_pair(*b, *c));
}

/// The same four words for all blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn four_times(words: &[u8; 16]) -> __m512i {
    let [low, high] = [0, 8].map(|at| i64::from_le_bytes(core::array::from_fn(|i| words[at + i])));
    _mm512_broadcast_i64x2(_mm_set_epi64x(high, low))
}
