//! Three nodes: one in the middle, with a wire to each of two others.

use crate::implementation::{Implementation, Launch};
use crate::node::{Node, Peer};
use crate::traffic::Ping;

/// A in the middle, with B on its `eth0` (10.0.0.0/24) and C on its `eth1` (10.0.1.0/24).
///
/// Inside the tunnels A is 192.168.7.1, B .2 and C .3, all with a route to 192.168.0.0/16 and 10.9.0.0/16.
#[derive(Debug)]
pub struct Trio {
    /// The node under test, 10.0.0.1 and 10.0.1.1.
    pub a: Node,
    /// Its first partner, 10.0.0.2.
    pub b: Node,
    /// Its second partner, 10.0.1.2.
    pub c: Node,
}

impl Trio {
    /// Makes the hosts and starts the daemons. A gives these allowed IPs to B and C; they give these to A.
    #[track_caller]
    pub fn new(a: Implementation, others: Implementation, to_b: &str, to_c: &str, to_a: &str) -> Self {
        Self::launch((a, others), [to_b, to_c, to_a], Launch::default())
    }

    /// As [`Trio::new`], with daemons started in a certain way.
    #[track_caller]
    pub fn launch((a, others): (Implementation, Implementation), allowed: [&str; 3], launch: Launch) -> Self {
        let node = |implementation, label| {
            let mut node = Node::stopped(implementation, label);
            node.start_as(launch);
            node
        };
        let [to_b, to_c, to_a] = allowed;
        let trio = Self { a: node(a, "A"), b: node(others, "B"), c: node(others, "C") };
        let wires = [("eth0", &trio.b, "10.0.0"), ("eth1", &trio.c, "10.0.1")];
        for (wire, other, network) in wires {
            trio.a.host.join(wire, &other.host, "eth0");
            trio.a.host.add_address(&format!("{network}.1/24"), wire);
            other.host.add_address(&format!("{network}.2/24"), "eth0");
            let peer = Peer::new(&trio.a.keys, to_a).at(&format!("{network}.1:51820"));
            other.configure(Some(51820), &[peer]);
        }
        let peers =
            [Peer::new(&trio.b.keys, to_b).at("10.0.0.2:51820"), Peer::new(&trio.c.keys, to_c).at("10.0.1.2:51820")];
        trio.a.configure(Some(51820), &peers);
        for (node, number) in [(&trio.a, 1), (&trio.b, 2), (&trio.c, 3)] {
            node.up(&[&format!("192.168.7.{number}/16")], 1420);
            node.host.ip("route add 10.9.0.0/16 dev wg0");
        }
        trio
    }

    /// Fails the test unless a ping from A to this address is answered by that node and no other.
    #[track_caller]
    pub fn assert_answers(&self, address: &str, expected: &Node) {
        let before = [&self.b, &self.c].map(|node| self.a.peer(&node.keys).received);
        let to = address.parse().expect("an address");
        Ping::to(to).count(5, 0.05).from(&self.a.host).assert_all_answered();
        let after = [&self.b, &self.c].map(|node| self.a.peer(&node.keys).received);
        let gained = [after[0] - before[0], after[1] - before[1]];
        let answers = if expected.keys.public == self.b.keys.public { gained } else { [gained[1], gained[0]] };
        assert!(answers[0] >= 5 * 84 && answers[1] < 5 * 84, "{address}: B, C answered {gained:?} bytes");
    }
}
