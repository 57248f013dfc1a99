//! The replay window behind a network that loses, delays and repeats.

use std::collections::BTreeSet;

use adit::ReplayWindow;
use proptest::prelude::*;

/// How far behind the newest packet another may arrive: 8192 bits less a word.
const REACH: u64 = 8_128;

/// The most counters that are left out between two that arrive.
const GAP: u64 = 100;
/// The most counters that arrive.
const COUNT: usize = 300;

/// What a network makes of the counters 0, 1, 2, …: one in every `step` is delivered, any number of times, each time up
/// to `REACH` places late. With the longest gaps there are several times as many counters as the window has places.
fn deliveries() -> impl Strategy<Value = Vec<u64>> {
    let delays = proptest::collection::vec(0..=REACH, 0..4);
    let step = prop_oneof![1 => Just(1_u64), 4 => 2..=GAP];
    (step, proptest::collection::vec(delays, 1..=COUNT)).prop_map(|(step, packets)| {
        let mut arrivals = Vec::new();
        for (number, delays) in (0_u64..).zip(packets) {
            let counter = number * step;
            arrivals.extend(delays.into_iter().map(|delay| (counter + delay, counter)));
        }
        arrivals.sort_unstable();
        arrivals.into_iter().map(|(_, counter)| counter).collect()
    })
}

proptest! {
    #[test]
    fn whatever_arrives_in_time_is_accepted_exactly_once(
        deliveries in deliveries(),
        start in 0..u64::MAX - 8_192 - GAP * COUNT as u64,
    ) {
        let mut window = ReplayWindow::new();
        let mut seen = BTreeSet::new();
        for counter in deliveries {
            let first = seen.insert(counter);
            prop_assert_eq!(window.accept(start + counter), first);
        }
    }

    #[test]
    fn no_order_of_counters_gets_one_accepted_twice(
        counters in proptest::collection::vec(prop_oneof![0_u64..20_000, any::<u64>()], 1..500),
    ) {
        let mut window = ReplayWindow::new();
        let mut accepted = BTreeSet::new();
        for &counter in counters.iter().chain(counters.iter().rev()) {
            if window.accept(counter) {
                prop_assert!(accepted.insert(counter), "{} was accepted twice", counter);
            }
            prop_assert!(!window.check(counter));
        }
    }
}
