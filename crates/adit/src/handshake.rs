//! Handshakes on their way through the interface: what arrives is checked cheaply and queued, the
//! Diffie-Hellman operations run wherever the caller likes, and what they found is committed.
//!
//! A forged message changes nothing: everything that it leads to is computed on local values.

mod admission;
mod crowd;
mod turns;
mod work;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;

use rand_core::CryptoRng;

use crate::crypto::SharedSecret;
use crate::error::DropReason;
use crate::event::Event;
use crate::interface::Interface;
use crate::key::PrivateKey;
use crate::keypair::{Keypair, Role};
use crate::limits::{HANDSHAKE_TOS, INITIATION_INTERVAL, INITIATION_LEN, REKEY_JITTER, REKEY_TIMEOUT, RESPONSE_LEN};
use crate::message::{CookieReply, Message};
use crate::noise::{ClaimedInitiation, Identity, InitiatorState, ResponderState, SessionKeys};
use crate::path::Path;
use crate::peer::{Initiating, Peer, PeerId};
use crate::time::{Instant, Tai64n};
use crate::transmit::Outgoing;

pub(crate) use admission::{Admission, Load};
pub(crate) use crowd::Crowd;
pub(crate) use turns::Turns;
use work::{Done, Work};
pub use work::{HandshakeDone, HandshakeWork};

/// A handshake message whose mac1 is right, waiting to be computed.
pub(crate) struct Incoming {
    pub(crate) path: Path,
    message: [u8; INITIATION_LEN],
    len: u8,
}

impl Incoming {
    pub(crate) fn new(path: Path, datagram: &[u8]) -> Option<Self> {
        let mut message = [0; INITIATION_LEN];
        message.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Self { path, message, len: u8::try_from(datagram.len()).ok()? })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.parts().1
    }

    /// What [`Incoming::new`] was given.
    pub(crate) fn parts(&self) -> (&Path, &[u8]) {
        let Self { path, message, len } = self;
        (path, message.get(..usize::from(*len)).unwrap_or_default())
    }
}

/// How far a wall clock may be set back before what it said earlier counts as plainly wrong.
const DAY: Duration = Duration::from_secs(86_400);

impl Interface {
    /// The next step of a handshake that is to be computed, for callers who keep Diffie-Hellman
    /// away from their lock; others have it done by [`Interface::handle_datagram`] and its like.
    ///
    /// Compute it, then give it to [`Interface::finish_handshake`]. One that is dropped is as good as a message that
    /// the network has lost: the handshake is tried again after `REKEY_TIMEOUT`, and of one that takes as long nothing
    /// comes.
    pub fn poll_handshake(&mut self, now: Instant) -> Option<HandshakeWork> {
        loop {
            // Incoming messages and own initiations take turns: strangers' messages must not hold back our initiations,
            // nor many wanted initiations the incoming messages.
            self.is_own_turn = !self.is_own_turn;
            let comes_first = !self.is_own_turn || self.wanted.is_empty();
            let work = if let Some(incoming) = self.incoming.pop_front_if(|_| comes_first) {
                self.begin_incoming(incoming)
            } else {
                let peer = self.wanted.pop_front()?;
                self.begin_initiation(now, peer)
            };
            if work.is_some() {
                return work;
            }
        }
    }

    /// Whether [`Interface::poll_handshake`] has something to give.
    pub fn has_handshakes(&self) -> bool {
        !self.incoming.is_empty() || !self.wanted.is_empty()
    }

    /// Commits a computed step, and returns the one after it, if there is one.
    pub fn finish_handshake(&mut self, now: Instant, done: HandshakeDone) -> Option<HandshakeWork> {
        let work = match done.0 {
            Done::Initiated { peer, identity, local_index, result } => {
                self.finish_initiation(now, peer, &identity, local_index, result);
                None
            }
            Done::Identified { identity, path, result } => self.finish_identification(identity, path, result),
            Done::Proven { identity, path, peer, result } => self.finish_proof(now, identity, path, peer, result),
            Done::Responded { identity, path, peer, local_index, remote_index, result } => {
                self.finish_response(now, path, peer, &identity, (local_index, remote_index), result);
                None
            }
            Done::Concluded { identity, path, peer, local_index, result } => {
                self.finish_conclusion(now, path, peer, &identity, local_index, result);
                None
            }
        };
        work.map(HandshakeWork)
    }

    /// Every handshake that waits, computed here and now.
    pub(crate) fn run_handshakes(&mut self, now: Instant) {
        while let Some(work) = self.poll_handshake(now) {
            let mut next = Some(work);
            while let Some(work) = next {
                next = self.finish_handshake(now, work.compute());
            }
        }
    }

    /// A cookie reply has arrived: the next handshake message will carry the cookie.
    pub(crate) fn take_cookie(&mut self, now: Instant, reply: &CookieReply<'_>) -> Result<(), DropReason> {
        let id = *self.indices.get(&reply.receiver_index).ok_or(DropReason::UnknownIndex)?;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownIndex)?;
        if !peer.cookie.consume_reply(now, &peer.public_key, reply) {
            return Err(DropReason::BadCookieReply);
        }
        Ok(())
    }

    /// A session is wanted: an initiation will be made, at once unless one was sent or answered less than
    /// `REKEY_TIMEOUT` ago; then only when that time is over and nothing has come of it.
    pub(crate) fn want_session(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.timers.attempt_restarted(now);
        }
        self.retry_session(now, id);
    }

    /// The same for the repetition of an unanswered initiation, which gets no more time for it.
    pub(crate) fn retry_session(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.wants_initiation || peer.endpoint.is_none() {
            return;
        }
        if let Some(sent) = peer.last_initiation_sent.filter(|sent| sent.is_within(REKEY_TIMEOUT, now)) {
            peer.timers.handshake_put_off(sent, || jitter(&mut *self.rng));
            self.reschedule(id);
            return;
        }
        peer.wants_initiation = true;
        self.wanted.push_back(id);
    }

    fn begin_initiation(&mut self, now: Instant, id: PeerId) -> Option<HandshakeWork> {
        let unix_time = self.unix_time(now);
        let identity = self.identity.clone();
        let peer = self.peers.get_mut(id)?;
        peer.wants_initiation = false;
        let identity = identity?;
        if peer.endpoint.is_none() {
            // The endpoint was taken away since the initiation was asked for. No timer is left to end the attempt.
            self.give_up(now, id);
            return None;
        }
        peer.last_initiation_sent = Some(now);
        // For each peer TAI64N labels must grow, whatever the wall clock does and however coarse they are. The peer may
        // have been removed and added again, so its first label is later than any sent before to anyone, except those
        // of a clock that was plainly wrong.
        let soon = Tai64n::from_unix(unix_time.saturating_add(DAY));
        let last_of_all = if self.last_timestamp <= soon { self.last_timestamp } else { Tai64n::default() };
        let last = peer.sent_timestamp.unwrap_or(last_of_all);
        let timestamp = Tai64n::from_unix(unix_time).max(last.successor());
        peer.sent_timestamp = Some(timestamp);
        self.last_timestamp = timestamp.max(last_of_all);
        let (key, static_static) = (peer.public_key, peer.static_static.clone());
        let ephemeral = PrivateKey::generate(&mut *self.rng);
        let local_index = self.new_index(id);
        if let Some(peer) = self.peers.get_mut(id) {
            // If the computation is lost, it is tried again as after a lost message.
            peer.timers.handshake_put_off(now, || Duration::ZERO);
            let lost = peer.beginning.replace(local_index);
            self.retire(lost);
            self.reschedule(id);
        }
        Some(HandshakeWork(Work::Initiate {
            peer: id,
            identity,
            key,
            static_static,
            ephemeral,
            timestamp,
            local_index,
        }))
    }

    fn begin_incoming(&mut self, incoming: Incoming) -> Option<HandshakeWork> {
        let identity = self.identity.clone()?;
        match Message::parse(incoming.bytes()) {
            Ok(Message::Initiation(_)) => Some(HandshakeWork(Work::Identify { identity, incoming })),
            Ok(Message::Response(message)) => {
                let local_index = message.receiver_index;
                let found = self.indices.get(&local_index).and_then(|&id| {
                    let peer = self.peers.get(id)?;
                    let handshake = peer.handshake.as_ref().filter(|begun| begun.local_index == local_index)?;
                    Some((id, Box::new(handshake.state.clone()), peer.psk()))
                });
                let Some((peer, state, psk)) = found else {
                    self.drop(None, DropReason::UnknownIndex);
                    return None;
                };
                Some(HandshakeWork(Work::Conclude { identity, peer, local_index, state, psk, incoming }))
            }
            _ => None,
        }
    }

    /// Whether `identity` still is this interface's: it may have changed during a computation.
    fn is_current(&self, identity: &Arc<Identity>) -> bool {
        self.identity.as_ref().is_some_and(|current| Arc::ptr_eq(current, identity))
    }

    fn finish_initiation(
        &mut self,
        now: Instant,
        id: PeerId,
        identity: &Arc<Identity>,
        local_index: u32,
        result: Option<(Arc<SharedSecret>, InitiatorState, [u8; INITIATION_LEN])>,
    ) {
        let is_current = self.is_current(identity);
        let jitter = jitter(&mut *self.rng);
        // If another initiation was begun since, this one has been given up.
        let latest = |peer: &mut Peer| peer.beginning.take_if(|index| *index == local_index).is_some();
        let is_latest = self.peers.get_mut(id).is_some_and(latest);
        let Some(peer) = self.peers.get_mut(id).filter(|_| is_latest && is_current) else {
            self.retire([local_index]);
            self.drop(Some(id), DropReason::PeerGone);
            // Packets that wait for a session now wait for one under the new key, and so does whoever asked for one.
            if self.peers.get(id).is_some_and(|peer| !peer.staged.is_empty() || peer.timers.asked) {
                self.retry_session(now, id);
            }
            return;
        };
        let Some((static_static, state, mut message)) = result else {
            // No handshake can be made with a key of small order, now or later.
            self.retire([local_index]);
            self.give_up(now, id);
            return;
        };
        peer.static_static = Some(static_static);
        let begun = peer.handshake.replace(Box::new(Initiating { state, local_index }));
        // The next session, if there is one, crossed with an earlier initiation, and takes no precedence over this
        // one's.
        peer.keypairs.next_is_preferred = false;
        peer.cookie.add_macs(now, &peer.public_key, &mut message);
        peer.timers.any_authenticated_packet_sent(now);
        peer.timers.handshake_initiated(now, jitter);
        peer.tx_bytes += message.len() as u64;
        let outgoing = peer.way().and_then(|path| Outgoing::new(Some(id), path, HANDSHAKE_TOS, &message));
        self.retire(begun.map(|begun| begun.local_index));
        self.send(outgoing);
        self.reschedule(id);
    }

    fn finish_identification(
        &mut self,
        identity: Arc<Identity>,
        path: Path,
        result: Option<Box<ClaimedInitiation>>,
    ) -> Option<Work> {
        let Some(claimed) = result else {
            self.drop(None, DropReason::BadHandshake);
            return None;
        };
        if !self.is_current(&identity) {
            self.drop(None, DropReason::PeerGone);
            return None;
        }
        let Some(peer) = self.peer_id(&claimed.initiator) else {
            if self.drop_events {
                self.event(Event::UnknownPeer { public_key: claimed.initiator, from: path.remote });
            }
            self.drop(None, DropReason::UnknownPeer);
            return None;
        };
        let static_static = self.peers.get(peer).and_then(|peer| peer.static_static.clone());
        Some(Work::Prove { identity, path, peer, claimed, static_static })
    }

    fn finish_proof(
        &mut self,
        now: Instant,
        identity: Arc<Identity>,
        path: Path,
        id: PeerId,
        result: Option<(Arc<SharedSecret>, Box<ResponderState>, Tai64n)>,
    ) -> Option<Work> {
        let is_current = self.is_current(&identity);
        let Some(peer) = self.peers.get_mut(id).filter(|_| is_current) else {
            self.drop(Some(id), DropReason::PeerGone);
            return None;
        };
        let Some((static_static, state, timestamp)) = result else {
            self.drop(Some(id), DropReason::BadHandshake);
            return None;
        };
        if peer.latest_timestamp.is_some_and(|latest| timestamp <= latest) {
            self.drop(Some(id), DropReason::ReplayedInitiation);
            return None;
        }
        if peer.last_initiation_received.is_some_and(|last| last.is_within(INITIATION_INTERVAL, now)) {
            self.drop(Some(id), DropReason::InitiationFlood);
            return None;
        }
        peer.latest_timestamp = Some(timestamp);
        peer.last_initiation_received = Some(now);
        peer.static_static = Some(static_static);
        let psk = peer.psk();
        let ephemeral = PrivateKey::generate(&mut *self.rng);
        let local_index = self.new_index(id);
        let lost = self.peers.get_mut(id).and_then(|peer| peer.answering.replace(local_index));
        self.retire(lost);
        Some(Work::Respond { identity, path, peer: id, state, psk, ephemeral, local_index })
    }

    fn finish_response(
        &mut self,
        now: Instant,
        path: Path,
        id: PeerId,
        identity: &Arc<Identity>,
        (local_index, remote_index): (u32, u32),
        result: Option<(SessionKeys, [u8; RESPONSE_LEN])>,
    ) {
        let is_current = self.is_current(identity);
        // If the peer has sent another initiation since, it has forgotten this one.
        let latest = |peer: &mut Peer| peer.answering.take_if(|index| *index == local_index).is_some();
        let is_latest = self.peers.get_mut(id).is_some_and(latest);
        let peer = self.peers.get_mut(id).filter(|_| is_latest && is_current);
        let (Some(peer), Some((keys, mut message))) = (peer, result) else {
            self.retire([local_index]);
            self.drop(Some(id), DropReason::PeerGone);
            return;
        };
        // Both ends initiated at once: they will use the session that the end with the smaller public key initiated.
        let is_preferred = peer.handshake.is_some() && peer.public_key < identity.public;
        let keypair = Keypair::new(now, keys, local_index, remote_index, Role::Responder);
        let retired = peer.keypairs.install_answered(keypair, is_preferred);
        peer.cookie.add_macs(now, &peer.public_key, &mut message);
        peer.rx_bytes += INITIATION_LEN as u64;
        peer.tx_bytes += message.len() as u64;
        peer.last_initiation_sent = Some(now);
        peer.timers.any_authenticated_packet_received(now);
        peer.timers.any_authenticated_packet_sent(now);
        peer.timers.session_derived(now);
        self.retire(retired);
        self.roam(id, &path);
        // That is how the initiation came, unless the endpoint stays where it was set, or the source is rejected.
        let path = self.peers.get(id).and_then(Peer::way).unwrap_or(path);
        self.send(Outgoing::new(Some(id), path, HANDSHAKE_TOS, &message));
        self.reschedule(id);
    }

    fn finish_conclusion(
        &mut self,
        now: Instant,
        path: Path,
        id: PeerId,
        identity: &Arc<Identity>,
        local_index: u32,
        result: Option<(u32, SessionKeys)>,
    ) {
        let Some((remote_index, keys)) = result else {
            self.drop(Some(id), DropReason::BadHandshake);
            return;
        };
        let is_current = self.is_current(identity);
        let unix_time = self.unix_time(now);
        // Another response, or a newer initiation, may have come first.
        let latest = |peer: &mut Peer| peer.handshake.take_if(|begun| begun.local_index == local_index).is_some();
        let is_latest = is_current && self.peers.get_mut(id).is_some_and(latest);
        let Some(peer) = self.peers.get_mut(id).filter(|_| is_latest) else {
            self.drop(Some(id), DropReason::PeerGone);
            return;
        };
        let keypair = Keypair::new(now, keys, local_index, remote_index, Role::Initiator);
        let retired = peer.keypairs.install_initiated(keypair);
        peer.rx_bytes += RESPONSE_LEN as u64;
        peer.last_handshake = Some(unix_time);
        peer.timers.any_authenticated_packet_received(now);
        peer.timers.session_derived(now);
        peer.timers.handshake_complete();
        self.retire(retired);
        self.roam(id, &path);
        self.event(Event::HandshakeCompleted { peer: id });
        // The responder waits for a packet before it sends any: give it one.
        self.send_staged_or_keepalive(now, id);
        self.reschedule(id);
    }

    /// An authenticated message came by `path`: answers go back the same way.
    pub(crate) fn roam(&mut self, id: PeerId, path: &Path) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if peer.is_pinned && peer.endpoint.is_some_and(|known| !known.leads_to(path.remote)) {
            return;
        }
        let before = peer.endpoint.replace(*path);
        if before == Some(*path) {
            return;
        }
        // If only the peer has moved, what was said of the source is the best guess until it is judged anew.
        peer.is_source_rejected &= before.is_some_and(|before| before.has_source_of(path));
        self.source_unjudged(id);
        if !before.is_some_and(|before| before.leads_to(path.remote)) {
            self.event(Event::EndpointMoved { peer: id, endpoint: path.remote });
        }
    }
}

fn jitter(rng: &mut (impl CryptoRng + ?Sized)) -> Duration {
    Duration::from_millis(u64::from(rng.next_u32()) % (REKEY_JITTER.as_millis() as u64 + 1))
}
