//! mac1, mac2 and cookies: proof of address under load (paper, §5.3, §5.4.4, §5.4.7).

use core::net::{IpAddr, SocketAddr};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::crypto::{self, Mac};
use crate::key::PublicKey;
use crate::limits::{COOKIE_REFRESH_TIME, COOKIE_REPLY_LEN};
use crate::message::{CookieReply, MACS_LEN};
use crate::time::Instant;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// Length of a cookie reply's nonce.
pub(crate) const NONCE_LEN: usize = 24;

fn mac1_key(receiver: &PublicKey) -> [u8; 32] {
    crypto::hash(&[LABEL_MAC1, receiver.as_bytes()])
}

fn cookie_key(receiver: &PublicKey) -> [u8; 32] {
    crypto::hash(&[LABEL_COOKIE, receiver.as_bytes()])
}

/// The parts of a handshake message: what mac1 covers, mac1, mac2.
fn split_macs(message: &[u8]) -> Option<(&[u8], &Mac, &Mac)> {
    let (body, macs) = message.split_at_checked(message.len().checked_sub(MACS_LEN)?)?;
    let (mac1, rest) = macs.split_first_chunk()?;
    Some((body, mac1, rest.try_into().ok()?))
}

/// Whether a sender claims to have a cookie: one without leaves mac2 zero.
pub(crate) fn has_mac2(message: &[u8]) -> bool {
    split_macs(message).is_some_and(|(_, _, mac2)| *mac2 != Mac::default())
}

/// Checks the MACs of what arrives, and makes the cookies that mac2 is made from.
#[derive(Clone)]
pub(crate) struct CookieChecker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
    secret_made: Option<Instant>,
}

impl CookieChecker {
    /// A checker for messages to the interface with this public key.
    pub(crate) fn new(receiver: &PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(receiver),
            cookie_key: cookie_key(receiver),
            secret: Zeroizing::default(),
            secret_made: None,
        }
    }

    /// Whether the sender knows this interface's public key.
    pub(crate) fn mac1_is_good(&self, message: &[u8]) -> bool {
        split_macs(message).is_some_and(|(body, mac1, _)| crypto::mac_eq(mac1, &crypto::mac(&self.mac1_key, &[body])))
    }

    /// Whether the secret from which cookies are made is too old for that, or was never made.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.secret_made.is_none_or(|made| made.is_older_than(COOKIE_REFRESH_TIME, now))
    }

    /// Makes another secret: cookies that were made from the old one become worthless.
    pub(crate) fn renew_secret(&mut self, now: Instant, rng: &mut (impl CryptoRng + ?Sized)) {
        rng.fill_bytes(&mut *self.secret);
        self.secret_made = Some(now);
    }

    /// The secret, if there is one, and when it was made.
    pub(crate) fn parts(&self) -> Option<(&[u8; 32], Instant)> {
        // The keys follow from the interface's own.
        let Self { mac1_key: _, cookie_key: _, secret, secret_made } = self;
        secret_made.map(|made| (&**secret, made))
    }

    /// Goes on with a secret that is the checker's [`parts`](Self::parts).
    pub(crate) fn set_parts(&mut self, (secret, made): (&[u8; 32], Instant)) {
        *self.secret = *secret;
        self.secret_made = Some(made);
    }

    /// Takes over the secret of `other`, and so makes the same cookies from now on.
    pub(crate) fn take_secret(&mut self, other: &Self) {
        self.secret = other.secret.clone();
        self.secret_made = other.secret_made;
    }

    /// Whether the sender has received a cookie of ours at the address and port it sends from.
    pub(crate) fn mac2_is_good(&self, now: Instant, message: &[u8], source: SocketAddr) -> bool {
        let Some((body, mac1, mac2)) = split_macs(message) else { return false };
        // In a flood most have none, and this check costs next to nothing.
        if self.is_stale(now) || !has_mac2(message) {
            return false;
        }
        crypto::mac_eq(mac2, &crypto::mac(&self.cookie(source), &[body, mac1]))
    }

    /// A cookie for the sender of `message`, encrypted so that only those who saw the message can read it. `nonce` must
    /// be as good as random: two replies with the same nonce would reveal something of each other's cookies.
    pub(crate) fn create_reply(
        &self,
        message: &[u8],
        sender_index: u32,
        source: SocketAddr,
        nonce: &[u8; NONCE_LEN],
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        let (_, mac1, _) = split_macs(message)?;
        let mut encrypted_cookie = [0; 32];
        let (cookie, tag) = encrypted_cookie.split_at_mut(16);
        cookie.copy_from_slice(&self.cookie(source));
        tag.copy_from_slice(&crypto::xseal(&self.cookie_key, nonce, mac1, cookie));
        Some(CookieReply { receiver_index: sender_index, nonce, encrypted_cookie: &encrypted_cookie }.to_bytes())
    }

    fn cookie(&self, source: SocketAddr) -> Mac {
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => crypto::mac(&*self.secret, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => crypto::mac(&*self.secret, &[&ip.octets(), &port]),
        }
    }
}

/// Puts the MACs on what leaves for one peer, and keeps the cookie that the peer sent.
#[derive(Default)]
pub(crate) struct CookieGenerator {
    pub(crate) cookie: Option<(Mac, Instant)>,
    /// mac1 of the last handshake message: a cookie reply is bound to it.
    pub(crate) last_mac1: Option<Mac>,
}

impl CookieGenerator {
    /// Fills in mac1 and, if the peer sent a cookie that is still good, mac2.
    pub(crate) fn add_macs(&mut self, now: Instant, peer: &PublicKey, message: &mut [u8]) {
        let Some(body_len) = message.len().checked_sub(MACS_LEN) else { return };
        let (body, macs) = message.split_at_mut(body_len);
        let (mac1_place, mac2_place) = macs.split_at_mut(MACS_LEN / 2);
        let mac1 = crypto::mac(&mac1_key(peer), &[body]);
        mac1_place.copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        if let Some((cookie, received)) = self.cookie {
            if received.is_older_than(COOKIE_REFRESH_TIME, now) {
                self.cookie = None;
            } else {
                mac2_place.copy_from_slice(&crypto::mac(&cookie, &[body, &mac1]));
            }
        }
    }

    /// Takes the cookie out of a reply; false if the reply answers nothing of ours.
    #[must_use]
    pub(crate) fn consume_reply(&mut self, now: Instant, peer: &PublicKey, reply: &CookieReply<'_>) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let Some((encrypted, tag)) = reply.encrypted_cookie.split_last_chunk() else { return false };
        let Ok(mut cookie) = Mac::try_from(encrypted) else { return false };
        if !crypto::xopen(&cookie_key(peer), reply.nonce, &mac1, &mut cookie, tag) {
            return false;
        }
        self.cookie = Some((cookie, now));
        // One reply per message: a second one is a replay.
        self.last_mac1 = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_one_address_and_one_port() {
        let checker = CookieChecker::new(&PublicKey::from_bytes([1; 32]));
        let sources =
            ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::1]:2", "[2001:db8::2]:1"];
        let cookies = sources.map(|source| checker.cookie(source.parse().unwrap()));
        for (number, cookie) in cookies.iter().enumerate() {
            assert!(!cookies[..number].contains(cookie), "{}", sources[number]);
        }
    }
}
