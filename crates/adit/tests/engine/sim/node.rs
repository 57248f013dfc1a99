//! One interface and what came out of it, driven by either of its two sets of calls.

use std::net::SocketAddr;

use adit::{Datagrams, Ecn, Event, Instant, Interface, Packets, Path, PeerId, PrivateKey, Transmit};

/// By which of its two sets of calls an interface is driven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Calls {
    /// `handle_packet`, `handle_datagram`, `handle_timeout`.
    Single,
    /// `begin_seal` and `seal`; `begin_open`, `open` and `commit`; `poll_handshake`, `compute` and
    /// `finish_handshake`; `expire`.
    Steps,
}

/// A packet that came out of the tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Arrived {
    pub(crate) at: Instant,
    pub(crate) from: PeerId,
    pub(crate) packet: Vec<u8>,
}

/// A node of the network.
pub(crate) struct Node {
    pub(crate) interface: Interface,
    pub(crate) private_key: PrivateKey,
    /// Where the others see it. To be changed at will: the old address then leads nowhere.
    pub(crate) address: SocketAddr,
    pub(crate) arrived: Vec<Arrived>,
    calls: Calls,
    transmits: Vec<(Transmit, Vec<u8>)>,
}

impl Node {
    pub(super) fn new(interface: Interface, private_key: PrivateKey, address: SocketAddr, calls: Calls) -> Self {
        Self { interface, private_key, address, arrived: Vec::new(), calls, transmits: Vec::new() }
    }

    /// Whether a packet has come out of the tunnel here.
    pub(crate) fn has_arrived(&self, packet: &[u8]) -> bool {
        self.arrived.iter().any(|arrived| arrived.packet == packet)
    }

    /// All events since the last time.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.interface.poll_event()).collect()
    }

    pub(super) fn handle_packets(&mut self, now: Instant, packets: &[Vec<u8>]) {
        match self.calls {
            Calls::Single => {
                for packet in packets {
                    let mut out = vec![0xaa; packet.len() + 64];
                    let transmit = self.interface.handle_packet(now, packet, &mut out).unwrap();
                    self.keep(transmit, &out);
                    self.poll_transmits(now);
                }
            }
            Calls::Steps => {
                let mut burst = Packets::new(1420);
                let mut buffer = vec![0xaa; packets.iter().map(|packet| packet.len() + 64).sum()];
                let mut start = 0;
                for packet in packets {
                    buffer[start + 16..start + 16 + packet.len()].copy_from_slice(packet);
                    start = burst.push(start, packet.len()).unwrap();
                }
                let sealed = self.interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
                let transmits: Vec<_> = sealed.transmits().collect();
                for transmit in transmits {
                    self.keep(Some(transmit), &buffer);
                }
                self.run_handshakes(now);
            }
        }
    }

    pub(super) fn handle_datagrams(&mut self, now: Instant, mut datagrams: Vec<(Path, Ecn, Vec<u8>)>) {
        match self.calls {
            Calls::Single => {
                for (path, ecn, bytes) in &mut datagrams {
                    let arrived = self.interface.handle_datagram(now, path, *ecn, bytes);
                    let arrived = arrived.map(|(from, packet)| Arrived { at: now, from, packet: packet.to_vec() });
                    self.arrived.extend(arrived);
                    self.poll_transmits(now);
                }
            }
            Calls::Steps => {
                let mut burst = Datagrams::new();
                let mut buffer = Vec::new();
                for (path, ecn, bytes) in &datagrams {
                    // A gap, as a caller with slots of equal size would have.
                    let start = buffer.len() + 3;
                    buffer.resize(start, 0xaa);
                    buffer.extend_from_slice(bytes);
                    assert!(burst.push(start..buffer.len(), path, *ecn));
                }
                let opened = self.interface.begin_open(now, burst, &buffer).open(&mut buffer);
                let delivered = self.interface.commit(now, opened, &mut buffer);
                self.arrived.extend(delivered.packets().map(|(from, range)| Arrived {
                    at: now,
                    from,
                    packet: buffer[range].to_vec(),
                }));
                self.run_handshakes(now);
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self.calls {
            Calls::Single => self.interface.handle_timeout(now),
            Calls::Steps => {
                self.interface.expire(now);
                self.run_handshakes(now);
            }
        }
    }

    /// Every datagram that is to be sent, each by itself.
    pub(super) fn take_transmits(&mut self, now: Instant) -> Vec<(Transmit, Vec<u8>)> {
        self.poll_transmits(now);
        if self.calls == Calls::Steps {
            self.run_handshakes(now);
        }
        std::mem::take(&mut self.transmits)
    }

    fn run_handshakes(&mut self, now: Instant) {
        while let Some(work) = self.interface.poll_handshake(now) {
            let mut next = Some(work);
            while let Some(work) = next {
                next = self.interface.finish_handshake(now, work.compute());
            }
        }
        self.poll_transmits(now);
    }

    fn poll_transmits(&mut self, now: Instant) {
        let mut buffer = vec![0xaa; 65_536];
        while let Some(transmit) = self.interface.poll_transmit(now, &mut buffer).unwrap() {
            self.keep(Some(transmit), &buffer);
        }
    }

    /// Takes apart what may be sent as one.
    fn keep(&mut self, transmit: Option<Transmit>, buffer: &[u8]) {
        let Some(transmit) = transmit else { return };
        assert!(transmit.segment_size > 0, "a group of datagrams has a size");
        for datagram in buffer[transmit.range.clone()].chunks(transmit.segment_size) {
            self.transmits.push((transmit.clone(), datagram.to_vec()));
        }
    }
}
