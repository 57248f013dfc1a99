//! A link that goes down and up, and one that leads into itself.

use adit::{Drop, Instant};

use crate::sim::{A, B, DELAY, Kind, RTT, Sim, packet, secs};

/// A UDP packet to an address and port, as from a socket behind the tunnel.
fn udp(destination: [u8; 4], port: u16) -> Vec<u8> {
    let ports = [&51820_u16.to_be_bytes()[..], &port.to_be_bytes(), &[0, 8, 0, 0]].concat();
    let mut packet = packet::v4(packet::inside(A), destination.into(), &ports);
    packet[9] = 17;
    packet
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
    sim.run_for(secs(30));
    let now = sim.now;
    sim[A].interface.link_up(now);
    sim.run_for(RTT + DELAY);
    assert!(sim.peer(A, B).has_session, "the persistent keepalive asks for one at once");
    let packet = sim.send(B, A);
    sim.run_for(DELAY);
    assert!(sim[A].has_arrived(&packet));
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
fn a_tunnel_whose_endpoint_is_routed_into_itself_does_not_eat_its_own_tail() {
    let mut sim = Sim::pair(5);
    let b = sim.id(A, B);
    sim[A].interface.add_allowed_ip(b, "0.0.0.0/0".parse().unwrap()).unwrap();
    sim.connect(A, B);
    let before = sim.count(A, Kind::Data);
    sim.send_packets(A, &[udp([192, 0, 2, 2], 51820)]);
    assert_eq!((sim.drops(A, Drop::RoutingLoop), sim.count(A, Kind::Data)), (1, before));
    // Other traffic to that host is none of our business.
    for other in [udp([192, 0, 2, 2], 53), udp([192, 0, 2, 3], 51820)] {
        sim.send_packets(A, &[other]);
    }
    assert_eq!((sim.drops(A, Drop::RoutingLoop), sim.count(A, Kind::Data)), (1, before + 2));
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
