//! Two nodes, a third that never answers, what is on its way between them, and the time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit::{Bounds, Instant, PresharedKey};
use ipnet::IpNet;

use super::node::{Flight, Node, public_key, unmarked};
use crate::packet;
use crate::reference::{START, private_key, put_mac1};

/// The peer that nobody plays.
const THIRD: u8 = 2;
/// What is added to a node's number when it changes its key.
const OTHER_KEY: u8 = 4;
/// Datagrams under way, and datagrams remembered.
const MOST: usize = 300;
/// Longer than an end needs to find out that the other has forgotten their session (15 s), and to have one handshake
/// message refused for want of a cookie in each direction (5.333 s each), with as much again for what was under way.
const RECOVERY: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(500);

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) nodes: [Node; 2],
    flying: Vec<Flight>,
    /// Everything that was ever sent, up to a bound, for those who repeat it.
    wire: Vec<Flight>,
    /// What routers on the way make of a datagram that can be marked.
    congestion: u8,
    serial: u32,
    pub(super) seed: u64,
}

impl World {
    /// Two nodes that know each other, unless the bits of `shape` say otherwise.
    pub(super) fn new(shape: [u8; 2]) -> Self {
        let mut bounds = Bounds::default();
        if shape[0] & 1 != 0 {
            (bounds.staged_bytes_per_peer, bounds.staged_bytes, bounds.events) = (1_000, 1_500, 3);
        }
        if shape[0] & 2 != 0 {
            (bounds.handshake_queue, bounds.handshakes_per_second) = (2, 1);
        }
        if shape[0] & 4 != 0 {
            bounds.outgoing = 2;
        }
        let mtu = if shape[0] & 8 != 0 { 0 } else { 1_420 };
        let node = |number: u8| {
            let by_steps = shape[0] >> (4 + number) & 1 != 0;
            Node::new(START, number, u64::from(number), outside(number), bounds, mtu, by_steps)
        };
        let mut world = Self {
            now: START,
            nodes: [node(0), node(1)],
            flying: Vec::new(),
            wire: Vec::new(),
            congestion: 0,
            serial: 0,
            seed: 1_000,
        };
        for node in 0..2 {
            if shape[1] >> node & 1 == 0 {
                world.introduce(node, 0);
            }
        }
        world
    }

    pub(super) fn node(&mut self, node: usize) -> &mut Node {
        &mut self.nodes[node]
    }

    /// Gives a node packets of one size: to the other node mostly, else between addresses that `shape` says.
    pub(super) fn send(&mut self, node: usize, count: u8, shape: u8) {
        let sizes = [0, 1, 100, 1_380, 4_000, 9_000, 60_000, 65_440];
        let is_v6 = shape & 8 != 0;
        // Which address of the sender's and which of the receiver's.
        let source = inside(node as u8 + (shape >> 6 & 1) * 4, is_v6);
        let destination = inside([1 - node as u8, THIRD, 1 - node as u8 + 4, 7][usize::from(shape >> 4 & 3)], is_v6);
        let packets: Vec<Vec<u8>> = (0..count.min(64))
            .map(|_| {
                self.serial += 1;
                let mut payload = self.serial.to_be_bytes().to_vec();
                payload.resize(sizes[usize::from(shape & 7)].max(4), 0x5a);
                packet::build(source, destination, if shape & 0x80 == 0 { 0 } else { 2 }, &payload)
            })
            .collect();
        self.nodes[node].handle_packets(self.now, &packets);
        self.collect(node);
    }

    /// Gives a node anything as a packet.
    pub(super) fn send_bytes(&mut self, node: usize, bytes: &[u8]) {
        self.nodes[node].handle_packets(self.now, &[bytes.to_vec()]);
        self.collect(node);
    }

    /// Everything arrives in order, and so do the answers.
    pub(super) fn deliver_all(&mut self) {
        for _ in 0..12 {
            if self.flying.is_empty() {
                return;
            }
            let flying = std::mem::take(&mut self.flying);
            for node in 0..2 {
                let address = self.nodes[node].address;
                let arriving: Vec<Flight> =
                    flying.iter().filter(|flight| flight.destination == address).cloned().collect();
                self.arrive(node, arriving);
            }
        }
    }

    /// One datagram arrives, out of its turn; it may arrive again.
    pub(super) fn deliver_one(&mut self, which: u8, is_last: bool) {
        let Some(place) = self.place(which) else { return };
        let flight = if is_last { self.flying.remove(place) } else { self.flying[place].clone() };
        if let Some(node) = self.nodes.iter().position(|node| node.address == flight.destination) {
            self.arrive(node, vec![flight]);
        }
    }

    pub(super) fn lose_one(&mut self, which: u8) {
        if let Some(place) = self.place(which) {
            self.flying.remove(place);
        }
    }

    pub(super) fn lose_all(&mut self) {
        self.flying.clear();
    }

    pub(super) fn alter_one(&mut self, which: u8, place: u8, bits: u8) {
        if let Some(flight) = self.place(which) {
            alter(&mut self.flying[flight].bytes, place, bits);
        }
    }

    /// Somebody sends again what was sent before, perhaps from an address of his own.
    pub(super) fn repeat(&mut self, node: usize, which: u8, from: u8) {
        let Some(mut flight) = self.remembered(which) else { return };
        if from & 1 != 0 {
            flight.source = outside(from);
        }
        self.arrive(node, vec![flight]);
    }

    /// The same, altered, by somebody who knows the receiver's public key.
    pub(super) fn forge(&mut self, node: usize, which: u8, place: u8, bits: u8) {
        let Some(mut flight) = self.remembered(which) else { return };
        alter(&mut flight.bytes, place, bits);
        if matches!(flight.bytes.first(), Some(1 | 2)) {
            put_mac1(&mut flight.bytes, &public_key(self.nodes[node].key));
        }
        self.arrive(node, vec![flight]);
    }

    pub(super) fn inject(&mut self, node: usize, from: u8, bytes: &[u8]) {
        let destination = self.nodes[node].address;
        let flight = Flight { source: outside(from & 7), destination, ecn: from >> 6, bytes: bytes.to_vec() };
        self.arrive(node, vec![flight]);
    }

    pub(super) fn congest(&mut self, congestion: u8) {
        self.congestion = congestion & 3;
    }

    /// Time goes by, and everything is done when it is due.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut stands = 0;
        while let Some(next) = self.next_deadline().filter(|&next| next <= end) {
            stands = if next > self.now { 0 } else { stands + 1 };
            assert!(stands < 1_000, "the clock stands still");
            self.now = self.now.max(next);
            self.handle_timeouts();
        }
        self.now = end;
    }

    /// Time goes by unseen.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.now += time;
        self.handle_timeouts();
    }

    pub(super) fn pass_to_next_deadline(&mut self) {
        if let Some(next) = self.next_deadline() {
            self.now = self.now.max(next);
            self.handle_timeouts();
        }
    }

    pub(super) fn move_to(&mut self, node: usize, address: u8) {
        // Even numbers for one, odd ones for the other.
        self.nodes[node].address = outside((address & 6) | node as u8);
    }

    /// All that the node knew is gone; it is introduced again, and no more.
    pub(super) fn restart(&mut self, node: usize) {
        self.seed += 1;
        let (now, seed) = (self.now, self.seed);
        self.nodes[node].restart(now, seed);
        self.introduce(node, 0);
    }

    pub(super) fn remove_peer(&mut self, node: usize, which: u8) {
        let number = self.number(node, which);
        let node = &mut self.nodes[node];
        if let Some(id) = node.id(number) {
            assert!(node.interface.remove_peer(id));
            assert!(!node.interface.remove_peer(id), "it is gone already");
            node.owners.retain(|_, owner| *owner != number);
        }
    }

    /// Adds the peer with a key, an endpoint and addresses, or sets them anew.
    pub(super) fn introduce(&mut self, node: usize, which: u8) {
        let number = self.number(node, which);
        let endpoint = if number == THIRD { outside(7) } else { self.nodes[1 - node].address };
        let node = &mut self.nodes[node];
        let Ok(id) = node.interface.add_peer(public_key(number)) else {
            assert_eq!(number, node.key, "its own key");
            return;
        };
        node.interface.set_endpoint(id, Some(endpoint)).expect("the peer is there");
        for is_v6 in [false, true] {
            let prefix = IpNet::from(inside(number, is_v6));
            node.interface.add_allowed_ip(id, prefix).expect("the peer is there");
            node.owners.insert(prefix, number);
        }
    }

    pub(super) fn set_preshared_key(&mut self, node: usize, which: u8, value: u8) {
        let key = (value != 0).then(|| PresharedKey::from_bytes([value & 1; 32]));
        self.with_peer(node, which, |node, id, _| node.interface.set_preshared_key(id, key.clone()));
        if value & 2 != 0 {
            // At both ends, as it should be.
            self.with_peer(1 - node, which, |node, id, _| node.interface.set_preshared_key(id, key.clone()));
        }
    }

    pub(super) fn add_allowed_ip(&mut self, node: usize, which: u8, prefix: u8) {
        let prefix = self::prefix(prefix);
        self.with_peer(node, which, |node, id, number| {
            let before = node.owners.insert(prefix, number).filter(|&owner| owner != number);
            let taken_from = node.interface.add_allowed_ip(id, prefix)?;
            assert_eq!(taken_from, before.and_then(|owner| node.id(owner)), "{prefix} taken from its owner");
            Ok(())
        });
    }

    pub(super) fn remove_allowed_ip(&mut self, node: usize, which: u8, prefix: u8) {
        let prefix = self::prefix(prefix);
        self.with_peer(node, which, |node, id, number| {
            let was_its = node.owners.get(&prefix) == Some(&number);
            if was_its {
                node.owners.remove(&prefix);
            }
            assert_eq!(node.interface.remove_allowed_ip(id, prefix)?, was_its, "{prefix}");
            Ok(())
        });
    }

    pub(super) fn clear_allowed_ips(&mut self, node: usize, which: u8) {
        self.with_peer(node, which, |node, id, number| {
            node.owners.retain(|_, owner| *owner != number);
            node.interface.clear_allowed_ips(id)
        });
    }

    pub(super) fn set_persistent_keepalive(&mut self, node: usize, which: u8, seconds: u8) {
        let now = self.now;
        self.with_peer(node, which, |node, id, _| node.interface.set_persistent_keepalive(now, id, seconds.into()));
    }

    pub(super) fn set_endpoint(&mut self, node: usize, which: u8, address: u8) {
        let endpoint = (address & 8 == 0).then(|| outside(address & 7));
        self.with_peer(node, which, |node, id, _| node.interface.set_endpoint(id, endpoint));
    }

    /// None, the first, or another.
    pub(super) fn set_private_key(&mut self, node: usize, which: u8) {
        let key = node as u8 + if which & 1 == 0 { 0 } else { OTHER_KEY };
        let node = &mut self.nodes[node];
        if which & 6 == 6 {
            node.interface.set_private_key(None);
        } else {
            node.interface.set_private_key(Some(private_key(key)));
            node.key = key;
            // Nobody is his own peer.
            node.owners.retain(|_, owner| *owner != key);
            assert_eq!(node.id(key), None);
        }
    }

    pub(super) fn link_up(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].interface.link_up(now);
        self.handle_timeouts();
    }

    pub(super) fn set_mtu(&mut self, node: usize, which: u8) {
        let mtu = [0, 1, 15, 576, 1_280, 1_420, 9_000, 65_535][usize::from(which & 7)];
        self.nodes[node].interface.set_mtu(mtu);
        self.nodes[node].mtu = mtu;
    }

    pub(super) fn hold(&mut self, node: usize) {
        self.nodes[node].hold();
    }

    pub(super) fn release(&mut self, node: usize, shape: u8) {
        let now = self.now;
        self.nodes[node].release(now, shape & 1 != 0);
        self.collect(node);
    }

    /// What came out of either end went into the other, unaltered, and comes out once.
    pub(super) fn check(&mut self) {
        for node in 0..2 {
            for (packet, outer) in self.nodes[node].take_arrived() {
                let given = self.nodes[1 - node].given.get_mut(&unmarked(&packet));
                let given = given.unwrap_or_else(|| panic!("nobody sent {packet:02x?}"));
                let is_it = |before: &Vec<u8>| match after_tunnel(packet::ecn(before), outer) {
                    Some(ecn) if ecn == packet::ecn(before) => *before == packet,
                    Some(ecn) => packet::with_ecn(before, ecn) == packet,
                    None => false,
                };
                let place = given.iter().position(is_it);
                given.swap_remove(place.unwrap_or_else(|| panic!("altered, or there before: {packet:02x?}")));
            }
        }
    }

    /// The network is clean again and each node knows the other: packets must get through in both directions.
    pub(super) fn recovers(&mut self) {
        self.flying.clear();
        self.congestion = 0;
        for node in 0..2 {
            self.release(node, 0);
            self.set_private_key(node, 0);
        }
        self.flying.clear();
        for node in 0..2 {
            self.introduce(node, 0);
            self.set_preshared_key(node, 0, 0);
            self.link_up(node);
        }
        self.check();
        let end = self.now + RECOVERY;
        let mut arrived = [false; 2];
        while arrived != [true; 2] {
            assert!(self.now < end, "no traffic {RECOVERY:?} after all was well again: {arrived:?}");
            for from in 0..2 {
                self.send(from, 1, 0);
            }
            self.deliver_all();
            for (arrived, node) in arrived.iter_mut().zip(&mut self.nodes) {
                *arrived |= node.has_arrived();
            }
            self.check();
            self.pass(STEP);
        }
    }

    /// The peer that a script means: mostly the other node.
    fn number(&self, node: usize, which: u8) -> u8 {
        let other = 1 - node as u8;
        match which & 7 {
            0..=4 => other,
            5 => other + OTHER_KEY,
            6 => THIRD,
            // The node itself, which can be no peer.
            _ => node as u8,
        }
    }

    fn with_peer<T>(
        &mut self,
        node: usize,
        which: u8,
        mut change: impl FnMut(&mut Node, adit::PeerId, u8) -> Result<T, adit::Error>,
    ) {
        let number = self.number(node, which);
        let now = self.now;
        let node = &mut self.nodes[node];
        if let Some(id) = node.id(number) {
            assert!(change(node, id, number).is_ok(), "the peer is there");
        }
        if node.interface.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.handle_timeouts();
        }
    }

    fn arrive(&mut self, node: usize, flights: Vec<Flight>) {
        if !flights.is_empty() {
            self.nodes[node].handle_datagrams(self.now, &flights);
            self.collect(node);
        }
    }

    fn handle_timeouts(&mut self) {
        for node in 0..2 {
            self.nodes[node].handle_timeout(self.now);
            self.collect(node);
        }
    }

    /// What a node has sent is on its way.
    fn collect(&mut self, node: usize) {
        for mut flight in self.nodes[node].take_sent() {
            if flight.ecn != 0 && self.congestion != 0 {
                flight.ecn = self.congestion;
            }
            if self.wire.len() < MOST {
                self.wire.push(flight.clone());
            }
            if self.flying.len() < MOST {
                self.flying.push(flight);
            }
        }
    }

    fn next_deadline(&mut self) -> Option<Instant> {
        self.nodes.iter_mut().filter_map(|node| node.interface.poll_timeout()).min()
    }

    fn place(&self, which: u8) -> Option<usize> {
        (!self.flying.is_empty()).then(|| usize::from(which) % self.flying.len())
    }

    fn remembered(&self, which: u8) -> Option<Flight> {
        let last = self.wire.len().checked_sub(1)?;
        // Counted from the newest.
        self.wire.get(last - usize::from(which) % self.wire.len()).cloned()
    }
}

/// The bits of congestion of a packet that leaves the tunnel (RFC 6040, figure 4); `None` if it must be dropped.
fn after_tunnel(inner: u8, outer: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

fn alter(bytes: &mut Vec<u8>, place: u8, bits: u8) {
    let len = bytes.len();
    match bits {
        0 => bytes.truncate(place.into()),
        0xff => bytes.resize(len + usize::from(place), 0),
        _ => {
            let place = usize::from(place) % len.max(1);
            bytes.get_mut(place).into_iter().for_each(|byte| *byte ^= bits);
        }
    }
}

fn outside(number: u8) -> SocketAddr {
    let number = number & 7;
    if number & 4 == 0 {
        SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1 + (number & 1)), 51_820 + u16::from(number)))
    } else {
        SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1 + u16::from(number & 1)), 51_820))
    }
}

/// The address that belongs to a key.
fn inside(number: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1 + u16::from(number)).into()
    } else {
        Ipv4Addr::new(10, 0, 0, 1 + number).into()
    }
}

fn prefix(which: u8) -> IpNet {
    let address = inside(which >> 5, which & 1 != 0);
    let lengths = if address.is_ipv4() { [0, 8, 24, 29, 30, 31, 32, 32] } else { [0, 1, 64, 125, 126, 127, 128, 128] };
    IpNet::new(address, lengths[usize::from(which >> 1 & 7)]).expect("a length that the family has").trunc()
}
