//! Interfaces on a virtual network and a virtual clock. All chance comes from a seed, so every run
//! can be repeated.

pub(crate) mod forge;
mod memory;
mod network;
mod node;
pub(crate) mod packet;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Index, IndexMut};
use std::time::Duration;

use adit::{Bounds, DropReason, Ecn, Instant, Interface, Path, PeerId, PeerState, PrivateKey};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

pub(crate) use network::{Kind, Network, Sent};
pub(crate) use node::{Calls, Node, Successor};

/// The nodes of most tests.
pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const C: usize = 2;

/// How long a datagram is on its way when nothing else is said.
pub(crate) const DELAY: Duration = Duration::from_millis(10);
/// There and back.
pub(crate) const RTT: Duration = Duration::from_millis(20);

/// The moment at which every simulation begins, and what the wall clock says then.
pub(crate) const START: Instant = Instant::from_nanos(1_000_000_000_000);
pub(crate) const UNIX_START: Duration = Duration::from_secs(1_700_000_000);

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Nodes, what is on its way between them, and the time.
pub(crate) struct Sim {
    pub(crate) now: Instant,
    pub(crate) network: Network,
    /// Every datagram that a node has sent, whether it arrived or not.
    pub(crate) wire: Vec<Sent>,
    nodes: Vec<Node>,
    calls: Calls,
    rng: ChaCha8Rng,
    /// By the time of arrival, then in the order in which they were sent.
    in_flight: BTreeMap<(Instant, u64), InFlight>,
    serial: u64,
}

struct InFlight {
    source: SocketAddr,
    destination: SocketAddr,
    ecn: Ecn,
    bytes: Vec<u8>,
}

impl Sim {
    /// An empty network.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: START,
            network: Network::default(),
            wire: Vec::new(),
            nodes: Vec::new(),
            calls: Calls::Single,
            rng: ChaCha8Rng::seed_from_u64(seed),
            in_flight: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Two nodes that know each other and where the other one is.
    pub(crate) fn pair(seed: u64) -> Self {
        Self::group(seed, 2)
    }

    /// `count` nodes, each of which knows all others.
    pub(crate) fn group(seed: u64, count: usize) -> Self {
        Self::group_with(seed, count, Calls::Single, Bounds::default())
    }

    pub(crate) fn group_with(seed: u64, count: usize, calls: Calls, bounds: Bounds) -> Self {
        let mut sim = Self { calls, ..Self::new(seed) };
        for _ in 0..count {
            sim.add_node(bounds);
        }
        for one in 0..count {
            for other in (0..count).filter(|&other| other != one) {
                sim.introduce(one, other);
            }
        }
        sim
    }

    /// A node with a key and an address of its own.
    pub(crate) fn add_node(&mut self, bounds: Bounds) -> usize {
        let number = self.nodes.len();
        let rng = ChaCha8Rng::seed_from_u64(self.rng.next_u64());
        let private_key = PrivateKey::generate(&mut self.rng);
        let now = self.now;
        let make = || Interface::with_bounds(now, UNIX_START, Box::new(rng), bounds);
        self.nodes.push(Node::new(make, private_key, outside(number), self.calls));
        number
    }

    /// The node's process ends and another one begins, with the same key, when the wall clock says
    /// `unix_time`. It knows nobody.
    pub(crate) fn restart(&mut self, number: usize, unix_time: Duration, bounds: Bounds) {
        let rng = ChaCha8Rng::seed_from_u64(self.rng.next_u64());
        let now = self.clock(number);
        self.nodes[number].restart(|| Interface::with_bounds(now, unix_time, Box::new(rng), bounds));
    }

    /// A process that may go on with what the node is and knows.
    pub(crate) fn successor(&mut self, wall_clock: (Instant, Duration), bounds: Bounds, takes_over: bool) -> Successor {
        Successor { seed: self.rng.next_u64(), wall_clock, bounds, takes_over }
    }

    /// What the node's own clock says.
    pub(crate) fn clock(&self, number: usize) -> Instant {
        self.now + self.nodes[number].clock_ahead
    }

    /// Lets `one` know `other`: its key, its addresses inside and where it is.
    pub(crate) fn introduce(&mut self, one: usize, other: usize) -> PeerId {
        let (key, endpoint) = (self[other].private_key.public_key(), self[other].address);
        self[one].configure(|interface| {
            let peer = interface.add_peer(key).unwrap();
            interface.set_endpoint(peer, Some(endpoint)).unwrap();
            interface.add_allowed_ip(peer, IpAddr::from(packet::inside(other)).into()).unwrap();
            interface.add_allowed_ip(peer, IpAddr::from(packet::inside_v6(other)).into()).unwrap();
            peer
        })
    }

    /// Gives the node another key, of which the others must be told.
    pub(crate) fn change_key(&mut self, number: usize) {
        let key = PrivateKey::generate(&mut self.rng);
        self.nodes[number].private_key = key.clone();
        self.nodes[number].configure(|interface| interface.set_private_key(Some(key)));
        self.flush(number);
    }

    /// The handle that `one` has for `other`.
    pub(crate) fn id(&self, one: usize, other: usize) -> PeerId {
        self[one].interface.peer_id(&self[other].private_key.public_key()).unwrap()
    }

    /// The state of `other` as `one` reports it.
    pub(crate) fn peer(&self, one: usize, other: usize) -> PeerState<'_> {
        self[one].interface.peer(self.now, self.id(one, other)).unwrap()
    }

    /// Sends a packet unlike any other from the inside of one node to the inside of another.
    pub(crate) fn send(&mut self, from: usize, to: usize) -> Vec<u8> {
        self.serial += 1;
        let packet = packet::v4(packet::inside(from), packet::inside(to), &self.serial.to_be_bytes());
        self.send_packets(from, std::slice::from_ref(&packet));
        packet
    }

    /// Sends `count` such packets in one burst.
    pub(crate) fn send_many(&mut self, from: usize, to: usize, count: usize) -> Vec<Vec<u8>> {
        let packets: Vec<_> = (0..count)
            .map(|_| {
                self.serial += 1;
                packet::v4(packet::inside(from), packet::inside(to), &self.serial.to_be_bytes())
            })
            .collect();
        self.send_packets(from, &packets);
        packets
    }

    /// Gives a burst of packets to a node.
    pub(crate) fn send_packets(&mut self, from: usize, packets: &[Vec<u8>]) {
        let now = self.clock(from);
        self.nodes[from].handle_packets(now, packets);
        self.flush(from);
    }

    /// Puts what the node has to send on the wire.
    pub(crate) fn flush(&mut self, from: usize) {
        let (now, clock) = (self.now, self.clock(from));
        let source = self.nodes[from].address;
        for (transmit, bytes) in self.nodes[from].take_transmits(clock) {
            let sent = Sent { at: now, clock, from, source, path: transmit.path, tos: transmit.tos, bytes };
            let destination = self.nodes.iter().position(|node| node.address == sent.path.remote);
            for (delay, bytes) in self.network.carry(&mut self.rng, &sent, destination) {
                let ecn = self.network.mark(sent.tos);
                let flight = InFlight { source, destination: sent.path.remote, ecn, bytes };
                self.serial += 1;
                self.in_flight.insert((now + delay, self.serial), flight);
            }
            self.wire.push(sent);
        }
    }

    /// Gives a datagram to a node here and now; returns the packet that came out of it.
    pub(crate) fn inject(&mut self, to: usize, source: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let path = Path { remote: source, local: Some(self[to].address.ip()), ifindex: 2 };
        self.inject_by(to, &path, Ecn::NotEct, bytes)
    }

    /// As [`Sim::inject`], by any path.
    pub(crate) fn inject_by(&mut self, to: usize, path: &Path, ecn: Ecn, bytes: &[u8]) -> Option<Vec<u8>> {
        let now = self.clock(to);
        let before = self.nodes[to].arrived.len();
        self.nodes[to].handle_datagrams(now, vec![(*path, ecn, bytes.to_vec())]);
        self.flush(to);
        self.nodes[to].arrived.get(before).map(|arrived| arrived.packet.clone())
    }

    /// Gives to `to` once more what was sent before, as it stands in [`Sim::wire`].
    pub(crate) fn replay(&mut self, to: usize, sent: &Sent) -> Option<Vec<u8>> {
        self.inject(to, sent.source, &sent.bytes)
    }

    /// Lets time pass, and everything happen that is due meanwhile.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// As [`Sim::run_for`], up to and including a moment.
    pub(crate) fn run_until(&mut self, end: Instant) {
        let mut stands = 0;
        loop {
            let before = self.now;
            if !self.step(end) {
                break;
            }
            stands = if self.now > before { 0 } else { stands + 1 };
            assert!(stands < 10_000, "the clock stands still at {:?}", self.now);
        }
        self.now = self.now.max(end);
    }

    /// Lets the next thing happen, if it does so no later than at `end`.
    pub(crate) fn step(&mut self, end: Instant) -> bool {
        let Some(next) = self.next_event().filter(|&next| next <= end) else { return false };
        self.now = self.now.max(next);
        self.happen();
        true
    }

    /// When the last of what is on its way arrives.
    pub(crate) fn last_arrival(&self) -> Option<Instant> {
        self.in_flight.keys().next_back().map(|&(at, _)| at)
    }

    /// Runs until `done`, and no longer than `most`; returns how long it took.
    pub(crate) fn run_until_done(&mut self, most: Duration, mut done: impl FnMut(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        while !done(self) {
            self.step(start + most).then_some(())?;
        }
        Some(self.now.saturating_since(start))
    }

    /// Sends a packet each way, and so makes a session, of which `initiator` is the initiator.
    pub(crate) fn connect(&mut self, initiator: usize, responder: usize) {
        let there = self.send(initiator, responder);
        self.run_for(RTT * 2);
        let back = self.send(responder, initiator);
        self.run_for(RTT);
        assert!(self[responder].has_arrived(&there) && self[initiator].has_arrived(&back), "no session came about");
    }

    /// What a node sent of one kind, in order.
    pub(crate) fn sent(&self, from: usize, kind: Kind) -> Vec<Sent> {
        self.wire.iter().filter(|sent| sent.from == from && sent.kind() == kind).cloned().collect()
    }

    /// The last of what a node sent of one kind.
    pub(crate) fn last_sent(&self, from: usize, kind: Kind) -> Sent {
        self.sent(from, kind).pop().unwrap_or_else(|| panic!("node {from} has sent no {kind:?}"))
    }

    /// The receiver's index in the last packet that a node sent: it names the session.
    pub(crate) fn last_index(&self, from: usize) -> u32 {
        let sent = self.wire.iter().rev().find(|sent| sent.from == from && sent.bytes[0] == 4);
        sent.expect("a packet was sent").first_index()
    }

    /// How many datagrams of one kind a node sent.
    pub(crate) fn count(&self, from: usize, kind: Kind) -> usize {
        self.sent(from, kind).len()
    }

    /// How many packets a node dropped for one reason.
    pub(crate) fn drops(&self, node: usize, reason: DropReason) -> u64 {
        self[node].interface.drops().get(reason)
    }

    /// How long ago the simulation began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now.saturating_since(START)
    }

    fn next_event(&mut self) -> Option<Instant> {
        let now = self.now;
        let arrival = self.in_flight.keys().next().map(|&(at, _)| at);
        let deadlines = self.nodes.iter_mut().filter_map(Node::deadline);
        arrival.into_iter().chain(deadlines).min().map(|next| next.max(now))
    }

    /// What is due at this moment: arrivals first, then deadlines.
    fn happen(&mut self) {
        let now = self.now;
        let mut bursts: BTreeMap<usize, Vec<(Path, Ecn, Vec<u8>)>> = BTreeMap::new();
        while let Some(first) = self.in_flight.first_entry().filter(|first| first.key().0 <= now) {
            let flight = first.remove();
            // A node that has moved away meanwhile is not reached any more.
            let Some(to) = self.nodes.iter().position(|node| node.address == flight.destination) else { continue };
            if self.nodes[to].is_asleep {
                continue;
            }
            let path = Path { remote: flight.source, local: Some(flight.destination.ip()), ifindex: 2 };
            bursts.entry(to).or_default().push((path, flight.ecn, flight.bytes));
        }
        for (to, burst) in bursts {
            let clock = self.clock(to);
            self.nodes[to].handle_datagrams(clock, burst);
            self.flush(to);
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].deadline().is_some_and(|deadline| deadline <= now) {
                let clock = self.clock(node);
                self.nodes[node].handle_timeout(clock);
                self.flush(node);
            }
        }
    }
}

impl Index<usize> for Sim {
    type Output = Node;

    fn index(&self, node: usize) -> &Node {
        &self.nodes[node]
    }
}

impl IndexMut<usize> for Sim {
    fn index_mut(&mut self, node: usize) -> &mut Node {
        &mut self.nodes[node]
    }
}

/// Where a node is at the beginning.
fn outside(number: usize) -> SocketAddr {
    let host = u8::try_from(number + 1).unwrap();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)), 51820)
}
