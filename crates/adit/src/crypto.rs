//! The primitives of the paper (§5.4): the only file that names the crates they come from.

use blake2::Blake2s256;
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit as _, Update};
use chacha20::{R20, hchacha};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::AeadInOut;
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
    *secret_hash(parts)
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
    let key = hmac(chaining_key, input, &[]);
    let mut output = Zeroizing::new([[0; 32]; N]);
    let mut previous = Zeroizing::new([0; 32]);
    for (number, block) in (1..=u8::MAX).zip(output.iter_mut()) {
        let before: &[u8] = if number == 1 { &[] } else { &*previous };
        let next = hmac(&key, before, &[number]);
        *block = *next;
        previous = next;
    }
    output
}

/// HMAC-BLAKE2s of two parts. The crates that offer it leave padded keys in memory, which would give session keys away.
fn hmac(key: &[u8; 32], first: &[u8], second: &[u8]) -> Zeroizing<[u8; 32]> {
    const INNER: u8 = 0x36;
    const OUTER: u8 = 0x5c;
    let mut pad = Zeroizing::new([INNER; 64]);
    pad.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
    let inner = secret_hash(&[&*pad, first, second]);
    pad.iter_mut().for_each(|pad| *pad ^= INNER ^ OUTER);
    secret_hash(&[&*pad, &*inner])
}

/// As [`hash`], where both the parts and the result are secret.
fn secret_hash(parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = Blake2s256::new();
    for part in parts {
        Update::update(&mut hasher, part);
    }
    let mut output = Zeroizing::new([0; 32]);
    FixedOutput::finalize_into(hasher, (&mut *output).into());
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
    seal_with(key, &[0; 12], aad, text)
}

/// AEAD with counter 0: decrypts `text` in place if `tag` proves it, else leaves it as it is.
#[must_use]
pub(crate) fn open(key: &[u8; 32], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
    open_with(key, &[0; 12], aad, text, tag)
}

/// XAEAD: as [`seal`], with a random nonce of 24 bytes.
pub(crate) fn xseal(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
    let (key, nonce) = extended(key, nonce);
    seal_with(&key, &nonce, aad, text)
}

/// XAEAD: as [`open`], with a random nonce of 24 bytes.
#[must_use]
pub(crate) fn xopen(key: &[u8; 32], nonce: &[u8; 24], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
    let (key, nonce) = extended(key, nonce);
    open_with(&key, &nonce, aad, text, tag)
}

/// The key and the nonce of the AEAD within the XAEAD (draft-irtf-cfrg-xchacha, §2.3).
fn extended(key: &[u8; 32], nonce: &[u8; 24]) -> (Zeroizing<[u8; 32]>, [u8; 12]) {
    let mut input = [0; 16];
    let mut inner_nonce = [0; 12];
    let (begin, end) = nonce.split_at(input.len());
    input.copy_from_slice(begin);
    inner_nonce.split_at_mut(4).1.copy_from_slice(end);
    (Zeroizing::new(hchacha::<R20>(key.into(), &input.into()).into()), inner_nonce)
}

fn seal_with(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
    imp::seal(key, nonce, aad, text).unwrap_or_else(|| {
        // Sealing is refused only above 256 GiB, or without memory. What is not encrypted must not go out.
        text.fill(0);
        [0; TAG_LEN]
    })
}

fn open_with(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
    // Of the two libraries, this is the one that verifies before it decrypts.
    ChaCha20Poly1305::new(key.into()).decrypt_inout_detached(nonce.into(), aad, text.into(), tag.into()).is_ok()
}

#[cfg(not(feature = "aws-lc-rs"))]
mod imp {
    use chacha20poly1305::aead::AeadInOut;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
    use x25519_dalek::{PublicKey, StaticSecret};
    use zeroize::Zeroizing;

    pub(super) fn seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> Option<[u8; super::TAG_LEN]> {
        ChaCha20Poly1305::new(key.into()).encrypt_inout_detached(nonce.into(), aad, text.into()).ok().map(Into::into)
    }

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
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
    use aws_lc_rs::error::Unspecified;
    use zeroize::Zeroizing;

    pub(super) fn seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> Option<[u8; super::TAG_LEN]> {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).ok()?);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        key.seal_in_place_separate_tag(nonce, Aad::from(aad), text).ok()?.as_ref().try_into().ok()
    }

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

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    /// Wiping is an optional feature of these libraries, off by default.
    #[test]
    fn the_libraries_wipe_the_keys_that_they_are_given() {
        fn wipes<T: zeroize::ZeroizeOnDrop>() {}
        wipes::<ChaCha20Poly1305>();
        wipes::<Blake2sMac<U16>>();
        wipes::<blake2::Blake2sVarCore>();
    }

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn hex32(text: &str) -> [u8; 32] {
        hex(text).try_into().unwrap()
    }

    fn secret(private: &str, public: &str) -> Option<[u8; 32]> {
        let private = PrivateKey::from_bytes(hex32(private));
        dh(&private, &PublicKey::from_bytes(hex32(public))).map(|secret| *secret)
    }

    #[test]
    fn x25519_gives_what_rfc_7748_says() {
        // §5.2: scalar, u-coordinate, output.
        let table = [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
        ];
        for (scalar, point, output) in table {
            assert_eq!(secret(scalar, point), Some(hex32(output)));
        }
    }

    #[test]
    fn two_keys_agree_on_a_secret_as_rfc_7748_says() {
        // §6.1: Alice, Bob, and their secret.
        let alice = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        let bob = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
        let alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        let bob_public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
        let shared = hex32("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        for (private, public, other) in [(alice, alice_public, bob_public), (bob, bob_public, alice_public)] {
            assert_eq!(PrivateKey::from_bytes(hex32(private)).public_key().as_bytes(), &hex32(public));
            assert_eq!(secret(private, other), Some(shared));
        }
    }

    #[test]
    fn a_public_key_of_small_order_makes_no_secret() {
        let private = PrivateKey::from_bytes([0x42; 32]);
        // The points of order 1, 2, 4 and 8, and numbers that are equal to them modulo 2^255 - 19.
        let points = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for point in points {
            assert!(dh(&private, &PublicKey::from_bytes(hex32(point))).is_none(), "{point}");
        }
    }

    #[test]
    fn hash_gives_what_rfc_7693_says() {
        // Appendix B.
        let abc = hex32("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
        assert_eq!(hash(&[b"abc"]), abc);
        assert_eq!(hash(&[b"a", b"", b"bc"]), abc, "parts make no difference");
    }

    #[test]
    fn mac_is_blake2s_with_a_key_and_sixteen_bytes_of_output() {
        // Computed by CPython's hashlib, which is made from the reference implementation.
        let key: [u8; 32] = core::array::from_fn(|at| at as u8);
        let text: [u8; 100] = core::array::from_fn(|at| at as u8);
        assert_eq!(mac(&key[..16], &[&text]).to_vec(), hex("56301549e674c3b72a0e1dafb7a2c620"));
        assert_eq!(mac(&key, &[&text[..7], &text[7..]]).to_vec(), hex("0b67d33f8b859c3157fbabd9e6e47ed0"));
        assert_eq!(mac(&key, &[]).to_vec(), hex("9536f9b267655743dee97b8a670f9f53"));
    }

    #[test]
    fn kdf_is_hkdf_with_hmac_blake2s() {
        // Computed by CPython's hmac and hashlib.
        let chaining_key = core::array::from_fn(|at| at as u8);
        let input: [u8; 32] = core::array::from_fn(|at| 32 + at as u8);
        let expected = ["6a96444e20e8d4c1cee974416acae1c10b3c92886010e54ed94dafb2c3b80ea0"];
        assert_eq!(*kdf(&chaining_key, &input), expected.map(hex32));
        let expected = [
            "7a38c34bf2b8738d7374ca77c44ecb309a11d2b2528304fa86052c365e722624",
            "1a17621f346abdc520746a9fb64d8eb03231d674fc15687537b0780fd9c060fd",
        ];
        assert_eq!(*kdf(&chaining_key, &[]), expected.map(hex32));
        let input: [u8; 32] = core::array::from_fn(|at| 64 + at as u8);
        let expected = [
            "a308e29d3a10567bd1ac089e27310bd54ec6522ca2118240c3dd2416f7dc23fa",
            "c68caa124476385ed5f83d7aa98ebe58c9b636f48586d36061cf3781cc84b9a7",
            "089a9e4090ac20caaafab1a1e6d221242a8f1f547f4c2aea31d6312858451388",
        ];
        assert_eq!(*kdf(&chaining_key, &input), expected.map(hex32));
    }

    #[test]
    fn the_handshakes_cipher_is_chacha20_poly1305_with_counter_zero() {
        // Computed by OpenSSL.
        let key = core::array::from_fn(|at| 0x80 + at as u8);
        let aad: [u8; 32] = core::array::from_fn(|at| at as u8);
        let mut text: Vec<u8> = (0..12).collect();
        let tag = seal(&key, &aad, &mut text);
        assert_eq!([&text[..], &tag].concat(), hex("2a5d18ae3a5fe8ccc5382ff402dc9cb96e640e11dc3f286c159a3afc"));
        assert_eq!(seal(&key, &aad, &mut []).to_vec(), hex("e99b39388a414f9ac93ad8146d1e84ff"));
        let mut other = tag;
        other[15] ^= 1;
        assert!(!open(&key, &aad, &mut text, &other) && !open(&key, &aad[1..], &mut text, &tag));
        assert!(open(&key, &aad, &mut text, &tag));
        assert_eq!(text, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn the_cookies_cipher_is_xchacha20_poly1305() {
        // draft-irtf-cfrg-xchacha, appendix A.3.1.
        let key = core::array::from_fn(|at| 0x80 + at as u8);
        let nonce = core::array::from_fn(|at| 0x40 + at as u8);
        let aad = hex("50515253c0c1c2c3c4c5c6c7");
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it.";
        let mut text = plain.to_vec();
        let tag = xseal(&key, &nonce, &aad, &mut text);
        let expected = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda\
            7e39ae64c6708c54c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921\
            f9664c97637da9768812f615c68b13b52e";
        assert_eq!(text, hex(expected));
        assert_eq!(tag.to_vec(), hex("c0875924c1c7987947deafd8780acf49"));
        assert!(xopen(&key, &nonce, &aad, &mut text, &tag));
        assert_eq!(text, plain);
    }
}
