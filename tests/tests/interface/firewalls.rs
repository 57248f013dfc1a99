//! Peers behind a firewall that lets in only what comes from the address that they have reached.

use std::time::Duration;

use adit_tests::Implementation::Adit;
use adit_tests::{Outer, Pair, PairBuilder, Side, eventually, for_a_while};

use super::ways::{endpoint, on_eth1, on_no_link, pair_with_two_links};

/// B, which is on neither link, reaches A at this address by `link`, and hears nothing from another. A's way to B is
/// not made here.
fn b_hears_only(reached: &str, link: &str, outer: Outer) -> Pair {
    let pair = pair_with_two_links();
    let (family, ip) = if outer == Outer::V6 { ("-6", "ip6") } else { ("-4", "ip") };
    let own = on_no_link(Side::B, outer);
    let way = [family, "route", "add", reached, "dev", link, "src", &own];
    // For IPv6 the kernel takes a moment before packets may leave from an address.
    eventually("B can send from its address", || pair.b.host.run("ip", &way).is_success().then_some(()));
    pair.b.host.filter_input(&format!("udp dport 51820 {ip} saddr != {reached} drop"));
    PairBuilder::new(Adit, Adit).outer(outer).only_b_begins().configure(&pair);
    pair.b.set(&format!("peer {} endpoint {}", pair.a.keys.public, endpoint(reached)));
    pair
}

/// The kernel says nothing about IPv4 routes that vanish with their link.
#[test]
fn a_source_that_was_rejected_for_a_way_by_another_link_is_good_again_when_that_link_is_lost() {
    const REACHED: &str = "10.0.0.101";
    let pair = b_hears_only(REACHED, "eth0", Outer::V4);
    let (a, far) = (&pair.a.host, on_no_link(Side::B, Outer::V4));
    a.add_address(&format!("{REACHED}/24"), "eth0");
    a.ip(&format!("route add {far} via 10.0.0.2 dev eth0 metric 20"));
    pair.assert_b_reaches_a();
    for lost in ["link set eth1 down", "link delete eth1"] {
        a.ip("link set eth1 up");
        a.ip(&format!("route add {far} via 10.1.0.2 dev eth1 metric 10"));
        eventually("answers take the other way", || (!pair.b_reaches_a()).then_some(()));
        a.ip(lost);
        eventually(&format!("after {lost} they are heard again"), || pair.b_reaches_a().then_some(()));
    }
}

/// The kernel's WireGuard and wireguard-go work there, too.
#[test]
fn a_source_over_ipv6_that_the_routes_never_suited_stays_whatever_else_changes() {
    let reached = on_eth1(Side::A, Outer::V6);
    let pair = b_hears_only(&reached, "eth1", Outer::V6);
    let (a, b, far) = (&pair.a, &pair.b.keys.public, on_no_link(Side::B, Outer::V6));
    let by_eth1 = format!("-6 route replace {far} via {} dev eth1", on_eth1(Side::B, Outer::V6));
    let by_eth0 = format!("-6 route replace {far} via {} dev eth0", Side::B.outer(Outer::V6));
    eventually("a source that was good is given up when routes lead elsewhere", || {
        a.host.ip(&by_eth1);
        pair.assert_b_reaches_a();
        // It may not have been judged so far.
        a.host.ip(&by_eth0);
        for_a_while(Duration::from_secs(1), || (!pair.b_reaches_a()).then_some(()))
    });
    // Now that all changes have been looked at, B is somebody who has reached nothing yet.
    pair.b.set(&format!("peer {} remove", a.keys.public));
    a.set(&format!("peer {b} remove"));
    a.set(&format!("peer {b} allowed-ips {}", Side::B.allowed_ips()));
    let (to, allowed_ips) = (endpoint(&reached), Side::A.allowed_ips());
    pair.b.set(&format!("peer {} endpoint {to} allowed-ips {allowed_ips}", a.keys.public));
    eventually("B is answered from where it called", || pair.b_reaches_a().then_some(()));
    let stays = || {
        for _ in 0..10 {
            pair.assert_b_reaches_a();
            assert_eq!(pair.a_seen_by_b().endpoint, endpoint(&reached));
        }
    };
    stays();
    let adit = Adit.binary();
    a.host.run(adit.to_str().expect("a path in UTF-8"), &["reload", "wg0"]).success();
    stays();
    // News that change nothing for B.
    a.host.ip("link add eth2 type veth peer name eth3");
    for news in ["link set eth0 promisc on", "link set eth2 up", "link set eth3 up", "-6 route add default dev eth0"] {
        a.host.ip(news);
        stays();
    }
}
