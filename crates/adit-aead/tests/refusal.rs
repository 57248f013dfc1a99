//! What is not authentic is refused, and stays as it came.

use adit_aead::{Backend, Key, Packet, TAG_LEN, open, open_with, seal, seal_with};

const COUNTER: u64 = 0x0102_0304_0506_0708;

/// Batch sizes and text lengths that together take every code path of a backend.
const SHAPES: [(usize, usize); 9] =
    [(1, 0), (1, 16), (1, 100), (8, 64), (9, 64), (1, 1420), (8, 1420), (17, 700), (2, 5000)];

#[test]
fn a_flipped_bit_anywhere_is_refused_and_changes_nothing_for_the_others() {
    let key = Key::new([0x42; 32]);
    for backend in Backend::available() {
        for (count, length) in SHAPES {
            let sealed = sealed(&key, count, length);
            let plain = opened(backend, &key, &sealed);
            for victim in [0, count / 2, count - 1] {
                for (byte, bit) in bits(length) {
                    let mut forged = sealed.clone();
                    forged[victim][byte] ^= 1 << bit;
                    let mut buffers = forged.clone();
                    let authentic = open_all(backend, &key, &mut buffers);
                    for i in 0..count {
                        let expected = if i == victim { &forged[i] } else { &plain[i] };
                        let place = format!("{backend:?}, {count} of {length}, bit {bit} of {byte}");
                        assert_eq!(authentic[i], i != victim, "{place}");
                        assert_eq!(&buffers[i], expected, "{place}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_of_nothing_but_forgeries_stays_as_it_came() {
    let key = Key::new([0x42; 32]);
    for backend in Backend::available() {
        for (count, length) in SHAPES {
            let mut forged = sealed(&key, count, length);
            for buffer in &mut forged {
                buffer[length + 3] ^= 0x80;
            }
            let mut buffers = forged.clone();
            assert_eq!(open_all(backend, &key, &mut buffers), vec![false; count]);
            assert_eq!(buffers, forged);
        }
    }
}

#[test]
fn another_key_or_counter_or_length_is_refused() {
    let key = Key::new([0x42; 32]);
    let other_key = Key::new([0x43; 32]);
    for backend in Backend::available() {
        for (_, length) in SHAPES {
            let sealed = sealed(&key, 1, length).remove(0);
            let refuses = |key: &Key, counter: u64, bytes: &[u8]| {
                let mut buffer = bytes.to_vec();
                let mut packets = [Packet::new(key, counter, &mut buffer).unwrap()];
                open_with(backend, &mut packets);
                !packets[0].is_authentic() && buffer == bytes
            };
            assert!(!refuses(&key, COUNTER, &sealed));
            assert!(refuses(&other_key, COUNTER, &sealed));
            for bit in 0..64 {
                assert!(refuses(&key, COUNTER ^ 1 << bit, &sealed));
            }
            if length > 0 {
                assert!(refuses(&key, COUNTER, &sealed[1..]));
                assert!(refuses(&key, COUNTER, &sealed[..length + TAG_LEN - 1]));
            }
            assert!(refuses(&key, COUNTER, &[&sealed[..], &[0]].concat()));
            // The tag of a text is not that of the text padded with a zero.
            assert!(refuses(&key, COUNTER, &[&sealed[..length], &[0], &sealed[length..]].concat()));
        }
    }
}

#[test]
fn a_packet_is_not_authentic_before_it_is_opened() {
    let key = Key::new([0x42; 32]);
    let mut buffer = [7; 48];
    let mut packets = [Packet::new(&key, COUNTER, &mut buffer).unwrap()];
    assert!(!packets[0].is_authentic());
    seal(&mut packets);
    assert!(!packets[0].is_authentic());
    open(&mut packets);
    assert!(packets[0].is_authentic());
}

#[test]
fn fewer_bytes_than_a_tag_are_no_packet() {
    let key = Key::new([0x42; 32]);
    let mut buffer = [0; TAG_LEN];
    for length in 0..TAG_LEN {
        assert!(Packet::new(&key, 0, &mut buffer[..length]).is_none());
    }
    assert!(Packet::new(&key, 0, &mut buffer).is_some());
}

#[test]
fn neither_keys_nor_texts_are_shown() {
    let key = Key::new([0xab; 32]);
    let mut buffer = [0xcd; 40];
    let packet = Packet::new(&key, 3, &mut buffer).unwrap();
    let shown = format!("{key:?} {packet:?}");
    for secret in ["171", "205", "ab", "cd"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// A bit in each kind of place: in every byte of the tag, and in the text at the ends, on both sides of a block's edge,
/// and in the middle.
fn bits(length: usize) -> Vec<(usize, u32)> {
    let places = [0, 1, 15, 16, 63, 64, length / 2, 511, 512, 1023, 1024, length.wrapping_sub(1)];
    let mut places: Vec<usize> = places.into_iter().filter(|&place| place < length).collect();
    places.extend(length..length + TAG_LEN);
    places.into_iter().map(|place| (place, place as u32 * 5 % 8)).collect()
}

fn sealed(key: &Key, count: usize, length: usize) -> Vec<Vec<u8>> {
    let mut buffers: Vec<Vec<u8>> =
        (0..count).map(|i| (0..length + TAG_LEN).map(|j| (i * 3 + j) as u8).collect()).collect();
    seal_with(Backend::Portable, &mut packets(key, &mut buffers));
    buffers
}

fn opened(backend: Backend, key: &Key, sealed: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut buffers = sealed.to_vec();
    assert!(open_all(backend, key, &mut buffers).into_iter().all(|authentic| authentic));
    buffers
}

fn open_all(backend: Backend, key: &Key, buffers: &mut [Vec<u8>]) -> Vec<bool> {
    let mut packets = packets(key, buffers);
    open_with(backend, &mut packets);
    packets.iter().map(Packet::is_authentic).collect()
}

fn packets<'a>(key: &'a Key, buffers: &'a mut [Vec<u8>]) -> Vec<Packet<'a>> {
    let packet = |(i, buffer): (usize, &'a mut Vec<u8>)| Packet::new(key, COUNTER + i as u64, buffer);
    buffers.iter_mut().enumerate().filter_map(packet).collect()
}
