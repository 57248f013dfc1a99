//! Keys: wiped when dropped, never shown by `Debug`, compared in constant time.

use alloc::string::String;
use core::fmt;

use base64ct::{Base64, Encoding};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto;
use crate::error::KeyError;

/// Length of every key in bytes.
pub const KEY_LEN: usize = 32;

/// A Curve25519 private key, clamped. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LEN]);

/// A Curve25519 public key: a peer's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

/// A symmetric key shared by two peers beforehand. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; KEY_LEN]);

impl PrivateKey {
    /// A new key from the caller's random generator.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(*bytes)
    }

    /// The key in `bytes`, clamped as Curve25519 asks (RFC 7748, §5).
    pub fn from_bytes(mut bytes: [u8; KEY_LEN]) -> Self {
        bytes[0] &= 0b1111_1000;
        bytes[31] = bytes[31] & 0b0111_1111 | 0b0100_0000;
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The public key that belongs to this private key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(crypto::public_key(&self.0))
    }

    /// The secret bytes; it is up to the caller to keep them secret.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PublicKey {
    /// The key in `bytes`.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PresharedKey {
    /// A new key from the caller's random generator.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut key = Self([0; KEY_LEN]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The key in `bytes`.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The secret bytes; it is up to the caller to keep them secret.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key of a peer without a preshared key (paper, §5.2): all zeros.
    pub(crate) const fn zero() -> Self {
        Self([0; KEY_LEN])
    }
}

macro_rules! text_forms {
    ($key:ident, $string:ty, $wrap:expr) => {
        impl $key {
            /// The key from the 44 characters of base64 that `wg(8)` writes.
            ///
            /// # Errors
            /// [`KeyError::Base64`] for anything else.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                Ok(Self::from_bytes(*decode_base64(text)?))
            }

            /// The key from the 64 hexadecimal digits of the UAPI.
            ///
            /// # Errors
            /// [`KeyError::Hex`] for anything else.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                Ok(Self::from_bytes(*decode_hex(text)?))
            }

            /// The key as `wg(8)` writes it: 44 characters of base64.
            pub fn to_base64(&self) -> $string {
                $wrap(Base64::encode_string(&self.0))
            }

            /// The key as the UAPI writes it: 64 hexadecimal digits.
            pub fn to_hex(&self) -> $string {
                $wrap(encode_hex(&self.0))
            }
        }
    };
}

text_forms!(PrivateKey, Zeroizing<String>, Zeroizing::new);
text_forms!(PresharedKey, Zeroizing<String>, Zeroizing::new);
text_forms!(PublicKey, String, core::convert::identity);

macro_rules! secret {
    ($key:ident) => {
        impl PartialEq for $key {
            /// In constant time.
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $key {}

        impl fmt::Debug for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($key), "(redacted)"))
            }
        }
    };
}

secret!(PrivateKey);
secret!(PresharedKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl core::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_base64(text)
    }
}

fn decode_base64(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    match Base64::decode(text, &mut *bytes) {
        Ok(decoded) if decoded.len() == KEY_LEN => Ok(bytes),
        _ => Err(KeyError::Base64 { found: text.chars().count() }),
    }
}

/// Arithmetic in place of tables and branches, so that timing tells nothing of the digits.
fn decode_hex(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let error = KeyError::Hex { found: text.chars().count() };
    if text.len() != 2 * KEY_LEN {
        return Err(error);
    }
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    let mut wrong = 0;
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
        let (high, bad_high) = nibble(digits[0]);
        let (low, bad_low) = nibble(digits[1]);
        wrong |= bad_high | bad_low;
        *byte = high << 4 | low;
    }
    if wrong == 0 { Ok(bytes) } else { Err(error) }
}

/// The value of a hexadecimal digit, and a byte that is not zero if this is no such digit.
fn nibble(digit: u8) -> (u8, u8) {
    let digit = i16::from(digit);
    let lower = digit | 0x20;
    // 0 where the range holds the digit, else -1.
    let is_number = ((digit - 0x30) | (0x39 - digit)) >> 15;
    let is_letter = ((lower - 0x61) | (0x66 - lower)) >> 15;
    let number = !is_number & (digit - 0x30);
    let letter = !is_letter & (lower - 0x61 + 10);
    (((number | letter) & 0xf) as u8, (is_number & is_letter) as u8)
}

fn encode_hex(bytes: &[u8; KEY_LEN]) -> String {
    // 0x27 leads from '9' + 1 to 'a'; the shift is all ones where the nibble is above 9.
    let digit = |nibble: u8| {
        let nibble = i16::from(nibble);
        // Hidden from the optimizer, which would make a branch of the mask.
        let is_letter = core::hint::black_box((9 - nibble) >> 15);
        (0x30 + nibble + (is_letter & 0x27)) as u8 as char
    };
    let mut text = String::with_capacity(2 * KEY_LEN);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 0xf));
    }
    text
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    const BYTES: [u8; 32] = [
        0x00, 0x01, 0x09, 0x0a, 0x0f, 0x10, 0x7f, 0x80, 0x99, 0x9a, 0xa0, 0xaf, 0xf0, 0xf9, 0xfa, 0xff, 0x00, 0x11,
        0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x41,
    ];

    #[test]
    fn hex_is_that_of_the_standard_formatter() {
        let expected: String = BYTES.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(PublicKey::from_bytes(BYTES).to_hex(), expected);
        assert_eq!(PublicKey::from_hex(&expected).unwrap().as_bytes(), &BYTES);
        assert_eq!(PublicKey::from_hex(&expected.to_uppercase()).unwrap().as_bytes(), &BYTES);
    }

    #[test]
    fn a_character_that_is_no_hex_digit_is_refused_wherever_it_stands() {
        let good = PublicKey::from_bytes(BYTES).to_hex();
        for place in 0..64 {
            for wrong in ['g', '/', ':', '@', 'G', '`', ' ', '\0', '\x7f'] {
                let mut text = String::from(&good[..place]);
                text.push(wrong);
                text.push_str(&good[place + 1..]);
                assert_eq!(PublicKey::from_hex(&text), Err(KeyError::Hex { found: 64 }));
            }
        }
    }

    #[test]
    fn base64_has_44_characters_and_nothing_else_is_read() {
        let key = PublicKey::from_bytes([0xff; 32]);
        assert_eq!(key.to_base64(), "//////////////////////////////////////////8=");
        assert_eq!(PublicKey::from_base64(&key.to_base64()), Ok(key));
        for wrong in
            ["", "AAAA", "//////////////////////////////////////////8", "//////////////////////////////////////////9="]
        {
            assert_eq!(PublicKey::from_base64(wrong), Err(KeyError::Base64 { found: wrong.len() }));
        }
    }

    #[test]
    fn a_private_key_is_clamped() {
        let key = PrivateKey::from_bytes([0xff; 32]);
        assert_eq!((key.as_bytes()[0], key.as_bytes()[31]), (0xf8, 0x7f));
        assert_eq!(PrivateKey::from_bytes([0; 32]).as_bytes()[31], 0x40);
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", PrivateKey::from_bytes(BYTES)), "PrivateKey(redacted)");
        assert_eq!(format!("{:?}", PresharedKey::from_bytes(BYTES)), "PresharedKey(redacted)");
    }
}
