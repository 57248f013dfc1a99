//! The way in: datagrams from the network become packets for the inside.

use core::ops::Range;

use crate::batch::{Datagrams, Delivered, Fate, Opened, Opening, Run};
use crate::error::DropReason;
use crate::event::Event;
use crate::interface::Interface;
use crate::ip;
use crate::message::Message;
use crate::path::{Ecn, Path};
use crate::peer::PeerId;
use crate::time::Instant;

impl Interface {
    /// One datagram has arrived from the network at the moment `now`, by `path`, with the
    /// congestion bits of its outer header.
    ///
    /// It is decrypted where it lies. Returns the packet for the inside of the tunnel, if there was
    /// one in it, and whose it is. Afterwards call [`Interface::poll_transmit`] until it has
    /// nothing more. Whatever was wrong with the datagram is counted: see [`Interface::drops`].
    #[must_use = "the packet is given once, and the peer will not send it again"]
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        path: &Path,
        ecn: Ecn,
        datagram: &'a mut [u8],
    ) -> Option<(PeerId, &'a mut [u8])> {
        let mut datagrams = core::mem::take(&mut self.spare_datagrams);
        datagrams.push(0..datagram.len(), path, ecn);
        let opened = self.begin_open(now, datagrams, datagram).open(datagram);
        let delivered = self.commit(now, opened, datagram);
        self.run_handshakes(now);
        let packet = delivered.packets().next();
        self.spare_datagrams = delivered.into_empty();
        packet.and_then(|(peer, range)| Some((peer, datagram.get_mut(range)?)))
    }

    /// The first step for a burst of datagrams, which lie in `buffer`: finds the session of each
    /// transport message, and takes cookie replies.
    ///
    /// [`Opening::open`] and [`Interface::commit`] must be given the same `buffer`, in which nothing was changed
    /// meanwhile: what lies there at `commit` is taken for authentic.
    pub fn begin_open(&mut self, now: Instant, datagrams: Datagrams, buffer: &[u8]) -> Opening {
        let mut batch = datagrams.0;
        for (number, entry) in batch.entries.iter_mut().enumerate() {
            // Even what belongs to no session gets the run before it, so that it does not cut that run in two.
            entry.run = batch.runs.len().saturating_sub(1) as u32;
            let Some(datagram) = buffer.get(entry.datagram()) else {
                entry.fate = Fate::Gone;
                self.drop(None, DropReason::OutsideBuffer);
                continue;
            };
            let outcome = Message::parse(datagram).and_then(|message| match message {
                Message::Transport(message) => {
                    let last = batch.runs.last().filter(|run| run.index == message.receiver_index);
                    let id = match last {
                        Some(run) => run.peer,
                        None => *self.indices.get(&message.receiver_index).ok_or(DropReason::UnknownIndex)?,
                    };
                    let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownIndex)?;
                    let keypair = peer.keypairs.get_mut(message.receiver_index).ok_or(DropReason::UnknownIndex)?;
                    if !keypair.can_receive(now, message.counter) {
                        return Err(DropReason::SessionExpired);
                    }
                    // A counter that was seen before is not worth a decryption; `commit` checks again.
                    if !keypair.replay.check(message.counter) {
                        return Err(DropReason::Replay);
                    }
                    if last.is_none() {
                        let keys = keypair.keys.clone();
                        batch.runs.push(Run { peer: id, keys, index: message.receiver_index });
                    }
                    entry.counter = message.counter;
                    entry.run = (batch.runs.len() - 1) as u32;
                    Ok(Fate::Going)
                }
                Message::CookieReply(reply) => self.take_cookie(now, &reply).map(|()| Fate::Gone),
                Message::Initiation(_) | Message::Response(_) => {
                    self.note_candidate(&mut batch.admission, number, &message);
                    Ok(Fate::Handshake)
                }
            });
            entry.fate = outcome.unwrap_or_else(|reason| {
                self.drop(None, reason);
                Fate::Gone
            });
        }
        self.begin_admission(now, &mut batch);
        Opening(batch)
    }

    /// The last step for a burst: replay window, source addresses, timers, roaming. What is
    /// delivered may go to the inside of the tunnel, in the order given. Handshake messages that are
    /// worth it are queued for [`Interface::poll_handshake`].
    pub fn commit(&mut self, now: Instant, opened: Opened, buffer: &mut [u8]) -> Delivered {
        let mut batch = opened.0;
        self.finish_admission(now, &mut batch, buffer);
        let (runs, paths) = (&batch.runs, &batch.paths);
        let tried = |fate| fate == Fate::Authentic || fate == Fate::Going;
        for entries in batch.entries.chunk_by_mut(|a, b| a.run == b.run) {
            let Some(run) = entries.first().and_then(|first| runs.get(first.run as usize)) else { continue };
            let id = run.peer;
            let mut arrived = Arrived::default();
            for entry in entries.iter_mut().filter(|entry| tried(entry.fate)) {
                let outcome = self.commit_one(id, run.index, entry.counter, entry.fate).and_then(|()| {
                    arrived.path = Some(entry.path);
                    arrived.bytes += u64::from(entry.len);
                    let datagram = buffer.get_mut(entry.datagram()).ok_or(DropReason::NotIp)?;
                    let packet = self.check_packet(id, datagram, entry.ecn, &mut arrived)?;
                    (entry.packet_start, entry.packet_len) = (entry.start + packet.start as u32, packet.len() as u32);
                    Ok(())
                });
                if let Err(reason) = outcome {
                    self.drop(Some(id), reason);
                }
                if outcome.is_err() || entry.packet_len == 0 {
                    entry.fate = Fate::Gone;
                } else {
                    entry.fate = Fate::Authentic;
                }
            }
            if let Some(path) = arrived.path.and_then(|path| paths.get(path as usize)) {
                self.packets_received(now, id, run.index, path, &arrived);
            }
        }
        Delivered(batch)
    }

    /// Is it authentic, and for the first time?
    fn commit_one(&mut self, id: PeerId, index: u32, counter: u64, fate: Fate) -> Result<(), DropReason> {
        if fate != Fate::Authentic {
            return Err(DropReason::BadTag);
        }
        let peer = self.peers.get_mut(id).ok_or(DropReason::PeerGone)?;
        let keypair = peer.keypairs.get_mut(index).ok_or(DropReason::PeerGone)?;
        if keypair.replay.accept(counter) { Ok(()) } else { Err(DropReason::Replay) }
    }

    /// Where the packet lies in an authentic datagram; empty for a keepalive.
    fn check_packet(
        &self,
        id: PeerId,
        datagram: &mut [u8],
        outer: Ecn,
        arrived: &mut Arrived,
    ) -> Result<Range<usize>, DropReason> {
        use crate::limits::TRANSPORT_HEADER_LEN;
        let end = datagram.len().saturating_sub(adit_aead::TAG_LEN);
        let text = datagram.get_mut(TRANSPORT_HEADER_LEN..end).ok_or(DropReason::NotIp)?;
        if text.is_empty() {
            return Ok(TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN);
        }
        arrived.data = true;
        let len = ip::packet_len(text).ok_or(DropReason::NotIp)?;
        let packet = text.get_mut(..len).ok_or(DropReason::NotIp)?;
        let source = ip::source(packet).ok_or(DropReason::NotIp)?;
        if self.allowed_ips.lookup(source) != Some(id) {
            return Err(DropReason::WrongSource);
        }
        let inner = ip::ecn(packet);
        let combined = Ecn::decapsulate(inner, outer).ok_or(DropReason::Congestion)?;
        if combined != inner {
            ip::set_ecn(packet, combined);
        }
        Ok(TRANSPORT_HEADER_LEN..TRANSPORT_HEADER_LEN + len)
    }

    /// Authentic packets have come in from the session `index`, the last of them by `path`.
    fn packets_received(&mut self, now: Instant, id: PeerId, index: u32, path: &Path, arrived: &Arrived) {
        let unix_time = self.unix_time(now);
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.rx_bytes += arrived.bytes;
        let confirmed = peer.keypairs.confirm(index);
        // Nothing is sent in a session that was made with another private key: it leads to nothing.
        let made = confirmed.as_ref().and_then(|_| peer.keypairs.get_mut(index));
        let made = made.filter(|keypair| keypair.can_send(now)).map(|keypair| keypair.created);
        let mut given_up = None;
        if made.is_some() {
            peer.last_handshake = Some(unix_time);
            // There is a session: an initiation of our own that is still unanswered is not needed, unless it is later
            // than the session and so may have been asked for since.
            if peer.handshake.is_none() || peer.last_initiation_sent <= made {
                peer.timers.handshake_complete();
                given_up = peer.handshake.take().map(|begun| begun.local_index);
            }
        }
        peer.timers.any_authenticated_packet_received(now);
        if arrived.data {
            peer.timers.data_received(now);
        }
        let is_stale = !peer.timers.renewed_on_receipt
            && peer.keypairs.current.as_ref().is_some_and(|keypair| keypair.is_stale_for_receiving(now));
        peer.timers.renewed_on_receipt |= is_stale;
        if peer.endpoint != Some(*path) {
            self.roam(id, path);
        }
        self.retire(confirmed.into_iter().flatten().chain(given_up));
        if made.is_some() {
            self.event(Event::HandshakeCompleted { peer: id });
            self.send_staged(id);
        }
        if is_stale {
            self.want_session(now, id);
        }
        self.reschedule(id);
    }
}

/// What a row of packets from one session brought.
#[derive(Default)]
struct Arrived {
    bytes: u64,
    data: bool,
    path: Option<u32>,
}
