//! Packets of several segments, as a TUN device with offloads reads and writes them.
//!
//! [`Split`] cuts what was read into the packets that travel through the tunnel; [`Joiner`] puts packets that came out
//! of the tunnel together again, so that a run of them is written at once. Both are pure functions over slices: they
//! know no device, allocate nothing per packet, and take any bytes without panicking.

mod checksum;
mod join;
mod split;
#[cfg(test)]
pub(crate) mod testing;
mod vnet;

pub(crate) use checksum::Sum;
pub use join::{Joiner, Run, Runs};
pub use split::{Split, SplitError};
pub use vnet::{Gso, NEEDS_CSUM, VnetHeader};

/// The shortest headers.
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// The flag of TCP that wants the data delivered now.
const TCP_PSH: u8 = 0x08;

/// Which packets the kernel may be given, and may give, unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Packets with a partial checksum.
    pub checksum: bool,
    /// TCP segments in IPv4.
    pub tcp4: bool,
    /// TCP segments in IPv6.
    pub tcp6: bool,
    /// UDP datagrams in IPv4 and IPv6.
    pub udp: bool,
}

impl Offloads {
    /// Nothing: every packet is whole and finished.
    pub const NONE: Offloads = Offloads { checksum: false, tcp4: false, tcp6: false, udp: false };
    /// Everything.
    pub const ALL: Offloads = Offloads { checksum: true, tcp4: true, tcp6: true, udp: true };
}
