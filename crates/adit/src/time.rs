//! Time as the engine sees it: given by the caller, never asked for.

use core::fmt;
use core::ops::{Add, AddAssign};
use core::time::Duration;

/// A moment on the caller's monotonic clock: nanoseconds since a start that only the caller knows.
///
/// The clock should go on while the machine sleeps, since keys must age then too: `CLOCK_BOOTTIME` on Linux,
/// `CLOCK_MONOTONIC_RAW` on macOS and iOS. On both `std::time::Instant` stands still meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The end of the clock, some 584 years after its start. It never comes: nothing is due then.
    pub(crate) const END: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whether at least `age` has gone by since this moment.
    pub fn is_older_than(self, age: Duration, now: Self) -> bool {
        now.saturating_since(self) >= age
    }

    /// Whether this moment is less than `span` away from `now`, before or after it. For limits to how often something
    /// is done: that the clock was set back is no reason to do it no more.
    pub(crate) fn is_within(self, span: Duration, now: Self) -> bool {
        Duration::from_nanos(self.0.abs_diff(now.0)) < span
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Stops at the end of the clock instead of wrapping.
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

/// A TAI64N label: the timestamp of a handshake initiation (paper, §5.4.2).
///
/// Only its order matters to the protocol: the bytes compare as the moments do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tai64n([u8; 12]);

impl Tai64n {
    /// The label of a time since the Unix epoch, rounded down to about 17 ms so that it does not
    /// tell a precise clock to the network.
    pub fn from_unix(time: Duration) -> Self {
        // 10 s is how far TAI stood ahead of UTC at the epoch, as TAI64 labels count it.
        const TAI64_EPOCH: u64 = (1 << 62) + 10;
        const WHITENING: u32 = (1 << 24) - 1;
        let mut label = [0; 12];
        let (seconds, nanos) = label.split_at_mut(8);
        seconds.copy_from_slice(&TAI64_EPOCH.wrapping_add(time.as_secs()).to_be_bytes());
        nanos.copy_from_slice(&(time.subsec_nanos() & !WHITENING).to_be_bytes());
        Self(label)
    }

    /// The label in its wire form.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// A label from its wire form; any twelve bytes are one.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The smallest label after this one.
    pub fn successor(self) -> Self {
        let mut next = self.0;
        for byte in next.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
        Self(next)
    }
}

impl fmt::Debug for Tai64n {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tai64n(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_count_from_the_tai64_epoch_in_big_endian() {
        let label = Tai64n::from_unix(Duration::new(1, 1 << 24));
        assert_eq!(label.0, [0x40, 0, 0, 0, 0, 0, 0, 11, 1, 0, 0, 0]);
    }

    #[test]
    fn labels_do_not_tell_a_precise_clock() {
        let a = Tai64n::from_unix(Duration::new(5, 100));
        let b = Tai64n::from_unix(Duration::new(5, 16_000_000));
        assert_eq!(a, b);
    }

    #[test]
    fn a_successor_is_later_also_across_a_carry() {
        let label = Tai64n([0x40, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(label.successor().0, [0x40, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert!(label.successor() > label);
    }
}
