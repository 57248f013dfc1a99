//! What waits under load, cookie replies and handshake messages: how much there may be, and whom it keeps waiting.

use adit::{Bounds, Datagrams, DropReason, Ecn, Interface, Path};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use crate::cookies::{address, junk};
use crate::sim::{A, B, Calls, Kind, RTT, Sim, UNIX_START, packet, secs};

/// B has room for ten cookie replies, and sixty strangers have come that nobody has answered yet.
fn with_ten_replies_waiting(seed: u64) -> Sim {
    let mut bounds = Bounds::default();
    bounds.handshakes_per_second = 0;
    bounds.outgoing = 10;
    let mut sim = Sim::group_with(seed, 2, Calls::Single, bounds);
    let now = sim.now;
    for number in 0..60 {
        let mut message = junk(&sim, B, number.into());
        let path = Path::to(address(number));
        assert_eq!(sim[B].interface.handle_datagram(now, &path, Ecn::NotEct, &mut message), None);
    }
    sim
}

#[test]
fn answers_that_nobody_fetches_are_bounded() {
    let mut sim = with_ten_replies_waiting(18);
    assert_eq!((sim.drops(B, DropReason::CookieSent), sim.drops(B, DropReason::ReplyQueueFull)), (10, 50));
    sim.flush(B);
    assert_eq!(sim.count(B, Kind::CookieReply), 10);
}

#[test]
fn strangers_keep_back_nothing_that_is_for_peers() {
    let mut sim = with_ten_replies_waiting(21);
    let now = sim.now;
    // B wants a session while there is no room for one more cookie reply.
    let peer = sim[B].interface.peers(now).next().unwrap().id;
    sim[B].interface.set_persistent_keepalive(now, peer, 1).unwrap();
    sim[B].interface.handle_timeout(now);

    let mut buffer = [0; 148];
    assert!(sim[B].interface.has_peer_transmits());
    let first = sim[B].interface.poll_peer_transmit(now, &mut buffer).unwrap().unwrap();
    assert_eq!((first.peer, first.range.len()), (Some(peer), 148));
    assert_eq!(sim[B].interface.poll_peer_transmit(now, &mut buffer).unwrap(), None);
    assert!(!sim[B].interface.has_peer_transmits() && sim[B].interface.has_cookie_replies());
    let others = std::iter::from_fn(|| sim[B].interface.poll_transmit(now, &mut buffer).unwrap());
    assert_eq!(others.map(|reply| (reply.peer, reply.range.len())).collect::<Vec<_>>(), [(None, 64); 10]);
    assert!(!sim[B].interface.has_cookie_replies());
}

#[test]
fn strangers_keep_back_nothing_that_is_for_peers_in_the_next_process_either() {
    let sim = with_ten_replies_waiting(22);
    let snapshot = sim[B].interface.snapshot(sim.now);
    let mut bounds = Bounds::default();
    bounds.outgoing = 4;
    let rng = Box::new(ChaCha8Rng::seed_from_u64(22));
    let mut next = Interface::restore(snapshot, sim.now, UNIX_START, rng, bounds).unwrap();
    assert!(!next.has_peer_transmits() && next.has_cookie_replies());
    let mut buffer = [0; 148];
    let replies = std::iter::from_fn(|| next.poll_transmit(sim.now, &mut buffer).unwrap());
    assert_eq!(replies.map(|reply| (reply.peer, reply.range.len())).collect::<Vec<_>>(), [(None, 64); 4]);
    assert_eq!(next.drops().get(DropReason::ReplyQueueFull), 50 + 6);
}

#[test]
fn bursts_that_are_checked_at_the_same_time_keep_the_bounds_together() {
    let mut bounds = Bounds::default();
    bounds.handshake_queue = 16;
    bounds.outgoing = 5;
    let mut sim = Sim::group_with(22, 2, Calls::Steps, bounds);
    let now = sim.now;
    let path = Path::to(address(1));
    let bursts: Vec<_> = (0..4)
        .map(|burst| {
            let mut buffer: Vec<u8> = (0..10).flat_map(|number| junk(&sim, B, burst * 10 + number)).collect();
            let mut datagrams = Datagrams::new();
            for number in 0..10 {
                assert!(datagrams.push(number * 148..(number + 1) * 148, &path, Ecn::NotEct));
            }
            let opened = sim[B].interface.begin_open(now, datagrams, &buffer).open(&mut buffer);
            (opened, buffer)
        })
        .collect();
    // Each burst was judged while nothing was queued: its first two messages are no load yet, and there is room for
    // five replies.
    for (opened, mut buffer) in bursts {
        assert_eq!(sim[B].interface.commit(now, opened, &mut buffer).packets().count(), 0);
    }
    assert_eq!(std::iter::from_fn(|| sim[B].interface.poll_handshake(now)).count(), 8);
    assert_eq!((sim.drops(B, DropReason::CookieSent), sim.drops(B, DropReason::ReplyQueueFull)), (5, 27));
    assert_eq!(sim[B].interface.drops().iter().map(|(_, count)| count).sum::<u64>(), 32);
}

#[test]
fn a_full_queue_of_handshakes_refuses_more() {
    let mut bounds = Bounds::default();
    bounds.handshakes_per_second = 0;
    bounds.handshake_queue = 3;
    let mut sim = Sim::group_with(19, 2, Calls::Single, bounds);
    sim.send(A, B);
    sim.run_for(RTT);
    sim.network.cut(A, B);
    sim.run_for(secs(6));
    let initiation = sim.last_sent(A, Kind::Initiation);
    let now = sim.now;
    let path = Path::to(initiation.source);
    for _ in 0..5 {
        let mut burst = Datagrams::new();
        assert!(burst.push(0..148, &path, Ecn::NotEct));
        let mut buffer = initiation.bytes.clone();
        let opened = sim[B].interface.begin_open(now, burst, &buffer).open(&mut buffer);
        assert_eq!(sim[B].interface.commit(now, opened, &mut buffer).packets().count(), 0);
    }
    assert_eq!(sim.drops(B, DropReason::HandshakeQueueFull), 2);
}

#[test]
fn as_many_messages_for_peers_wait_to_be_sent_as_there_is_room_for_and_no_more() {
    let mut bounds = Bounds::default();
    bounds.outgoing = 2;
    let mut sim = Sim::group_with(23, 4, Calls::Single, bounds);
    let (now, mut buffer) = (sim.now, [0; 148]);
    for other in 1..4 {
        let packet = packet::v4(packet::inside(A), packet::inside(other), b"");
        assert_eq!(sim[A].interface.handle_packet(now, &packet, &mut buffer), Ok(None));
    }
    assert_eq!(sim.drops(A, DropReason::ReplyQueueFull), 1);
    sim.flush(A);
    assert_eq!(sim.count(A, Kind::Initiation), 2);
}
