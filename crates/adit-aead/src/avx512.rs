//! AVX-512 with IFMA.

mod chacha20;
mod poly1305;
mod rows;

use core::arch::x86_64::{__m512i, _mm512_shuffle_i64x2};

use crate::features::features;
use crate::poly1305::{self as driver, Arithmetic, Block, LANES, Numbers, State};
use crate::short::{self, Rows};
use crate::stream::{self, BLOCK_LEN, KeyStream, Mac, Segment, Vector};
use crate::{Packet, TAG_LEN};

features!("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512ifma");

/// Proof that the CPU has the instructions of this backend.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `None` where an instruction is missing.
    pub(crate) fn detect() -> Option<Avx512> {
        has_features().then_some(Avx512(()))
    }

    /// See [`crate::seal`].
    pub(crate) fn seal(self, packets: &mut [Packet<'_>]) {
        match packets {
            [packet] if packet.text.len() <= short::max_len(rows::BLOCKS) => short::seal(self, packet),
            // SAFETY: an `Avx512` exists only where `detect` found the features.
            packets => unsafe { seal_groups(self, packets) },
        }
    }

    /// See [`crate::open`].
    pub(crate) fn open(self, packets: &mut [Packet<'_>]) {
        match packets {
            [packet] if packet.text.len() <= short::max_len(rows::BLOCKS) => short::open(self, packet),
            // SAFETY: an `Avx512` exists only where `detect` found the features.
            packets => unsafe { open_groups(self, packets) },
        }
    }
}

impl Vector for Avx512 {
    #[inline(always)]
    fn key_stream<const BLOCKS: usize>(self, segments: &[Segment<'_>], out: &mut KeyStream<BLOCKS>) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { chacha20::key_stream(segments, &mut out.0) }
    }

    #[inline(always)]
    fn xor(self, text: &mut [u8], stream: &[[u8; BLOCK_LEN]]) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { chacha20::xor(text, stream) }
    }

    #[inline(always)]
    fn tags(self, macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { tags_in_lanes(self, macs, tags) }
    }
}

impl Rows<{ rows::BLOCKS }> for Avx512 {
    fn key_stream_in_rows(self, segment: &Segment<'_>, out: &mut KeyStream<{ rows::BLOCKS }>) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { rows::key_stream(segment, &mut out.0) }
    }
}

impl Arithmetic<3> for Avx512 {
    #[inline(always)]
    fn begin(self, keys: [&[u8; 32]; LANES]) -> State<3> {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::begin(keys) }
    }

    #[inline(always)]
    fn absorb(self, state: &mut State<3>, rows: [&[Block]; LANES]) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::absorb(state, rows) }
    }

    #[inline(always)]
    fn absorb_steps(self, state: &mut State<3>, steps: &[[Block; LANES]]) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::absorb_steps(state, steps) }
    }

    #[inline(always)]
    fn powers(self, r: &Numbers<3>) -> [Numbers<3>; LANES] {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::powers(r) }
    }

    #[inline(always)]
    fn finish(self, state: &State<3>) -> [Block; LANES] {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::finish(state) }
    }
}

/// [`stream::seal`] as a function of this backend: what is inlined into it is compiled for the backend's instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn seal_groups(vector: Avx512, packets: &mut [Packet<'_>]) {
    stream::seal(vector, packets);
}

/// [`stream::open`], likewise.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn open_groups(vector: Avx512, packets: &mut [Packet<'_>]) {
    stream::open(vector, packets);
}

/// [`driver::tags`], likewise.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn tags_in_lanes(vector: Avx512, macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
    driver::tags(vector, macs, tags);
}

/// From four vectors of four 128-bit quarters to one of all first quarters, one
/// of all second quarters, and so on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma")]
fn quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (low, high) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
    let (low_end, high_end) = (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(low, low_end),
        _mm512_shuffle_i64x2::<0xdd>(low, low_end),
        _mm512_shuffle_i64x2::<0x88>(high, high_end),
        _mm512_shuffle_i64x2::<0xdd>(high, high_end),
    ]
}
