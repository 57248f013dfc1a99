//! What `wg` shows and sets.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use adit_tests::{Implementation, Keys, Node, Outer, Pair, Peer, Side, Status, preshared_key};

pub(crate) fn show_dump(a: Implementation) {
    let node = Node::new(a, "A");
    let (first, second, key) = (Keys::generate(), Keys::generate(), preshared_key());
    let peers = [
        Peer::new(&first, "10.1.0.0/16,fd01::/64").at("10.0.0.9:9").with_preshared_key(Some(&key)).with_keepalive(25),
        Peer::new(&second, "").at("[fd00:a::9]:9"),
    ];
    node.configure(Some(40000), &peers);
    let status = node.status();
    assert_eq!(status.private_key, node.keys.private);
    assert_eq!(status.public_key, node.keys.public);
    assert_eq!(status.listen_port, 40000);
    assert_eq!(status.fwmark, "off");
    assert_eq!(status.peers.len(), 2);
    let peer = node.peer(&first);
    assert_eq!(peer.preshared_key, key);
    assert_eq!(peer.endpoint, "10.0.0.9:9");
    assert_eq!(peer.allowed_ips, ["10.1.0.0/16", "fd01::/64"]);
    assert_eq!((peer.latest_handshake, peer.received, peer.sent), (0, 0, 0));
    assert_eq!(peer.persistent_keepalive, "25");
    let peer = node.peer(&second);
    assert_eq!(peer.preshared_key, "(none)");
    assert_eq!(peer.endpoint, "[fd00:a::9]:9");
    assert_eq!(peer.allowed_ips, [""; 0]);
    assert_eq!(peer.persistent_keepalive, "off");
    assert!(node.wg("show all dump").starts_with("wg0\t"));
}

pub(crate) fn latest_handshake_is_epoch_time(a: Implementation, b: Implementation) {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs();
    let pair = Pair::new(a, b);
    let before = now();
    pair.assert_a_reaches_b();
    let handshake = pair.b_seen_by_a().latest_handshake;
    // Seconds may be cut or rounded.
    assert!((before - 1..=now() + 1).contains(&handshake), "{handshake} is not between {before} and {}", now());
}

pub(crate) fn showconf_setconf_roundtrip(a: Implementation) {
    let node = Node::new(a, "A");
    let key = preshared_key();
    let peers = [
        Peer::new(&Keys::generate(), "10.1.0.0/16,fd01::/64").at("10.0.0.9:9").with_keepalive(25),
        Peer::new(&Keys::generate(), "0.0.0.0/0,::/0").at("[fd00:a::9]:9").with_preshared_key(Some(&key)),
        Peer::new(&Keys::generate(), ""),
    ];
    node.configure(Some(40000), &peers);
    node.set("fwmark 0x2a");
    let before = sorted(node.status());
    let text = node.wg("showconf wg0");
    node.try_wg("setconf wg0 /dev/stdin", &text).success();
    assert_eq!(sorted(node.status()), before, "set over itself");
    node.try_wg("setconf wg0 /dev/stdin", &node.configuration(Some(40001), &[])).success();
    assert_eq!(node.status().peers, []);
    node.try_wg("setconf wg0 /dev/stdin", &text).success();
    assert_eq!(sorted(node.status()), before, "set over another");
}

pub(crate) fn syncconf_and_addconf(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    let before = pair.b_seen_by_a();
    let (second, third) = (Keys::generate(), Keys::generate());
    let sync = |peers: &[Peer]| {
        let configuration = pair.a.configuration(Some(51820), peers);
        pair.a.try_wg("syncconf wg0 /dev/stdin", &configuration).success();
    };
    let keys = || -> BTreeSet<String> { pair.a.status().peers.into_iter().map(|peer| peer.public_key).collect() };
    let expected = |all: &[&Keys]| -> BTreeSet<String> { all.iter().map(|keys| keys.public.clone()).collect() };

    sync(&[pair.peer_b(), Peer::new(&second, "10.1.0.0/16")]);
    assert_eq!(keys(), expected(&[&pair.b.keys, &second]));
    pair.a.try_wg("addconf wg0 /dev/stdin", &Peer::new(&third, "10.2.0.0/16").section()).success();
    assert_eq!(keys(), expected(&[&pair.b.keys, &second, &third]));
    let wider = Peer { allowed_ips: format!("{},10.3.0.0/16", Side::B.allowed_ips()), ..pair.peer_b() };
    sync(&[wider, Peer::new(&third, "10.2.0.0/16")]);
    assert_eq!(keys(), expected(&[&pair.b.keys, &third]));
    assert!(pair.b_seen_by_a().allowed_ips.contains(&"10.3.0.0/16".to_owned()));

    pair.assert_a_reaches_b();
    let after = pair.b_seen_by_a();
    assert_eq!(after.latest_handshake, before.latest_handshake, "the session is kept");
    assert_eq!(after.endpoint, Side::B.endpoint(Outer::V4));
    assert!(after.sent > before.sent, "the counters go on");
}

pub(crate) fn allowed_ips_are_masked(a: Implementation) {
    let node = Node::new(a, "A");
    let keys = Keys::generate();
    node.configure(None, &[Peer::new(&keys, "10.1.2.3/8,192.168.99.255/25,fd01:2:3::4/48,10.9.9.9")]);
    let expected = ["10.0.0.0/8", "10.9.9.9/32", "192.168.99.128/25", "fd01:2:3::/48"];
    assert_eq!(node.peer(&keys).allowed_ips, expected);
}

pub(crate) fn big_config_one_peer(a: Implementation) {
    let node = Node::new(a, "A");
    let keys = Keys::generate();
    let v4 = (0..5000).map(|number| format!("10.{}.{}.0/24", number / 250, number % 250));
    let v6 = (0..5000).map(|number| format!("fd01:{:x}::/32", number + 1));
    let allowed_ips: BTreeSet<String> = v4.chain(v6.map(|ip| ip.replace("/32", "/48"))).collect();
    let list: Vec<String> = allowed_ips.iter().cloned().collect();
    node.configure(None, &[Peer::new(&keys, &list.join(","))]);
    assert!(node.peer(&keys).allowed_ips.into_iter().collect::<BTreeSet<_>>() == allowed_ips, "other allowed IPs");
}

pub(crate) fn big_config_many_peers(a: Implementation) {
    const PEERS: u32 = 5000;
    let pair = Pair::new(a, a);
    let nobody = |number| Peer::nobody(number, &format!("10.{}.{}.0/24", number / 250, number % 250)).with_keepalive(0);
    let mut peers: Vec<Peer> = (1..=PEERS).map(nobody).collect();
    peers.push(pair.peer_b());
    pair.a.configure(Some(51820), &peers);
    let status = pair.a.status();
    let keys: BTreeSet<String> = status.peers.iter().map(|peer| peer.public_key.clone()).collect();
    assert!(keys == peers.iter().map(|peer| peer.public_key.clone()).collect(), "{} peers", keys.len());
    let last = Peer::nobody(PEERS, "");
    let found = status.peers.iter().find(|peer| peer.public_key == last.public_key).expect("the last peer");
    assert_eq!(found.allowed_ips, ["10.20.0.0/24"]);
    pair.assert_a_reaches_b();
}

fn sorted(mut status: Status) -> Status {
    status.peers.sort_by(|one, other| one.public_key.cmp(&other.public_key));
    status
}
