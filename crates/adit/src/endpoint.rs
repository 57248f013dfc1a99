//! Where peers are, and from where answers to them leave.

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
            if before.is_none() {
                self.handshake_possible(id);
            }
        }
        Ok(())
    }

    /// Sets whether the peer's endpoint follows the peer, as the protocol has it (§6.5) and as it does unless this says
    /// otherwise. If it does not, an endpoint that was set stays, whatever address authentic messages come from: for
    /// callers whose firewall lets nothing out but to that address. One that was not set is learned all the same.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn set_roaming(&mut self, id: PeerId, on: bool) -> Result<(), Error> {
        self.peer_mut(id)?.is_pinned = !on;
        Ok(())
    }

    /// Forgets from which of this host's addresses answers to the peer should leave: that address
    /// has vanished, or the socket was bound anew.
    ///
    /// # Errors
    /// [`Error::NoSuchPeer`].
    pub fn forget_source(&mut self, id: PeerId) -> Result<(), Error> {
        self.peer_mut(id)?.forget_source();
        Ok(())
    }

    /// As [`Interface::forget_source`], for every peer.
    pub fn forget_sources(&mut self) {
        for id in self.by_key.values() {
            if let Some(peer) = self.peers.get_mut(*id) {
                peer.forget_source();
            }
        }
    }

    /// For each peer that has an endpoint: where it is, and how answers leave.
    pub fn paths(&self) -> impl Iterator<Item = (PeerId, Path)> + '_ {
        self.peers.iter().filter_map(|(id, peer)| Some((id, peer.endpoint?)))
    }

    /// As [`Interface::forget_source`], for every peer whose answers leave from `local`.
    pub fn forget_source_address(&mut self, local: IpAddr) {
        for id in self.by_key.values() {
            let peer = self.peers.get_mut(*id);
            if let Some(peer) = peer.filter(|peer| peer.endpoint.is_some_and(|path| path.local == Some(local))) {
                peer.forget_source();
            }
        }
    }
}
