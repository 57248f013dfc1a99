//! What RFC 8439's appendices A.2, A.4 and A.5 publish, for each backend. (Its sections 2.3.2 and A.1 are in
//! [`super::cipher`], 2.5.2 and A.3 in [`super::authenticator`], and 2.8.2 is Wycheproof's first vector.)

use std::vec::Vec;

use super::{Beyond, for_every_vector, hex, nonce_words, seal};
use crate::stream::{KeyStream, LANES, Segment, Vector};
use crate::{Backend, Key, Packet, TAG_LEN, open_with};

/// A key, whose last byte is the only one that is not zero.
const ONE: [u8; 32] = {
    let mut key = [0; 32];
    key[31] = 1;
    key
};
/// The nonce of A.2 and A.4, if it is not zero.
const TWO: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// The key of several vectors.
fn key() -> [u8; 32] {
    hex("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
}

#[test]
fn texts_are_encrypted_as_in_appendix_a_2() {
    // Its first vector, of zeros, is in A.1 as well.
    let ietf = b"Any submission to the IETF intended by the Contributor for publication as all or part of an IETF \
        Internet-Draft or RFC and any statement made within the context of an IETF activity is considered an \"IETF \
        Contribution\". Such statements include oral statements in IETF sessions, as well as written and electronic \
        communications made at any time or place, which are addressed to";
    let jabberwocky = b"'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\nAll mimsy were the \
        borogoves,\nAnd the mome raths outgrabe.";
    let encrypted_ietf: [u8; 375] =
        hex("a3fbf07df3fa2fde4f376ca23e82737041605d9f4f4f57bd8cff2c1d4b7955ec2a97948bd3722915c8f3d337f7d370050e9e
         96d647b7c39f56e031ca5eb6250d4042e02785ececfa4b4bb5e8ead0440e20b6e8db09d881a7c6132f420e52795042bdfa77
         73d8a9051447b3291ce1411c680465552aa6c405b7764d5e87bea85ad00f8449ed8f72d0d662ab052691ca66424bc86d2df8
         0ea41f43abf937d3259dc4b2d0dfb48a6c9139ddd7f76966e928e635553ba76c5c879d7b35d49eb2e62b0871cdac638939e2
         5e8a1e0ef9d5280fa8ca328b351c3c765989cbcf3daa8b6ccc3aaf9f3979c92b3720fc88dc95ed84a1be059c6499b9fda236
         e7e818b04b0bc39c1e876b193bfe5569753f88128cc08aaa9b63d1a16f80ef2554d7189c411f5869ca52c5b83fa36ff216b9
         c1d30062bebcfd2dc5bce0911934fda79a86f6e698ced759c3ff9b6477338f3da4f9cd8514ea9982ccafb341b2384dd902f3
         d1ab7ac61dd29c6f21ba5b862f3730e37cfdc4fd806c22f221");
    let encrypted_jabberwocky: [u8; 127] =
        hex("62e6347f95ed87a45ffae7426f27a1df5fb69110044c0d73118effa95b01e5cf166d3df2d721caf9b21e5fb14c616871fd84
         c54f9d65b283196c7fe4f60553ebf39c6402c42234e32a356b3e764312a61a5532055716ead6962568f87d3f3f7704c6a8d1
         bcd1bf4d50d6154b6da731b187b58dfd728afa36757a797ac188d1");
    let vectors = [(ONE, 1, &ietf[..], &encrypted_ietf[..]), (key(), 42, &jabberwocky[..], &encrypted_jabberwocky[..])];
    for_every_vector!(vector => {
        for (key, counter, text, encrypted) in &vectors {
            let blocks = text.len().div_ceil(64);
            let mut stream = KeyStream::<LANES>::new();
            vector.key_stream(&[Segment { key, nonce: nonce_words(&TWO), counter: *counter, blocks, packet: 0 }], &mut stream);
            let mut bytes = text.to_vec();
            vector.xor(&mut bytes, &stream.0[..blocks]);
            assert_eq!(bytes, *encrypted);
        }
    });
}

#[test]
fn authenticators_have_the_keys_of_appendix_a_4() {
    let vectors: [([u8; 32], [u8; 12], [u8; 32]); 3] = [
        ([0; 32], [0; 12], hex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")),
        (ONE, TWO, hex("ecfa254f845f647473d3cb140da9e87606cb33066c447b87bc2666dde3fbb739")),
        (key(), TWO, hex("965e3bc6f9ec7ed9560808f4d229f94b137ff275ca9b3fcbdd59deaad23310ae")),
    ];
    for_every_vector!(vector => {
        for (key, nonce, expected) in &vectors {
            let mut stream = KeyStream::<LANES>::new();
            vector.key_stream(&[Segment { key, nonce: nonce_words(nonce), counter: 0, blocks: 1, packet: 0 }], &mut stream);
            assert_eq!(stream.0[0][..32], *expected);
        }
    });
}

#[test]
fn the_packet_of_appendix_a_5_is_opened_and_sealed() {
    let nonce: [u8; 12] = hex("000000000102030405060708");
    let associated_data: [u8; 12] = hex("f33388860000000000004e91");
    let text = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, or \
        obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference material or \
        to cite them other than as /\u{201c}work in progress./\u{201d}";
    let encrypted: [u8; 265] =
        hex("64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0bdb7
         b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c8559797a06e
         f4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e99040c5a40433
         225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a0bb2316053fa7699
         1955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130305beaba2eda04df997b
         714d6c6f2c29a6ad5cb4022b02709b");
    let tag: [u8; TAG_LEN] = hex("eead9d67890cbb22392336fea1851f38");
    for_every_vector!(vector => {
        let sealed = seal(vector, &key(), nonce_words(&nonce), &associated_data, text.as_bytes());
        assert_eq!(sealed, (encrypted.to_vec(), tag));
    });

    let (head, counter) = nonce.split_at(4);
    let nonce_head = u32::from_le_bytes(head.try_into().unwrap());
    let counter = u64::from_le_bytes(counter.try_into().unwrap());
    let beyond = Beyond { nonce_head, associated_data: &associated_data };
    let mut bytes: Vec<u8> = [&encrypted[..], &tag].concat();
    let key = Key::new(key());
    let mut packets = [Packet { beyond, ..Packet::new(&key, counter, &mut bytes).unwrap() }];
    open_with(Backend::Portable, &mut packets);
    assert!(packets[0].is_authentic());
    assert_eq!(&bytes[..text.len()], text.as_bytes());
}
