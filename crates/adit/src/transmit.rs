//! What leaves besides fresh packets from inside: handshakes, keepalives, cookies, and packets that waited for a
//! session. Also the passing of time, which makes some of them leave.

use alloc::collections::VecDeque;

use crate::batch::Transmit;
use crate::error::{DropReason, Error};
use crate::event::Event;
use crate::interface::Interface;
use crate::ip;
use crate::limits::{INITIATION_LEN, KEEPALIVE_TIMEOUT, TRANSPORT_HEADER_LEN, TRANSPORT_OVERHEAD};
use crate::message::{Transport, transport_len};
use crate::path::Path;
use crate::peer::PeerId;
use crate::time::Instant;
use crate::timers::Timer;

/// A datagram that is ready: a handshake message, a cookie reply or a keepalive.
pub(crate) struct Outgoing {
    pub(crate) peer: Option<PeerId>,
    pub(crate) path: Path,
    pub(crate) tos: u8,
    bytes: [u8; INITIATION_LEN],
    len: usize,
}

impl Outgoing {
    pub(crate) fn new(peer: Option<PeerId>, path: Path, tos: u8, datagram: &[u8]) -> Option<Self> {
        let mut bytes = [0; INITIATION_LEN];
        bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Self { peer, path, tos, bytes, len: datagram.len() })
    }

    fn bytes(&self) -> &[u8] {
        self.parts().3
    }

    /// What [`Outgoing::new`] was given.
    pub(crate) fn parts(&self) -> (Option<PeerId>, &Path, u8, &[u8]) {
        let Self { peer, path, tos, bytes, len } = self;
        (*peer, path, *tos, bytes.get(..*len).unwrap_or_default())
    }
}

/// Writes the first datagram of a queue to the beginning of `buffer`, and takes it off.
fn write_first(queue: &mut VecDeque<Outgoing>, buffer: &mut [u8]) -> Result<Option<Transmit>, Error> {
    let Some(next) = queue.front() else { return Ok(None) };
    let (found, expected) = (buffer.len(), next.len);
    let place = buffer.get_mut(..expected).ok_or(Error::BufferTooShort { found, expected })?;
    place.copy_from_slice(next.bytes());
    let transmit =
        Transmit { peer: next.peer, path: next.path, tos: next.tos, range: 0..expected, segment_size: expected };
    queue.pop_front();
    Ok(Some(transmit))
}

impl Interface {
    /// The next datagrams for the network, written to the beginning of `buffer`: to be called
    /// after every other call that is given the time, until it returns `None`.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] if a handshake message or keepalive does not fit, which holds up all else but cookie
    /// replies; or if nothing is left but packets that wait behind one that is too long, for the same peer. A buffer of
    /// 65,507 bytes is always enough. Once an MTU is set, a buffer of the MTU and 32 bytes, but at least 148, is enough
    /// if no packet exceeds the MTU; before, packets are padded to a multiple of 16 bytes whatever their length.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut [u8]) -> Result<Option<Transmit>, Error> {
        match self.poll_peer_transmit(now, buffer) {
            Ok(None) => write_first(&mut self.cookie_replies, buffer),
            Err(error) => write_first(&mut self.cookie_replies, buffer)?.map(Some).ok_or(error),
            found => found,
        }
    }

    /// As [`Interface::poll_transmit`], but leaves the cookie replies queued: for callers with several threads, only
    /// one of which answers strangers. Under a flood there is one reply to each datagram.
    ///
    /// # Errors
    /// As for [`Interface::poll_transmit`].
    pub fn poll_peer_transmit(&mut self, now: Instant, buffer: &mut [u8]) -> Result<Option<Transmit>, Error> {
        if !self.outgoing.is_empty() {
            return write_first(&mut self.outgoing, buffer);
        }
        let (mut too_short, mut left) = (None, self.ready.len());
        while let Some(&id) = self.ready.front().filter(|_| left > 0) {
            left -= 1;
            match self.seal_staged(now, id, buffer) {
                Ok(None) => {
                    self.ready.pop_front();
                    if let Some(peer) = self.peers.get_mut(id) {
                        peer.is_ready = false;
                    }
                }
                Ok(found) => return Ok(found),
                Err(error) => {
                    too_short = Some(error);
                    self.ready.rotate_left(1);
                }
            }
        }
        too_short.map_or(Ok(None), Err)
    }

    /// Whether [`Interface::poll_transmit`] has something to give.
    pub fn has_transmits(&self) -> bool {
        self.has_peer_transmits() || self.has_cookie_replies()
    }

    /// Whether [`Interface::poll_peer_transmit`] has something to give.
    pub fn has_peer_transmits(&self) -> bool {
        !self.outgoing.is_empty() || !self.ready.is_empty()
    }

    /// Whether there are cookie replies to send.
    pub fn has_cookie_replies(&self) -> bool {
        !self.cookie_replies.is_empty()
    }

    /// When [`Interface::handle_timeout`] is to be called next: the earliest deadline of all, exact to the nanosecond,
    /// or the clock's start if a handshake waits to be computed. It may lie in the past, and may change with every
    /// other call.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.has_handshakes() {
            return Some(Instant::default());
        }
        loop {
            let &(deadline, id) = self.schedule.first()?;
            let peer = self.peers.get_mut(id);
            if peer.as_ref().is_some_and(|peer| peer.timers.next() == Some(deadline)) {
                return Some(deadline);
            }
            // The deadline has moved back, or was cleared.
            self.schedule.pop_first();
            if let Some(peer) = peer {
                peer.scheduled = None;
            }
            self.reschedule(id);
        }
    }

    /// Whether something may be due before `moment`: a quick look for a caller who sleeps until then
    /// and wonders whether to get up earlier. It may be wrong on the cautious side.
    pub fn may_be_due_before(&self, moment: Instant) -> bool {
        self.schedule.first().is_some_and(|&(deadline, _)| deadline < moment)
    }

    /// Does what is due at the moment `now`. Afterwards call [`Interface::poll_transmit`] until it
    /// has nothing more.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.run_handshakes(now);
    }

    /// As [`Interface::handle_timeout`], for callers who compute handshakes themselves: those that
    /// are due wait in [`Interface::poll_handshake`].
    pub fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.schedule.first() {
            // When messages back up, or initiations that are still to be computed, the other peers' timers stay due:
            // nothing is lost, and nothing grows.
            let waiting = self.outgoing.len() + self.wanted.len();
            if deadline > now || deadline == Instant::END || waiting >= self.bounds.outgoing {
                return;
            }
            self.schedule.pop_first();
            if let Some(peer) = self.peers.get_mut(id) {
                peer.scheduled = None;
            }
            while let Some(timer) = self.peers.get_mut(id).and_then(|peer| peer.timers.take_expired(now)) {
                self.timer_expired(now, id, timer);
            }
            self.reschedule(id);
        }
    }

    /// Forgets a handshake that is not answered, and what waits for it.
    pub(crate) fn give_up(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.timers.handshake_gave_up(now);
        let begun = peer.handshake.take().map(|begun| begun.local_index);
        let beginning = peer.beginning.take();
        self.retire([begun, beginning].into_iter().flatten());
        self.clear_staged(id, DropReason::HandshakeGaveUp);
        self.event(Event::HandshakeGaveUp { peer: id });
        self.reschedule(id);
    }

    fn timer_expired(&mut self, now: Instant, id: PeerId, timer: Timer) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        match timer {
            Timer::Retransmit => {
                // The unanswered handshake may have left from an address that is no longer good.
                peer.doubt_source();
                // Without an endpoint, which may have been taken away, there is nowhere to try again.
                if peer.endpoint.is_some() && peer.timers.may_retry(now) {
                    self.retry_session(now, id);
                } else {
                    self.give_up(now, id);
                }
            }
            Timer::Keepalive => {
                let another = peer.timers.take_need_another_keepalive();
                self.keepalive(now, id);
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.timers.keepalive_expired(now, another);
                }
            }
            Timer::NewHandshake => {
                peer.doubt_source();
                self.want_session(now, id);
            }
            Timer::ZeroKeyMaterial => {
                let retired = peer.keypairs.clear();
                // A handshake under way is ended by its own timer, and its keys are fresh.
                if !peer.is_attempting(now) {
                    peer.static_static = None;
                    let begun = peer.handshake.take().map(|begun| begun.local_index);
                    self.retire(begun);
                    self.clear_staged(id, DropReason::HandshakeGaveUp);
                }
                self.retire(retired);
                self.event(Event::SessionExpired { peer: id });
            }
            Timer::PersistentKeepalive => {
                self.keepalive(now, id);
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.timers.persistent_keepalive_expired(now);
                }
            }
            Timer::AnnounceSource => {
                // No sooner than so long after the last: two ends, each of which finds that the other's way has
                // changed, would answer each other for ever.
                let next = peer.last_announced.map(|last| last + KEEPALIVE_TIMEOUT).filter(|next| *next > now);
                if let Some(next) = next {
                    peer.timers.announce_at(next);
                    self.reschedule(id);
                } else if peer.timers.is_heard(now) && peer.can_send(now) {
                    peer.last_announced = Some(now);
                    self.keepalive(now, id);
                }
            }
        }
    }

    /// Queues a datagram; if the queue is full it is dropped and counted.
    pub(crate) fn send(&mut self, outgoing: Option<Outgoing>) {
        let Some(outgoing) = outgoing else { return };
        if self.outgoing.len() >= self.bounds.outgoing {
            self.drop(outgoing.peer, DropReason::ReplyQueueFull);
        } else {
            self.outgoing.push_back(outgoing);
        }
    }

    /// A session has begun: sends what waited for it, or else an empty packet, which confirms it.
    pub(crate) fn send_staged_or_keepalive(&mut self, now: Instant, id: PeerId) {
        if self.peers.get(id).is_some_and(|peer| peer.staged.is_empty()) {
            self.keepalive(now, id);
        } else {
            self.send_staged(id);
        }
    }

    /// The peer's staged packets may go: [`Interface::poll_transmit`] will give them out.
    pub(crate) fn send_staged(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !peer.is_ready && !peer.staged.is_empty() {
            peer.is_ready = true;
            self.ready.push_back(id);
        }
    }

    /// Sends an empty packet, or asks for the session that it needs.
    pub(crate) fn keepalive(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(path) = peer.way() else { return };
        let Some(keypair) = peer.keypairs.current.as_mut().filter(|keypair| keypair.can_send(now)) else {
            self.want_session(now, id);
            return;
        };
        let header = Transport { receiver_index: keypair.remote_index, counter: keypair.reserve() };
        let mut datagram = [0; TRANSPORT_OVERHEAD];
        let (place, tag) = datagram.split_at_mut(TRANSPORT_HEADER_LEN);
        place.copy_from_slice(&header.to_bytes());
        seal_one(&keypair.keys.sending, header.counter, tag);
        peer.tx_bytes += datagram.len() as u64;
        peer.timers.any_authenticated_packet_sent(now);
        self.send(Outgoing::new(Some(id), path, 0, &datagram));
        self.renew_if_stale(now, id);
        self.reschedule(id);
    }

    /// Forgets the packets that wait for a session with the peer.
    pub(crate) fn clear_staged(&mut self, id: PeerId, reason: DropReason) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        self.staged_bytes -= peer.staged.bytes();
        let count = peer.staged.clear();
        self.drop_many(Some(id), reason, count);
    }

    /// Seals staged packets into `buffer`: as many in a row as may be sent as one.
    fn seal_staged(&mut self, now: Instant, id: PeerId, buffer: &mut [u8]) -> Result<Option<Transmit>, Error> {
        let mtu = self.mtu;
        let Some(peer) = self.peers.get_mut(id) else { return Ok(None) };
        let Some(path) = peer.way() else { return Ok(None) };
        let (mut end, mut segment_size, mut ecn) = (0, 0, None);
        let before = peer.staged.bytes();
        while let Some(packet) = peer.staged.front() {
            let Some(keypair) = peer.keypairs.current.as_mut().filter(|keypair| keypair.can_send(now)) else { break };
            let datagram_len = transport_len(packet.len(), mtu);
            let packet_ecn = ip::ecn(packet);
            if end > 0 && (datagram_len != segment_size || ecn != Some(packet_ecn)) {
                break;
            }
            let found = buffer.len();
            let Some(datagram) = buffer.get_mut(end..end + datagram_len) else {
                if end == 0 {
                    return Err(Error::BufferTooShort { found, expected: datagram_len });
                }
                break;
            };
            (segment_size, ecn) = (datagram_len, Some(packet_ecn));
            let header = Transport { receiver_index: keypair.remote_index, counter: keypair.reserve() };
            let (place, text) = datagram.split_at_mut(TRANSPORT_HEADER_LEN);
            place.copy_from_slice(&header.to_bytes());
            let (place, padding) = text.split_at_mut(packet.len());
            place.copy_from_slice(packet);
            padding.fill(0);
            seal_one(&keypair.keys.sending, header.counter, text);
            peer.staged.pop();
            end += datagram_len;
        }
        self.staged_bytes -= before - peer.staged.bytes();
        if end == 0 {
            if !peer.staged.is_empty() {
                // By a deadline, since a caller who finds nothing to send asks for nothing else.
                peer.timers.handshake_due();
                self.reschedule(id);
            }
            return Ok(None);
        }
        self.packets_sent(now, id, end as u64);
        let tos = ecn.unwrap_or_default().bits();
        Ok(Some(Transmit { peer: Some(id), path, tos, range: 0..end, segment_size }))
    }
}

/// Seals `text`, whose last 16 bytes are for the tag.
fn seal_one(key: &adit_aead::Key, counter: u64, text: &mut [u8]) {
    match adit_aead::Packet::new(key, counter, text) {
        Some(packet) => adit_aead::seal(&mut [packet]),
        // What is not encrypted must not go out.
        None => text.fill(0),
    }
}
