//! The rate limiter against token buckets that are kept one by one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use adit::{Instant, RateLimiter};
use arbitrary::{Result, Unstructured};

/// Twenty a second, in bursts of at most five.
const INTERVAL: u64 = 50_000_000;
const BURST: u64 = 5;

/// A table of some size under some traffic.
pub fn run(input: &[u8]) {
    let _ = Traffic::begin(&mut Unstructured::new(input));
}

struct Traffic {
    limiter: RateLimiter,
    /// Whether the table is so large that no source finds it full.
    has_room: bool,
    /// The source's tokens, in nanoseconds of refilling, and when it had them.
    buckets: BTreeMap<u128, (u64, u64)>,
}

impl Traffic {
    fn begin(input: &mut Unstructured<'_>) -> Result<()> {
        let size: u8 = input.arbitrary()?;
        let has_room = size >= 128;
        let entries = if has_room { RateLimiter::DEFAULT_ENTRIES } else { usize::from(size) };
        let limiter = RateLimiter::new(entries, [u64::from(size), input.arbitrary()?]);
        let mut traffic = Self { limiter, has_room, buckets: BTreeMap::new() };
        let mut now = Instant::from_nanos(input.arbitrary::<u32>()?.into());
        while !input.is_empty() {
            let step: u8 = input.arbitrary()?;
            now = now.max(now + wait(step, input)?);
            let source = source(input)?;
            for _ in 0..=step >> 5 {
                traffic.packet(now, source);
            }
        }
        Ok(())
    }

    fn packet(&mut self, now: Instant, source: IpAddr) {
        let nanos = now.as_nanos();
        let (tokens, then) = self.buckets.get(&network(source)).copied().unwrap_or((BURST * INTERVAL, nanos));
        let tokens = tokens.saturating_add(nanos - then).min(BURST * INTERVAL);
        let is_due = tokens >= INTERVAL;
        // At the very end of the clock buckets are seen as full earlier.
        let is_end = nanos > u64::MAX - 10 * BURST * INTERVAL;
        let is_allowed = self.limiter.allow(now, source);
        assert!(is_due || is_end || !is_allowed, "{source} has no token left");
        assert!(is_allowed || is_end || !is_due || !self.has_room, "{source} has a token");
        if is_allowed {
            self.buckets.insert(network(source), (tokens.saturating_sub(INTERVAL), nanos));
        }
    }
}

fn wait(step: u8, input: &mut Unstructured<'_>) -> Result<Duration> {
    Ok(match step & 7 {
        0..=2 => Duration::ZERO,
        3 => Duration::from_nanos(input.arbitrary::<u8>()?.into()),
        4 => Duration::from_millis(input.arbitrary::<u8>()?.into()),
        // About whole tokens.
        5 => {
            let offset = u64::from(input.arbitrary::<u8>()?);
            Duration::from_nanos((INTERVAL * u64::from(step >> 3 & 7) + offset).saturating_sub(128))
        }
        6 => Duration::from_millis(input.arbitrary::<u16>()?.into()),
        _ => Duration::from_nanos(input.arbitrary()?),
    })
}

fn source(input: &mut Unstructured<'_>) -> Result<IpAddr> {
    let number: u8 = input.arbitrary()?;
    let v4 = Ipv4Addr::from_bits(u32::from(number >> 2));
    Ok(match number & 3 {
        0 => v4.into(),
        1 => v4.to_ipv6_mapped().into(),
        2 => Ipv6Addr::from_bits(u128::from(number >> 2) << 64 | u128::from(input.arbitrary::<u8>()?)).into(),
        // No multicast addresses: they stand for IPv4 in the table, and nothing comes from them.
        _ => Ipv6Addr::from_bits(input.arbitrary::<u128>()? >> 1).into(),
    })
}

/// What counts as one source: an IPv4 address, or the upper half of an IPv6 address.
fn network(source: IpAddr) -> u128 {
    match source {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}
