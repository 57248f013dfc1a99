//! Sealing and opening with each backend that valgrind can run.

use adit_aead::{Backend, Key, Packet, TAG_LEN, open_with, seal_with};

use super::{Allowed, Expected, Probe, bytes};
use crate::memcheck::{are_secret, classify, declassify};

/// Whether a tag is right is told to whoever sent the packet, by whether we take it.
const VERDICT: &str = "whether a packet is authentic, which shows in what becomes of it";

pub(super) const PROBES: &[&Probe] = &[
    &Probe {
        name: "the cipher, AVX2",
        run: || cipher(Backend::Avx2),
        allowed: &[
            Allowed { place: "adit-aead/src/stream.rs", line: "self.wanted[", why: VERDICT },
            Allowed { place: "adit-aead/src/few.rs", line: "if packet.authentic", why: VERDICT },
            Allowed { place: "adit-aead/src/short.rs", line: "if packet.authentic", why: VERDICT },
            Allowed { place: "adit-aead/src/avx2/long.rs", line: "if !packets[i].authentic", why: VERDICT },
        ],
        expected: Expected::Quiet,
    },
    &Probe {
        name: "the cipher, portable",
        run: || cipher(Backend::Portable),
        allowed: &[
            #[cfg(feature = "aws-lc-rs")]
            Allowed { place: "/e_chacha20poly1305.c", line: "chacha20_poly1305_open_gather", why: VERDICT },
            Allowed { place: "/src/cipher.rs", line: "if self.mac", why: VERDICT },
        ],
        expected: Expected::Quiet,
    },
];

/// Lengths of the texts of a batch, so chosen that every way through the backends is taken: packets of a length side
/// by side, mixed ones, each with one run of key stream and with several, a long one among short ones, long ones,
/// single ones, and each rest of a block.
const BATCHES: &[&[usize]] = &[
    &[64; 8],
    &[0, 1, 15, 16, 17, 63, 64, 65],
    &[1440, 16, 33, 0],
    &[300; 8],
    &[1440, 300, 16, 33, 0, 64, 65, 17],
    &[1440; 9],
    &[1440, 1420, 700, 2048, 513],
    &[40],
    &[700],
    &[1440],
    &[5000],
];

/// What is secret: one alone, since either makes secret what comes of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secret {
    Key,
    Texts,
}

fn cipher(backend: Backend) {
    assert!(backend.is_available(), "{backend:?} does not run here");
    for lengths in BATCHES {
        for secret in [Secret::Key, Secret::Texts] {
            seals_and_opens(backend, secret, lengths, 1);
            if let [length] = lengths {
                seals_and_opens(backend, secret, &[*length], 0);
            }
        }
    }
}

/// Every third packet from this one on is forged.
fn seals_and_opens(backend: Backend, secret: Secret, lengths: &[usize], first_forged: usize) {
    let secret_key: [u8; 32] = bytes(7);
    if secret == Secret::Key {
        classify(&secret_key);
    }
    let keys = [Key::new(secret_key), Key::new(bytes(8))];
    let mut packets: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0x5a; length + TAG_LEN]).collect();
    if secret == Secret::Texts {
        for packet in &packets {
            classify(text(packet));
        }
    }

    seal_with(backend, &mut batch(&keys, &mut packets));
    let has_key = |i: usize| i.is_multiple_of(2);
    for (i, packet) in packets.iter().enumerate() {
        let expected = if secret == Secret::Key { has_key(i) } else { lengths[i] > 0 };
        assert_eq!(are_secret(packet), expected, "{secret:?}: packet {i} of {lengths:?}, sealed");
    }
    // They go to the network, where some are forged.
    for packet in &packets {
        declassify(packet);
    }
    for packet in packets.iter_mut().skip(first_forged).step_by(3) {
        packet[lengths.len() % TAG_LEN] ^= 1;
    }
    open_with(backend, &mut batch(&keys, &mut packets));
    let is_forged = |i: usize| i >= first_forged && (i - first_forged).is_multiple_of(3);
    // Of an empty text nothing can be said.
    for (i, packet) in packets.iter().enumerate().filter(|(i, _)| lengths[*i] > 0) {
        // What is forged is left as it came.
        let expected = secret == Secret::Key && has_key(i) && !is_forged(i);
        assert_eq!(are_secret(text(packet)), expected, "{secret:?}: packet {i} of {lengths:?}, opened");
    }
}

/// Without the tag.
fn text(packet: &[u8]) -> &[u8] {
    &packet[..packet.len() - TAG_LEN]
}

/// The packets, under two keys in turn, of which the first may be secret.
fn batch<'a>(keys: &'a [Key; 2], packets: &'a mut [Vec<u8>]) -> Vec<Packet<'a>> {
    let numbered = packets.iter_mut().enumerate();
    numbered.map(|(i, bytes)| Packet::new(&keys[i % 2], i as u64, bytes).expect("room for a tag")).collect()
}
