//! The clock's view, in the manner of dudect: two classes of inputs in random order, and Welch's t-test on the times.
//!
//! It sees what valgrind cannot run (AVX-512) and what valgrind does not look for (instructions that take longer for
//! some operands). It proves nothing: a small |t| says that nothing was found with so many samples on this machine.

use std::hint::black_box;

use adit::{PresharedKey, PrivateKey};
use adit_aead::{Backend, Key, Packet, TAG_LEN, open_with, seal_with};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

const SAMPLES: usize = 200_000;
/// Texts that are worked on at once, with room for a tag each.
type Texts<const COUNT: usize, const LEN: usize> = [[u8; LEN]; COUNT];

/// Measures everything and prints a row for each.
pub(crate) fn all() {
    println!("{:>8}  {:>9}  {:>9}  what, and its two classes", "|t|", "cycles", "samples");
    controls();
    for backend in Backend::available() {
        // Each takes another way through the vector backends: by itself, few blocks in one run of key stream, twice as
        // many, a group with a run for each few packets, and long ones.
        cipher::<1, { 150 + TAG_LEN }>(backend);
        cipher::<8, { 64 + TAG_LEN }>(backend);
        cipher::<4, { 256 + TAG_LEN }>(backend);
        cipher::<8, { 256 + TAG_LEN }>(backend);
        cipher::<8, { 1_440 + TAG_LEN }>(backend);
    }
    keys();
}

fn controls() {
    let mut bytes = [0; 64];
    compare(
        "control, must be large: == of 64 bytes; they differ in the first or in the last",
        SAMPLES,
        |class, _| {
            bytes = [7; 64];
            bytes[if class { 0 } else { 63 }] ^= 1;
            bytes
        },
        |bytes| bytes.iter().all(|&byte| black_box(byte) == 7),
    );
    let mut random = [0; 64];
    compare(
        "control, must be small: == of 64 bytes; both differ in the first",
        SAMPLES,
        |_, rng| {
            rng.fill_bytes(&mut random);
            random[0] = 1;
            random
        },
        |bytes| bytes.iter().all(|&byte| black_box(byte) == 7),
    );
}

fn cipher<const COUNT: usize, const LEN: usize>(backend: Backend) {
    let work = |work: fn(Backend, &mut [Packet<'_>]), key: &Key, texts: &mut Texts<COUNT, LEN>| {
        let numbered = texts.iter_mut().enumerate();
        let mut packets = numbered.map(|(i, bytes)| Packet::new(key, i as u64, bytes).expect("room"));
        let mut packets: [Packet<'_>; COUNT] = std::array::from_fn(|_| packets.next().expect("one a text"));
        work(backend, &mut packets);
        packets.iter().filter(|packet| packet.is_authentic()).count()
    };
    let what = format!("{backend:?}, {COUNT} of {} bytes", LEN - TAG_LEN);
    compare(
        &format!("{what}, seal; key and text fixed or random"),
        SAMPLES,
        |class, rng| {
            let key = Key::new(key(class, rng));
            (key, texts(class, rng))
        },
        |(key, texts)| work(seal_with, key, texts),
    );
    compare(
        &format!("{what}, open; key and text fixed or random, tags right"),
        SAMPLES,
        |class, rng| {
            let (key, mut texts) = (Key::new(key(class, rng)), texts(class, rng));
            work(seal_with, &key, &mut texts);
            (key, texts)
        },
        |(key, texts)| work(open_with, key, texts),
    );
    compare(
        &format!("{what}, open; tags wrong in the first or in the last byte"),
        SAMPLES,
        |class, _| {
            let (key, mut texts) = (Key::new([9; 32]), [[0; LEN]; COUNT]);
            work(seal_with, &key, &mut texts);
            texts.iter_mut().for_each(|text| text[if class { LEN - TAG_LEN } else { LEN - 1 }] ^= 1);
            (key, texts)
        },
        |(key, texts)| work(open_with, key, texts),
    );
}

fn keys() {
    compare(
        "keys, ==; they differ in the first or in the last byte",
        SAMPLES,
        |class, _| {
            let mut bytes = [9; 32];
            bytes[if class { 0 } else { 31 }] ^= 1;
            (PresharedKey::from_bytes(bytes), PresharedKey::from_bytes([9; 32]))
        },
        |(key, other)| key == other,
    );
    compare("keys, to base64; fixed or random", SAMPLES, preshared, |key| key.to_base64());
    compare("keys, to hex; fixed or random", SAMPLES, preshared, |key| key.to_hex());
    compare(
        "keys, from base64; fixed or random",
        SAMPLES,
        |class, rng| preshared(class, rng).to_base64(),
        |text| PresharedKey::from_base64(text),
    );
    compare(
        "keys, from hex; fixed or random",
        SAMPLES,
        |class, rng| preshared(class, rng).to_hex(),
        |text| PresharedKey::from_hex(text),
    );
    compare(
        "X25519, public key; private one fixed or random",
        SAMPLES / 10,
        |class, rng| PrivateKey::from_bytes(key(class, rng)),
        |key| key.public_key(),
    );
}

fn preshared(class: bool, rng: &mut ChaCha8Rng) -> PresharedKey {
    PresharedKey::from_bytes(key(class, rng))
}

/// The bytes of a key.
fn key(class: bool, rng: &mut ChaCha8Rng) -> [u8; 32] {
    let mut key = [0; 32];
    fill(&mut key, 3, class, rng);
    black_box(key)
}

fn texts<const COUNT: usize, const LEN: usize>(class: bool, rng: &mut ChaCha8Rng) -> Texts<COUNT, LEN> {
    let mut texts = [[0; LEN]; COUNT];
    fill(texts.as_flattened_mut(), 5, class, rng);
    black_box(texts)
}

/// Fills `bytes` with this one, each time for one class, or at random. The work is the same, down to the addresses that
/// are read: what is still on its way to the caches when the clock starts is the same, too.
fn fill(bytes: &mut [u8], fixed: u8, class: bool, rng: &mut ChaCha8Rng) {
    rng.fill_bytes(bytes);
    let random = black_box(u8::from(class).wrapping_neg());
    bytes.iter_mut().for_each(|byte| *byte = (*byte & random) | (fixed & !random));
}

/// Times `operation` on inputs of both classes in random order, and prints a row.
fn compare<I, O>(
    name: &str,
    samples: usize,
    mut input: impl FnMut(bool, &mut ChaCha8Rng) -> I,
    mut operation: impl FnMut(&mut I) -> O,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut times: Vec<(bool, u64)> = Vec::with_capacity(samples);
    for i in 0..samples + samples / 10 {
        let class = rng.next_u32() & 1 == 1;
        let mut input = black_box(input(class, &mut rng));
        let begin = cycles();
        black_box(operation(&mut input));
        let end = cycles();
        // What comes before caches and predictors are warm does not count.
        if i >= samples / 10 {
            times.push((class, end - begin));
        }
    }
    let mut sorted: Vec<u64> = times.iter().map(|&(_, time)| time).collect();
    sorted.sort_unstable();
    // What lasts longest was interrupted: look with several cuts, and take the worst.
    let cuts = [50, 75, 90, 99].map(|percent| sorted[sorted.len() * percent / 100]);
    let t = cuts.map(|cut| welch_t(times.iter().filter(|(_, time)| *time <= cut)).abs());
    let worst = t.into_iter().fold(0.0, f64::max);
    println!("{worst:8.2}  {:9}  {samples:9}  {name}", sorted[sorted.len() / 2]);
}

/// Welch's t for the times of two classes: how many standard errors their means are apart.
fn welch_t<'a>(times: impl Iterator<Item = &'a (bool, u64)>) -> f64 {
    // For each class: how many, their mean, and the sum of squared distances from it.
    let mut classes = [(0.0, 0.0, 0.0); 2];
    for &(class, time) in times {
        let (count, mean, squares) = &mut classes[usize::from(class)];
        *count += 1.0;
        let distance = time as f64 - *mean;
        *mean += distance / *count;
        *squares += distance * (time as f64 - *mean);
    }
    let [(n, mean, squares), (other_n, other_mean, other_squares)] = classes;
    let error = squares / (n - 1.0) / n + other_squares / (other_n - 1.0) / other_n;
    if error > 0.0 { (mean - other_mean) / error.sqrt() } else { 0.0 }
}

fn cycles() -> u64 {
    use core::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 has both instructions.
    unsafe {
        _mm_lfence();
        let now = _rdtsc();
        _mm_lfence();
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_is_that_of_the_textbook() {
        // Means 2 and 5, variances 1 and 4: (2 - 5) / sqrt(1/3 + 4/3).
        let times = [(true, 1), (true, 2), (true, 3), (false, 3), (false, 5), (false, 7)];
        assert!((welch_t(times.iter()) - 3.0 / (5.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(welch_t([(true, 4), (true, 4), (false, 4), (false, 4)].iter()), 0.0);
    }
}
