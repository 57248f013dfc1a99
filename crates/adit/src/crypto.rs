//! The primitives of the paper (§5.4): the only file that names the crates they come from.

use blake2::Blake2s256;
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit as _, Update};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use hkdf::SimpleHkdf;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::key::{PrivateKey, PublicKey};

/// Length of an authentication tag, and of a MAC.
pub(crate) const TAG_LEN: usize = adit_aead::TAG_LEN;

pub(crate) type Hash = [u8; 32];
pub(crate) type Mac = [u8; 16];
pub(crate) type SharedSecret = Zeroizing<[u8; 32]>;

/// HASH: BLAKE2s over the concatenation of `parts`.
pub(crate) fn hash(parts: &[&[u8]]) -> Hash {
    let mut hasher = Blake2s256::new();
    for part in parts {
        Update::update(&mut hasher, part);
    }
    hasher.finalize_fixed().into()
}

/// MAC: keyed BLAKE2s with 16 bytes of output, over the concatenation of `parts`.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    // A key is refused only above 32 bytes; all of the protocol's have 16 or 32.
    let Ok(mut mac) = Blake2sMac::<U16>::new_from_slice(key) else { return Mac::default() };
    for part in parts {
        Update::update(&mut mac, part);
    }
    mac.finalize_fixed().into()
}

/// Whether two MACs are equal, in constant time.
pub(crate) fn mac_eq(a: &Mac, b: &Mac) -> bool {
    a.ct_eq(b).into()
}

/// KDF*n*: HKDF with HMAC-BLAKE2s, the chaining key as salt and no info.
pub(crate) fn kdf<const N: usize>(chaining_key: &[u8; 32], input: &[u8]) -> Zeroizing<[[u8; 32]; N]> {
    let mut output = Zeroizing::new([[0; 32]; N]);
    let expanded = SimpleHkdf::<Blake2s256>::new(Some(chaining_key), input).expand(&[], output.as_flattened_mut());
    debug_assert!(expanded.is_ok(), "HKDF gives up to 255 blocks, the protocol asks for three");
    output
}

/// DH: the shared secret, or `None` for a public key of small order, whose secret is all zeros.
pub(crate) fn dh(private: &PrivateKey, public: &PublicKey) -> Option<SharedSecret> {
    imp::dh(private.as_bytes(), public.as_bytes())
}

/// The public key of a clamped private key.
pub(crate) fn public_key(private: &[u8; 32]) -> [u8; 32] {
    imp::public_key(private)
}

/// AEAD with counter 0: encrypts `text` in place and returns the tag.
pub(crate) fn seal(key: &[u8; 32], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
    seal_with(&ChaCha20Poly1305::new(key.into()), &[0; 12], aad, text)
}

/// AEAD with counter 0: decrypts `text` in place if `tag` proves it, else leaves it as it is.
#[must_use]
pub(crate) fn open(key: &[u8; 32], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
    ChaCha20Poly1305::new(key.into()).decrypt_inout_detached(&[0; 12].into(), aad, text.into(), tag.into()).is_ok()
}

/// XAEAD: as [`seal`], with a random nonce of 24 bytes.
pub(crate) fn xseal(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
    seal_with(&XChaCha20Poly1305::new(key.into()), nonce, aad, text)
}

/// XAEAD: as [`open`], with a random nonce of 24 bytes.
#[must_use]
pub(crate) fn xopen(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
    XChaCha20Poly1305::new(key.into()).decrypt_inout_detached(nonce.into(), aad, text.into(), tag.into()).is_ok()
}

fn seal_with<A, const N: usize>(cipher: &A, nonce: &[u8; N], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN]
where
    A: AeadInOut<TagSize = U16>,
    for<'a> &'a chacha20poly1305::aead::Nonce<A>: From<&'a [u8; N]>,
{
    // Sealing is refused only above 256 GiB.
    cipher.encrypt_inout_detached(nonce.into(), aad, text.into()).map_or([0; TAG_LEN], Into::into)
}

#[cfg(not(feature = "aws-lc-rs"))]
mod imp {
    use x25519_dalek::{PublicKey, StaticSecret};
    use zeroize::Zeroizing;

    pub(super) fn dh(private: &[u8; 32], public: &[u8; 32]) -> Option<super::SharedSecret> {
        let secret = StaticSecret::from(*private).diffie_hellman(&PublicKey::from(*public));
        secret.was_contributory().then(|| Zeroizing::new(secret.to_bytes()))
    }

    pub(super) fn public_key(private: &[u8; 32]) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(*private)).to_bytes()
    }
}

#[cfg(feature = "aws-lc-rs")]
mod imp {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
    use aws_lc_rs::error::Unspecified;
    use zeroize::Zeroizing;

    pub(super) fn dh(private: &[u8; 32], public: &[u8; 32]) -> Option<super::SharedSecret> {
        let private = PrivateKey::from_private_key(&X25519, private).ok()?;
        agree(&private, UnparsedPublicKey::new(&X25519, public), Unspecified, |secret| {
            let mut copy = Zeroizing::new([0; 32]);
            copy.copy_from_slice(secret.get(..32).ok_or(Unspecified)?);
            Ok(copy)
        })
        .ok()
    }

    pub(super) fn public_key(private: &[u8; 32]) -> [u8; 32] {
        // AWS-LC takes every string of 32 bytes for an X25519 private key.
        let public = PrivateKey::from_private_key(&X25519, private).ok().and_then(|key| key.compute_public_key().ok());
        public.and_then(|key| key.as_ref().try_into().ok()).unwrap_or_default()
    }
}
