//! ChaCha20-Poly1305 as WireGuard uses it, over batches of packets.
//!
//! A transport packet is sealed under a session key with a 64-bit counter as
//! its nonce (four zero bytes, then the counter in little endian) and without
//! associated data. Packets come in bursts, and a CPU's vector lanes are best
//! filled by different packets, so [`seal`] and [`open`] take a whole burst:
//! any number of packets, of any lengths, under any keys.
//!
//! ```
//! use adit_aead::{Key, Packet, TAG_LEN, open, seal};
//!
//! let key = Key::new([7; 32]);
//! let mut first = *b"two packets, sealed as one batch................";
//! let mut second = *b"of any lengths................";
//! seal(&mut [
//!     Packet::new(&key, 0, &mut first).unwrap(),
//!     Packet::new(&key, 1, &mut second).unwrap(),
//! ]);
//!
//! second[0] ^= 1;
//! let mut received = [
//!     Packet::new(&key, 0, &mut first).unwrap(),
//!     Packet::new(&key, 1, &mut second).unwrap(),
//! ];
//! open(&mut received);
//! assert!(received[0].is_authentic());
//! assert!(!received[1].is_authentic());
//! assert_eq!(&first[..first.len() - TAG_LEN], b"two packets, sealed as one batch");
//! ```
//!
//! # What the caller must do
//!
//! - Never seal two packets with the same key and counter.
//! - Look at [`Packet::is_authentic`] after [`open`]; a packet that is not
//!   authentic is left as it came.
//! - Check a counter against replays; this crate does not.
//!
//! # Backends
//!
//! The fastest [`Backend`] that the CPU has is taken at run time: AVX-512 with IFMA, AVX2, or one packet at a time
//! through a library (AWS-LC with the feature `aws-lc-rs`, the `chacha20poly1305` crate otherwise). Before its first
//! use a backend is tested with known answers, and passed over if it does not give them. Tags are computed over the
//! ciphertext first, and only packets whose tags are right are decrypted (AWS-LC decrypts while it verifies, but into a
//! buffer of its own, which is wiped). No branch and no address depends on a key, on a text, or on how much of a tag is
//! right; lengths, counters, and which packets share a key are not secret here.
//!
//! The texts of that test lie on the stack: the first [`seal`] or [`open`] takes about 4 KiB more of it than others do,
//! and 6 KiB more where a vector backend is tested. In all it takes, in a release build for x86-64, 11 KiB with the
//! `chacha20poly1305` crate, 20 KiB with AVX2 and 18 KiB with AVX-512.
//!
//! Batches of eight and more make the best use of a backend. A batch mixed from long and short packets is fine; so is a
//! single packet.

#![no_std]
#![deny(missing_docs)]

#[cfg(any(feature = "std", test))]
extern crate std;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
#[cfg(target_arch = "x86_64")]
mod features;
#[cfg(target_arch = "x86_64")]
mod few;
mod known_answers;
#[cfg(target_arch = "x86_64")]
mod poly1305;
mod portable;
#[cfg(target_arch = "x86_64")]
mod rounds;
#[cfg(target_arch = "x86_64")]
mod scalar;
#[cfg(target_arch = "x86_64")]
mod short;
#[cfg(target_arch = "x86_64")]
mod stream;
#[cfg(test)]
mod vector_tests;
#[cfg(test)]
mod wiping_tests;

use core::fmt;

use zeroize::Zeroize;

pub use backend::Backend;
#[doc(hidden)]
pub use backend::{open_with, seal_with};

/// Length of the authentication tag that ends every packet.
pub const TAG_LEN: usize = 16;

/// What one nonce has key stream for: the block counter has 32 bits, and block 0 makes the authenticator's key. A text
/// must be shorter.
const MAX_TEXT_LEN: u64 = (u32::MAX as u64) * 64;

/// Encrypts and authenticates each packet in place, and writes its tag.
///
/// # Panics
///
/// If no backend gives the known answers on this machine, or if the library that seals a packet fails, for which no
/// reason is known: what it leaves in place of the text must not be sent.
pub fn seal(packets: &mut [Packet<'_>]) {
    seal_with(Backend::best_for(packets), packets);
}

/// Verifies each packet's tag, and decrypts in place those that are authentic.
///
/// The others are left as they came; [`Packet::is_authentic`] tells them apart.
///
/// # Panics
///
/// If no backend gives the known answers on this machine.
pub fn open(packets: &mut [Packet<'_>]) {
    open_with(Backend::best_for(packets), packets);
}

/// A session key for one direction.
#[derive(Clone)]
pub struct Key {
    bytes: [u8; 32],
    #[cfg(feature = "aws-lc-rs")]
    prepared: portable::PreparedKey,
}

impl Key {
    /// Takes the 32 bytes that the handshake derived.
    pub fn new(mut bytes: [u8; 32]) -> Key {
        let key = Key {
            bytes,
            #[cfg(feature = "aws-lc-rs")]
            prepared: portable::PreparedKey::default(),
        };
        bytes.zeroize();
        key
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// One packet of a batch: its text and tag in the caller's buffer, and what it
/// is sealed or opened with.
pub struct Packet<'a> {
    key: &'a Key,
    counter: u64,
    text: &'a mut [u8],
    tag: &'a mut [u8; TAG_LEN],
    authentic: bool,
    /// What published vectors have, and no packet of WireGuard's.
    #[cfg(test)]
    beyond: vector_tests::Beyond<'a>,
}

impl<'a> Packet<'a> {
    /// Describes a packet in `bytes`: the text, then [`TAG_LEN`] bytes of tag.
    ///
    /// `None` when `bytes` is too short for a tag, or longer than one nonce can
    /// encrypt (256 GiB).
    pub fn new(key: &'a Key, counter: u64, bytes: &'a mut [u8]) -> Option<Packet<'a>> {
        let text_len = text_len(bytes.len() as u64)?;
        let (text, tag) = bytes.split_at_mut_checked(text_len as usize)?;
        Some(Packet {
            key,
            counter,
            text,
            tag: tag.try_into().ok()?,
            authentic: false,
            #[cfg(test)]
            beyond: vector_tests::Beyond::NOTHING,
        })
    }

    /// Whether [`open`] found the tag to be right; `false` before.
    pub fn is_authentic(&self) -> bool {
        self.authentic
    }

    /// The 96-bit nonce: four zero bytes, then the counter in little endian.
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.nonce_head().to_le_bytes());
        nonce[4..].copy_from_slice(&self.counter.to_le_bytes());
        nonce
    }

    #[cfg(not(test))]
    fn nonce_head(&self) -> u32 {
        0
    }

    #[cfg(not(test))]
    fn associated_data(&self) -> &'a [u8] {
        &[]
    }
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("counter", &self.counter)
            .field("text_len", &self.text.len())
            .field("authentic", &self.authentic)
            .finish_non_exhaustive()
    }
}

/// How long the text of so long a packet is; `None` where that is too short for a tag, or too long for one nonce.
const fn text_len(packet_len: u64) -> Option<u64> {
    match packet_len.checked_sub(TAG_LEN as u64) {
        Some(len) if len < MAX_TEXT_LEN => Some(len),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shorter_than_the_key_stream_of_one_nonce() {
        // Blocks 1 to 2^32 - 1; the one after them would be block 0 again.
        let key_stream = ((1 << 32) - 1) * 64;
        for (packet_len, expected) in [
            (0, None),
            (15, None),
            (16, Some(0)),
            (17, Some(1)),
            (key_stream + 15, Some(key_stream - 1)),
            (key_stream + 16, None),
            (key_stream + 17, None),
            (u64::MAX, None),
        ] {
            assert_eq!(text_len(packet_len), expected, "{packet_len}");
        }
    }
}
