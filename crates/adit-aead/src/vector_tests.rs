//! The backends against the documents that define what they do.
//!
//! Published vectors have nonces of all 96 bits and associated data, which no packet of WireGuard's has. In tests a
//! packet can have both, and all backends take such nonces; associated data is taken by the portable backend, and by
//! the vector backends below the level of packets, where their primitives are put together for it.

#[cfg(target_arch = "x86_64")]
mod authenticator;
#[cfg(target_arch = "x86_64")]
mod cipher;
mod packets;
#[cfg(target_arch = "x86_64")]
mod wycheproof;

use crate::Packet;

/// What a packet has in these tests only.
#[derive(Clone, Copy)]
pub(crate) struct Beyond<'a> {
    nonce_head: u32,
    associated_data: &'a [u8],
}

impl Beyond<'_> {
    pub(crate) const NOTHING: Beyond<'static> = Beyond { nonce_head: 0, associated_data: &[] };
}

impl<'a> Packet<'a> {
    /// In place of four zero bytes, the first word of the nonce.
    pub(crate) fn nonce_head(&self) -> u32 {
        self.beyond.nonce_head
    }

    /// In place of none.
    pub(crate) fn associated_data(&self) -> &'a [u8] {
        self.beyond.associated_data
    }
}

/// Runs the block once for each backend that the CPU supports.
#[cfg(target_arch = "x86_64")]
macro_rules! for_every_vector {
    ($vector:ident => $block:block) => {
        if let Some($vector) = crate::avx512::Avx512::detect() $block
        if let Some($vector) = crate::avx2::Avx2::detect() $block
    };
}

#[cfg(target_arch = "x86_64")]
use for_every_vector;

/// Bytes from hexadecimal digits, between which there may be spaces.
#[cfg(target_arch = "x86_64")]
fn hex<const N: usize>(digits: &str) -> [u8; N] {
    let digits: std::vec::Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    assert_eq!(digits.len(), 2 * N);
    core::array::from_fn(|i| {
        let pair = core::str::from_utf8(&digits[2 * i..2 * i + 2]).unwrap();
        u8::from_str_radix(pair, 16).unwrap()
    })
}

/// The words of a 96-bit nonce.
#[cfg(target_arch = "x86_64")]
fn nonce_words(nonce: &[u8; 12]) -> [u32; 3] {
    core::array::from_fn(|i| u32::from_le_bytes(*nonce[4 * i..].first_chunk().unwrap()))
}
