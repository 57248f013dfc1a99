//! Two nodes on one wire with a tunnel between them.

use std::net::IpAddr;

use crate::implementation::Implementation;
use crate::node::{Keys, Node, Peer};

/// The UDP port of both nodes, unless a test moves it.
const PORT: u16 = 51820;

/// The version of IP outside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first: the implementation under test.
    A,
    /// The second: its partner.
    B,
}

impl Side {
    /// The last part of each of its addresses.
    pub fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    /// The address outside the tunnel.
    pub fn outer(self, outer: Outer) -> IpAddr {
        let text = match outer {
            Outer::V4 => format!("10.0.0.{}", self.number()),
            Outer::V6 => format!("fd00:a::{}", self.number()),
        };
        text.parse().expect("an address")
    }

    /// The IPv4 address inside the tunnel.
    pub fn inner_v4(self) -> IpAddr {
        format!("192.168.7.{}", self.number()).parse().expect("an address")
    }

    /// The IPv6 address inside the tunnel.
    pub fn inner_v6(self) -> IpAddr {
        format!("fd00:7::{}", self.number()).parse().expect("an address")
    }

    /// The allowed IPs of the peer on this side.
    pub fn allowed_ips(self) -> String {
        format!("{}/32,{}/128", self.inner_v4(), self.inner_v6())
    }

    /// Address and port outside the tunnel.
    pub fn endpoint(self, outer: Outer) -> String {
        std::net::SocketAddr::new(self.outer(outer), PORT).to_string()
    }
}

/// Two nodes on one wire, `eth0` on both hosts, with a tunnel between them.
#[derive(Debug)]
pub struct Pair {
    /// The node under test.
    pub a: Node,
    /// Its partner.
    pub b: Node,
}

impl Pair {
    /// A tunnel over IPv4 with everything as usual, idle so far.
    pub fn new(a: Implementation, b: Implementation) -> Self {
        PairBuilder::new(a, b).build()
    }

    /// Two nodes on a wire, their daemons running but not configured, their interfaces down.
    pub fn unconfigured(a: Implementation, b: Implementation) -> Self {
        let pair = Self::stopped(a, b);
        Self { a: started(pair.a), b: started(pair.b) }
    }

    /// Two hosts on a wire without a daemon.
    pub fn stopped(a: Implementation, b: Implementation) -> Self {
        let pair = Self { a: Node::stopped(a, "A"), b: Node::stopped(b, "B") };
        pair.a.host.join("eth0", &pair.b.host, "eth0");
        for (side, node) in [(Side::A, &pair.a), (Side::B, &pair.b)] {
            node.host.ip(&format!("address add {}/24 dev eth0", side.outer(Outer::V4)));
            node.host.ip(&format!("address add {}/64 dev eth0", side.outer(Outer::V6)));
        }
        pair
    }

    /// The partner as a configuration of A names it, over IPv4.
    pub fn peer_b(&self) -> Peer {
        Peer::new(&self.b.keys, &Side::B.allowed_ips()).at(&Side::B.endpoint(Outer::V4))
    }

    /// A as a configuration of the partner names it, over IPv4.
    pub fn peer_a(&self) -> Peer {
        Peer::new(&self.a.keys, &Side::A.allowed_ips()).at(&Side::A.endpoint(Outer::V4))
    }

    /// What B's state says of A.
    #[track_caller]
    pub fn a_seen_by_b(&self) -> crate::PeerStatus {
        self.b.peer(&self.a.keys)
    }

    /// What A's state says of B.
    #[track_caller]
    pub fn b_seen_by_a(&self) -> crate::PeerStatus {
        self.a.peer(&self.b.keys)
    }

    /// Whether A reaches B through the tunnel with one IPv4 packet.
    pub fn a_reaches_b(&self) -> bool {
        crate::Ping::to(Side::B.inner_v4()).from(&self.a.host).all_answered()
    }

    /// Whether B reaches A through the tunnel with one IPv4 packet.
    pub fn b_reaches_a(&self) -> bool {
        crate::Ping::to(Side::A.inner_v4()).from(&self.b.host).all_answered()
    }

    /// Fails the test unless one packet from A, the first if need be, reaches B and is answered.
    #[track_caller]
    pub fn assert_a_reaches_b(&self) {
        assert!(self.a_reaches_b(), "A's packet is not answered by B");
    }

    /// Fails the test unless one packet from B, the first if need be, reaches A and is answered.
    #[track_caller]
    pub fn assert_b_reaches_a(&self) {
        assert!(self.b_reaches_a(), "B's packet is not answered by A");
    }
}

/// How a [`Pair`] is to be made.
#[derive(Debug, Clone)]
pub struct PairBuilder {
    a: Implementation,
    b: Implementation,
    outer: Outer,
    mtu: u32,
    a_knows_b: bool,
    b_knows_a: bool,
    a_psk: Option<String>,
    b_psk: Option<String>,
}

impl PairBuilder {
    /// IPv4 outside, an MTU of 1420, each knows the other's endpoint, no preshared key.
    pub fn new(a: Implementation, b: Implementation) -> Self {
        Self { a, b, outer: Outer::V4, mtu: 1420, a_knows_b: true, b_knows_a: true, a_psk: None, b_psk: None }
    }

    /// The version of IP outside.
    #[must_use]
    pub fn outer(mut self, outer: Outer) -> Self {
        self.outer = outer;
        self
    }

    /// The MTU of both tunnel interfaces.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// B is not told where A is: only A can begin.
    #[must_use]
    pub fn only_a_begins(mut self) -> Self {
        self.b_knows_a = false;
        self
    }

    /// A is not told where B is: only B can begin.
    #[must_use]
    pub fn only_b_begins(mut self) -> Self {
        self.a_knows_b = false;
        self
    }

    /// The preshared keys that A and B are told.
    #[must_use]
    pub fn preshared_keys(mut self, a: &str, b: &str) -> Self {
        self.a_psk = Some(a.to_owned());
        self.b_psk = Some(b.to_owned());
        self
    }

    /// Makes the hosts, starts the daemons, configures them and sets the tunnel up.
    #[track_caller]
    pub fn build(self) -> Pair {
        let pair = Pair::unconfigured(self.a, self.b);
        self.configure(&pair);
        pair
    }

    /// Configures daemons that run already, and sets the tunnel up.
    #[track_caller]
    pub fn configure(&self, pair: &Pair) {
        self.configure_a(pair);
        self.configure_b(pair);
    }

    /// Configures A alone and sets its interface up.
    #[track_caller]
    pub fn configure_a(&self, pair: &Pair) {
        let peer = self.peer(&pair.b.keys, Side::B, self.a_knows_b, self.a_psk.as_deref());
        pair.a.configure(Some(PORT), &[peer]);
        self.up(&pair.a, Side::A);
    }

    /// Configures B alone and sets its interface up.
    #[track_caller]
    pub fn configure_b(&self, pair: &Pair) {
        let peer = self.peer(&pair.a.keys, Side::A, self.b_knows_a, self.b_psk.as_deref());
        pair.b.configure(Some(PORT), &[peer]);
        self.up(&pair.b, Side::B);
    }

    fn peer(&self, keys: &Keys, side: Side, known: bool, psk: Option<&str>) -> Peer {
        let peer = Peer::new(keys, &side.allowed_ips()).with_preshared_key(psk);
        if known { peer.at(&side.endpoint(self.outer)) } else { peer }
    }

    fn up(&self, node: &Node, side: Side) {
        node.up(&[&format!("{}/24", side.inner_v4()), &format!("{}/64", side.inner_v6())], self.mtu);
    }
}

fn started(mut node: Node) -> Node {
    node.start();
    node
}
