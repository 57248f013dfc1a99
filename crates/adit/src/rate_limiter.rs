//! How many handshake messages one source may have us work on.
//!
//! Under load, after a valid mac2 has shown that the source address is not
//! forged and before any Diffie-Hellman, each source has a token bucket, which
//! decides where there is more to compute than can be.
//!
//! A bucket is stored as one moment: when it will be full again. A packet is
//! allowed if that moment is near enough, and puts it off by one interval. So
//! time refills all buckets by itself, a full bucket is an entry that has
//! lapsed, and a lapsed entry is free for the next source: nothing has to be
//! swept, listed or freed.

use alloc::vec::Vec;
use core::hash::Hasher as _;
use core::net::IpAddr;
use core::time::Duration;

use siphasher::sip::SipHasher13;

use crate::time::Instant;

/// The time in which a bucket gains a token: 20 packets a second.
const INTERVAL: Duration = Duration::from_millis(50);
/// Tokens in a full bucket.
const BURST: u32 = 5;
/// Entries that share a place in the table: two cache lines.
const WAYS: usize = 8;

/// Token buckets for sources: 20 packets a second, in bursts of at most 5.
///
/// A source is an IPv4 address or an IPv6 /64. An IPv4 address mapped into IPv6
/// counts as the IPv4 address.
///
/// The table never grows beyond the size given, and takes no memory before the first packet. An entry lapses when its
/// bucket is full again, at most 250 ms after the source's last allowed packet. When all the places where a new source
/// could stand are held by entries that have not lapsed, the new source is refused: flooding from many addresses at
/// once does not win an attacker more work.
pub struct RateLimiter {
    /// `sets * WAYS` buckets once there was a packet; empty before.
    buckets: Vec<Bucket>,
    sets: u32,
    seed: [u64; 2],
}

/// A source and the moment at which its bucket will be full again. All zeros is
/// both an empty place and the full bucket of the unspecified IPv6 network.
#[derive(Clone, Copy)]
struct Bucket {
    source: u64,
    full_at: u64,
}

impl RateLimiter {
    /// The table size that suits a busy server: 128 KiB.
    pub const DEFAULT_ENTRIES: usize = 8_192;

    /// A limiter that remembers at most `max_entries` sources (rounded down to a
    /// multiple of 8, and at least 8). The seed must be random and secret, so
    /// that nobody can choose addresses that share a place in the table.
    #[must_use]
    pub fn new(max_entries: usize, seed: [u64; 2]) -> Self {
        Self { buckets: Vec::new(), sets: u32::try_from(max_entries / WAYS).unwrap_or(u32::MAX).max(1), seed }
    }

    /// Whether a packet from this source may be worked on now; if so, it takes
    /// a token. `now` must not run backwards.
    #[must_use = "a packet that is not allowed must be dropped"]
    pub fn allow(&mut self, now: Instant, source: IpAddr) -> bool {
        let now = now.as_nanos();
        let source = source_key(source);
        if self.buckets.is_empty() {
            let places = self.sets as usize * WAYS;
            self.buckets = alloc::vec![Bucket { source: 0, full_at: 0 }; places];
        }
        match self.find(now, source) {
            Some(bucket) => bucket.take(now, source),
            None => false,
        }
    }

    /// The source's bucket, or one that it may have, or none.
    ///
    /// A source may stand in either of two sets, and goes to the one with more room, so that hardly any place is unused
    /// when a source is refused.
    fn find(&mut self, now: u64, source: u64) -> Option<&mut Bucket> {
        let [first, second] = self.sets_of(source);
        let mut free = [(0, 0); 2];
        for (set, free) in [first, second].into_iter().zip(&mut free) {
            let start = set * WAYS;
            for (place, bucket) in (start..).zip(self.buckets.get(start..start + WAYS)?) {
                if bucket.source == source {
                    return self.buckets.get_mut(place);
                }
                if bucket.full_at <= now {
                    *free = (free.0 + 1, place);
                }
            }
        }
        let (count, place) = free[0].max(free[1]);
        if count == 0 {
            return None;
        }
        self.buckets.get_mut(place)
    }

    /// The two sets where a source may stand (by chance, the same one).
    fn sets_of(&self, source: u64) -> [usize; 2] {
        let [key0, key1] = self.seed;
        let mut hasher = SipHasher13::new_with_keys(key0, key1);
        hasher.write_u64(source);
        let hash = hasher.finish();
        // Scales 32 bits of the hash to 0..sets.
        [hash >> 32, hash & 0xffff_ffff].map(|half| ((half * u64::from(self.sets)) >> 32) as usize)
    }
}

impl core::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The seed is a secret.
        f.debug_struct("RateLimiter").field("entries", &(self.sets as usize * WAYS)).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Takes a token for `source`, which is the bucket's own source unless the
    /// bucket has lapsed.
    fn take(&mut self, now: u64, source: u64) -> bool {
        const INTERVAL_NANOS: u64 = INTERVAL.as_nanos() as u64;
        // With this much still to refill there is less than one token left.
        const EMPTY: u64 = INTERVAL_NANOS * (BURST as u64 - 1);
        let full_at = self.full_at.max(now);
        if full_at - now > EMPTY {
            return false;
        }
        *self = Self { source, full_at: full_at.saturating_add(INTERVAL_NANOS) };
        true
    }
}

/// One number for each source: an IPv4 address stands as the IPv6 network
/// ffff:ffff:a.b.c.d::/64, a multicast one, which no packet can come from.
fn source_key(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(address) => (0xffff_ffff << 32) | u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::{Bucket, RateLimiter};
    use crate::time::Instant;

    const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

    fn limiter() -> RateLimiter {
        RateLimiter::new(8_192, SEED)
    }

    fn at_millis(millis: u64) -> Instant {
        Instant::from_nanos((1_000_000 + millis) * 1_000_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    /// How many of `offered` packets at one moment are allowed.
    fn allowed(limiter: &mut RateLimiter, now: Instant, source: IpAddr, offered: usize) -> usize {
        (0..offered).filter(|_| limiter.allow(now, source)).count()
    }

    #[test]
    fn a_burst_of_five_is_allowed_and_the_sixth_packet_is_not() {
        for source in [ip("192.0.2.1"), ip("2001:db8::1"), ip("0.0.0.0"), ip("::")] {
            let mut limiter = limiter();
            for packet in 1..=5 {
                assert!(limiter.allow(at_millis(0), source), "{source}, packet {packet}");
            }
            assert!(!limiter.allow(at_millis(0), source), "{source}");
        }
    }

    #[test]
    fn a_token_comes_back_every_50_ms() {
        let mut limiter = limiter();
        let source = ip("192.0.2.1");
        assert_eq!(allowed(&mut limiter, at_millis(0), source, 9), 5);
        assert_eq!(allowed(&mut limiter, at_millis(49), source, 9), 0);
        assert_eq!(allowed(&mut limiter, at_millis(50), source, 9), 1);
        assert_eq!(allowed(&mut limiter, at_millis(99), source, 9), 0);
        assert_eq!(allowed(&mut limiter, at_millis(100), source, 9), 1);
        assert_eq!(allowed(&mut limiter, at_millis(200), source, 9), 2);
    }

    #[test]
    fn a_bucket_never_holds_more_than_the_burst() {
        let mut limiter = limiter();
        let source = ip("192.0.2.1");
        assert_eq!(allowed(&mut limiter, at_millis(0), source, 9), 5);
        assert_eq!(allowed(&mut limiter, at_millis(3_600_000), source, 9), 5);
    }

    #[test]
    fn a_flood_from_one_source_gets_twenty_packets_a_second() {
        let mut limiter = limiter();
        let source = ip("192.0.2.1");
        let count = (0..10_000).filter(|&millis| limiter.allow(at_millis(millis), source)).count();
        // The burst, and 20 a second for ten seconds less the last 1 ms.
        assert_eq!(count, 5 + 199);
    }

    #[test]
    fn refused_packets_do_not_put_off_the_next_token() {
        let mut limiter = limiter();
        let source = ip("192.0.2.1");
        assert_eq!(allowed(&mut limiter, at_millis(0), source, 1_000), 5);
        assert!(limiter.allow(at_millis(50), source));
    }

    #[test]
    fn each_ipv4_address_is_a_source() {
        let mut limiter = limiter();
        for number in 0..100 {
            assert_eq!(allowed(&mut limiter, at_millis(0), v4(number), 9), 5);
        }
    }

    #[test]
    fn a_slash_64_is_one_source_and_its_neighbour_another() {
        let mut limiter = limiter();
        let mut count = 0;
        for host in 0..100_u128 {
            let address = Ipv6Addr::from_bits(ip_bits("2001:db8:0:1::") + host);
            count += allowed(&mut limiter, at_millis(0), address.into(), 1);
        }
        assert_eq!(count, 5);
        assert!(!limiter.allow(at_millis(0), ip("2001:db8:0:1:ffff:ffff:ffff:ffff")));
        assert!(limiter.allow(at_millis(0), ip("2001:db8:0:2::")));
        assert!(limiter.allow(at_millis(0), ip("2001:db8::ffff:ffff:ffff:ffff")));
    }

    #[test]
    fn a_mapped_ipv4_address_is_the_ipv4_source() {
        let mut limiter = limiter();
        assert_eq!(allowed(&mut limiter, at_millis(0), ip("::ffff:192.0.2.1"), 9), 5);
        assert!(!limiter.allow(at_millis(0), ip("192.0.2.1")));
        assert!(limiter.allow(at_millis(0), ip("::ffff:192.0.2.2")));
    }

    #[test]
    fn a_million_sources_at_once_stay_within_the_bound() {
        let mut limiter = RateLimiter::new(1_000, SEED);
        let allowed = (0..1_000_000).filter(|&number| limiter.allow(at_millis(0), v4(number))).count();
        assert!(allowed <= 1_000, "{allowed} sources were remembered");
        assert!(allowed >= 990, "only {allowed} places were of use");
        assert_eq!(limiter.buckets.len(), 1_000);
        assert!(limiter.buckets.capacity() * size_of::<Bucket>() <= 16_000);
    }

    #[test]
    fn a_full_table_keeps_limiting_the_sources_it_knows() {
        let mut limiter = RateLimiter::new(64, SEED);
        assert_eq!(allowed(&mut limiter, at_millis(0), v4(1), 4), 4);
        for number in 2..10_000 {
            let _ = limiter.allow(at_millis(0), v4(number));
        }
        assert_eq!(allowed(&mut limiter, at_millis(0), v4(1), 9), 1);
    }

    #[test]
    fn places_are_free_again_when_their_buckets_are_full_again() {
        let mut limiter = RateLimiter::new(64, SEED);
        for round in 0..100 {
            // One packet a source lapses after 50 ms.
            let now = at_millis(round * 50);
            let first = round as u32 * 10_000;
            let allowed = (first..first + 10_000).filter(|&number| limiter.allow(now, v4(number))).count();
            assert!((60..=64).contains(&allowed), "{allowed} in round {round}");
        }
    }

    #[test]
    fn half_full_tables_refuse_nobody() {
        for salt in 0..20 {
            let mut limiter = RateLimiter::new(8_192, [salt, 1]);
            assert!((0..4_096).all(|number| limiter.allow(at_millis(0), v4(number))));
        }
    }

    #[test]
    fn another_seed_places_sources_differently() {
        let places = |seed| RateLimiter::new(8_192, seed).sets_of(42);
        assert_ne!(places([1, 2]), places([1, 3]));
        assert_ne!(places([1, 2]), places([2, 2]));
    }

    #[test]
    fn no_size_and_no_time_is_too_extreme() {
        let mut limiter = RateLimiter::new(0, SEED);
        assert_eq!(allowed(&mut limiter, Instant::from_nanos(0), v4(1), 9), 5);
        assert_eq!(limiter.buckets.len(), 8);
        let end = Instant::from_nanos(u64::MAX);
        assert!(limiter.allow(end, v4(1)));
    }

    #[test]
    fn a_limiter_without_packets_takes_no_memory_and_an_entry_takes_16_bytes() {
        assert_eq!(limiter().buckets.capacity(), 0);
        assert_eq!(size_of::<Bucket>(), 16);
    }

    fn ip_bits(text: &str) -> u128 {
        text.parse::<Ipv6Addr>().unwrap().to_bits()
    }

    proptest! {
        #[test]
        fn a_source_is_treated_as_by_a_bucket_of_five_tokens(
            gaps in proptest::collection::vec(0_u64..120, 1..200),
        ) {
            let mut limiter = limiter();
            let mut now = 0;
            // The model counts in fiftieths of a token, one for each millisecond.
            let mut tokens = 250;
            for gap in gaps {
                now += gap;
                tokens = (tokens + gap).min(250);
                let expected = tokens >= 50;
                if expected {
                    tokens -= 50;
                }
                prop_assert_eq!(limiter.allow(at_millis(now), v4(7)), expected);
            }
        }
    }
}
