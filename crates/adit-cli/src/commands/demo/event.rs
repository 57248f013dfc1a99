//! What the demo's threads tell the one that waits for them.

use std::time::Duration;

use super::host::Side;
use super::units::gigabits;

/// Something that happened on another thread.
#[derive(Debug)]
pub(super) enum Event {
    /// The user has seen enough.
    Interrupted,
    /// The Adit of one host has ended.
    NodeEnded(Side),
    /// A ping was answered after some time, or not at all.
    Ping { rtt: Option<Duration>, loaded: bool },
    /// A flow has ended.
    Moved(Moved),
    /// Something that cannot be done without failed.
    Failed(anyhow::Error),
}

/// What has arrived, and in what time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Moved {
    /// Payload, as the receiving program read it.
    pub(super) bytes: u64,
    /// From the moment the connection stood to the last byte.
    pub(super) time: Duration,
}

impl Moved {
    /// In 10⁹ bit/s.
    pub(super) fn gigabits(self) -> f64 {
        gigabits(self.bytes, self.time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gigabits_are_of_payload_over_the_time_measured() {
        let moved = Moved { bytes: 1_000_000_000, time: Duration::from_secs(4) };
        assert_eq!(moved.gigabits(), 2.0);
        assert_eq!(Moved::default().gigabits(), 0.0);
    }
}
