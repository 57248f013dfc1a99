//! MACs and cookies by the paper (§5.4.4, §5.4.7), and two engines' names and places.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit::{Bounds, Interface, PrivateKey, PublicKey};
use blake2::digest::consts::U16;
use blake2::digest::{Digest, FixedOutput, KeyInit as _, Update};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// The beginning of every script, and what the wall clock says then.
pub(crate) const START: adit::Instant = adit::Instant::from_nanos(1_000_000_000_000);
pub(crate) const UNIX_START: Duration = Duration::from_secs(1_700_000_000);

/// How long a cookie is good, and the secret it is made from.
pub(crate) const COOKIE_TIME: Duration = Duration::from_secs(120);

/// An interface with a key, whose chance repeats itself.
pub(crate) fn interface(now: adit::Instant, key: &PrivateKey, seed: u64, bounds: Bounds) -> Interface {
    let mut interface = Interface::with_bounds(now, unix_time(now), Box::new(ChaCha8Rng::seed_from_u64(seed)), bounds);
    interface.set_private_key(Some(key.clone()));
    interface
}

/// What the wall clock says at a moment.
pub(crate) fn unix_time(now: adit::Instant) -> Duration {
    UNIX_START + now.saturating_since(START)
}

/// A private key that everybody can tell by its number.
pub(crate) fn private_key(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number + 1; 32])
}

/// Some address of few.
pub(crate) fn socket(number: u8) -> SocketAddr {
    let port = 1_000 + u16::from(number >> 6);
    let host = number >> 1 & 0x1f;
    if number & 1 == 0 {
        SocketAddr::from((Ipv4Addr::new(192, 0, 2, host), port))
    } else {
        SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, host.into(), 0, 0, 0, 1), port))
    }
}

/// mac1 of a handshake message to the interface with this key.
pub(crate) fn mac1(receiver: &PublicKey, body: &[u8]) -> [u8; 16] {
    mac(&labelled(b"mac1----", receiver), &[body])
}

/// mac2 of a message that has its mac1.
pub(crate) fn mac2(cookie: &[u8; 16], body_and_mac1: &[u8]) -> [u8; 16] {
    mac(cookie, &[body_and_mac1])
}

/// Puts a right mac1 on an initiation or a response.
pub(crate) fn put_mac1(message: &mut [u8], receiver: &PublicKey) {
    if let Some(body) = message.len().checked_sub(32) {
        let mac1 = mac1(receiver, &message[..body]);
        message[body..body + 16].copy_from_slice(&mac1);
    }
}

/// The reply that gives a cookie to the sender of a message with this mac1.
pub(crate) fn cookie_reply(
    responder: &PublicKey,
    receiver_index: [u8; 4],
    mac1: &[u8; 16],
    nonce: [u8; 24],
    cookie: [u8; 16],
) -> Vec<u8> {
    let cipher = XChaCha20Poly1305::new(&labelled(b"cookie--", responder).into());
    let payload = Payload { msg: &cookie, aad: mac1 };
    let encrypted = cipher.encrypt(&XNonce::from(nonce), payload).expect("a short text");
    [[3, 0, 0, 0].as_slice(), &receiver_index, &nonce, &encrypted].concat()
}

/// The cookie in a reply to a message with this mac1, and the receiver's index. `None` if it is no such reply.
pub(crate) fn open_cookie(responder: &PublicKey, mac1: &[u8], reply: &[u8]) -> Option<([u8; 4], [u8; 16])> {
    let (head, rest) = reply.split_first_chunk::<4>()?;
    let (index, rest) = rest.split_first_chunk::<4>()?;
    let (nonce, encrypted) = rest.split_first_chunk::<24>()?;
    let cipher = XChaCha20Poly1305::new(&labelled(b"cookie--", responder).into());
    let cookie = cipher.decrypt(&XNonce::from(*nonce), Payload { msg: encrypted, aad: mac1 }).ok()?;
    (*head == [3, 0, 0, 0]).then_some((*index, cookie.try_into().ok()?))
}

fn labelled(label: &[u8], key: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain(label).chain(key.as_bytes()).finalize_fixed().into()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("a key of 16 or 32 bytes");
    parts.iter().for_each(|part| Update::update(&mut mac, part));
    mac.finalize_fixed().into()
}
