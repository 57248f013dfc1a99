//! The vector backends' primitives against the documents that define them.
//!
//! Below the level of packets a nonce has all its 96 bits and there may be associated data, so published vectors apply
//! that could not be WireGuard packets.

mod authenticator;
mod cipher;
mod wycheproof;

/// Runs the block once for each backend that the CPU supports.
macro_rules! for_every_vector {
    ($vector:ident => $block:block) => {
        if let Some($vector) = crate::avx512::Avx512::detect() $block
        if let Some($vector) = crate::avx2::Avx2::detect() $block
    };
}

use for_every_vector;

/// Bytes from hexadecimal digits, between which there may be spaces.
fn hex<const N: usize>(digits: &str) -> [u8; N] {
    let digits: std::vec::Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    assert_eq!(digits.len(), 2 * N);
    core::array::from_fn(|i| {
        let pair = core::str::from_utf8(&digits[2 * i..2 * i + 2]).unwrap();
        u8::from_str_radix(pair, 16).unwrap()
    })
}

/// The words of a 96-bit nonce.
fn nonce_words(nonce: &[u8; 12]) -> [u32; 3] {
    core::array::from_fn(|i| u32::from_le_bytes(*nonce[4 * i..].first_chunk().unwrap()))
}
