//! What strangers send, whether or not they know the public key: it counts as load only if it could cost something, and
//! it takes turns with the sessions that are wanted here, so that neither has to wait for all of the other.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use adit::{Bounds, Datagrams, DropReason, Ecn, Packets, Path, PublicKey};

use crate::cookies::{address, junk};
use crate::sim::{A, B, C, Kind, Sim, UNIX_START, forge, millis, packet, secs};

/// How many handshakes may be computed before one that waits has its turn.
const PATIENCE: usize = 8;

/// Lets a handshake message arrive, of which nothing is computed yet.
fn arrive(sim: &mut Sim, to: usize, source: SocketAddr, message: &[u8]) {
    let (now, mut buffer) = (sim.now, message.to_vec());
    let mut burst = Datagrams::new();
    assert!(burst.push(0..buffer.len(), &Path::to(source), Ecn::NotEct));
    let opened = sim[to].interface.begin_open(now, burst, &buffer).open(&mut buffer);
    assert_eq!(sim[to].interface.commit(now, opened, &mut buffer).packets().count(), 0);
}

/// A has a packet for an address to which there is no session; nothing is computed yet.
fn want_session(sim: &mut Sim, to: Ipv4Addr) {
    let now = sim.now;
    let mut buffer = [0; 64];
    buffer[16..36].copy_from_slice(&packet::v4(packet::inside(A), to, b""));
    let mut burst = Packets::new(1420);
    burst.push(0, 20).unwrap();
    let sealed = sim[A].interface.begin_seal(now, burst, &buffer).seal(&mut buffer);
    assert_eq!(sealed.transmits().count(), 0);
}

/// Computes one handshake of A's to its end, and sends what comes of it.
fn compute_one(sim: &mut Sim) {
    let now = sim.now;
    let mut next = sim[A].interface.poll_handshake(now);
    while let Some(work) = next {
        next = sim[A].interface.finish_handshake(now, work.compute());
    }
    sim.flush(A);
}

#[test]
fn messages_with_a_wrong_mac1_are_no_load_however_many_come() {
    let mut sim = Sim::pair(1);
    for number in 0..2_000 {
        let mut message = junk(&sim, B, number.into());
        message[116] ^= 1;
        sim.inject(B, address(number), &message);
    }
    assert_eq!(sim.drops(B, DropReason::BadMac1), 2_000);
    sim.connect(A, B);
    assert_eq!(sim.count(B, Kind::CookieReply), 0);
}

#[test]
fn a_stranger_who_never_stops_does_not_keep_a_session_waiting_that_is_wanted_here() {
    for is_proven in [false, true] {
        let mut bounds = Bounds::default();
        if is_proven {
            bounds.handshakes_per_second = 0;
        }
        let mut sim = Sim::new(2);
        for _ in [A, B, C] {
            sim.add_node(bounds);
        }
        sim.introduce(A, B);
        sim.introduce(C, A);
        sim.send(C, A);
        sim.run_for(secs(6));
        let initiation = sim.last_sent(C, Kind::Initiation);
        assert_eq!(initiation.bytes[132..] != [0; 16], is_proven, "a cookie proves the address");
        let before = sim.drops(A, DropReason::UnknownPeer);
        assert!(before > 0, "to A it is a stranger's");

        want_session(&mut sim, packet::inside(B));
        arrive(&mut sim, A, initiation.source, &initiation.bytes);
        let has_begun = (0..PATIENCE).any(|_| {
            // One more each time, as fast as one address may send: there is always another one waiting.
            sim.now += millis(50);
            arrive(&mut sim, A, initiation.source, &initiation.bytes);
            compute_one(&mut sim);
            sim.count(A, Kind::Initiation) > 0
        });
        assert!(has_begun, "proven: {is_proven}");
        assert_eq!((sim.drops(A, DropReason::RateLimited), sim[A].interface.has_handshakes()), (0, true));
    }
}

#[test]
fn sessions_that_are_wanted_by_the_thousand_do_not_keep_a_message_waiting_that_has_come() {
    let mut sim = Sim::pair(3);
    for number in 0..2_000_u32 {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        let inside = Ipv4Addr::from_bits(0x0a01_0000 + number);
        let interface = &mut sim[A].interface;
        let peer = interface.add_peer(PublicKey::from_bytes(key)).unwrap();
        interface.set_endpoint(peer, Some(address(number))).unwrap();
        interface.add_allowed_ip(peer, IpAddr::from(inside).into()).unwrap();
        want_session(&mut sim, inside);
    }
    let to = sim[A].private_key.public_key();
    let initiation = forge::initiation(&sim[B].private_key, to, UNIX_START, 3);
    let source = sim[B].address;
    arrive(&mut sim, A, source, &initiation);
    let is_answered = (0..PATIENCE).any(|_| {
        compute_one(&mut sim);
        sim.count(A, Kind::Response) > 0
    });
    assert!(is_answered && sim[A].interface.has_handshakes());
}

#[test]
fn what_comes_in_while_the_link_is_down_leaves_no_handshake_behind_and_is_no_obstacle_later() {
    let mut sim = Sim::pair(4);
    sim[A].interface.link_down();
    for number in 0..64 {
        let message = junk(&sim, A, number.into());
        arrive(&mut sim, A, address(number), &message);
    }
    want_session(&mut sim, packet::inside(B));
    assert!(sim[A].interface.has_handshakes());
    let now = sim.now;
    let interface = &mut sim[A].interface;
    interface.discard_handshakes();
    assert!(!interface.has_handshakes() && interface.poll_handshake(now).is_none());
    interface.link_up(now);
    sim.connect(A, B);
}
