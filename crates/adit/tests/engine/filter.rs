//! Allowed IPs: whose a packet is, in both directions.

use adit::{DropReason, PeerId};

use crate::sim::{A, B, C, RTT, Sim, packet, secs};

fn allow(sim: &mut Sim, node: usize, peer: PeerId, prefix: &str) -> Option<PeerId> {
    sim[node].interface.add_allowed_ip(peer, prefix.parse().unwrap()).unwrap()
}

/// Sends a packet with any source from one node to another; true if it came out there.
fn gets_through(sim: &mut Sim, from: usize, to: usize, packet: &[u8]) -> bool {
    sim.send_packets(from, &[packet.to_vec()]);
    sim.run_for(secs(1));
    sim[to].has_arrived(packet)
}

#[test]
fn a_packet_whose_source_the_peer_does_not_own_is_dropped_and_the_session_lives_on() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    let foreign = packet::v4([10, 0, 0, 9].into(), packet::inside(B), b"not mine");
    assert!(!gets_through(&mut sim, A, B, &foreign));
    assert_eq!(sim.drops(B, DropReason::WrongSource), 1);
    let own = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&own));
}

#[test]
fn a_peer_with_a_wide_prefix_does_not_speak_for_the_owner_of_a_narrower_one() {
    let mut sim = Sim::group(2, 3);
    // At A, B owns all of 10.0.0.0/24 but for C's address.
    let (b, c) = (sim.id(A, B), sim.id(A, C));
    allow(&mut sim, A, b, "10.0.0.0/24");
    allow(&mut sim, A, c, "10.0.0.3/32");
    let as_c = packet::v4(packet::inside(C), packet::inside(A), b"from B as C");
    let as_anyone = packet::v4([10, 0, 0, 77].into(), packet::inside(A), b"from B");
    assert!(!gets_through(&mut sim, B, A, &as_c));
    assert!(gets_through(&mut sim, B, A, &as_anyone));
    assert!(gets_through(&mut sim, C, A, &as_c));
    assert_eq!(sim.drops(A, DropReason::WrongSource), 1);
}

#[test]
fn a_prefix_that_moves_to_another_peer_is_taken_from_the_first_in_the_same_step() {
    let mut sim = Sim::group(3, 3);
    let (b, c) = (sim.id(A, B), sim.id(A, C));
    assert_eq!(allow(&mut sim, A, b, "10.9.0.0/16"), None);
    sim.connect(A, B);
    sim.connect(A, C);
    let source = [10, 9, 1, 1].into();
    let from_b = packet::v4(source, packet::inside(A), b"from B");
    let from_c = packet::v4(source, packet::inside(A), b"from C");
    assert!(gets_through(&mut sim, B, A, &from_b));
    assert!(!gets_through(&mut sim, C, A, &from_c));

    assert_eq!(allow(&mut sim, A, c, "10.9.0.0/16"), Some(b));
    assert!(!gets_through(&mut sim, B, A, &packet::v4(source, packet::inside(A), b"from B again")));
    assert!(gets_through(&mut sim, C, A, &from_c));
    assert_eq!(sim[A].interface.route(source.into()), Some(c));
    assert_eq!(sim[A].interface.allowed_ips(b).filter(|net| net.prefix_len() == 16).count(), 0);
    // What goes out goes to the new owner as well.
    let before = sim[A].arrived.len();
    sim.send_packets(A, &[packet::v4(packet::inside(A), source, b"to the owner")]);
    assert_eq!(sim.wire.last().unwrap().path.remote, sim[C].address);
    assert_eq!(sim[A].arrived.len(), before);
}

#[test]
fn setting_the_same_prefix_again_takes_it_from_nobody() {
    let mut sim = Sim::pair(4);
    let b = sim.id(A, B);
    assert_eq!(allow(&mut sim, A, b, "10.9.0.0/16"), None);
    assert_eq!(allow(&mut sim, A, b, "10.9.0.0/16"), None);
}

#[test]
fn packets_go_to_the_owner_of_the_longest_prefix() {
    let mut sim = Sim::group(5, 3);
    let (b, c) = (sim.id(A, B), sim.id(A, C));
    allow(&mut sim, A, b, "0.0.0.0/0");
    allow(&mut sim, A, c, "192.168.0.0/16");
    for (destination, node) in [([192, 168, 3, 4], C), ([192, 169, 3, 4], B), ([8, 8, 8, 8], B)] {
        sim.send_packets(A, &[packet::v4(packet::inside(A), destination.into(), b"")]);
        sim.run_for(secs(1));
        assert_eq!(sim.wire.iter().rfind(|sent| sent.from == A).unwrap().path.remote, sim[node].address);
    }
}

#[test]
fn a_packet_that_nobody_owns_is_dropped_and_counted() {
    let mut sim = Sim::pair(6);
    sim.send_packets(A, &[packet::v4(packet::inside(A), [172, 16, 0, 1].into(), b"")]);
    sim.send_packets(A, &[packet::v6(packet::inside_v6(A), "2001:db8::1".parse().unwrap(), b"")]);
    assert_eq!(sim.drops(A, DropReason::NoRoute), 2);
    assert!(sim.wire.is_empty());
}

#[test]
fn a_prefix_that_was_removed_lets_nothing_in_or_out() {
    let mut sim = Sim::pair(7);
    sim.connect(A, B);
    let (a, b) = (sim.id(B, A), sim.id(A, B));
    let prefix = "10.0.0.1/32".parse().unwrap();
    assert_eq!(sim[B].interface.remove_allowed_ip(a, prefix), Ok(true));
    assert_eq!(sim[B].interface.remove_allowed_ip(a, prefix), Ok(false));
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(!sim[B].has_arrived(&packet));
    sim.send(B, A);
    assert_eq!((sim.drops(B, DropReason::WrongSource), sim.drops(B, DropReason::NoRoute)), (1, 1));
    sim[A].interface.clear_allowed_ips(b).unwrap();
    sim.send(A, B);
    assert_eq!(sim.drops(A, DropReason::NoRoute), 1);
}

#[test]
fn ipv6_inside_is_routed_and_checked_as_ipv4_is() {
    let mut sim = Sim::pair(8);
    let there = packet::v6(packet::inside_v6(A), packet::inside_v6(B), b"there");
    let foreign = packet::v6("fd00::99".parse().unwrap(), packet::inside_v6(B), b"not mine");
    assert!(gets_through(&mut sim, A, B, &there));
    assert!(!gets_through(&mut sim, A, B, &foreign));
    assert_eq!(sim.drops(B, DropReason::WrongSource), 1);
}

#[test]
fn what_a_peer_sends_that_is_no_ip_packet_is_dropped_and_counted() {
    let good = packet::v4(packet::inside(A), packet::inside(B), &[0; 44]);
    // Each change goes into a fresh copy: where, and what.
    let changes: [(&str, &[(usize, u8)]); 6] = [
        ("a total length of 19", &[(3, 19)]),
        ("a total length of 0", &[(3, 0)]),
        ("a total length of more than there is", &[(2, 1)]),
        ("a header of more than the total length", &[(0, 0x4f), (3, 40)]),
        ("an IPv6 payload of more than there is", &[(0, 0x60), (4, 1)]),
        ("an IPv6 payload one byte longer than there is room", &[(0, 0x60), (4, 0), (5, 25)]),
    ];
    for (what, change) in changes {
        let mut sim = Sim::pair(9);
        sim.connect(A, B);
        let b = sim.id(A, B);
        allow(&mut sim, A, b, "::/0");
        let arrived = sim[B].arrived.len();
        let mut packet = good.clone();
        for &(at, value) in change {
            packet[at] = value;
        }
        sim.send_packets(A, &[packet]);
        sim.run_for(RTT);
        assert_eq!((sim.drops(B, DropReason::NotIp), sim[B].arrived.len()), (1, arrived), "{what}");
    }
}

#[test]
fn what_stands_behind_the_stated_length_is_padding_and_is_cut_off() {
    let mut sim = Sim::pair(10);
    sim.connect(A, B);
    let packet = packet::v4(packet::inside(A), packet::inside(B), b"payload");
    let mut longer = packet.clone();
    longer.extend([0xee; 30]);
    sim.send_packets(A, &[longer]);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn what_comes_from_inside_and_is_no_ip_packet_is_dropped_and_counted() {
    let mut sim = Sim::pair(11);
    let short = packet::v4(packet::inside(A), packet::inside(B), b"");
    for packet in [&[][..], &[0x45], &short[..19], &[0x55; 40], &[0x60; 39], &[0; 64]] {
        sim.send_packets(A, &[packet.to_vec()]);
    }
    assert_eq!(sim.drops(A, DropReason::NotIp), 6);
    assert!(sim.wire.is_empty());
}
