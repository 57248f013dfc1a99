//! What the caller may want to know.

use core::net::SocketAddr;

use alloc::collections::VecDeque;

use crate::error::DropReason;
use crate::key::PublicKey;
use crate::peer::PeerId;

/// Something that happened to a peer or a packet; taken by
/// [`Interface::poll_event`](crate::Interface::poll_event).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A session was made, and both ends have shown that they have its keys.
    HandshakeCompleted {
        /// With whom.
        peer: PeerId,
    },
    /// A handshake was not answered within 90 seconds after a packet last asked for it, or the peer's endpoint was
    /// taken away meanwhile, or no secret can be agreed on with the peer's key (it is of small order): it has been
    /// given up until there is new data. While packets keep asking this does not come;
    /// [`PeerState::attempting_since`](crate::PeerState::attempting_since) tells then.
    HandshakeGaveUp {
        /// With whom.
        peer: PeerId,
    },
    /// An authenticated message came from a new address: answers go there from now on.
    EndpointMoved {
        /// Whose.
        peer: PeerId,
        /// The new address.
        endpoint: SocketAddr,
    },
    /// No new session was made for nine minutes: all key material of the peer was erased, except that of a handshake
    /// under way. It comes too if there was no session, but handshakes were tried.
    SessionExpired {
        /// With whom.
        peer: PeerId,
    },
    /// Somebody with this key, which is no peer's, wants a session: a well-formed initiation came, of which only the
    /// receiver of the answer could say whether it is a replay. Only if asked for, as for `PacketDropped`. If a peer
    /// with this key is added, its next initiation, some 5 seconds later, is answered.
    UnknownPeer {
        /// The key that the initiation names, which only somebody who has seen this interface's public key can have
        /// encrypted.
        public_key: PublicKey,
        /// Where it came from.
        from: SocketAddr,
    },
    /// A packet was dropped, or several at once for the same reason. Only if asked for:
    /// [`Interface::set_drop_events`](crate::Interface::set_drop_events).
    PacketDropped {
        /// The peer it came from or should have gone to, if one is known.
        peer: Option<PeerId>,
        /// Why.
        reason: DropReason,
    },
}

impl Event {
    /// Whether a stranger can cause as many as they like.
    const fn is_cheap(&self) -> bool {
        matches!(self, Self::PacketDropped { .. } | Self::UnknownPeer { .. })
    }
}

/// The newest events, up to a bound.
#[derive(Debug)]
pub(crate) struct Events {
    queue: VecDeque<Event>,
    bound: usize,
}

impl Events {
    pub(crate) const fn new(bound: usize) -> Self {
        Self { queue: VecDeque::new(), bound }
    }

    /// Keeps the event. If there are too many, the oldest one goes that strangers can cause, or if there is none the
    /// oldest of all; for one that strangers can cause nothing else goes.
    pub(crate) fn push(&mut self, event: Event) {
        if self.queue.len() >= self.bound {
            let cheap = self.queue.iter().position(Event::is_cheap);
            let oldest = if event.is_cheap() { cheap } else { cheap.or(Some(0)) };
            if oldest.and_then(|place| self.queue.remove(place)).is_none() {
                return;
            }
        }
        self.queue.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}
