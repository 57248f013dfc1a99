//! Whoever sends a packet that no peer takes is told so, and does not wait in vain.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use adit_tests::Implementation::Adit;
use adit_tests::{Host, Launch, Node, Peer, Ping};

/// Somewhere in the tunnel's networks where nobody is.
const NOWHERE: [&str; 2] = ["192.168.7.8:9", "[fd00:7::8]:9"];
/// Where a peer is of which nothing has been heard.
const UNHEARD: [&str; 2] = ["192.168.7.9:9", "[fd00:7::9]:9"];

fn node(launch: Launch) -> Node {
    let mut node = Node::stopped(Adit, "A");
    node.start_as(launch);
    node.configure(None, &[Peer::nobody(9, "192.168.7.9/32,fd00:7::9/128")]);
    node.up(&["192.168.7.1/24", "fd00:7::1/64"], 1420);
    node
}

/// How a connection fails that is given up after a time that is long enough for any answer.
#[track_caller]
fn connect(host: &Host, to: &str) -> ErrorKind {
    let to: SocketAddr = to.parse().expect("an address");
    let outcome = host.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(20)));
    outcome.expect_err("nobody is there").kind()
}

#[test]
fn who_sends_to_a_destination_of_no_peer_is_told_that_it_is_unreachable() {
    for launch in [Launch::default(), Launch::NO_OFFLOAD] {
        let node = node(launch);
        for to in NOWHERE {
            assert_eq!(connect(&node.host, to), ErrorKind::HostUnreachable, "{to}");
        }
    }
}

#[test]
fn who_sends_to_a_peer_whose_endpoint_is_not_known_is_told_that_it_is_unreachable() {
    let node = node(Launch::default());
    for to in UNHEARD {
        assert_eq!(connect(&node.host, to), ErrorKind::HostUnreachable, "{to}");
    }
}

#[test]
fn who_sends_through_this_node_to_a_destination_of_no_peer_is_told_too() {
    let node = node(Launch::default());
    let client = Host::new("client");
    client.join("eth0", &node.host, "lan0");
    for (host, interface, number) in [(&client, "eth0", 2), (&node.host, "lan0", 1)] {
        host.add_address(&format!("10.5.0.{number}/24"), interface);
        host.add_address(&format!("fd00:5::{number}/64"), interface);
    }
    for (family, network, router) in [("-4", "192.168.7.0/24", "10.5.0.1"), ("-6", "fd00:7::/64", "fd00:5::1")] {
        client.ip(&format!("{family} route add {network} via {router}"));
    }
    node.host.set("ipv4/ip_forward", "1");
    node.host.set("ipv6/conf/all/forwarding", "1");
    // The message passes as if it came from where it says.
    node.host.set("ipv4/conf/all/rp_filter", "1");
    for router in ["10.5.0.1", "fd00:5::1"] {
        Ping::to(router.parse().expect("an address")).from(&client).assert_all_answered();
    }
    for to in NOWHERE {
        assert_eq!(connect(&client, to), ErrorKind::HostUnreachable, "{to}");
    }
}
