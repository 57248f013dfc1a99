//! Peers behind a firewall that lets in only what comes from the address that they have reached.

use adit_tests::Implementation::Adit;
use adit_tests::{Outer, Pair, PairBuilder, Side, eventually};

use super::ways::{endpoint, on_no_link, pair_with_two_links};

/// B, which is on neither link, reaches A at this address by `link`, and hears nothing from another. A's way to B is not
/// made here.
fn b_hears_only(reached: &str, link: &str, outer: Outer) -> Pair {
    let pair = pair_with_two_links();
    let (family, ip) = if outer == Outer::V6 { ("-6", "ip6") } else { ("-4", "ip") };
    pair.b.host.ip(&format!("{family} route add {reached} dev {link} src {}", on_no_link(Side::B, outer)));
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
