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
/// by side, mixed ones, a long one among short ones, long ones, single ones, and each rest of a block.
const BATCHES: &[&[usize]] = &[
    &[64; 8],
    &[0, 1, 15, 16, 17, 63, 64, 65],
    &[1440, 16, 33, 0],
    &[1440; 9],
    &[1440, 1420, 700, 2048, 513],
    &[40],
    &[700],
    &[1440],
    &[5000],
];

fn cipher(backend: Backend) {
    assert!(backend.is_available(), "{backend:?} does not run here");
    for lengths in BATCHES {
        seals_and_opens(backend, lengths, 1);
        if let [length] = lengths {
            seals_and_opens(backend, &[*length], 0);
        }
    }
}

/// Every third packet from this one on is forged.
fn seals_and_opens(backend: Backend, lengths: &[usize], first_forged: usize) {
    let secret_key: [u8; 32] = bytes(7);
    classify(&secret_key);
    let keys = [Key::new(secret_key), Key::new(bytes(8))];
    let mut packets: Vec<Vec<u8>> = lengths.iter().map(|length| vec![0x5a; length + TAG_LEN]).collect();
    for packet in &packets {
        classify(packet);
    }

    seal_with(backend, &mut batch(&keys, &mut packets));
    for (i, packet) in packets.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        let (text, tag) = packet.split_at(packet.len() - TAG_LEN);
        assert!(are_secret(tag) && are_secret(text), "packet {i} has nothing of the key in it");
    }
    // They go to the network, where some are forged.
    for packet in &packets {
        declassify(packet);
    }
    for packet in packets.iter_mut().skip(first_forged).step_by(3) {
        packet[lengths.len() % TAG_LEN] ^= 1;
    }
    open_with(backend, &mut batch(&keys, &mut packets));
    let first = &packets[0];
    let is_opened = first_forged > 0;
    assert_eq!(are_secret(&first[..first.len() - TAG_LEN]), is_opened, "opened with the key, or left as it came");
}

/// The packets, under two keys in turn, of which the first is secret.
fn batch<'a>(keys: &'a [Key; 2], packets: &'a mut [Vec<u8>]) -> Vec<Packet<'a>> {
    let numbered = packets.iter_mut().enumerate();
    numbered.map(|(i, bytes)| Packet::new(&keys[i % 2], i as u64, bytes).expect("room for a tag")).collect()
}
