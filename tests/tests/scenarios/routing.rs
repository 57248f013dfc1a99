//! Which peer a packet goes to, which it may come from, and the routes around a tunnel.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_tests::{
    Daemon, Host, Implementation, Keys, Outer, Pair, Peer, Ping, Side, Trio, Udp, eventually, for_a_while,
};

pub(crate) fn inner_source_filter(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    assert!(!forged_packet_arrives(&pair), "a source that is nobody's gets through");
    pair.a.set(&format!("peer {} allowed-ips {},{FORGED}/32", pair.b.keys.public, Side::B.allowed_ips()));
    assert!(forged_packet_arrives(&pair), "a source that is the peer's does not get through");
}

pub(crate) fn more_specific_other_peer_steals(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.a.set(&format!("peer {} allowed-ips 192.168.7.0/24,192.168.7.2/32", pair.b.keys.public));
    assert!(forged_packet_arrives(&pair), "a source within the peer's prefix does not get through");
    let other = Keys::generate().public;
    pair.a.set(&format!("peer {other} allowed-ips {FORGED}/32"));
    assert!(!forged_packet_arrives(&pair), "a source that another peer owns gets through");
    pair.a.set(&format!("peer {other} remove"));
    assert!(forged_packet_arrives(&pair), "the prefix does not count again when the other peer is gone");
}

pub(crate) fn filtered_packet_still_roams(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    pair.b.move_port(40000);
    let forged = forged_source(&pair);
    eventually("A follows a packet that is authentic, though its source is filtered", || {
        forged.send(b"forged").expect("send");
        (pair.b_seen_by_a().endpoint == "10.0.0.2:40000").then_some(())
    });
    assert_eq!(forged.receive_within(Duration::from_millis(100)), None);
}

pub(crate) fn allowed_ip_moves_between_peers(a: Implementation, b: Implementation) {
    let trio = Trio::new(a, b, "192.168.7.2/32,10.9.0.1/32", "192.168.7.3/32", "192.168.7.1/32");
    for node in [&trio.b, &trio.c] {
        node.host.ip("address add 10.9.0.1/32 dev lo");
    }
    trio.assert_answers("10.9.0.1", &trio.b);
    trio.a.set(&format!("peer {} allowed-ips 192.168.7.3/32,10.9.0.1/32", trio.c.keys.public));
    assert_eq!(trio.a.peer(&trio.b.keys).allowed_ips, ["192.168.7.2/32"]);
    assert_eq!(trio.a.peer(&trio.c.keys).allowed_ips, ["10.9.0.1/32", "192.168.7.3/32"]);
    trio.assert_answers("10.9.0.1", &trio.c);
    trio.assert_answers("192.168.7.2", &trio.b);
}

pub(crate) fn longest_prefix_chooses_peer(a: Implementation, b: Implementation) {
    let trio = Trio::new(a, b, "10.9.0.0/16,10.9.1.128/25", "10.9.1.0/24,192.168.7.3/32", "192.168.7.1/32");
    for node in [&trio.b, &trio.c] {
        for address in ["10.9.1.1/32", "10.9.1.129/32", "10.9.2.1/32"] {
            node.host.ip(&format!("address add {address} dev lo"));
        }
    }
    trio.assert_answers("10.9.1.1", &trio.c);
    trio.assert_answers("10.9.1.129", &trio.b);
    trio.assert_answers("10.9.2.1", &trio.b);
    trio.assert_answers("192.168.7.3", &trio.c);
}

pub(crate) fn three_namespaces_hub(a: Implementation, b: Implementation) {
    let trio = Trio::new(a, b, "192.168.7.2/32", "192.168.7.3/32", "192.168.7.0/24");
    trio.a.host.set("ipv4/ip_forward", "1");
    let to = |address: &str| Ping::to(address.parse().expect("an address"));
    to("192.168.7.3").count(10, 0.02).from(&trio.b.host).assert_all_answered();
    to("192.168.7.2").count(10, 0.02).from(&trio.c.host).assert_all_answered();
    adit_tests::tcp_transfer(&trio.b.host, &trio.c.host, "192.168.7.3".parse().expect("an address"), 4 << 20);
}

pub(crate) fn fwmark_on_outer_packets(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.b.host.ip("address add 10.5.5.5/32 dev lo");
    pair.a.host.ip("route add 10.5.5.5/32 via 10.0.0.2 table 100");
    pair.a.host.ip("rule add fwmark 0x1234 lookup 100");
    pair.a.configure(Some(51820), &[pair.peer_b().at("10.5.5.5:51820")]);
    let ping = Ping::to(Side::B.inner_v4()).patience(1);
    assert!(!ping.from(&pair.a.host).all_answered(), "without the mark there is no route");
    pair.a.set("fwmark 0x1234");
    assert_eq!(pair.a.status().fwmark, "0x1234");
    eventually("marked packets reach B", || ping.from(&pair.a.host).all_answered().then_some(()));
    pair.a.set("fwmark off");
    assert_eq!(pair.a.status().fwmark, "off");
}

pub(crate) fn fwmark_default_route(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    // B is reached by A's default route outside, and is the whole world inside.
    pair.b.host.ip("address add 10.5.5.5/32 dev lo");
    pair.b.host.ip("address add 203.0.113.1/32 dev lo");
    pair.a.host.ip("route add default via 10.0.0.2");
    let everything = Peer { allowed_ips: "0.0.0.0/0,::/0".to_owned(), ..pair.peer_b() };
    pair.a.configure(Some(51820), &[everything.at("10.5.5.5:51820")]);
    pair.a.set("fwmark 51820");
    pair.a.host.ip("route add default dev wg0 table 51820");
    pair.a.host.ip("rule add not fwmark 51820 table 51820");
    pair.a.host.ip("rule add table main suppress_prefixlength 0");
    let world: IpAddr = "203.0.113.1".parse().expect("an address");
    Ping::to(world).source(Side::A.inner_v4()).count(10, 0.05).from(&pair.a.host).assert_all_answered();
    adit_tests::tcp_transfer(&pair.a.host, &pair.b.host, world, 4 << 20);
}

pub(crate) fn routing_loop_survives(a: Implementation, b: Implementation) {
    let mut pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    // The partner's endpoint is now inside the very tunnel that leads to it.
    pair.a.set(&format!("peer {} endpoint {}:51820", pair.b.keys.public, Side::B.inner_v4()));
    let to_b = Ping::to(Side::B.inner_v4()).patience(1);
    assert!(!to_b.clone().count(3, 0.01).from(&pair.a.host).all_answered(), "there is no loop to survive");
    let (from, used) = (Instant::now(), pair.a.daemon().cpu_seconds());
    let gone = for_a_while(Duration::from_secs(2), || pair.a.daemon().ended());
    assert_eq!(gone, None, "the daemon goes on");
    let load = (pair.a.daemon().cpu_seconds() - used) / from.elapsed().as_secs_f64();
    assert!(load < 0.2, "the loop keeps {:.0} % of a processor busy", load * 100.0);

    pair.a.set(&format!("peer {} endpoint {}", pair.b.keys.public, Side::B.endpoint(Outer::V4)));
    eventually("the tunnel works again", || to_b.from(&pair.a.host).all_answered().then_some(()));
}

pub(crate) fn tunnel_in_tunnel(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    let inner = [(&pair.a, Side::A, Side::B), (&pair.b, Side::B, Side::A)];
    let keys = [Keys::generate(), Keys::generate()];
    let daemons = inner.map(|(node, ..)| Daemon::start(node.implementation, &node.host, "wg1"));
    for (number, (node, own, other)) in inner.into_iter().enumerate() {
        let peer = Peer::new(&keys[1 - number], "192.168.8.0/24").at(&format!("{}:51821", other.inner_v4()));
        let configuration =
            format!("[Interface]\nPrivateKey = {}\nListenPort = 51821\n{}", keys[number].private, peer.section());
        node.try_wg("setconf wg1 /dev/stdin", &configuration).success();
        let address = if own == Side::A { "192.168.8.1/24" } else { "192.168.8.2/24" };
        node.host.add_address(address, "wg1");
        node.host.ip("link set wg1 mtu 1340 up");
    }
    let there: IpAddr = "192.168.8.2".parse().expect("an address");
    Ping::to(there).packet_length(1340).from(&pair.a.host).assert_all_answered();
    adit_tests::tcp_transfer(&pair.a.host, &pair.b.host, there, 4 << 20);
    drop(daemons);
}

pub(crate) fn tun_moved_to_other_netns(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let inside = Host::new("inside");
    pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 up");
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
    Ping::to(Side::B.inner_v4()).count(5, 0.05).from(&inside).assert_all_answered();
    Ping::to(Side::A.inner_v4()).count(5, 0.05).from(&pair.b.host).assert_all_answered();
    assert!(!pair.a.wg("show wg0 peers").is_empty(), "the socket stays where the daemon is");
}

/// An address of B's that A does not expect from it.
const FORGED: &str = "192.168.7.99";

/// A socket on B with that address, and one on A that it sends to.
fn forged_source(pair: &Pair) -> Udp {
    let address: IpAddr = FORGED.parse().expect("an address");
    if !pair.b.host.ip("address show dev wg0").contains(FORGED) {
        pair.b.host.add_address(&format!("{FORGED}/32"), "wg0");
    }
    Udp::between(&pair.b.host, address, &pair.a.host, Side::A.inner_v4())
}

fn forged_packet_arrives(pair: &Pair) -> bool {
    let forged = forged_source(pair);
    let honest = Udp::between(&pair.b.host, Side::B.inner_v4(), &pair.a.host, Side::A.inner_v4());
    honest.echo([10]);
    forged.send(b"forged").expect("send");
    honest.echo([10]);
    forged.receive_within(Duration::from_millis(300)).is_some()
}
