//! A node whose interface goes on in another process, in the midst of whatever it does.

use adit::{Instant, Interface, PeerState};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::node::Node;
use super::world::World;
use crate::reference::unix_time;

/// The process that is to go on.
pub(super) struct Successor {
    /// How many handshakes and datagrams come before.
    steps: u8,
    seed: u64,
    /// Otherwise it looks at what it is given and says no.
    takes_over: bool,
}

impl World {
    /// Hands a node over, now or some steps later: whether the other process only looks, whether this one breaks off or
    /// finishes what it has begun, in which order, and after how many steps.
    pub(super) fn hand_over(&mut self, node: usize, shape: u8) {
        self.seed += 1;
        let successor = Successor { steps: shape >> 3 & 7, seed: self.seed, takes_over: shape & 1 == 0 };
        if shape & 2 != 0 {
            self.nodes[node].held = None;
        } else if successor.takes_over {
            self.release(node, shape >> 2);
        }
        let is_due = successor.steps == 0;
        self.nodes[node].successor = Some(successor);
        if is_due {
            self.nodes[node].pause(self.now);
        }
    }
}

impl Node {
    /// Between two steps the interface may be handed over; or be looked at, even while something is not finished.
    pub(super) fn pause(&mut self, now: Instant) {
        match &mut self.successor {
            Some(Successor { steps: steps @ 1.., .. }) => *steps -= 1,
            Some(Successor { takes_over: true, .. }) if self.held.is_some() => {}
            _ => {
                if let Some(Successor { seed, takes_over, .. }) = self.successor.take() {
                    let next = self.next_process(now, seed);
                    if takes_over {
                        self.interface = next;
                    }
                }
            }
        }
    }

    /// What another process makes of the interface: the same.
    fn next_process(&mut self, now: Instant, seed: u64) -> Interface {
        let snapshot = self.interface.snapshot(now);
        let bytes = snapshot.as_bytes().to_vec();
        let rng = Box::new(ChaCha8Rng::seed_from_u64(seed));
        let next = Interface::restore(snapshot, now, unix_time(now), rng, self.bounds);
        let mut next = next.expect("a snapshot makes sense");
        assert!(next.snapshot(now).as_bytes() == bytes, "what is restored is what was taken");
        assert_eq!(next.poll_timeout(), self.interface.poll_timeout(), "the same is due");
        assert_eq!(next.drops(), self.interface.drops(), "nothing is dropped");
        assert_eq!(description(&next, now), description(&self.interface, now));
        next
    }
}

/// All that an interface tells of its peers, by their keys: their handles differ.
fn description(interface: &Interface, now: Instant) -> Vec<String> {
    let of_peer = |peer: PeerState<'_>| {
        let mut prefixes: Vec<_> = interface.allowed_ips(peer.id).collect();
        prefixes.sort();
        let times = (peer.last_handshake, peer.session_made, peer.last_received, peer.attempting_since);
        let numbers = (peer.rx_bytes, peer.tx_bytes, peer.persistent_keepalive, peer.has_session);
        format!("{:?} {:?} {prefixes:?} {times:?} {numbers:?}", peer.public_key, peer.endpoint)
    };
    let mut peers: Vec<_> = interface.peers(now).map(of_peer).collect();
    peers.sort();
    peers
}
