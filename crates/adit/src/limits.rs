//! The constants of the protocol: those of the paper under its names (§6.1), those of the kernel's WireGuard, and
//! lengths.

use core::time::Duration;

/// After this many messages sent with one key its sender, whichever end it is, asks for a new session.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// After this many messages a key is used no more, in either direction.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// The age at which the initiator of a session asks for a new one when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// The age at which a session is used no more, in either direction.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long an unanswered initiation is repeated before the peer is given up.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// The time between two initiations to one peer, to which up to [`REKEY_JITTER`] is added.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is added to [`REKEY_TIMEOUT`], so that two ends do not keep in step.
pub const REKEY_JITTER: Duration = Duration::from_millis(333);
/// The silence after received data that is ended with a keepalive.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a cookie, and the secret it is made from, is good for.
pub const COOKIE_REFRESH_TIME: Duration = Duration::from_secs(120);
/// The least time between two initiations accepted from one peer: 50 a second.
pub const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Length of a handshake initiation in bytes.
pub const INITIATION_LEN: usize = 148;
/// Length of a handshake response in bytes.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply in bytes.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes in front of a transport message's encrypted packet: type, receiver, counter.
pub const TRANSPORT_HEADER_LEN: usize = 16;
/// Bytes that a transport message adds to the packet it carries: header and tag.
pub const TRANSPORT_OVERHEAD: usize = TRANSPORT_HEADER_LEN + adit_aead::TAG_LEN;
/// Packets are padded to a multiple of this many bytes, within the MTU.
pub const PADDING: usize = 16;
/// The largest packet a tunnel can carry: what a UDP datagram holds, less the overhead.
pub const MAX_PACKET_LEN: usize = 65_507 - TRANSPORT_OVERHEAD;
/// The type-of-service byte of handshake messages: AF41, as the kernel sends them.
pub const HANDSHAKE_TOS: u8 = 0x88;
