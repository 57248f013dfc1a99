//! Whose turn it is to be sent a cookie, while more strangers ask for one than can be answered.
//!
//! A flood with a right mac1 from forged addresses may ask for more cookies than can be sent, and nothing tells a new peer
//! from it. Left to chance, the same peer may be passed over again and again. So addresses take turns, and half of the
//! room for answers is kept for those whose turn it is. A peer tries again after `REKEY_TIMEOUT`, and its turn comes
//! within that time: as long as half of all can be answered, nobody is passed over twice.

use core::hash::Hasher as _;
use core::net::IpAddr;
use core::time::Duration;

use siphasher::sip::SipHasher13;

use crate::limits::{REKEY_JITTER, REKEY_TIMEOUT};
use crate::time::Instant;

/// By how much earlier or later than meant an attempt may arrive.
const SLACK: Duration = Duration::from_millis(100);
/// A turn that the attempt after one that came too early cannot miss,
const ON: u64 = nanos(REKEY_TIMEOUT) + nanos(REKEY_JITTER) + nanos(SLACK);
/// and a pause that no two attempts fall into.
const OFF: u64 = nanos(REKEY_TIMEOUT) - nanos(SLACK);
const PERIOD: u64 = ON + OFF;

const fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Gives each address its turns, by a secret: nobody can choose addresses whose turns fall together.
#[derive(Clone, Copy)]
pub(crate) struct Turns {
    seed: [u64; 2],
}

impl Turns {
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// Whether it is the turn of this address.
    pub(crate) fn is_on(self, now: Instant, source: IpAddr) -> bool {
        let [key0, key1] = self.seed;
        let mut hasher = SipHasher13::new_with_keys(key0, key1);
        match source.to_canonical() {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        (now.as_nanos() % PERIOD + hasher.finish() % PERIOD) % PERIOD < ON
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::Turns;
    use crate::time::Instant;

    const TURNS: Turns = Turns { seed: [1, 2] };

    fn at_millis(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x6440_0000 + number))
    }

    #[test]
    fn of_two_attempts_in_a_row_one_falls_into_the_addresss_turn() {
        for number in 0..1_000 {
            let first = 1_000_000_007 + u64::from(number) * 97;
            for (start, gap) in (0..11_000).step_by(100).zip((5_000..5_334).cycle()) {
                let [first, second] = [first + start, first + start + gap].map(at_millis);
                let source = address(number);
                assert!(TURNS.is_on(first, source) || TURNS.is_on(second, source), "{source}, {gap} ms");
            }
        }
    }

    #[test]
    fn about_half_of_all_addresses_have_their_turn_at_any_moment() {
        for moment in (0..60_000).step_by(777) {
            let on = (0..10_000).filter(|&number| TURNS.is_on(at_millis(moment), address(number))).count();
            assert!((5_000..5_500).contains(&on), "{on} of 10,000");
        }
    }

    #[test]
    fn an_ipv4_address_has_the_same_turn_however_it_is_written_and_another_seed_gives_other_turns() {
        let turns = |turns: Turns, source: IpAddr| {
            (0..20).map(|second| turns.is_on(at_millis(1_000 * second), source)).collect::<Vec<_>>()
        };
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(turns(TURNS, v4.into()), turns(TURNS, v4.to_ipv6_mapped().into()));
        let other = Turns::new([1, 3]);
        assert!((0..20).any(|number| turns(TURNS, address(number)) != turns(other, address(number))));
        let v6 = |host: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + host));
        assert!((0..20).any(|host| turns(TURNS, v6(host)) != turns(TURNS, v6(0))), "each address of a network");
    }
}
