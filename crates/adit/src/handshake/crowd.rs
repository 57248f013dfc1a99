//! Which networks ask for few cookies, while others ask for more than can be sent.
//!
//! Most floods come from some networks more than from others: from the hosts that an attacker has got hold of, or from
//! the addresses that its provider lets it forge. Whoever asks from a network that asks far less than the average is
//! then answered first, and need not wait for its turn (`turns`). Networks are counted in two sizes (/16 and /24 of
//! IPv4, /32 and /48 of IPv6), and a quiet one of either size is enough: the larger show that a flood comes from few
//! providers, the smaller that it comes from few hosts of many. If all networks ask alike, none is quiet, and all
//! addresses take turns.
//!
//! The table has few places, and networks that share one are counted together there. So each network has two, of which
//! the lower count is right, or nearer to it. All quiet networks together ask for at most an eighth of what is asked
//! for (a thirty-second in each of the four rows of places). So while more than that is answered, even addresses that
//! were chosen to look quiet leave turns to the others.

use alloc::vec::Vec;
use core::hash::Hasher as _;
use core::net::IpAddr;
use core::time::Duration;

use siphasher::sip::SipHasher13;

use crate::time::Instant;

/// Rows of places: two for each size of networks.
const ROWS: usize = 4;
/// A network is quiet if it asks for less than the average by this factor.
const QUIET: u32 = 32;
/// The time after which what has been counted counts half.
const MEMORY: Duration = Duration::from_secs(4);

/// How often networks have asked for a cookie of late.
pub(crate) struct Crowd {
    seed: [u64; 2],
    /// Places in a row.
    places: u32,
    /// For each place, the counts of all rows; empty before anybody has asked.
    counts: Vec<[u16; ROWS]>,
    total: u32,
    halved: Instant,
}

impl Crowd {
    /// A table of at most 2 bytes for each of `max_entries`, which takes no memory before anybody has asked. The seed
    /// must be random and secret: nobody is to choose networks that share a place with others.
    pub(crate) fn new(max_entries: usize, seed: [u64; 2]) -> Self {
        let places = u32::try_from(max_entries / ROWS).unwrap_or(u32::MAX).max(1);
        Self { seed, places, counts: Vec::new(), total: 0, halved: Instant::default() }
    }

    /// Whether this address is in a network that asks for far less than the average.
    pub(crate) fn is_quiet(&self, source: IpAddr) -> bool {
        let few = self.total / self.places / QUIET;
        let places = self.places_of(source).into_iter().enumerate();
        let mut counts = places.filter_map(|(row, place)| self.counts.get(place as usize)?.get(row));
        counts.any(|&count| u32::from(count) < few)
    }

    /// Takes note that this address asks.
    pub(crate) fn note(&mut self, now: Instant, source: IpAddr) {
        let times = now.saturating_since(self.halved).as_secs() / MEMORY.as_secs();
        if times > 0 {
            self.halved = now;
            let times = times.min(32) as u32;
            self.total = self.total.checked_shr(times).unwrap_or(0);
            for count in self.counts.iter_mut().flatten() {
                *count = count.checked_shr(times).unwrap_or(0);
            }
        }
        if self.counts.is_empty() {
            self.counts = alloc::vec![[0; ROWS]; self.places as usize];
        }
        self.total = self.total.saturating_add(1);
        for (row, place) in self.places_of(source).into_iter().enumerate() {
            if let Some(count) = self.counts.get_mut(place as usize).and_then(|counts| counts.get_mut(row)) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// The place in each row of the networks that this address is in.
    fn places_of(&self, source: IpAddr) -> [u32; ROWS] {
        let [large, small] = match source.to_canonical() {
            IpAddr::V4(address) => [address.to_bits() >> 16, address.to_bits() >> 8].map(u64::from),
            IpAddr::V6(address) => [address.to_bits() >> 96, address.to_bits() >> 80].map(|prefix| prefix as u64),
        };
        let [key0, key1] = self.seed;
        let hash = |prefix| {
            let mut hasher = SipHasher13::new_with_keys(key0, key1);
            hasher.write_u64(prefix);
            hasher.finish()
        };
        let (large, small) = (hash(large), hash(small));
        [large, large >> 32, small, small >> 32].map(|hash| hash as u32 % self.places)
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const PLACES: u32 = 2_048;
    /// Asks made in the tests: the average place has seen 64 of them.
    const ASKS: u32 = 64 * PLACES;
    const NEWCOMER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

    /// A crowd in which as many addresses have asked at once.
    fn crowd(address: impl Fn(u32) -> IpAddr) -> Crowd {
        let mut crowd = Crowd::new(8_192, [1, 2]);
        for number in 0..ASKS {
            crowd.note(Instant::default(), address(number));
        }
        crowd
    }

    fn v4(bits: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(bits))
    }

    fn v6(bits: u128) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }

    /// Spreads numbers over all 32 bits.
    fn anywhere(number: u32) -> u32 {
        number.wrapping_mul(0x9e37_79b1)
    }

    #[test]
    fn a_flood_of_forged_addresses_of_one_provider_leaves_the_networks_of_others_quiet() {
        let crowd = crowd(|number| v4(0x6440_0000 + anywhere(number) % (1 << 22)));
        assert!((0..1_000).all(|number| crowd.is_quiet(v4(number << 16))), "few share both places with a loud one");
        assert!((0..64).all(|number| !crowd.is_quiet(v4(0x6440_0000 + (number << 16)))));
    }

    #[test]
    fn a_flood_from_a_few_hundred_hosts_all_over_the_world_leaves_those_beside_them_quiet() {
        let host = |number: u32| v4(anywhere(number % 300));
        let crowd = crowd(host);
        // In the same large network as one of them, each in another small one.
        let neighbour = |number| v4(anywhere(number) ^ 0x100);
        assert!((0..300).filter(|&number| crowd.is_quiet(neighbour(number))).count() > 285);
        assert!((0..300).all(|number| !crowd.is_quiet(host(number))));
    }

    #[test]
    fn when_all_networks_ask_alike_none_is_quiet() {
        let crowd = crowd(|number| v4(anywhere(number)));
        assert!((0..1_000).all(|number| !crowd.is_quiet(v4(anywhere(number + ASKS)))));
    }

    #[test]
    fn networks_of_ipv6_are_told_apart_by_provider_and_by_customer() {
        let provider = |number: u32| u128::from(0x2001_0000 + number) << 96;
        let customer = |number: u32| u128::from(number % 0x1_0000) << 80;
        let of_all_customers = crowd(|number| v6(provider(1) + customer(number)));
        assert!(of_all_customers.is_quiet(v6(provider(9) + customer(7))), "another provider");
        assert!(!of_all_customers.is_quiet(v6(provider(1) + customer(7))));
        // Each address is another one.
        let of_one_customer = crowd(|number| v6(provider(1) + customer(7) + u128::from(number)));
        assert!(of_one_customer.is_quiet(v6(provider(1) + customer(8))), "another customer");
        assert!(!of_one_customer.is_quiet(v6(provider(1) + customer(7) + (1 << 79))), "another network of the same");
    }

    #[test]
    fn nobody_is_quiet_before_much_was_asked_for() {
        let mut crowd = Crowd::new(8_192, [1, 2]);
        assert!(!crowd.is_quiet(NEWCOMER));
        let loud = v4(0x6440_0000);
        for _ in 0..QUIET * PLACES - 1 {
            crowd.note(Instant::default(), loud);
        }
        assert!(!crowd.is_quiet(NEWCOMER));
        crowd.note(Instant::default(), loud);
        assert!(crowd.is_quiet(NEWCOMER));
    }

    #[test]
    fn what_was_asked_for_long_ago_counts_no_more() {
        let asks_again = |after: Duration| {
            let mut crowd = Crowd::new(8_192, [1, 2]);
            for _ in 0..1_000 {
                crowd.note(Instant::default(), NEWCOMER);
            }
            crowd.note(Instant::default() + after, NEWCOMER);
            (crowd.total, crowd.counts.iter().flatten().map(|&count| u32::from(count)).sum::<u32>() / ROWS as u32)
        };
        assert_eq!(asks_again(MEMORY - Duration::from_nanos(1)), (1_001, 1_001));
        assert_eq!(asks_again(MEMORY), (501, 501));
        assert_eq!(asks_again(3 * MEMORY), (126, 126));
        assert_eq!(asks_again(1_000 * MEMORY), (1, 1));
    }

    #[test]
    fn counts_stop_at_their_end() {
        let crowd = crowd(|_| NEWCOMER);
        assert_eq!((crowd.total, crowd.is_quiet(NEWCOMER)), (ASKS, false));
    }

    #[test]
    fn an_ipv4_address_is_in_the_same_networks_however_it_is_written() {
        let crowd = crowd(|_| NEWCOMER);
        let IpAddr::V4(address) = NEWCOMER else { unreachable!() };
        assert!(!crowd.is_quiet(address.to_ipv6_mapped().into()));
    }
}
