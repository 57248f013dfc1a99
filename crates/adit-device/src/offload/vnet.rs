//! The header that the kernel puts before every packet of a TUN device with `IFF_VNET_HDR`.

/// The packet's checksum is partial: it must be completed from [`VnetHeader::csum_start`] on.
pub const NEEDS_CSUM: u8 = 1;

/// Whether a packet consists of several segments, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gso {
    /// One packet.
    None,
    /// TCP segments in IPv4.
    Tcp4,
    /// TCP segments in IPv6.
    Tcp6,
    /// UDP datagrams, each with a header of its own, in IPv4 or IPv6.
    Udp,
}

impl Gso {
    const ECN: u8 = 0x80;

    /// Reads the kernel's number, ignoring the mark that says that the first segment carries CWR, which the segment
    /// itself says as well. `None` for a kind that is not known here, UDP fragmentation for one.
    pub fn from_bits(bits: u8) -> Option<Gso> {
        match bits & !Self::ECN {
            0 => Some(Gso::None),
            1 => Some(Gso::Tcp4),
            4 => Some(Gso::Tcp6),
            5 => Some(Gso::Udp),
            _ => None,
        }
    }

    /// The kernel's number.
    pub fn bits(self) -> u8 {
        match self {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        }
    }
}

/// `struct virtio_net_hdr`: how to finish the packet that follows. All zeros says that it is finished.
///
/// The fields are as the kernel gave them: nothing is checked until a [`Split`](super::Split) is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] and flags that are of no use here.
    pub flags: u8,
    /// A [`Gso`], as the kernel numbers it.
    pub gso_type: u8,
    /// Length of all headers, a hint only.
    pub hdr_len: u16,
    /// Length of each segment's payload but the last's.
    pub gso_size: u16,
    /// Where the bytes begin over which the checksum is computed.
    pub csum_start: u16,
    /// Where the checksum is, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 10;

    /// Reads a header. The fields are in the machine's byte order, as a TUN device has them.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> VnetHeader {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = *bytes;
        VnetHeader {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([a, b]),
            gso_size: u16::from_ne_bytes([c, d]),
            csum_start: u16::from_ne_bytes([e, f]),
            csum_offset: u16::from_ne_bytes([g, h]),
        }
    }

    /// Writes the header in the machine's byte order.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [a, b] = self.hdr_len.to_ne_bytes();
        let [c, d] = self.gso_size.to_ne_bytes();
        let [e, f] = self.csum_start.to_ne_bytes();
        let [g, h] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }

    /// Whether several segments follow in one packet, of whatever kind.
    pub fn is_segmented(&self) -> bool {
        self.gso_type & !Gso::ECN != 0
    }

    /// Whether the checksum of the packet that follows is partial.
    pub fn needs_checksum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_kernel_s_structure() {
        let header = VnetHeader {
            flags: 1,
            gso_type: 4,
            hdr_len: 0x1122,
            gso_size: 0x3344,
            csum_start: 0x5566,
            csum_offset: 0x7788,
        };
        let mut expected = vec![1, 4];
        for field in [0x1122u16, 0x3344, 0x5566, 0x7788] {
            expected.extend(field.to_ne_bytes());
        }
        assert_eq!(header.to_bytes().as_slice(), expected);
        assert_eq!(VnetHeader::from_bytes(&header.to_bytes()), header);
    }

    #[test]
    fn a_kind_of_segmentation_keeps_its_number_and_an_unknown_one_is_none() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            assert_eq!(Gso::from_bits(gso.bits()), Some(gso));
            assert_eq!(Gso::from_bits(gso.bits() | 0x80), Some(gso), "with the ECN mark");
        }
        for unknown in [2, 3, 6, 0x7f] {
            assert_eq!(Gso::from_bits(unknown), None);
        }
    }
}
