//! Poly1305 in eight lanes, which are two vectors of four.
//!
//! A number modulo 2^130 - 5 is five limbs of 26 bits, each in a 64-bit lane.

use core::arch::x86_64::*;

use crate::poly1305::{Block, LANES, Numbers, State, each_lane, tag};

const MASK: u64 = (1 << 26) - 1;

/// Four numbers modulo 2^130 - 5, not fully reduced: a limb may have a bit more
/// than it should.
type Vectors = [__m256i; 5];

/// Four numbers to multiply by, and all limbs but the first times 5 as well: what passes 2^130 is added back five
/// times.
#[derive(Clone, Copy)]
struct Factors {
    limbs: Vectors,
    wrapped: [__m256i; 4],
}

/// Four 128-bit numbers: low halves, high halves.
#[derive(Clone, Copy)]
struct Halves {
    low: __m256i,
    high: __m256i,
}

/// See [`crate::poly1305::Arithmetic::begin`].
#[target_feature(enable = "avx2")]
pub(super) fn begin(keys: [&[u8; 32]; LANES]) -> State<5> {
    let mut state = State { r: [[0; LANES]; 5], s: [[0; LANES]; 2], sums: [[0; LANES]; 5] };
    let (halves, _) = keys.as_chunks();
    for (half, [a, b, c, d]) in halves.iter().enumerate() {
        let [[ra, sa], [rb, sb], [rc, sc], [rd, sd]] = [parts(a), parts(b), parts(c), parts(d)];
        let r = gather(ra, rb, rc, rd);
        let clamped = Halves {
            low: _mm256_and_si256(r.low, _mm256_set1_epi64x(0x0fff_fffc_0fff_ffff)),
            high: _mm256_and_si256(r.high, _mm256_set1_epi64x(0x0fff_fffc_0fff_fffc)),
        };
        let s = gather(sa, sb, sc, sd);
        store_all(&mut state.r, half, split(clamped));
        store_all(&mut state.s, half, [s.low, s.high]);
    }
    state
}

fn parts(key: &[u8; 32]) -> [&Block; 2] {
    let (parts, _) = key.as_chunks();
    [&parts[0], &parts[1]]
}

/// See [`crate::poly1305::Arithmetic::absorb`].
#[target_feature(enable = "avx2")]
pub(super) fn absorb(state: &mut State<5>, rows: [&[Block]; LANES]) {
    let [a, b, c, d, e, f, g, h] = rows;
    absorb_half(state, 0, [a, b, c, d]);
    absorb_half(state, 1, [e, f, g, h]);
}

/// One half after the other: both at a time need more registers than there are.
#[target_feature(enable = "avx2")]
fn absorb_half(state: &mut State<5>, half: usize, rows: [&[Block]; LANES / 2]) {
    // Checked once here instead of at each block.
    let [a, b, c, d] = rows;
    let count = a.len();
    let (b, c, d) = (&b[..count], &c[..count], &d[..count]);
    let r = factors(load_all(&state.r, half));
    let mut sums = load_all(&state.sums, half);
    for i in 0..count {
        sums = multiply(add(sums, message(gather(&a[i], &b[i], &c[i], &d[i]))), &r);
    }
    store_all(&mut state.sums, half, sums);
}

/// See [`crate::poly1305::Arithmetic::absorb_steps`].
#[target_feature(enable = "avx2")]
pub(super) fn absorb_steps(state: &mut State<5>, steps: &[[Block; LANES]]) {
    for half in 0..2 {
        let r = factors(load_all(&state.r, half));
        let mut sums = load_all(&state.sums, half);
        for step in steps {
            let (halves, _) = step.as_chunks();
            let [a, b, c, d] = &halves[half];
            sums = multiply(add(sums, message(gather(a, b, c, d))), &r);
        }
        store_all(&mut state.sums, half, sums);
    }
}

/// See [`crate::poly1305::Arithmetic::powers`].
#[target_feature(enable = "avx2")]
pub(super) fn powers(r: &Numbers<5>) -> [Numbers<5>; LANES] {
    let mut powers = [*r; LANES];
    for half in 0..2 {
        let r1 = load_all(r, half);
        let by_1 = factors(r1);
        let mut power = r1;
        for numbers in powers[..LANES - 1].iter_mut().rev() {
            power = multiply(power, &by_1);
            store_all(numbers, half, power);
        }
    }
    powers
}

/// See [`crate::poly1305::Arithmetic::finish`].
#[target_feature(enable = "avx2")]
pub(super) fn finish(state: &State<5>) -> [Block; LANES] {
    // The low and high halves of h modulo 2^128, and h divided by 2^128.
    let mut words = [[0; LANES]; 3];
    let mask = _mm256_set1_epi64x(MASK as i64);
    for half in 0..2 {
        // Carries go around twice: the second time limb 4 passes on one at most, and only if all other limbs have just
        // become zero, or next to it.
        let mut h = load_all(&state.sums, half);
        for _ in 0..2 {
            for i in 0..4 {
                h[i + 1] = _mm256_add_epi64(h[i + 1], _mm256_srli_epi64::<26>(h[i]));
                h[i] = _mm256_and_si256(h[i], mask);
            }
            h[0] = _mm256_add_epi64(h[0], five_times(_mm256_srli_epi64::<26>(h[4])));
            h[4] = _mm256_and_si256(h[4], mask);
        }
        let low =
            _mm256_add_epi64(_mm256_add_epi64(h[0], _mm256_slli_epi64::<26>(h[1])), _mm256_slli_epi64::<52>(h[2]));
        let high = _mm256_add_epi64(
            _mm256_add_epi64(_mm256_srli_epi64::<12>(h[2]), _mm256_slli_epi64::<14>(h[3])),
            _mm256_slli_epi64::<40>(h[4]),
        );
        store_all(&mut words, half, [low, high, _mm256_srli_epi64::<24>(h[4])]);
    }
    each_lane!(lane => {
        let h = u128::from(words[0][lane]) | u128::from(words[1][lane]) << 64;
        let s = u128::from(state.s[0][lane]) | u128::from(state.s[1][lane]) << 64;
        tag(h, words[2][lane], s)
    })
}

/// The limbs of 128-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn split(Halves { low, high }: Halves) -> Vectors {
    let mask = _mm256_set1_epi64x(MASK as i64);
    let middle = _mm256_or_si256(_mm256_srli_epi64::<52>(low), _mm256_slli_epi64::<12>(high));
    [
        _mm256_and_si256(low, mask),
        _mm256_and_si256(_mm256_srli_epi64::<26>(low), mask),
        _mm256_and_si256(middle, mask),
        _mm256_and_si256(_mm256_srli_epi64::<14>(high), mask),
        _mm256_srli_epi64::<40>(high),
    ]
}

/// The numbers that blocks stand for: with a bit above the highest byte.
#[inline]
#[target_feature(enable = "avx2")]
fn message(blocks: Halves) -> Vectors {
    let [m0, m1, m2, m3, m4] = split(blocks);
    [m0, m1, m2, m3, _mm256_or_si256(m4, _mm256_set1_epi64x(1 << 24))]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: Vectors, b: Vectors) -> Vectors {
    [
        _mm256_add_epi64(a[0], b[0]),
        _mm256_add_epi64(a[1], b[1]),
        _mm256_add_epi64(a[2], b[2]),
        _mm256_add_epi64(a[3], b[3]),
        _mm256_add_epi64(a[4], b[4]),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn factors(limbs: Vectors) -> Factors {
    let [_, l1, l2, l3, l4] = limbs;
    Factors { limbs, wrapped: [five_times(l1), five_times(l2), five_times(l3), five_times(l4)] }
}

#[inline]
#[target_feature(enable = "avx2")]
fn five_times(x: __m256i) -> __m256i {
    _mm256_add_epi64(x, _mm256_slli_epi64::<2>(x))
}

/// The products modulo 2^130 - 5.
///
/// With limbs of `h` below 2^28 and of the factors below 2^27, what is multiplied fits into 32 bits and the sums into
/// 64, and the limbs of the result are below 2^27 again.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply(h: Vectors, factors: &Factors) -> Vectors {
    let [h0, h1, h2, h3, h4] = h;
    let [r0, r1, r2, r3, r4] = factors.limbs;
    let [w1, w2, w3, w4] = factors.wrapped;
    macro_rules! dot {
        ($a:ident * $b:ident $(, $c:ident * $d:ident)*) => {{
            let mut sum = _mm256_mul_epu32($a, $b);
            $( sum = _mm256_add_epi64(sum, _mm256_mul_epu32($c, $d)); )*
            sum
        }};
    }
    let p0 = dot!(h0 * r0, h1 * w4, h2 * w3, h3 * w2, h4 * w1);
    let p1 = dot!(h0 * r1, h1 * r0, h2 * w4, h3 * w3, h4 * w2);
    let p2 = dot!(h0 * r2, h1 * r1, h2 * r0, h3 * w4, h4 * w3);
    let p3 = dot!(h0 * r3, h1 * r2, h2 * r1, h3 * r0, h4 * w4);
    let p4 = dot!(h0 * r4, h1 * r3, h2 * r2, h3 * r1, h4 * r0);

    // Two chains of carries side by side, from limb 0 and from limb 3.
    let mask = _mm256_set1_epi64x(MASK as i64);
    macro_rules! carry {
        ($from:ident => $to:ident) => {
            let $to = _mm256_add_epi64($to, _mm256_srli_epi64::<26>($from));
            let $from = _mm256_and_si256($from, mask);
        };
    }
    carry!(p0 => p1);
    carry!(p3 => p4);
    carry!(p1 => p2);
    let p0 = _mm256_add_epi64(p0, five_times(_mm256_srli_epi64::<26>(p4)));
    let p4 = _mm256_and_si256(p4, mask);
    carry!(p2 => p3);
    carry!(p0 => p1);
    carry!(p3 => p4);
    [p0, p1, p2, p3, p4]
}

/// A block for each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn gather(a: &Block, b: &Block, c: &Block, d: &Block) -> Halves {
    let load = |block: &Block| {
        // SAFETY: 16 bytes are read, from an array of 16 bytes.
        unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
    };
    let even = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(a)), load(c));
    let odd = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(b)), load(d));
    Halves { low: _mm256_unpacklo_epi64(even, odd), high: _mm256_unpackhi_epi64(even, odd) }
}

/// The first or second four lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn load_all(numbers: &Numbers<5>, half: usize) -> Vectors {
    let load = |limb: usize| {
        let (halves, _) = numbers[limb].as_chunks::<4>();
        // SAFETY: 32 bytes are read, from an array of four words.
        unsafe { _mm256_loadu_si256(halves[half].as_ptr().cast()) }
    };
    [load(0), load(1), load(2), load(3), load(4)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_all<const N: usize>(numbers: &mut Numbers<N>, half: usize, vectors: [__m256i; N]) {
    for (words, vector) in numbers.iter_mut().zip(vectors) {
        let (halves, _) = words.as_chunks_mut::<4>();
        // SAFETY: 32 bytes are written, to an array of four words.
        unsafe { _mm256_storeu_si256(halves[half].as_mut_ptr().cast(), vector) }
    }
}
