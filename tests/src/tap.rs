//! A tap on a wire: what somebody sees who is on the way between two nodes.

use std::io::Read;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::host::Host;

/// `ETH_P_ALL`, every protocol.
const EVERYTHING: u16 = 3;

/// Sees all packets that a host sends and receives from the moment on that it is opened.
#[derive(Debug)]
pub struct Tap(Socket);

impl Tap {
    /// Opens a tap on all of the host's wires.
    #[track_caller]
    pub fn open(host: &Host) -> Self {
        let protocol = Protocol::from(i32::from(EVERYTHING.to_be()));
        let socket = host.enter(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)));
        let socket = socket.expect("a packet socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
        Self(socket)
    }

    /// The next WireGuard message of this type that goes to this address over IPv4.
    #[track_caller]
    pub fn message(&mut self, kind: u8, to: Ipv4Addr) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(10);
        let mut buffer = vec![0; 1 << 16];
        while Instant::now() < end {
            let Ok(length) = self.0.read(&mut buffer) else { continue };
            match udp_payload(&buffer[..length], to) {
                Some(payload) if payload.starts_with(&[kind, 0, 0, 0]) => return payload.to_vec(),
                _ => {}
            }
        }
        panic!("no message of type {kind} to {to} is seen");
    }
}

/// What a UDP datagram over IPv4 to this address carries.
fn udp_payload(packet: &[u8], to: Ipv4Addr) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 15) * 4;
    let is_udp = packet[0] >> 4 == 4 && *packet.get(9)? == 17;
    let is_to = packet.get(16..20)? == to.octets();
    packet.get(header + 8..).filter(|_| is_udp && is_to)
}
