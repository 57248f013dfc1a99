//! Where peers are, and from where answers to them leave.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::error::Error;
use crate::interface::Interface;
use crate::path::Path;
use crate::peer::PeerId;

impl Interface {
    /// Sets or forgets where the peer is. If it was not known, the persistent keepalive is due at once: see
    /// [`Interface::poll_timeout`].
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: Option<SocketAddr>) -> Result<(), Error> {
        let peer = self.peer_mut(id)?;
        // Setting what is there already keeps the source that the peer last reached.
        if peer.endpoint.map(|path| path.remote) != endpoint {
            let before = core::mem::replace(&mut peer.endpoint, endpoint.map(Path::to));
            peer.is_source_rejected = false;
            if before.is_none() {
                self.handshake_possible(id);
            }
        }
        Ok(())
    }

    /// Sets whether the peer's endpoint follows the peer (paper, §2.1), which it does unless this says otherwise. If
    /// not, an endpoint that was set stays, whatever address authentic messages come from: for callers whose firewall
    /// lets nothing out but to that address. One that was not set is learned all the same.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn set_roaming(&mut self, id: PeerId, on: bool) -> Result<(), Error> {
        self.peer_mut(id)?.is_pinned = !on;
        Ok(())
    }

    /// Forgets from which of this host's addresses answers to the peer should leave: that address
    /// has vanished, or the socket was bound anew. If there is a session, and the peer was heard in the last minute, it
    /// is sent an empty packet, by which it learns where this host is now; that is due at once (see
    /// [`Interface::poll_timeout`]), unless something else is sent before.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn forget_source(&mut self, id: PeerId) -> Result<(), Error> {
        self.peer_mut(id)?.forget_source();
        self.announce_source(id);
        Ok(())
    }

    /// As [`Interface::forget_source`], for every peer.
    pub fn forget_sources(&mut self) {
        let ids: Vec<PeerId> = self.by_key.values().copied().collect();
        for id in ids {
            let _ = self.forget_source(id);
        }
    }

    /// For each peer that has an endpoint: where it is, and which address and interface of this host it last reached,
    /// unless that was forgotten. Answers leave from there, unless that was rejected: see [`Interface::judge_source`].
    pub fn paths(&self) -> impl Iterator<Item = (PeerId, Path)> + '_ {
        self.peers.iter().filter_map(|(id, peer)| Some((id, peer.endpoint?)))
    }

    /// The next peer whose messages have come by another way than before, and by which: for callers who know whether
    /// answers may leave from the address that was reached, and say so by [`Interface::judge_source`]. Until then they
    /// do. A peer is given once, by the last of its ways, however often they change before it is taken. After
    /// [`Interface::restore`] each peer is given.
    #[must_use = "each is given once: judge it"]
    pub fn poll_source(&mut self) -> Option<(PeerId, Path)> {
        loop {
            let id = self.unjudged.pop_front()?;
            let Some(peer) = self.peers.get_mut(id) else { continue };
            peer.is_unjudged = false;
            // It may have been forgotten since.
            if let Some(path) = peer.endpoint.filter(|path| path.local.is_some()) {
                return Some((id, path));
            }
        }
    }

    /// Whether answers to the peer must not leave from the address that it last reached, as [`Interface::judge_source`]
    /// has said.
    pub fn is_source_rejected(&self, id: PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.is_source_rejected)
    }

    /// Whether [`Interface::poll_source`] may have something to give.
    pub fn has_sources(&self) -> bool {
        !self.unjudged.is_empty()
    }

    /// Says whether answers to the peer may leave from the address of this host that its messages reach by `path`,
    /// which [`Interface::poll_source`] or [`Interface::paths`] gave. If not, the source is rejected: the routing table
    /// chooses it, whatever comes by that address and interface, until another judgement is made, the source is
    /// forgotten, or messages come by others. The peer is shown from where packets leave then, as after
    /// [`Interface::forget_source`]: each time that is said, since the way there may not have been one before.
    ///
    /// Over IPv6 a source is rejected only if one of the peer's was good before: one that never suited the routes is
    /// what the peer counts on, as it can with the kernel's WireGuard, which asks no route there.
    ///
    /// Returns whether the judgement is another than before. If the peer has moved to another path since, nothing
    /// happens.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn judge_source(&mut self, id: PeerId, path: &Path, is_good: bool) -> Result<bool, Error> {
        let peer = self.peer_mut(id)?;
        if peer.endpoint != Some(*path) || path.local.is_none() {
            return Ok(false);
        }
        let has_changed = peer.source_judged(is_good);
        if has_changed || peer.is_source_rejected {
            self.announce_source(id);
        }
        Ok(has_changed)
    }

    /// The peer is to be shown from where packets leave now.
    fn announce_source(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.keypairs.current.is_some()) {
            peer.timers.announcement_due();
            self.reschedule(id);
        }
    }

    /// The peer's source, if there is one, is to be judged.
    pub(crate) fn source_unjudged(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if !peer.is_unjudged && peer.endpoint.is_some_and(|path| path.local.is_some()) {
            peer.is_unjudged = true;
            self.unjudged.push_back(id);
        }
    }

    /// As [`Interface::forget_source`], for every peer whose answers leave from `local`.
    pub fn forget_source_address(&mut self, local: IpAddr) {
        let is_from = |path: &Path| path.local == Some(local);
        let ids: Vec<PeerId> = self.paths().filter(|(_, path)| is_from(path)).map(|(id, _)| id).collect();
        for id in ids {
            let _ = self.forget_source(id);
        }
    }
}
