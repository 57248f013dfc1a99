//! What others see of a packet: its length, its congestion bits, and nothing else.

use adit::{DropReason, Ecn};

use crate::sim::{A, B, Calls, Kind, RTT, Sim, packet, secs};

fn connected(seed: u64) -> Sim {
    let mut sim = Sim::pair(seed);
    sim.connect(A, B);
    sim.run_for(secs(1));
    sim
}

#[test]
fn packets_are_padded_to_a_multiple_of_sixteen_within_the_mtu() {
    for calls in [Calls::Single, Calls::Steps] {
        let mut sim = Sim::group_with(1, 2, calls, adit::Bounds::default());
        sim.connect(A, B);
        for (len, padded) in [(20, 32), (32, 32), (33, 48), (1_408, 1_408), (1_409, 1_420), (1_420, 1_420)] {
            let packet = packet::v4(packet::inside(A), packet::inside(B), &vec![len as u8; len - 20]);
            sim.send_packets(A, std::slice::from_ref(&packet));
            assert_eq!(sim.last_sent(A, Kind::Data).bytes.len(), 32 + padded, "{len} bytes");
            sim.run_for(RTT);
            assert!(sim[B].has_arrived(&packet), "{len} bytes");
        }
    }
}

#[test]
fn packets_are_padded_when_nobody_has_set_an_mtu() {
    let mut sim = connected(2);
    sim[A].interface.set_mtu(0);
    let len_of = |sim: &mut Sim, len: usize| {
        sim.send_packets(A, &[packet::v4(packet::inside(A), packet::inside(B), &vec![0; len - 20])]);
        sim.last_sent(A, Kind::Data).bytes.len()
    };
    for len in 1_409..=1_424 {
        assert_eq!(len_of(&mut sim, len), 32 + 1_424, "lengths do not leak");
    }
}

#[test]
fn packets_that_waited_are_padded_as_others_are() {
    let mut sim = Sim::pair(3);
    for len in [21, 1_419] {
        sim.send_packets(A, &[packet::v4(packet::inside(A), packet::inside(B), &vec![0; len - 20])]);
    }
    sim.run_for(RTT * 2);
    let lengths: Vec<_> = sim.sent(A, Kind::Data).iter().map(|sent| sent.bytes.len()).collect();
    assert_eq!(lengths, [32 + 32, 32 + 1_420]);
}

#[test]
fn packets_of_every_length_arrive_as_they_were() {
    for calls in [Calls::Single, Calls::Steps] {
        let mut sim = Sim::group_with(4, 2, calls, adit::Bounds::default());
        sim.connect(A, B);
        sim[B].arrived.clear();
        let packets: Vec<_> = (0..=1_480)
            .map(|len| {
                let payload: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
                packet::v4(packet::inside(A), packet::inside(B), &payload)
            })
            .collect();
        sim.send_packets(A, &packets);
        sim.run_for(RTT);
        let arrived: Vec<_> = sim[B].arrived.iter().map(|arrived| arrived.packet.clone()).collect();
        assert!(arrived == packets, "{calls:?}");
    }
}

#[test]
fn the_largest_packet_that_a_datagram_can_carry_arrives_and_a_larger_one_is_dropped() {
    let mut sim = connected(5);
    // 65,507 bytes of UDP payload, 32 of them for the header and the tag.
    let largest = packet::v4(packet::inside(A), packet::inside(B), &vec![1; 65_507 - 32 - 20]);
    sim.send_packets(A, std::slice::from_ref(&largest));
    assert_eq!(sim.last_sent(A, Kind::Data).bytes.len(), 65_507);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&largest));
    sim.send_packets(A, &[packet::v4(packet::inside(A), packet::inside(B), &vec![1; 65_507 - 32 - 19])]);
    assert_eq!(sim.drops(A, DropReason::TooLarge), 1);
}

#[test]
fn the_inner_dscp_does_not_leak_and_the_congestion_bits_go_outside() {
    for (tos, outer) in [(0xb8, 0), (0xb9, 1), (0xfe, 2), (0x03, 3)] {
        let mut sim = connected(6);
        sim.send_packets(A, &[packet::v4_with_tos(packet::inside(A), packet::inside(B), tos, b"")]);
        assert_eq!(sim.last_sent(A, Kind::Data).tos, outer, "{tos:#04x}");
        let mut v6 = packet::v6(packet::inside_v6(A), packet::inside_v6(B), b"");
        v6[0] |= tos >> 4;
        v6[1] |= tos << 4;
        sim.send_packets(A, &[v6]);
        assert_eq!(sim.last_sent(A, Kind::Data).tos, outer, "{tos:#04x} in IPv6");
    }
}

#[test]
fn congestion_bits_go_outside_also_for_packets_that_waited() {
    let mut sim = Sim::pair(7);
    for tos in [0xba, 0xb8, 0xb9] {
        sim.send_packets(A, &[packet::v4_with_tos(packet::inside(A), packet::inside(B), tos, b"")]);
    }
    sim.run_for(RTT * 2);
    let outer: Vec<_> = sim.sent(A, Kind::Data).iter().map(|sent| sent.tos).collect();
    assert_eq!(outer, [2, 0, 1]);
}

#[test]
fn congestion_met_on_the_way_is_told_inside_and_the_checksum_stays_right() {
    for calls in [Calls::Single, Calls::Steps] {
        let mut sim = Sim::group_with(8, 2, calls, adit::Bounds::default());
        sim.connect(A, B);
        sim.network.is_congested = true;
        sim.send_packets(A, &[packet::v4_with_tos(packet::inside(A), packet::inside(B), 0xba, b"data")]);
        let mut v6 = packet::v6(packet::inside_v6(A), packet::inside_v6(B), b"data");
        v6[1] |= 0x10;
        sim.send_packets(A, &[v6]);
        sim.run_for(RTT);
        let [.., inner, inner_v6] = &sim[B].arrived[..] else { panic!("two packets have arrived") };
        assert_eq!(inner.packet[1], 0xbb, "the DSCP stays, the mark is there");
        assert_eq!(packet::checksum_of(&inner.packet[..20]), 0);
        assert_eq!(inner_v6.packet[1], 0x30);
    }
}

#[test]
fn congestion_that_a_flow_could_not_hear_of_costs_it_the_packet() {
    let mut sim = connected(9);
    sim.network.cut(A, B);
    sim.send(A, B);
    let sent = sim.last_sent(A, Kind::Data);
    let path = adit::Path::to(sent.source);
    assert_eq!(sim.inject_by(B, &path, Ecn::Ce, &sent.bytes), None);
    assert_eq!(sim.drops(B, DropReason::Congestion), 1);
}

#[test]
fn a_packet_without_congestion_on_the_way_keeps_its_bits() {
    let mut sim = connected(10);
    for tos in [0, 1, 2, 3, 0xb8 | 2] {
        let packet = packet::v4_with_tos(packet::inside(A), packet::inside(B), tos, b"");
        sim.send_packets(A, std::slice::from_ref(&packet));
        sim.run_for(RTT);
        assert!(sim[B].has_arrived(&packet), "{tos:#04x}");
    }
}
