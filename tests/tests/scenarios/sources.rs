//! Which of its own addresses a node answers from, when it has several.

use adit_tests::{Implementation, Outer, Pair, PairBuilder, Side, eventually, tcp_transfer};

pub(crate) fn sticky_source_v4(a: Implementation, b: Implementation) {
    answers_from_the_address_that_was_asked(a, b, Outer::V4);
}

pub(crate) fn sticky_source_v6(a: Implementation, b: Implementation) {
    answers_from_the_address_that_was_asked(a, b, Outer::V6);
}

pub(crate) fn sticky_source_handshake(a: Implementation, b: Implementation) {
    let pair = with_second_address(a, b, Outer::V4);
    // What leaves from the first address is lost, the answer to the handshake as well.
    pair.b.host.filter_input("ip saddr 10.0.0.1 udp sport 51820 drop");
    pair.assert_b_reaches_a();
}

pub(crate) fn source_falls_over_v4(a: Implementation, b: Implementation) {
    falls_over_when_the_address_goes(a, b, Outer::V4);
}

pub(crate) fn source_falls_over_v6(a: Implementation, b: Implementation) {
    falls_over_when_the_address_goes(a, b, Outer::V6);
}

fn answers_from_the_address_that_was_asked(a: Implementation, b: Implementation, outer: Outer) {
    let pair = with_second_address(a, b, outer);
    pair.assert_b_reaches_a();
    assert_eq!(pair.a_seen_by_b().endpoint, second_endpoint(outer), "after the first packets");
    pair.assert_a_reaches_b();
    assert_eq!(pair.a_seen_by_b().endpoint, second_endpoint(outer), "after a packet that A began with");
    tcp_transfer(&pair.b.host, &pair.a.host, Side::A.inner_v4(), 4 << 20);
    tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 4 << 20);
    assert_eq!(pair.a_seen_by_b().endpoint, second_endpoint(outer), "after runs of packets");
}

fn falls_over_when_the_address_goes(a: Implementation, b: Implementation, outer: Outer) {
    let pair = with_second_address(a, b, outer);
    pair.assert_b_reaches_a();
    pair.a.host.ip(&format!("address delete {} dev eth0", second_address(outer)));
    eventually("A sends from the address that is left", || pair.a_reaches_b().then_some(()));
    assert_eq!(pair.a_seen_by_b().endpoint, Side::A.endpoint(outer));
    pair.assert_b_reaches_a();
}

/// A has a second address, which is not the one that its kernel would choose, and B knows it by that address.
fn with_second_address(a: Implementation, b: Implementation, outer: Outer) -> Pair {
    let pair = Pair::unconfigured(a, b);
    // An address that is no longer preferred is chosen only when it is asked for; IPv4 prefers the first anyway.
    let deprecated = if outer == Outer::V6 { "preferred_lft 0 nodad" } else { "" };
    pair.a.host.ip(&format!("address add {} dev eth0 {deprecated}", second_address(outer)));
    PairBuilder::new(a, b).outer(outer).only_b_begins().configure_a(&pair);
    pair.b.configure(Some(51820), &[pair.peer_a().at(second_endpoint(outer))]);
    pair.b.up(&[&format!("{}/24", Side::B.inner_v4())], 1420);
    pair
}

fn second_address(outer: Outer) -> &'static str {
    match outer {
        Outer::V4 => "10.0.0.101/24",
        Outer::V6 => "fd00:a::101/64",
    }
}

fn second_endpoint(outer: Outer) -> &'static str {
    match outer {
        Outer::V4 => "10.0.0.101:51820",
        Outer::V6 => "[fd00:a::101]:51820",
    }
}
