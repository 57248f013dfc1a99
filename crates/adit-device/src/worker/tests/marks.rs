//! What the headers of packets and of datagrams say about congestion (ECN) and the class of traffic (DSCP), on their
//! way through a worker.

use std::os::fd::AsFd as _;

use super::*;

/// RFC 3168: the sender understands congestion marks, and there has been congestion.
const ECT0: u8 = 2;
const CE: u8 = 3;

#[test]
fn the_congestion_bits_of_a_packet_and_the_class_of_a_handshake_are_on_the_wire() {
    let [mut a, b] = connected();
    let packet = Spec { tos: ECT0, ..Spec::udp4(100) }.build();
    let arrived = || {
        let mut buffer = [0; 2_048];
        let socket = b.worker.sockets.v4.as_ref().unwrap();
        let received = crate::sys::receive(socket.as_fd(), &mut buffer).unwrap();
        (buffer[0], received.control.tos)
    };
    a.put(&finished(packet.clone()));
    a.serve_tun();
    assert_eq!(arrived(), (4, ECT0));
    // Without its session the next packet makes a handshake.
    {
        let mut interface = a.worker.shared.interface();
        interface.link_down();
        interface.link_up(now());
        assert!(interface.handle_packet(now(), &packet, &mut [0; 2_048]).unwrap().is_none());
    }
    a.worker.transmit();
    // AF41.
    assert_eq!(arrived(), (1, 0x88));
}

#[test]
fn congestion_on_the_way_of_a_datagram_is_told_to_whoever_receives_the_packet() {
    let [a, mut b] = connected();
    let packet = Spec { tos: ECT0, ..Spec::udp4(100) }.build();
    let path = Path::to(([127, 0, 0, 1], b.worker.sockets.port).into());
    for (outer, inner) in [(ECT0, ECT0), (CE, CE)] {
        let mut datagram = [0; 2_048];
        let transmit = a.worker.shared.interface().handle_packet(now(), &packet, &mut datagram).unwrap().unwrap();
        assert_eq!(a.worker.sockets.send(&path, outer, &datagram[transmit.range], 0).sent, 1);
        b.serve_network();
        assert_eq!(b.take_all().iter().map(|packet| packet[1]).collect::<Vec<_>>(), [inner]);
    }
}
