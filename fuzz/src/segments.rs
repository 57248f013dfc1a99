//! TCP and UDP packets, finished or left for the kernel's offloads to finish.

use adit_device::offload::{NEEDS_CSUM, Split, VnetHeader};
use arbitrary::{Arbitrary, Result, Unstructured};

use crate::packet::{addresses, checksum, fold, sum, trimmed};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// What a packet says.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) is_v6: bool,
    pub(crate) is_udp: bool,
    pub(crate) host: u8,
    pub(crate) port: u8,
    pub(crate) tos: u8,
    pub(crate) id: u16,
    /// "Don't fragment".
    pub(crate) is_atomic: bool,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    /// In words of four bytes.
    pub(crate) options: u8,
    pub(crate) payload: Vec<u8>,
}

impl<'a> Arbitrary<'a> for Spec {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let shape: u8 = input.arbitrary()?;
        let flow: u8 = input.arbitrary()?;
        let len: u16 = input.arbitrary()?;
        let fill: u8 = input.arbitrary()?;
        let flags = if shape & 0x08 == 0 { ACK } else { input.arbitrary()? };
        let (id, sequence) = if shape & 0x10 == 0 { (1, 1) } else { (input.arbitrary()?, input.arbitrary()?) };
        // Mostly short ones: the arithmetic is the same.
        let len = if shape & 0x20 == 0 { len % 300 } else { len };
        Ok(Self {
            is_v6: shape & 1 != 0,
            is_udp: shape & 2 != 0,
            is_atomic: shape & 4 != 0,
            host: flow & 1,
            port: flow >> 1 & 1,
            tos: flow >> 4 & 3,
            id,
            sequence,
            flags,
            options: if shape & 0xc0 == 0xc0 { 3 } else { 0 },
            payload: (0..len).map(|place| (place as u8).wrapping_mul(fill)).collect(),
        })
    }
}

impl Spec {
    pub(crate) fn l4(&self) -> usize {
        if self.is_v6 { 40 } else { 20 }
    }

    pub(crate) fn headers(&self) -> usize {
        self.l4() + if self.is_udp { 8 } else { 20 + usize::from(self.options) * 4 }
    }

    /// The longest payload that a packet of this kind can have.
    pub(crate) fn most(&self) -> usize {
        65_535 - self.headers() + if self.is_v6 { 40 } else { 0 }
    }

    /// The finished packet.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut packet = self.build_partial();
        let mut checksum = checksum(&packet[self.l4()..]);
        if self.is_udp && checksum == 0 {
            checksum = 0xffff;
        }
        let at = checksum_at(self.l4(), self.is_udp);
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The packet with the sum of the pseudo-header where its checksum belongs.
    pub(crate) fn build_partial(&self) -> Vec<u8> {
        let payload = &self.payload[..self.payload.len().min(self.most())];
        let transport_len = self.headers() - self.l4() + payload.len();
        let mut packet = Vec::with_capacity(self.l4() + transport_len);
        if self.is_v6 {
            packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0, 7]);
            packet.extend((transport_len as u16).to_be_bytes());
            packet.extend([self.protocol(), 64]);
            for host in [9, self.host] {
                packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
        } else {
            packet.extend([0x45, self.tos]);
            packet.extend(((20 + transport_len) as u16).to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([if self.is_atomic { 0x40 } else { 0 }, 0, 64, self.protocol(), 0, 0]);
            packet.extend([10, 1, 2, 3, 10, 9, 8, self.host]);
            let checksum = checksum(&packet).to_be_bytes();
            packet[10..12].copy_from_slice(&checksum);
        }
        packet.extend([0x11, 0x22, 0x33, self.port]);
        let pseudo = pseudo_header(&packet, self.protocol(), transport_len).to_be_bytes();
        if self.is_udp {
            packet.extend((transport_len as u16).to_be_bytes());
            packet.extend(pseudo);
        } else {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend([0, 0, 0, 77, (5 + self.options) << 4, self.flags, 2, 0]);
            packet.extend(pseudo);
            packet.extend([0, 0]);
            packet.extend((0..self.options * 4).map(|byte| byte | 1));
        }
        packet.extend(payload);
        packet
    }

    /// How the kernel says that this is a run of segments of `size` bytes.
    pub(crate) fn vnet(&self, size: u16) -> VnetHeader {
        VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: match (self.is_udp, self.is_v6) {
                (true, _) => 5,
                (false, false) => 1,
                (false, true) => 4,
            },
            hdr_len: self.headers() as u16,
            gso_size: size,
            csum_start: self.l4() as u16,
            csum_offset: if self.is_udp { 6 } else { 16 },
        }
    }

    /// What a sender without offloads sends instead.
    pub(crate) fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let payload = &self.payload[..self.payload.len().min(self.most())];
        let count = payload.len().div_ceil(size).max(1);
        let segment = |index: usize| {
            let mut flags = self.flags;
            if index + 1 < count {
                flags &= !(FIN | PSH);
            }
            if index > 0 {
                flags &= !CWR;
            }
            let segment = Self {
                flags,
                payload: payload.chunks(size).nth(index).unwrap_or_default().to_vec(),
                id: self.id.wrapping_add(index as u16),
                sequence: self.sequence.wrapping_add((index * size) as u32),
                ..self.clone()
            };
            segment.build()
        };
        (0..count).map(segment).collect()
    }

    fn protocol(&self) -> u8 {
        if self.is_udp { UDP } else { TCP }
    }
}

/// Which packets must not change places: those between the same hosts, unless both tell their ports and these differ.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flow<'a> {
    addresses: &'a [u8],
    ports: Option<(u8, &'a [u8])>,
}

impl<'a> Flow<'a> {
    /// `None` for what has no addresses.
    pub(crate) fn of(packet: &'a [u8]) -> Option<Self> {
        let (addresses, plain, protocol, l4) = match packet.first()? >> 4 {
            4 => (packet.get(12..20)?, packet[0] == 0x45 && packet[6] & 0x3f == 0 && packet[7] == 0, packet[9], 20),
            6 => (packet.get(8..40)?, true, packet[6], 40),
            _ => return None,
        };
        let ports = packet.get(l4..l4 + 4).filter(|_| plain && [TCP, UDP].contains(&protocol));
        Some(Self { addresses, ports: ports.map(|ports| (protocol, ports)) })
    }

    pub(crate) fn keeps_order_with(&self, other: &Self) -> bool {
        let differ = self.ports.zip(other.ports).is_some_and(|(a, b)| a != b);
        self.addresses == other.addresses && !differ
    }
}

/// Whether lengths and checksums are those of a finished packet with plain headers.
pub(crate) fn is_sound(packet: &[u8]) -> bool {
    if trimmed(packet).map(<[u8]>::len) != Some(packet.len()) {
        return false;
    }
    let (l4, protocol) = if packet[0] >> 4 == 4 { (20, packet[9]) } else { (40, packet[6]) };
    if l4 == 20 && (packet[0] != 0x45 || checksum(&packet[..20]) != 0) {
        return false;
    }
    let pseudo = pseudo_header(packet, protocol, packet.len() - l4);
    fold(u32::from(pseudo) + sum(&packet[l4..])) == 0xffff
}

/// All packets of a split, each written into room of just its length.
pub(crate) fn cut(vnet: &VnetHeader, packet: &mut [u8]) -> Option<Vec<Vec<u8>>> {
    let split = Split::new(vnet, packet).ok()?;
    assert!(split.count() >= 1 && !split.is_empty());
    let packets = (0..split.count()).map(|index| {
        let mut out = vec![0xee; split.len(index)];
        if let Some(short) = out.len().checked_sub(1) {
            assert_eq!(split.write(index, &mut out[..short]), None, "no room");
        }
        assert_eq!(split.write(index, &mut out), Some(out.len()));
        out
    });
    let packets = packets.collect();
    assert_eq!((split.len(split.count()), split.write(split.count(), &mut [0; 64])), (0, None), "one too many");
    Some(packets)
}

fn pseudo_header(packet: &[u8], protocol: u8, transport_len: usize) -> u16 {
    let (source, destination) = addresses(packet);
    let octets = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => sum(&address.octets()),
        std::net::IpAddr::V6(address) => sum(&address.octets()),
    };
    fold(octets(source) + octets(destination) + u32::from(protocol) + transport_len as u32)
}

fn checksum_at(l4: usize, is_udp: bool) -> usize {
    l4 + if is_udp { 6 } else { 16 }
}
