//! Messages made by somebody else than a well-behaved node.

use std::time::Duration;

use adit::{Instant, Interface, PrivateKey, PublicKey};
use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::{AeadInOut, XChaCha20Poly1305};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// An initiation that `initiator` sends to `responder` at a time of the wall clock.
pub(crate) fn initiation(initiator: &PrivateKey, responder: PublicKey, unix_time: Duration, seed: u64) -> Vec<u8> {
    let now = Instant::from_nanos(0);
    let mut interface = Interface::new(now, unix_time, Box::new(ChaCha8Rng::seed_from_u64(seed)));
    interface.set_private_key(Some(initiator.clone()));
    let peer = interface.add_peer(responder).unwrap();
    interface.set_endpoint(peer, Some("192.0.2.99:1".parse().unwrap())).unwrap();
    // The first persistent keepalive is due at once and asks for a session.
    interface.set_persistent_keepalive(now, peer, 1).unwrap();
    interface.handle_timeout(now);
    let mut buffer = [0; 148];
    let transmit = interface.poll_transmit(now, &mut buffer).unwrap().expect("an initiation");
    buffer[transmit.range].to_vec()
}

/// Makes mac1 right for a message to the interface with this key, whatever else the message says.
pub(crate) fn put_mac1(message: &mut [u8], receiver: &PublicKey) {
    let key: [u8; 32] = Blake2s256::new().chain(b"mac1----").chain(receiver.as_bytes()).finalize_fixed().into();
    let at = message.len() - 32;
    let mac1 = mac(&key, &message[..at]);
    message[at..at + 16].copy_from_slice(&mac1);
}

/// The keyed hash of which mac1 and mac2 are made.
pub(crate) fn mac(key: &[u8], data: &[u8]) -> [u8; 16] {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).unwrap();
    Update::update(&mut mac, data);
    mac.finalize_fixed().into()
}

/// The cookie in a reply of the interface with this key, to a message with this mac1.
pub(crate) fn open_cookie(sender: &PublicKey, reply: &[u8], mac1: &[u8]) -> Option<[u8; 16]> {
    let key = Blake2s256::new().chain(b"cookie--").chain(sender.as_bytes()).finalize_fixed();
    let (nonce, tag): ([u8; 24], [u8; 16]) = (reply[8..32].try_into().ok()?, reply[48..].try_into().ok()?);
    let mut cookie: [u8; 16] = reply[32..48].try_into().ok()?;
    let cipher = XChaCha20Poly1305::new(&key);
    cipher.decrypt_inout_detached(&nonce.into(), mac1, cookie.as_mut_slice().into(), &tag.into()).ok()?;
    Some(cookie)
}

/// Each message that differs from `message` in one bit, with the number of that bit.
pub(crate) fn one_bit_off(message: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..message.len() * 8).map(|bit| {
        let mut forged = message.to_vec();
        forged[bit / 8] ^= 1 << (bit % 8);
        (bit, forged)
    })
}
