//! Whole sessions between two implementations, with a preshared key.

use adit_tests::{
    Implementation, Outer, Pair, PairBuilder, Ping, Side, eventually, iperf3, preshared_key, tcp_transfer,
};

pub(crate) fn adit_initiates_over_v4(adit: Implementation, partner: Implementation) {
    carries_everything(adit, partner, Outer::V4);
}

pub(crate) fn adit_initiates_over_v6(adit: Implementation, partner: Implementation) {
    carries_everything(adit, partner, Outer::V6);
}

pub(crate) fn adit_responds_over_v4(adit: Implementation, partner: Implementation) {
    carries_everything(partner, adit, Outer::V4);
}

pub(crate) fn adit_responds_over_v6(adit: Implementation, partner: Implementation) {
    carries_everything(partner, adit, Outer::V6);
}

pub(crate) fn adit_follows_a_partner_that_moves(adit: Implementation, partner: Implementation) {
    follows_to_another_address(partner, adit);
}

pub(crate) fn partner_follows_adit_that_moves(adit: Implementation, partner: Implementation) {
    follows_to_another_address(adit, partner);
}

pub(crate) fn adit_follows_a_moved_port(adit: Implementation, partner: Implementation) {
    follows_to_another_port(partner, adit);
}

pub(crate) fn partner_follows_a_moved_port(adit: Implementation, partner: Implementation) {
    follows_to_another_port(adit, partner);
}

pub(crate) fn rekey_begun_by_adit_loses_nothing(adit: Implementation, partner: Implementation) {
    rekey(adit, partner);
}

pub(crate) fn rekey_begun_by_the_partner_loses_nothing(adit: Implementation, partner: Implementation) {
    rekey(partner, adit);
}

/// A begins; everything goes both ways.
fn carries_everything(a: Implementation, b: Implementation, outer: Outer) {
    let pair = begun_by_a(a, b, outer);
    Ping::to(Side::B.inner_v4()).from(&pair.a.host).assert_all_answered();
    Ping::to(Side::A.inner_v4()).count(20, 0.02).from(&pair.b.host).assert_all_answered();
    Ping::to(Side::B.inner_v6()).count(20, 0.02).from(&pair.a.host).assert_all_answered();
    for address in [Side::B.inner_v4(), Side::B.inner_v6()] {
        iperf3(&pair.a.host, &pair.b.host, address, &["-n", "16M"]);
        iperf3(&pair.a.host, &pair.b.host, address, &["-n", "16M", "-R"]);
    }
    assert_eq!(pair.a_seen_by_b().endpoint, Side::A.endpoint(outer));
    assert_eq!(pair.b_seen_by_a().endpoint, Side::B.endpoint(outer));
}

/// A gets another address in the middle of a session, and B follows it there.
fn follows_to_another_address(a: Implementation, b: Implementation) {
    let pair = begun_by_a(a, b, Outer::V4);
    tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 1 << 20);
    pair.a.host.ip("address delete 10.0.0.1/24 dev eth0");
    pair.a.host.add_address("10.0.0.11/24", "eth0");
    eventually("A reaches B from its new address", || pair.a_reaches_b().then_some(()));
    assert_eq!(pair.a_seen_by_b().endpoint, "10.0.0.11:51820");
    tcp_transfer(&pair.b.host, &pair.a.host, Side::A.inner_v4(), 1 << 20);
}

/// A gets another port in the middle of a session, and B follows it there.
fn follows_to_another_port(a: Implementation, b: Implementation) {
    let pair = begun_by_a(a, b, Outer::V4);
    tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 1 << 20);
    pair.a.move_port(40000);
    pair.assert_a_reaches_b();
    assert_eq!(pair.a_seen_by_b().endpoint, "10.0.0.1:40000");
    tcp_transfer(&pair.b.host, &pair.a.host, Side::A.inner_v4(), 1 << 20);
}

/// A sends until its session is older than 120 s and a new one has taken its place.
fn rekey(a: Implementation, b: Implementation) {
    let pair = begun_by_a(a, b, Outer::V4);
    tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 1 << 20);
    // Boringtun tells how long ago the handshake was, not when.
    let latest_handshake = || match b {
        Implementation::Boringtun => pair.b_seen_by_a().latest_handshake,
        _ => pair.a_seen_by_b().latest_handshake,
    };
    let mut handshakes = vec![latest_handshake()];
    // On a machine that does much else, an implementation may take a late answer for none, and begin anew long before.
    // That session has to grow old, too.
    while handshakes.len() < 3 && handshakes.windows(2).all(|pair| pair[1] < pair[0] + 115) {
        Ping::to(Side::B.inner_v4()).count(640, 0.2).from(&pair.a.host).assert_all_answered();
        handshakes.push(latest_handshake());
    }
    assert!(
        handshakes.windows(2).any(|pair| pair[1] >= pair[0] + 115),
        "no new session: handshakes at {handshakes:?} s"
    );
    tcp_transfer(&pair.b.host, &pair.a.host, Side::A.inner_v4(), 1 << 20);
    pair.assert_b_reaches_a();
}

fn begun_by_a(a: Implementation, b: Implementation, outer: Outer) -> Pair {
    let key = preshared_key();
    PairBuilder::new(a, b).outer(outer).preshared_keys(&key, &key).only_a_begins().build()
}
