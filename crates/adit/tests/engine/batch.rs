//! Bursts in three steps, as threaded callers take them.

use adit::{Bounds, Datagrams, DropReason, Ecn, Packets, Path, Transmit};

use crate::cookies::{address, junk};
use crate::sim::{A, B, C, Calls, Kind, RTT, Sim, packet, secs};

/// Lays packets out in one buffer, each with its room, and seals them at A.
fn seal(sim: &mut Sim, packets: &[Vec<u8>], gap: usize) -> (Vec<Transmit>, Vec<u8>) {
    let now = sim.now;
    let mut buffer = vec![0xaa; packets.iter().map(|packet| packet.len() + 64 + gap).sum()];
    let (mut burst, mut start) = (Packets::new(1420), 0);
    for packet in packets {
        buffer[start + 16..start + 16 + packet.len()].copy_from_slice(packet);
        start = burst.push(start, packet.len()).unwrap() + gap;
    }
    let sealed = sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
    (sealed.transmits().collect(), buffer)
}

fn to(node: usize, len: usize) -> Vec<u8> {
    packet::v4(packet::inside(A), packet::inside(node), &vec![0x42; len - 20])
}

/// Of each group: for which node, how many bytes, and how long each datagram is.
fn groups(sim: &Sim, transmits: &[Transmit]) -> Vec<(usize, usize, usize)> {
    let node = |transmit: &Transmit| if transmit.path.remote == sim[B].address { B } else { C };
    transmits.iter().map(|transmit| (node(transmit), transmit.range.len(), transmit.segment_size)).collect()
}

fn connected(seed: u64) -> Sim {
    let mut sim = Sim::group(seed, 3);
    sim.connect(A, B);
    sim.connect(A, C);
    sim
}

#[test]
fn datagrams_of_equal_length_to_one_address_are_grouped_and_the_last_may_be_shorter() {
    let mut sim = connected(1);
    let (transmits, _) = seal(&mut sim, &[to(B, 160), to(B, 160), to(B, 160), to(B, 50)], 0);
    assert_eq!(groups(&sim, &transmits), [(B, 3 * 192 + 96, 192)]);
    let (transmits, _) = seal(&mut sim, &[to(B, 160), to(B, 50), to(B, 160)], 0);
    assert_eq!(groups(&sim, &transmits), [(B, 192 + 96, 192), (B, 192, 192)], "what is shorter ends a group");
    let (transmits, _) = seal(&mut sim, &[to(B, 50), to(B, 160)], 0);
    assert_eq!(groups(&sim, &transmits), [(B, 96, 96), (B, 192, 192)]);
    let (transmits, _) = seal(&mut sim, &[to(B, 50), to(B, 40), to(B, 30)], 0);
    assert_eq!(groups(&sim, &transmits), [(B, 96 + 80, 96), (B, 64, 64)], "and so does the shorter one itself");
}

#[test]
fn packets_that_no_peer_takes_are_told_of_and_lie_as_they_were() {
    let mut sim = connected(1);
    let c = sim.id(A, C);
    sim[A].interface.set_endpoint(c, None).unwrap();
    let nowhere = packet::v4(packet::inside(A), "203.0.113.1".parse().unwrap(), &[0x42; 60]);
    let packets = [to(B, 80), nowhere, vec![0x50; 80], to(C, 80), to(B, 80)];
    let mut buffer = [0xaa; 5 * 112];
    let mut burst = Packets::new(1420);
    for (place, packet) in packets.iter().enumerate() {
        buffer[place * 112 + 16..][..80].copy_from_slice(packet);
        burst.push(place * 112, packet.len()).unwrap();
    }
    let now = sim.now;
    let sealed = sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
    let told: Vec<_> = sealed.unreachable().map(|place| (place.clone(), buffer[place].to_vec())).collect();
    assert_eq!(told, [(128..208, packets[1].clone()), (352..432, packets[3].clone())]);
    assert_eq!(sealed.transmits().map(|transmit| transmit.range).collect::<Vec<_>>(), [0..112, 448..560]);
}

#[test]
fn another_peer_or_other_congestion_bits_or_a_gap_end_a_group() {
    let mut sim = connected(2);
    let (transmits, _) = seal(&mut sim, &[to(B, 64), to(C, 64), to(C, 64), to(B, 64)], 0);
    assert_eq!(groups(&sim, &transmits), [(B, 96, 96), (C, 192, 96), (B, 96, 96)]);
    let mut marked = to(B, 64);
    marked[1] = 2;
    let (transmits, _) = seal(&mut sim, &[to(B, 64), marked.clone(), marked], 0);
    assert_eq!(groups(&sim, &transmits), [(B, 96, 96), (B, 192, 96)]);
    assert_eq!(transmits.iter().map(|transmit| transmit.tos).collect::<Vec<_>>(), [0, 2]);
    let (transmits, _) = seal(&mut sim, &[to(B, 64), to(B, 64)], 1);
    assert_eq!(groups(&sim, &transmits), [(B, 96, 96), (B, 96, 96)]);
}

#[test]
fn what_cannot_be_sent_is_left_out_and_the_rest_goes() {
    let mut sim = connected(3);
    let nowhere = packet::v4(packet::inside(A), [9, 9, 9, 9].into(), b"");
    let packets = [to(B, 64), nowhere, vec![0; 64], to(B, 64), to(C, 64)];
    let (transmits, buffer) = seal(&mut sim, &packets, 0);
    assert_eq!(groups(&sim, &transmits), [(B, 96, 96), (B, 96, 96), (C, 96, 96)]);
    assert_eq!((sim.drops(A, DropReason::NoRoute), sim.drops(A, DropReason::NotIp)), (1, 1));
    for (transmit, node) in transmits.iter().zip([B, B, C]) {
        let source = sim[A].address;
        assert!(sim.inject(node, source, &buffer[transmit.range.clone()]).is_some());
    }
}

#[test]
fn a_burst_of_datagrams_from_many_peers_and_of_many_kinds_is_sorted_out() {
    let mut sim = connected(4);
    for from in [B, C] {
        sim.network.cut(from, A);
    }
    let from_b = [sim.send(B, A), sim.send(B, A)];
    let from_c = [sim.send(C, A)];
    let b: Vec<_> = sim.sent(B, Kind::Data).split_off(1);
    let c: Vec<_> = sim.sent(C, Kind::Data).split_off(1);
    let old_initiation = sim.last_sent(A, Kind::Initiation);
    let mut forged = b[0].clone();
    forged.bytes[20] ^= 1;
    let burst = [&b[1], &c[0], &forged, &b[0], &old_initiation, &b[0], &c[0]];
    let mut datagrams = Datagrams::new();
    let mut buffer = Vec::new();
    for sent in burst {
        let start = buffer.len();
        buffer.extend(&sent.bytes);
        assert!(datagrams.push(start..buffer.len(), &Path::to(sent.source), Ecn::NotEct));
    }
    let now = sim.now;
    let opened = sim[A].interface.begin_open(now, datagrams, &buffer).open(&mut buffer);
    let delivered = sim[A].interface.commit(now, opened, &mut buffer);
    let found: Vec<_> = delivered.packets().map(|(peer, range)| (peer, buffer[range].to_vec())).collect();
    let (id_b, id_c) = (sim.id(A, B), sim.id(A, C));
    let expected = [(id_b, from_b[1].clone()), (id_c, from_c[0].clone()), (id_b, from_b[0].clone())];
    assert_eq!(found, expected, "in the order in which they came");
    assert_eq!((sim.drops(A, DropReason::BadTag), sim.drops(A, DropReason::Replay)), (1, 2));
    assert_eq!(sim.drops(A, DropReason::BadMac1), 1);
}

#[test]
fn of_a_burst_that_came_by_several_ways_the_last_authentic_one_is_answered() {
    let mut sim = connected(10);
    sim.network.cut(B, A);
    sim.send_many(B, A, 3);
    let sent = sim.sent(B, Kind::Data).split_off(1);
    // Each reached another address of ours; the last one is forged, the one before a replay.
    let paths = ["198.51.100.1:1", "[2001:db8::2]:2", "198.51.100.3:3", "198.51.100.4:4", "198.51.100.5:5"];
    let paths = paths.map(|remote| {
        let remote: std::net::SocketAddr = remote.parse().unwrap();
        Path { remote, local: Some(std::net::Ipv4Addr::new(203, 0, 113, remote.port() as u8).into()), ifindex: 4 }
    });
    let mut forged = sent[0].bytes.clone();
    forged[40] ^= 4;
    let datagrams = [&sent[0].bytes, &sent[2].bytes, &sent[1].bytes, &sent[0].bytes, &forged];
    let (mut burst, mut buffer) = (Datagrams::new(), Vec::new());
    for (datagram, path) in datagrams.into_iter().zip(&paths) {
        let start = buffer.len();
        buffer.extend(datagram);
        assert!(burst.push(start..buffer.len(), path, Ecn::NotEct));
    }
    let now = sim.now;
    let opened = sim[A].interface.begin_open(now, burst, &buffer).open(&mut buffer);
    assert_eq!(sim[A].interface.commit(now, opened, &mut buffer).packets().count(), 3);
    sim.send(A, B);
    assert_eq!(sim.last_sent(A, Kind::Data).path, paths[2]);
}

#[test]
fn two_bursts_sealed_at_the_same_time_share_no_counter() {
    let mut sim = connected(5);
    let now = sim.now;
    let mut lay_out = || {
        let mut buffer = vec![0; 10 * 96];
        let mut burst = Packets::new(1420);
        for number in 0..10 {
            buffer[number * 96 + 16..number * 96 + 80].copy_from_slice(&to(B, 64));
            burst.push(number * 96, 64).unwrap();
        }
        let sealing = sim[A].interface.begin_seal(now, burst, &buffer);
        (sealing, buffer)
    };
    let (first, mut first_buffer) = lay_out();
    let (second, mut second_buffer) = lay_out();
    // The later one is ready first, and arrives first.
    let _ = second.seal(&mut second_buffer);
    let _ = first.seal(&mut first_buffer);
    let source = sim[A].address;
    for datagram in second_buffer.chunks(96).chain(first_buffer.chunks(96)) {
        assert!(sim.inject(B, source, datagram).is_some());
    }
}

#[test]
fn two_bursts_opened_at_the_same_time_let_a_packet_in_once() {
    let mut sim = connected(6);
    sim.network.cut(A, B);
    sim.send_many(A, B, 5);
    let sent = sim.sent(A, Kind::Data).split_off(2);
    let now = sim.now;
    let mut open = || {
        let mut buffer: Vec<u8> = sent.iter().flat_map(|sent| sent.bytes.clone()).collect();
        let mut burst = Datagrams::new();
        for (number, sent) in sent.iter().enumerate() {
            assert!(burst.push(number * 64..number * 64 + 64, &Path::to(sent.source), Ecn::NotEct));
        }
        (sim[B].interface.begin_open(now, burst, &buffer).open(&mut buffer), buffer)
    };
    let [(first, mut first_buffer), (second, mut second_buffer)] = [open(), open()];
    assert_eq!(sim[B].interface.commit(now, second, &mut second_buffer).packets().count(), 5);
    assert_eq!(sim[B].interface.commit(now, first, &mut first_buffer).packets().count(), 0);
    assert_eq!(sim.drops(B, DropReason::Replay), 5);
}

#[test]
fn a_session_that_ends_while_packets_are_opened_lets_them_in_no_more() {
    let mut sim = connected(7);
    sim.network.cut(A, B);
    sim.send(A, B);
    let sent = sim.last_sent(A, Kind::Data);
    let (now, mut buffer) = (sim.now, sent.bytes.clone());
    let mut burst = Datagrams::new();
    assert!(burst.push(0..buffer.len(), &Path::to(sent.source), Ecn::NotEct));
    let opened = sim[B].interface.begin_open(now, burst, &buffer).open(&mut buffer);
    sim.run_for(secs(600));
    let now = sim.now;
    assert_eq!(sim[B].interface.commit(now, opened, &mut buffer).packets().count(), 0);
    assert_eq!(sim.drops(B, DropReason::PeerGone), 1);
}

#[test]
fn an_empty_burst_is_nothing() {
    let mut sim = connected(8);
    let (transmits, _) = seal(&mut sim, &[], 0);
    assert!(transmits.is_empty());
    let now = sim.now;
    let opened = sim[A].interface.begin_open(now, Datagrams::new(), &[]).open(&mut []);
    let delivered = sim[A].interface.commit(now, opened, &mut []);
    assert_eq!(delivered.packets().count(), 0);
    assert!(delivered.into_empty().is_empty());
}

#[test]
fn the_memory_of_a_burst_can_be_used_again_for_another() {
    let mut sim = connected(9);
    let now = sim.now;
    let mut burst = Packets::new(1420);
    for round in 0..3 {
        let mut buffer = vec![0; 192];
        for number in 0..2 {
            buffer[number * 96 + 16..number * 96 + 80].copy_from_slice(&to(B, 64));
            burst.push(number * 96, 64).unwrap();
        }
        let sealed = sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
        assert_eq!(sealed.transmits().map(|transmit| transmit.range.len()).sum::<usize>(), 192, "round {round}");
        burst = sealed.into_empty();
        assert!(burst.is_empty());
        burst.push(0, 9).unwrap();
        burst.clear();
        assert_eq!(burst.len(), 0);
        let source = sim[A].address;
        for datagram in buffer.chunks(96) {
            assert!(sim.inject(B, source, datagram).is_some());
        }
        sim.run_for(RTT);
    }
}

#[test]
fn two_peers_behind_one_endpoint_have_groups_of_their_own() {
    let mut sim = connected(14);
    let (both, endpoint) = ([B, C].map(|node| sim.id(A, node)), "192.0.2.9:51820".parse().unwrap());
    for peer in both {
        sim[A].interface.set_endpoint(peer, Some(endpoint)).unwrap();
    }
    let (transmits, _) = seal(&mut sim, &[to(B, 64), to(C, 64)], 0);
    assert_eq!(transmits.iter().map(|transmit| transmit.peer).collect::<Vec<_>>(), both.map(Some));
}

#[test]
fn a_burst_that_is_load_by_itself_is_answered_to_its_end_with_cookies() {
    let mut bounds = Bounds::default();
    bounds.handshakes_per_second = 20;
    let mut sim = Sim::group_with(22, 2, Calls::Single, bounds);
    // Let the first second pass without any message.
    sim.run_for(secs(2));
    let now = sim.now;
    let (mut buffer, mut burst) = (Vec::new(), Datagrams::new());
    for number in 0..50 {
        let start = buffer.len();
        buffer.extend(junk(&sim, B, number.into()));
        assert!(burst.push(start..buffer.len(), &Path::to(address(number)), Ecn::NotEct));
    }
    let opened = sim[B].interface.begin_open(now, burst, &buffer).open(&mut buffer);
    drop(sim[B].interface.commit(now, opened, &mut buffer));
    assert_eq!((sim.drops(B, DropReason::CookieSent), sim.drops(B, DropReason::ReplyQueueFull)), (30, 0));
}

#[test]
fn what_a_burst_sends_to_each_of_several_peers_is_counted_and_watched_for() {
    let mut sim = Sim::group_with(31, 3, Calls::Steps, Bounds::default());
    sim.connect(A, B);
    sim.connect(A, C);
    sim.run_for(secs(11));
    let before = [B, C].map(|other| sim.peer(A, other).tx_bytes);
    sim.network.cut(B, A);
    sim.network.cut(C, A);
    let initiations = sim.count(A, Kind::Initiation);
    let packets: Vec<_> = [B, B, C].map(|to| packet::v4(packet::inside(A), packet::inside(to), &[7; 12])).into();
    sim.send_packets(A, &packets);
    let sent = [B, C].map(|other| sim.peer(A, other).tx_bytes);
    // 32 bytes of packet, and as many of header and tag.
    assert_eq!([sent[0] - before[0], sent[1] - before[1]], [128, 64]);
    sim.run_for(secs(15));
    assert_eq!(sim.count(A, Kind::Initiation), initiations + 2, "neither has sent an echo");
}

#[test]
fn a_packet_too_large_for_any_datagram_is_left_out_of_a_burst_and_counted() {
    let mut sim = Sim::group_with(32, 2, Calls::Steps, Bounds::default());
    sim.connect(A, B);
    let sizes = [65_475, 65_476, 100];
    let packets = sizes.map(|size| packet::v4(packet::inside(A), packet::inside(B), &vec![7; size - 20]));
    sim.send_packets(A, &packets);
    sim.run_for(RTT);
    assert_eq!(packets.map(|packet| sim[B].has_arrived(&packet)), [true, false, true]);
    assert_eq!(sim.drops(A, DropReason::TooLarge), 1);
}

#[test]
fn what_lies_outside_of_the_callers_buffer_is_counted_and_costs_neither_counter_nor_traffic() {
    let mut sim = connected(30);
    let (now, packet) = (sim.now, to(B, 160));
    let sent = sim.peer(A, B).tx_bytes;
    let before = sim.drops(A, DropReason::OutsideBuffer);
    // Room for the packet, but not for its tag; not even for the packet.
    for (count, room) in [16 + 160, 16 + 100, 0].into_iter().enumerate() {
        let mut buffer = [&[0; 16], packet.as_slice()].concat();
        buffer.truncate(room);
        let mut burst = Packets::new(1420);
        burst.push(0, packet.len()).unwrap();
        let sealed = sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
        assert_eq!(sealed.transmits().count(), 0);
        assert_eq!(sim.drops(A, DropReason::OutsideBuffer) - before, count as u64 + 1);
    }
    assert_eq!(sim.peer(A, B).tx_bytes, sent);
    let (transmits, buffer) = seal(&mut sim, &[packet], 0);
    assert_eq!(
        buffer[transmits[0].range.start + 8..][..8],
        1_u64.to_le_bytes(),
        "the next counter after the first packet's"
    );

    let mut datagrams = Datagrams::new();
    let path = Path::to(sim[B].address);
    assert!(datagrams.push(0..buffer.len() + 1, &path, Ecn::NotEct));
    let mut buffer = buffer;
    let opened = sim[A].interface.begin_open(now, datagrams, &buffer).open(&mut buffer);
    assert_eq!(sim[A].interface.commit(now, opened, &mut buffer).packets().count(), 0);
    assert_eq!(sim.drops(A, DropReason::OutsideBuffer) - before, 4);
}

#[test]
fn a_handshake_that_waits_to_be_computed_is_due_at_once() {
    let mut sim = Sim::pair(41);
    sim.connect(A, B);
    // Nobody asked for what there is to send until the session was old.
    sim.run_for(secs(130));
    let now = sim.now;
    let (mut burst, packet) = (Packets::new(1420), packet::v4(packet::inside(A), packet::inside(B), b"late"));
    burst.push(0, packet.len()).unwrap();
    let buffer = [&[0; 16], packet.as_slice(), &[0; 32]].concat();
    assert!(sim[A].interface.poll_timeout().is_none_or(|deadline| deadline > now));
    let _ = sim[A].interface.begin_seal(now, burst, &buffer);
    assert!(sim[A].interface.has_handshakes());
    assert!(sim[A].interface.poll_timeout().is_some_and(|deadline| deadline <= now));
    sim[A].interface.handle_timeout(now);
    assert!(!sim[A].interface.has_handshakes());
    assert!(sim[A].interface.poll_timeout().is_none_or(|deadline| deadline > now));
}
