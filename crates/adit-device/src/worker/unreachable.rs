//! Telling whoever sends packets that no peer takes.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use adit::Sealed;

use super::Worker;
use crate::icmp;
use crate::offload::VnetHeader;

/// How many messages a worker sends in a second at most: whoever scans a network that is not there needs no more.
const MOST: u32 = 100;
const SECOND: Duration = Duration::from_secs(1);

/// How many messages may still be sent.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, since: now }
    }

    /// Whether one message more may be sent, which then counts.
    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= SECOND {
            *self = Self::new(now);
        }
        let may_be_sent = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may_be_sent
    }
}

impl Worker {
    /// Answers packets that no peer takes, as long as there have not been too many: of those of a flow that come one
    /// upon the other, which may have been read as one, only the first.
    pub(super) fn tell_unreachable(&mut self, sealed: &Sealed) {
        let mut last = None;
        for place in sealed.unreachable() {
            let packet = self.outbound.get(place).unwrap_or_default();
            let flow = icmp::flow(packet);
            if flow.is_some() && std::mem::replace(&mut last, flow) == flow {
                continue;
            }
            let Some(message) = icmp::unreachable(packet) else { continue };
            if !self.allowance.take(Instant::now()) {
                return;
            }
            let header = VnetHeader::default().to_bytes();
            let slices = [IoSlice::new(&header), IoSlice::new(&message)];
            let slices = if self.shared.vnet_header { &slices[..] } else { &slices[1..] };
            let tun = self.aside.as_deref().or(self.tun.as_ref());
            if let Some(Err(error)) = tun.map(|tun| tun.write_vectored(slices)) {
                tracing::debug!(%error, "the TUN device did not take a message that a host is unreachable");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_hundred_are_told_in_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let mut told = |milliseconds| {
            let now = start + Duration::from_millis(milliseconds);
            (0..1_000).filter(|_| allowance.take(now)).count()
        };
        assert_eq!([told(0), told(999), told(1_000), told(1_999), told(60_000)], [100, 0, 100, 0, 100]);
    }
}
