//! Packets of every length, the tunnel's MTU, and datagrams that the wire has to fragment.

use adit_tests::{Implementation, Pair, PairBuilder, Ping, Side, Udp, tcp_transfer};

pub(crate) fn mtu_1280(a: Implementation, b: Implementation) {
    carries_its_mtu_and_no_more(a, b, 1280);
}

pub(crate) fn mtu_1420(a: Implementation, b: Implementation) {
    carries_its_mtu_and_no_more(a, b, 1420);
}

pub(crate) fn mtu_1500_outer_fragments(a: Implementation, b: Implementation) {
    carries_its_mtu_and_no_more(a, b, 1500);
}

pub(crate) fn mtu_9000_outer_fragments(a: Implementation, b: Implementation) {
    carries_its_mtu_and_no_more(a, b, 9000);
}

pub(crate) fn tcp_when_outer_must_fragment(a: Implementation, b: Implementation) {
    let pair = PairBuilder::new(a, b).mtu(1500).build();
    tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 8 << 20);
    if b == Implementation::WireguardGo {
        return; // It sends runs of datagrams that the kernel may not fragment, again and again.
    }
    tcp_transfer(&pair.b.host, &pair.a.host, Side::A.inner_v6(), 8 << 20);
}

pub(crate) fn mtu_every_length_mod_16(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    let udp = Udp::between(&pair.a.host, Side::A.inner_v4(), &pair.b.host, Side::B.inner_v4());
    let longest = 1420 - 28;
    udp.echo((0..48).chain(longest - 48..=longest));
}

pub(crate) fn mtu_change_mid_session(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let handshake = pair.b_seen_by_a().latest_handshake;
    for mtu in [1280, 1400, 1420] {
        for host in [&pair.a.host, &pair.b.host] {
            host.ip(&format!("link set wg0 mtu {mtu}"));
        }
        Ping::to(Side::B.inner_v4()).packet_length(mtu).from(&pair.a.host).assert_all_answered();
        Ping::to(Side::A.inner_v6()).packet_length(mtu).from(&pair.b.host).assert_all_answered();
        tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 1 << 20);
    }
    assert_eq!(pair.b_seen_by_a().latest_handshake, handshake, "the session is kept");
}

fn carries_its_mtu_and_no_more(a: Implementation, b: Implementation, mtu: u16) {
    let pair = PairBuilder::new(a, b).mtu(mtu.into()).build();
    for length in [mtu - 1, mtu] {
        Ping::to(Side::B.inner_v4()).packet_length(length).from(&pair.a.host).assert_all_answered();
        Ping::to(Side::B.inner_v6()).packet_length(length).from(&pair.a.host).assert_all_answered();
        Ping::to(Side::A.inner_v4()).packet_length(length).from(&pair.b.host).assert_all_answered();
    }
    let too_long = Ping::to(Side::B.inner_v4()).packet_length(mtu + 1).patience(1).from(&pair.a.host);
    assert!(!too_long.all_answered(), "a packet longer than the MTU is carried");
    Ping::to(Side::B.inner_v4()).packet_length(mtu).from(&pair.a.host).assert_all_answered();
    if mtu <= 1420 {
        tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 1 << 20);
        tcp_transfer(&pair.b.host, &pair.a.host, Side::A.inner_v6(), 1 << 20);
    }
}
