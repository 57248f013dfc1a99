//! Packets that wait for a session: bounded, in order, the oldest go first.

use adit::{Bounds, DropReason, Error, Event, Interface, PrivateKey};

use crate::sim::{A, B, C, Calls, Kind, RTT, Sim, forge, packet, secs};

/// What a waiting packet is charged beyond its length.
const CHARGE: usize = 64;

fn bounded(seed: u64, a_peer: usize, in_all: usize) -> Sim {
    let mut bounds = Bounds::default();
    (bounds.staged_bytes_per_peer, bounds.staged_bytes) = (a_peer, in_all);
    Sim::group_with(seed, 3, Calls::Single, bounds)
}

#[test]
fn when_too_many_wait_for_one_peer_the_oldest_are_dropped_and_counted() {
    // A packet of the simulation has 28 bytes.
    let mut sim = bounded(1, 10 * (28 + CHARGE), 1 << 20);
    sim.network.cut(A, B);
    let packets = sim.send_many(A, B, 25);
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), 15);
    sim.network.heal();
    sim.run_for(secs(6));
    let arrived: Vec<_> = sim[B].arrived.iter().map(|arrived| arrived.packet.clone()).collect();
    assert_eq!(arrived, packets[15..]);
}

#[test]
fn what_waits_for_all_peers_together_is_bounded_too() {
    // More than the room that each peer has whatever waits for the others.
    const EACH: usize = 40;
    let mut sim = bounded(2, 1 << 20, (EACH + 30) * (28 + CHARGE));
    sim.network.cut(A, B);
    sim.network.cut(A, C);
    sim.send_many(A, B, EACH);
    let packets = sim.send_many(A, C, EACH);
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), 10);
    sim.network.heal();
    sim.run_for(secs(6));
    assert_eq!(sim[B].arrived.len(), EACH);
    let arrived: Vec<_> = sim[C].arrived.iter().map(|arrived| arrived.packet.clone()).collect();
    assert_eq!(arrived, packets[10..]);
    // What went out left room for others.
    sim.run_for(secs(200));
    sim.network.cut_both(A, C);
    sim.send_many(A, C, EACH + 30);
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), 10);
}

#[test]
fn peers_that_cannot_be_reached_leave_room_for_others_to_begin() {
    let mut sim = bounded(5, 1 << 20, 4 << 10);
    sim.network.cut(A, B);
    sim.send_many(A, B, 100);
    let before = sim.drops(A, DropReason::StagedOverflow);
    assert!(before > 0, "there is room for no more");
    let large = packet::v4(packet::inside(A), packet::inside(C), &[7; 1_300]);
    sim.send_packets(A, std::slice::from_ref(&large));
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), before);
    sim.run_for(RTT * 2);
    assert!(sim[C].has_arrived(&large));
}

#[test]
fn a_packet_larger_than_the_bound_is_dropped_by_itself() {
    let mut sim = bounded(3, 1_000, 1 << 20);
    sim.send_packets(A, &[packet::v4(packet::inside(A), packet::inside(B), &[0; 1_000])]);
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), 1);
    let small = sim.send(A, B);
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&small));
}

#[test]
fn what_waited_goes_out_in_groups_of_equal_length() {
    let mut sim = Sim::pair(4);
    let sizes = [100, 100, 100, 40, 40, 400];
    let packets: Vec<_> =
        sizes.iter().map(|&size| packet::v4(packet::inside(A), packet::inside(B), &vec![7; size - 20])).collect();
    sim.send_packets(A, &packets);
    sim.network.lose_kind(Kind::Response);
    sim.run_for(RTT);
    let (response, now) = (sim.last_sent(B, Kind::Response), sim.now);
    let mut bytes = response.bytes;
    let path = adit::Path::to(response.source);
    let _ = sim[A].interface.handle_datagram(now, &path, adit::Ecn::NotEct, &mut bytes);
    let mut buffer = vec![0; 65_536];
    let mut groups = Vec::new();
    while let Some(transmit) = sim[A].interface.poll_transmit(now, &mut buffer).unwrap() {
        groups.push((transmit.range.len(), transmit.segment_size));
    }
    // Padded to 112, 48 and 400, and 32 bytes more.
    assert_eq!(groups, [(3 * 144, 144), (2 * 80, 80), (432, 432)]);
}

#[test]
fn a_packet_that_is_given_before_what_waited_was_fetched_goes_behind_it() {
    let mut sim = Sim::pair(8);
    let mut packets = sim.send_many(A, B, 3);
    sim.network.lose_kind(Kind::Response);
    sim.run_for(RTT);
    let mut response = sim.last_sent(B, Kind::Response);
    let (now, path) = (sim.now, adit::Path::to(response.source));
    let _ = sim[A].interface.handle_datagram(now, &path, adit::Ecn::NotEct, &mut response.bytes);
    // There is a session, and nobody has called `poll_transmit` yet.
    let next = packet::v4(packet::inside(A), packet::inside(B), b"next");
    let mut out = [0; 128];
    assert_eq!(sim[A].interface.handle_packet(now, &next, &mut out), Ok(None));
    packets.push(next);
    sim.flush(A);
    sim.run_for(RTT);
    let arrived: Vec<_> = sim[B].arrived.iter().map(|arrived| arrived.packet.clone()).collect();
    assert_eq!(arrived, packets);
    sim.run_for(secs(10));
    assert_eq!(sim.count(A, Kind::Initiation), 1, "no other session is asked for");
}

#[test]
fn a_buffer_too_short_for_what_waits_is_an_error_and_nothing_is_lost() {
    let mut sim = Sim::pair(5);
    let packet = packet::v4(packet::inside(A), packet::inside(B), &[9; 480]);
    let mut out = [0; 600];
    let now = sim.now;
    assert_eq!(sim[A].interface.handle_packet(now, &packet, &mut out), Ok(None));
    for len in 0..148 {
        let expected = Error::BufferTooShort { found: len, expected: 148 };
        assert_eq!(sim[A].interface.poll_transmit(now, &mut out[..len]), Err(expected));
    }
    sim.flush(A);
    sim.network.lose_kind(Kind::Response);
    sim.run_for(RTT);
    let mut response = sim.last_sent(B, Kind::Response);
    let (now, path) = (sim.now, adit::Path::to(response.source));
    let _ = sim[A].interface.handle_datagram(now, &path, adit::Ecn::NotEct, &mut response.bytes);
    for len in [0, 1, 31, 32, 148, 543] {
        // 500 bytes are padded to 512.
        let expected = Error::BufferTooShort { found: len, expected: 544 };
        assert_eq!(sim[A].interface.poll_transmit(now, &mut out[..len]), Err(expected));
    }
    sim.flush(A);
    assert_eq!(sim.last_sent(A, Kind::Data).counter(), 0, "no counter was spent in vain");
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_packet_too_long_for_the_buffer_holds_up_its_own_peer_alone() {
    let mut bounds = Bounds::default();
    bounds.handshakes_per_second = 2;
    let mut sim = Sim::group_with(9, 3, Calls::Single, bounds);
    let [long, short] = [(B, &[9; 480][..]), (C, b"short")]
        .map(|(to, payload)| packet::v4(packet::inside(A), packet::inside(to), payload));
    let (now, mut out) = (sim.now, [0; 600]);
    for packet in [&long, &short] {
        assert_eq!(sim[A].interface.handle_packet(now, packet, &mut out), Ok(None));
    }
    sim.flush(A);
    sim.network.lose_kind(Kind::Response);
    sim.run_for(RTT);
    let now = sim.now;
    // The answers of both, and the initiation of a stranger, who is asked for a cookie.
    let mut messages =
        [B, C].map(|from| sim.last_sent(from, Kind::Response)).map(|sent| (sent.source, sent.bytes)).to_vec();
    let stranger = PrivateKey::from_bytes([5; 32]);
    let to = sim[A].private_key.public_key();
    messages.push((sim[C].address, forge::initiation(&stranger, to, secs(1_700_000_000), 1)));
    for (source, mut message) in messages {
        let path = adit::Path::to(source);
        assert_eq!(sim[A].interface.handle_datagram(now, &path, adit::Ecn::NotEct, &mut message), None);
    }
    let mut poll = |sim: &mut Sim| {
        let transmit = sim[A].interface.poll_transmit(now, &mut out[..200])?;
        Ok(transmit.map(|transmit| (transmit.peer, transmit.range.len())))
    };
    assert_eq!(poll(&mut sim), Ok(Some((Some(sim.id(A, C)), 32 + 32))));
    assert_eq!(poll(&mut sim), Ok(Some((None, 64))), "the cookie reply");
    for _ in 0..2 {
        assert_eq!(poll(&mut sim), Err(Error::BufferTooShort { found: 200, expected: 544 }));
    }
    sim.network.heal();
    sim.flush(A);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&long));
}

#[test]
fn drops_are_events_only_when_asked_for() {
    let mut sim = bounded(6, 10 * (28 + CHARGE), 1 << 20);
    sim.network.cut(A, B);
    sim.send_many(A, B, 11);
    assert_eq!(sim[A].events(), []);
    sim[A].interface.set_drop_events(true);
    sim.send_many(A, B, 1);
    let dropped = Event::PacketDropped { peer: Some(sim.id(A, B)), reason: DropReason::StagedOverflow };
    assert_eq!(sim[A].events(), [dropped]);
    sim[A].interface.set_drop_events(false);
    sim.send_many(A, B, 1);
    assert_eq!(sim[A].events(), []);
    assert_eq!(sim.drops(A, DropReason::StagedOverflow), 3);
}

#[test]
fn events_that_nobody_takes_are_bounded_and_the_newest_are_kept() {
    let mut bounds = Bounds::default();
    bounds.events = 5;
    let mut sim = Sim::group_with(7, 2, Calls::Single, bounds);
    sim[A].interface.set_drop_events(true);
    for _ in 0..10 {
        sim.send_packets(A, &[vec![0; 20]]);
    }
    sim.send_packets(A, &[packet::v4(packet::inside(A), [9, 9, 9, 9].into(), b"")]);
    let events = sim[A].events();
    assert_eq!(events.len(), 5);
    assert_eq!(events[4], Event::PacketDropped { peer: None, reason: DropReason::NoRoute });
    assert_eq!(events[3], Event::PacketDropped { peer: None, reason: DropReason::NotIp });
}

#[test]
fn reasons_for_drops_have_distinct_names_and_places() {
    let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), DropReason::COUNT);
    for (place, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(reason.index(), place);
    }
}

#[test]
fn what_a_link_that_goes_down_gives_up_leaves_room_and_is_counted() {
    // As much as may wait for all together, and more than each peer has whatever waits for others.
    const ALL: usize = 70;
    let mut sim = bounded(8, 1 << 20, ALL * (28 + CHARGE));
    for other in [B, C] {
        sim.network.cut(A, other);
        sim.send_many(A, other, ALL);
        assert_eq!(sim.drops(A, DropReason::StagedOverflow), 0, "node {other}");
        sim[A].interface.set_drop_events(true);
        sim[A].configure(Interface::link_down);
        let now = sim.now;
        sim[A].configure(|interface| interface.link_up(now));
    }
    assert_eq!((sim.drops(A, DropReason::HandshakeGaveUp), sim[A].events()), (2 * ALL as u64, vec![]));
}

#[test]
fn what_waited_for_a_peer_that_is_removed_leaves_room_and_is_counted() {
    const ALL: usize = 70;
    let mut sim = bounded(9, 1 << 20, ALL * (28 + CHARGE));
    for other in [B, C] {
        sim.network.cut(A, other);
        sim.send_many(A, other, ALL);
        assert_eq!(sim.drops(A, DropReason::StagedOverflow), 0, "node {other}");
        let peer = sim.id(A, other);
        assert!(sim[A].configure(|interface| interface.remove_peer(peer)));
    }
    assert_eq!(sim.drops(A, DropReason::PeerGone), 2 * ALL as u64);
}
