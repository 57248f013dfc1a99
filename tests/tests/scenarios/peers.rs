//! Peers and keys that come, go and do not fit.

use adit_tests::{Implementation, Keys, Outer, Pair, PairBuilder, Ping, Side, eventually};

pub(crate) fn peer_remove_and_readd(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let b_key = &pair.b.keys.public;
    pair.a.set(&format!("peer {b_key} remove"));
    assert_eq!(pair.a.status().peers, []);
    assert!(!Ping::to(Side::B.inner_v4()).patience(1).from(&pair.a.host).all_answered());
    let endpoint = Side::B.endpoint(Outer::V4);
    pair.a.set(&format!("peer {b_key} endpoint {endpoint} allowed-ips {}", Side::B.allowed_ips()));
    eventually("the peer is reached again", || pair.a_reaches_b().then_some(()));
    pair.assert_b_reaches_a();
}

pub(crate) fn no_endpoint_no_crash(a: Implementation, b: Implementation) {
    let mut pair = PairBuilder::new(a, b).only_b_begins().build();
    assert!(!Ping::to(Side::B.inner_v4()).patience(1).from(&pair.a.host).all_answered());
    pair.a.set(&format!("peer {} persistent-keepalive 1", pair.b.keys.public));
    assert!(!Ping::to(Side::B.inner_v6()).patience(2).from(&pair.a.host).all_answered());
    assert_eq!(pair.a.daemon().ended(), None, "the daemon goes on");
    pair.assert_b_reaches_a();
    pair.assert_a_reaches_b();
}

pub(crate) fn preshared_key(a: Implementation, b: Implementation) {
    let key = adit_tests::preshared_key();
    let pair = PairBuilder::new(a, b).preshared_keys(&key, &key).build();
    assert_eq!(pair.b_seen_by_a().preshared_key, key);
    pair.assert_a_reaches_b();
    pair.assert_b_reaches_a();
}

pub(crate) fn preshared_key_mismatch(a: Implementation, b: Implementation) {
    let (one, other) = (adit_tests::preshared_key(), adit_tests::preshared_key());
    let pair = PairBuilder::new(a, b).preshared_keys(&one, &other).only_a_begins().build();
    assert!(!Ping::to(Side::B.inner_v4()).patience(2).from(&pair.a.host).all_answered());
    assert_eq!(pair.b_seen_by_a().latest_handshake, 0);
    pair.a.set_with_input(&format!("peer {} preshared-key /dev/stdin", pair.b.keys.public), &other);
    eventually("the tunnel works with the right key", || pair.a_reaches_b().then_some(()));
}

pub(crate) fn private_key_change(a: Implementation, b: Implementation) {
    let mut pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let old = std::mem::replace(&mut pair.a.keys, Keys::generate());
    pair.a.set_with_input("private-key /dev/stdin", &pair.a.keys.private);
    assert_eq!(pair.a.status().public_key, pair.a.keys.public);
    pair.b.set(&format!("peer {} remove", old.public));
    let (key, endpoint) = (&pair.a.keys.public, Side::A.endpoint(Outer::V4));
    pair.b.set(&format!("peer {key} endpoint {endpoint} allowed-ips {}", Side::A.allowed_ips()));
    eventually("the tunnel works with the new key", || pair.a_reaches_b().then_some(()));
    pair.assert_b_reaches_a();
}

pub(crate) fn own_key_as_peer(a: Implementation, b: Implementation) {
    let mut pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    // Refused or ignored, but never taken.
    pair.a.try_wg(&format!("set wg0 peer {} allowed-ips 10.66.0.0/16", pair.a.keys.public), "");
    assert!(!pair.a.has_peer(&pair.a.keys), "the interface is its own peer");
    // A peer whose key becomes the interface's own is no longer one.
    let other = Keys::generate();
    pair.a.set(&format!("peer {} allowed-ips 10.67.0.0/16", other.public));
    assert!(pair.a.has_peer(&other));
    pair.a.set_with_input("private-key /dev/stdin", &other.private);
    assert!(!pair.a.has_peer(&other), "the interface has become its own peer");
    pair.a.set_with_input("private-key /dev/stdin", &pair.a.keys.private);
    eventually("the tunnel works with the first key", || pair.a_reaches_b().then_some(()));
    assert_eq!(pair.a.daemon().ended(), None);
}
