//! A link that goes down and up, and one that leads into itself.

use adit::{DropReason, Ecn, Instant, Path};

use crate::sim::{A, B, C, DELAY, Kind, RTT, Sent, Sim, packet, secs};

/// A UDP packet to an address and port, as from a socket behind the tunnel.
fn udp(destination: [u8; 4], port: u16, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let header = [51820, port, len, 0].map(u16::to_be_bytes).concat();
    let mut packet = packet::v4(packet::inside(A), destination.into(), &[&header[..], payload].concat());
    packet[9] = 17;
    packet
}

/// A's tunnel to B takes everything, its own datagrams included. There is a third node.
fn tunnel_that_leads_into_itself(seed: u64) -> Sim {
    let mut sim = Sim::group(seed, 3);
    let b = sim.id(A, B);
    sim[A].interface.add_allowed_ip(b, "0.0.0.0/0".parse().unwrap()).unwrap();
    sim
}

/// A datagram of A's to B comes back to A's inside; nothing may come of it but a count.
#[track_caller]
fn assert_is_not_carried(sim: &mut Sim, datagram: &Sent) {
    let (before, wire) = (sim.drops(A, DropReason::RoutingLoop), sim.wire.len());
    sim.send_packets(A, &[udp([192, 0, 2, 2], 51820, &datagram.bytes)]);
    assert_eq!(sim.drops(A, DropReason::RoutingLoop), before + 1, "{:?}", datagram.kind());
    assert_eq!(sim.wire.len(), wire, "{:?}", datagram.kind());
}

#[test]
fn a_link_that_goes_down_gives_up_sessions_and_deadlines_and_what_waits() {
    let mut sim = Sim::group(1, 3);
    sim.connect(A, B);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 10).unwrap();
    sim.run_for(secs(1));
    let before = sim.send(B, A);
    // Somebody else's handshake is under way, and a packet waits for it.
    sim.send(A, crate::sim::C);
    sim[A].interface.link_down();
    sim.network.cut(B, A);
    let sent = sim.wire.len();
    assert_eq!(sim[A].interface.poll_timeout(), None);
    assert!(!sim[A].interface.has_handshakes() && !sim[A].interface.has_transmits());
    assert!(!sim.peer(A, B).has_session);
    sim.run_for(secs(100));
    // Not even what was on its way already leads to anything.
    assert!(!sim[A].has_arrived(&before));
    assert!(sim.wire[sent..].iter().all(|datagram| datagram.from != A));
    // Configuration and counters stay.
    assert!(sim.peer(A, B).persistent_keepalive == 10 && sim.peer(A, B).tx_bytes > 0);
    assert!(sim.peer(A, B).endpoint.is_some() && sim.peer(A, B).last_handshake.is_some());
}

#[test]
fn a_link_that_comes_up_again_makes_its_sessions_anew() {
    let mut sim = Sim::pair(2);
    sim.connect(A, B);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 10).unwrap();
    sim[A].interface.link_down();
    sim.network.cut_both(A, B);
    sim.run_for(secs(30));
    sim.network.heal();
    let now = sim.now;
    sim[A].interface.link_up(now);
    sim.run_for(RTT + DELAY);
    assert!(sim.peer(A, B).has_session, "the persistent keepalive asks for one at once");
    assert_eq!(sim.count(A, Kind::Initiation), 2);
    let packet = sim.send(B, A);
    sim.run_for(DELAY);
    assert!(sim[A].has_arrived(&packet));
}

#[test]
fn a_link_that_comes_up_again_goes_on_with_nothing_that_was_due_before() {
    let mut sim = Sim::pair(13);
    sim.connect(A, B);
    // Unless an answer comes, a new session is due.
    sim.network.cut_both(A, B);
    sim.send(A, B);
    sim[A].interface.link_down();
    let sent = sim.wire.len();
    let now = sim.now;
    sim[A].interface.link_up(now);
    sim.run_for(secs(100));
    assert_eq!(sim.wire[sent..].iter().filter(|datagram| datagram.from == A).count(), 0);
}

#[test]
fn handshakes_that_are_wanted_when_the_link_goes_down_are_not_begun() {
    let mut sim = Sim::pair(3);
    let now = sim.now;
    let packet = packet::v4(packet::inside(A), packet::inside(B), b"");
    // Given in steps: nobody has computed the handshake yet.
    let mut buffer = [0; 64];
    buffer[16..36].copy_from_slice(&packet);
    let mut burst = adit::Packets::new(1420);
    burst.push(0, 20).unwrap();
    let sealed = sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
    assert_eq!(sealed.transmits().count(), 0);
    assert!(sim[A].interface.has_handshakes());
    sim[A].interface.link_down();
    assert!(sim[A].interface.poll_handshake(now).is_none());
    // And it is no obstacle to one later on.
    sim[A].interface.link_up(now);
    sim.connect(A, B);
}

#[test]
fn what_waited_when_the_link_went_down_does_not_arrive_later() {
    let mut sim = Sim::pair(4);
    sim.network.cut(A, B);
    let stale = sim.send_many(A, B, 5);
    sim[A].interface.link_down();
    sim.network.heal();
    let now = sim.now;
    sim[A].interface.link_up(now);
    sim.connect(A, B);
    assert!(stale.iter().all(|packet| !sim[B].has_arrived(packet)));
}

#[test]
fn what_was_ready_to_be_sent_when_the_link_went_down_is_not_sent_and_no_obstacle_later() {
    let mut sim = Sim::pair(14);
    let (now, b, mut buffer) = (sim.now, sim.id(A, B), [0; 148]);
    // An initiation.
    sim[A].interface.initiate_handshake(b).unwrap();
    sim[A].interface.handle_timeout(now);
    assert!(sim[A].interface.has_peer_transmits());
    sim[A].interface.link_down();
    assert_eq!(sim[A].interface.poll_transmit(now, &mut buffer), Ok(None));
    // A packet whose session has just come about.
    sim.network.lose_kind(Kind::Response);
    sim.send(A, B);
    sim.run_for(DELAY);
    let mut response = sim.last_sent(B, Kind::Response);
    let (now, path) = (sim.now, Path::to(response.source));
    assert_eq!(sim[A].interface.handle_datagram(now, &path, Ecn::NotEct, &mut response.bytes), None);
    assert!(sim[A].interface.has_peer_transmits());
    sim[A].interface.link_down();
    assert!(!sim[A].interface.has_peer_transmits());
    sim.network.heal();
    // B takes no more than fifty initiations a second.
    sim.run_for(secs(1));
    let now = sim.now;
    sim[A].interface.link_up(now);
    sim.connect(A, B);
}

#[test]
fn a_tunnel_whose_endpoint_is_routed_into_itself_does_not_eat_its_own_tail() {
    let mut sim = tunnel_that_leads_into_itself(5);
    // Before there is a session, when a packet would wait for one.
    sim.send(A, B);
    let initiation = sim.last_sent(A, Kind::Initiation);
    assert_is_not_carried(&mut sim, &initiation);
    sim.run_for(RTT * 2);
    // And with one; the keepalive ends the silence after the data that came.
    sim.connect(A, B);
    sim.run_for(secs(15));
    for kind in [Kind::Data, Kind::Keepalive] {
        let datagram = sim.last_sent(A, kind);
        assert_is_not_carried(&mut sim, &datagram);
    }
    // Nor what was still on its way when another session followed.
    let late = sim.last_sent(A, Kind::Data);
    sim.run_for(secs(121));
    sim.connect(A, B);
    assert_ne!(sim.last_index(A), late.first_index());
    assert_is_not_carried(&mut sim, &late);
    // Its answer to a handshake that B has begun, before and after B has used the session.
    let mut sim = tunnel_that_leads_into_itself(7);
    sim.send(B, A);
    sim.run_for(DELAY);
    let response = sim.last_sent(A, Kind::Response);
    assert_is_not_carried(&mut sim, &response);
    sim.run_for(RTT);
    assert_is_not_carried(&mut sim, &response);
    assert_eq!(sim.count(A, Kind::Data), 0);
}

#[test]
fn a_datagram_to_an_endpoint_that_is_written_as_ipv6_is_not_carried_either() {
    let mut sim = tunnel_that_leads_into_itself(8);
    sim.connect(A, B);
    let b = sim.id(A, B);
    let datagram = sim.last_sent(A, Kind::Data);
    sim[A].interface.set_endpoint(b, Some("[::ffff:192.0.2.2]:51820".parse().unwrap())).unwrap();
    assert_is_not_carried(&mut sim, &datagram);
}

#[test]
fn what_others_send_to_the_endpoint_is_carried() {
    let mut sim = tunnel_that_leads_into_itself(8);
    sim.connect(A, B);
    sim.connect(C, B);
    // C has a tunnel to B as well, whose datagrams may be routed through A's.
    let of_c = [Kind::Initiation, Kind::Data].map(|kind| sim.last_sent(C, kind).bytes);
    let payloads = [vec![], b"a question".to_vec(), vec![4, 0, 0, 0], vec![0; 148]].into_iter().chain(of_c);
    let packets = payloads.map(|payload| udp([192, 0, 2, 2], 51820, &payload));
    // And other traffic to that host, or to others.
    let own = sim.last_sent(A, Kind::Data).bytes;
    let others = [([192, 0, 2, 2], 53), ([192, 0, 2, 3], 51820)];
    let others = others.into_iter().flat_map(|(host, port)| [udp(host, port, b""), udp(host, port, &own)]);
    for packet in packets.chain(others) {
        sim.send_packets(A, std::slice::from_ref(&packet));
        sim.run_for(DELAY);
        assert!(sim[B].has_arrived(&packet), "{packet:?}");
    }
    assert_eq!(sim.drops(A, DropReason::RoutingLoop), 0);
}

#[test]
fn a_quick_look_at_what_is_due_never_misses_a_deadline() {
    let mut sim = Sim::pair(6);
    let (now, b) = (sim.now, sim.id(A, B));
    assert!(!sim[A].interface.may_be_due_before(Instant::from_nanos(u64::MAX)));
    sim[A].interface.set_persistent_keepalive(now, b, 7).unwrap();
    for _ in 0..200 {
        let deadline = sim[A].interface.poll_timeout().unwrap();
        assert!(!sim[A].interface.may_be_due_before(deadline));
        assert!(sim[A].interface.may_be_due_before(deadline + std::time::Duration::from_nanos(1)));
        sim.send(B, A);
        sim.run_for(crate::sim::millis(613));
        sim.send(A, B);
        let deadline = sim.now + secs(3_600);
        assert!(sim[A].interface.may_be_due_before(deadline));
    }
}
