//! AVX-512 with IFMA.

mod chacha20;
mod poly1305;

use crate::TAG_LEN;
use crate::poly1305::{self as driver, Arithmetic, Block, LANES, Numbers, State};
use crate::stream::{KeyStream, Mac, Segment, Vector};

/// Proof that the CPU has the instructions of this backend.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `None` where an instruction is missing.
    pub(crate) fn detect() -> Option<Avx512> {
        #[cfg(feature = "std")]
        let detected = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512ifma");
        #[cfg(not(feature = "std"))]
        let detected = cfg!(all(
            target_feature = "avx512f",
            target_feature = "avx512bw",
            target_feature = "avx512dq",
            target_feature = "avx512vl",
            target_feature = "avx512ifma"
        ));
        detected.then_some(Avx512(()))
    }
}

impl Vector for Avx512 {
    fn key_stream(self, segments: &[Segment<'_>], out: &mut KeyStream) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { chacha20::key_stream(segments, out) }
    }

    fn xor(self, text: &mut [u8], stream: &[u8]) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { chacha20::xor(text, stream) }
    }

    fn tags(self, macs: &[Mac<'_>], tags: &mut [[u8; TAG_LEN]]) {
        driver::tags(self, macs, tags);
    }
}

impl Arithmetic<3> for Avx512 {
    fn begin(self, keys: [&[u8; 32]; LANES]) -> State<3> {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::begin(keys) }
    }

    fn absorb(self, state: &mut State<3>, rows: [&[Block]; LANES]) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::absorb(state, rows) }
    }

    fn absorb_steps(self, state: &mut State<3>, steps: &[[Block; LANES]]) {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::absorb_steps(state, steps) }
    }

    fn powers(self, r: &Numbers<3>) -> [Numbers<3>; LANES] {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::powers(r) }
    }

    fn finish(self, state: &State<3>) -> [Block; LANES] {
        // SAFETY: an `Avx512` exists only where `detect` found the features.
        unsafe { poly1305::finish(state) }
    }
}
