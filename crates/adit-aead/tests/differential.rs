//! Every backend against two libraries that take one packet at a time.

use adit_aead::{Backend, Key, Packet, TAG_LEN, open_with, seal_with};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20poly1305::aead::Aead;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use proptest::prelude::*;

/// What a packet is made of: which key, its counter, its text.
type Spec = (usize, u64, Vec<u8>);

#[test]
fn a_packet_of_every_length_is_sealed_and_opened_alike_alone_and_among_others() {
    let keys = [key(1), key(2)];
    for length in 0..=2048 {
        let text: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
        let counter = (length as u64) << 29 | 5;
        let alone = [(0, counter, text.clone())];
        check(&keys, &alone);
        // Among seven others of its length, and one of another length.
        let mut batch = vec![(0, counter + 1, text); 8];
        batch.insert(3, (1, counter, vec![3; (length * 5) % 300]));
        check(&keys, &batch);
    }
}

#[test]
fn batches_larger_than_any_group_are_sealed_and_opened_alike() {
    let keys = [key(3)];
    for (count, length) in [(63, 64), (64, 1440), (65, 0), (200, 100), (3, 65_519), (9, 9000)] {
        let batch: Vec<Spec> = (0..count).map(|i| (0, i as u64, vec![i as u8; length])).collect();
        check(&keys, &batch);
    }
    check(&keys, &[]);
}

#[test]
fn a_row_of_empty_packets_longer_than_any_group_is_sealed_and_opened_like_what_is_around_it() {
    let keys = [key(4)];
    for empty in [7, 8, 9, 15, 16, 17, 40] {
        let mut batch = vec![(0, 0, vec![1; 20_000])];
        batch.extend((1..=empty).map(|counter| (0, counter, Vec::new())));
        batch.push((0, empty + 1, vec![2; 20_000]));
        check(&keys, &batch);
    }
}

fn batches() -> impl Strategy<Value = Vec<Spec>> {
    let text = |lengths| prop::collection::vec(any::<u8>(), lengths);
    let any_length = (0..3_usize, any::<u64>(), text(0..=2048_usize));
    let short = (0..3_usize, any::<u64>(), text(0..=150));
    let long = (0..3_usize, any::<u64>(), text(1400..=1500));
    prop_oneof![
        prop::collection::vec(any_length.clone(), 1..=24),
        prop::collection::vec(short.clone(), 1..=24),
        prop::collection::vec(long, 1..=24),
        (any_length, prop::collection::vec(short, 0..=24), any::<prop::sample::Index>()).prop_map(
            |(one, mut batch, at)| {
                batch.insert(at.index(batch.len() + 1), one);
                batch
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mixed_batches_are_sealed_and_opened_alike(keys: [[u8; 32]; 3], batch in batches()) {
        check(&keys, &batch);
    }
}

/// Seals and opens with every backend what the libraries seal.
fn check(keys: &[[u8; 32]], batch: &[Spec]) {
    let expected: Vec<Vec<u8>> = batch.iter().map(|spec| sealed_by_both(keys, spec)).collect();
    let our_keys: Vec<Key> = keys.iter().copied().map(Key::new).collect();
    for backend in Backend::available() {
        let mut buffers: Vec<Vec<u8>> = batch.iter().map(|(.., text)| [&text[..], &[0xee; TAG_LEN]].concat()).collect();
        seal_with(backend, &mut packets(&our_keys, batch, &mut buffers));
        for (buffer, expected) in buffers.iter().zip(&expected) {
            assert_eq!(buffer, expected, "{backend:?}");
        }

        let mut received = packets(&our_keys, batch, &mut buffers);
        open_with(backend, &mut received);
        assert!(received.iter().all(Packet::is_authentic), "{backend:?}");
        for ((.., text), buffer) in batch.iter().zip(&buffers) {
            assert_eq!(buffer[..text.len()], text[..], "{backend:?}");
        }
    }
}

fn packets<'a>(keys: &'a [Key], batch: &[Spec], buffers: &'a mut [Vec<u8>]) -> Vec<Packet<'a>> {
    let packet = |((key, counter, _), buffer): (&Spec, &'a mut Vec<u8>)| {
        Packet::new(&keys[*key], *counter, buffer).expect("room for a tag")
    };
    batch.iter().zip(buffers).map(packet).collect()
}

fn sealed_by_both(keys: &[[u8; 32]], (key, counter, text): &Spec) -> Vec<u8> {
    let key = &keys[*key];
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());

    let cipher = ChaCha20Poly1305::new(key.into());
    let sealed = cipher.encrypt(&nonce.into(), &text[..]).expect("short enough");

    let cipher = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes"));
    let mut other = text.clone();
    let nonce = Nonce::assume_unique_for_key(nonce);
    cipher.seal_in_place_append_tag(nonce, Aad::empty(), &mut other).expect("short enough");
    assert_eq!(sealed, other, "the libraries disagree");
    sealed
}

fn key(seed: u8) -> [u8; 32] {
    std::array::from_fn(|i| (usize::from(seed) * 101 + i * 13) as u8)
}
