//! Whose turn it is to be sent a cookie, while more strangers ask for one than can be answered.
//!
//! A flood with a right mac1 from forged addresses may ask for more cookies than can be sent, and a new peer cannot be
//! told from it. Left to chance, the same peer may be passed over again and again. So addresses take turns: each has a
//! place on a circle that rotates, and the less room there is for answers, the shorter the part of the circle, from its
//! beginning on, that is answered. A peer tries again every `REKEY_TIMEOUT`, in which time the circle rotates by the
//! golden section, so that the peer's attempts are spread all over the circle. If more than two in five can be
//! answered, each address has its turn within three attempts; if three in ten, within five; if one in five, within
//! eight. If fewer can be, some try for longer than the 90 s that one packet makes a peer try for. Whoever comes from a
//! network that asks for little need not wait for a turn (`crowd`).

use core::hash::Hasher as _;
use core::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::limits::{REKEY_JITTER, REKEY_TIMEOUT};
use crate::time::Instant;

/// The mean time between two attempts.
const GAP: u64 = (REKEY_TIMEOUT.as_nanos() + REKEY_JITTER.as_nanos() / 2) as u64;
/// The time in which the circle goes round once, in nanoseconds; the gap is 0.618 of it.
const PERIOD: u64 = GAP * 1_618 / 1_000;

/// Gives each address its turns, by a secret: nobody can choose addresses whose turns fall together.
#[derive(Clone, Copy)]
pub(crate) struct Turns {
    seed: [u64; 2],
}

impl Turns {
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// Whether it is the turn of this address, if `part` of `whole` addresses can have it.
    pub(crate) fn is_among(self, now: Instant, source: IpAddr, (part, whole): (usize, usize)) -> bool {
        let [key0, key1] = self.seed;
        let mut hasher = SipHasher13::new_with_keys(key0, key1);
        match source.to_canonical() {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        let place = (now.as_nanos() % PERIOD + hasher.finish() % PERIOD) % PERIOD;
        u128::from(place) * (whole as u128) < u128::from(PERIOD) * (part as u128)
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

    /// Whether each address has its turn in one of `attempts` in a row, whenever it begins.
    fn all_have_their_turn(attempts: usize, share: (usize, usize)) -> bool {
        // Each attempt follows the last after `REKEY_TIMEOUT` and some of the jitter.
        let mut jitters = (0..334).step_by(37).cycle();
        (0..2_000).all(|number| {
            let mut moment = 1_000_000_007 + u64::from(number) * 97;
            (0..attempts).any(|_| {
                let is_on = TURNS.is_among(at_millis(moment), address(number), share);
                moment += 5_000 + jitters.next().unwrap_or(0);
                is_on
            })
        })
    }

    #[test]
    fn the_more_can_be_answered_the_fewer_attempts_it_takes() {
        assert!(all_have_their_turn(1, (1, 1)));
        assert!(all_have_their_turn(2, (13, 20)));
        assert!(all_have_their_turn(3, (21, 50)));
        assert!(all_have_their_turn(5, (3, 10)));
        assert!(all_have_their_turn(8, (1, 5)));
    }

    #[test]
    fn as_many_addresses_have_their_turn_as_can_be_answered() {
        for (moment, part) in (0..60_000).step_by(777).zip((0..=20).cycle()) {
            let share = (part, 20);
            let on = (0..10_000).filter(|&number| TURNS.is_among(at_millis(moment), address(number), share)).count();
            assert!(on.abs_diff(part * 500) <= 250, "{on} of 10,000 for {part} of 20");
        }
    }

    #[test]
    fn an_ipv4_address_has_the_same_turn_however_it_is_written_and_another_seed_gives_other_turns() {
        let turns = |turns: Turns, source: IpAddr| {
            (0..20).map(|second| turns.is_among(at_millis(1_000 * second), source, (1, 2))).collect::<Vec<_>>()
        };
        let v4 = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(turns(TURNS, v4.into()), turns(TURNS, v4.to_ipv6_mapped().into()));
        let other = Turns::new([1, 3]);
        assert!((0..20).any(|number| turns(TURNS, address(number)) != turns(other, address(number))));
        let v6 = |host: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) + host));
        assert!((0..20).any(|host| turns(TURNS, v6(host)) != turns(TURNS, v6(0))), "each address of a network");
    }
}
