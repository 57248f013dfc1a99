//! Two ends of a tunnel, and what the threads of a device do with one of them.

use std::time::Duration;

use adit::{Bounds, Datagrams, Ecn, Instant, Interface, Packets, Path, PeerId, PrivateKey, Snapshot};
use loom::sync::{Arc, Mutex};
use loom::thread::{Builder, JoinHandle};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use zeroize::Zeroizing;

const START: Instant = Instant::from_nanos(1_000_000_000_000);
const UNIX_START: Duration = Duration::from_secs(1_700_000_000);

/// How often, at most, threads are interrupted where they could have gone on; how often they wait for the lock is not
/// bounded.
pub(crate) const PREEMPTIONS: usize = 3;

/// The end whose threads are explored.
pub(crate) const A: usize = 0;
/// The other end, which does one thing after another.
pub(crate) const B: usize = 1;
/// A peer of A's that says nothing.
pub(crate) const C: usize = 2;

/// The session is so old that A, who began it, wants another after the next packet.
pub(crate) fn now() -> Instant {
    START + Duration::from_secs(121)
}

pub(crate) fn key(node: usize) -> PrivateKey {
    PrivateKey::from_bytes([node as u8 + 1; 32])
}

/// An IPv4 packet that tells which it is.
pub(crate) fn packet(from: usize, to: usize, number: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 21, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend([10, 0, 0, from as u8, 10, 0, 0, to as u8, number]);
    packet
}

/// Lets `prepare` bring two interfaces that have a session to where it gets interesting, and runs `model` from there in
/// every order in which its threads can take turns.
pub(crate) fn explore<T: Clone + Send + Sync + 'static>(
    prepare: impl FnOnce(&mut Interface, &mut Interface) -> T,
    model: impl Fn([Interface; 2], T) + Send + Sync + 'static,
) {
    let [mut a, mut b] = connected();
    let prepared = prepare(&mut a, &mut b);
    let snapshots = [a, b].map(|interface| interface.snapshot(now()));
    let model = std::sync::Arc::new((model, snapshots, prepared));
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = Some(PREEMPTIONS);
    loom.check(move || {
        let model = model.clone();
        // The thread that loom gives has too small a stack for the cipher.
        let first = spawn(move || {
            let (model, snapshots, prepared) = &*model;
            model([A, B].map(|end| restore(end, &snapshots[end])), prepared.clone());
        });
        first.join().unwrap();
    });
}

fn connected() -> [Interface; 2] {
    let mut ends = [A, B].map(|end| {
        let mut interface = Interface::new(START, UNIX_START, chance(end));
        interface.set_private_key(Some(key(end)));
        for other in [A, B, C].into_iter().filter(|&other| other != end) {
            let peer = interface.add_peer(key(other).public_key()).unwrap();
            interface.add_allowed_ip(peer, format!("10.0.0.{other}/32").parse().unwrap()).unwrap();
            interface.set_endpoint(peer, Some(path(other).remote)).unwrap();
        }
        interface
    });
    assert_eq!(ends[A].handle_packet(START, &packet(A, B, 0), &mut [0; 64]), Ok(None), "it waits for a session");
    let initiation = transmits(&mut ends[A], START);
    hear(&mut ends[B], START, A, initiation);
    let response = transmits(&mut ends[B], START);
    hear(&mut ends[A], START, B, response);
    let confirmation = transmits(&mut ends[A], START);
    assert_eq!(hear(&mut ends[B], START, A, confirmation), [packet(A, B, 0)]);
    ends
}

fn restore(end: usize, snapshot: &Snapshot) -> Interface {
    // Each model runs many times, and has to begin anew each time.
    let snapshot = Snapshot::from_bytes(Zeroizing::new(snapshot.as_bytes().to_vec())).unwrap();
    // Random numbers other than those that led to the snapshot.
    Interface::restore(snapshot, now(), UNIX_START, chance(10 + end), Bounds::default()).unwrap()
}

fn chance(seed: usize) -> Box<ChaCha8Rng> {
    Box::new(ChaCha8Rng::seed_from_u64(seed as u64))
}

fn path(node: usize) -> Path {
    Path::to(([192, 0, 2, node as u8], 51820).into())
}

/// The peer's handle.
pub(crate) fn id(interface: &Interface, node: usize) -> PeerId {
    interface.peer_id(&key(node).public_key()).unwrap()
}

/// Each datagram that waits to be sent.
pub(crate) fn transmits(interface: &mut Interface, now: Instant) -> Vec<Vec<u8>> {
    let mut buffer = [0; 2_048];
    let mut datagrams = Vec::new();
    while let Some(transmit) = interface.poll_transmit(now, &mut buffer).unwrap() {
        datagrams.extend(transmit.datagrams(&buffer).map(<[u8]>::to_vec));
    }
    datagrams
}

/// One datagram after another arrives. Returns the packets that come out of the tunnel.
pub(crate) fn hear(interface: &mut Interface, now: Instant, from: usize, datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let hear = |mut datagram: Vec<u8>| {
        let packet = interface.handle_datagram(now, &path(from), Ecn::NotEct, &mut datagram);
        packet.map(|(_, packet)| packet.to_vec())
    };
    datagrams.into_iter().filter_map(hear).collect()
}

/// A thread of the model, with a stack on which the cipher has room.
pub(crate) fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().stack_size(1 << 18).spawn(run).unwrap()
}

/// An interface behind its lock, for several threads.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

struct State {
    interface: Interface,
    is_changed: bool,
}

/// What came of a burst, and whether the change had been made when it was decided.
pub(crate) struct Outcome {
    pub(crate) bytes: Vec<Vec<u8>>,
    pub(crate) is_changed: bool,
}

impl Shared {
    pub(crate) fn new(interface: Interface) -> Self {
        Self(Arc::new(Mutex::new(State { interface, is_changed: false })))
    }

    pub(crate) fn with<T>(&self, call: impl FnOnce(&mut Interface) -> T) -> T {
        call(&mut self.0.lock().unwrap().interface)
    }

    /// A thread that does as told.
    pub(crate) fn spawn<T: Send + 'static>(&self, run: impl FnOnce(&Self) -> T + Send + 'static) -> JoinHandle<T> {
        let shared = self.clone();
        spawn(move || run(&shared))
    }

    /// Makes the change that a test is about: other threads' outcomes tell whether they came before or after it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Interface)) {
        let mut state = self.0.lock().unwrap();
        change(&mut state.interface);
        state.is_changed = true;
    }

    /// A worker has read packets from inside. Returns the datagrams that it sends.
    pub(crate) fn seal(&self, packets: &[Vec<u8>]) -> Outcome {
        let (mut burst, mut buffer, mut start) = (Packets::new(1420), vec![0; 64 * packets.len()], 0);
        for packet in packets {
            buffer[start + 16..start + 16 + packet.len()].copy_from_slice(packet);
            start = burst.push(start, packet.len()).unwrap();
        }
        let (sealing, is_changed) = {
            let mut state = self.0.lock().unwrap();
            (state.interface.begin_seal(now(), burst, &buffer), state.is_changed)
        };
        let sealed = sealing.seal(&mut buffer);
        let take_apart = |transmit: adit::Transmit| transmit.datagrams(&buffer);
        Outcome { bytes: sealed.transmits().flat_map(take_apart).map(<[u8]>::to_vec).collect(), is_changed }
    }

    /// A worker has read datagrams from the network. Returns the packets that it delivers.
    pub(crate) fn open(&self, from: usize, datagrams: &[Vec<u8>]) -> Outcome {
        let (mut burst, mut buffer) = (Datagrams::new(), Vec::new());
        for datagram in datagrams {
            let start = buffer.len();
            buffer.extend_from_slice(datagram);
            assert!(burst.push(start..buffer.len(), &path(from), Ecn::NotEct));
        }
        let opening = self.with(|interface| interface.begin_open(now(), burst, &buffer));
        let opened = opening.open(&mut buffer);
        let (delivered, is_changed) = {
            let mut state = self.0.lock().unwrap();
            (state.interface.commit(now(), opened, &mut buffer), state.is_changed)
        };
        Outcome { bytes: delivered.packets().map(|(_, range)| buffer[range].to_vec()).collect(), is_changed }
    }

    /// Handshakes as the control thread computes them, without the lock.
    pub(crate) fn handshakes(&self) {
        while let Some(work) = self.with(|interface| interface.poll_handshake(now())) {
            let mut next = Some(work);
            while let Some(work) = next {
                let done = work.compute();
                next = self.with(|interface| interface.finish_handshake(now(), done));
            }
        }
    }
}
