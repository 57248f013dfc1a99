//! Poly1305 in eight lanes: eight packets, or eight blocks of one.
//!
//! A number modulo 2^130 - 5 is three limbs of 44, 44 and 42 bits, each in a
//! 64-bit lane, multiplied by the 52-bit instructions of IFMA.

use core::arch::x86_64::*;

use crate::TAG_LEN;
use crate::stream::Mac;

const LANES: usize = 8;
const BLOCK_LEN: usize = 16;

/// See [`crate::stream::Vector::tags`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
pub(super) fn tags(macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
    for (macs, tags) in macs.chunks(LANES).zip(tags.chunks_mut(LANES)) {
        let (r, s) = keys(macs);
        let sums = across_packets(macs, r);
        finish(sums, s, tags);
    }
}

/// Eight numbers modulo 2^130 - 5, not fully reduced: a limb may have a few
/// bits more than it should, but less than 52.
#[derive(Clone, Copy)]
struct Numbers([__m512i; 3]);

/// Eight numbers to multiply by, with limbs 1 and 2 times 20 as well: what
/// passes 2^132 comes back as 4 * 5 times itself.
#[derive(Clone, Copy)]
struct Factors {
    limbs: Numbers,
    limb_1_wrapped: __m512i,
    limb_2_wrapped: __m512i,
}

/// Eight 128-bit numbers: low halves, high halves.
#[derive(Clone, Copy)]
struct Blocks {
    low: __m512i,
    high: __m512i,
}

/// The two halves of each one-time key: the clamped r, and s.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn keys(macs: &[Mac<'_>]) -> (Numbers, Blocks) {
    let halves = |half: usize| {
        let rows = core::array::from_fn(|lane| {
            let (halves, _) = macs[if lane < macs.len() { lane } else { 0 }].key.as_chunks::<16>();
            &halves[half]
        });
        gather(rows)
    };
    let r = halves(0);
    let clamped = Blocks {
        low: _mm512_and_si512(r.low, _mm512_set1_epi64(0x0fff_fffc_0fff_ffff)),
        high: _mm512_and_si512(r.high, _mm512_set1_epi64(0x0fff_fffc_0fff_fffc)),
    };
    (split(clamped), halves(1))
}

/// A packet a lane.
///
/// Short of eight packets, or when one begins later so that all end together,
/// a lane works on the longest packet's blocks and the sum is thrown away: it
/// is as good as any other and needs no care.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn across_packets(macs: &[Mac<'_>], r: Numbers) -> Numbers {
    let r = factors(r);
    let text = |lane: usize| macs.get(lane).map_or(&[][..], |mac| mac.text);
    let texts: [(&[[u8; BLOCK_LEN]], &[u8]); LANES] = core::array::from_fn(|lane| text(lane).as_chunks());
    let longest = (0..LANES).max_by_key(|&lane| texts[lane].0.len()).unwrap_or(0);
    let total = texts[longest].0.len();

    let mut sums = Numbers([_mm512_setzero_si512(); 3]);
    let mut done = 0;
    while done < total {
        let begun = mask(|lane| total - texts[lane].0.len() < done);
        for limb in &mut sums.0 {
            *limb = _mm512_maskz_mov_epi64(begun, *limb);
        }
        // Up to where the next packet begins.
        let mut next = total;
        let rows: [&[[u8; BLOCK_LEN]]; LANES] = core::array::from_fn(|lane| {
            let begin = total - texts[lane].0.len();
            if begin <= done {
                &texts[lane].0[done - begin..]
            } else {
                next = next.min(begin);
                &texts[longest].0[done..]
            }
        });
        let count = next - done;
        sums = absorb(sums, &r, rows.map(|row| &row[..count]));
        done = next;
    }
    // Lanes without a whole block begin here.
    let begun = mask(|lane| !texts[lane].0.is_empty());
    for limb in &mut sums.0 {
        *limb = _mm512_maskz_mov_epi64(begun, *limb);
    }

    let rest = mask(|lane| !texts[lane].1.is_empty());
    if rest != 0 {
        let padded = texts.map(|(_, rest)| {
            let mut block = [0; BLOCK_LEN];
            block[..rest.len()].copy_from_slice(rest);
            block
        });
        let with_rest = multiply(add(sums, message(gather(padded.each_ref()))), &r);
        for (limb, with_rest) in sums.0.iter_mut().zip(with_rest.0) {
            *limb = _mm512_mask_mov_epi64(*limb, rest, with_rest);
        }
    }

    let lasts = |half: usize| {
        let words: [u64; LANES] =
            core::array::from_fn(|lane| macs.get(lane).map_or(0, |mac| mac.last[half]));
        load(&words)
    };
    let last = Blocks { low: lasts(0), high: lasts(1) };
    multiply(add(sums, message(last)), &r)
}

/// Adds one block after the other to the sums, and multiplies each time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn absorb(mut sums: Numbers, r: &Factors, rows: [&[[u8; BLOCK_LEN]]; LANES]) -> Numbers {
    let count = rows.iter().map(|row| row.len()).min().unwrap_or(0);
    let rows = rows.map(|row| &row[..count]);
    for i in 0..count {
        let blocks = gather(rows.map(|row| &row[i]));
        sums = multiply(add(sums, message(blocks)), r);
    }
    sums
}

/// The tags: the sums modulo 2^130 - 5, plus s modulo 2^128.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn finish(sums: Numbers, s: Blocks, tags: &mut [[u8; TAG_LEN]]) {
    let mask_44 = _mm512_set1_epi64((1 << 44) - 1);
    let mask_42 = _mm512_set1_epi64((1 << 42) - 1);
    let five = _mm512_set1_epi64(5);
    let carry = |h: Numbers| {
        let [h0, h1, h2] = h.0;
        let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
        let h0 = _mm512_and_si512(h0, mask_44);
        let h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        let h1 = _mm512_and_si512(h1, mask_44);
        let h0 = _mm512_madd52lo_epu64(h0, _mm512_srli_epi64::<42>(h2), five);
        let h2 = _mm512_and_si512(h2, mask_42);
        Numbers([h0, h1, h2])
    };
    // The third pass can carry no further than limb 1: limb 2 is then below
    // 2^42, or it was 2^42 and all other limbs are now next to nothing.
    let [h0, h1, h2] = carry(carry(carry(sums))).0;

    // h - p, which is h + 5 - 2^130; its limb 2 is negative if h < p.
    let g0 = _mm512_add_epi64(h0, five);
    let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
    let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
    let g2 = _mm512_sub_epi64(g2, _mm512_set1_epi64(1 << 42));
    let below = _mm512_movepi64_mask(g2);
    let h0 = _mm512_mask_mov_epi64(_mm512_and_si512(g0, mask_44), below, h0);
    let h1 = _mm512_mask_mov_epi64(_mm512_and_si512(g1, mask_44), below, h1);
    let h2 = _mm512_mask_mov_epi64(g2, below, h2);

    let h_low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
    let h_high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
    let low = _mm512_add_epi64(h_low, s.low);
    let carried = _mm512_cmplt_epu64_mask(low, s.low);
    let high = _mm512_add_epi64(h_high, s.high);
    let high = _mm512_mask_add_epi64(high, carried, high, _mm512_set1_epi64(1));

    let (mut lows, mut highs) = ([0; LANES], [0; LANES]);
    store(&mut lows, low);
    store(&mut highs, high);
    for ((tag, low), high) in tags.iter_mut().zip(lows).zip(highs) {
        let (tag_low, tag_high) = tag.split_at_mut(8);
        tag_low.copy_from_slice(&low.to_le_bytes());
        tag_high.copy_from_slice(&high.to_le_bytes());
    }
}

/// The limbs of 128-bit numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn split(blocks: Blocks) -> Numbers {
    let mask_44 = _mm512_set1_epi64((1 << 44) - 1);
    let middle = _mm512_or_si512(
        _mm512_srli_epi64::<44>(blocks.low),
        _mm512_slli_epi64::<20>(blocks.high),
    );
    Numbers([
        _mm512_and_si512(blocks.low, mask_44),
        _mm512_and_si512(middle, mask_44),
        _mm512_srli_epi64::<24>(blocks.high),
    ])
}

/// The numbers that blocks stand for: with a bit above the highest byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn message(blocks: Blocks) -> Numbers {
    let mut numbers = split(blocks);
    numbers.0[2] = _mm512_or_si512(numbers.0[2], _mm512_set1_epi64(1 << 40));
    numbers
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn add(a: Numbers, b: Numbers) -> Numbers {
    Numbers([
        _mm512_add_epi64(a.0[0], b.0[0]),
        _mm512_add_epi64(a.0[1], b.0[1]),
        _mm512_add_epi64(a.0[2], b.0[2]),
    ])
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn factors(limbs: Numbers) -> Factors {
    let twenty = _mm512_set1_epi64(20);
    let zero = _mm512_setzero_si512();
    Factors {
        limbs,
        limb_1_wrapped: _mm512_madd52lo_epu64(zero, limbs.0[1], twenty),
        limb_2_wrapped: _mm512_madd52lo_epu64(zero, limbs.0[2], twenty),
    }
}

/// The products modulo 2^130 - 5.
///
/// With limbs of `h` below 2^47 and of the factors below 2^45 no sum leaves 64
/// bits and no factor 52, and the limbs of the result are below 2^45 again.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn multiply(h: Numbers, factors: &Factors) -> Numbers {
    let zero = _mm512_setzero_si512();
    let mask_44 = _mm512_set1_epi64((1 << 44) - 1);
    let mask_42 = _mm512_set1_epi64((1 << 42) - 1);
    let [h0, h1, h2] = h.0;
    let [r0, r1, r2] = factors.limbs.0;
    let (w1, w2) = (factors.limb_1_wrapped, factors.limb_2_wrapped);
    macro_rules! dot {
        ($madd:ident: $($a:ident * $b:ident),*) => {{
            let mut sum = zero;
            $( sum = $madd(sum, $a, $b); )*
            sum
        }};
    }
    // The low 52 bits of the products, and the bits above: those have 2^52
    // times the weight, which is 2^8 times the next limb's. h1 comes last, for
    // it is the last to be ready.
    let low_0 = dot!(_mm512_madd52lo_epu64: h2 * w1, h0 * r0, h1 * w2);
    let high_0 = dot!(_mm512_madd52hi_epu64: h2 * w1, h0 * r0, h1 * w2);
    let low_1 = dot!(_mm512_madd52lo_epu64: h2 * w2, h0 * r1, h1 * r0);
    let high_1 = dot!(_mm512_madd52hi_epu64: h2 * w2, h0 * r1, h1 * r0);
    let low_2 = dot!(_mm512_madd52lo_epu64: h2 * r0, h0 * r2, h1 * r1);
    let high_2 = dot!(_mm512_madd52hi_epu64: h2 * r0, h0 * r2, h1 * r1);

    let p0 = low_0;
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
    Numbers([h0, h1, h2])
}

/// Eight blocks, a lane each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn gather(rows: [&[u8; BLOCK_LEN]; LANES]) -> Blocks {
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
    Blocks {
        low: _mm512_unpacklo_epi64(even, odd),
        high: _mm512_unpackhi_epi64(even, odd),
    }
}

fn mask(bit: impl Fn(usize) -> bool) -> __mmask8 {
    (0..LANES).fold(0, |mask, lane| mask | __mmask8::from(bit(lane)) << lane)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load(words: &[u64; LANES]) -> __m512i {
    // SAFETY: 64 bytes are read, from an array of eight words.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn store(words: &mut [u64; LANES], vector: __m512i) {
    // SAFETY: 64 bytes are written, to an array of eight words.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), vector) }
}
