//! What the operators of the nodes have said and done, kept beside the engines.

use std::net::SocketAddr;
use std::time::Duration;

use adit::{Instant, PeerId};

use super::witness::Witness;
use crate::sim::{Sim, UNIX_START};

pub(super) struct Truth {
    pub(super) nodes: usize,
    /// The handle that each node has for each other; `None` while it is removed.
    pub(super) ids: Vec<Vec<Option<PeerId>>>,
    /// The preshared key that each node has for each other; 0 for none.
    pub(super) psk: Vec<Vec<u8>>,
    /// Which peer owns each node's inside addresses, as each node is configured.
    pub(super) owner: Vec<Vec<Option<usize>>>,
    /// Counts up when a node forgets what it knew of another.
    pub(super) memory: Vec<Vec<u32>>,
    /// Counts up when a node's process ends.
    pub(super) process: Vec<u32>,
    /// When a node last lost the keys of its sessions with another.
    pub(super) lost_keys: Vec<Vec<Option<Instant>>>,
    /// When a node last had to give up its sessions: it may send in none that is older.
    pub(super) gave_up: Vec<Option<Instant>>,
    /// When a node was last told where another is.
    pub(super) told_address: Vec<Vec<Instant>>,
    pub(super) moved: Option<Instant>,
    /// By how many seconds a node's wall clock is off the true time.
    pub(super) wall_offset: Vec<i64>,
    /// What the engine was last told of the wall clock, and what the node's own clock said then.
    pub(super) wall_clock: Vec<(Instant, Duration)>,
    /// The latest timestamp that a process has used.
    stamped: Vec<Duration>,
    /// The timestamp of the last initiation that a node remembers of another.
    pub(super) accepted: Vec<Vec<Option<Duration>>>,
    addresses: Vec<Vec<SocketAddr>>,
}

impl Truth {
    /// Nodes that all know each other.
    pub(super) fn new(sim: &Sim, ids: Vec<Vec<Option<PeerId>>>) -> Self {
        let nodes = ids.len();
        let each = |node: usize| (0..nodes).map(|other| (other != node).then_some(other)).collect();
        Self {
            nodes,
            ids,
            psk: vec![vec![0; nodes]; nodes],
            owner: (0..nodes).map(each).collect(),
            memory: vec![vec![0; nodes]; nodes],
            process: vec![0; nodes],
            lost_keys: vec![vec![None; nodes]; nodes],
            gave_up: vec![None; nodes],
            told_address: vec![vec![sim.now; nodes]; nodes],
            moved: None,
            wall_offset: vec![0; nodes],
            wall_clock: vec![(sim.now, UNIX_START); nodes],
            stamped: vec![Duration::ZERO; nodes],
            accepted: vec![vec![None; nodes]; nodes],
            addresses: (0..nodes).map(|node| vec![sim[node].address]).collect(),
        }
    }

    pub(super) fn others(&self, node: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.nodes).filter(move |&other| other != node)
    }

    pub(super) fn has_lived_at(&self, node: usize, address: SocketAddr) -> bool {
        self.addresses[node].contains(&address)
    }

    pub(super) fn moves_to(&mut self, node: usize, now: Instant, address: SocketAddr) {
        self.moved = Some(now);
        self.addresses[node].push(address);
    }

    /// The node receives again what the peer sent from an address where it is no more. If the node does not remember
    /// having received it, as after a restart, it takes it for new.
    pub(super) fn may_be_led_astray(&mut self, node: usize, peer: usize) {
        if let Some(moved) = self.moved {
            self.told_address[node][peer] = self.told_address[node][peer].min(moved);
        }
    }

    /// What a node's wall clock should be set to.
    pub(super) fn true_wall_clock(&self, sim: &Sim, node: usize) -> Duration {
        let now = UNIX_START + sim.elapsed();
        now.saturating_add_signed(self.wall_offset[node])
    }

    /// The node's sessions with the peer are gone.
    pub(super) fn loses_keys(&mut self, now: Instant, node: usize, peer: usize) {
        self.lost_keys[node][peer] = Some(now);
    }

    /// Every session of the node's is given up.
    pub(super) fn gives_up_keys(&mut self, now: Instant, node: usize) {
        self.gave_up[node] = Some(now);
        for peer in self.others(node) {
            self.loses_keys(now, node, peer);
        }
    }

    /// All that the node knew of the peer is gone, and the peer will be added anew.
    pub(super) fn forgets(&mut self, now: Instant, node: usize, peer: usize) {
        self.loses_keys(now, node, peer);
        self.memory[node][peer] += 1;
        self.accepted[node][peer] = None;
        for owner in &mut self.owner[node] {
            *owner = owner.filter(|&owner| owner != peer);
        }
        self.ids[node][peer] = None;
    }

    pub(super) fn process_ends(&mut self, now: Instant, node: usize) {
        self.process[node] += 1;
        self.stamped[node] = Duration::ZERO;
        self.gave_up[node] = Some(now);
        for peer in self.others(node) {
            self.forgets(now, node, peer);
        }
    }

    /// The timestamp of an initiation that a node made when its clock said `clock`.
    pub(super) fn stamp(&mut self, sim: &Sim, node: usize, clock: Instant) -> Duration {
        debug_assert!(clock <= sim.clock(node));
        let stamp = self.wall_clock_at(node, clock).max(self.stamped[node]);
        self.stamped[node] = stamp;
        stamp
    }

    fn wall_clock_at(&self, node: usize, clock: Instant) -> Duration {
        let (then, said) = self.wall_clock[node];
        said + clock.saturating_since(then)
    }

    /// Whether `to` takes an initiation of `from` for a replay: an earlier process with the same key, or this one
    /// before its clock was set right, has been ahead.
    pub(super) fn is_refused(&self, sim: &Sim, from: usize, to: usize) -> bool {
        // Timestamps are rounded down to some 17 ms.
        const COARSE: Duration = Duration::from_millis(20);
        self.accepted[to][from].is_some_and(|accepted| {
            accepted > self.stamped[from] && accepted + COARSE >= self.wall_clock_at(from, sim.clock(from))
        })
    }

    /// Whether `of` may have moved since `node` was told where it is.
    pub(super) fn may_have_lost_sight(&self, node: usize, of: usize) -> bool {
        of == super::fault::ROAMER && self.moved.is_some_and(|moved| moved >= self.told_address[node][of])
    }

    /// Whether `from` may be sending in a session of which `to` has lost the keys: it has not been
    /// seen to use one that was made since.
    pub(super) fn may_send_into_the_void(&self, witness: &Witness, from: usize, to: usize) -> bool {
        self.lost_keys[to][from].is_some_and(|lost| witness.used(from, to).is_none_or(|made| made <= lost))
    }
}

trait Signed {
    fn saturating_add_signed(self, seconds: i64) -> Self;
}

impl Signed for Duration {
    fn saturating_add_signed(self, seconds: i64) -> Self {
        let by = Self::from_secs(seconds.unsigned_abs());
        if seconds < 0 { self.saturating_sub(by) } else { self + by }
    }
}
