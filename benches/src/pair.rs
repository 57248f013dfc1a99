use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit::{Ecn, Instant, Interface, Path, PrivateKey};
use getrandom::SysRng;
use rand_core::UnwrapErr;

use crate::udp_packet;

/// The tunnel's MTU in bytes.
pub const MTU: u16 = 1420;

/// Two interfaces that know each other, and the moment at which both are.
///
/// The initiator is 10.0.0.1 inside, the responder 10.0.0.2.
#[derive(Debug)]
pub struct Pair {
    /// The end that starts handshakes.
    pub initiator: Interface,
    /// The end that answers.
    pub responder: Interface,
    /// The virtual time of both.
    pub now: Instant,
    /// The way to the initiator, as the responder sees it.
    pub to_initiator: Path,
    /// The way to the responder, as the initiator sees it.
    pub to_responder: Path,
}

impl Pair {
    /// Two interfaces that have not talked yet.
    pub fn new() -> Self {
        let now = Instant::from_nanos(0);
        let mut rng = UnwrapErr(SysRng);
        let keys = [PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng)];
        let addresses = [SocketAddr::from(([192, 0, 2, 1], 51_820)), SocketAddr::from(([192, 0, 2, 2], 51_820))];
        let end = |own: usize, other: usize, inside: IpAddr| {
            let mut end = Interface::new(now, Duration::from_secs(1_700_000_000), Box::new(UnwrapErr(SysRng)));
            end.set_private_key(Some(keys[own].clone()));
            end.set_mtu(MTU);
            let peer = end.add_peer(keys[other].public_key()).expect("another key");
            end.add_allowed_ip(peer, inside.into()).expect("a peer");
            end.set_endpoint(peer, Some(addresses[other])).expect("a peer");
            end
        };
        Self {
            initiator: end(0, 1, [10, 0, 0, 2].into()),
            responder: end(1, 0, [10, 0, 0, 1].into()),
            now,
            to_initiator: Path::to(addresses[0]),
            to_responder: Path::to(addresses[1]),
        }
    }

    /// Two interfaces with a session that both have confirmed.
    pub fn connected() -> Self {
        let mut pair = Self::new();
        let mut buffer = [0; 2_048];
        let staged = pair.initiator.handle_packet(pair.now, &udp_packet(64), &mut buffer);
        assert_eq!(staged, Ok(None), "there is no session yet");
        let mut arrived = 0;
        loop {
            if let Some(transmit) = pair.initiator.poll_transmit(pair.now, &mut buffer).expect("room") {
                let datagram = &mut buffer[transmit.range];
                let packet = pair.responder.handle_datagram(pair.now, &pair.to_initiator, Ecn::NotEct, datagram);
                arrived += usize::from(packet.is_some());
            } else if let Some(transmit) = pair.responder.poll_transmit(pair.now, &mut buffer).expect("room") {
                let datagram = &mut buffer[transmit.range];
                let packet = pair.initiator.handle_datagram(pair.now, &pair.to_responder, Ecn::NotEct, datagram);
                assert!(packet.is_none(), "the responder has no packet to send");
            } else {
                break;
            }
        }
        assert_eq!(arrived, 1, "the packet that waited for the session");
        pair
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connected_pair_carries_packets_both_ways_at_once() {
        let mut pair = Pair::connected();
        let mut buffer = [0; 2_048];
        let mut answer = udp_packet(512);
        answer[12..20].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);

        let sent = pair.initiator.handle_packet(pair.now, &udp_packet(512), &mut buffer).unwrap().unwrap();
        let datagram = &mut buffer[sent.range];
        let packet = pair.responder.handle_datagram(pair.now, &pair.to_initiator, Ecn::NotEct, datagram);
        assert_eq!(packet.unwrap().1, udp_packet(512));

        let sent = pair.responder.handle_packet(pair.now, &answer, &mut buffer).unwrap().unwrap();
        let datagram = &mut buffer[sent.range];
        let packet = pair.initiator.handle_datagram(pair.now, &pair.to_responder, Ecn::NotEct, datagram);
        assert_eq!(packet.unwrap().1, answer);
    }
}
