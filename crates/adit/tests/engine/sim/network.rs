//! What happens to datagrams on their way.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use adit::{Ecn, Instant, Path};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use super::DELAY;

/// A datagram that a node has sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    /// What the sender's own clock said then.
    pub(crate) clock: Instant,
    pub(crate) from: usize,
    /// The sender's address as the others see it.
    pub(crate) source: SocketAddr,
    /// Where to, and which source the engine asked for.
    pub(crate) path: Path,
    pub(crate) tos: u8,
    pub(crate) bytes: Vec<u8>,
}

/// The messages of the protocol; a transport message without a packet is a keepalive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Initiation,
    Response,
    CookieReply,
    Keepalive,
    Data,
}

impl Sent {
    pub(crate) fn kind(&self) -> Kind {
        match (self.bytes[0], self.bytes.len()) {
            (1, 148) => Kind::Initiation,
            (2, 92) => Kind::Response,
            (3, 64) => Kind::CookieReply,
            (4, 32) => Kind::Keepalive,
            (4, 33..) => Kind::Data,
            other => panic!("not a message: type and length {other:?}"),
        }
    }

    /// The second field of every message that has one: the receiver's index, or the sender's.
    pub(crate) fn first_index(&self) -> u32 {
        u32::from_le_bytes(self.bytes[4..8].try_into().unwrap())
    }

    /// The counter of a transport message.
    pub(crate) fn counter(&self) -> u64 {
        assert_eq!(self.bytes[0], 4);
        u64::from_le_bytes(self.bytes[8..16].try_into().unwrap())
    }
}

type Predicate = Box<dyn FnMut(&Sent) -> bool>;

/// The conditions of the network. Shares are in thousandths.
pub(crate) struct Network {
    /// How long each datagram takes.
    pub(crate) delay: Duration,
    /// Up to this much more, by chance: datagrams overtake each other.
    pub(crate) spread: Duration,
    pub(crate) loss: u64,
    pub(crate) duplication: u64,
    /// The share of datagrams in which one bit is flipped.
    pub(crate) corruption: u64,
    /// Every router is congested and marks what can be marked.
    pub(crate) is_congested: bool,
    cut: BTreeSet<(usize, usize)>,
    lost: Option<Predicate>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            delay: DELAY,
            spread: Duration::ZERO,
            loss: 0,
            duplication: 0,
            corruption: 0,
            is_congested: false,
            cut: BTreeSet::new(),
            lost: None,
        }
    }
}

impl Network {
    /// Nothing gets from one node to the other any more.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Nothing gets through between the two in either direction.
    pub(crate) fn cut_both(&mut self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Back to a network without faults: nothing is cut or lost any more.
    pub(crate) fn heal(&mut self) {
        *self = Self::default();
    }

    /// Loses everything sent from now on for which `is_lost` says so.
    pub(crate) fn lose(&mut self, is_lost: impl FnMut(&Sent) -> bool + 'static) {
        self.lost = Some(Box::new(is_lost));
    }

    /// Loses all messages of one kind.
    pub(crate) fn lose_kind(&mut self, kind: Kind) {
        self.lose(move |sent| sent.kind() == kind);
    }

    /// The congestion bits with which a datagram arrives.
    pub(super) fn mark(&self, tos: u8) -> Ecn {
        match Ecn::from_bits(tos) {
            Ecn::NotEct => Ecn::NotEct,
            _ if self.is_congested => Ecn::Ce,
            other => other,
        }
    }

    /// What arrives of a datagram, and after how long: nothing, or once, or more than once.
    pub(super) fn carry(
        &mut self,
        rng: &mut ChaCha8Rng,
        sent: &Sent,
        destination: Option<usize>,
    ) -> Vec<(Duration, Vec<u8>)> {
        let mut chance = |share: u64| share > 0 && rng.next_u64() % 1000 < share;
        let is_cut = destination.is_none_or(|to| self.cut.contains(&(sent.from, to)));
        if is_cut || self.lost.as_mut().is_some_and(|is_lost| is_lost(sent)) || chance(self.loss) {
            return Vec::new();
        }
        let copies = if chance(self.duplication) { 2 } else { 1 };
        let is_corrupted = chance(self.corruption);
        (0..copies)
            .map(|_| {
                let mut bytes = sent.bytes.clone();
                if is_corrupted {
                    let bit = rng.next_u64() as usize % (bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
                let spread = self.spread.as_nanos() as u64;
                let more = if spread > 0 { rng.next_u64() % spread } else { 0 };
                (self.delay + Duration::from_nanos(more), bytes)
            })
            .collect()
    }
}
