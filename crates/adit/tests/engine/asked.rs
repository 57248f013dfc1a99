//! What a caller may ask for beside packets, and what it is told about peers.

use adit::{Bounds, DropReason, Event, PresharedKey, PublicKey};

use crate::sim::{A, B, Calls, DELAY, Kind, RTT, Sim, UNIX_START, forge, millis, secs};

const ELSEWHERE: &str = "198.51.100.7:4242";

#[test]
fn a_new_session_is_made_when_it_is_asked_for_though_there_is_one() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    sim.run_for(secs(6));
    let (a, b) = (sim.id(B, A), sim.id(A, B));
    let first = sim.peer(A, B).session_made;
    // Another preshared key counts from the next handshake on.
    let key = PresharedKey::from_bytes([7; 32]);
    sim[A].configure(|interface| interface.set_preshared_key(b, Some(key.clone())).unwrap());
    sim[B].configure(|interface| interface.set_preshared_key(a, Some(key)).unwrap());
    sim[A].configure(|interface| interface.initiate_handshake(b).unwrap());
    sim.run_for(RTT);
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Response)), (2, 2));
    assert!(sim.peer(A, B).session_made > first);
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_session_that_is_asked_for_again_and_again_is_asked_of_the_peer_every_five_seconds() {
    let mut sim = Sim::pair(2);
    let b = sim.id(A, B);
    sim.network.cut_both(A, B);
    for _ in 0..60 {
        sim[A].configure(|interface| interface.initiate_handshake(b).unwrap());
        sim.run_for(secs(1) / 4);
    }
    assert_eq!(sim.count(A, Kind::Initiation), 3);
}

#[test]
fn an_empty_packet_is_sent_when_it_is_asked_for_and_makes_the_session_that_it_needs() {
    let mut sim = Sim::pair(3);
    let b = sim.id(A, B);
    sim[A].configure(|interface| interface.send_keepalive(b).unwrap());
    sim.run_for(RTT * 2);
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(A, Kind::Keepalive)), (1, 1));
    sim[A].address = ELSEWHERE.parse().unwrap();
    sim[A].configure(|interface| interface.send_keepalive(b).unwrap());
    sim.run_for(secs(30));
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(A, Kind::Keepalive)), (1, 2), "one is one");
    assert_eq!(sim.peer(B, A).endpoint, Some(ELSEWHERE.parse().unwrap()));
}

#[test]
fn without_an_endpoint_or_a_private_key_nothing_that_is_asked_for_happens() {
    let mut sim = Sim::pair(4);
    let b = sim.id(A, B);
    let endpoint = sim.peer(A, B).endpoint;
    sim[A].interface.set_endpoint(b, None).unwrap();
    for has_key in [true, false] {
        if !has_key {
            sim[A].interface.set_private_key(None);
            sim[A].interface.set_endpoint(b, endpoint).unwrap();
        }
        sim[A].configure(|interface| interface.initiate_handshake(b).unwrap());
        sim[A].configure(|interface| interface.send_keepalive(b).unwrap());
        assert_eq!(sim[A].interface.poll_timeout(), None, "key: {has_key}");
        sim.run_for(secs(1));
        assert_eq!((sim.sent(A, Kind::Initiation).len(), sim[A].events()), (0, vec![]), "key: {has_key}");
    }
}

#[test]
fn an_endpoint_that_is_not_to_roam_stays_whatever_comes_from_elsewhere() {
    let mut sim = Sim::pair(5);
    let a = sim.id(B, A);
    let home = sim[A].address;
    sim[B].interface.set_roaming(a, false).unwrap();
    sim[A].address = ELSEWHERE.parse().unwrap();
    sim.send(A, B);
    sim.run_for(RTT);
    assert_eq!(sim.last_sent(B, Kind::Response).path.remote, home, "the answer goes to the endpoint");
    sim[A].address = home;
    sim.run_for(secs(6));
    sim[A].address = ELSEWHERE.parse().unwrap();
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet), "what is authentic is let in");
    assert_eq!(sim.peer(B, A).endpoint, Some(home));
    let moved = |event: &Event| matches!(event, Event::EndpointMoved { .. });
    assert!(!sim[B].events().iter().any(moved));
    // What was not set is learned, and then stays.
    sim[B].interface.set_endpoint(a, None).unwrap();
    sim.send(A, B);
    sim.run_for(RTT);
    sim[A].address = home;
    sim.send(A, B);
    sim.run_for(RTT);
    assert_eq!(sim.peer(B, A).endpoint, Some(ELSEWHERE.parse().unwrap()));
}

#[test]
fn for_how_long_a_peer_has_not_answered_is_told_while_packets_keep_the_attempts_going() {
    let mut sim = Sim::pair(6);
    sim.network.cut_both(A, B);
    assert_eq!(sim.peer(A, B).attempting_since, None);
    let began = sim.now;
    for _ in 0..200 {
        sim.send(A, B);
        sim.run_for(secs(1));
    }
    assert_eq!(sim.peer(A, B).attempting_since, Some(began));
    assert!(!sim[A].events().contains(&Event::HandshakeGaveUp { peer: sim.id(A, B) }));
    sim.network.heal();
    sim.run_for(secs(6));
    let state = sim.peer(A, B);
    assert!(state.has_session && state.attempting_since.is_none());
}

#[test]
fn when_a_peer_was_last_heard_from_is_told_by_the_clock_that_is_not_set() {
    let mut sim = Sim::pair(7);
    assert_eq!((sim.peer(A, B).last_received, sim.peer(A, B).session_made), (None, None));
    sim.connect(A, B);
    let made = sim.peer(A, B).session_made;
    sim.run_for(secs(60));
    sim.send(B, A);
    sim.run_for(RTT);
    let heard = sim.peer(A, B).last_received.unwrap();
    assert!(sim.now.saturating_since(heard) < RTT);
    assert!(made.is_some() && sim.peer(A, B).session_made == made);
    sim[A].interface.link_down();
    assert_eq!((sim.peer(A, B).last_received, sim.peer(A, B).session_made), (Some(heard), None));
}

#[test]
fn who_knocks_is_told_if_it_is_asked_for() {
    let mut sim = Sim::pair(8);
    let stranger = adit::PrivateKey::from_bytes([9; 32]);
    let to = sim[B].private_key.public_key();
    let knock = |sim: &mut Sim, seed| {
        let message = forge::initiation(&stranger, to, UNIX_START, seed);
        sim.inject(B, ELSEWHERE.parse().unwrap(), &message);
        sim[B].events()
    };
    assert_eq!(knock(&mut sim, 1), []);
    sim[B].interface.set_drop_events(true);
    let knocked = Event::UnknownPeer { public_key: stranger.public_key(), from: ELSEWHERE.parse().unwrap() };
    let dropped = Event::PacketDropped { peer: None, reason: DropReason::UnknownPeer };
    assert_eq!(knock(&mut sim, 2), [knocked, dropped]);
}

#[test]
fn what_strangers_can_cause_pushes_nothing_else_out_of_the_queue_of_events() {
    let mut bounds = Bounds::default();
    bounds.events = 4;
    let mut sim = Sim::group_with(9, 2, Calls::Single, bounds);
    sim[B].interface.set_drop_events(true);
    let noise = |sim: &mut Sim| {
        for _ in 0..9 {
            sim.inject(B, ELSEWHERE.parse().unwrap(), &[0; 5]);
        }
    };
    noise(&mut sim);
    sim.connect(A, B);
    noise(&mut sim);
    let events = sim[B].events();
    assert_eq!(events.len(), 4);
    assert!(events.contains(&Event::HandshakeCompleted { peer: sim.id(B, A) }), "{events:?}");
}

#[test]
fn with_the_smallest_bounds_handshakes_still_succeed() {
    let mut bounds = Bounds::default();
    (bounds.handshake_queue, bounds.outgoing) = (0, 0);
    let mut sim = Sim::group_with(10, 2, Calls::Single, bounds);
    sim.connect(A, B);
    assert!(sim.peer(A, B).has_session);
}

#[test]
fn that_no_session_can_be_made_with_a_key_of_small_order_is_told() {
    let mut sim = Sim::pair(11);
    let nobody = sim[A].interface.add_peer(PublicKey::from_bytes([0; 32])).unwrap();
    sim[A].interface.set_endpoint(nobody, Some(ELSEWHERE.parse().unwrap())).unwrap();
    sim[A].configure(|interface| interface.initiate_handshake(nobody).unwrap());
    sim.run_for(secs(1));
    assert_eq!(sim[A].events(), [Event::HandshakeGaveUp { peer: nobody }]);
    assert_eq!(sim.count(A, Kind::Initiation), 0);
}

#[test]
fn packets_whose_session_ends_before_they_are_fetched_wait_for_a_deadline_and_not_for_other_packets() {
    let mut sim = Sim::pair(12);
    let packet = sim.send(A, B);
    sim.run_for(RTT / 2);
    // The response is there, and nobody fetches the packet that may go now: the machine sleeps.
    let response = sim.last_sent(B, Kind::Response);
    let (source, mut bytes) = (response.source, response.bytes);
    let mut now = sim.clock(A);
    let path = adit::Path::to(source);
    let _ = sim[A].interface.handle_datagram(now, &path, adit::Ecn::NotEct, &mut bytes);
    assert!(sim[A].interface.has_peer_transmits());
    now += secs(200);
    let mut buffer = [0; 2_048];
    while let Some(transmit) = sim[A].interface.poll_transmit(now, &mut buffer).unwrap() {
        assert_ne!(buffer[transmit.range.start], 4, "its session has expired");
    }
    assert!(sim[A].interface.poll_timeout().is_some_and(|deadline| deadline <= now));
    sim[A].interface.handle_timeout(now);
    let next = sim[A].interface.poll_transmit(now, &mut buffer).unwrap().unwrap();
    assert_eq!(buffer[next.range][0], 1, "an initiation, for {packet:?}");
}

#[test]
fn a_session_that_is_asked_for_after_answering_is_made_though_the_one_answered_is_used_meanwhile() {
    let mut sim = Sim::pair(13);
    sim.send(A, B);
    sim.run_for(DELAY);
    let (a, b) = (sim.id(B, A), sim.id(A, B));
    sim.run_for(DELAY + millis(1));
    assert!(sim.peer(A, B).has_session && !sim.peer(B, A).has_session);
    // The first packet is on its way, in a session that knows of no such key.
    let key = PresharedKey::from_bytes([7; 32]);
    sim[A].configure(|interface| interface.set_preshared_key(b, Some(key.clone())).unwrap());
    sim[B].configure(|interface| interface.set_preshared_key(a, Some(key)).unwrap());
    sim[B].configure(|interface| interface.initiate_handshake(a).unwrap());
    sim.run_for(secs(5) - DELAY);
    assert!(sim.peer(B, A).has_session);
    assert_eq!(sim.count(B, Kind::Initiation), 0, "no sooner than 5 s after the answer");
    sim.run_for(secs(60));
    assert_eq!((sim.count(B, Kind::Initiation), sim.count(A, Kind::Initiation)), (1, 1));
}

#[test]
fn a_session_that_is_asked_for_while_a_response_is_on_its_way_is_another_one() {
    // The deadline may have been handled when the response comes, or not.
    for is_handled in [true, false] {
        let mut sim = Sim::pair(14);
        sim.network.cut(B, A);
        sim.send(A, B);
        sim.run_for(RTT - millis(1));
        let (b, response) = (sim.id(A, B), sim.last_sent(B, Kind::Response));
        sim[A].configure(|interface| interface.initiate_handshake(b).unwrap());
        if is_handled {
            sim.run_for(millis(1));
        }
        sim.network.heal();
        sim.replay(A, &response);
        sim.run_for(secs(5) - RTT);
        assert!(sim.peer(A, B).has_session);
        assert_eq!(sim.count(A, Kind::Initiation), 1, "no sooner than 5 s after the last one");
        sim.run_for(secs(60));
        assert_eq!(sim.count(A, Kind::Initiation), 2, "handled: {is_handled}");
    }
}

#[test]
fn an_initiation_that_was_asked_for_is_not_given_up_for_a_session_answered_before() {
    let mut sim = Sim::pair(15);
    sim.send(A, B);
    sim.run_for(DELAY);
    sim.network.cut_both(A, B);
    let a = sim.id(B, A);
    let response = sim.last_sent(B, Kind::Response);
    sim.replay(A, &response);
    let first = sim.last_sent(A, Kind::Data);
    sim[B].configure(|interface| interface.initiate_handshake(a).unwrap());
    sim.run_until_done(secs(6), |sim| sim.count(B, Kind::Initiation) == 1).unwrap();
    // Only now the first packet arrives in the session that B answered 5 s ago.
    sim.replay(B, &first);
    sim.network.heal();
    sim.run_for(secs(6));
    assert!(sim.peer(B, A).session_made.unwrap() > first.at, "a session later than the request");
    assert_eq!(sim.count(A, Kind::Response), 1);
}

#[test]
fn when_both_ends_ask_at_about_the_same_time_each_has_a_session_begun_after_it_asked() {
    for skew in 0..40 {
        let mut sim = Sim::pair(100 + skew);
        sim.connect(A, B);
        sim.run_for(secs(6));
        let (a, b) = (sim.id(B, A), sim.id(A, B));
        let asked = sim.now + millis(skew);
        let mut packets = Vec::new();
        for step in 0..200 {
            packets.push((B, sim.send(A, B)));
            packets.push((A, sim.send(B, A)));
            if step == 0 {
                sim[A].configure(|interface| interface.initiate_handshake(b).unwrap());
            }
            if step == skew {
                sim[B].configure(|interface| interface.initiate_handshake(a).unwrap());
            }
            sim.run_for(millis(1));
        }
        sim.run_for(secs(10));
        assert!(packets.iter().all(|(to, packet)| sim[*to].has_arrived(packet)), "skew {skew}");
        let of_a = sim.peer(A, B).session_made.unwrap();
        let of_b = sim.peer(B, A).session_made.unwrap();
        assert!(of_a >= asked && of_b >= asked, "skew {skew}");
        let asked_for = sim.count(A, Kind::Initiation) + sim.count(B, Kind::Initiation) - 1;
        assert!((1..=2).contains(&asked_for), "skew {skew}: {asked_for}");
    }
}

#[test]
fn a_request_that_was_given_up_is_over() {
    let mut sim = Sim::pair(16);
    let (a, home) = (sim.id(B, A), sim[A].address);
    sim[B].configure(|interface| interface.initiate_handshake(a).unwrap());
    sim[B].configure(|interface| interface.set_endpoint(a, None).unwrap());
    sim.run_for(secs(1));
    assert_eq!(sim[B].events(), [Event::HandshakeGaveUp { peer: a }]);
    sim[B].configure(|interface| interface.set_endpoint(a, Some(home)).unwrap());
    // B answers, and has something to send before it may use the session.
    let there = sim.send(A, B);
    sim.run_for(DELAY);
    let back = sim.send(B, A);
    sim.run_for(secs(60));
    assert!(sim[B].has_arrived(&there) && sim[A].has_arrived(&back));
    assert_eq!(sim.count(B, Kind::Initiation), 0);
}

#[test]
fn a_session_that_is_asked_for_late_in_an_attempt_is_tried_for_another_90_s() {
    let mut sim = Sim::pair(26);
    sim.network.cut_both(A, B);
    sim.send(A, B);
    sim.run_for(secs(80));
    let (asked, b) = (sim.now, sim.id(A, B));
    sim[A].configure(|interface| interface.initiate_handshake(b).unwrap());
    sim.run_for(secs(200));
    let last = sim.last_sent(A, Kind::Initiation).at;
    assert!(last > asked + secs(84) && last < asked + secs(96), "{:?}", last.saturating_since(asked));
}
