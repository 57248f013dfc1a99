//! Where a datagram came from, or goes to, and the congestion bits it carried.

use core::net::{IpAddr, SocketAddr};

use crate::ip;

/// The way between this host and a peer's UDP address.
///
/// For a received datagram: who sent it, and which address and interface it reached. For one to be
/// sent: the peer's endpoint, and the source the peer last reached, from which answers should
/// leave ("sticky source").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// The other end's address and port.
    pub remote: SocketAddr,
    /// This host's address; `None` leaves the choice to the routing table.
    pub local: Option<IpAddr>,
    /// The index of this host's interface; 0 if it is not known.
    pub ifindex: u32,
}

impl Path {
    /// A path to `remote` from wherever the routing table says.
    pub const fn to(remote: SocketAddr) -> Self {
        Self { remote, local: None, ifindex: 0 }
    }

    /// Whether this is the way to `remote`, which may be written as IPv4 here and as IPv4 within IPv6 there.
    pub(crate) fn leads_to(&self, remote: SocketAddr) -> bool {
        let place = |address: SocketAddr| match address.ip().to_canonical() {
            IpAddr::V4(v4) => (v4, address.port()).into(),
            IpAddr::V6(_) => address,
        };
        place(self.remote) == place(remote)
    }

    /// Whether both name the same address and interface of this host.
    pub(crate) fn has_source_of(&self, other: &Self) -> bool {
        (self.local, self.ifindex) == (other.local, other.ifindex)
    }

    /// The same endpoint with the source forgotten.
    pub(crate) fn without_source(self) -> Self {
        Self::to(self.remote)
    }
}

/// Explicit Congestion Notification: the lowest two bits of the type-of-service byte (RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ecn {
    /// The sender's transport does not understand ECN.
    #[default]
    NotEct = 0,
    /// ECN-capable, code point ECT(1).
    Ect1 = 1,
    /// ECN-capable, code point ECT(0).
    Ect0 = 2,
    /// Congestion was experienced on the way.
    Ce = 3,
}

impl Ecn {
    /// The code point in the lowest two bits of `bits`.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The code point as the lowest two bits of a type-of-service byte.
    pub const fn bits(self) -> u8 {
        self as u8
    }

    /// Marks an IP packet as having met congestion, in place of dropping it (RFC 3168 §5). Returns whether it is marked
    /// now: if its transport does not understand ECN, or it is no IP packet, nothing is changed, and it is to be
    /// dropped.
    pub fn mark(packet: &mut [u8]) -> bool {
        if ip::ecn(packet) != Self::NotEct {
            ip::set_ecn(packet, Self::Ce);
        }
        ip::ecn(packet) == Self::Ce
    }

    /// The code point of a packet that leaves the tunnel (RFC 6040 §4.2), or `None` when it must
    /// be dropped: congestion was signalled to a flow that cannot hear it.
    pub const fn decapsulate(inner: Self, outer: Self) -> Option<Self> {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) => Some(Self::Ect1),
            (inner, _) => Some(inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_packet_whose_transport_understands_it_is_marked() {
        use Ecn::*;
        // Whether each is marked, and its code point then.
        for (before, after) in [(NotEct, (false, NotEct)), (Ect0, (true, Ce)), (Ect1, (true, Ce)), (Ce, (true, Ce))] {
            for first in [0x45, 0x60] {
                let mut packet = [first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                ip::set_ecn(&mut packet, before);
                assert_eq!((Ecn::mark(&mut packet), ip::ecn(&packet)), after, "{before:?}");
            }
        }
        // No packets: too short, and of another version.
        for nothing in [&[][..], &[0x45, 1], &[0xf5; 40]] {
            let mut packet = nothing.to_vec();
            assert!(!Ecn::mark(&mut packet));
            assert_eq!(packet, nothing);
        }
    }

    #[test]
    fn decapsulation_follows_the_table_of_rfc_6040() {
        use Ecn::*;
        // Rows: inner NotEct, Ect0, Ect1, Ce. Columns: outer NotEct, Ect0, Ect1, Ce.
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(Ecn::decapsulate(inner, outer), expected, "{inner:?} in {outer:?}");
            }
        }
    }
}
