//! [`Interface`]: identity, peers, and the tables that lead to them. Configuration acts in place.

pub(crate) mod index_hash;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use hashbrown::HashMap;
use ipnet::IpNet;
use rand_core::CryptoRng;

use crate::allowed_ips::AllowedIps;
use crate::batch::{Datagrams, Packets};
use crate::bounds::Bounds;
use crate::cookie::CookieChecker;
use crate::error::{DropCounters, DropReason, Error};
use crate::event::{Event, Events};
use crate::handshake::{Crowd, Incoming, Load, Turns};
use crate::ip;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::noise::Identity;
use crate::peer::{Peer, PeerId, PeerState, Peers};
use crate::rate_limiter::RateLimiter;
use crate::time::{Instant, Tai64n};
use crate::timers::Timers;
use crate::transmit::Outgoing;

/// A WireGuard interface: one private key, its peers, and all that the protocol keeps for them.
pub struct Interface {
    pub(crate) rng: Box<dyn CryptoRng + Send + Sync>,
    /// What the wall clock said, and when.
    pub(crate) unix_time: (Instant, Duration),
    pub(crate) bounds: Bounds,
    pub(crate) mtu: u16,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) checker: Option<Arc<CookieChecker>>,
    pub(crate) peers: Peers,
    pub(crate) by_key: BTreeMap<PublicKey, PeerId>,
    /// The indices of sessions and handshakes, by which peers address this interface.
    pub(crate) indices: HashMap<u32, PeerId, index_hash::IndexHash>,
    pub(crate) allowed_ips: AllowedIps<PeerId>,
    /// Each peer with a deadline, under that deadline or an earlier one.
    pub(crate) schedule: BTreeSet<(Instant, PeerId)>,
    /// Received handshake messages whose Diffie-Hellman is still to be computed.
    pub(crate) incoming: VecDeque<Incoming>,
    /// Peers for which an initiation is to be computed.
    pub(crate) wanted: VecDeque<PeerId>,
    /// Whether the last handshake that was begun could be one of the wanted: the next may be an incoming one.
    pub(crate) is_own_turn: bool,
    /// Peers whose staged packets may be sent now.
    pub(crate) ready: VecDeque<PeerId>,
    /// Peers whose source the caller has not judged.
    pub(crate) unjudged: VecDeque<PeerId>,
    pub(crate) outgoing: VecDeque<Outgoing>,
    /// Kept apart from `outgoing`: a flood of strangers must not hold up what is for peers.
    pub(crate) cookie_replies: VecDeque<Outgoing>,
    pub(crate) limiter: RateLimiter,
    pub(crate) load: Load,
    pub(crate) crowd: Crowd,
    pub(crate) turns: Turns,
    /// The timestamp of the last initiation sent, to whichever peer.
    pub(crate) last_timestamp: Tai64n,
    /// Bytes staged for all peers together.
    pub(crate) staged_bytes: usize,
    pub(crate) events: Events,
    pub(crate) drops: DropCounters,
    pub(crate) drop_events: bool,
    /// Memory reused for the one-packet bursts of the single-threaded calls.
    pub(crate) spare_datagrams: Datagrams,
    pub(crate) spare_packets: Packets,
}

impl Interface {
    /// An interface without a key and without peers.
    ///
    /// `unix_time` is the time since the Unix epoch at the moment `now`; see [`Interface::set_unix_time`]. `rng` must
    /// be fit for cryptography; a test may give one with a seed of its own, but not one that gives the same number for
    /// ever. If it panics, as `UnwrapErr` does when the system has no randomness to give, so does the call that asked
    /// it.
    pub fn new(now: Instant, unix_time: Duration, rng: Box<dyn CryptoRng + Send + Sync>) -> Self {
        Self::with_bounds(now, unix_time, rng, Bounds::default())
    }

    /// As [`Interface::new`], with other bounds.
    pub fn with_bounds(
        now: Instant,
        unix_time: Duration,
        mut rng: Box<dyn CryptoRng + Send + Sync>,
        bounds: Bounds,
    ) -> Self {
        // Without room for a single message no timer could ever do its work, and no response would be read.
        let (outgoing, handshake_queue) = (bounds.outgoing.max(1), bounds.handshake_queue.max(1));
        let rate_limited_sources = bounds.rate_limited_sources.min(Bounds::MAX_SOURCES);
        let bounds = Bounds { outgoing, handshake_queue, rate_limited_sources, ..bounds };
        // One secret serves all that hash by it: what they do reveals nothing of it.
        let seed = [rng.next_u64(), rng.next_u64()];
        let (limiter, turns) = (RateLimiter::new(bounds.rate_limited_sources, seed), Turns::new(seed));
        let allowed_ips = AllowedIps::new([rng.next_u64(), rng.next_u64()]);
        Self {
            rng,
            unix_time: (now, unix_time),
            bounds,
            mtu: 0,
            identity: None,
            checker: None,
            peers: Peers::new(seed),
            by_key: BTreeMap::new(),
            indices: HashMap::default(),
            allowed_ips,
            schedule: BTreeSet::new(),
            incoming: VecDeque::new(),
            wanted: VecDeque::new(),
            is_own_turn: false,
            ready: VecDeque::new(),
            unjudged: VecDeque::new(),
            outgoing: VecDeque::new(),
            cookie_replies: VecDeque::new(),
            limiter,
            load: Load::default(),
            crowd: Crowd::new(bounds.rate_limited_sources, seed),
            turns,
            last_timestamp: Tai64n::default(),
            staged_bytes: 0,
            events: Events::new(bounds.events),
            drops: DropCounters::default(),
            drop_events: false,
            spare_datagrams: Datagrams::default(),
            spare_packets: Packets::default(),
        }
    }

    /// Tells what the wall clock says. It goes into initiations, by which peers tell new from old, and into the times
    /// of handshakes. To be called again whenever the clock has been set.
    ///
    /// While this interface lives, a clock that is set back does no harm. But a device that starts with an earlier time
    /// than it had before is not heard by peers that have heard it then, until its clock is later.
    pub fn set_unix_time(&mut self, now: Instant, unix_time: Duration) {
        self.unix_time = (now, unix_time);
    }

    pub(crate) fn unix_time(&self, now: Instant) -> Duration {
        let (then, unix_time) = self.unix_time;
        unix_time.saturating_add(now.saturating_since(then))
    }

    /// Sets the tunnel's MTU in bytes, which padding does not exceed. With 0, the initial value, padding is not
    /// bounded, and the largest packets may not fit the path. Callers of [`Interface::begin_seal`] give their
    /// [`Packets`] the same.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Sets or removes the private key. Sessions made with another key are given up: nothing more is sent in them, but
    /// what arrives in them is accepted until they expire, as with the kernel's WireGuard. A peer with the new public
    /// key is removed: an interface is not its own peer. When a key is set where there was none, waiting packets and
    /// persistent keepalives are due at once: see [`Interface::poll_timeout`].
    pub fn set_private_key(&mut self, key: Option<PrivateKey>) {
        if self.identity.as_ref().map(|identity| &identity.private) == key.as_ref() {
            return;
        }
        let identity = key.map(|key| Arc::new(Identity::new(key)));
        if let Some(identity) = &identity
            && let Some(own) = self.peer_id(&identity.public)
        {
            self.remove_peer(own);
        }
        self.checker = identity.as_ref().map(|identity| Arc::new(CookieChecker::new(&identity.public)));
        let is_first = self.identity.is_none();
        self.identity = identity;
        self.discard_incoming();
        let Self { peers, indices, .. } = self;
        for id in self.by_key.values() {
            let Some(peer) = peers.get_mut(*id) else { continue };
            peer.static_static = None;
            for index in peer.forget_handshakes() {
                indices.remove(&index);
            }
            peer.keypairs.stop_sending();
            peer.timers.handshake_voided();
            peer.last_initiation_sent = None;
        }
        if is_first {
            let ids: Vec<PeerId> = self.by_key.values().copied().collect();
            ids.into_iter().for_each(|id| self.handshake_possible(id));
        }
    }

    /// A handshake with the peer has become possible: the private key or the endpoint that was missing is there.
    pub(crate) fn handshake_possible(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.endpoint.is_some()) {
            peer.timers.handshake_possible(!peer.staged.is_empty());
            self.reschedule(id);
        }
    }

    /// The link has gone down: every session, handshake and waiting packet is given up, without an
    /// event, and nothing is due any more. Configuration, counters and the memory of old handshakes stay.
    ///
    /// This is a step and no state: whatever the interface is given afterwards, a peer's initiation say, is answered as
    /// ever. A caller whose link is down gives it nothing until [`Interface::link_up`]. To forget all keys but those
    /// shared beforehand, [`Interface::set_private_key`] with `None` belongs to it.
    pub fn link_down(&mut self) {
        // With a new `Arc`, a handshake that is being computed belongs to another identity, and comes to nothing.
        self.identity = self.identity.as_deref().cloned().map(Arc::new);
        self.discard_incoming();
        self.wanted.clear();
        self.ready.clear();
        self.outgoing.clear();
        self.cookie_replies.clear();
        self.schedule.clear();
        let Self { peers, indices, by_key, staged_bytes, drops, .. } = self;
        for id in by_key.values() {
            let Some(peer) = peers.get_mut(*id) else { continue };
            for index in peer.keypairs.clear().into_iter().chain(peer.forget_handshakes()) {
                indices.remove(&index);
            }
            peer.last_initiation_sent = None;
            peer.wants_initiation = false;
            peer.is_ready = false;
            peer.scheduled = None;
            peer.timers.stop();
            *staged_bytes -= peer.staged.bytes();
            drops.add(DropReason::HandshakeGaveUp, peer.staged.clear());
        }
    }

    /// Gives up every handshake that waits to be computed, for callers that still receive messages while the link is
    /// down.
    pub fn discard_handshakes(&mut self) {
        self.discard_incoming();
        for id in self.wanted.drain(..) {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.wants_initiation = false;
            }
        }
    }

    /// Nothing comes of the messages that wait to be computed.
    fn discard_incoming(&mut self) {
        self.drops.add(DropReason::PeerGone, self.incoming.len() as u64);
        self.incoming.clear();
    }

    /// The link has come up: persistent keepalives begin.
    pub fn link_up(&mut self, now: Instant) {
        let ids: Vec<PeerId> = self.by_key.values().copied().collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.timers.start(now);
                self.reschedule(id);
            }
        }
    }

    /// The private key, if one is set.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.identity.as_ref().map(|identity| &identity.private)
    }

    /// The public key, if a private one is set.
    pub fn public_key(&self) -> Option<&PublicKey> {
        self.identity.as_ref().map(|identity| &identity.public)
    }

    /// Adds a peer, or finds it if it is there already, in which case nothing about it changes.
    ///
    /// # Errors
    /// [`Error::OwnKey`] if it is the interface's own key.
    pub fn add_peer(&mut self, key: PublicKey) -> Result<PeerId, Error> {
        if self.public_key() == Some(&key) {
            return Err(Error::OwnKey);
        }
        let peers = &mut self.peers;
        Ok(*self.by_key.entry(key).or_insert_with(|| peers.insert(Peer::new(key))))
    }

    /// The handle of the peer with this key.
    pub fn peer_id(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    /// Removes a peer with all it had, including what waits to be sent to it. Returns false if it was gone already.
    pub fn remove_peer(&mut self, id: PeerId) -> bool {
        self.clear_staged(id, DropReason::PeerGone);
        let Some(mut peer) = self.peers.remove(id) else { return false };
        self.by_key.remove(&peer.public_key);
        self.allowed_ips.remove_all(id);
        if let Some(deadline) = peer.scheduled {
            self.schedule.remove(&(deadline, id));
        }
        for index in peer.keypairs.clear().into_iter().chain(peer.forget_handshakes()) {
            self.indices.remove(&index);
        }
        self.outgoing.retain(|outgoing| outgoing.peer != Some(id));
        if peer.is_unjudged {
            // Nobody may ever ask for it, while peers come and go.
            self.unjudged.retain(|&other| other != id);
        }
        true
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.by_key.len()
    }

    /// Sets or removes the preshared key. It takes effect with the next handshake; the present session goes on.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn set_preshared_key(&mut self, id: PeerId, key: Option<PresharedKey>) -> Result<(), Error> {
        self.peer_mut(id)?.preshared_key = key.map(Box::new);
        Ok(())
    }

    /// Sets the interval in seconds after which a silent tunnel sends an empty packet; 0 turns it
    /// off. If it was off, the first one is due at once: see [`Interface::poll_timeout`].
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn set_persistent_keepalive(&mut self, now: Instant, id: PeerId, seconds: u16) -> Result<(), Error> {
        self.peer_mut(id)?.timers.set_persistent_keepalive(now, seconds);
        self.reschedule(id);
        Ok(())
    }

    /// Asks for a new session with the peer, though there may be one: to use another preshared key, to show the peer a
    /// new address of this host, or to see whether it answers. The initiation is due at once (see
    /// [`Interface::poll_timeout`]), but no sooner than `REKEY_TIMEOUT` after the last one, or after an answer to the
    /// peer's. Nothing happens without a private key and the peer's endpoint.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn initiate_handshake(&mut self, id: PeerId) -> Result<(), Error> {
        self.make_due(id, Timers::handshake_asked_for)
    }

    /// Sends the peer an empty packet, by which it learns where this host is now. It is due at once: see
    /// [`Interface::poll_timeout`]. If there is no session, one is asked for. Nothing happens without a private key and
    /// the peer's endpoint.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn send_keepalive(&mut self, id: PeerId) -> Result<(), Error> {
        self.make_due(id, Timers::keepalive_due)
    }

    /// Lets a deadline of the peer pass at once, if what it stands for is possible.
    fn make_due(&mut self, id: PeerId, set: fn(&mut Timers)) -> Result<(), Error> {
        let has_key = self.identity.is_some();
        let peer = self.peer_mut(id)?;
        if has_key && peer.endpoint.is_some() {
            set(&mut peer.timers);
            self.reschedule(id);
        }
        Ok(())
    }

    /// Lets the peer own a prefix: packets to it go to this peer, and packets from it are accepted from this peer
    /// alone. In the same step the prefix is taken from the peer that owned it, which is returned.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn add_allowed_ip(&mut self, id: PeerId, prefix: IpNet) -> Result<Option<PeerId>, Error> {
        self.peer_mut(id)?;
        Ok(self.allowed_ips.insert(prefix, id).filter(|&owner| owner != id))
    }

    /// Takes a prefix from the peer; false if it was not the peer's.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn remove_allowed_ip(&mut self, id: PeerId, prefix: IpNet) -> Result<bool, Error> {
        self.peer_mut(id)?;
        Ok(self.allowed_ips.remove(prefix, id))
    }

    /// Takes all prefixes from the peer.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn clear_allowed_ips(&mut self, id: PeerId) -> Result<(), Error> {
        self.peer_mut(id)?;
        self.allowed_ips.remove_all(id);
        Ok(())
    }

    /// The prefixes that the peer owns.
    pub fn allowed_ips(&self, id: PeerId) -> impl Iterator<Item = IpNet> + '_ {
        self.allowed_ips.prefixes_of(id)
    }

    /// The peer that owns an address.
    pub fn route(&self, address: IpAddr) -> Option<PeerId> {
        self.allowed_ips.lookup(address)
    }

    /// The peer to which a packet from inside goes.
    pub fn route_packet(&self, packet: &[u8]) -> Option<PeerId> {
        self.route(ip::destination(packet)?)
    }

    /// Every peer, in no particular order.
    pub fn peers(&self, now: Instant) -> impl Iterator<Item = PeerState<'_>> + '_ {
        self.peers.iter().map(move |(id, peer)| peer.state(id, now))
    }

    /// One peer.
    pub fn peer(&self, now: Instant, id: PeerId) -> Option<PeerState<'_>> {
        self.peers.get(id).map(|peer| peer.state(id, now))
    }

    /// How many packets were dropped, by reason.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// Sets whether dropped packets are [`Event`]s too, and initiations of strangers. Several packets may share one
    /// event; [`Interface::drops`] counts each. Off by default.
    pub fn set_drop_events(&mut self, on: bool) {
        self.drop_events = on;
    }

    /// The oldest event that has not been taken.
    #[must_use = "an event is given once"]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Counts a packet that ends here.
    pub(crate) fn drop(&mut self, peer: Option<PeerId>, reason: DropReason) {
        self.drop_many(peer, reason, 1);
    }

    pub(crate) fn drop_many(&mut self, peer: Option<PeerId>, reason: DropReason, count: u64) {
        self.drops.add(reason, count);
        if self.drop_events && count > 0 {
            self.events.push(Event::PacketDropped { peer, reason });
        }
    }

    /// A new index, which no other session or handshake has, assigned to the peer.
    pub(crate) fn new_index(&mut self, id: PeerId) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if let hashbrown::hash_map::Entry::Vacant(place) = self.indices.entry(index) {
                place.insert(id);
                return index;
            }
        }
    }

    pub(crate) fn retire(&mut self, indices: impl IntoIterator<Item = u32>) {
        for index in indices {
            self.indices.remove(&index);
        }
    }

    /// Puts the peer into the schedule under its next deadline. If that is later than the deadline it stands under, it
    /// is left there, and put right when its turn comes.
    pub(crate) fn reschedule(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(next) = peer.timers.next() else { return };
        match peer.scheduled {
            Some(earlier) if earlier <= next => return,
            Some(later) => self.schedule.remove(&(later, id)),
            None => false,
        };
        peer.scheduled = Some(next);
        self.schedule.insert((next, id));
    }

    pub(crate) fn peer_mut(&mut self, id: PeerId) -> Result<&mut Peer, Error> {
        self.peers.get_mut(id).ok_or(Error::NoSuchPeer)
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interface")
            .field("public_key", &self.public_key())
            .field("peers", &self.peer_count())
            .finish_non_exhaustive()
    }
}
