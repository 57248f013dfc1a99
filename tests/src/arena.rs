//! A node that is flooded, with a peer that it has a session with, one that is yet to come, and an attacker.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use crate::flood::{Flood, FloodKind, Rate, Seen, Wire};
use crate::host::Host;
use crate::implementation::{Implementation, Launch};
use crate::node::{Node, Peer};
use crate::tap::Tap;
use crate::traffic::Ping;
use crate::trio::Trio;

/// The attacker's end of its wire, and the victim's.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);

/// Where the victim sends what is for elsewhere.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// The daemons' port, and one that nobody reads.
const PORT: u16 = 51820;
const BESIDE: u16 = 51821;

/// The longest that a wire takes, so that oversized datagrams arrive as they are sent.
const WIRE_MTU: u32 = 65_535;

/// A victim, A of the trio, with a session with B. C is a peer that has not spoken yet. Each has a wire of its own to
/// the victim, and so has the attacker. Answers to forged addresses go out on the attacker's wire, to a router that is
/// not there: nobody else's work with them is done on this machine.
#[derive(Debug)]
pub struct Arena {
    /// The victim, its peer, and the newcomer.
    pub trio: Trio,
    attacker: Host,
    wire: Wire,
    seen: Seen,
    /// A socket of the victim's host that nobody reads, so that the kernel has nothing to complain of.
    _sink: UdpSocket,
}

impl Arena {
    /// Makes the hosts and starts the daemons, of one implementation, and makes a session between victim and peer.
    #[track_caller]
    pub fn new(implementation: Implementation) -> Self {
        let trio = Trio::launch(
            (implementation, implementation),
            ["192.168.7.2/32", "192.168.7.3/32", "192.168.7.0/24"],
            Launch::QUIET,
        );
        let attacker = Host::new("attacker");
        trio.a.host.join("eth2", &attacker, "eth0");
        for (host, wire, address) in [(&trio.a.host, "eth2", VICTIM), (&attacker, "eth0", ATTACKER)] {
            host.ip(&format!("link set {wire} mtu {WIRE_MTU}"));
            host.add_address(&format!("{address}/24"), wire);
        }
        trio.a.host.ip(&format!("neighbour add {ROUTER} lladdr 02:00:00:00:00:01 dev eth2 nud permanent"));
        trio.a.host.ip(&format!("route add default via {ROUTER}"));
        Ping::to(VICTIM.into()).from(&attacker).assert_all_answered();
        let wire = Wire { index: attacker.link_number("eth0"), other_end: trio.a.host.link_address("eth2") };
        let mut tap = Tap::open(&trio.b.host);
        Ping::to(inner(1)).from(&trio.b.host).assert_all_answered();
        let outer = Ipv4Addr::new(10, 0, 0, 1);
        let initiation = tap.message(1, outer);
        let data = tap.message(4, outer);
        let index = data.get(4..8).and_then(|index| index.try_into().ok()).map(u32::from_le_bytes);
        let seen = Seen { initiation, index: index.expect("an index") };
        let sink = trio.a.host.enter(|| UdpSocket::bind((VICTIM, BESIDE))).expect("another port");
        Self { trio, attacker, wire, seen, _sink: sink }
    }

    /// The victim.
    pub fn victim(&self) -> &Node {
        &self.trio.a
    }

    /// The peer with a session.
    pub fn peer(&self) -> &Node {
        &self.trio.b
    }

    /// A flood against the victim.
    #[track_caller]
    pub fn flood(&self, kind: FloodKind, rate: Rate) -> Flood {
        self.flood_port(PORT, kind, rate)
    }

    /// A flood of the same kind against a port of the victim's host that nobody reads: what it takes by itself.
    #[track_caller]
    pub fn flood_beside(&self, kind: FloodKind, rate: Rate) -> Flood {
        self.flood_port(BESIDE, kind, rate)
    }

    #[track_caller]
    fn flood_port(&self, port: u16, kind: FloodKind, rate: Rate) -> Flood {
        let target = SocketAddrV4::new(VICTIM, port);
        Flood::start((&self.attacker, self.wire), target, &self.victim().keys.public, &self.seen, (kind, rate))
    }

    /// A ping of the victim by the newcomer, who has no session yet: it is answered after a handshake.
    pub fn newcomer(&self, patience: u32) -> crate::PingReport {
        Ping::to(inner(1)).patience(patience).from(&self.trio.c.host)
    }

    /// Makes a newcomer of C again: neither knows anything of the other but keys and addresses.
    #[track_caller]
    pub fn forget_newcomer(&self) {
        let (a, c) = (&self.trio.a, &self.trio.c);
        for (node, other, ip) in [(a, c, "192.168.7.3/32"), (c, a, "192.168.7.0/24")] {
            node.set(&format!("peer {} remove", other.keys.public));
            let peer = Peer::new(&other.keys, ip);
            let endpoint = if std::ptr::eq(node, c) { "endpoint 10.0.1.1:51820" } else { "" };
            node.set(&format!("peer {} allowed-ips {} {endpoint}", peer.public_key, peer.allowed_ips));
        }
    }

    /// The address inside the tunnel of the victim (1), the peer (2) or the newcomer (3).
    pub fn inner(&self, number: u8) -> std::net::IpAddr {
        inner(number)
    }
}

fn inner(number: u8) -> std::net::IpAddr {
    Ipv4Addr::new(192, 168, 7, number).into()
}
