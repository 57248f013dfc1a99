//! ChaCha20.

use std::vec::Vec;

use proptest::prelude::*;

use super::{for_every_vector, hex, nonce_words};
use crate::short::Rows;
use crate::stream::{BLOCK_LEN, FEW, KeyStream, LANES, Segment, Vector};

#[test]
fn the_block_function_gives_the_blocks_of_rfc_8439() {
    /// Key, nonce, counter, block.
    type Known = ([u8; 32], [u8; 12], u32, [u8; 64]);
    // Section 2.3.2, then appendix A.1, vectors 1 to 5.
    let vectors: [Known; 6] = [
        (
            core::array::from_fn(|i| i as u8),
            hex("000000090000004a00000000"),
            1,
            hex("10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e
                 d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"),
        ),
        (
            [0; 32],
            [0; 12],
            0,
            hex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7
                 da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"),
        ),
        (
            [0; 32],
            [0; 12],
            1,
            hex("9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed
                 29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"),
        ),
        (
            core::array::from_fn(|i| u8::from(i == 31)),
            [0; 12],
            1,
            hex("3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a
                 8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"),
        ),
        (
            core::array::from_fn(|i| if i == 1 { 0xff } else { 0 }),
            [0; 12],
            2,
            hex("72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca
                 13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"),
        ),
        (
            [0; 32],
            hex("000000000000000000000002"),
            0,
            hex("c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7
                 8a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d"),
        ),
    ];
    for_every_vector!(vector => {
        for (key, nonce, counter, block) in &vectors {
            let segment = Segment { key, nonce: nonce_words(nonce), counter: *counter, blocks: 1, packet: 0 };
            is_alone_and_in_the_last_lane::<FEW>(vector, segment, block);
            is_alone_and_in_the_last_lane::<LANES>(vector, segment, block);
        }
    });
}

fn is_alone_and_in_the_last_lane<const BLOCKS: usize>(vector: impl Vector, segment: Segment<'_>, block: &[u8; 64]) {
    let mut stream = KeyStream::<BLOCKS>::new();
    vector.key_stream(&[segment], &mut stream);
    assert_eq!(stream.0[0], *block);
    let before = Segment { key: &[7; 32], nonce: [8; 3], counter: 9, blocks: BLOCKS - 1, packet: 0 };
    vector.key_stream(&[before, segment], &mut stream);
    assert_eq!(stream.0[BLOCKS - 1], *block);
}

#[test]
fn a_short_packet_by_itself_has_the_blocks_of_the_others() {
    let key = core::array::from_fn(|i| i as u8);
    // A block number that passes 2^32 on the way, to catch a backend that adds wrongly.
    let segment = Segment { key: &key, nonce: [1, 2, 3], counter: u32::MAX - 1, blocks: 1, packet: 0 };
    let check = |blocks: &[[u8; BLOCK_LEN]]| {
        for (i, given) in blocks.iter().enumerate() {
            assert_eq!(*given, block(&key, segment.counter.wrapping_add(i as u32), segment.nonce), "block {i}");
        }
    };
    if let Some(vector) = crate::avx512::Avx512::detect() {
        let mut stream = KeyStream::new();
        vector.key_stream_in_rows(&segment, &mut stream);
        check(&stream.0);
    }
    if let Some(vector) = crate::avx2::Avx2::detect() {
        let mut stream = KeyStream::new();
        vector.key_stream_in_rows(&segment, &mut stream);
        check(&stream.0);
    }
}

/// Segments that need not fill all lanes: key, nonce, counter, blocks.
fn segments() -> impl Strategy<Value = Vec<(usize, [u32; 3], u32, usize)>> {
    let segment = (0..3_usize, any::<[u32; 3]>(), any::<u32>(), 1..LANES);
    prop::collection::vec(segment, 1..LANES).prop_map(|mut segments| {
        let mut left = LANES;
        segments.retain_mut(|segment| {
            segment.3 = segment.3.min(left);
            left -= segment.3;
            segment.3 > 0
        });
        segments
    })
}

proptest! {
    #[test]
    fn each_lane_has_its_own_key_nonce_and_counter(
        keys: [[u8; 32]; 3],
        segments in segments(),
    ) {
        for_every_vector!(vector => {
            let segments: Vec<Segment<'_>> = segments
                .iter()
                .map(|&(key, nonce, counter, blocks)| Segment { key: &keys[key], nonce, counter, blocks, packet: 0 })
                .collect();
            let mut stream = KeyStream::<LANES>::new();
            vector.key_stream(&segments, &mut stream);
            let mut lanes = stream.0.iter();
            for segment in &segments {
                for i in 0..segment.blocks {
                    let counter = segment.counter.wrapping_add(i as u32);
                    let expected = block(segment.key, counter, segment.nonce);
                    prop_assert_eq!(lanes.next().unwrap(), &expected);
                }
            }
        });
    }

    #[test]
    fn xor_changes_a_text_as_far_as_it_and_the_stream_go_and_nothing_behind(
        text in prop::collection::vec(any::<u8>(), 0..=LANES * BLOCK_LEN),
        stream in prop::collection::vec(any::<[u8; BLOCK_LEN]>(), 0..=LANES),
        behind in prop::collection::vec(any::<u8>(), 2 * BLOCK_LEN),
    ) {
        for_every_vector!(vector => {
            let mut changed = [text.as_slice(), &behind].concat();
            vector.xor(&mut changed[..text.len()], &stream);
            let zeros = core::iter::repeat(&0);
            let expected = text.iter().zip(stream.as_flattened().iter().chain(zeros)).map(|(a, b)| a ^ b);
            let expected: Vec<u8> = expected.chain(behind.iter().copied()).collect();
            prop_assert_eq!(changed, expected);
        });
    }
}

/// A block as section 2.3 of RFC 8439 describes it.
fn block(key: &[u8; 32], counter: u32, nonce: [u32; 3]) -> [u8; BLOCK_LEN] {
    let mut initial = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, counter, 0, 0, 0];
    for (word, bytes) in initial[4..12].iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    initial[13..].copy_from_slice(&nonce);
    let mut x = initial;
    let mut quarter_round = |a: usize, b: usize, c: usize, d: usize| {
        for (left_d, left_b) in [(16, 12), (8, 7)] {
            x[a] = x[a].wrapping_add(x[b]);
            x[d] = (x[d] ^ x[a]).rotate_left(left_d);
            x[c] = x[c].wrapping_add(x[d]);
            x[b] = (x[b] ^ x[c]).rotate_left(left_b);
        }
    };
    for _ in 0..10 {
        for i in 0..4 {
            quarter_round(i, 4 + i, 8 + i, 12 + i);
        }
        for i in 0..4 {
            quarter_round(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
        }
    }
    let words = core::array::from_fn::<_, 16, _>(|i| x[i].wrapping_add(initial[i]));
    core::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4])
}
