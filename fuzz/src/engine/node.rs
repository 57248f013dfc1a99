//! One interface, driven by either of its two sets of calls, and what must hold of all that goes in and comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use adit::{
    Bounds, Datagrams, Ecn, HandshakeWork, Instant, Interface, Opened, Packets, Path, PeerId, PublicKey, Sealing,
    Transmit, transport_len,
};
use ipnet::IpNet;

use super::handover::Successor;
use crate::packet;
use crate::reference::{interface, private_key};

/// A datagram between two places.
#[derive(Clone)]
pub(super) struct Flight {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) ecn: u8,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Node {
    pub(super) interface: Interface,
    pub(super) bounds: Bounds,
    /// Which of the keys it has.
    pub(super) key: u8,
    pub(super) address: SocketAddr,
    pub(super) mtu: u16,
    /// Which peer owns which prefix, kept without any cleverness.
    pub(super) owners: BTreeMap<IpNet, u8>,
    /// Packets that went in, by what no router changes, until they come out at the other end.
    pub(super) given: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    /// What came out and has not been looked at, with the congestion of the datagram that brought it.
    came_out: Vec<(Vec<u8>, u8)>,
    /// The receiver's index and the counter of every transport message that left: a key and its nonce.
    nonces: BTreeSet<(u32, u64)>,
    by_steps: bool,
    pub(super) held: Option<Held>,
    pub(super) successor: Option<Successor>,
    sent: Vec<Flight>,
}

/// Where each datagram of a burst begins, and its congestion.
type Places = Vec<(usize, u8)>;

/// What a threaded caller has begun and not finished.
#[derive(Default)]
pub(super) struct Held {
    sealing: Vec<(Sealing, Vec<u8>)>,
    opened: Vec<(Opened, Vec<u8>, Places)>,
    work: Vec<HandshakeWork>,
}

impl Node {
    pub(super) fn new(
        now: Instant,
        key: u8,
        seed: u64,
        address: SocketAddr,
        bounds: Bounds,
        mtu: u16,
        by_steps: bool,
    ) -> Self {
        let mut interface = interface(now, &private_key(key), seed, bounds);
        interface.set_mtu(mtu);
        Self {
            interface,
            bounds,
            key,
            address,
            mtu,
            owners: BTreeMap::new(),
            given: BTreeMap::new(),
            came_out: Vec::new(),
            nonces: BTreeSet::new(),
            by_steps,
            held: None,
            successor: None,
            sent: Vec::new(),
        }
    }

    /// The interface as it was when it was made.
    pub(super) fn restart(&mut self, now: Instant, seed: u64) {
        self.interface = interface(now, &private_key(self.key), seed, self.bounds);
        self.interface.set_mtu(self.mtu);
        self.owners.clear();
        (self.held, self.successor) = (None, None);
    }

    pub(super) fn id(&self, number: u8) -> Option<PeerId> {
        self.interface.peer_id(&public_key(number))
    }

    /// The peer that owns an address: the longest prefix counts.
    pub(super) fn owner(&self, address: IpAddr) -> Option<u8> {
        let holds = |(prefix, _): &(&IpNet, &u8)| prefix.contains(&address);
        self.owners.iter().filter(holds).max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, &number)| number)
    }

    pub(super) fn handle_packets(&mut self, now: Instant, packets: &[Vec<u8>]) {
        for packet in packets.iter().filter_map(|packet| packet::trimmed(packet)) {
            self.given.entry(unmarked(packet)).or_default().push(packet.to_vec());
        }
        if self.by_steps {
            let mut burst = Packets::new(self.mtu);
            let mut buffer = vec![0xaa; packets.iter().map(|packet| transport_len(packet.len(), self.mtu)).sum()];
            let mut start = 0;
            for packet in packets {
                buffer[start + 16..start + 16 + packet.len()].copy_from_slice(packet);
                start = burst.push(start, packet.len()).expect("one after the other");
            }
            let sealing = self.interface.begin_seal(now, burst, &buffer);
            match &mut self.held {
                Some(held) => held.sealing.push((sealing, buffer)),
                None => self.seal(sealing, buffer),
            }
        } else {
            for packet in packets {
                let mut out = vec![0xaa; transport_len(packet.len(), self.mtu)];
                let transmit = self.interface.handle_packet(now, packet, &mut out).expect("there is room");
                if let Some(transmit) = transmit {
                    let owner = packet::trimmed(packet).and_then(|packet| self.owner(packet::addresses(packet).1));
                    // What is shorter than it says has a destination all the same.
                    assert!(owner.is_none_or(|owner| transmit.peer == self.id(owner)), "to whom owns the destination");
                    self.keep(&transmit, &out);
                }
                self.flush(now);
            }
        }
        self.flush(now);
    }

    pub(super) fn handle_datagrams(&mut self, now: Instant, flights: &[Flight]) {
        let path = |flight: &Flight| Path {
            remote: flight.source,
            local: Some(flight.destination.ip()),
            ifindex: u32::from(flight.destination.port()) & 1,
        };
        if self.by_steps {
            let (mut burst, mut buffer, mut places) = (Datagrams::new(), Vec::new(), Vec::new());
            for flight in flights {
                let start = buffer.len() + 3;
                buffer.resize(start, 0xaa);
                buffer.extend_from_slice(&flight.bytes);
                places.push((start, flight.ecn));
                assert!(burst.push(start..buffer.len(), &path(flight), Ecn::from_bits(flight.ecn)));
            }
            let opened = self.interface.begin_open(now, burst, &buffer).open(&mut buffer);
            match &mut self.held {
                Some(held) => held.opened.push((opened, buffer, places)),
                None => self.commit(now, opened, buffer, &places),
            }
        } else {
            for flight in flights {
                let mut bytes = flight.bytes.clone();
                let ecn = Ecn::from_bits(flight.ecn);
                let arrived = self.interface.handle_datagram(now, &path(flight), ecn, &mut bytes);
                if let Some((peer, packet)) = arrived {
                    let packet = packet.to_vec();
                    self.arrive(peer, packet, flight.ecn);
                }
                self.flush(now);
            }
        }
        self.flush(now);
    }

    /// Says of each source in turn, as the bits do, whether it is good.
    pub(super) fn judge_sources(&mut self, mut bits: u8) {
        let mut given = BTreeSet::new();
        while let Some((peer, path)) = self.interface.poll_source() {
            assert!(given.insert(peer) && path.local.is_some(), "each peer once, and only if it has a source");
            let is_good = bits & 1 != 0;
            bits = bits.rotate_right(1);
            self.interface.judge_source(peer, &path, is_good).expect("the peer is there");
            assert_eq!(self.interface.judge_source(peer, &path, is_good), Ok(false), "the same is no news");
        }
        assert!(!self.interface.has_sources(), "all have been given");
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.by_steps {
            self.interface.expire(now)
        } else {
            self.interface.handle_timeout(now)
        }
        self.flush(now);
    }

    /// From now on what is begun is not finished.
    pub(super) fn hold(&mut self) {
        if self.by_steps && self.held.is_none() {
            self.held = Some(Held::default());
        }
    }

    /// Finishes what was begun, forwards or backwards.
    pub(super) fn release(&mut self, now: Instant, backwards: bool) {
        let Some(mut held) = self.held.take() else { return };
        if backwards {
            held.sealing.reverse();
            held.opened.reverse();
            held.work.reverse();
        }
        for (sealing, buffer) in held.sealing {
            self.seal(sealing, buffer);
        }
        for (opened, buffer, places) in held.opened {
            self.commit(now, opened, buffer, &places);
        }
        for work in held.work {
            self.finish(now, work);
        }
        self.flush(now);
    }

    /// What has left since the last time.
    pub(super) fn take_sent(&mut self) -> Vec<Flight> {
        std::mem::take(&mut self.sent)
    }

    pub(super) fn has_arrived(&self) -> bool {
        !self.came_out.is_empty()
    }

    /// What has come out since the last time.
    pub(super) fn take_arrived(&mut self) -> Vec<(Vec<u8>, u8)> {
        std::mem::take(&mut self.came_out)
    }

    fn seal(&mut self, sealing: Sealing, mut buffer: Vec<u8>) {
        let sealed = sealing.seal(&mut buffer);
        let transmits: Vec<Transmit> = sealed.transmits().collect();
        transmits.iter().for_each(|transmit| self.keep(transmit, &buffer));
    }

    fn commit(&mut self, now: Instant, opened: Opened, mut buffer: Vec<u8>, places: &[(usize, u8)]) {
        let delivered = self.interface.commit(now, opened, &mut buffer);
        let packets: Vec<_> = delivered.packets().collect();
        for (peer, range) in packets {
            let ecn = places.iter().rev().find(|(start, _)| *start <= range.start).expect("it lies in a datagram").1;
            self.arrive(peer, buffer[range].to_vec(), ecn);
        }
    }

    fn finish(&mut self, now: Instant, work: HandshakeWork) {
        let mut next = Some(work);
        while let Some(work) = next {
            next = self.interface.finish_handshake(now, work.compute());
        }
    }

    /// A packet has come out: from a peer that owns its source. Who sent it is found out later.
    fn arrive(&mut self, peer: PeerId, packet: Vec<u8>, outer: u8) {
        assert_eq!(packet::trimmed(&packet), Some(packet.as_slice()), "a packet and nothing else");
        let owner = self.owner(packet::addresses(&packet).0).expect("somebody owns the source");
        assert_eq!(self.id(owner), Some(peer), "the peer that owns the source");
        self.came_out.push((packet, outer));
    }

    /// Handshakes and all that is to be sent.
    fn flush(&mut self, now: Instant) {
        loop {
            self.pause(now);
            let Some(work) = self.interface.poll_handshake(now) else { break };
            match &mut self.held {
                Some(held) => held.work.push(work),
                None => self.finish(now, work),
            }
        }
        let mut buffer = vec![0xaa; 65_536];
        let mut staged: BTreeMap<Option<PublicKey>, usize> = BTreeMap::new();
        loop {
            self.pause(now);
            let transmit = self.interface.poll_transmit(now, &mut buffer).expect("there is room");
            let Some(transmit) = transmit else { break };
            let peer = transmit.peer.and_then(|id| self.interface.peer(now, id)).map(|peer| *peer.public_key);
            for datagram in transmit.datagrams(&buffer) {
                if datagram[0] == 4 && datagram.len() > 32 {
                    // What it was charged at least, while it waited.
                    *staged.entry(peer).or_default() += (datagram.len() - 32).saturating_sub(15) + 64;
                }
            }
            self.keep(&transmit, &buffer);
        }
        assert!(staged.values().all(|&bytes| bytes <= self.bounds.staged_bytes_per_peer), "staged for one peer");
        assert!(staged.values().sum::<usize>() <= self.bounds.staged_bytes, "staged for all");
        let events = std::iter::from_fn(|| self.interface.poll_event()).count();
        assert!(events <= self.bounds.events, "events have a bound");
    }

    /// Takes apart what may be sent as one.
    fn keep(&mut self, transmit: &Transmit, buffer: &[u8]) {
        assert!(transmit.segment_size > 0, "a group of datagrams has a size");
        for datagram in transmit.datagrams(buffer) {
            if datagram[0] == 4 {
                let index = u32::from_le_bytes(datagram[4..8].try_into().expect("4 bytes"));
                let counter = u64::from_le_bytes(datagram[8..16].try_into().expect("8 bytes"));
                assert!(self.nonces.insert((index, counter)), "index {index:08x}, counter {counter} a second time");
            }
            self.sent.push(Flight {
                source: self.address,
                destination: transmit.path.remote,
                ecn: transmit.tos & 3,
                bytes: datagram.to_vec(),
            });
        }
    }
}

/// Public keys by number, computed once.
pub(super) fn public_key(number: u8) -> PublicKey {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    KEYS.get_or_init(|| (0..8).map(|number| private_key(number).public_key()).collect())[usize::from(number & 7)]
}

/// A packet without what changes under way: the bits of congestion, and the checksum that covers them.
pub(super) fn unmarked(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[1] &= 0xfc;
        packet[10..12].fill(0);
    } else {
        packet[1] &= 0xcf;
    }
    packet
}
