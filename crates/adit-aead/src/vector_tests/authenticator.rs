//! Poly1305: RFC 8439, sums at the edges of the modulus, and a plain reckoning
//! with long numbers for everything else.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::for_every_vector;
use crate::scalar::Scalar;
use crate::stream::{Mac, Vector};

#[test]
fn whole_blocks_give_the_tags_of_rfc_8439() {
    // Appendix A.3, vectors 1 and 5 to 11. (In the others the message ends within a block; what a packet's tag is made
    // from never does.)
    const ONES: u128 = u128::MAX;
    let cases: [(u128, u128, &[u128], u128); 8] = [
        (0, 0, &[0; 4], 0),
        (2, 0, &[ONES], 3),
        (2, ONES, &[2], 3),
        (1, 0, &[ONES, ONES - 0x0f, 0x11], 5),
        (1, 0, &[ONES, 0xfefe_fefe_fefe_fefe_fefe_fefe_fefe_fefb, 0x0101_0101_0101_0101_0101_0101_0101_0101], 0),
        (2, 0, &[ONES - 2], ONES - 5),
        (1 | 4 << 64, 0, &[0xb943_5e50_d794_35e3, 1 << 64 | 0xcd79_435e_50d7_9433, 0, 1], 0x55 << 64 | 0x14),
        (1 | 4 << 64, 0, &[0xb943_5e50_d794_35e3, 1 << 64 | 0xcd79_435e_50d7_9433, 0], 0x13),
    ];
    for (r, s, message, tag) in cases {
        check(r, s, message, Some(tag.to_le_bytes()));
    }
}

#[test]
fn sums_around_the_modulus_are_reduced() {
    // With r = 1 the sum is that of the blocks, each with 2^128 added. Four
    // blocks make it pass 2^130, three can come as near to it as one likes.
    for s in [0, u128::MAX] {
        for count in 1..=9 {
            for near in [0, 4, 5, 6] {
                for block in [near, u128::MAX - near] {
                    for others in [0, u128::MAX] {
                        let mut message = vec![others; count];
                        message[count / 2] = block;
                        check(1, s, &message, None);
                    }
                }
            }
        }
    }
}

#[test]
fn the_largest_limbs_do_not_overflow() {
    for count in [1, 2, 7, 8, 9, 15, 16, 17, 62] {
        check(u128::MAX, u128::MAX, &vec![u128::MAX; count], None);
    }
}

/// Bytes that are often all ones or all zeros.
fn bytes(length: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(any::<u8>(), length), 0..4_u8).prop_map(|(mut bytes, kind)| {
        match kind {
            0 => bytes.fill(0xff),
            1 => bytes.fill(0),
            _ => {}
        }
        bytes
    })
}

/// Packets of all lengths, or of one, or one long one among short ones.
fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop_oneof![
        prop::collection::vec(bytes(0..=2048), 1..=20),
        prop::collection::vec(bytes(0..=130), 1..=20),
        (0..=600_usize, 1..=20_usize).prop_flat_map(|(length, count)| prop::collection::vec(bytes(length), count)),
        (bytes(1000..=2048), prop::collection::vec(bytes(0..=40), 0..=20)).prop_map(|(long, mut texts)| {
            texts.insert(texts.len() / 2, long);
            texts
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn batches_of_any_texts_have_the_tags_that_long_numbers_give(
        texts in texts(),
        keys in prop::collection::vec(bytes(32), 21),
        last: [u8; 16],
    ) {
        let keys: Vec<[u8; 32]> = keys.iter().map(|key| *key.first_chunk().unwrap()).collect();
        let macs: Vec<Mac<'_>> = texts.iter().zip(&keys).map(|(text, key)| Mac { key, text, last }).collect();
        let expected: Vec<[u8; 16]> = macs.iter().map(reckon).collect();
        for_every_vector!(vector => {
            let mut tags = vec![[0; 16]; macs.len()];
            vector.tags(&macs, &mut tags);
            prop_assert_eq!(&tags, &expected);
        });
    }
}

/// Checks a message of whole blocks, alone and among others of its length and
/// of other lengths, against `tag` and against the plain reckoning.
fn check(r: u128, s: u128, message: &[u128], tag: Option<[u8; 16]>) {
    let key: [u8; 32] = *[r, s].map(u128::to_le_bytes).as_flattened().first_chunk().unwrap();
    let message: Vec<u8> = message.iter().flat_map(|block| block.to_le_bytes()).collect();
    let (text, last) = message.split_last_chunk().unwrap();
    let mac = Mac { key: &key, text, last: *last };
    let expected = reckon(&mac);
    if let Some(tag) = tag {
        assert_eq!(expected, tag, "the plain reckoning is itself wrong");
    }

    let long = [0x5a; 1000];
    let like = Mac { key: &[0xa7; 32], text: &long[..text.len()], last: [9; 16] };
    let longer = Mac { text: &long, ..like };
    let shorter = Mac { text: &[], ..like };
    let among_like = [like, like, like, mac, like, like, like, like];
    let among_longer = [longer, longer, mac, longer, longer, longer, shorter, longer];
    for_every_vector!(vector => {
        for macs in [&[mac][..], &[longer, mac], &among_like, &among_longer] {
            let mut tags = vec![[0; 16]; macs.len()];
            vector.tags(macs, &mut tags);
            for (mac, tag) in macs.iter().zip(tags) {
                assert_eq!(tag, reckon(mac));
            }
        }
    });
    assert_eq!(Scalar::new(mac.key).finish(mac.text, &mac.last), expected);
}

/// Poly1305 by adding and doubling, in numbers of 192 bits.
fn reckon(mac: &Mac<'_>) -> [u8; 16] {
    let (r, s) = mac.key.split_at(16);
    let r = u128::from_le_bytes(*r.first_chunk().unwrap()) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let mut sum = (0_u64, 0_u128);
    for block in mac.text.chunks(16).chain([&mac.last[..]]) {
        let mut padded = [0; 16];
        padded[..block.len()].copy_from_slice(block);
        sum = add(sum, (1, u128::from_le_bytes(padded)));
        let mut product = (0, 0);
        for bit in (0..128).rev() {
            product = add(product, product);
            if r >> bit & 1 == 1 {
                product = add(product, sum);
            }
        }
        sum = product;
    }
    sum.1.wrapping_add(u128::from_le_bytes(*s.first_chunk().unwrap())).to_le_bytes()
}

/// The sum modulo p = 2^130 - 5 of two numbers below it, each given as the bits above the low 128, and those 128.
fn add(a: (u64, u128), b: (u64, u128)) -> (u64, u128) {
    let (low, carried) = a.1.overflowing_add(b.1);
    let high = a.0 + b.0 + u64::from(carried);
    let is_below = (high, low) < (3, u128::MAX - 4);
    if is_below {
        (high, low)
    } else {
        let (low, borrowed) = low.overflowing_sub(u128::MAX - 4);
        (high - 3 - u64::from(borrowed), low)
    }
}
