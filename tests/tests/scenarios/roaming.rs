//! Nodes that move to other addresses and ports, and tunnels that live behind something.

use std::process::Command;
use std::time::Duration;

use adit_tests::{Host, Implementation, Node, Outer, Pair, PairBuilder, Peer, Ping, Side, eventually, stays};

pub(crate) fn roam_address_v4(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    if b != Implementation::Boringtun {
        // Boringtun's socket stays connected from the address that is gone.
        move_host(&pair.b.host, "10.0.0.2/24", "10.0.0.12/24");
        eventually("B reaches A from its new address", || pair.b_reaches_a().then_some(()));
        assert_eq!(pair.b_seen_by_a().endpoint, "10.0.0.12:51820");
        pair.assert_a_reaches_b();
    }
    move_host(&pair.a.host, "10.0.0.1/24", "10.0.0.11/24");
    eventually("A reaches B from its new address", || pair.a_reaches_b().then_some(()));
    assert_eq!(pair.a_seen_by_b().endpoint, "10.0.0.11:51820");
    pair.assert_b_reaches_a();
}

pub(crate) fn roam_port(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let handshake = pair.b_seen_by_a().latest_handshake;
    pair.b.move_port(40000);
    pair.assert_b_reaches_a();
    assert_eq!(pair.b_seen_by_a().endpoint, "10.0.0.2:40000");
    pair.assert_a_reaches_b();
    assert_eq!(pair.b_seen_by_a().latest_handshake, handshake, "roaming needs no handshake");
}

pub(crate) fn roam_v4_to_v6_and_back(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    if b != Implementation::Boringtun {
        // Boringtun cannot be told another endpoint of a peer that it has.
        for outer in [Outer::V6, Outer::V4] {
            pair.b.set(&format!("peer {} endpoint {}", pair.a.keys.public, Side::A.endpoint(outer)));
            // Gotatun loses its session when it is told, and may wait with the next.
            eventually("B reaches A at its other address", || pair.b_reaches_a().then_some(()));
            assert_eq!(pair.b_seen_by_a().endpoint, Side::B.endpoint(outer));
            pair.assert_a_reaches_b();
        }
    }
    for outer in [Outer::V6, Outer::V4] {
        pair.a.set(&format!("peer {} endpoint {}", pair.b.keys.public, Side::B.endpoint(outer)));
        pair.assert_a_reaches_b();
        assert_eq!(pair.a_seen_by_b().endpoint, Side::A.endpoint(outer));
        pair.assert_b_reaches_a();
    }
}

pub(crate) fn endpoint_change_mid_session(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let handshake = pair.b_seen_by_a().latest_handshake;
    pair.b.host.add_address("10.0.0.12/24", "eth0");
    pair.b.host.filter_input("ip daddr 10.0.0.2 udp dport 51820 drop");
    pair.a.set(&format!("peer {} endpoint 10.0.0.12:51820", pair.b.keys.public));
    assert_eq!(pair.b_seen_by_a().endpoint, "10.0.0.12:51820");
    pair.assert_a_reaches_b();
    assert_eq!(pair.b_seen_by_a().latest_handshake, handshake, "the session is kept");
}

pub(crate) fn listen_port_change(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    pair.a.set("listen-port 40000");
    assert_eq!(pair.a.status().listen_port, 40000);
    pair.assert_a_reaches_b();
    assert_eq!(pair.a_seen_by_b().endpoint, "10.0.0.1:40000");
    pair.assert_b_reaches_a();
}

pub(crate) fn listen_port_zero_is_random(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    pair.a.set("listen-port 0");
    pair.assert_a_reaches_b();
    let port = pair.a.status().listen_port;
    assert!(port > 1023, "port {port}");
    assert_eq!(pair.a_seen_by_b().endpoint, format!("10.0.0.1:{port}"));
    pair.assert_b_reaches_a();
}

pub(crate) fn works_without_listen_port(a: Implementation, b: Implementation) {
    let pair = Pair::unconfigured(a, b);
    PairBuilder::new(a, b).only_a_begins().configure_b(&pair);
    pair.a.configure(None, &[pair.peer_b()]);
    pair.a.up(&[&format!("{}/24", Side::A.inner_v4())], 1420);
    pair.assert_a_reaches_b();
    let port = pair.a.status().listen_port;
    assert_eq!(pair.a_seen_by_b().endpoint, format!("10.0.0.1:{port}"));
    pair.assert_b_reaches_a();
}

pub(crate) fn nat_persistent_keepalive(a: Implementation, b: Implementation) {
    let (a, b, nat) = (Node::new(a, "A"), Node::new(b, "B"), Host::new("NAT"));
    nat.join("inside", &a.host, "eth0");
    nat.join("outside", &b.host, "eth0");
    nat.add_address("10.0.0.254/24", "inside");
    nat.add_address("10.0.1.1/24", "outside");
    a.host.add_address("10.0.0.1/24", "eth0");
    a.host.ip("route add default via 10.0.0.254");
    b.host.add_address("10.0.1.2/24", "eth0");
    nat.set("ipv4/ip_forward", "1");
    nat.translate_output("oifname outside masquerade random");
    nat.set("netfilter/nf_conntrack_udp_timeout", "2");
    nat.set("netfilter/nf_conntrack_udp_timeout_stream", "2");

    a.configure(Some(51820), &[Peer::new(&b.keys, "192.168.7.2/32").at("10.0.1.2:51820").with_keepalive(1)]);
    b.configure(Some(51820), &[Peer::new(&a.keys, "192.168.7.1/32")]);
    a.up(&["192.168.7.1/24"], 1420);
    b.up(&["192.168.7.2/24"], 1420);

    // Six datagrams, with the handshake, take longer than the translation is kept without any.
    let keepalives = || {
        let before = b.host.datagrams_received();
        eventually("keepalives arrive", || (b.host.datagrams_received() >= before + 6).then_some(()));
    };
    keepalives();
    let endpoint = b.peer(&a.keys).endpoint;
    assert!(endpoint.starts_with("10.0.1.1:"), "B sees the address of the translation, not {endpoint}");
    Ping::to(Side::A.inner_v4()).from(&b.host).assert_all_answered();
    keepalives();
    assert_eq!(b.peer(&a.keys).endpoint, endpoint, "the translation was kept");
    Ping::to(Side::A.inner_v4()).from(&b.host).assert_all_answered();
}

pub(crate) fn persistent_keepalive_without_traffic(a: Implementation, b: Implementation) {
    let pair = Pair::unconfigured(a, b);
    PairBuilder::new(a, b).only_a_begins().configure_b(&pair);
    pair.a.configure(Some(51820), &[pair.peer_b().with_keepalive(1)]);
    assert_eq!(pair.b_seen_by_a().persistent_keepalive, "1");
    pair.a.host.ip("link set wg0 up");
    eventually("a handshake with nothing to send", || (pair.a_seen_by_b().latest_handshake > 0).then_some(()));
    let before = pair.b.host.datagrams_received();
    eventually("keepalives arrive", || (pair.b.host.datagrams_received() >= before + 3).then_some(()));
    pair.a.set(&format!("peer {} persistent-keepalive off", pair.b.keys.public));
    assert_eq!(pair.b_seen_by_a().persistent_keepalive, "off");
    let last = pair.b.host.datagrams_received();
    // One may have been on its way.
    stays("no more keepalives", Duration::from_secs(3), || pair.b.host.datagrams_received() <= last + 1);
}

pub(crate) fn handshake_retry_when_partner_late(a: Implementation, b: Implementation) {
    let mut pair = Pair::stopped(a, b);
    pair.a.start();
    PairBuilder::new(a, b).configure_a(&pair);
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-c", "1", "-W", "30", &Side::B.inner_v4().to_string()]);
    let mut ping = pair.a.host.start(ping);
    eventually("A begins a handshake", || (pair.b_seen_by_a().sent > 0).then_some(()));
    pair.b.start();
    PairBuilder::new(a, b).only_a_begins().configure_b(&pair);
    assert!(ping.wait().success(), "the packet that began the handshake is kept until the partner answers");
}

fn move_host(host: &Host, from: &str, to: &str) {
    host.ip(&format!("address delete {from} dev eth0"));
    host.add_address(to, "eth0");
}
