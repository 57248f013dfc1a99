//! Whether a worker that has nothing to do sleeps, or keeps polling for a while.
//!
//! Sleeping costs nothing, but waking up takes tens of microseconds, which is most of the round trip of a small request
//! and its reply. So while packets go to and fro, few at a time and each soon after the last, the worker keeps polling;
//! and so it does after a single request, if earlier ones were replied to soon. A stream in one direction, packets in
//! bulk, and packets far apart let it sleep.

use std::time::{Duration, Instant};

/// How soon in an exchange a packet follows the last, and for how long it is polled for.
const SOON: Duration = Duration::from_micros(250);
/// How many turns make an exchange.
const EXCHANGE: u32 = 8;
/// The most packets that a turn of an exchange moves in one direction.
const FEW: usize = 4;
/// The most turns by which one direction of an exchange runs ahead of the other.
const LEAD: u32 = 4;
/// How soon a reply follows a single request, and for how long it is polled for. The way there and back and two
/// wake-ups of the other side are in it.
const REPLY: Duration = Duration::from_micros(500);
/// How many more requests must have been replied to soon than not, before a reply is polled for.
const USUAL: u32 = 4;
/// The share of the time that replies are polled for at most: one in so many.
const SHARE: u32 = 16;

#[derive(Debug)]
pub(super) struct Patience {
    /// How long to poll every time, if the user has set that.
    fixed: Option<Duration>,
    /// When packets were moved last.
    last: Instant,
    /// The turns of the present exchange.
    turns: u32,
    /// How many more of them moved packets outwards only than inwards only.
    lead: i32,
    /// Whether the last turn was a single request: few packets, all outwards, after a while in which none moved.
    has_asked: bool,
    /// How many more requests were replied to soon than not; at most twice as many as are wanted.
    replies: u32,
    /// For how long replies may still be polled for.
    credit: Duration,
}

/// The packets that a worker moved between two waits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turn {
    pub(super) outbound: usize,
    pub(super) inbound: usize,
}

/// Whether the first packet of a turn, on each side, is served before looking for more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OneByOne {
    pub(super) outbound: bool,
    pub(super) inbound: bool,
}

impl OneByOne {
    /// It is if packets came one by one in the turn before.
    pub(super) fn after(turn: Turn) -> Self {
        let is_sparse = turn.outbound <= 1 && turn.inbound <= 1;
        Self { outbound: is_sparse, inbound: is_sparse }
    }
}

impl Patience {
    /// For a worker that always polls for as long as `fixed`, or, without that, as long as it is of use.
    pub(super) fn new(fixed: Option<Duration>, now: Instant) -> Self {
        Self { fixed, last: now, turns: 0, lead: 0, has_asked: false, replies: 0, credit: Duration::ZERO }
    }

    /// Whether to poll once more rather than sleep.
    pub(super) fn polls_on(&self, now: impl FnOnce() -> Instant) -> bool {
        let of_use = match self.turns {
            _ if self.awaits_reply() => REPLY,
            EXCHANGE.. => SOON,
            _ => Duration::ZERO,
        };
        let limit = self.fixed.unwrap_or(of_use);
        !limit.is_zero() && now().saturating_duration_since(self.last) < limit
    }

    /// Whether the next packet to come is a reply, most likely, and may be polled for.
    pub(super) fn awaits_reply(&self) -> bool {
        self.has_asked && self.replies >= USUAL && self.credit >= REPLY
    }

    /// Takes note of what was moved after a wait.
    pub(super) fn moved(&mut self, turn: Turn, now: Instant) {
        let Turn { outbound, inbound } = turn;
        if outbound == 0 && inbound == 0 {
            return;
        }
        let since_last = now.saturating_duration_since(self.last);
        let polled = if self.awaits_reply() { since_last.min(REPLY) } else { Duration::ZERO };
        self.credit = (self.credit + since_last / SHARE).min(4 * REPLY).saturating_sub(polled);
        if self.has_asked {
            let is_reply = inbound > 0 && since_last < REPLY;
            self.replies = if is_reply { (self.replies + 1).min(2 * USUAL) } else { self.replies.saturating_sub(1) };
        }
        self.has_asked = since_last >= REPLY && inbound == 0 && outbound <= FEW;
        self.lead += i32::from(inbound == 0) - i32::from(outbound == 0);
        let is_soon = since_last < SOON;
        if is_soon && outbound.max(inbound) <= FEW && self.lead.unsigned_abs() <= LEAD {
            self.turns = self.turns.saturating_add(1);
        } else {
            (self.turns, self.lead) = (0, 0);
        }
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Turn = Turn { outbound: 1, inbound: 0 };
    const IN: Turn = Turn { outbound: 0, inbound: 1 };
    const BOTH: Turn = Turn { outbound: 1, inbound: 1 };
    const STEP: Duration = Duration::from_micros(100);

    /// Whether a worker keeps polling after these turns, again and again, each `step` after the last.
    fn looks_after(turns: &[Turn], step: Duration) -> bool {
        let mut now = Instant::now();
        let mut patience = Patience::new(None, now);
        for turn in turns.iter().cycle().take(100) {
            now += step;
            patience.moved(*turn, now);
        }
        patience.polls_on(|| now)
    }

    #[test]
    fn a_worker_looks_on_while_packets_go_to_and_fro() {
        assert!(looks_after(&[OUT, IN], STEP), "who asks");
        assert!(looks_after(&[BOTH], STEP), "who answers at once");
        assert!(looks_after(&[OUT, OUT, IN, Turn { inbound: 2, ..IN }], STEP), "several who ask");
    }

    #[test]
    fn a_worker_sleeps_after_packets_that_go_one_way_or_are_many_or_far_apart() {
        assert!(!looks_after(&[OUT], STEP), "a stream out");
        assert!(!looks_after(&[IN], STEP), "a stream in");
        assert!(!looks_after(&[IN, IN, IN, OUT], STEP), "a stream in, acknowledged");
        assert!(!looks_after(&[Turn { outbound: 40, ..OUT }, IN], STEP), "bulk");
        assert!(!looks_after(&[OUT, IN], Duration::from_millis(5)), "far apart");
        assert!(!looks_after(&[OUT, IN, OUT, IN, OUT, Turn { inbound: 5, ..IN }], STEP), "no eight turns in a row");
    }

    #[test]
    fn a_worker_sleeps_when_nothing_has_come_for_a_while_and_the_exchange_begins_anew() {
        let mut now = Instant::now();
        let mut patience = Patience::new(None, now);
        for turn in 1..=8 {
            assert!(!patience.polls_on(|| now), "after {} turns", turn - 1);
            now += STEP;
            patience.moved(BOTH, now);
        }
        assert!(patience.polls_on(|| now + Duration::from_micros(249)));
        // A poll in vain is no packet.
        patience.moved(Turn::default(), now + STEP);
        assert!(!patience.polls_on(|| now + Duration::from_micros(250)));
        now += Duration::from_micros(250);
        patience.moved(BOTH, now);
        assert!(!patience.polls_on(|| now), "it came too late");
    }

    /// A worker, and its time, after so many requests, each followed by `next` after `delay`, and a request after that.
    fn has_asked(fixed: Option<Duration>, requests: usize, delay: Duration, next: Turn) -> (Patience, Instant) {
        let mut now = Instant::now();
        let mut patience = Patience::new(fixed, now);
        for _ in 0..requests {
            now += Duration::from_millis(5);
            patience.moved(OUT, now);
            now += delay;
            patience.moved(next, now);
        }
        now += Duration::from_millis(5);
        patience.moved(OUT, now);
        (patience, now)
    }

    const LATE: Duration = Duration::from_micros(500);
    const IN_TIME: Duration = Duration::from_micros(499);

    #[test]
    fn a_reply_is_awaited_once_four_requests_were_replied_to_soon() {
        let (patience, now) = has_asked(None, 3, IN_TIME, IN);
        assert!(!patience.awaits_reply() && !patience.polls_on(|| now));
        let (mut patience, now) = has_asked(None, 4, IN_TIME, IN);
        assert!(patience.awaits_reply() && patience.polls_on(|| now + IN_TIME));
        assert!(!patience.polls_on(|| now + LATE));
        patience.moved(IN, now + STEP);
        assert!(!patience.awaits_reply() && !patience.polls_on(|| now + STEP), "it has come");
    }

    #[test]
    fn replies_are_polled_for_a_sixteenth_of_the_time_at_most() {
        for (interval, delay, awaited) in [(8_000, 400, 100), (5_000, 150, 100), (1_000, 400, 15), (1_000, 499, 12)] {
            let mut now = Instant::now();
            let mut patience = Patience::new(None, now);
            let mut times = 0;
            for request in 0..1_100 {
                now += Duration::from_micros(interval - delay);
                patience.moved(OUT, now);
                times += u32::from(request >= 100 && patience.awaits_reply());
                now += Duration::from_micros(delay);
                patience.moved(IN, now);
            }
            assert_eq!(times / 10, awaited, "of a hundred requests every {interval} µs, replied to after {delay} µs");
        }
    }

    #[test]
    fn no_reply_is_awaited_where_replies_come_late_or_never() {
        for (delay, next, why) in [(LATE, IN, "late"), (IN_TIME, OUT, "never"), (LATE, OUT, "never, and rarely")] {
            let (patience, now) = has_asked(None, 20, delay, next);
            assert!(!patience.awaits_reply() && !patience.polls_on(|| now), "{why}");
        }
    }

    #[test]
    fn nothing_but_a_single_request_is_one_to_which_a_reply_is_awaited() {
        let (mut patience, mut now) = has_asked(None, 20, STEP, IN);
        for (turn, after, why) in [
            (Turn { outbound: 5, ..OUT }, LATE, "more than a few packets"),
            (BOTH, LATE, "a reply of our own"),
            (IN, LATE, "somebody else's request"),
            (OUT, IN_TIME, "one of a stream"),
        ] {
            now += after;
            patience.moved(turn, now);
            assert!(!patience.awaits_reply(), "{why}");
        }
        now += LATE;
        patience.moved(Turn { outbound: 4, ..OUT }, now);
        assert!(patience.awaits_reply());
    }

    #[test]
    fn replies_that_stay_away_are_awaited_four_times_more_at_most() {
        let (mut patience, mut now) = has_asked(None, 1_000, STEP, IN);
        for unanswered in 0..=4 {
            assert!(patience.awaits_reply(), "after {unanswered} requests without a reply");
            now += Duration::from_millis(5);
            patience.moved(OUT, now);
        }
        assert!(!patience.awaits_reply());
    }

    #[test]
    fn a_worker_that_is_told_not_to_look_sleeps_though_a_reply_is_due() {
        let (patience, now) = has_asked(Some(Duration::ZERO), 20, STEP, IN);
        assert!(patience.awaits_reply() && !patience.polls_on(|| now));
    }

    #[test]
    fn a_worker_that_is_told_how_long_looks_so_long_after_any_packet() {
        let start = Instant::now();
        let told = Duration::from_millis(1);
        let mut patience = Patience::new(Some(told), start);
        let now = start + Duration::from_secs(1);
        assert!(!patience.polls_on(|| now));
        patience.moved(OUT, now);
        assert!(patience.polls_on(|| now + told / 2));
        assert!(!patience.polls_on(|| now + told));
    }

    #[test]
    fn a_worker_that_is_told_not_to_look_always_sleeps() {
        let mut now = Instant::now();
        let mut patience = Patience::new(Some(Duration::ZERO), now);
        for _ in 0..100 {
            now += STEP;
            patience.moved(BOTH, now);
            assert!(!patience.polls_on(|| now));
        }
    }
}
