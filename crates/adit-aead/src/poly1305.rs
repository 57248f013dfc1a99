//! Poly1305 of many packets: which lane of a vector works on what. The arithmetic is left to the backends.
//!
//! A packet's blocks m are summed up to m[0] r^n + m[1] r^(n-1) + … + m[n-1] r, modulo 2^130 - 5. Packets of equal
//! length go side by side, one in each lane, and each step adds a block and multiplies by r. A long packet with no
//! others of its length is spread over all lanes: there a step multiplies by r^8, and the last step by r^8 in the first
//! lane, by r^7 in the second, and so on.

use core::slice;

use zeroize::optimization_barrier;

use crate::TAG_LEN;
use crate::stream::Mac;

/// Packets at a time, or blocks of one packet.
pub(crate) const LANES: usize = 8;
/// Length of a block.
pub(crate) const BLOCK_LEN: usize = 16;

pub(crate) type Block = [u8; BLOCK_LEN];
/// A number modulo 2^130 - 5 for each lane, in `LIMBS` limbs.
pub(crate) type Numbers<const LIMBS: usize> = [[u64; LANES]; LIMBS];

/// The arithmetic, in eight lanes.
pub(crate) trait Arithmetic<const LIMBS: usize>: Copy {
    /// Splits one-time keys into the clamped r and s.
    fn begin(self, keys: [&[u8; 32]; LANES]) -> State<LIMBS>;

    /// For each block of a row, adds it to the lane's sum, and multiplies that
    /// by r. The rows are equally long.
    fn absorb(self, state: &mut State<LIMBS>, rows: [&[Block]; LANES]);

    /// The same for blocks in another order: each step has one for each lane.
    fn absorb_steps(self, state: &mut State<LIMBS>, steps: &[[Block; LANES]]);

    /// The powers of r, from the eighth down to the first.
    fn powers(self, r: &Numbers<LIMBS>) -> [Numbers<LIMBS>; LANES];

    /// The tags: the sums, reduced, plus s.
    fn finish(self, state: &State<LIMBS>) -> [Block; LANES];
}

/// Eight authenticators in progress.
#[repr(align(64))]
pub(crate) struct State<const LIMBS: usize> {
    pub(crate) r: Numbers<LIMBS>,
    /// The low and high halves.
    pub(crate) s: [[u64; LANES]; 2],
    pub(crate) sums: Numbers<LIMBS>,
}

impl<const LIMBS: usize> Drop for State<LIMBS> {
    fn drop(&mut self) {
        // What `Zeroize` does, but with vector stores.
        self.r = [[0; LANES]; LIMBS];
        self.s = [[0; LANES]; 2];
        self.sums = [[0; LANES]; LIMBS];
        optimization_barrier(self);
    }
}

/// An array with a value for each lane.
macro_rules! each_lane {
    ($lane:ident => $value:expr) => {
        each_lane!($lane => $value; 0, 1, 2, 3, 4, 5, 6, 7)
    };
    ($lane:ident => $value:expr; $($number:literal),*) => {
        [$({
            let $lane: usize = $number;
            $value
        }),*]
    };
}

pub(crate) use each_lane;

/// See [`crate::stream::Vector::tags`].
#[inline(always)]
pub(crate) fn tags<const LIMBS: usize, A: Arithmetic<LIMBS>>(
    arithmetic: A,
    macs: &[Mac<'_>],
    tags: &mut [[u8; TAG_LEN]],
) {
    for (macs, tags) in macs.chunks(LANES).zip(tags.chunks_mut(LANES)) {
        // Lanes that are left over work on the first packet too: it is as good
        // as any other, and needs no care.
        let lanes = each_lane!(lane => macs.get(lane).unwrap_or(&macs[0]));
        let mut state = arithmetic.begin(each_lane!(lane => lanes[lane].key));
        let used = !0 >> (LANES - macs.len());
        let is_even = lanes.iter().all(|mac| mac.text.len() == lanes[0].text.len());
        let alone = choose_alone(&lanes, used, is_even);
        if alone == 0 && is_even {
            side_by_side(arithmetic, &mut state, &lanes);
        } else {
            if alone != used {
                staggered(arithmetic, &mut state, &lanes, used & !alone);
            }
            if alone != 0 {
                one_by_one(arithmetic, &state.r, &mut state.sums, &lanes, alone);
            }
        }
        for (tag, finished) in tags.iter_mut().zip(arithmetic.finish(&state)) {
            *tag = finished;
        }
    }
}

/// What each lane works on.
type Lanes<'a> = [&'a Mac<'a>; LANES];
/// A bit for each lane.
type Mask = u8;

fn is_in(mask: Mask, lane: usize) -> bool {
    mask >> lane & 1 != 0
}

/// Which of the `used` lanes' packets are better worked on alone, spread over all lanes: long ones for which there are
/// too few others of their length.
fn choose_alone(macs: &Lanes<'_>, used: Mask, is_even: bool) -> Mask {
    // Costs are in eighths of a step.
    let cost_side_by_side = |longest: usize| 8 * longest;
    let cost_alone = |packets: usize, blocks: usize| {
        // The powers of r, then for each packet the first and last step.
        if packets == 0 { 0 } else { 48 + 16 * packets + blocks }
    };
    let blocks = each_lane!(lane => macs[lane].text.len() / BLOCK_LEN);
    if is_even {
        let count = used.count_ones() as usize;
        let cheaper = cost_alone(count, count * blocks[0]) < cost_side_by_side(blocks[0]);
        return if cheaper { used } else { 0 };
    }
    // Tries each packet, and none, as the longest of those that go side by side.
    let mut best = (usize::MAX, 0);
    for limit in blocks.into_iter().chain([0]) {
        let (mut alone, mut longest, mut count, mut sum) = (0, 0, 0, 0);
        for (lane, blocks) in blocks.into_iter().enumerate() {
            if blocks <= limit || !is_in(used, lane) {
                longest = longest.max(blocks.min(limit));
            } else {
                alone |= 1 << lane;
                count += 1;
                sum += blocks;
            }
        }
        best = best.min((cost_side_by_side(longest) + cost_alone(count, sum), alone));
    }
    best.1
}

/// A packet in each lane, all equally long.
#[inline(always)]
fn side_by_side<const LIMBS: usize, A: Arithmetic<LIMBS>>(arithmetic: A, state: &mut State<LIMBS>, macs: &Lanes<'_>) {
    let texts = each_lane!(lane => macs[lane].text.as_chunks());
    arithmetic.absorb(state, each_lane!(lane => texts[lane].0));
    if !texts[0].1.is_empty() {
        let blocks = each_lane!(lane => padded(texts[lane].1));
        arithmetic.absorb(state, each_lane!(lane => slice::from_ref(&blocks[lane])));
    }
    arithmetic.absorb(state, each_lane!(lane => slice::from_ref(&macs[lane].last)));
}

/// A packet in each lane, for the lanes that are in `chosen`.
///
/// A packet that is shorter than the longest begins later, so that all end together. Until then, its lane works on the
/// longest packet's blocks, and the sum is thrown away. A lane that is not chosen does the same to the end.
fn staggered<const LIMBS: usize, A: Arithmetic<LIMBS>>(
    arithmetic: A,
    state: &mut State<LIMBS>,
    macs: &Lanes<'_>,
    chosen: Mask,
) {
    let texts = each_lane!(lane => {
        let text = if is_in(chosen, lane) { macs[lane].text } else { &[] };
        text.as_chunks()
    });
    let longest = texts.iter().map(|text| text.0).max_by_key(|whole| whole.len());
    let longest = longest.unwrap_or_default();
    let begins = each_lane!(lane => longest.len() - texts[lane].0.len());
    let mut done = 0;
    loop {
        for lane in (0..LANES).filter(|&lane| begins[lane] >= done) {
            set_sum(&mut state.sums, lane, [0; LIMBS]);
        }
        if done == longest.len() {
            break;
        }
        // Up to where the next packet begins; one without whole blocks begins at the end.
        let next = begins.into_iter().filter(|&begin| begin > done).min();
        let next = next.unwrap_or(longest.len());
        let row = |lane: usize| match done.checked_sub(begins[lane]) {
            Some(from) => &texts[lane].0[from..][..next - done],
            None => &longest[done..next],
        };
        arithmetic.absorb(state, each_lane!(lane => row(lane)));
        done = next;
    }

    let before = state.sums;
    let rests = each_lane!(lane => padded(texts[lane].1));
    arithmetic.absorb(state, each_lane!(lane => slice::from_ref(&rests[lane])));
    for lane in (0..LANES).filter(|&lane| texts[lane].1.is_empty()) {
        let sum = before.map(|limb| limb[lane]);
        set_sum(&mut state.sums, lane, sum);
    }
    arithmetic.absorb(state, each_lane!(lane => slice::from_ref(&macs[lane].last)));
}

/// Works on the packets in `chosen` one after the other, each spread over all lanes, and puts their sums in place.
fn one_by_one<const LIMBS: usize, A: Arithmetic<LIMBS>>(
    arithmetic: A,
    r: &Numbers<LIMBS>,
    sums: &mut Numbers<LIMBS>,
    macs: &Lanes<'_>,
    chosen: Mask,
) {
    let mut powers = arithmetic.powers(r);
    for lane in (0..LANES).filter(|&lane| is_in(chosen, lane)) {
        let mac = macs[lane];
        let mut state =
            State { r: powers[0].map(|limb| [limb[lane]; LANES]), s: [[0; LANES]; 2], sums: [[0; LANES]; LIMBS] };
        // The steps are placed so that the last one ends with the last block. If the first one then begins in the midst
        // of the lanes, the sums before it stay zero.
        let blocks = mac.text.len().div_ceil(BLOCK_LEN);
        let in_last = blocks.min(LANES - 1);
        let in_first = (blocks - in_last) % LANES;
        let (first, rest) = mac.text.split_at(in_first * BLOCK_LEN);
        let (middle, last) = rest.split_at((blocks - in_last - in_first) * BLOCK_LEN);
        if in_first > 0 {
            arithmetic.absorb_steps(&mut state, &[step(first, LANES - in_first)]);
            for lane in 0..LANES - in_first {
                set_sum(&mut state.sums, lane, [0; LIMBS]);
            }
        }
        arithmetic.absorb_steps(&mut state, middle.as_chunks().0.as_chunks().0);
        for (limb, r) in state.r.iter_mut().enumerate() {
            *r = each_lane!(power => powers[power][limb][lane]);
        }
        let begin = LANES - 1 - in_last;
        let mut last = step(last, begin);
        last[LANES - 1] = mac.last;
        arithmetic.absorb_steps(&mut state, &[last]);
        set_sum(sums, lane, state.sums.map(|limb| limb[begin..].iter().sum()));
    }
    powers = [[[0; LANES]; LIMBS]; LANES];
    optimization_barrier(&powers);
}

/// The tag of a sum whose low 128 bits are `h`, and whose bits from 2^128 on are `above`, 4 at most.
pub(crate) fn tag(h: u128, above: u64, s: u128) -> Block {
    // If the sum is not below p, adding 5 makes it reach 2^130, and the low bits of the result are those of the sum
    // modulo p.
    let (less, carried) = h.overflowing_add(5);
    let reached = (above + u64::from(carried)) >> 2 & 1;
    let choice = u128::from(reached).wrapping_neg();
    let h = (h & !choice) | (less & choice);
    h.wrapping_add(s).to_le_bytes()
}

fn set_sum<const LIMBS: usize>(sums: &mut Numbers<LIMBS>, lane: usize, sum: [u64; LIMBS]) {
    for (limb, value) in sums.iter_mut().zip(sum) {
        limb[lane] = value;
    }
}

/// A step whose lanes from `begin` on get the blocks of `text`, which has no
/// more than there are lanes.
fn step(text: &[u8], begin: usize) -> [Block; LANES] {
    let mut step = [[0; BLOCK_LEN]; LANES];
    step.as_flattened_mut()[begin * BLOCK_LEN..][..text.len()].copy_from_slice(text);
    step
}

/// What is left after the whole blocks of a text, and zeros.
fn padded(rest: &[u8]) -> Block {
    let mut block = [0; BLOCK_LEN];
    block[..rest.len()].copy_from_slice(rest);
    block
}
