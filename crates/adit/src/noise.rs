//! The handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (paper, §5.4).
//!
//! Pure functions over locals. The paper's tokens stand beside the lines that carry them out. What
//! a message claims is committed by the caller, and only after everything here has succeeded.

use alloc::sync::Arc;

use zeroize::Zeroizing;

use crate::crypto::{self, Hash, SharedSecret, TAG_LEN};
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::limits::{INITIATION_LEN, RESPONSE_LEN};
use crate::message::{Initiation, Response};
use crate::time::Tai64n;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// An interface's static key pair.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) private: PrivateKey,
    pub(crate) public: PublicKey,
}

impl Identity {
    pub(crate) fn new(private: PrivateKey) -> Self {
        let public = private.public_key();
        Self { private, public }
    }

    /// The secret between this identity and a peer's static key; `None` for a peer key of small
    /// order.
    pub(crate) fn static_static(&self, peer: &PublicKey) -> Option<Arc<SharedSecret>> {
        crypto::dh(&self.private, peer).map(Arc::new)
    }
}

/// The keys of a session, one for each direction.
pub(crate) struct SessionKeys {
    pub(crate) sending: adit_aead::Key,
    pub(crate) receiving: adit_aead::Key,
    /// The same keys in the same order, kept for snapshots, which hand the session over.
    pub(crate) bytes: Zeroizing<[[u8; 32]; 2]>,
}

impl SessionKeys {
    pub(crate) fn new(bytes: Zeroizing<[[u8; 32]; 2]>) -> Self {
        let [sending, receiving] = bytes.each_ref().map(|key| adit_aead::Key::new(*key));
        Self { sending, receiving, bytes }
    }
}

/// Noise's symmetric state: the chaining key and the hash of all that was said.
#[derive(Clone)]
struct SymmetricState {
    chaining_key: Zeroizing<[u8; 32]>,
    hash: Hash,
}

impl SymmetricState {
    /// The state at the beginning, with the responder's static key already known.
    fn new(responder: &PublicKey) -> Self {
        let chaining_key = crypto::hash(&[CONSTRUCTION]);
        let hash = crypto::hash(&[&chaining_key, IDENTIFIER]);
        let mut state = Self { chaining_key: Zeroizing::new(chaining_key), hash };
        state.mix_hash(responder.as_bytes());
        state
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = crypto::hash(&[&self.hash, data]);
    }

    /// An ephemeral public key goes into both the hash and the chaining key.
    fn mix_ephemeral(&mut self, ephemeral: &PublicKey) {
        self.mix_hash(ephemeral.as_bytes());
        self.mix_key(ephemeral.as_bytes());
    }

    fn mix_key(&mut self, secret: &[u8; 32]) {
        let [chaining_key] = &*crypto::kdf(&self.chaining_key, secret);
        *self.chaining_key = *chaining_key;
    }

    /// As [`Self::mix_key`], and a key for the next encryption.
    fn mix_key_and_cut(&mut self, secret: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        let [chaining_key, key] = &*crypto::kdf(&self.chaining_key, secret);
        *self.chaining_key = *chaining_key;
        Zeroizing::new(*key)
    }

    fn mix_psk(&mut self, psk: &PresharedKey) -> Zeroizing<[u8; 32]> {
        let [chaining_key, tau, key] = &*crypto::kdf(&self.chaining_key, psk.as_bytes());
        *self.chaining_key = *chaining_key;
        self.mix_hash(tau);
        Zeroizing::new(*key)
    }

    /// Encrypts `N` bytes of text; the ciphertext and the tag go into the hash.
    fn encrypt_and_hash<const N: usize, const M: usize>(&mut self, key: &[u8; 32], text: &[u8; N]) -> [u8; M] {
        const { assert!(M == N + TAG_LEN) };
        let mut sealed = [0; M];
        let (body, place) = sealed.split_at_mut(N);
        body.copy_from_slice(text);
        place.copy_from_slice(&crypto::seal(key, &self.hash, body));
        self.mix_hash(&sealed);
        sealed
    }

    fn decrypt_and_hash<const N: usize, const M: usize>(
        &mut self,
        key: &[u8; 32],
        sealed: &[u8; M],
    ) -> Option<[u8; N]> {
        const { assert!(M == N + TAG_LEN) };
        let (body, tag) = sealed.split_last_chunk()?;
        let mut text: [u8; N] = body.try_into().ok()?;
        if !crypto::open(key, &self.hash, &mut text, tag) {
            return None;
        }
        self.mix_hash(sealed);
        Some(text)
    }

    /// The session's keys, in the order initiator to responder, responder to initiator.
    fn split(&self) -> Zeroizing<[[u8; 32]; 2]> {
        crypto::kdf(&self.chaining_key, &[])
    }
}

/// What the initiator keeps between its initiation and the response.
#[derive(Clone)]
pub(crate) struct InitiatorState {
    symmetric: SymmetricState,
    ephemeral: PrivateKey,
}

impl InitiatorState {
    /// Chaining key, hash and ephemeral key.
    pub(crate) fn parts(&self) -> [&[u8; 32]; 3] {
        let Self { symmetric: SymmetricState { chaining_key, hash }, ephemeral } = self;
        [chaining_key, hash, ephemeral.as_bytes()]
    }

    /// The state of which these are the [`parts`](Self::parts).
    pub(crate) fn from_parts([chaining_key, hash, ephemeral]: [&[u8; 32]; 3]) -> Self {
        let symmetric = SymmetricState { chaining_key: Zeroizing::new(*chaining_key), hash: *hash };
        Self { symmetric, ephemeral: PrivateKey::from_bytes(*ephemeral) }
    }
}

/// The first message, and the state that its response needs. `None`: the peer's key is of small
/// order.
pub(crate) fn create_initiation(
    identity: &Identity,
    peer: &PublicKey,
    static_static: &SharedSecret,
    ephemeral: PrivateKey,
    timestamp: Tai64n,
    sender_index: u32,
) -> Option<(InitiatorState, [u8; INITIATION_LEN])> {
    let mut symmetric = SymmetricState::new(peer);

    // e
    let ephemeral_public = ephemeral.public_key();
    symmetric.mix_ephemeral(&ephemeral_public);

    // es
    let key = symmetric.mix_key_and_cut(&*crypto::dh(&ephemeral, peer)?);

    // s
    let encrypted_static: [u8; 48] = symmetric.encrypt_and_hash(&key, identity.public.as_bytes());

    // ss
    let key = symmetric.mix_key_and_cut(static_static);

    // {t}
    let encrypted_timestamp: [u8; 28] = symmetric.encrypt_and_hash(&key, timestamp.as_bytes());

    let message = Initiation {
        sender_index,
        unencrypted_ephemeral: ephemeral_public.as_bytes(),
        encrypted_static: &encrypted_static,
        encrypted_timestamp: &encrypted_timestamp,
    };
    Some((InitiatorState { symmetric, ephemeral }, message.to_bytes()))
}

/// An initiation that names its sender, who has yet to prove the claim.
pub(crate) struct ClaimedInitiation {
    symmetric: SymmetricState,
    /// The initiator's static key.
    pub(crate) initiator: PublicKey,
    ephemeral: PublicKey,
    encrypted_timestamp: [u8; 28],
    sender_index: u32,
}

/// What the responder needs for its response.
pub(crate) struct ResponderState {
    symmetric: SymmetricState,
    initiator: PublicKey,
    ephemeral: PublicKey,
    receiver_index: u32,
}

/// The first half of the first message: who sent it?
pub(crate) fn consume_initiation(identity: &Identity, message: &Initiation<'_>) -> Option<ClaimedInitiation> {
    let mut symmetric = SymmetricState::new(&identity.public);

    // e
    let ephemeral = PublicKey::from_bytes(*message.unencrypted_ephemeral);
    symmetric.mix_ephemeral(&ephemeral);

    // es
    let key = symmetric.mix_key_and_cut(&*crypto::dh(&identity.private, &ephemeral)?);

    // s
    let initiator = PublicKey::from_bytes(symmetric.decrypt_and_hash(&key, message.encrypted_static)?);

    Some(ClaimedInitiation {
        symmetric,
        initiator,
        ephemeral,
        encrypted_timestamp: *message.encrypted_timestamp,
        sender_index: message.sender_index,
    })
}

impl ClaimedInitiation {
    /// The second half: the proof, and the timestamp that the caller must compare.
    pub(crate) fn prove(mut self, static_static: &SharedSecret) -> Option<(ResponderState, Tai64n)> {
        // ss
        let key = self.symmetric.mix_key_and_cut(static_static);

        // {t}
        let timestamp = Tai64n::from_bytes(self.symmetric.decrypt_and_hash(&key, &self.encrypted_timestamp)?);

        let state = ResponderState {
            symmetric: self.symmetric,
            initiator: self.initiator,
            ephemeral: self.ephemeral,
            receiver_index: self.sender_index,
        };
        Some((state, timestamp))
    }
}

impl ResponderState {
    /// The initiator's index, to which the session's messages go.
    pub(crate) const fn remote_index(&self) -> u32 {
        self.receiver_index
    }
}

/// The second message, and the session that it makes.
pub(crate) fn create_response(
    mut state: ResponderState,
    psk: &PresharedKey,
    ephemeral: &PrivateKey,
    sender_index: u32,
) -> Option<(SessionKeys, [u8; RESPONSE_LEN])> {
    let symmetric = &mut state.symmetric;

    // e
    let ephemeral_public = ephemeral.public_key();
    symmetric.mix_ephemeral(&ephemeral_public);

    // ee
    symmetric.mix_key(&*crypto::dh(ephemeral, &state.ephemeral)?);

    // se
    symmetric.mix_key(&*crypto::dh(ephemeral, &state.initiator)?);

    // psk
    let key = symmetric.mix_psk(psk);

    // {}
    let encrypted_nothing: [u8; 16] = symmetric.encrypt_and_hash(&key, &[]);

    let message = Response {
        sender_index,
        receiver_index: state.receiver_index,
        unencrypted_ephemeral: ephemeral_public.as_bytes(),
        encrypted_nothing: &encrypted_nothing,
    };
    let mut keys = symmetric.split();
    keys.reverse();
    Some((SessionKeys::new(keys), message.to_bytes()))
}

/// The initiator's end of the second message: the session, if the response is authentic.
pub(crate) fn consume_response(
    identity: &Identity,
    state: InitiatorState,
    psk: &PresharedKey,
    message: &Response<'_>,
) -> Option<SessionKeys> {
    let mut symmetric = state.symmetric;

    // e
    let ephemeral = PublicKey::from_bytes(*message.unencrypted_ephemeral);
    symmetric.mix_ephemeral(&ephemeral);

    // ee
    symmetric.mix_key(&*crypto::dh(&state.ephemeral, &ephemeral)?);

    // se
    symmetric.mix_key(&*crypto::dh(&identity.private, &ephemeral)?);

    // psk
    let key = symmetric.mix_psk(psk);

    // {}
    let [] = symmetric.decrypt_and_hash(&key, message.encrypted_nothing)?;

    Some(SessionKeys::new(symmetric.split()))
}
