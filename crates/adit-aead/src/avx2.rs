//! AVX2.

pub(crate) mod chacha20;
mod poly1305;

use crate::TAG_LEN;
use crate::poly1305::{self as driver, Arithmetic, Block, LANES, Numbers, State};
use crate::stream::{KeyStream, Mac, Segment, Vector};

/// Proof that the CPU has the instructions of this backend.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `None` where an instruction is missing.
    pub(crate) fn detect() -> Option<Avx2> {
        #[cfg(feature = "std")]
        let detected = std::is_x86_feature_detected!("avx2");
        #[cfg(not(feature = "std"))]
        let detected = cfg!(target_feature = "avx2");
        detected.then_some(Avx2(()))
    }
}

impl Vector for Avx2 {
    fn key_stream(self, segments: &[Segment<'_>], out: &mut KeyStream) {
        // SAFETY: an `Avx2` exists only where `detect` found the feature.
        unsafe { chacha20::key_stream(segments, out) }
    }

    fn xor(self, text: &mut [u8], stream: &[u8]) {
        // SAFETY: an `Avx2` exists only where `detect` found the feature.
        unsafe { chacha20::xor(text, stream) }
    }

    fn tags(self, macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
        driver::tags(self, macs, tags);
    }
}

impl Arithmetic<5> for Avx2 {
    fn begin(self, keys: [&[u8; 32]; LANES]) -> State<5> {
        poly1305::begin(keys)
    }

    fn absorb(self, state: &mut State<5>, rows: [&[Block]; LANES]) {
        // SAFETY: an `Avx2` exists only where `detect` found the feature.
        unsafe { poly1305::absorb(state, rows) }
    }

    fn absorb_steps(self, state: &mut State<5>, steps: &[[Block; LANES]]) {
        // SAFETY: an `Avx2` exists only where `detect` found the feature.
        unsafe { poly1305::absorb_steps(state, steps) }
    }

    fn powers(self, r: &Numbers<5>) -> [Numbers<5>; LANES] {
        // SAFETY: an `Avx2` exists only where `detect` found the feature.
        unsafe { poly1305::powers(r) }
    }

    fn finish(self, state: &State<5>) -> [Block; LANES] {
        poly1305::finish(state)
    }
}
