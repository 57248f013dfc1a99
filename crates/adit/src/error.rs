//! What can go wrong: [`Error`] is the caller's mistake, [`DropReason`] a packet's fate.

/// A call that could not be carried out. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer has the interface's own public key.
    #[error("the peer's public key is the interface's own")]
    OwnKey,
    /// No peer has this id: it was never given out, or the peer has been removed.
    #[error("no such peer: it was removed or never added")]
    NoSuchPeer,
    /// The buffer cannot hold the next datagram.
    #[error("the buffer has {found} bytes, the next datagram needs {expected}")]
    BufferTooShort {
        /// Bytes the caller offered.
        found: usize,
        /// Bytes the datagram needs.
        expected: usize,
    },
}

/// A key that could not be read. The text that was given is not repeated: it may be a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 44 characters of base64, the last of them `=`.
    #[error("expected 44 characters of base64 ending in '=', found {found} characters that are not a key")]
    Base64 {
        /// How many characters were given.
        found: usize,
    },
    /// Not 64 hexadecimal digits.
    #[error("expected 64 hexadecimal digits, found {found} characters that are not a key")]
    Hex {
        /// How many characters were given.
        found: usize,
    },
}

macro_rules! drops {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet or datagram was dropped. Each is counted, see
        /// [`Interface::drops`](crate::Interface::drops).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// A short name, in the manner of a metric.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

drops! {
    // From the network: somebody sent what is not WireGuard.
    /// The datagram's length fits no message.
    BadLength = "bad_length",
    /// The first four bytes name no message type, or the reserved bytes are not zero.
    BadType = "bad_type",
    // From the network: not from a peer, or not fresh.
    /// mac1 is wrong: the sender does not know this interface's public key.
    BadMac1 = "bad_mac1",
    /// Under load, and the sender has not proved its address: it was sent a cookie.
    CookieSent = "cookie_sent",
    /// Under load, and the source has used up its share of handshakes.
    RateLimited = "rate_limited",
    /// The queue of handshake messages is full.
    HandshakeQueueFull = "handshake_queue_full",
    /// The interface has no private key yet.
    NoPrivateKey = "no_private_key",
    /// A handshake message did not decrypt.
    BadHandshake = "bad_handshake",
    /// The initiator's static key belongs to no peer.
    UnknownPeer = "unknown_peer",
    /// The initiation's timestamp is not later than the last one accepted.
    ReplayedInitiation = "replayed_initiation",
    /// A peer sent initiations faster than 50 a second.
    InitiationFlood = "initiation_flood",
    /// The receiver index belongs to no session or handshake.
    UnknownIndex = "unknown_index",
    /// A cookie reply that was not asked for, or did not decrypt.
    BadCookieReply = "bad_cookie_reply",
    /// The session is too old, or has carried too many messages.
    SessionExpired = "session_expired",
    /// A transport message did not decrypt.
    BadTag = "bad_tag",
    /// The counter was seen before or is older than the window.
    Replay = "replay",
    // From a peer: authentic, and yet not to be let in.
    /// The decrypted bytes are no IP packet, or shorter than they claim.
    NotIp = "not_ip",
    /// The source address is not one that the peer owns.
    WrongSource = "wrong_source",
    /// Congestion was signalled to a flow that does not understand it (RFC 6040).
    Congestion = "congestion",
    // From inside: this host sent what cannot leave.
    /// No peer owns the destination address.
    NoRoute = "no_route",
    /// The packet is the tunnel's own: the peer's endpoint is routed into the tunnel that leads there.
    RoutingLoop = "routing_loop",
    /// The peer has no endpoint to send to.
    NoEndpoint = "no_endpoint",
    /// The packet is larger than a datagram can carry.
    TooLarge = "too_large",
    /// The queue of packets that wait for a session overflowed; the oldest went.
    StagedOverflow = "staged_overflow",
    /// No session came about, or the interface went down before, and the packets that waited for it were given up.
    HandshakeGaveUp = "handshake_gave_up",
    /// There was no room for a message to be sent: a handshake message or keepalive for a peer, whose queue was full;
    /// or a cookie reply, whose queue was full, or more than half full while it was the turn of others. Whoever asked
    /// for the latter need not know this interface's public key: mac1 is not looked at then.
    ReplyQueueFull = "reply_queue_full",
    /// While the packet or message was on its way the peer was removed, the interface got another private key or went
    /// down, or a later handshake took its place.
    PeerGone = "peer_gone",
    /// The caller's burst tells of a packet or datagram that does not lie in the caller's buffer, or has no room there
    /// for what it is to become.
    OutsideBuffer = "outside_buffer",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason's place in [`DropReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// How many packets were dropped for each reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropCounters([u64; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl DropCounters {
    /// How many packets were dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason.index()).copied().unwrap_or_default()
    }

    /// The reasons that occurred, each with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason))).filter(|&(_, count)| count > 0)
    }

    pub(crate) fn add(&mut self, reason: DropReason, count: u64) {
        if let Some(counter) = self.0.get_mut(reason.index()) {
            *counter = counter.saturating_add(count);
        }
    }
}
