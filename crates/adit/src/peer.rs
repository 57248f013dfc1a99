//! One peer: its sessions, handshake, timers, endpoint, waiting packets and counters.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::Hasher as _;
use core::net::SocketAddr;
use core::time::Duration;

use siphasher::sip::SipHasher13;

use crate::cookie::CookieGenerator;
use crate::crypto::SharedSecret;
use crate::key::{PresharedKey, PublicKey};
use crate::keypair::Keypairs;
use crate::limits::REKEY_TIMEOUT;
use crate::noise::InitiatorState;
use crate::path::Path;
use crate::time::{Instant, Tai64n};
use crate::timers::Timers;

/// A peer's handle, good in the interface that gave it out: another one, or one restored from a
/// [`Snapshot`](crate::Snapshot), does not know it. The handle of a peer that was removed stands for no other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// What [`Interface::peers`](crate::Interface::peers) tells of a peer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PeerState<'a> {
    /// Its handle.
    pub id: PeerId,
    /// Its static public key.
    pub public_key: &'a PublicKey,
    /// The key shared beforehand; `None` if there is none.
    pub preshared_key: Option<&'a PresharedKey>,
    /// Where it was last heard from, or was said to be.
    pub endpoint: Option<SocketAddr>,
    /// The persistent keepalive's interval in seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// When the last handshake was completed, since the Unix epoch.
    pub last_handshake: Option<Duration>,
    /// When the session in use was made, even if it has expired since; `None` if there is none.
    pub session_made: Option<Instant>,
    /// When an authenticated message of any kind last came from it.
    pub last_received: Option<Instant>,
    /// When the first of the initiations was sent to it that nothing has come of so far; `None` if no handshake is
    /// being tried. It tells for how long the peer has not answered, even while new packets keep the attempts going.
    pub attempting_since: Option<Instant>,
    /// Bytes received from it in authenticated messages, overhead included.
    pub rx_bytes: u64,
    /// Bytes sent to it, overhead included.
    pub tx_bytes: u64,
    /// Whether packets can be sent to it at once, without a handshake.
    pub has_session: bool,
}

/// A handshake that this interface began and that has not been answered.
pub(crate) struct Initiating {
    pub(crate) state: InitiatorState,
    pub(crate) local_index: u32,
}

pub(crate) struct Peer {
    pub(crate) public_key: PublicKey,
    pub(crate) preshared_key: Option<Box<PresharedKey>>,
    /// Computed when it is first needed, so that adding a peer costs no Diffie-Hellman.
    pub(crate) static_static: Option<Arc<SharedSecret>>,
    /// Where it is, and which address of this host it last reached; how datagrams leave is [`Peer::way`].
    pub(crate) endpoint: Option<Path>,
    /// The caller has said that datagrams must not leave from the address that the peer last reached.
    pub(crate) is_source_rejected: bool,
    /// The caller has said of some source of the peer that datagrams may leave from there.
    pub(crate) had_good_source: bool,
    /// The peer stands in the queue of those whose source the caller has not judged.
    pub(crate) is_unjudged: bool,
    /// When it was last announced that packets leave from another address.
    pub(crate) last_announced: Option<Instant>,
    /// Whether the endpoint stays where it was set, wherever authentic messages come from.
    pub(crate) is_pinned: bool,
    pub(crate) keypairs: Keypairs,
    pub(crate) handshake: Option<Box<Initiating>>,
    pub(crate) cookie: CookieGenerator,
    pub(crate) timers: Timers,
    /// The timestamp of the last initiation accepted; an older or equal one is a replay.
    pub(crate) latest_timestamp: Option<Tai64n>,
    /// The timestamp of the last initiation sent; the next has a later one.
    pub(crate) sent_timestamp: Option<Tai64n>,
    pub(crate) last_initiation_received: Option<Instant>,
    pub(crate) last_initiation_sent: Option<Instant>,
    /// The local index of the initiation that is being computed.
    pub(crate) beginning: Option<u32>,
    /// The local index of the session that is being computed, to answer the peer's last accepted initiation.
    pub(crate) answering: Option<u32>,
    pub(crate) staged: Staged,
    /// The peer stands in the queue of those for which an initiation is to be made.
    pub(crate) wants_initiation: bool,
    /// The peer stands in the queue of those with staged packets that may go.
    pub(crate) is_ready: bool,
    /// The deadline under which the interface's timer queue has this peer: its next or an earlier.
    pub(crate) scheduled: Option<Instant>,
    pub(crate) last_handshake: Option<Duration>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

impl Peer {
    pub(crate) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            static_static: None,
            endpoint: None,
            is_source_rejected: false,
            had_good_source: false,
            is_unjudged: false,
            last_announced: None,
            is_pinned: false,
            keypairs: Keypairs::default(),
            handshake: None,
            cookie: CookieGenerator::default(),
            timers: Timers::default(),
            latest_timestamp: None,
            sent_timestamp: None,
            last_initiation_received: None,
            last_initiation_sent: None,
            beginning: None,
            answering: None,
            staged: Staged::default(),
            wants_initiation: false,
            is_ready: false,
            scheduled: None,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// Nothing comes of the handshakes that are under way; returns their indices.
    pub(crate) fn forget_handshakes(&mut self) -> impl Iterator<Item = u32> + use<> {
        let begun = self.handshake.take().map(|handshake| handshake.local_index);
        [begun, self.beginning.take(), self.answering.take()].into_iter().flatten()
    }

    /// The preshared key as the handshake wants it.
    pub(crate) fn psk(&self) -> PresharedKey {
        self.preshared_key.as_deref().cloned().unwrap_or_else(PresharedKey::zero)
    }

    /// Whether a packet can be sent in the current session.
    pub(crate) fn can_send(&self, now: Instant) -> bool {
        self.keypairs.current.as_ref().is_some_and(|keypair| keypair.can_send(now))
    }

    /// Whether an initiation is to be made or computed, or has been sent and may still be answered.
    pub(crate) fn is_attempting(&self, now: Instant) -> bool {
        let is_recent = |sent: Instant| !sent.is_older_than(REKEY_TIMEOUT, now);
        self.wants_initiation || self.timers.is_attempting() || self.last_initiation_sent.is_some_and(is_recent)
    }

    /// How a datagram to the peer leaves.
    pub(crate) fn way(&self) -> Option<Path> {
        self.endpoint.map(|path| if self.is_source_rejected { path.without_source() } else { path })
    }

    /// Forgets from which of this host's addresses answers should leave, and what was said of it.
    pub(crate) fn forget_source(&mut self) {
        (self.endpoint, self.is_source_rejected) = (self.endpoint.map(Path::without_source), false);
    }

    /// What left from the source found no answer. A rejected one was not used: it stays so.
    pub(crate) fn doubt_source(&mut self) {
        if !self.is_source_rejected {
            self.forget_source();
        }
    }

    /// Takes note of a judgement of the present source. Over IPv6 the kernel's WireGuard asks no route, and the peer
    /// may count on that: behind a firewall it hears answers from nowhere but where it called. So there a source is
    /// rejected only if one of the peer's over IPv6 was good before. Returns whether there was a change.
    pub(crate) fn source_judged(&mut self, is_good: bool) -> bool {
        let is_v4 = self.endpoint.is_some_and(|path| path.remote.ip().to_canonical().is_ipv4());
        self.had_good_source |= is_good && !is_v4;
        let is_rejected = !is_good && (is_v4 || self.had_good_source);
        core::mem::replace(&mut self.is_source_rejected, is_rejected) != is_rejected
    }

    pub(crate) fn state(&self, id: PeerId, now: Instant) -> PeerState<'_> {
        PeerState {
            id,
            public_key: &self.public_key,
            preshared_key: self.preshared_key.as_deref(),
            endpoint: self.endpoint.map(|path| path.remote),
            persistent_keepalive: self.timers.persistent_keepalive(),
            last_handshake: self.last_handshake,
            session_made: self.keypairs.current.as_ref().map(|keypair| keypair.created),
            last_received: self.timers.last_received,
            attempting_since: self.timers.attempting_since,
            rx_bytes: self.rx_bytes,
            tx_bytes: self.tx_bytes,
            has_session: self.can_send(now),
        }
    }
}

/// Packets that wait for a session, oldest first.
#[derive(Default)]
pub(crate) struct Staged {
    packets: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Staged {
    /// What a waiting packet is charged beyond its length, so that many small ones are bounded too.
    const CHARGE: usize = 64;

    pub(crate) fn push(&mut self, packet: &[u8]) {
        self.bytes += packet.len() + Self::CHARGE;
        self.packets.push_back(packet.into());
    }

    pub(crate) fn pop(&mut self) -> Option<Box<[u8]>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.len() + Self::CHARGE;
        if self.packets.is_empty() {
            self.packets = VecDeque::new();
        }
        Some(packet)
    }

    /// All of them, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        // The bytes are counted again as the packets are pushed.
        let Self { packets, bytes: _ } = self;
        packets.iter().map(AsRef::as_ref)
    }

    /// The packet that goes next.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        self.packets.front().map(AsRef::as_ref)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Bytes held, with what each packet is charged.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Forgets all packets; returns how many there were.
    pub(crate) fn clear(&mut self) -> u64 {
        let count = self.packets.len() as u64;
        *self = Self::default();
        count
    }
}

/// Peers by handle: slots that are used again, each time under a new generation.
pub(crate) struct Peers {
    slots: Vec<Option<(u32, Box<Peer>)>>,
    free: Vec<u32>,
    next_generation: u32,
}

impl Peers {
    /// From the secret by which the interface hashes, of which this reveals nothing. Each interface counts from another
    /// number, so that it does not take another's handle for its own.
    pub(crate) fn new([key0, key1]: [u64; 2]) -> Self {
        let mut hasher = SipHasher13::new_with_keys(key0, key1);
        hasher.write(b"generations of peers");
        Self { slots: Vec::new(), free: Vec::new(), next_generation: hasher.finish() as u32 }
    }

    pub(crate) fn insert(&mut self, peer: Peer) -> PeerId {
        let generation = self.next_generation;
        self.next_generation = generation.wrapping_add(1);
        let place = Some((generation, Box::new(peer)));
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        if let Some(free) = self.slots.get_mut(slot as usize) {
            *free = place;
        }
        PeerId { slot, generation }
    }

    pub(crate) fn remove(&mut self, id: PeerId) -> Option<Box<Peer>> {
        let place = self.slots.get_mut(id.slot as usize)?;
        let (_, peer) = place.take_if(|(generation, _)| *generation == id.generation)?;
        self.free.push(id.slot);
        Some(peer)
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<&Peer> {
        let (generation, peer) = self.slots.get(id.slot as usize)?.as_ref()?;
        (*generation == id.generation).then_some(peer)
    }

    pub(crate) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let (generation, peer) = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        (*generation == id.generation).then_some(peer)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let (generation, peer) = place.as_ref()?;
            Some((PeerId { slot: slot as u32, generation: *generation }, &**peer))
        })
    }
}
