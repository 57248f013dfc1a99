//! What the caller may want to know.

use core::net::SocketAddr;

use alloc::collections::VecDeque;

use crate::error::Drop;
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
    /// A handshake was not answered for 90 seconds, or the peer's endpoint was taken away meanwhile: it has been given up
    /// until there is new data.
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
    /// under way.
    SessionExpired {
        /// With whom.
        peer: PeerId,
    },
    /// A packet was dropped, or several at once for the same reason. Only if asked for:
    /// [`Interface::set_drop_events`](crate::Interface::set_drop_events).
    PacketDropped {
        /// The peer it came from or should have gone to, if one is known.
        peer: Option<PeerId>,
        /// Why.
        reason: Drop,
    },
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

    /// Keeps the event; the oldest one goes if there are too many.
    pub(crate) fn push(&mut self, event: Event) {
        if self.queue.len() >= self.bound {
            self.queue.pop_front();
        }
        if self.bound > 0 {
            self.queue.push_back(event);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }
}
