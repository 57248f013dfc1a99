//! The steps of a handshake that take time: Diffie-Hellman on locals, with no interface at hand.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use super::Incoming;
use crate::crypto::SharedSecret;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::limits::{INITIATION_LEN, RESPONSE_LEN};
use crate::message::Message;
use crate::noise::{self, ClaimedInitiation, Identity, InitiatorState, ResponderState, SessionKeys};
use crate::path::Path;
use crate::peer::PeerId;
use crate::time::Tai64n;

/// One step of a handshake, ready to be computed: some Diffie-Hellman operations on locals.
#[must_use = "a handshake waits for this to be computed and finished"]
pub struct HandshakeWork(pub(super) Work);

/// What a computed step found; to be given to [`Interface::finish_handshake`](crate::Interface::finish_handshake).
#[must_use = "a handshake waits for this to be finished"]
pub struct HandshakeDone(pub(super) Done);

pub(super) enum Work {
    Initiate {
        peer: PeerId,
        identity: Arc<Identity>,
        key: PublicKey,
        static_static: Option<Arc<SharedSecret>>,
        ephemeral: PrivateKey,
        timestamp: Tai64n,
        local_index: u32,
    },
    Identify {
        identity: Arc<Identity>,
        incoming: Incoming,
    },
    Prove {
        identity: Arc<Identity>,
        path: Path,
        peer: PeerId,
        claimed: Box<ClaimedInitiation>,
        static_static: Option<Arc<SharedSecret>>,
    },
    Respond {
        identity: Arc<Identity>,
        path: Path,
        peer: PeerId,
        state: Box<ResponderState>,
        psk: PresharedKey,
        ephemeral: PrivateKey,
        local_index: u32,
    },
    Conclude {
        identity: Arc<Identity>,
        peer: PeerId,
        local_index: u32,
        state: Box<InitiatorState>,
        psk: PresharedKey,
        incoming: Incoming,
    },
}

pub(super) enum Done {
    Initiated {
        peer: PeerId,
        identity: Arc<Identity>,
        local_index: u32,
        result: Option<(Arc<SharedSecret>, InitiatorState, [u8; INITIATION_LEN])>,
    },
    Identified {
        identity: Arc<Identity>,
        path: Path,
        result: Option<Box<ClaimedInitiation>>,
    },
    Proven {
        identity: Arc<Identity>,
        path: Path,
        peer: PeerId,
        result: Option<(Arc<SharedSecret>, Box<ResponderState>, Tai64n)>,
    },
    Responded {
        identity: Arc<Identity>,
        path: Path,
        peer: PeerId,
        local_index: u32,
        remote_index: u32,
        result: Option<(SessionKeys, [u8; RESPONSE_LEN])>,
    },
    Concluded {
        identity: Arc<Identity>,
        path: Path,
        peer: PeerId,
        local_index: u32,
        result: Option<(u32, SessionKeys)>,
    },
}

impl HandshakeWork {
    /// Does the Diffie-Hellman operations of this step: some 50 to 200 microseconds. Needs no lock.
    pub fn compute(self) -> HandshakeDone {
        HandshakeDone(match self.0 {
            Work::Initiate { peer, identity, key, static_static, ephemeral, timestamp, local_index } => {
                let result = static_static.or_else(|| identity.static_static(&key)).and_then(|secret| {
                    let made = noise::create_initiation(&identity, &key, &secret, ephemeral, timestamp, local_index);
                    made.map(|(state, message)| (secret, state, message))
                });
                Done::Initiated { peer, identity, local_index, result }
            }
            Work::Identify { identity, incoming } => {
                let result = match Message::parse(incoming.bytes()) {
                    Ok(Message::Initiation(message)) => noise::consume_initiation(&identity, &message).map(Box::new),
                    _ => None,
                };
                Done::Identified { identity, path: incoming.path, result }
            }
            Work::Prove { identity, path, peer, claimed, static_static } => {
                let result = static_static.or_else(|| identity.static_static(&claimed.initiator)).and_then(|secret| {
                    let (state, timestamp) = claimed.prove(&secret)?;
                    Some((secret, Box::new(state), timestamp))
                });
                Done::Proven { identity, path, peer, result }
            }
            Work::Respond { identity, path, peer, state, psk, ephemeral, local_index } => {
                let remote_index = state.remote_index();
                let result = noise::create_response(*state, &psk, &ephemeral, local_index);
                Done::Responded { identity, path, peer, local_index, remote_index, result }
            }
            Work::Conclude { identity, peer, local_index, state, psk, incoming } => {
                let result = match Message::parse(incoming.bytes()) {
                    Ok(Message::Response(message)) => noise::consume_response(&identity, *state, &psk, &message)
                        .map(|keys| (message.sender_index, keys)),
                    _ => None,
                };
                Done::Concluded { identity, path: incoming.path, peer, local_index, result }
            }
        })
    }
}

impl fmt::Debug for HandshakeWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Work::Initiate { .. } => "HandshakeWork(Initiate)",
            Work::Identify { .. } => "HandshakeWork(Identify)",
            Work::Prove { .. } => "HandshakeWork(Prove)",
            Work::Respond { .. } => "HandshakeWork(Respond)",
            Work::Conclude { .. } => "HandshakeWork(Conclude)",
        })
    }
}

impl fmt::Debug for HandshakeDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Done::Initiated { .. } => "HandshakeDone(Initiated)",
            Done::Identified { .. } => "HandshakeDone(Identified)",
            Done::Proven { .. } => "HandshakeDone(Proven)",
            Done::Responded { .. } => "HandshakeDone(Responded)",
            Done::Concluded { .. } => "HandshakeDone(Concluded)",
        })
    }
}
