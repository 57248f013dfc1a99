//! One interface and what came out of it, driven by either of its two sets of calls.

use std::net::SocketAddr;
use std::time::Duration;

use adit::{Bounds, Datagrams, Ecn, Event, Instant, Interface, Packets, Path, PeerId, PrivateKey, Snapshot, Transmit};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

use super::memory;

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

/// The process that an interface is handed over to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Successor {
    pub(crate) seed: u64,
    /// What the wall clock said, and when by the node's own clock.
    pub(crate) wall_clock: (Instant, Duration),
    pub(crate) bounds: Bounds,
    /// Otherwise it looks at what it is given and says no, and the process before it goes on.
    pub(crate) takes_over: bool,
}

/// The handles of peers before and after a handover.
pub(crate) type Renamed = Vec<(PeerId, PeerId)>;

/// A node of the network.
pub(crate) struct Node {
    pub(crate) interface: Interface,
    pub(crate) private_key: PrivateKey,
    /// Where the others see it. To be changed at will: the old address then leads nowhere.
    pub(crate) address: SocketAddr,
    pub(crate) arrived: Vec<Arrived>,
    /// How far the node's clock is ahead of the simulation's.
    pub(crate) clock_ahead: Duration,
    /// The machine sleeps: nothing is heard and nothing done, only time goes by.
    pub(crate) is_asleep: bool,
    /// The most bytes that the interface has held while nothing that it handed out was in the caller's hands.
    pub(crate) most_memory: isize,
    memory: isize,
    is_between_steps: bool,
    calls: Calls,
    /// Who takes over after so many more steps.
    successor: Option<(u32, Successor)>,
    renamed: Renamed,
    transmits: Vec<(Transmit, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl Node {
    pub(super) fn new(
        make: impl FnOnce() -> Interface,
        private_key: PrivateKey,
        address: SocketAddr,
        calls: Calls,
    ) -> Self {
        let mut memory = 0;
        let interface = counted(&mut memory, || configured(make, &private_key));
        Self {
            interface,
            private_key,
            address,
            arrived: Vec::new(),
            clock_ahead: Duration::ZERO,
            is_asleep: false,
            most_memory: 0,
            memory,
            is_between_steps: false,
            calls,
            successor: None,
            renamed: Renamed::new(),
            transmits: Vec::new(),
            buffer: vec![0xaa; 65_536],
        }
    }

    /// Puts another interface in place of this one.
    pub(super) fn restart(&mut self, make: impl FnOnce() -> Interface) {
        self.memory = 0;
        self.interface = counted(&mut self.memory, || configured(make, &self.private_key));
    }

    /// The interface is to be handed over after so many steps of its next operations.
    pub(crate) fn hand_over_after(&mut self, steps: u32, successor: Successor) {
        self.successor = Some((steps, successor));
    }

    /// Hands the interface over now, if it was to be and has not been. Tells which handles have changed since it was to
    /// be.
    pub(crate) fn finish_hand_over(&mut self, now: Instant) -> Renamed {
        if let Some((_, successor)) = self.successor.take() {
            self.hand_over(now, successor);
        }
        std::mem::take(&mut self.renamed)
    }

    fn hand_over(&mut self, now: Instant, successor: Successor) {
        let Successor { seed, wall_clock: (then, said), bounds, takes_over } = successor;
        let unix_time = said + now.saturating_since(then);
        let mut memory = 0;
        let next = counted(&mut memory, || {
            let bytes = self.interface.snapshot(now).as_bytes().to_vec();
            let snapshot = Snapshot::from_bytes(Zeroizing::new(bytes)).unwrap();
            let rng = Box::new(ChaCha8Rng::seed_from_u64(seed));
            Interface::restore(snapshot, now, unix_time, rng, bounds).unwrap()
        });
        if !takes_over {
            let is_the_same = next.snapshot(now).as_bytes() == self.interface.snapshot(now).as_bytes();
            assert!(is_the_same, "what is restored is what was taken");
            return;
        }
        self.renamed = self.replace(now, next);
        self.memory = memory;
    }

    /// Puts another process's interface in place of this one, with the same peers. Tells how their handles have
    /// changed.
    pub(crate) fn replace(&mut self, now: Instant, next: Interface) -> Renamed {
        let renamed = self.interface.peers(now).map(|peer| (peer.id, next.peer_id(peer.public_key).unwrap()));
        let renamed: Renamed = renamed.collect();
        for arrived in &mut self.arrived {
            let new = renamed.iter().find(|(old, _)| *old == arrived.from);
            arrived.from = new.map_or(arrived.from, |&(_, new)| new);
        }
        self.interface = next;
        renamed
    }

    /// Between two steps the interface may be handed over; or be looked at, even while a step is not finished.
    fn pause(&mut self, now: Instant, is_finished: bool) {
        match &mut self.successor {
            Some((_, successor)) if successor.takes_over && !is_finished => {}
            Some((steps @ 1.., _)) => *steps -= 1,
            Some((0, successor)) => {
                let successor = *successor;
                self.successor = None;
                self.hand_over(now, successor);
            }
            None => {}
        }
    }

    /// Changes the interface's configuration.
    pub(crate) fn configure<T>(&mut self, change: impl FnOnce(&mut Interface) -> T) -> T {
        self.call(change)
    }

    /// When the node has something to do, on the simulation's clock.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let ahead = self.clock_ahead.as_nanos() as u64;
        let deadline = self.call(Interface::poll_timeout).filter(|_| !self.is_asleep);
        deadline.map(|deadline| Instant::from_nanos(deadline.as_nanos().saturating_sub(ahead)))
    }

    /// Whether a packet has come out of the tunnel here.
    pub(crate) fn has_arrived(&self, packet: &[u8]) -> bool {
        self.arrived.iter().any(|arrived| arrived.packet == packet)
    }

    /// All events since the last time.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.interface.poll_event()).collect()
    }

    /// Calls the interface, and counts what it takes and gives back.
    fn call<T>(&mut self, call: impl FnOnce(&mut Interface) -> T) -> T {
        let result = counted(&mut self.memory, || call(&mut self.interface));
        if !self.is_between_steps {
            self.most_memory = self.most_memory.max(self.memory);
        }
        result
    }

    /// Takes all steps of one operation. What they hand out must be given back by the end, through [`Node::call`] as
    /// well.
    fn in_steps(&mut self, steps: impl FnOnce(&mut Self)) {
        self.is_between_steps = true;
        steps(self);
        self.is_between_steps = false;
    }

    pub(super) fn handle_packets(&mut self, now: Instant, packets: &[Vec<u8>]) {
        match self.calls {
            Calls::Single => {
                for packet in packets {
                    let mut out = vec![0xaa; packet.len() + 64];
                    let transmit = self.call(|interface| interface.handle_packet(now, packet, &mut out)).unwrap();
                    self.keep(transmit, &out);
                    self.poll_transmits(now);
                }
            }
            Calls::Steps => self.in_steps(|node| {
                let mut buffer = vec![0xaa; packets.iter().map(|packet| packet.len() + 64).sum()];
                let sealed = node.call(|interface| {
                    let mut burst = Packets::new(1420);
                    let mut start = 0;
                    for packet in packets {
                        buffer[start + 16..start + 16 + packet.len()].copy_from_slice(packet);
                        start = burst.push(start, packet.len()).unwrap();
                    }
                    interface.begin_seal(now, burst, &buffer).seal(&mut buffer)
                });
                for transmit in sealed.transmits() {
                    node.keep(Some(transmit), &buffer);
                }
                node.call(|_| drop(sealed));
                node.run_handshakes(now);
            }),
        }
    }

    pub(super) fn handle_datagrams(&mut self, now: Instant, mut datagrams: Vec<(Path, Ecn, Vec<u8>)>) {
        match self.calls {
            Calls::Single => {
                for (path, ecn, bytes) in &mut datagrams {
                    let arrived = self.call(|interface| interface.handle_datagram(now, path, *ecn, bytes));
                    let arrived = arrived.map(|(from, packet)| Arrived { at: now, from, packet: packet.to_vec() });
                    self.arrived.extend(arrived);
                    self.poll_transmits(now);
                }
            }
            Calls::Steps => self.in_steps(|node| {
                // Before each a gap, as a caller with slots of equal size would have.
                let mut buffer: Vec<u8> =
                    datagrams.iter().flat_map(|(_, _, bytes)| [&[0xaa; 3], &bytes[..]]).flatten().copied().collect();
                let delivered = node.call(|interface| {
                    let mut burst = Datagrams::new();
                    let mut end = 0;
                    for (path, ecn, bytes) in &datagrams {
                        let start = end + 3;
                        end = start + bytes.len();
                        assert!(burst.push(start..end, path, *ecn));
                    }
                    let opened = interface.begin_open(now, burst, &buffer).open(&mut buffer);
                    interface.commit(now, opened, &mut buffer)
                });
                node.arrived.extend(delivered.packets().map(|(from, range)| Arrived {
                    at: now,
                    from,
                    packet: buffer[range].to_vec(),
                }));
                node.call(|_| drop(delivered));
                node.run_handshakes(now);
            }),
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self.calls {
            Calls::Single => self.call(|interface| interface.handle_timeout(now)),
            Calls::Steps => self.in_steps(|node| {
                node.call(|interface| interface.expire(now));
                node.run_handshakes(now);
            }),
        }
    }

    /// Every datagram that is to be sent, each by itself.
    pub(super) fn take_transmits(&mut self, now: Instant) -> Vec<(Transmit, Vec<u8>)> {
        self.poll_transmits(now);
        if self.calls == Calls::Steps {
            self.in_steps(|node| node.run_handshakes(now));
        }
        std::mem::take(&mut self.transmits)
    }

    fn run_handshakes(&mut self, now: Instant) {
        loop {
            self.pause(now, true);
            let mut next = self.call(|interface| interface.poll_handshake(now));
            if next.is_none() {
                break;
            }
            while let Some(work) = next {
                self.pause(now, false);
                next = self.call(|interface| interface.finish_handshake(now, work.compute()));
            }
        }
        self.poll_transmits(now);
    }

    fn poll_transmits(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        loop {
            self.pause(now, true);
            let transmit = self.call(|interface| interface.poll_transmit(now, &mut buffer)).unwrap();
            if transmit.is_none() {
                break;
            }
            self.keep(transmit, &buffer);
        }
        self.buffer = buffer;
    }

    /// Splits what may be sent as one into its datagrams.
    fn keep(&mut self, transmit: Option<Transmit>, buffer: &[u8]) {
        let Some(transmit) = transmit else { return };
        assert!(transmit.segment_size > 0, "a group of datagrams has a size");
        for datagram in transmit.datagrams(buffer) {
            self.transmits.push((transmit.clone(), datagram.to_vec()));
        }
    }
}

fn configured(make: impl FnOnce() -> Interface, private_key: &PrivateKey) -> Interface {
    let mut interface = make();
    interface.set_private_key(Some(private_key.clone()));
    interface.set_mtu(1420);
    interface
}

/// Adds to `memory` what `call` takes and does not give back.
fn counted<T>(memory: &mut isize, call: impl FnOnce() -> T) -> T {
    let before = memory::in_use();
    let result = call();
    *memory += memory::in_use() - before;
    result
}
