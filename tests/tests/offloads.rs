//! Segmentation offloads at one end only, at both and at none: the same bytes arrive, whatever each end can do.
//!
//! `--no-offload` is also what a kernel without them gets. The partners of other making have what they have.

use std::net::IpAddr;

use adit_tests::Implementation::{Adit, Boringtun, Gotatun, WireguardGo};
use adit_tests::{Implementation, Launch, Node, Outer, Pair, PairBuilder, Ping, Side, Udp, tcp_transfer};

/// An end of the tunnel: who, and with offloads or without.
type End = (Implementation, Launch);

const ON: End = (Adit, Launch { offloads: true, verbose: true });
const OFF: End = (Adit, Launch::NO_OFFLOAD);

/// Each pair is a test: its name and its two ends.
macro_rules! pairs {
    ($($name:ident: $a:expr, $b:expr;)*) => {$(
        #[test]
        fn $name() {
            tcp_udp_and_pings_arrive_unharmed($a, $b);
        }
    )*};
}

pairs! {
    tcp_udp_and_pings_with_offloads_at_both_ends: ON, ON;
    tcp_udp_and_pings_with_offloads_at_the_first_end: ON, OFF;
    tcp_udp_and_pings_with_offloads_at_the_second_end: OFF, ON;
    tcp_udp_and_pings_with_offloads_at_no_end: OFF, OFF;
    tcp_udp_and_pings_with_offloads_and_wireguard_go: ON, other(WireguardGo);
    tcp_udp_and_pings_without_offloads_and_wireguard_go: OFF, other(WireguardGo);
    tcp_udp_and_pings_with_offloads_and_boringtun: ON, other(Boringtun);
    tcp_udp_and_pings_without_offloads_and_boringtun: OFF, other(Boringtun);
    tcp_udp_and_pings_with_offloads_and_gotatun: ON, other(Gotatun);
    tcp_udp_and_pings_without_offloads_and_gotatun: OFF, other(Gotatun);
}

/// Enough for TCP's windows to open, so that the kernel makes the longest runs it may.
const BULK: usize = 8 << 20;

const MTU: u16 = 1420;

fn other(implementation: Implementation) -> End {
    (implementation, Launch::default())
}

/// Everything both ways, over both families, and nothing may be missing: the wire between the ends loses nothing.
fn tcp_udp_and_pings_arrive_unharmed(a: End, b: End) {
    for outer in [Outer::V4, Outer::V6] {
        let pair = pair(a, b, outer);
        // The first packet of all waits for the handshake.
        pair.assert_a_reaches_b();
        for inner in [Side::inner_v4, Side::inner_v6] {
            let ways = [(&pair.a, &pair.b, inner(Side::B)), (&pair.b, &pair.a, inner(Side::A))];
            for (from, to, address) in ways {
                tcp_transfer(&from.host, &to.host, address, BULK);
                pings(from, address);
            }
            let udp = Udp::between(&pair.a.host, inner(Side::A), &pair.b.host, inner(Side::B));
            udp.echo((0..128).map(|number| number * 11).chain(AROUND_THE_MTU).chain([4000, 9000, 32_000]));
            // A run that the kernel hands over as one, or cuts itself for an end that takes no runs; and what is
            // longer than the first of them must never be.
            udp.segments(40, 1372);
            udp.segments(7, 100);
            udp.segments(60, 1);
        }
        for node in [&pair.a, &pair.b].into_iter().filter(|node| node.implementation.actual() == Adit) {
            assert_eq!(node.shown().drops, Default::default(), "{} dropped something", node.host.label());
        }
    }
}

/// Payloads whose packets end just below, at and above the MTU, over either family, and fragments just so.
const AROUND_THE_MTU: [usize; 9] = [1371, 1372, 1373, 1391, 1392, 1393, 2768, 2789, 2800];

// One at a time: `ping` waits for the last of several for two round trips only, which a busy machine exceeds.
fn pings(from: &Node, to: IpAddr) {
    for length in [MTU - 17, MTU - 1, MTU] {
        Ping::to(to).packet_length(length).from(&from.host).assert_all_answered();
    }
    for payload in [MTU - 27, MTU, 2 * MTU, 9000] {
        Ping::to(to).payload(payload).from(&from.host).assert_all_answered();
    }
}

fn pair(a: End, b: End, outer: Outer) -> Pair {
    let mut pair = Pair::stopped(a.0, b.0);
    for (node, end) in [(&mut pair.a, a), (&mut pair.b, b)] {
        node.start_as(end.1);
        if node.implementation.actual() == Adit {
            let offloads = node.shown().offloads;
            assert_eq!(offloads != "none", end.1.offloads, "offloads in use: {offloads:?}");
        }
    }
    PairBuilder::new(a.0, b.0).outer(outer).mtu(MTU.into()).configure(&pair);
    pair
}
