//! [`Bounds`]: what keeps the engine's memory in check.

use crate::rate_limiter::RateLimiter;

/// Bytes of packets that may wait for a session with one peer whatever waits for others.
const STAGED_BYTES_ANYWAY: usize = 2 << 10;

/// How much the engine may keep of what others make it keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Bounds {
    /// Bytes of packets that wait for a session with one peer; beyond it the oldest are dropped.
    pub staged_bytes_per_peer: usize,
    /// Bytes of packets that wait for sessions with all peers together. Beyond it each peer still has room for 2 KiB:
    /// peers that cannot be reached do not keep others from beginning a session.
    pub staged_bytes: usize,
    /// Handshake messages that wait to be computed. When an eighth of this many wait there is load: senders must then
    /// prove their address. Those who are asked for that at the same moment come back within a third of a second
    /// (paper, §6.4), and have to find room here.
    pub handshake_queue: usize,
    /// Initiations, and responses to initiations of ours, with a right mac1 in a second (under load also some whose
    /// mac1 is not looked at); when more arrive there is load as well. With
    /// [`Interface::handle_datagram`](crate::Interface::handle_datagram), which lets nothing wait, this bound alone
    /// makes load: let it be what the CPU computes in a tenth of its time. An initiation that is no peer's costs some
    /// two Diffie-Hellman operations. Under load, as many in a second are let in from whoever has proven its address;
    /// beyond that each source has a share.
    pub handshakes_per_second: u32,
    /// Sources whose handshakes are counted once they have proven their address under load; 1,048,576 at most. Each
    /// takes 16 bytes, from the first time on that there was load. The table of networks that ask for cookies has a
    /// quarter of this many places.
    pub rate_limited_sources: usize,
    /// Handshake messages and keepalives that wait to be sent; and, separately, as many cookie replies. The second half
    /// of the room for these goes to networks that ask for few, and to the addresses whose turn it is. Without any
    /// room, all who have no cookie are kept out under load, and nothing of what they send is looked at.
    pub outgoing: usize,
    /// Events that wait to be taken; beyond it the oldest are dropped.
    pub events: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            staged_bytes_per_peer: 256 << 10,
            staged_bytes: 4 << 20,
            handshake_queue: 2_048,
            handshakes_per_second: 2_000,
            rate_limited_sources: RateLimiter::DEFAULT_ENTRIES,
            outgoing: 1_024,
            events: 1_024,
        }
    }
}

impl Bounds {
    /// More sources than that are not told apart.
    pub(crate) const MAX_SOURCES: usize = 1 << 20;

    /// Whether so many bytes may wait for one peer, while `others` wait for the others.
    pub(crate) fn may_wait(&self, bytes: usize, others: usize) -> bool {
        bytes <= self.staged_bytes_per_peer && (bytes <= STAGED_BYTES_ANYWAY || bytes + others <= self.staged_bytes)
    }
}
