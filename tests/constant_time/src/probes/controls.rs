//! Leaks that were put in, which must be found, and code without any, which must not.

use std::hint::black_box;

use super::{Expected, Probe, bytes};
use crate::memcheck::classify;

pub(super) const PROBES: &[&Probe] = &[
    &Probe {
        name: "control: a branch on a secret is found",
        run: || {
            let secret: [u8; 32] = bytes(1);
            classify(&secret);
            black_box(branches(black_box(&secret)));
        },
        allowed: &[],
        expected: Expected::Leak("branches"),
    },
    &Probe {
        name: "control: an address from a secret is found",
        run: || {
            let secret: [u8; 32] = bytes(1);
            classify(&secret);
            black_box(looks_up(black_box(&secret), black_box(&bytes(3))));
        },
        allowed: &[],
        expected: Expected::Leak("looks_up"),
    },
    &Probe {
        name: "control: a comparison that ends at the first difference is found",
        run: || {
            let secret: [u8; 32] = bytes(1);
            classify(&secret);
            black_box(compares(black_box(&secret), black_box(&bytes(3))));
        },
        allowed: &[],
        expected: Expected::Leak("compares"),
    },
    &Probe {
        name: "control: masks and sums of a secret are no finding",
        run: || {
            let secret: [u8; 32] = bytes(1);
            classify(&secret);
            let mixed = mixes(black_box(&secret));
            assert!(crate::memcheck::are_secret(&mixed.to_le_bytes()), "what comes of a secret is secret");
        },
        allowed: &[],
        expected: Expected::Quiet,
    },
];

#[inline(never)]
fn branches(secret: &[u8; 32]) -> u32 {
    let mut steps = 0;
    for &byte in secret {
        if byte > 9 {
            steps = black_box(steps + 1);
        }
    }
    steps
}

#[inline(never)]
fn looks_up(secret: &[u8; 32], table: &[u8; 256]) -> u8 {
    secret.iter().fold(0, |sum, &byte| sum ^ table[usize::from(byte)])
}

#[inline(never)]
fn compares(secret: &[u8; 32], other: &[u8; 32]) -> bool {
    secret.iter().zip(other).all(|(a, b)| black_box(*a) == black_box(*b))
}

#[inline(never)]
fn mixes(secret: &[u8; 32]) -> u64 {
    secret.iter().fold(0, |sum: u64, &byte| sum.rotate_left(5).wrapping_add(u64::from(byte) & 0x7f) ^ (sum >> 9))
}
