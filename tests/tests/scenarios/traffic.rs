//! What a tunnel carries: the first packet, pings, TCP, UDP, and the counters that say so.

use std::net::IpAddr;

use adit_tests::{Implementation, Outer, Pair, PairBuilder, Ping, Side, Udp, eventually, iperf3, tcp_transfer};

/// Enough for the windows of TCP to open and for offloads to work, and little enough for a slow partner.
const BULK: usize = 16 << 20;

pub(crate) fn first_packet_v4(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    assert_eq!(pair.b_seen_by_a().latest_handshake, 0);
    Ping::to(Side::B.inner_v4()).from(&pair.a.host).assert_all_answered();
}

pub(crate) fn first_packet_v6(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    assert_eq!(pair.b_seen_by_a().latest_handshake, 0);
    Ping::to(Side::B.inner_v6()).from(&pair.a.host).assert_all_answered();
}

pub(crate) fn as_responder(a: Implementation, b: Implementation) {
    let pair = PairBuilder::new(a, b).only_b_begins().build();
    Ping::to(Side::A.inner_v4()).from(&pair.b.host).assert_all_answered();
    assert_eq!(pair.b_seen_by_a().endpoint, Side::B.endpoint(Outer::V4));
    // The responder may speak now that it has been spoken to.
    pair.assert_a_reaches_b();
}

pub(crate) fn flood_ping_no_loss(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    Ping::to(Side::B.inner_v4()).flood(2000).from(&pair.a.host).assert_all_answered();
    Ping::to(Side::A.inner_v6()).flood(2000).from(&pair.b.host).assert_all_answered();
}

pub(crate) fn counters(a: Implementation, b: Implementation) {
    const PINGS: u32 = 50;
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let before = pair.b_seen_by_a();
    Ping::to(Side::B.inner_v4()).packet_length(1000).count(PINGS, 0.01).from(&pair.a.host).assert_all_answered();
    let carried = u64::from(PINGS) * 1000;
    // Each packet has a header, padding and a tag; a handshake or keepalives may fall into the time as well.
    let plausible = carried..=carried + u64::from(PINGS) * 48 + 1000;
    let after = eventually("what was sent and received is counted", || {
        let now = pair.b_seen_by_a();
        (now.received >= before.received + carried).then_some(now)
    });
    for (name, counted) in [("sent", after.sent - before.sent), ("received", after.received - before.received)] {
        assert!(plausible.contains(&counted), "{counted} bytes {name}, not in {plausible:?}");
    }
    if !matches!(b, Implementation::Adit | Implementation::WireguardGo) {
        return; // The others leave headers or handshakes out of their counts.
    }
    let there = pair.a_seen_by_b();
    assert!(there.received.abs_diff(after.sent) <= 1000, "B received {}, A sent {}", there.received, after.sent);
}

pub(crate) fn tcp4_over_v4(a: Implementation, b: Implementation) {
    tcp_both_ways(a, b, Outer::V4, Side::inner_v4);
}

pub(crate) fn tcp6_over_v4(a: Implementation, b: Implementation) {
    tcp_both_ways(a, b, Outer::V4, Side::inner_v6);
}

pub(crate) fn tcp4_over_v6(a: Implementation, b: Implementation) {
    tcp_both_ways(a, b, Outer::V6, Side::inner_v4);
}

pub(crate) fn tcp6_over_v6(a: Implementation, b: Implementation) {
    tcp_both_ways(a, b, Outer::V6, Side::inner_v6);
}

pub(crate) fn tcp_many_streams(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    for direction in [&[][..], &["-R"]] {
        let arguments = [&["-P", "16", "-n", "24M"], direction].concat();
        iperf3(&pair.a.host, &pair.b.host, Side::B.inner_v4(), &arguments);
    }
    pair.assert_a_reaches_b();
}

pub(crate) fn udp4_over_v4(a: Implementation, b: Implementation) {
    udp_of_every_kind(a, b, Outer::V4, Side::inner_v4);
}

pub(crate) fn udp6_over_v6(a: Implementation, b: Implementation) {
    udp_of_every_kind(a, b, Outer::V6, Side::inner_v6);
}

pub(crate) fn udp_unlimited_survives(a: Implementation, b: Implementation) {
    let mut pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    for direction in [&[][..], &["-R"]] {
        let arguments = [&["-u", "-b", "0", "-l", "1372", "-t", "1"], direction].concat();
        iperf3(&pair.a.host, &pair.b.host, Side::B.inner_v4(), &arguments);
    }
    assert_eq!(pair.a.daemon().ended(), None, "the daemon goes on");
    // What is left of the flood in the queues may still crowd a packet out.
    let to_b = Ping::to(Side::B.inner_v4()).count(20, 0.01);
    eventually("twenty pings are answered", || to_b.from(&pair.a.host).all_answered().then_some(()));
}

pub(crate) fn udp_small_packets_in_order(a: Implementation, b: Implementation) {
    const DATAGRAMS: u32 = 20_000;
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let there = Udp::between(&pair.a.host, Side::A.inner_v4(), &pair.b.host, Side::B.inner_v4());
    let back = Udp::between(&pair.b.host, Side::B.inner_v4(), &pair.a.host, Side::A.inner_v4());
    for (name, way) in [("to B", there), ("to A", back)] {
        let arrived = way.burst(DATAGRAMS, 32);
        // Some may be lost for want of room, but not nearly all, and none may be overtaken or doubled.
        assert!(arrived.len() as u32 > DATAGRAMS / 20, "only {} of {DATAGRAMS} arrive {name}", arrived.len());
        let disorder = arrived.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(disorder, None, "{name}: a later datagram overtakes an earlier one, or one comes twice");
    }
}

fn tcp_both_ways(a: Implementation, b: Implementation, outer: Outer, inner: fn(Side) -> IpAddr) {
    let pair = PairBuilder::new(a, b).outer(outer).build();
    tcp_transfer(&pair.a.host, &pair.b.host, inner(Side::B), BULK);
    tcp_transfer(&pair.b.host, &pair.a.host, inner(Side::A), BULK);
}

fn udp_of_every_kind(a: Implementation, b: Implementation, outer: Outer, inner: fn(Side) -> IpAddr) {
    let pair = PairBuilder::new(a, b).outer(outer).build();
    let udp = Udp::between(&pair.a.host, inner(Side::A), &pair.b.host, inner(Side::B));
    // Small and large, below and above the tunnel's MTU; the last are fragmented inside the tunnel.
    udp.echo((0..300).map(|number| number * 31 % 1400).chain([1372, 1373, 2000, 4000, 9000]));
}
