//! Sessions: the keys, counters and ages of the previous, the current and the next one.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::limits::{
    KEEPALIVE_TIMEOUT, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_TIMEOUT,
};
use crate::noise::SessionKeys;
use crate::replay::ReplayWindow;
use crate::time::Instant;

/// Which end of the handshake this interface was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// One session.
pub(crate) struct Keypair {
    pub(crate) keys: Arc<SessionKeys>,
    /// The index by which the peer addresses this session.
    pub(crate) local_index: u32,
    /// The index by which this interface addresses it.
    pub(crate) remote_index: u32,
    pub(crate) role: Role,
    pub(crate) created: Instant,
    /// The counter of the next message to be sent.
    pub(crate) counter: u64,
    pub(crate) replay: ReplayWindow,
}

impl Keypair {
    pub(crate) fn new(now: Instant, keys: SessionKeys, local_index: u32, remote_index: u32, role: Role) -> Self {
        Self {
            keys: Arc::new(keys),
            local_index,
            remote_index,
            role,
            created: now,
            counter: 0,
            replay: ReplayWindow::new(),
        }
    }

    /// Whether a packet may still be sent in this session (paper, §6.1, §6.2).
    pub(crate) fn can_send(&self, now: Instant) -> bool {
        self.counter < REJECT_AFTER_MESSAGES && !self.created.is_older_than(REJECT_AFTER_TIME, now)
    }

    /// Whether a packet with this counter may still be received in this session.
    pub(crate) fn can_receive(&self, now: Instant, counter: u64) -> bool {
        counter < REJECT_AFTER_MESSAGES && !self.created.is_older_than(REJECT_AFTER_TIME, now)
    }

    /// Whether this interface initiated it, and nothing has ever come in it: maybe the peer never heard that it is in
    /// use.
    fn is_unheard(&self) -> bool {
        self.role == Role::Initiator && self.replay.is_empty()
    }

    /// The counter for the next packet. No two calls return the same one.
    pub(crate) fn reserve(&mut self) -> u64 {
        let counter = self.counter;
        self.counter += 1;
        counter
    }

    /// Whether a new session should be asked for, after a packet was sent in this one.
    pub(crate) fn is_stale_for_sending(&self, now: Instant) -> bool {
        self.counter > REKEY_AFTER_MESSAGES
            || self.role == Role::Initiator && self.created.is_older_than(REKEY_AFTER_TIME, now)
    }

    /// Whether a new session should be asked for, after a packet was received in this one: so late
    /// in its life that a keepalive might no longer find it alive.
    pub(crate) fn is_stale_for_receiving(&self, now: Instant) -> bool {
        let age = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        self.role == Role::Initiator && self.created.is_older_than(age, now)
    }
}

/// The sessions with one peer.
#[derive(Default)]
pub(crate) struct Keypairs {
    /// The session that packets are sent in.
    pub(crate) current: Option<Box<Keypair>>,
    /// The one before, for packets that are still on their way.
    pub(crate) previous: Option<Box<Keypair>>,
    /// A session in which this interface is the responder, until the initiator has shown that it has the session too;
    /// or, while there is none, one that this interface initiated and was never answered in before it was followed by
    /// the current one.
    pub(crate) next: Option<Box<Keypair>>,
    /// This interface was initiating, too, when the next session was made, and the next one is that of the two which
    /// both ends will use.
    pub(crate) next_is_preferred: bool,
    /// A session that this interface initiated became the current one after the next one was made, and is to stay so:
    /// once the peer is heard in the next one, that becomes the previous one.
    pub(crate) next_is_overtaken: bool,
    /// When the next session was made, nothing had been heard yet in the current one, which this interface initiated:
    /// the two may have crossed. Until the next handshake, also when the next one has become the current one, that of
    /// the two is used in which the peer was heard last: see [`Keypairs::settle`].
    pub(crate) next_is_rival: bool,
}

/// The local indices of sessions that ended.
pub(crate) type Retired = arrayvec::ArrayVec<u32, 3>;

impl Keypairs {
    /// The session addressed by `local_index`.
    pub(crate) fn get_mut(&mut self, local_index: u32) -> Option<&mut Keypair> {
        [&mut self.current, &mut self.previous, &mut self.next]
            .into_iter()
            .flatten()
            .map(Box::as_mut)
            .find(|keypair| keypair.local_index == local_index)
    }

    /// Whether one of the sessions sends to this index of the peer's.
    pub(crate) fn send_to(&self, remote_index: u32) -> bool {
        let mut keypairs = [&self.current, &self.previous, &self.next].into_iter().flatten();
        keypairs.any(|keypair| keypair.remote_index == remote_index)
    }

    /// The response to an initiation of ours has made a session: it proves that the peer has the
    /// keys, so the session is used at once. Returns the indices of those it pushed out.
    ///
    /// An unconfirmed session that the peer initiated is kept for what the peer may send in it, until it expires. If
    /// nothing has ever come in the session that was the current one, the peer may still send in the one before: the
    /// first message of the session, which tells the peer that it is in use, may be lost.
    pub(crate) fn install_initiated(&mut self, keypair: Keypair) -> Retired {
        (self.next_is_overtaken, self.next_is_rival) = (!self.next_is_preferred, false);
        let now = keypair.created;
        let ended = |old: &mut Box<Keypair>| old.created.is_older_than(REJECT_AFTER_TIME, now);
        let [next, previous] = [self.next.take_if(ended), self.previous.take_if(ended)];
        let before = self.current.replace(Box::new(keypair));
        let is_unheard = before.as_ref().is_some_and(|before| before.is_unheard());
        let has_room = self.next.as_ref().is_none_or(|next| next.role == Role::Initiator);
        let place = if is_unheard && self.previous.is_some() && has_room { &mut self.next } else { &mut self.previous };
        let pushed_out = core::mem::replace(place, before);
        [next, previous, pushed_out].into_iter().flatten().map(|old| old.local_index).collect()
    }

    /// An initiation of the peer's has been answered: nothing may be sent in the session before the
    /// peer has spoken in it. Returns the indices of those it pushed out.
    ///
    /// The previous session is kept: the peer may never have heard that the current one is in use, and still send in
    /// the one before.
    ///
    /// `is_preferred` says that an initiation of ours is on its way too, and that both ends are to
    /// use the peer's session in the end. If they did not agree each would send in its own, and
    /// with the next handshakes a session would be pushed out that the other end still sends in.
    ///
    /// If nothing has come in our current session yet, the peer's initiation may be as old as ours though its response
    /// came first: then the peer will send in our session. Or the peer has forgotten that session, and never will.
    pub(crate) fn install_answered(&mut self, keypair: Keypair, is_preferred: bool) -> Retired {
        (self.next_is_preferred, self.next_is_overtaken) = (is_preferred, false);
        let is_new = |current: &Keypair| current.is_unheard() && current.can_send(keypair.created);
        self.next_is_rival = self.current.as_deref().is_some_and(is_new);
        let next = self.next.replace(Box::new(keypair));
        next.into_iter().map(|old| old.local_index).collect()
    }

    /// A packet was authenticated in the session `local_index`. If it was the next session, and the peer's, it
    /// becomes the current one, unless a later one is; returns the index pushed out by that, or
    /// `None` if nothing moved.
    pub(crate) fn confirm(&mut self, local_index: u32) -> Option<Retired> {
        self.settle(local_index);
        let next = self.next.take_if(|next| next.local_index == local_index && next.role == Role::Responder)?;
        let before = if self.next_is_overtaken { Some(next) } else { self.current.replace(next) };
        Some(core::mem::replace(&mut self.previous, before).map(|old| old.local_index).into_iter().collect())
    }

    /// Two sessions may have crossed, and the later one is in use: if the peer is heard in the earlier one, that is
    /// used again. A peer whose initiation did cross ends up in the earlier one, and takes packets in either meanwhile.
    /// A peer that has forgotten the earlier one may still have packets on their way in it: they count until its next
    /// packet.
    fn settle(&mut self, local_index: u32) {
        if self.next_is_rival
            && self.next.is_none()
            && let Some(previous) = self.previous.as_mut().filter(|previous| previous.local_index == local_index)
            && let Some(current) = &mut self.current
        {
            core::mem::swap(current, previous);
        }
    }

    /// Forgets every session. Returns their indices.
    pub(crate) fn clear(&mut self) -> Retired {
        [self.current.take(), self.previous.take(), self.next.take()]
            .into_iter()
            .flatten()
            .map(|old| old.local_index)
            .collect()
    }

    /// Nothing is sent any more in any session; what arrives in them counts as before.
    pub(crate) fn stop_sending(&mut self) {
        for keypair in [&mut self.current, &mut self.next].into_iter().flatten() {
            keypair.counter = REJECT_AFTER_MESSAGES;
        }
        // Even when the peer sends in the next session, it must not take the place of one that is made from now on; nor
        // does the previous one come back.
        (self.next_is_preferred, self.next_is_rival) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use zeroize::Zeroizing;

    use super::*;

    fn session(index: u32, role: Role, made: u64, is_heard: bool) -> Keypair {
        let keys = SessionKeys::new(Zeroizing::new([[0; 32]; 2]));
        let mut session = Keypair::new(Instant::default() + Duration::from_secs(made), keys, index, index, role);
        assert!(!is_heard || session.replay.accept(0));
        session
    }

    /// The current, the previous and the next one.
    fn places(keypairs: &Keypairs) -> [Option<u32>; 3] {
        let Keypairs { current, previous, next, .. } = keypairs;
        [current, previous, next].map(|place| place.as_ref().map(|session| session.local_index))
    }

    /// Sessions 1 and 2, initiated here, the first of which was heard.
    fn two(is_second_heard: bool) -> Keypairs {
        let mut keypairs = Keypairs::default();
        assert!(keypairs.install_initiated(session(1, Role::Initiator, 0, true)).is_empty());
        assert!(keypairs.install_initiated(session(2, Role::Initiator, 170, is_second_heard)).is_empty());
        assert_eq!(places(&keypairs), [Some(2), Some(1), None]);
        keypairs
    }

    #[test]
    fn a_session_in_which_nothing_came_is_kept_beside_the_one_before_and_never_becomes_the_current_one_again() {
        let mut keypairs = two(false);
        assert!(keypairs.install_initiated(session(3, Role::Initiator, 175, false)).is_empty());
        assert_eq!(places(&keypairs), [Some(3), Some(1), Some(2)]);
        assert_eq!(keypairs.confirm(2), None);
        assert_eq!(places(&keypairs), [Some(3), Some(1), Some(2)]);
    }

    #[test]
    fn a_session_in_which_something_came_takes_the_place_of_the_one_before() {
        let mut keypairs = two(true);
        assert_eq!(keypairs.install_initiated(session(3, Role::Initiator, 175, false))[..], [1]);
        assert_eq!(places(&keypairs), [Some(3), Some(2), None]);
    }

    #[test]
    fn a_session_takes_the_place_of_one_before_that_has_expired_or_is_not_there() {
        let mut keypairs = two(false);
        assert_eq!(keypairs.install_initiated(session(3, Role::Initiator, 180, false))[..], [1]);
        assert_eq!(places(&keypairs), [Some(3), Some(2), None]);
        let mut keypairs = Keypairs::default();
        for index in [1, 2] {
            assert!(keypairs.install_initiated(session(index, Role::Initiator, 0, false)).is_empty());
        }
        assert_eq!(places(&keypairs), [Some(2), Some(1), None]);
    }

    #[test]
    fn a_session_of_the_peers_that_is_not_confirmed_makes_room_for_none_of_ours() {
        let mut keypairs = two(false);
        assert!(keypairs.install_answered(session(9, Role::Responder, 172, false), false).is_empty());
        assert_eq!(keypairs.install_initiated(session(3, Role::Initiator, 175, false))[..], [1]);
        assert_eq!(places(&keypairs), [Some(3), Some(2), Some(9)]);
    }
}
