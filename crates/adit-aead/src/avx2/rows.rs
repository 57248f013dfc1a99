//! ChaCha20, few blocks at a time: each vector holds a row of the state, four
//! words, of two blocks.
//!
//! For few blocks this takes fewer instructions than vectors that each hold one word of all blocks, and far fewer to
//! fetch when nothing is in the caches.

use core::arch::x86_64::*;

use super::chacha20::{byte_orders, left_7, left_12, store};
use crate::rounds::CONSTANTS;
use crate::stream::{BLOCK_LEN, Segment};

/// Blocks at a time: each row is in two vectors, so that one is worked on while the other waits for its last result.
pub(crate) const BLOCKS: usize = 4;

/// A row of two times two blocks.
type Row = [__m256i; BLOCKS / 2];

/// The key stream of a segment's first block and of those after it.
#[target_feature(enable = "avx2")]
pub(super) fn key_stream(segment: &Segment<'_>, out: &mut [[u8; BLOCK_LEN]; BLOCKS]) {
    let (key, _) = segment.key.as_chunks();
    let [n0, n1, n2] = segment.nonce;
    let numbers = |first: u32| {
        let row = |number: u32| _mm_setr_epi32(number as i32, n0 as i32, n1 as i32, n2 as i32);
        let first = segment.counter.wrapping_add(first);
        _mm256_set_m128i(row(first.wrapping_add(1)), row(first))
    };
    let [c0, c1, c2, c3] = CONSTANTS.map(|word| word as i32);
    let initial: [Row; 4] = [
        [_mm256_setr_epi32(c0, c1, c2, c3, c0, c1, c2, c3); 2],
        [both(&key[0]); 2],
        [both(&key[1]); 2],
        [numbers(0), numbers(2)],
    ];
    let [mut a, mut b, mut c, mut d] = initial;
    let orders = byte_orders();
    for _ in 0..10 {
        quarter_rounds(&mut a, &mut b, &mut c, &mut d, orders);
        // The diagonals become columns, and then go back to where they were.
        b = b.map(|row| _mm256_shuffle_epi32::<0b00_11_10_01>(row));
        c = c.map(|row| _mm256_shuffle_epi32::<0b01_00_11_10>(row));
        d = d.map(|row| _mm256_shuffle_epi32::<0b10_01_00_11>(row));
        quarter_rounds(&mut a, &mut b, &mut c, &mut d, orders);
        b = b.map(|row| _mm256_shuffle_epi32::<0b10_01_00_11>(row));
        c = c.map(|row| _mm256_shuffle_epi32::<0b01_00_11_10>(row));
        d = d.map(|row| _mm256_shuffle_epi32::<0b00_11_10_01>(row));
    }
    let (parts, _) = out.as_flattened_mut().as_chunks_mut();
    for i in 0..BLOCKS / 2 {
        let sum = |row: &Row, initial: &Row| _mm256_add_epi32(row[i], initial[i]);
        let [a, b] = [sum(&a, &initial[0]), sum(&b, &initial[1])];
        let [c, d] = [sum(&c, &initial[2]), sum(&d, &initial[3])];
        store(&mut parts[4 * i], _mm256_permute2x128_si256::<0x20>(a, b));
        store(&mut parts[4 * i + 1], _mm256_permute2x128_si256::<0x20>(c, d));
        store(&mut parts[4 * i + 2], _mm256_permute2x128_si256::<0x31>(a, b));
        store(&mut parts[4 * i + 3], _mm256_permute2x128_si256::<0x31>(c, d));
    }
}

/// Four quarter rounds for each block, one in each column.
#[inline]
#[target_feature(enable = "avx2")]
fn quarter_rounds(a: &mut Row, b: &mut Row, c: &mut Row, d: &mut Row, orders: [__m256i; 2]) {
    let add = |x: Row, y: Row| [_mm256_add_epi32(x[0], y[0]), _mm256_add_epi32(x[1], y[1])];
    let xor = |x: Row, y: Row| [_mm256_xor_si256(x[0], y[0]), _mm256_xor_si256(x[1], y[1])];
    *a = add(*a, *b);
    *d = xor(*d, *a).map(|row| _mm256_shuffle_epi8(row, orders[0]));
    *c = add(*c, *d);
    *b = xor(*b, *c).map(|row| left_12(row));
    *a = add(*a, *b);
    *d = xor(*d, *a).map(|row| _mm256_shuffle_epi8(row, orders[1]));
    *c = add(*c, *d);
    *b = xor(*b, *c).map(|row| left_7(row));
}

/// The same four words for both blocks.
#[inline]
#[target_feature(enable = "avx2")]
fn both(words: &[u8; 16]) -> __m256i {
    let [low, high] = [0, 8].map(|at| i64::from_le_bytes(core::array::from_fn(|i| words[at + i])));
    _mm256_setr_epi64x(low, high, low, high)
}
