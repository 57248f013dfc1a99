//! From which of this host's addresses packets leave where several links lead to the peer.

use std::net::SocketAddr;
use std::time::Duration;

use adit_tests::Implementation::Adit;
use adit_tests::{Host, Outer, Pair, PairBuilder, Ping, Side, eventually, for_a_while};

/// Two nodes with two links between them, and an address of B's that is on neither.
pub(super) fn pair_with_two_links() -> Pair {
    let pair = Pair::unconfigured(Adit, Adit);
    pair.a.host.join("eth1", &pair.b.host, "eth1");
    for side in [Side::A, Side::B] {
        let host = if side == Side::A { &pair.a.host } else { &pair.b.host };
        host.add_address(&format!("{}/24", on_eth1(side, Outer::V4)), "eth1");
        host.add_address(&format!("{}/64", on_eth1(side, Outer::V6)), "eth1");
        // From this the kernel asks for neighbours, whatever the source of the packet that waits.
        for interface in ["eth0", "eth1"] {
            host.add_address(&format!("fe80::{}/64", side.number()), interface);
        }
        for interface in ["all", "eth0", "eth1"] {
            host.set(&format!("ipv4/conf/{interface}/rp_filter"), "0");
            // No link answers for an address that is not its own, or asks in its name.
            host.set(&format!("ipv4/conf/{interface}/arp_ignore"), "1");
            host.set(&format!("ipv4/conf/{interface}/arp_announce"), "2");
        }
    }
    for outer in [Outer::V4, Outer::V6] {
        pair.b.host.ip(&format!("address add {} dev lo", on_no_link(Side::B, outer)));
    }
    pair
}

pub(super) fn on_eth1(side: Side, outer: Outer) -> String {
    match outer {
        Outer::V4 => format!("10.1.0.{}", side.number()),
        Outer::V6 => format!("fd00:b::{}", side.number()),
    }
}

pub(super) fn on_no_link(side: Side, outer: Outer) -> String {
    match outer {
        Outer::V4 => format!("192.0.2.{}", side.number()),
        Outer::V6 => format!("fd00:c::{}", side.number()),
    }
}

pub(super) fn endpoint(address: &str) -> String {
    SocketAddr::new(address.parse().expect("an address"), 51820).to_string()
}

#[test]
fn an_answer_takes_the_way_that_the_routes_say_though_the_question_came_by_another() {
    let pair = pair_with_two_links();
    pair.b.host.ip("route replace 10.0.0.0/24 dev eth0 src 192.0.2.2");
    pair.a.host.ip("route add 192.0.2.2/32 via 10.1.0.2 dev eth1");
    PairBuilder::new(Adit, Adit).only_b_begins().configure(&pair);
    pair.assert_b_reaches_a();
    pair.assert_a_reaches_b();
    // And leaves from the address of that way, as soon as it is known to be another: with the kernel's WireGuard as
    // well.
    let other = endpoint(&on_eth1(Side::A, Outer::V4));
    eventually("B hears A by the other link's address", || {
        pair.assert_b_reaches_a();
        (pair.a_seen_by_b().endpoint == other).then_some(())
    });
}

#[test]
fn an_address_that_is_no_links_stays_though_the_question_comes_by_another_link_v4() {
    an_address_that_is_no_links_stays_though_the_question_comes_by_another_link(Outer::V4);
}

#[test]
fn an_address_that_is_no_links_stays_though_the_question_comes_by_another_link_v6() {
    an_address_that_is_no_links_stays_though_the_question_comes_by_another_link(Outer::V6);
}

fn an_address_that_is_no_links_stays_though_the_question_comes_by_another_link(outer: Outer) {
    let ways = TwoWays::new(outer);
    let (a, b) = (&ways.pair.a, &ways.pair.b);
    let (service, family) = (on_no_link(Side::A, outer), if outer == Outer::V6 { "-6" } else { "-4" });
    a.host.ip(&format!("address add {service} dev lo"));
    // B's packets come by eth0, from the address to which the way leads by eth1 now.
    let way = format!("via {} dev eth0 src {}", Side::A.outer(outer), ways.far);
    b.host.ip(&format!("{family} route add {service} {way}"));
    ways.ip(&format!("route replace {} {}", ways.far, ways.by_eth1));
    ways.assert_a_moves_to_eth1();
    b.set(&format!("peer {} endpoint {}", a.keys.public, endpoint(&service)));
    for _ in 0..10 {
        ways.pair.assert_b_reaches_a();
        assert_eq!(ways.a_is_at(), endpoint(&service));
    }
}

/// A tunnel from A to an address of B's that two links lead to, by the first of them.
struct TwoWays {
    pair: Pair,
    outer: Outer,
    /// B's address on neither link.
    far: String,
    /// The ways to that, as a route tells them.
    by_eth0: String,
    by_eth1: String,
}

impl TwoWays {
    fn new(outer: Outer) -> Self {
        let pair = pair_with_two_links();
        let far = on_no_link(Side::B, outer);
        let by_eth0 = format!("via {} dev eth0", Side::B.outer(outer));
        let by_eth1 = format!("via {} dev eth1", on_eth1(Side::B, outer));
        let mut ways = Self { pair, outer, far, by_eth0, by_eth1 };
        ways.ip(&format!("route add {} {}", ways.far, ways.by_eth0));
        ways.ip(&format!("route add default {} table 77", ways.by_eth1));
        ways.ip("rule add fwmark 7 lookup 77");
        PairBuilder::new(Adit, Adit).outer(outer).only_a_begins().configure(&ways.pair);
        ways.pair.a.set(&format!("peer {} endpoint {}", ways.pair.b.keys.public, endpoint(&ways.far)));
        ways.pair.assert_a_reaches_b();
        assert_eq!(ways.a_is_at(), Side::A.endpoint(outer));
        // Over IPv6 only a source that routes have suited is given up when they do so no longer.
        let daemon = ways.pair.a.daemon();
        eventually("A has looked whether routes suit it", || daemon.log().contains("is_good=true").then_some(()));
        ways
    }

    /// Changes A's routes or rules.
    fn ip(&self, change: &str) {
        let family = if self.outer == Outer::V6 { "-6" } else { "-4" };
        self.pair.a.host.ip(&format!("{family} {change}"));
    }

    /// Where B sees A.
    fn a_is_at(&self) -> String {
        self.pair.a_seen_by_b().endpoint
    }

    #[track_caller]
    fn assert_a_moves_to_eth1(&self) {
        let other = endpoint(&on_eth1(Side::A, self.outer));
        // Of its own accord: what A sent before it has looked would have B look for another address too.
        eventually("B hears A by the other link's address", || (self.a_is_at() == other).then_some(()));
        self.pair.assert_a_reaches_b();
        assert_eq!(self.a_is_at(), other);
    }

    /// As long as A only answers, what B sends comes by the link by which A's packets left before.
    #[track_caller]
    fn assert_a_moves_to_eth1_though_b_comes_by_eth0(&self) {
        let (a, b) = (&self.pair.a, &self.pair.b);
        let (before, other) = (Side::A.endpoint(self.outer), endpoint(&on_eth1(Side::A, self.outer)));
        // From the address to which the way has changed.
        let family = if self.outer == Outer::V6 { "-6" } else { "-4" };
        b.host.ip(&format!("{family} route add {} dev eth0 src {}", Side::A.outer(self.outer), self.far));
        eventually("B hears A by the other link's address", || {
            self.pair.assert_b_reaches_a();
            (self.a_is_at() == other).then_some(())
        });
        // However often B calls by that link again.
        for _ in 0..3 {
            b.set(&format!("peer {} endpoint {before}", a.keys.public));
            // The first answer may leave as the question came.
            eventually("B hears A by the other link's address again", || {
                self.pair.assert_b_reaches_a();
                (self.a_is_at() == other).then_some(())
            });
        }
    }
}

#[test]
fn the_source_changes_with_the_link_by_which_the_route_leads_v4() {
    the_source_changes_with_the_link_by_which_the_route_leads(Outer::V4);
}

#[test]
fn the_source_changes_with_the_link_by_which_the_route_leads_v6() {
    the_source_changes_with_the_link_by_which_the_route_leads(Outer::V6);
}

fn the_source_changes_with_the_link_by_which_the_route_leads(outer: Outer) {
    let ways = TwoWays::new(outer);
    ways.ip(&format!("route replace {} {}", ways.far, ways.by_eth1));
    ways.assert_a_moves_to_eth1();
}

#[test]
fn packets_that_come_by_the_link_by_which_the_route_led_do_not_bring_its_address_back_v4() {
    packets_that_come_by_the_link_by_which_the_route_led_do_not_bring_its_address_back(Outer::V4);
}

#[test]
fn packets_that_come_by_the_link_by_which_the_route_led_do_not_bring_its_address_back_v6() {
    packets_that_come_by_the_link_by_which_the_route_led_do_not_bring_its_address_back(Outer::V6);
}

fn packets_that_come_by_the_link_by_which_the_route_led_do_not_bring_its_address_back(outer: Outer) {
    let ways = TwoWays::new(outer);
    ways.ip(&format!("route replace {} {}", ways.far, ways.by_eth1));
    ways.assert_a_moves_to_eth1_though_b_comes_by_eth0();
}

#[test]
fn packets_that_come_by_the_link_that_another_mark_asked_for_do_not_bring_its_address_back_v4() {
    packets_that_come_by_the_link_that_another_mark_asked_for_do_not_bring_its_address_back(Outer::V4);
}

#[test]
fn packets_that_come_by_the_link_that_another_mark_asked_for_do_not_bring_its_address_back_v6() {
    packets_that_come_by_the_link_that_another_mark_asked_for_do_not_bring_its_address_back(Outer::V6);
}

fn packets_that_come_by_the_link_that_another_mark_asked_for_do_not_bring_its_address_back(outer: Outer) {
    let ways = TwoWays::new(outer);
    ways.pair.a.set("fwmark 7");
    ways.assert_a_moves_to_eth1_though_b_comes_by_eth0();
}

#[test]
fn the_source_stays_when_routes_to_elsewhere_change_v4() {
    the_source_stays_when_routes_to_elsewhere_change(Outer::V4);
}

#[test]
fn the_source_stays_when_routes_to_elsewhere_change_v6() {
    the_source_stays_when_routes_to_elsewhere_change(Outer::V6);
}

fn the_source_stays_when_routes_to_elsewhere_change(outer: Outer) {
    let ways = TwoWays::new(outer);
    let (a, b) = (&ways.pair.a, &ways.pair.b);
    // By the routes A would be at its address on eth0; B has reached it by this address, and goes on.
    let reached = on_no_link(Side::A, outer);
    a.host.ip(&format!("address add {reached} dev lo"));
    b.host.ip(&format!("route add {reached} via {} dev eth0", Side::A.outer(outer)));
    b.set(&format!("peer {} endpoint {}", a.keys.public, endpoint(&reached)));
    // For IPv6 the kernel takes a moment before it accepts packets to it.
    eventually("B reaches A there", || ways.pair.b_reaches_a().then_some(()));
    assert_eq!(ways.a_is_at(), endpoint(&reached));
    let elsewhere = if outer == Outer::V4 { "203.0.113." } else { "fd00:d::" };
    for number in 0..10 {
        ways.ip(&format!("route add {elsewhere}{number} {}", ways.by_eth1));
        ways.ip(&format!("route replace {} {}", ways.far, ways.by_eth0));
        ways.pair.assert_a_reaches_b();
        assert_eq!(ways.a_is_at(), endpoint(&reached));
    }
}

#[test]
fn the_source_changes_when_the_link_goes_down_by_which_the_route_led_v4() {
    the_source_changes_when_the_link_goes_down_by_which_the_route_led(Outer::V4);
}

#[test]
fn the_source_changes_when_the_link_goes_down_by_which_the_route_led_v6() {
    the_source_changes_when_the_link_goes_down_by_which_the_route_led(Outer::V6);
}

fn the_source_changes_when_the_link_goes_down_by_which_the_route_led(outer: Outer) {
    let ways = TwoWays::new(outer);
    ways.ip(&format!("route add {} {} metric 2000", ways.far, ways.by_eth1));
    ways.pair.a.host.ip("link set eth0 down");
    // Before the engine wonders why there is no answer, which is after 15 seconds.
    assert!((0..3).any(|_| ways.pair.a_reaches_b()));
    assert_eq!(ways.a_is_at(), endpoint(&on_eth1(Side::A, outer)));
}

/// The kernel says nothing about routes then, but that the link has changed.
#[test]
fn the_source_changes_when_the_link_loses_its_carrier_and_when_it_has_it_again() {
    let ways = TwoWays::new(Outer::V4);
    let (a, b) = (&ways.pair.a.host, &ways.pair.b.host);
    a.set("ipv4/conf/all/ignore_routes_with_linkdown", "1");
    a.set("ipv4/conf/eth0/ignore_routes_with_linkdown", "1");
    ways.ip(&format!("route add {} {} metric 2000", ways.far, ways.by_eth1));
    for (state, address) in [("down", endpoint(&on_eth1(Side::A, Outer::V4))), ("up", Side::A.endpoint(Outer::V4))] {
        b.ip(&format!("link set eth0 {state}"));
        eventually(&format!("with B's end {state}, B hears A at {address}"), || {
            ways.pair.a_reaches_b();
            (ways.a_is_at() == address).then_some(())
        });
    }
}

#[test]
fn the_source_changes_when_a_link_goes_down_while_the_interface_is_in_another_namespace() {
    the_source_changes_when_a_link_goes_down_while_the_interface_is_inside(|_| ());
}

#[test]
fn a_link_of_the_same_number_in_another_namespace_is_not_taken_for_the_own_one() {
    let other = Host::new("other");
    the_source_changes_when_a_link_goes_down_while_the_interface_is_inside(|ways| {
        let a = &ways.pair.a;
        a.host.join("eth2", &other, "eth2");
        assert_eq!(other.link_number("eth2"), a.host.link_number("eth0"));
        other.ip("link set eth2 down");
        // Whoever asks the daemon is answered after it has heard of that.
        let _heard = a.status();
    });
}

fn the_source_changes_when_a_link_goes_down_while_the_interface_is_inside(before: impl FnOnce(&TwoWays)) {
    let ways = TwoWays::new(Outer::V4);
    let (a, inside, to_b) = (&ways.pair.a.host, Host::new("inside"), Ping::to(Side::B.inner_v4()));
    a.ip(&format!("link set wg0 netns {}", inside.network_path()));
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 up");
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
    ways.ip(&format!("route add {} {} metric 2000", ways.far, ways.by_eth1));
    before(&ways);
    a.ip("link set eth0 down");
    // Before the engine wonders why there is no answer, which is after 15 seconds.
    assert!((0..3).any(|_| to_b.from(&inside).all_answered()));
    assert_eq!(ways.a_is_at(), endpoint(&on_eth1(Side::A, Outer::V4)));
}

#[test]
fn an_address_that_goes_in_another_namespace_is_not_taken_for_the_own_one() {
    let ways = TwoWays::new(Outer::V4);
    let (a, b, inside) = (&ways.pair.a, &ways.pair.b, Host::new("inside"));
    // B has reached A by an address that no route would choose.
    let reached = on_no_link(Side::A, Outer::V4);
    a.host.add_address(&format!("{reached}/32"), "lo");
    b.host.ip(&format!("route add {reached} via {} dev eth0 src {}", Side::A.outer(Outer::V4), ways.far));
    b.set(&format!("peer {} endpoint {}", a.keys.public, endpoint(&reached)));
    ways.pair.assert_b_reaches_a();
    a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 up");
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
    inside.add_address(&format!("{reached}/32"), "lo");
    inside.ip(&format!("address delete {reached}/32 dev lo"));
    let _heard = a.status();
    to_b.from(&inside).assert_all_answered();
    assert_eq!(ways.a_is_at(), endpoint(&reached));
}

#[test]
fn the_source_changes_with_a_rule_v4() {
    the_source_changes_with_a_rule(Outer::V4);
}

#[test]
fn the_source_changes_with_a_rule_v6() {
    the_source_changes_with_a_rule(Outer::V6);
}

fn the_source_changes_with_a_rule(outer: Outer) {
    let ways = TwoWays::new(outer);
    ways.ip(&format!("rule add to {} lookup 77", ways.far));
    ways.assert_a_moves_to_eth1();
}

#[test]
fn the_source_changes_with_a_rule_for_a_port_v4() {
    the_source_changes_with_a_rule_for_a_port(Outer::V4);
}

#[test]
fn the_source_changes_with_a_rule_for_a_port_v6() {
    the_source_changes_with_a_rule_for_a_port(Outer::V6);
}

fn the_source_changes_with_a_rule_for_a_port(outer: Outer) {
    for port in ["sport", "dport"] {
        let ways = TwoWays::new(outer);
        ways.ip(&format!("rule add ipproto udp {port} 51820 lookup 77"));
        ways.assert_a_moves_to_eth1();
    }
}

#[test]
fn the_source_stays_that_suits_the_link_of_a_rule_for_a_port_v4() {
    the_source_stays_that_suits_the_link_of_a_rule_for_a_port(Outer::V4);
}

#[test]
fn the_source_stays_that_suits_the_link_of_a_rule_for_a_port_v6() {
    the_source_stays_that_suits_the_link_of_a_rule_for_a_port(Outer::V6);
}

fn the_source_stays_that_suits_the_link_of_a_rule_for_a_port(outer: Outer) {
    let ways = TwoWays::new(outer);
    let (a, b) = (&ways.pair.a, &ways.pair.b);
    ways.ip("rule add ipproto udp sport 51820 lookup 77");
    ways.assert_a_moves_to_eth1();
    // B has reached A by an address that no route would choose.
    let reached = on_no_link(Side::A, outer);
    let (family, len) = if outer == Outer::V6 { ("-6", 128) } else { ("-4", 32) };
    a.host.add_address(&format!("{reached}/{len}"), "lo");
    let way = format!("via {} dev eth1 src {}", on_eth1(Side::A, outer), ways.far);
    b.host.ip(&format!("{family} route add {reached} {way}"));
    b.set(&format!("peer {} endpoint {}", a.keys.public, endpoint(&reached)));
    // For IPv6 the kernel takes a moment before it accepts packets to it.
    eventually("B reaches A there", || ways.pair.b_reaches_a().then_some(()));
    for number in 0..5 {
        ways.pair.assert_b_reaches_a();
        assert_eq!(ways.a_is_at(), endpoint(&reached));
        // With a default route all routes are looked at.
        ways.ip(&format!("route add default {} metric {}", ways.by_eth0, 2000 + number));
        ways.pair.assert_a_reaches_b();
        assert_eq!(ways.a_is_at(), endpoint(&reached));
    }
}

#[test]
fn the_source_changes_with_the_mark_v4() {
    the_source_changes_with_the_mark(Outer::V4);
}

#[test]
fn the_source_changes_with_the_mark_v6() {
    the_source_changes_with_the_mark(Outer::V6);
}

fn the_source_changes_with_the_mark(outer: Outer) {
    let ways = TwoWays::new(outer);
    ways.pair.a.set("fwmark 7");
    ways.pair.assert_a_reaches_b();
    assert_eq!(ways.a_is_at(), endpoint(&on_eth1(Side::A, outer)));
}

/// Where B sees A soon after a change, though A has nothing to send.
#[track_caller]
fn assert_b_learns(pair: &Pair, address: &str) {
    // Before a passive keepalive, or another session.
    let learns = for_a_while(Duration::from_secs(5), || (pair.a_seen_by_b().endpoint == address).then_some(()));
    assert!(learns.is_some(), "B sees A at {}", pair.a_seen_by_b().endpoint);
}

#[test]
fn a_peer_that_is_sent_nothing_learns_of_another_port_at_once() {
    let pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    pair.a.set("listen-port 40000");
    assert_b_learns(&pair, &SocketAddr::new(Side::A.outer(Outer::V4), 40000).to_string());
}

#[test]
fn a_peer_that_is_sent_nothing_learns_at_once_of_the_address_that_takes_the_place_of_another() {
    let pair = PairBuilder::new(Adit, Adit).outer(Outer::V6).build();
    pair.assert_a_reaches_b();
    pair.a.host.add_address("fd00:a::9/64", "eth0");
    pair.a.host.ip(&format!("address delete {}/64 dev eth0", Side::A.outer(Outer::V6)));
    assert_b_learns(&pair, &endpoint("fd00:a::9"));
}
