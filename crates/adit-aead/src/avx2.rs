//! AVX2.

pub(crate) mod chacha20;
mod long;
mod poly1305;
pub(crate) mod rows;

use crate::features::features;
use crate::poly1305::{self as driver, Arithmetic, Block, LANES, Numbers, State};
use crate::scalar::Scalar;
use crate::short::{self, Rows};
use crate::stream::{self, BLOCK_LEN, KeyStream, Mac, Segment, Vector};
use crate::{Packet, TAG_LEN};

features!("avx2", "bmi2");

/// Proof that the CPU has the instructions of this backend.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `None` where an instruction is missing.
    pub(crate) fn detect() -> Option<Avx2> {
        has_features().then_some(Avx2(()))
    }

    /// See [`crate::seal`].
    pub(crate) fn seal(self, packets: &mut [Packet<'_>]) {
        match packets {
            [packet] if packet.text.len() <= short::max_len(rows::BLOCKS) => short::seal(self, packet),
            packets if long::is_for(packets) => long::seal(self, packets),
            // SAFETY: an `Avx2` exists only where `detect` found the features.
            packets => unsafe { seal_groups(self, packets) },
        }
    }

    /// See [`crate::open`].
    pub(crate) fn open(self, packets: &mut [Packet<'_>]) {
        match packets {
            [packet] if packet.text.len() <= short::max_len(rows::BLOCKS) => short::open(self, packet),
            packets if long::is_for(packets) => long::open(self, packets),
            // SAFETY: an `Avx2` exists only where `detect` found the features.
            packets => unsafe { open_groups(self, packets) },
        }
    }

    /// As [`Vector::key_stream`] for eight blocks at most, and authenticates
    /// other blocks meanwhile.
    fn key_stream_beside(
        self,
        segment: &Segment<'_>,
        out: &mut KeyStream<{ chacha20::LANES }>,
        mac: &mut Scalar,
        blocks: &[Block],
    ) {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { chacha20::key_stream_beside(segment, out, mac, blocks) }
    }
}

impl Vector for Avx2 {
    #[inline(always)]
    fn key_stream<const BLOCKS: usize>(self, segments: &[Segment<'_>], out: &mut KeyStream<BLOCKS>) {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { chacha20::key_stream(segments, &mut out.0) }
    }

    #[inline(always)]
    fn xor(self, text: &mut [u8], stream: &[[u8; BLOCK_LEN]]) {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { chacha20::xor(text, stream) }
    }

    #[inline(always)]
    fn tags(self, macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { tags_in_lanes(self, macs, tags) }
    }
}

impl Rows<{ rows::BLOCKS }> for Avx2 {
    fn key_stream_in_rows(self, segment: &Segment<'_>, out: &mut KeyStream<{ rows::BLOCKS }>) {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { rows::key_stream(segment, &mut out.0) }
    }
}

impl Arithmetic<5> for Avx2 {
    #[inline(always)]
    fn begin(self, keys: [&[u8; 32]; LANES]) -> State<5> {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { poly1305::begin(keys) }
    }

    #[inline(always)]
    fn absorb(self, state: &mut State<5>, rows: [&[Block]; LANES]) {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { poly1305::absorb(state, rows) }
    }

    #[inline(always)]
    fn absorb_steps(self, state: &mut State<5>, steps: &[[Block; LANES]]) {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { poly1305::absorb_steps(state, steps) }
    }

    #[inline(always)]
    fn powers(self, r: &Numbers<5>) -> [Numbers<5>; LANES] {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { poly1305::powers(r) }
    }

    #[inline(always)]
    fn finish(self, state: &State<5>) -> [Block; LANES] {
        // SAFETY: an `Avx2` exists only where `detect` found the features.
        unsafe { poly1305::finish(state) }
    }
}

/// [`stream::seal`] as a function of this backend: what is inlined into it is compiled for the backend's instructions.
#[target_feature(enable = "avx2")]
fn seal_groups(vector: Avx2, packets: &mut [Packet<'_>]) {
    stream::seal(vector, packets);
}

/// [`stream::open`], likewise.
#[target_feature(enable = "avx2")]
fn open_groups(vector: Avx2, packets: &mut [Packet<'_>]) {
    stream::open(vector, packets);
}

/// [`driver::tags`], likewise.
#[target_feature(enable = "avx2")]
fn tags_in_lanes(vector: Avx2, macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
    driver::tags(vector, macs, tags);
}
