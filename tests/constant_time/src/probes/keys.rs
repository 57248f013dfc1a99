//! Keys: read and written as text, compared, clamped, and the public half computed.

use adit::{PresharedKey, PrivateKey};

use super::{Allowed, Expected, Probe, bytes};
use crate::memcheck::{are_secret, classify, declassify};

/// Who gives us a text that is no key is told so.
const VALID: &str = "whether the text is a key at all";

pub(super) const PROBES: &[&Probe] = &[
    &Probe {
        name: "a key read from base64 and hex",
        run: || {
            for forms in [PrivateKey::from_bytes(bytes(1)), PrivateKey::from_bytes(bytes(200))] {
                let (base64, hex) = (forms.to_base64(), forms.to_hex());
                // Whether the last two characters are padding is asked openly, so for the last of the key's own, in
                // which four of its bits are, the probe would find what it is asked and not what it is.
                classify(&base64.as_bytes()[..42]);
                classify(hex.as_bytes());
                for key in [PrivateKey::from_base64(&base64), PrivateKey::from_hex(&hex)] {
                    assert!(are_secret(&key.expect("a key").as_bytes()[..31]));
                }
                for key in [PresharedKey::from_base64(&base64), PresharedKey::from_hex(&hex)] {
                    assert!(are_secret(&key.expect("a key").as_bytes()[..31]));
                }
            }
        },
        allowed: &[
            Allowed { place: "/src/encoding.rs", line: "if err == 0", why: VALID },
            Allowed { place: "/src/encoding.rs", line: "if block", why: VALID },
            Allowed { place: "adit/src/key.rs", line: "if wrong == 0", why: VALID },
        ],
        expected: Expected::Quiet,
    },
    &Probe {
        name: "a key written as base64 and hex",
        run: || {
            let key = PresharedKey::from_bytes(bytes(1));
            classify(key.as_bytes());
            assert!(are_secret(&key.to_base64().as_bytes()[..43]));
            assert!(are_secret(key.to_hex().as_bytes()));
        },
        allowed: &[],
        expected: Expected::Quiet,
    },
    &Probe {
        name: "two keys compared",
        run: || {
            let key = PrivateKey::from_bytes(bytes(1));
            classify(key.as_bytes());
            for other in [1, 2] {
                let is_equal = key == PrivateKey::from_bytes(bytes(other));
                assert!(are_secret(&[u8::from(is_equal)]));
            }
        },
        allowed: &[],
        expected: Expected::Quiet,
    },
    &Probe {
        name: "X25519: the public key of a private one",
        run: || {
            let secret = bytes(1);
            classify(&secret);
            let public = PrivateKey::from_bytes(secret).public_key();
            assert!(are_secret(public.as_bytes()));
            declassify(public.as_bytes());
        },
        allowed: &[],
        expected: Expected::Quiet,
    },
];
