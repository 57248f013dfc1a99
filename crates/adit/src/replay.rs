//! The window that lets each counter of a session in once.
//!
//! Packets may arrive out of order, so a receiver remembers which of the last
//! few thousand counters it has seen. The memory is a ring of words, as in RFC
//! 6479: moving forward clears whole words, so nothing is ever shifted, and the
//! usable window is one word shorter than the ring.

use crate::limits::REJECT_AFTER_MESSAGES;

/// Bits in the ring.
const RING_BITS: u64 = 8192;
/// Bits in one word of the ring. Counters and words are 64 bits wide on every
/// machine.
const WORD_BITS: u64 = u64::BITS as u64;
/// Words in the ring.
const WORDS: usize = (RING_BITS / WORD_BITS) as usize;

/// Which counters a session has received.
///
/// About a kilobyte, without any allocation. A counter is accepted once, if it
/// is at most [`ReplayWindow::REACH`] behind the greatest one accepted and
/// below `REJECT_AFTER_MESSAGES`.
///
/// Only the counters of packets that proved authentic may be [accepted]:
/// otherwise a forger could move the window past the packets of the peer.
///
/// [accepted]: ReplayWindow::accept
#[derive(Clone)]
pub struct ReplayWindow {
    /// The greatest counter accepted, plus one; 0 before the first.
    next: u64,
    /// The bit of counter `c` is bit `c % 64` of word `c / 64 % WORDS`.
    words: [u64; WORDS],
}

impl ReplayWindow {
    /// How far behind the greatest accepted counter another may still arrive.
    pub const REACH: u64 = RING_BITS - WORD_BITS;

    /// A window that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// Whether nothing has been accepted yet.
    pub(crate) const fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Whether [`accept`](Self::accept) would accept this counter now.
    ///
    /// Cheap, and changes nothing: it may be asked before a packet is
    /// decrypted, to spare the work on a replay.
    #[must_use]
    #[inline]
    pub const fn check(&self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        if counter >= self.next {
            return true;
        }
        let behind = self.next - 1 - counter;
        behind <= Self::REACH && self.words[word_of(counter)] & bit_of(counter) == 0
    }

    /// Marks the counter as received. True the first time; false if it was
    /// received before, is too old to tell, or is beyond the last counter that
    /// a session may use. On false nothing changes.
    #[must_use = "a counter that is not accepted belongs to a packet that must be dropped"]
    #[inline]
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.check(counter) {
            return false;
        }
        if counter >= self.next {
            self.advance_to(counter);
        }
        self.words[word_of(counter)] |= bit_of(counter);
        true
    }

    /// What the window has seen: the greatest counter accepted, plus one, and the words of the
    /// ring, that of the newest counters first.
    pub(crate) fn parts(&self) -> (u64, impl Iterator<Item = u64> + '_) {
        let Self { next, words } = self;
        let newest = next.saturating_sub(1) / WORD_BITS;
        let blocks = (0..=newest).rev().take(WORDS);
        (*next, blocks.map(|block| words[word_of(block * WORD_BITS)]))
    }

    /// The window whose [`parts`](Self::parts) these are. Counters that they do not cover, as when they come from a
    /// shorter window, all count as seen.
    pub(crate) fn from_parts(next: u64, words: impl IntoIterator<Item = u64>) -> Self {
        let mut window = Self { next, words: [0; WORDS] };
        let newest = next.saturating_sub(1) / WORD_BITS;
        let mut words = words.into_iter();
        for block in (0..=newest).rev().take(WORDS) {
            window.words[word_of(block * WORD_BITS)] = words.next().unwrap_or(u64::MAX);
        }
        window
    }

    /// Makes `counter` the greatest one, and forgets the words that now stand
    /// for newer counters than they did.
    #[inline]
    fn advance_to(&mut self, counter: u64) {
        // Before the first counter all words are clear, so it is right to take
        // word 0 for the newest.
        let newest = self.next.saturating_sub(1) / WORD_BITS;
        let steps = (counter / WORD_BITS - newest).min(WORDS as u64);
        for step in 1..=steps {
            self.words[word_of((newest + step) * WORD_BITS)] = 0;
        }
        self.next = counter + 1;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ReplayWindow").field("next", &self.next).finish_non_exhaustive()
    }
}

/// The index of the counter's word: always below `WORDS`, whatever the counter.
const fn word_of(counter: u64) -> usize {
    (counter / WORD_BITS % WORDS as u64) as usize
}

const fn bit_of(counter: u64) -> u64 {
    1 << (counter % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::ReplayWindow;

    /// 2^64 − 2^13 − 1, from the paper.
    const REJECT_AFTER_MESSAGES: u64 = 18_446_744_073_709_543_423;
    /// The ring of 8192 bits less a word of 64.
    const REACH: u64 = 8_128;

    /// Offers each counter in turn and compares with what should happen.
    #[track_caller]
    fn assert_accepts(table: &[(u64, bool)]) {
        let mut window = ReplayWindow::new();
        for (step, &(counter, fresh)) in table.iter().enumerate() {
            assert_eq!(window.check(counter), fresh, "check {counter}, step {step}");
            assert_eq!(window.accept(counter), fresh, "accept {counter}, step {step}");
            assert!(!window.check(counter), "{counter} twice, step {step}");
        }
    }

    #[test]
    fn each_counter_is_accepted_once_in_any_order() {
        assert_accepts(&[
            (0, true),
            (0, false),
            (2, true),
            (1, true),
            (1, false),
            (2, false),
            (64, true),
            (63, true),
            (65, true),
            (63, false),
            (64, false),
            (3, true),
        ]);
    }

    #[test]
    fn the_first_counter_may_be_any() {
        assert_accepts(&[(1, true), (0, true), (0, false)]);
        assert_accepts(&[(5_000, true), (0, true), (4_999, true), (5_000, false)]);
        assert_accepts(&[(1 << 40, true), (0, false), ((1 << 40) - 1, true)]);
    }

    #[test]
    fn the_oldest_counter_within_reach_is_accepted_and_the_one_before_is_not() {
        for greatest in [REACH, REACH + 1, 8_191, 8_192, 8_193, 20_000, 1 << 60] {
            let oldest = greatest - REACH;
            assert_accepts(&[(greatest, true), (oldest, true), (oldest, false)]);
            if let Some(too_old) = oldest.checked_sub(1) {
                assert_accepts(&[(greatest, true), (too_old, false), (oldest, true)]);
            }
        }
    }

    #[test]
    fn a_counter_falls_out_of_reach_as_the_window_moves() {
        assert_accepts(&[
            (10, true),
            (10 + REACH, true),
            (9, false),
            (11, true),
            (12 + REACH, true),
            (11, false),
            (12, true),
            (13, true),
        ]);
    }

    #[test]
    fn a_jump_forgets_what_it_leaves_behind_and_nothing_else() {
        let mut window = ReplayWindow::new();
        for counter in 0..8_192 {
            assert!(window.accept(counter));
        }
        // Jumps by whole rings land on the very words that were full.
        for jump in [1, 63, 64, 65, 4_000, 8_127, 8_128, 8_191, 8_192, 16_384, 1 << 63] {
            let mut window = window.clone();
            assert!(window.accept(8_191 + jump));
            for behind in 1..=REACH {
                assert_eq!(window.accept(8_191 + jump - behind), behind < jump, "{behind} behind, jump {jump}");
            }
        }
    }

    #[test]
    fn counters_that_share_a_bit_of_the_ring_are_told_apart() {
        for ring in 1..4 {
            assert_accepts(&[(7, true), (7 + ring * 8_192, true), (7, false)]);
        }
    }

    #[test]
    fn reject_after_messages_is_the_end() {
        assert_accepts(&[
            (REJECT_AFTER_MESSAGES - 2, true),
            (REJECT_AFTER_MESSAGES, false),
            (u64::MAX, false),
            (REJECT_AFTER_MESSAGES - 1, true),
            (REJECT_AFTER_MESSAGES - 1, false),
            (REJECT_AFTER_MESSAGES - 1 - REACH, true),
            (REJECT_AFTER_MESSAGES - 2 - REACH, false),
        ]);
        assert_accepts(&[(REJECT_AFTER_MESSAGES, false), (0, true)]);
    }

    #[test]
    fn a_full_window_accepts_in_reverse_order() {
        let mut window = ReplayWindow::new();
        let greatest = 100_000;
        for counter in (greatest - REACH..=greatest).rev() {
            assert!(window.accept(counter), "{counter}");
        }
        for counter in greatest - 10_000..=greatest {
            assert!(!window.accept(counter), "{counter}");
        }
    }

    #[test]
    fn a_window_takes_about_a_kilobyte() {
        assert!(size_of::<ReplayWindow>() <= 1_040);
    }

    /// What the window should do, without any cleverness.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let greatest = self.seen.last().copied().unwrap_or(0);
            counter < REJECT_AFTER_MESSAGES && greatest.saturating_sub(counter) <= REACH && self.seen.insert(counter)
        }
    }

    /// Runs of counters that linger, step back and leap.
    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![
            8 => -80_i64..80,
            4 => -9_000_i64..9_000,
            1 => -20_000_i64..40_000,
            1 => any::<i64>(),
        ];
        let start = prop_oneof![Just(0), any::<u64>(), REJECT_AFTER_MESSAGES - 20_000..=u64::MAX];
        (start, proptest::collection::vec(step, 1..400)).prop_map(|(start, steps)| {
            steps
                .into_iter()
                .scan(start, |counter, step| {
                    *counter = counter.saturating_add_signed(step);
                    Some(*counter)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(counters in counters()) {
            let mut window = ReplayWindow::new();
            let mut model = Model::default();
            for counter in counters {
                let checked = window.check(counter);
                let accepted = window.accept(counter);
                prop_assert_eq!(checked, accepted);
                prop_assert_eq!(accepted, model.accept(counter), "counter {}", counter);
            }
        }
    }
}
