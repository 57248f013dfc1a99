//! The way out: packets from the inside become datagrams for the network.

use crate::batch::{Fate, Packets, Run, Sealing, Transmit};
use crate::error::{DropReason, Error};
use crate::interface::Interface;
use crate::ip;
use crate::limits::{MAX_PACKET_LEN, TRANSPORT_HEADER_LEN};
use crate::message::{FirstIndex, transport_len};
use crate::peer::PeerId;
use crate::time::Instant;

impl Interface {
    /// One packet from the inside of the tunnel is to be sent at the moment `now`.
    ///
    /// Writes the datagram into `out`, which must have room for
    /// [`transport_len`]`(packet.len(), mtu)` bytes, and tells where to send it. `None` if there is
    /// nothing to send yet: the packet waits for a session, or was dropped and counted (only bursts tell which packets
    /// are [`unreachable`](crate::Sealed::unreachable)). Afterwards
    /// call [`Interface::poll_transmit`] until it has nothing more. What is given here and there is given once: the
    /// compiler does not warn of `handle_packet(…)?;`, which loses it.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`]; the packet was not taken.
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8], out: &mut [u8]) -> Result<Option<Transmit>, Error> {
        if packet.len() > MAX_PACKET_LEN {
            // No buffer that has room for any datagram has room for this.
            self.drop(None, DropReason::TooLarge);
            return Ok(None);
        }
        let expected = transport_len(packet.len(), self.mtu);
        let found = out.len();
        let too_short = Error::BufferTooShort { found, expected };
        out.get_mut(..expected)
            .and_then(|out| out.get_mut(TRANSPORT_HEADER_LEN..)?.get_mut(..packet.len()))
            .ok_or(too_short)?
            .copy_from_slice(packet);
        let mut packets = core::mem::take(&mut self.spare_packets);
        packets.set_mtu(self.mtu);
        packets.push(0, packet.len());
        let sealed = self.begin_seal(now, packets, out).seal(out);
        let transmit = sealed.transmits().next();
        self.spare_packets = sealed.into_empty();
        self.run_handshakes(now);
        Ok(transmit)
    }

    /// The first step for a burst of packets, which lie in `buffer`: finds the peer and session of
    /// each, and reserves its counter. Packets without a session are copied, to wait for one, and a
    /// handshake may wait in [`Interface::poll_handshake`] afterwards.
    ///
    /// What lies in `buffer` must not change until it is sealed: a packet goes to the peer to which it was addressed
    /// now.
    pub fn begin_seal(&mut self, now: Instant, packets: Packets, buffer: &[u8]) -> Sealing {
        let Packets { mut batch, mtu } = packets;
        // Most bursts go to one place, so the last look-up is kept.
        let mut last = None;
        let mut bytes = 0;
        for index in 0..batch.entries.len() {
            let Some(entry) = batch.entries.get_mut(index) else { break };
            // With room for what it becomes, lest a counter be spent in vain.
            let packet = buffer.get(entry.datagram()).and_then(|_| buffer.get(entry.packet()));
            let Some(packet) = packet else {
                entry.fate = Fate::Gone;
                self.drop(None, DropReason::OutsideBuffer);
                continue;
            };
            let found = self.find_route(packet, &mut last);
            let sealed = found.and_then(|id| self.reserve(now, id, packet).map(|reserved| (id, reserved)));
            match sealed {
                Ok((id, Some((counter, path)))) => {
                    entry.counter = counter;
                    entry.ecn = ip::ecn(packet);
                    let len = u64::from(entry.len);
                    let is_new_run = batch.runs.last().is_none_or(|run| run.peer != id);
                    if is_new_run {
                        if let Some(run) = batch.runs.last() {
                            self.packets_sent(now, run.peer, bytes);
                        }
                        bytes = 0;
                        let Some(keypair) = self.peers.get(id).and_then(|peer| peer.keypairs.current.as_ref()) else {
                            entry.fate = Fate::Gone;
                            continue;
                        };
                        let (keys, index) = (keypair.keys.clone(), keypair.remote_index);
                        batch.runs.push(Run { peer: id, keys, index });
                    }
                    bytes += len;
                    let path = batch.path(&path);
                    if let Some(entry) = batch.entries.get_mut(index) {
                        entry.run = (batch.runs.len() - 1) as u32;
                        entry.path = path;
                    }
                }
                Ok((id, None)) => {
                    entry.fate = Fate::Gone;
                    self.stage(now, id, packet);
                }
                Err((peer, reason)) => {
                    let is_unreachable = matches!(reason, DropReason::NoRoute | DropReason::NoEndpoint);
                    entry.fate = if is_unreachable { Fate::Unreachable } else { Fate::Gone };
                    self.drop(peer, reason);
                }
            }
        }
        if let Some(run) = batch.runs.last() {
            self.packets_sent(now, run.peer, bytes);
        }
        Sealing { batch, mtu }
    }

    fn find_route(
        &self,
        packet: &[u8],
        last: &mut Option<(core::net::IpAddr, PeerId)>,
    ) -> Result<PeerId, (Option<PeerId>, DropReason)> {
        let destination = ip::destination(packet).ok_or((None, DropReason::NotIp))?;
        if packet.len() > MAX_PACKET_LEN {
            return Err((None, DropReason::TooLarge));
        }
        if let Some((address, id)) = *last
            && address == destination
        {
            return Ok(id);
        }
        let id = self.allowed_ips.lookup(destination).ok_or((None, DropReason::NoRoute))?;
        *last = Some((destination, id));
        Ok(id)
    }

    /// A reserved counter of the peer's current session and the path to the peer; `None` if the packet must wait.
    #[allow(clippy::type_complexity, reason = "a private helper of one caller")]
    fn reserve(
        &mut self,
        now: Instant,
        id: PeerId,
        packet: &[u8],
    ) -> Result<Option<(u64, crate::path::Path)>, (Option<PeerId>, DropReason)> {
        let peer = self.peers.get_mut(id).ok_or((None, DropReason::NoRoute))?;
        let path = peer.way().ok_or((Some(id), DropReason::NoEndpoint))?;
        if ip::destination(packet) == Some(path.remote.ip().to_canonical())
            && let Some((port, payload)) = ip::udp(packet)
            && port == path.remote.port()
            // Somebody else's tunnel may lead to the same place, so the index must belong to this tunnel.
            && match FirstIndex::of(payload) {
                Some(FirstIndex::Sender(index)) => self.indices.get(&index) == Some(&id),
                Some(FirstIndex::Receiver(index)) => peer.keypairs.send_to(index),
                None => false,
            }
        {
            return Err((Some(id), DropReason::RoutingLoop));
        }
        // Packets that wait already go first.
        if !peer.staged.is_empty() {
            return Ok(None);
        }
        let keypair = peer.keypairs.current.as_mut().filter(|keypair| keypair.can_send(now));
        Ok(keypair.map(|keypair| (keypair.reserve(), path)))
    }

    /// Keeps a packet until there is a session; if there are too many, the oldest are dropped.
    fn stage(&mut self, now: Instant, id: PeerId, packet: &[u8]) {
        let bounds = self.bounds;
        let Some(peer) = self.peers.get_mut(id) else { return };
        let before = peer.staged.bytes();
        peer.staged.push(packet);
        let mut overflow = 0;
        let others = self.staged_bytes - before;
        while !bounds.may_wait(peer.staged.bytes(), others) && peer.staged.pop().is_some() {
            overflow += 1;
        }
        self.staged_bytes = others + peer.staged.bytes();
        let can_send = peer.can_send(now);
        self.drop_many(Some(id), DropReason::StagedOverflow, overflow);
        if can_send {
            self.send_staged(id);
        } else {
            self.want_session(now, id);
        }
    }

    /// Packets with data have been given counters of the current session.
    pub(crate) fn packets_sent(&mut self, now: Instant, id: PeerId, bytes: u64) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.tx_bytes += bytes;
        peer.timers.any_authenticated_packet_sent(now);
        peer.timers.data_sent(now);
        self.renew_if_stale(now, id);
        self.reschedule(id);
    }

    /// Datagrams for the peer, of so many bytes in all, could not be sent: they do not count as sent
    /// ([`PeerState::tx_bytes`](crate::PeerState::tx_bytes)). Whatever else an engine does once it has sent something
    /// stays as it is, since what the host refuses is lost as what the network loses.
    pub fn take_back_sent(&mut self, id: PeerId, bytes: u64) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.tx_bytes = peer.tx_bytes.saturating_sub(bytes);
        }
    }

    /// Asks for a new session if the current one, in which something was just sent, is due for it.
    pub(crate) fn renew_if_stale(&mut self, now: Instant, id: PeerId) {
        let current = self.peers.get(id).and_then(|peer| peer.keypairs.current.as_ref());
        if current.is_some_and(|keypair| keypair.is_stale_for_sending(now)) {
            self.want_session(now, id);
        }
    }
}
