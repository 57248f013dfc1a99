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
mod rfc_8439;
#[cfg(target_arch = "x86_64")]
mod wycheproof;

use crate::Packet;
#[cfg(target_arch = "x86_64")]
use crate::stream::{BLOCK_LEN, KeyStream, LANES, Mac, Segment, Vector};

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

/// The construction of RFC 8439, section 2.8, out of a backend's primitives.
#[cfg(target_arch = "x86_64")]
fn seal(
    vector: impl Vector,
    key: &[u8; 32],
    nonce: [u32; 3],
    aad: &[u8],
    text: &[u8],
) -> (std::vec::Vec<u8>, [u8; 16]) {
    let mut stream = KeyStream::<LANES>::new();
    vector.key_stream(&[Segment { key, nonce, counter: 0, blocks: 1, packet: 0 }], &mut stream);
    let authenticator_key: [u8; 32] = *stream.0[0].first_chunk().unwrap();

    let mut ciphertext = text.to_vec();
    for (i, part) in ciphertext.chunks_mut(LANES * BLOCK_LEN).enumerate() {
        let counter = (1 + i * LANES) as u32;
        let blocks = part.len().div_ceil(BLOCK_LEN);
        vector.key_stream(&[Segment { key, nonce, counter, blocks, packet: 0 }], &mut stream);
        vector.xor(part, &stream.0);
    }

    let mut authenticated = aad.to_vec();
    authenticated.resize(aad.len().next_multiple_of(16), 0);
    authenticated.extend(&ciphertext);
    let last = (aad.len() as u128 | (text.len() as u128) << 64).to_le_bytes();
    let mut tags = [[0; 16]];
    vector.tags(&[Mac { key: &authenticator_key, text: &authenticated, last }], &mut tags);
    (ciphertext, tags[0])
}
