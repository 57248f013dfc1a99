//! The deadlines of a peer: the five of the kernel's WireGuard, and one of our own. They are set by hooks that are
//! named for what happened.

use core::time::Duration;

use crate::limits::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};
use crate::time::Instant;

/// What to do when a deadline has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// When to repeat an initiation that was not answered.
    Retransmit,
    /// When to end a silence after received data with an empty packet.
    Keepalive,
    /// When to ask for a new session because nothing came back after data was sent.
    NewHandshake,
    /// When to erase all key material of a peer that has gone quiet.
    ZeroKeyMaterial,
    /// When to send an empty packet so that a middlebox keeps its mapping.
    PersistentKeepalive,
    /// When to send an empty packet so that a peer that only sends learns from where packets leave now.
    AnnounceSource,
}

pub(crate) const TIMERS: [Timer; 6] = [
    Timer::Retransmit,
    Timer::Keepalive,
    Timer::NewHandshake,
    Timer::ZeroKeyMaterial,
    Timer::PersistentKeepalive,
    Timer::AnnounceSource,
];

/// For how long a peer that is silent may still be sending: longer than the usual interval of persistent keepalives.
const HEARD: Duration = Duration::from_secs(60);
/// A deadline that has passed, whatever the time.
const AT_ONCE: Instant = Instant::from_nanos(0);

/// The deadlines of one peer. Each is set or cleared by an event and computed nowhere else.
#[derive(Default)]
pub(crate) struct Timers {
    pub(crate) deadlines: [Option<Instant>; TIMERS.len()],
    /// When the handshake that is being retransmitted was first tried, or was last wanted by new data.
    pub(crate) attempt_began: Option<Instant>,
    /// When an initiation was first sent that nothing has come of so far, however often it was wanted since.
    pub(crate) attempting_since: Option<Instant>,
    /// A new session was asked for, and no initiation has been made since.
    pub(crate) asked: bool,
    /// When any authenticated message last came from the peer.
    pub(crate) last_received: Option<Instant>,
    /// Data arrived while the keepalive was already scheduled: another one must follow it.
    pub(crate) need_another_keepalive: bool,
    /// A packet received late in the session's life has already asked for a new session; once is enough.
    pub(crate) renewed_on_receipt: bool,
    /// Seconds; 0 is off.
    pub(crate) persistent_keepalive: u16,
}

impl Timers {
    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes a deadline that has passed.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Option<Timer> {
        TIMERS.into_iter().find(|&timer| {
            self.deadline(timer).take_if(|deadline| *deadline <= now && *deadline < Instant::END).is_some()
        })
    }

    /// A packet with data was sent.
    pub(crate) fn data_sent(&mut self, now: Instant) {
        self.deadline(Timer::NewHandshake).get_or_insert(now + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT);
    }

    /// A packet with data was received.
    pub(crate) fn data_received(&mut self, now: Instant) {
        if self.deadline(Timer::Keepalive).is_some() {
            self.need_another_keepalive = true;
        } else {
            *self.deadline(Timer::Keepalive) = Some(now + KEEPALIVE_TIMEOUT);
        }
    }

    /// Any authenticated message, with data or without, is on its way to the peer.
    pub(crate) fn any_authenticated_packet_sent(&mut self, now: Instant) {
        *self.deadline(Timer::Keepalive) = None;
        *self.deadline(Timer::AnnounceSource) = None;
        self.need_another_keepalive = false;
        self.any_authenticated_packet_traversal(now);
    }

    /// Any authenticated message, with data or without, has come from the peer.
    pub(crate) fn any_authenticated_packet_received(&mut self, now: Instant) {
        *self.deadline(Timer::NewHandshake) = None;
        self.last_received = Some(now);
        // An empty packet that is wanted at once tells the peer something: whatever it sends is no substitute.
        if *self.deadline(Timer::PersistentKeepalive) != Some(AT_ONCE) {
            self.any_authenticated_packet_traversal(now);
        }
    }

    fn any_authenticated_packet_traversal(&mut self, now: Instant) {
        if self.persistent_keepalive > 0 {
            let interval = Duration::from_secs(self.persistent_keepalive.into());
            *self.deadline(Timer::PersistentKeepalive) = Some(now + interval);
        }
    }

    /// An initiation is on its way. `jitter` is up to a third of a second.
    pub(crate) fn handshake_initiated(&mut self, now: Instant, jitter: Duration) {
        self.attempt_began.get_or_insert(now);
        self.attempting_since.get_or_insert(now);
        self.asked = false;
        *self.deadline(Timer::Retransmit) = Some(now + REKEY_TIMEOUT + jitter);
    }

    /// A session is wanted so soon after a handshake message, sent at the moment `sent`, that another initiation may be
    /// made only when nothing has come of that one.
    pub(crate) fn handshake_put_off(&mut self, sent: Instant, jitter: impl FnOnce() -> Duration) {
        self.deadline(Timer::Retransmit).get_or_insert_with(|| sent + REKEY_TIMEOUT + jitter());
    }

    /// New data wants a session: even an attempt that is already going on gets the whole of `REKEY_ATTEMPT_TIME` from
    /// now.
    pub(crate) fn attempt_restarted(&mut self, now: Instant) {
        self.attempt_began = Some(now);
    }

    /// The private key or the endpoint that was missing for a handshake is there: packets that wait for a session need
    /// not wait for others to come, nor the persistent keepalive for its interval.
    pub(crate) fn handshake_possible(&mut self, has_waiting: bool) {
        if has_waiting {
            self.handshake_due();
        }
        if self.persistent_keepalive > 0 {
            self.keepalive_due();
        }
    }

    /// A new session was asked for, later than any handshake that may still be completed.
    pub(crate) fn handshake_asked_for(&mut self) {
        self.asked = true;
        self.handshake_due();
    }

    /// A new session is wanted at once, whatever there is, with the whole of `REKEY_ATTEMPT_TIME` from the first try.
    pub(crate) fn handshake_due(&mut self) {
        self.attempt_began = None;
        *self.deadline(Timer::Retransmit) = Some(AT_ONCE);
    }

    /// An empty packet is wanted at once.
    pub(crate) fn keepalive_due(&mut self) {
        *self.deadline(Timer::PersistentKeepalive) = Some(AT_ONCE);
    }

    /// Packets leave from another address now: the peer is to be shown at once.
    pub(crate) fn announcement_due(&mut self) {
        self.announce_at(AT_ONCE);
    }

    pub(crate) fn announce_at(&mut self, moment: Instant) {
        *self.deadline(Timer::AnnounceSource) = Some(moment);
    }

    /// Whether the peer has been heard so lately that it may be sending.
    pub(crate) fn is_heard(&self, now: Instant) -> bool {
        self.last_received.is_some_and(|last| !last.is_older_than(HEARD, now))
    }

    /// Whether a handshake is being tried.
    pub(crate) const fn is_attempting(&self) -> bool {
        let [retransmit, ..] = &self.deadlines;
        retransmit.is_some()
    }

    /// The retransmit deadline has passed: is there time left to try again?
    pub(crate) fn may_retry(&self, now: Instant) -> bool {
        self.attempt_began.is_none_or(|began| !began.is_older_than(REKEY_ATTEMPT_TIME, now))
    }

    /// The handshake found no answer for `REKEY_ATTEMPT_TIME`.
    pub(crate) fn handshake_gave_up(&mut self, now: Instant) {
        *self.deadline(Timer::Retransmit) = None;
        *self.deadline(Timer::Keepalive) = None;
        (self.attempt_began, self.attempting_since, self.asked) = (None, None, false);
        self.deadline(Timer::ZeroKeyMaterial).get_or_insert(now + REJECT_AFTER_TIME * 3);
    }

    /// The private key is another one, or there is none any more: nothing comes of the initiations that were sent.
    pub(crate) fn handshake_voided(&mut self) {
        (self.attempt_began, self.attempting_since) = (None, None);
    }

    /// Both ends have shown that they have the session's keys. If another one was asked for meanwhile, that stays due.
    pub(crate) fn handshake_complete(&mut self) {
        if !self.asked {
            *self.deadline(Timer::Retransmit) = None;
        }
        (self.attempt_began, self.attempting_since) = (None, None);
        self.renewed_on_receipt = false;
    }

    /// A handshake has made new keys.
    pub(crate) fn session_derived(&mut self, now: Instant) {
        *self.deadline(Timer::ZeroKeyMaterial) = Some(now + REJECT_AFTER_TIME * 3);
    }

    /// The passive keepalive has been sent; if data came meanwhile the next one is set.
    pub(crate) fn keepalive_expired(&mut self, now: Instant, another: bool) {
        if another {
            *self.deadline(Timer::Keepalive) = Some(now + KEEPALIVE_TIMEOUT);
        }
    }

    /// Whether data came while the keepalive was scheduled; asking clears the mark.
    pub(crate) fn take_need_another_keepalive(&mut self) -> bool {
        core::mem::take(&mut self.need_another_keepalive)
    }

    /// The persistent keepalive is due again an interval later, whether it could be sent or not.
    pub(crate) fn persistent_keepalive_expired(&mut self, now: Instant) {
        self.any_authenticated_packet_traversal(now);
    }

    /// The persistent keepalive's interval in seconds; 0 is off.
    pub(crate) const fn persistent_keepalive(&self) -> u16 {
        self.persistent_keepalive
    }

    /// Sets the persistent keepalive's interval; if it was off, it begins with a packet at once.
    pub(crate) fn set_persistent_keepalive(&mut self, now: Instant, seconds: u16) {
        let was_off = self.persistent_keepalive == 0;
        self.persistent_keepalive = seconds;
        let deadline = self.deadline(Timer::PersistentKeepalive);
        if seconds == 0 {
            *deadline = None;
        } else if was_off {
            *deadline = Some(now);
        } else if let Some(deadline) = deadline {
            *deadline = (*deadline).min(now + Duration::from_secs(seconds.into()));
        }
    }

    /// The link has gone down: nothing is due. The persistent keepalive's interval stays, and what is remembered.
    pub(crate) fn stop(&mut self) {
        let Self { persistent_keepalive, last_received, .. } = *self;
        *self = Self { persistent_keepalive, last_received, ..Self::default() };
    }

    /// The link has come up: a persistent keepalive begins with a packet at once.
    pub(crate) fn start(&mut self, now: Instant) {
        if self.persistent_keepalive > 0 {
            *self.deadline(Timer::PersistentKeepalive) = Some(now);
        }
    }

    fn deadline(&mut self, timer: Timer) -> &mut Option<Instant> {
        let [retransmit, keepalive, new_handshake, zero_key_material, persistent_keepalive, announce_source] =
            &mut self.deadlines;
        match timer {
            Timer::Retransmit => retransmit,
            Timer::Keepalive => keepalive,
            Timer::NewHandshake => new_handshake,
            Timer::ZeroKeyMaterial => zero_key_material,
            Timer::PersistentKeepalive => persistent_keepalive,
            Timer::AnnounceSource => announce_source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_over_at_the_very_moment_of_their_end() {
        let start = Instant::from_nanos(1_000_000_000_000);
        let mut timers = Timers::default();
        timers.attempt_restarted(start);
        timers.any_authenticated_packet_received(start);
        for (end, still) in [
            (Duration::from_secs(60), Timers::is_heard as fn(&Timers, Instant) -> bool),
            (Duration::from_secs(90), Timers::may_retry),
        ] {
            assert!(still(&timers, start + (end - Duration::from_nanos(1))));
            assert!(!still(&timers, start + end));
        }
    }
}
