//! Poly1305 in eight lanes.
//!
//! A number modulo 2^130 - 5 is three limbs of 44, 44 and 42 bits, each in a
//! 64-bit lane, multiplied by the 52-bit instructions of IFMA.

use core::arch::x86_64::*;

use super::quarters;
use crate::poly1305::{BLOCK_LEN, Block, LANES, Numbers, State, each_lane};

/// Eight numbers modulo 2^130 - 5, not fully reduced: a limb may have a few
/// bits more than it should.
type Vectors = [__m512i; 3];

/// Blocks of a row that are absorbed with one carry.
const AT_ONCE: usize = 4;

/// Eight numbers to multiply by, with limbs 1 and 2 times 20 as well: what
/// passes 2^132 comes back as 4 * 5 times itself.
#[derive(Clone, Copy)]
struct Factors {
    limbs: Vectors,
    limb_1_wrapped: __m512i,
    limb_2_wrapped: __m512i,
}

/// Eight 128-bit numbers: low halves, high halves.
#[derive(Clone, Copy)]
struct Halves {
    low: __m512i,
    high: __m512i,
}

/// See [`crate::poly1305::Arithmetic::begin`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn begin(keys: [&[u8; 32]; LANES]) -> State<3> {
    let r = gather(each_lane!(lane => &keys[lane].as_chunks().0[0]));
    let s = gather(each_lane!(lane => &keys[lane].as_chunks().0[1]));
    let clamped = Halves {
        low: _mm512_and_si512(r.low, _mm512_set1_epi64(0x0fff_fffc_0fff_ffff)),
        high: _mm512_and_si512(r.high, _mm512_set1_epi64(0x0fff_fffc_0fff_fffc)),
    };
    State { r: store_all(split(clamped)), s: [store(s.low), store(s.high)], sums: [[0; LANES]; 3] }
}

/// See [`crate::poly1305::Arithmetic::absorb`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn absorb(state: &mut State<3>, mut rows: [&[Block]; LANES]) {
    if rows[0].len() >= 2 * AT_ONCE {
        rows = absorb_fours(state, rows);
    }
    let r = factors(load_all(&state.r));
    let mut sums = load_all(&state.sums);
    let one = |i: usize| gather(each_lane!(lane => &rows[lane][i]));
    for i in 0..rows[0].len() {
        sums = multiply(add(sums, message(one(i))), &r);
    }
    state.sums = store_all(sums);
}

/// Absorbs four blocks of each row at a time, as long as there are four, and gives the rest.
///
/// That takes one carry for all four: ((((sum + a) r + b) r + c) r + d) r with the products added up first.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn absorb_fours<'a>(state: &mut State<3>, rows: [&'a [Block]; LANES]) -> [&'a [Block]; LANES] {
    let r = factors(load_all(&state.r));
    let mut sums = load_all(&state.sums);
    let r2 = multiply(r.limbs, &r);
    let r3 = factors(multiply(r2, &r));
    let r2 = factors(r2);
    let r4 = factors(multiply(r2.limbs, &r2));
    let parts = each_lane!(lane => rows[lane].as_chunks::<AT_ONCE>());
    // Checked once here instead of each time.
    let fours = each_lane!(lane => &parts[lane].0[..parts[0].0.len()]);
    let four = |i: usize| gather_four(each_lane!(lane => &fours[lane][i]));
    for i in 0..fours[0].len() {
        let [a, b, c, d] = four(i);
        let mut products = Products::zero();
        products.add(message(d), &r);
        products.add(message(c), &r2);
        products.add(message(b), &r3);
        products.add(add(sums, message(a)), &r4);
        sums = products.carried();
    }
    state.sums = store_all(sums);
    each_lane!(lane => parts[lane].1)
}

/// See [`crate::poly1305::Arithmetic::absorb_steps`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn absorb_steps(state: &mut State<3>, steps: &[[Block; LANES]]) {
    let r = factors(load_all(&state.r));
    let mut sums = load_all(&state.sums);
    for step in steps {
        sums = multiply(add(sums, message(deal(step))), &r);
    }
    state.sums = store_all(sums);
}

/// See [`crate::poly1305::Arithmetic::powers`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn powers(r: &Numbers<3>) -> [Numbers<3>; LANES] {
    let r1 = load_all(r);
    let by_1 = factors(r1);
    let r2 = multiply(r1, &by_1);
    let r3 = multiply(r2, &by_1);
    let r4 = multiply(r2, &factors(r2));
    let by_4 = factors(r4);
    let r5 = multiply(r1, &by_4);
    let r6 = multiply(r2, &by_4);
    let r7 = multiply(r3, &by_4);
    let r8 = multiply(r4, &by_4);
    [store_all(r8), store_all(r7), store_all(r6), store_all(r5), store_all(r4), store_all(r3), store_all(r2), *r]
}

/// See [`crate::poly1305::Arithmetic::finish`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn finish(state: &State<3>) -> [Block; LANES] {
    let mask_44 = _mm512_set1_epi64((1 << 44) - 1);
    let mask_42 = _mm512_set1_epi64((1 << 42) - 1);
    let five = _mm512_set1_epi64(5);
    // Carries go around twice: the second time limb 2 passes on one at most, and only if the other limbs have just
    // become zero, or next to it.
    let [mut h0, mut h1, mut h2] = load_all(&state.sums);
    for _ in 0..2 {
        h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        h0 = _mm512_and_si512(h0, mask_44);
        h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        h1 = _mm512_and_si512(h1, mask_44);
        h0 = _mm512_madd52lo_epu64(h0, _mm512_srli_epi64::<42>(h2), five);
        h2 = _mm512_and_si512(h2, mask_42);
    }

    // h - p, which is h + 5 - 2^130; its limb 2 is negative if h < p.
    let g0 = _mm512_add_epi64(h0, five);
    let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
    let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
    let g2 = _mm512_sub_epi64(g2, _mm512_set1_epi64(1 << 42));
    let below = _mm512_movepi64_mask(g2);
    let h0 = _mm512_mask_mov_epi64(_mm512_and_si512(g0, mask_44), below, h0);
    let h1 = _mm512_mask_mov_epi64(_mm512_and_si512(g1, mask_44), below, h1);
    let h2 = _mm512_mask_mov_epi64(g2, below, h2);

    let s = state.s.each_ref();
    let h_low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
    let h_high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
    let low = _mm512_add_epi64(h_low, load(s[0]));
    let carried = _mm512_cmplt_epu64_mask(low, h_low);
    let high = _mm512_add_epi64(h_high, load(s[1]));
    let high = _mm512_mask_add_epi64(high, carried, high, _mm512_set1_epi64(1));

    let [t0, t2, t4, t6] = store_blocks(_mm512_unpacklo_epi64(low, high));
    let [t1, t3, t5, t7] = store_blocks(_mm512_unpackhi_epi64(low, high));
    [t0, t1, t2, t3, t4, t5, t6, t7]
}

/// The limbs of 128-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn split(halves: Halves) -> Vectors {
    let mask_44 = _mm512_set1_epi64((1 << 44) - 1);
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(halves.low), _mm512_slli_epi64::<20>(halves.high));
    [_mm512_and_si512(halves.low, mask_44), _mm512_and_si512(middle, mask_44), _mm512_srli_epi64::<24>(halves.high)]
}

/// The numbers that blocks stand for: with a bit above the highest byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn message(blocks: Halves) -> Vectors {
    let [m0, m1, m2] = split(blocks);
    [m0, m1, _mm512_or_si512(m2, _mm512_set1_epi64(1 << 40))]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn add(a: Vectors, b: Vectors) -> Vectors {
    [_mm512_add_epi64(a[0], b[0]), _mm512_add_epi64(a[1], b[1]), _mm512_add_epi64(a[2], b[2])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn factors(limbs: Vectors) -> Factors {
    let twenty = _mm512_set1_epi64(20);
    let zero = _mm512_setzero_si512();
    Factors {
        limbs,
        limb_1_wrapped: _mm512_madd52lo_epu64(zero, limbs[1], twenty),
        limb_2_wrapped: _mm512_madd52lo_epu64(zero, limbs[2], twenty),
    }
}

/// The product modulo 2^130 - 5.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn multiply(h: Vectors, factors: &Factors) -> Vectors {
    let mut products = Products::zero();
    products.add(h, factors);
    products.carried()
}

/// A sum of products: for each limb its low 52 bits, and the bits above, which have 2^52 times the weight, that is, 2^8
/// times the next limb's.
struct Products {
    low: Vectors,
    high: Vectors,
}

impl Products {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    fn zero() -> Products {
        let zero = _mm512_setzero_si512();
        Products { low: [zero; 3], high: [zero; 3] }
    }

    /// Adds a product. h1 comes last, for it is the last to be ready.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    fn add(&mut self, h: Vectors, factors: &Factors) {
        let [h0, h1, h2] = h;
        let [r0, r1, r2] = factors.limbs;
        let (w1, w2) = (factors.limb_1_wrapped, factors.limb_2_wrapped);
        let terms = [[(h2, w1), (h0, r0), (h1, w2)], [(h2, w2), (h0, r1), (h1, r0)], [(h2, r0), (h0, r2), (h1, r1)]];
        for (limb, terms) in terms.into_iter().enumerate() {
            for (a, b) in terms {
                self.low[limb] = _mm512_madd52lo_epu64(self.low[limb], a, b);
                self.high[limb] = _mm512_madd52hi_epu64(self.high[limb], a, b);
            }
        }
    }

    /// The sum modulo 2^130 - 5.
    ///
    /// With limbs of `h` below 2^47, of the factors below 2^45, and [`AT_ONCE`] products, no sum exceeds 64 bits and no
    /// factor 52, and the limbs of the result are below 2^45 again.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
    fn carried(self) -> Vectors {
        let mask_44 = _mm512_set1_epi64((1 << 44) - 1);
        let mask_42 = _mm512_set1_epi64((1 << 42) - 1);
        let Products { low: [p0, low_1, low_2], high: [high_0, high_1, high_2] } = self;
        let p1 = _mm512_add_epi64(low_1, _mm512_slli_epi64::<8>(high_0));
        let p2 = _mm512_add_epi64(low_2, _mm512_slli_epi64::<8>(high_1));
        // All limbs are carried at once, and limb 0 once more, as it has taken in
        // what passed 2^130, five times.
        let over = _mm512_add_epi64(_mm512_srli_epi64::<42>(p2), _mm512_slli_epi64::<10>(high_2));
        let over = _mm512_add_epi64(over, _mm512_slli_epi64::<2>(over));
        let h0 = _mm512_add_epi64(_mm512_and_si512(p0, mask_44), over);
        let h1 = _mm512_add_epi64(_mm512_and_si512(p1, mask_44), _mm512_srli_epi64::<44>(p0));
        let h2 = _mm512_add_epi64(_mm512_and_si512(p2, mask_42), _mm512_srli_epi64::<44>(p1));
        let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        let h0 = _mm512_and_si512(h0, mask_44);
        [h0, h1, h2]
    }
}

/// A block from each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn gather(rows: [&Block; LANES]) -> Halves {
    let row = |lane: usize| {
        // SAFETY: 16 bytes are read, from an array of 16 bytes.
        unsafe { _mm_loadu_si128(rows[lane].as_ptr().cast()) }
    };
    let join = |a, b, c, d| {
        let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(a)), row(b));
        let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(row(c)), row(d));
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    };
    let even = join(0, 2, 4, 6);
    let odd = join(1, 3, 5, 7);
    Halves { low: _mm512_unpacklo_epi64(even, odd), high: _mm512_unpackhi_epi64(even, odd) }
}

/// The same for four blocks of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn gather_four(rows: [&[Block; AT_ONCE]; LANES]) -> [Halves; AT_ONCE] {
    let rows = rows.map(|row| load_blocks(row));
    let low = quarters([0, 2, 4, 6].map(|lane| _mm512_unpacklo_epi64(rows[lane], rows[lane + 1])));
    let high = quarters([0, 2, 4, 6].map(|lane| _mm512_unpackhi_epi64(rows[lane], rows[lane + 1])));
    core::array::from_fn(|block| Halves { low: low[block], high: high[block] })
}

/// The same when the blocks follow one another.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn deal(blocks: &[Block; LANES]) -> Halves {
    let (halves, _) = blocks.as_chunks();
    let (first, second) = (load_blocks(&halves[0]), load_blocks(&halves[1]));
    let low = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    let high = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    Halves { low: _mm512_permutex2var_epi64(first, low, second), high: _mm512_permutex2var_epi64(first, high, second) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load_all(numbers: &Numbers<3>) -> Vectors {
    [load(&numbers[0]), load(&numbers[1]), load(&numbers[2])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn store_all(vectors: Vectors) -> Numbers<3> {
    [store(vectors[0]), store(vectors[1]), store(vectors[2])]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load(words: &[u64; LANES]) -> __m512i {
    // SAFETY: 64 bytes are read, from an array of eight words.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load_blocks(blocks: &[Block; AT_ONCE]) -> __m512i {
    // SAFETY: 64 bytes are read, from an array of four times 16 bytes.
    unsafe { _mm512_loadu_si512(blocks.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn store(vector: __m512i) -> [u64; LANES] {
    let mut words = [0; LANES];
    // SAFETY: 64 bytes are written, to an array of eight words.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) };
    words
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn store_blocks(vector: __m512i) -> [Block; AT_ONCE] {
    let mut blocks = [[0; BLOCK_LEN]; AT_ONCE];
    // SAFETY: 64 bytes are written, to an array of four times 16 bytes.
    unsafe { _mm512_storeu_si512(blocks.as_mut_ptr().cast(), vector) };
    blocks
}
