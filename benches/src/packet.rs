use adit_device::offload::{Gso, NEEDS_CSUM, Split, VnetHeader};

/// An IPv4 packet of `len` bytes from 10.0.0.1 to 10.0.0.2, with UDP in it. The engine looks at no
/// checksum, so there is none.
///
/// # Panics
/// If `len` is too small for the headers, or too large for a packet.
pub fn udp_packet(len: usize) -> Vec<u8> {
    let mut packet = ip_header(Flow::Udp4, len);
    packet.extend([0x13, 0x88, 0x13, 0x89]);
    packet.extend(u16::try_from(len - 20).expect("a length of a packet").to_be_bytes());
    packet.extend([0, 0]);
    packet.resize(len, 0x5a);
    packet
}

/// What is split and joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// TCP with timestamps in IPv4.
    Tcp4,
    /// TCP with timestamps in IPv6.
    Tcp6,
    /// UDP in IPv4.
    Udp4,
    /// UDP in IPv6.
    Udp6,
}

impl Flow {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp4 => "TCP IPv4",
            Self::Tcp6 => "TCP IPv6",
            Self::Udp4 => "UDP IPv4",
            Self::Udp6 => "UDP IPv6",
        }
    }

    fn is_v6(self) -> bool {
        matches!(self, Self::Tcp6 | Self::Udp6)
    }

    fn is_udp(self) -> bool {
        matches!(self, Self::Udp4 | Self::Udp6)
    }

    /// Bytes of the IP header.
    fn ip_len(self) -> usize {
        if self.is_v6() { 40 } else { 20 }
    }

    /// Bytes of all headers.
    pub fn headers_len(self) -> usize {
        self.ip_len() + if self.is_udp() { 8 } else { 32 }
    }
}

/// Up to 64 KiB of one flow as a TUN device gives it: one packet of many segments.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// What stands before the packet.
    pub vnet: VnetHeader,
    /// The packet, its checksum partial.
    pub packet: Vec<u8>,
}

impl Unfinished {
    /// As many segments as fit into 64 KiB, each the longest packet that fits `mtu`.
    ///
    /// # Panics
    /// If `mtu` has no room for the headers.
    pub fn new(flow: Flow, mtu: u16) -> Self {
        let headers = flow.headers_len();
        let size = usize::from(mtu) - headers;
        let payload = (65_535 - headers) / size * size;
        let l4 = flow.ip_len();
        let mut packet = ip_header(flow, headers + payload);
        packet.extend([0x13, 0x88, 0x13, 0x89]);
        if flow.is_udp() {
            packet.extend(u16::try_from(8 + payload).expect("at most 64 KiB").to_be_bytes());
            packet.extend([0, 0]);
        } else {
            // Sequence number and acknowledgement; 32 bytes of header, ACK; window, checksum, urgent pointer;
            // timestamps.
            packet.extend([0, 1, 2, 3, 0, 4, 5, 6]);
            packet.extend([0x80, 0x10, 1, 0, 0, 0, 0, 0]);
            packet.extend([1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 8]);
        }
        packet.extend((0..payload).map(|at| (at * 7 + at / 251) as u8));

        let csum_offset = if flow.is_udp() { 6 } else { 16 };
        let addresses = &packet[if flow.is_v6() { 8 } else { 12 }..l4];
        let protocol = if flow.is_udp() { 17 } else { 6 };
        let words = addresses.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let mut sum = words.sum::<u32>() + protocol + u32::try_from(packet.len() - l4).expect("at most 64 KiB");
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        packet[l4 + csum_offset..][..2].copy_from_slice(&(sum as u16).to_be_bytes());
        let gso = match flow {
            Flow::Tcp4 => Gso::Tcp4,
            Flow::Tcp6 => Gso::Tcp6,
            Flow::Udp4 | Flow::Udp6 => Gso::Udp,
        };
        let vnet = VnetHeader {
            flags: NEEDS_CSUM,
            gso_type: gso.bits(),
            hdr_len: headers as u16,
            gso_size: size as u16,
            csum_start: l4 as u16,
            csum_offset: csum_offset as u16,
        };
        Self { vnet, packet }
    }

    /// Its segments, finished.
    ///
    /// # Panics
    /// If it was changed and cannot be split any more.
    pub fn segments(&self) -> Vec<Vec<u8>> {
        let mut packet = self.packet.clone();
        let split = Split::new(&self.vnet, &mut packet).expect("a sound packet");
        (0..split.count())
            .map(|index| {
                let mut segment = vec![0; split.len(index)];
                split.write(index, &mut segment).expect("room");
                segment
            })
            .collect()
    }
}

fn ip_header(flow: Flow, len: usize) -> Vec<u8> {
    let protocol = if flow.is_udp() { 17 } else { 6 };
    let mut header = Vec::with_capacity(len);
    if flow.is_v6() {
        header.extend([0x60, 0, 0, 0]);
        header.extend(u16::try_from(len - 40).expect("a length of a packet").to_be_bytes());
        header.extend([protocol, 64]);
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    } else {
        header.extend([0x45, 0]);
        header.extend(u16::try_from(len).expect("a length of a packet").to_be_bytes());
        header.extend([0x10, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    }
    header
}

#[cfg(test)]
mod tests {
    use adit_device::offload::{Joiner, Offloads};

    use super::*;

    #[test]
    fn segments_of_each_flow_are_joined_to_what_they_came_from() {
        for flow in Flow::ALL {
            let unfinished = Unfinished::new(flow, 1_420);
            let segments = unfinished.segments();
            assert!(segments.len() >= 40, "{flow:?}: {} segments", segments.len());
            let mut places = Vec::new();
            let mut arena = Vec::new();
            for segment in segments {
                places.push(arena.len()..arena.len() + segment.len());
                arena.extend(segment);
            }
            let mut joiner = Joiner::new();
            let runs: Vec<_> = joiner.join(&mut arena, places, Offloads::ALL).collect();
            assert_eq!(runs.len(), 1, "{flow:?}");
            let joined: Vec<u8> = runs[0].parts().flatten().copied().collect();
            // The headers' own checksum is the joiner's to compute.
            assert_eq!(joined[flow.headers_len()..], unfinished.packet[flow.headers_len()..], "{flow:?}");
            assert_eq!(runs[0].vnet().gso_size, unfinished.vnet.gso_size, "{flow:?}");
        }
    }
}
