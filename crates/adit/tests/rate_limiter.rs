//! The rate limiter under traffic of many sources.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit::{Instant, RateLimiter};
use proptest::prelude::*;

/// Packets as pairs: microseconds since the last one, and a source.
fn traffic() -> impl Strategy<Value = Vec<(u64, u8)>> {
    let gap = prop_oneof![4 => 0_u64..2_000, 1 => 0_u64..400_000];
    proptest::collection::vec((gap, 0_u8..40), 1..600)
}

fn source(number: u8) -> IpAddr {
    if number.is_multiple_of(2) {
        Ipv4Addr::new(192, 0, 2, number).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, number.into(), 0, 0, 0, 1).into()
    }
}

proptest! {
    #[test]
    fn no_source_gets_more_than_its_burst_and_twenty_a_second_in_any_stretch_of_time(
        traffic in traffic(),
        // Some tables are too small for all sources.
        entries in 8_usize..100,
        seed in any::<[u64; 2]>(),
    ) {
        let mut limiter = RateLimiter::new(entries, seed);
        let mut now = Instant::from_nanos(1);
        let mut allowed: BTreeMap<u8, Vec<Instant>> = BTreeMap::new();
        for (gap, number) in traffic {
            now += Duration::from_micros(gap);
            if limiter.allow(now, source(number)) {
                allowed.entry(number).or_default().push(now);
            }
        }
        for times in allowed.values() {
            for (first, &start) in times.iter().enumerate() {
                for (last, &end) in times.iter().enumerate().skip(first) {
                    let tokens = 5 + end.saturating_since(start).as_millis() / 50;
                    prop_assert!(((last - first) as u128) < tokens);
                }
            }
        }
    }

    #[test]
    fn a_source_within_its_rate_is_never_refused_while_there_is_room(
        traffic in traffic(),
        seed in any::<[u64; 2]>(),
    ) {
        let mut limiter = RateLimiter::new(RateLimiter::DEFAULT_ENTRIES, seed);
        let mut now = Instant::from_nanos(1);
        let mut last: BTreeMap<u8, Instant> = BTreeMap::new();
        for (gap, number) in traffic {
            now += Duration::from_micros(gap);
            let previous = last.insert(number, now);
            let calm = previous.is_none_or(|then| now.saturating_since(then).as_millis() >= 250);
            let allowed = limiter.allow(now, source(number));
            prop_assert!(allowed || !calm);
        }
    }
}
