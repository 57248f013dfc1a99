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
        tags_of_eight(macs, tags);
    }
}

/// The tags of eight packets at most.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn tags_of_eight(macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
    let (r, s) = keys(macs);
    let mut blocks = [0; LANES];
    for (blocks, mac) in blocks.iter_mut().zip(macs) {
        *blocks = (mac.text.len() / BLOCK_LEN) as u64;
    }
    let alone = choose_alone(load(&blocks));
    let mut sums = Numbers([_mm512_setzero_si512(); 3]);
    if alone != !0 >> (LANES - macs.len()) {
        sums = across_packets(macs, alone, r);
    }
    if alone != 0 {
        sums = within_packets(macs, alone, r, sums);
    }
    finish(sums, s, tags);
}

/// Which packets are better worked on one after the other, eight blocks at a
/// time, than side by side: the long ones that too few others are as long as.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn choose_alone(blocks: __m512i) -> __mmask8 {
    // What the powers of r cost where any packet is alone, and what each packet
    // that is costs besides its blocks; the unit is an eighth of what eight
    // lanes take for a block each.
    const POWERS: u64 = 48;
    const EACH: u64 = 16;
    let longest = _mm512_reduce_max_epu64(blocks);
    let mut best = (8 * longest, 0);
    // No choice is cheaper than the blocks in full lanes and one packet alone.
    if best.0 > POWERS + EACH + _mm512_reduce_add_epi64(blocks) as u64 {
        let mut lengths = [0; LANES];
        store(&mut lengths, blocks);
        for limit in lengths.into_iter().chain([0]) {
            let alone = _mm512_cmpgt_epu64_mask(blocks, _mm512_set1_epi64(limit as i64));
            let alone_blocks = _mm512_mask_reduce_add_epi64(alone, blocks) as u64;
            let cost = 8 * limit + POWERS + EACH * u64::from(alone.count_ones()) + alone_blocks;
            if alone != 0 && cost < best.0 {
                best = (cost, alone);
            }
        }
    }
    best.1
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

/// A packet a lane, for the packets that are not `alone`.
///
/// Short of eight packets, or when one begins later so that all end together,
/// a lane works on the longest packet's blocks and the sum is thrown away: it
/// is as good as any other and needs no care.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn across_packets(macs: &[Mac<'_>], alone: __mmask8, r: Numbers) -> Numbers {
    let r = factors(r);
    let mut whole: [&[[u8; BLOCK_LEN]]; LANES] = [&[]; LANES];
    let mut rest: [&[u8]; LANES] = [&[]; LANES];
    let (mut blocks, mut rests) = ([0; LANES], [0; LANES]);
    let mut lengths = [[0; LANES]; 2];
    let mut longest = 0;
    for (lane, mac) in macs.iter().enumerate() {
        if alone & (1 << lane) == 0 {
            (whole[lane], rest[lane]) = mac.text.as_chunks();
            blocks[lane] = whole[lane].len() as u64;
            rests[lane] = rest[lane].len() as u64;
            lengths[0][lane] = mac.last[0];
            lengths[1][lane] = mac.last[1];
            if blocks[lane] > blocks[longest] {
                longest = lane;
            }
        }
    }
    let total = whole[longest].len();
    let begins = _mm512_sub_epi64(_mm512_set1_epi64(total as i64), load(&blocks));

    let mut sums = Numbers([_mm512_setzero_si512(); 3]);
    let mut done = 0;
    while done < total {
        let now = _mm512_set1_epi64(done as i64);
        sums = keep(sums, _mm512_cmplt_epu64_mask(begins, now));
        // Up to where the next packet begins; one without blocks at the end.
        let waiting = _mm512_cmpgt_epu64_mask(begins, now);
        let next = _mm512_mask_reduce_min_epu64(waiting, begins).min(total as u64) as usize;
        let mut rows = [&whole[longest][done..]; LANES];
        for (lane, row) in rows.iter_mut().enumerate() {
            if waiting & (1 << lane) == 0 {
                *row = &whole[lane][done + whole[lane].len() - total..];
            }
        }
        sums = absorb(sums, &r, rows, next - done);
        done = next;
    }
    let end = _mm512_set1_epi64(total as i64);
    sums = keep(sums, _mm512_cmplt_epu64_mask(begins, end));

    let padded = _mm512_cmpneq_epu64_mask(load(&rests), _mm512_setzero_si512());
    if padded != 0 {
        let mut blocks = [[0; BLOCK_LEN]; LANES];
        for (block, rest) in blocks.iter_mut().zip(rest) {
            block[..rest.len()].copy_from_slice(rest);
        }
        let blocks = gather(blocks.each_ref());
        let with_rest = multiply(add(sums, message(blocks, LANES)), &r);
        sums = blend(sums, padded, with_rest);
    }
    let last = Blocks {
        low: load(&lengths[0]),
        high: load(&lengths[1]),
    };
    multiply(add(sums, message(last, LANES)), &r)
}

/// Eight blocks of one packet at a time, for the packets that are `alone`: each
/// lane sums every eighth block by a factor of r^8, and at the end takes the
/// power that its last block is to be multiplied by.
///
/// Puts the sums of these packets into `sums`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn within_packets(macs: &[Mac<'_>], alone: __mmask8, r: Numbers, sums: Numbers) -> Numbers {
    let powers = powers(r);
    let mut totals = [[0; LANES]; 3];
    for (lane, mac) in macs.iter().enumerate() {
        if alone & (1 << lane) == 0 {
            continue;
        }
        // From r^8 down to r.
        let limb = |limb: &[[u64; LANES]; LANES]| load(&limb.each_ref().map(|row| row[lane]));
        let powers = Numbers(powers.each_ref().map(limb));
        let eighth = factors(Numbers(powers.0.map(|limb| _mm512_broadcastq_epi64(_mm512_castsi512_si128(limb)))));

        // The last step ends with the last block, so the first one may leave
        // lanes empty: sums there are still zero.
        let blocks = mac.text.len().div_ceil(BLOCK_LEN);
        let last = blocks.min(LANES - 1);
        let first = (blocks - last) % LANES;
        let (head, rest) = mac.text.split_at(first * BLOCK_LEN);
        let (middle, tail) = rest.split_at((blocks - last - first) * BLOCK_LEN);
        let mut sums = message(deal(load_start(head), first), first);
        let (steps, _) = middle.as_chunks::<{ LANES * BLOCK_LEN }>();
        for step in steps {
            let step = deal(load_start(step), 0);
            sums = add(multiply(sums, &eighth), message(step, LANES));
        }
        let mut step = deal(load_start(tail), last + 1);
        step.low = _mm512_mask_set1_epi64(step.low, 1 << 7, mac.last[0] as i64);
        step.high = _mm512_mask_set1_epi64(step.high, 1 << 7, mac.last[1] as i64);
        sums = add(multiply(sums, &eighth), message(step, last + 1));
        for (total, limb) in totals.iter_mut().zip(multiply(sums, &factors(powers)).0) {
            total[lane] = _mm512_reduce_add_epi64(limb) as u64;
        }
    }
    let totals = Numbers([load(&totals[0]), load(&totals[1]), load(&totals[2])]);
    blend(sums, alone, totals)
}

/// The powers of the numbers, from the eighth down to the first, by limb, power
/// and lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn powers(r: Numbers) -> [[[u64; LANES]; LANES]; 3] {
    let r_1 = factors(r);
    let r2 = multiply(r, &r_1);
    let r3 = multiply(r2, &r_1);
    let r4 = multiply(r2, &factors(r2));
    let r_4 = factors(r4);
    let r5 = multiply(r, &r_4);
    let r6 = multiply(r2, &r_4);
    let r7 = multiply(r3, &r_4);
    let r8 = multiply(r4, &r_4);
    let mut powers = [[[0; LANES]; LANES]; 3];
    for (i, power) in [r8, r7, r6, r5, r4, r3, r2, r].iter().enumerate() {
        for (limbs, limb) in powers.iter_mut().zip(power.0) {
            store(&mut limbs[i], limb);
        }
    }
    powers
}

/// Adds `count` blocks of each row to the sums, one after the other, and
/// multiplies each time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn absorb(
    mut sums: Numbers,
    r: &Factors,
    rows: [&[[u8; BLOCK_LEN]]; LANES],
    count: usize,
) -> Numbers {
    // Once here instead of at each block.
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rows;
    let (r0, r1, r2, r3) = (&r0[..count], &r1[..count], &r2[..count], &r3[..count]);
    let (r4, r5, r6, r7) = (&r4[..count], &r5[..count], &r6[..count], &r7[..count]);
    for i in 0..count {
        let row = [&r0[i], &r1[i], &r2[i], &r3[i], &r4[i], &r5[i], &r6[i], &r7[i]];
        sums = multiply(add(sums, message(gather(row), LANES)), r);
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

/// The numbers that blocks stand for, with a bit above the highest byte, of
/// which the last `count` are there; the others are zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn message(blocks: Blocks, count: usize) -> Numbers {
    let mut numbers = split(blocks);
    let lanes = !(0xff_u32 >> count) as __mmask8;
    let bit = _mm512_maskz_set1_epi64(lanes, 1 << 40);
    numbers.0[2] = _mm512_or_si512(numbers.0[2], bit);
    numbers
}

/// The lanes of `numbers` that are in `lanes`, and zero elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn keep(numbers: Numbers, lanes: __mmask8) -> Numbers {
    let [n0, n1, n2] = numbers.0;
    Numbers([
        _mm512_maskz_mov_epi64(lanes, n0),
        _mm512_maskz_mov_epi64(lanes, n1),
        _mm512_maskz_mov_epi64(lanes, n2),
    ])
}

/// The lanes of `b` that are in `lanes`, and of `a` elsewhere.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn blend(a: Numbers, lanes: __mmask8, b: Numbers) -> Numbers {
    Numbers([
        _mm512_mask_mov_epi64(a.0[0], lanes, b.0[0]),
        _mm512_mask_mov_epi64(a.0[1], lanes, b.0[1]),
        _mm512_mask_mov_epi64(a.0[2], lanes, b.0[2]),
    ])
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

/// Up to eight consecutive blocks, zeros after.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn load_start(bytes: &[u8]) -> [__m512i; 2] {
    let (first, second) = bytes.split_at(bytes.len().min(64));
    let load = |bytes: &[u8]| {
        let Some(mask) = (!0_u64).checked_shr(64 - bytes.len().min(64) as u32) else {
            return _mm512_setzero_si512();
        };
        // SAFETY: the mask has a bit only for bytes that the slice has.
        unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
    };
    [load(first), load(second)]
}

/// A block a lane, rotated so that the last lane gets the one before `shift`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn deal(blocks: [__m512i; 2], shift: usize) -> Blocks {
    let shift = _mm512_set1_epi64(2 * shift as i64);
    let low = _mm512_add_epi64(_mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), shift);
    let high = _mm512_add_epi64(_mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), shift);
    Blocks {
        low: _mm512_permutex2var_epi64(blocks[0], low, blocks[1]),
        high: _mm512_permutex2var_epi64(blocks[0], high, blocks[1]),
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
