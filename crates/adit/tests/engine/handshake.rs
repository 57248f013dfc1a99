//! The handshake: who may begin a session, with what, and how often.

use std::time::Duration;

use adit::{Bounds, Datagrams, DropReason, Ecn, Event, Path, PresharedKey, PublicKey};

use crate::sim::{A, B, C, Calls, DELAY, Kind, RTT, Sim, UNIX_START, forge, millis, secs};

/// What a clock says that is ten years ahead.
const WRONG_TIME: Duration = Duration::from_secs(UNIX_START.as_secs() + 10 * 365 * 86_400);

#[test]
fn a_packet_without_a_session_waits_for_the_handshake_and_then_arrives() {
    let mut sim = Sim::pair(1);
    let packet = sim.send(A, B);
    assert_eq!(sim.wire.iter().map(|sent| sent.kind()).collect::<Vec<_>>(), [Kind::Initiation]);
    let took = sim.run_until_done(secs(1), |sim| sim[B].has_arrived(&packet)).unwrap();
    // There, back, and there again.
    assert_eq!(took, DELAY * 3);
    let kinds: Vec<_> = sim.wire.iter().map(|sent| (sent.from, sent.kind())).collect();
    assert_eq!(kinds, [(A, Kind::Initiation), (B, Kind::Response), (A, Kind::Data)]);
}

#[test]
fn both_sets_of_calls_give_the_same_datagrams_packets_and_events() {
    let run = |calls| {
        let mut sim = Sim::group_with(2, 3, calls, adit::Bounds::default());
        for (from, to) in [(A, B), (B, A), (A, C), (C, B)] {
            sim.send(from, to);
            sim.run_for(millis(7));
        }
        for _ in 0..50 {
            sim.send_many(A, B, 9);
            sim.send(B, A);
            sim.send(B, C);
            sim.run_for(secs(7));
        }
        // Within one moment a burst may come before or after what it gave rise to.
        let mut wire: Vec<_> = sim.wire.iter().map(|sent| (sent.at, sent.from, sent.bytes.clone())).collect();
        wire.sort();
        let arrived: Vec<_> = [A, B, C].map(|node| sim[node].arrived.clone()).into();
        let events: Vec<_> = [A, B, C].map(|node| sim[node].events()).into();
        (wire, arrived, events)
    };
    let (single, steps) = (run(Calls::Single), run(Calls::Steps));
    assert!(single.0.len() > 600 && single.0.len() == steps.0.len(), "{} and {}", single.0.len(), steps.0.len());
    assert!(single.0 == steps.0, "the same datagrams");
    assert!(single.1 == steps.1, "the same packets");
    assert_eq!(single.2, steps.2);
}

#[test]
fn the_initiator_confirms_the_session_with_an_empty_packet_when_none_waits() {
    let mut sim = Sim::pair(3);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 25).unwrap();
    sim.run_for(millis(100));
    let kinds: Vec<_> = sim.wire.iter().map(|sent| (sent.from, sent.kind())).collect();
    assert_eq!(kinds, [(A, Kind::Initiation), (B, Kind::Response), (A, Kind::Keepalive)]);
    let (a, b) = (sim.id(B, A), sim.id(A, B));
    assert_eq!(sim[A].events(), [Event::HandshakeCompleted { peer: b }]);
    assert_eq!(sim[B].events(), [Event::HandshakeCompleted { peer: a }]);
}

#[test]
fn responder_sends_no_data_before_it_has_received_data() {
    let mut sim = Sim::pair(4);
    sim.network.lose(|sent| sent.from == A && sent.kind() != Kind::Initiation);
    sim.send(A, B);
    sim.run_for(RTT * 2);
    assert_eq!(sim.count(B, Kind::Response), 1);
    let packet = sim.send(B, A);
    sim.run_for(secs(4));
    assert_eq!((sim.count(B, Kind::Data), sim.count(B, Kind::Keepalive)), (0, 0));
    // As soon as the initiator has spoken, what waited goes.
    sim.network.heal();
    let spoken = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&spoken));
    assert!(sim[A].has_arrived(&packet));
}

#[test]
fn an_initiation_with_an_equal_timestamp_is_a_replay() {
    let mut sim = Sim::pair(5);
    let (key, to) = (sim[A].private_key.clone(), sim[B].private_key.public_key());
    let source = sim[A].address;
    let first = forge::initiation(&key, to, UNIX_START, 1);
    let equal = forge::initiation(&key, to, UNIX_START, 2);
    assert_ne!(first[8..40], equal[8..40], "another ephemeral: not the same bytes once more");
    sim.inject(B, source, &first);
    assert_eq!(sim.count(B, Kind::Response), 1);
    for replay in [&first, &equal] {
        sim.run_for(secs(1));
        sim.inject(B, source, replay);
    }
    assert_eq!(sim.count(B, Kind::Response), 1);
    assert_eq!(sim.drops(B, DropReason::ReplayedInitiation), 2);
}

#[test]
fn an_initiation_with_an_older_timestamp_is_a_replay_and_a_newer_one_is_not() {
    let mut sim = Sim::pair(6);
    let (key, to, source) = (sim[A].private_key.clone(), sim[B].private_key.public_key(), sim[A].address);
    for (seconds, responses) in [(10, 1), (9, 1), (11, 2), (10, 2), (0, 2)] {
        sim.inject(B, source, &forge::initiation(&key, to, UNIX_START + secs(seconds), seconds));
        assert_eq!(sim.count(B, Kind::Response), responses, "after the one of second {seconds}");
        sim.run_for(secs(1));
    }
    assert_eq!(sim.drops(B, DropReason::ReplayedInitiation), 3);
}

#[test]
fn a_replayed_initiation_is_refused_after_the_session_and_its_keys_are_gone() {
    let mut sim = Sim::pair(7);
    sim.connect(A, B);
    let initiation = sim.last_sent(A, Kind::Initiation);
    sim.network.cut_both(A, B);
    sim.run_for(secs(2_000));
    assert!(sim[B].events().contains(&Event::SessionExpired { peer: sim.id(B, A) }));
    let before = sim.count(B, Kind::Response);
    sim.replay(B, &initiation);
    assert_eq!((sim.count(B, Kind::Response), sim.drops(B, DropReason::ReplayedInitiation)), (before, 1));
}

#[test]
fn a_wall_clock_that_was_set_back_does_not_stop_handshakes() {
    let mut sim = Sim::pair(8);
    sim.connect(A, B);
    let now = sim.now;
    sim[A].interface.set_unix_time(now, UNIX_START - secs(86_400));
    sim.run_for(secs(200));
    let before = sim.count(B, Kind::Response);
    let packet = sim.send(A, B);
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim.count(B, Kind::Response), before + 1);
}

#[test]
fn a_clock_that_was_wrong_once_shuts_out_no_peer_that_was_not_told_the_wrong_time() {
    for wrong_time in [WRONG_TIME, UNIX_START + secs(86_500)] {
        shuts_out_nobody_else(wrong_time);
    }
}

fn shuts_out_nobody_else(wrong_time: Duration) {
    let mut sim = Sim::group(61, 3);
    let now = sim.now;
    sim[A].interface.set_unix_time(now, wrong_time);
    sim.connect(A, B);
    let (now, right_time) = (sim.now, UNIX_START + sim.elapsed());
    sim[A].interface.set_unix_time(now, right_time);
    sim.connect(A, C);
    // The process ends, and leaves nothing to the next one.
    sim.run_for(secs(1));
    let right_time = UNIX_START + sim.elapsed();
    sim.restart(A, right_time, Bounds::default());
    for other in [B, C] {
        sim.introduce(A, other);
    }
    let [to_b, to_c] = [B, C].map(|other| sim.send(A, other));
    sim.run_for(RTT * 2);
    assert!(sim[C].has_arrived(&to_c));
    assert_eq!((sim[B].has_arrived(&to_b), sim.drops(B, DropReason::ReplayedInitiation)), (false, 1));
}

#[test]
fn timestamps_to_one_peer_grow_though_the_clock_goes_back_and_whoever_else_has_been_sent_one() {
    let mut sim = Sim::group(62, 3);
    let now = sim.now;
    sim[A].interface.set_unix_time(now, WRONG_TIME);
    for round in 1..=3 {
        for other in [B, C] {
            sim.connect(A, other);
            sim.run_for(secs(200));
            assert_eq!(sim.count(other, Kind::Response), round);
        }
        let now = sim.now;
        sim[A].interface.set_unix_time(now, UNIX_START - secs(86_400) * round as u32);
    }
}

#[test]
fn a_peer_that_was_removed_and_added_again_is_told_a_later_time_though_the_clock_went_back_meanwhile() {
    let mut sim = Sim::group(63, 3);
    sim.connect(A, B);
    sim.run_for(secs(200));
    sim.connect(A, C);
    // Later than what B was told last, and earlier than what C was.
    let (now, then) = (sim.now, UNIX_START + sim.elapsed() - secs(100));
    sim[A].interface.set_unix_time(now, then);
    sim.connect(A, B);
    assert_eq!(sim.count(B, Kind::Response), 2);
    let key = sim[C].private_key.public_key();
    let id = sim[A].interface.peer_id(&key).unwrap();
    assert!(sim[A].interface.remove_peer(id));
    sim.introduce(A, C);
    sim.run_for(secs(1));
    let sent = sim.send(A, C);
    sim.run_for(RTT * 2);
    assert!(sim[C].has_arrived(&sent));
}

#[test]
fn fifty_initiations_a_second_are_accepted_from_one_peer_and_no_more() {
    let mut sim = Sim::pair(9);
    let (key, to, source) = (sim[A].private_key.clone(), sim[B].private_key.public_key(), sim[A].address);
    let initiations: Vec<_> =
        (0..200).map(|number| forge::initiation(&key, to, UNIX_START + secs(number), number)).collect();
    // One every 5 ms for a second.
    for initiation in &initiations {
        sim.inject(B, source, initiation);
        sim.run_for(millis(5));
    }
    assert_eq!(sim.count(B, Kind::Response), 50);
    assert_eq!(sim.drops(B, DropReason::InitiationFlood), 150);
}

#[test]
fn an_initiation_refused_as_flood_leaves_no_trace() {
    let mut sim = Sim::pair(10);
    let (key, to, source) = (sim[A].private_key.clone(), sim[B].private_key.public_key(), sim[A].address);
    let [first, second] = [1, 2].map(|number| forge::initiation(&key, to, UNIX_START + secs(number), number));
    sim.inject(B, source, &first);
    sim.run_for(millis(19));
    sim.inject(B, source, &second);
    assert_eq!((sim.count(B, Kind::Response), sim.drops(B, DropReason::InitiationFlood)), (1, 1));
    sim.run_for(millis(1));
    sim.inject(B, source, &second);
    assert_eq!(sim.count(B, Kind::Response), 2, "its timestamp was not noted, nor its time");
}

#[test]
fn an_initiator_that_is_no_peer_gets_no_answer() {
    let mut sim = Sim::new(11);
    for _ in 0..2 {
        sim.add_node(adit::Bounds::default());
    }
    sim.introduce(A, B);
    sim.send(A, B);
    sim.run_for(secs(1));
    assert_eq!(sim.drops(B, DropReason::UnknownPeer), 1);
    assert!(sim.wire.iter().all(|sent| sent.from == A));
}

#[test]
fn a_session_comes_about_with_equal_preshared_keys() {
    let mut sim = Sim::pair(12);
    for (one, other) in [(A, B), (B, A)] {
        let id = sim.id(one, other);
        sim[one].interface.set_preshared_key(id, Some(PresharedKey::from_bytes([7; 32]))).unwrap();
    }
    sim.connect(A, B);
}

#[test]
fn no_session_comes_about_when_the_preshared_keys_differ() {
    for keys in [(Some([7; 32]), Some([8; 32])), (Some([7; 32]), None), (None, Some([8; 32]))] {
        let mut sim = Sim::pair(13);
        let (b, a) = (sim.id(A, B), sim.id(B, A));
        sim[A].interface.set_preshared_key(b, keys.0.map(PresharedKey::from_bytes)).unwrap();
        sim[B].interface.set_preshared_key(a, keys.1.map(PresharedKey::from_bytes)).unwrap();
        let packet = sim.send(A, B);
        sim.run_for(secs(30));
        assert!(!sim[B].has_arrived(&packet));
        assert!(sim.drops(A, DropReason::BadHandshake) > 0);
        assert_eq!((sim[A].events(), sim[B].events().len()), (vec![], 0));
    }
}

#[test]
fn a_preshared_key_of_zeros_is_the_same_as_none() {
    let mut sim = Sim::pair(14);
    let b = sim.id(A, B);
    sim[A].interface.set_preshared_key(b, Some(PresharedKey::from_bytes([0; 32]))).unwrap();
    sim.connect(A, B);
}

#[test]
fn a_new_preshared_key_keeps_the_session_and_counts_from_the_next_handshake_on() {
    let mut sim = Sim::pair(15);
    sim.connect(A, B);
    for (one, other) in [(A, B), (B, A)] {
        let id = sim.id(one, other);
        sim[one].interface.set_preshared_key(id, Some(PresharedKey::from_bytes([9; 32]))).unwrap();
        let packet = sim.send(one, other);
        sim.run_for(RTT);
        assert!(sim[other].has_arrived(&packet), "with the key changed on one end or on both");
    }
    assert_eq!(sim.count(A, Kind::Initiation), 1);
    sim.run_for(secs(121));
    sim.send(A, B);
    sim.run_for(secs(1));
    assert_eq!(sim.count(A, Kind::Initiation), 2);
    let packet = sim.send(A, B);
    sim.run_for(secs(1));
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim.drops(A, DropReason::BadHandshake), 0, "both ends took the new key into the new handshake");
}

#[test]
fn when_the_response_is_lost_the_next_initiation_makes_the_session() {
    let mut sim = Sim::pair(16);
    sim.network.lose_kind(Kind::Response);
    let packet = sim.send(A, B);
    sim.run_for(secs(1));
    assert_eq!(sim.count(B, Kind::Response), 1);
    sim.network.heal();
    let took = sim.run_until_done(secs(10), |sim| sim[B].has_arrived(&packet)).unwrap();
    // 5 s and up to a third of a second after the first one, of which a second had gone by.
    assert!((secs(4)..=millis(4_333) + DELAY * 3).contains(&took), "{took:?}");
}

#[test]
fn a_response_delivered_twice_makes_one_session() {
    let mut sim = Sim::pair(17);
    sim.connect(A, B);
    let response = sim.last_sent(B, Kind::Response);
    sim.replay(A, &response);
    assert_eq!(sim.drops(A, DropReason::UnknownIndex), 1);
    assert_eq!(sim[A].events().len(), 1);
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_response_to_an_initiation_that_was_repeated_since_is_refused() {
    let mut sim = Sim::pair(18);
    sim.network.lose_kind(Kind::Response);
    sim.send(A, B);
    sim.run_for(secs(6));
    let late = sim.sent(B, Kind::Response).swap_remove(0);
    assert_eq!(sim.count(A, Kind::Initiation), 2);
    sim.replay(A, &late);
    assert_eq!(sim.drops(A, DropReason::UnknownIndex), 1);
    assert!(!sim.peer(A, B).has_session);
}

#[test]
fn initiations_from_both_ends_at_once_make_a_session_that_carries_both_ways() {
    for seed in 0..8 {
        let mut sim = Sim::pair(19 + seed);
        sim.network.spread = millis(5);
        let (there, back) = (sim.send(A, B), sim.send(B, A));
        assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Initiation)), (1, 1));
        sim.run_for(RTT * 3);
        assert!(sim[B].has_arrived(&there) && sim[A].has_arrived(&back));
        for _ in 0..100 {
            let (there, back) = (sim.send(A, B), sim.send(B, A));
            sim.run_for(secs(3));
            assert!(sim[B].has_arrived(&there) && sim[A].has_arrived(&back), "after {:?}", sim.elapsed());
        }
    }
}

#[test]
fn an_end_that_has_a_session_does_not_make_another_of_its_own_late_attempt() {
    let mut sim = Sim::pair(29);
    sim.network.cut_both(A, B);
    sim.send(A, B);
    sim.send(B, A);
    let [of_a, of_b] = [A, B].map(|node| sim.last_sent(node, Kind::Initiation));
    // A's initiation is answered, and the session used, before B's arrives.
    sim.replay(B, &of_a);
    let response = sim.last_sent(B, Kind::Response);
    sim.replay(A, &response);
    let first = sim.last_sent(A, Kind::Data);
    assert!(sim.replay(B, &first).is_some());
    let session = sim.last_index(B);
    sim.replay(A, &of_b);
    let late = sim.last_sent(A, Kind::Response);
    sim.replay(B, &late);
    assert_eq!(sim.drops(B, DropReason::UnknownIndex), 1);
    sim.network.heal();
    sim.send(B, A);
    assert_eq!(sim.last_index(B), session);
}

#[test]
fn an_initiation_reflected_to_its_sender_is_nothing() {
    let mut sim = Sim::pair(30);
    sim.send(A, B);
    let initiation = sim.last_sent(A, Kind::Initiation);
    let source = sim[B].address;
    sim.inject(A, source, &initiation.bytes);
    assert_eq!(sim.drops(A, DropReason::BadMac1), 1);
    assert_eq!(sim.count(A, Kind::Response), 0);
}

#[test]
fn a_peer_key_of_small_order_leads_to_no_handshake_and_no_harm() {
    let mut sim = Sim::pair(31);
    let mut one = [0; 32];
    one[0] = 1;
    for key in [[0; 32], one] {
        let address = sim[B].address;
        let interface = &mut sim[A].interface;
        let peer = interface.add_peer(PublicKey::from_bytes(key)).unwrap();
        interface.set_endpoint(peer, Some(address)).unwrap();
        interface.add_allowed_ip(peer, "10.0.0.2/32".parse().unwrap()).unwrap();
        sim.send(A, B);
        sim.run_for(secs(100));
        assert!(sim.wire.is_empty());
        sim[A].interface.remove_peer(peer);
    }
    sim.introduce(A, B);
    sim.connect(A, B);
}

#[test]
fn each_initiation_has_a_fresh_ephemeral_a_fresh_index_and_a_later_timestamp() {
    let mut sim = Sim::pair(32);
    sim.network.cut(A, B);
    sim.send(A, B);
    sim.run_for(secs(30));
    let sent = sim.sent(A, Kind::Initiation);
    assert!(sent.len() >= 5);
    for pair in sent.windows(2) {
        assert_ne!(pair[0].bytes[8..40], pair[1].bytes[8..40], "ephemeral");
        assert_ne!(pair[0].bytes[4..8], pair[1].bytes[4..8], "index");
    }
    // Only a later timestamp is accepted: in this order each initiation is, in reverse order none.
    for (number, initiation) in sent.iter().enumerate() {
        sim.run_for(secs(1));
        sim.replay(B, initiation);
        assert_eq!(sim.count(B, Kind::Response), number + 1);
    }
    for initiation in sent.iter().rev() {
        sim.run_for(secs(1));
        sim.replay(B, initiation);
    }
    assert_eq!(sim.count(B, Kind::Response), sent.len());
}

#[test]
fn handshake_messages_carry_af41_and_data_does_not() {
    let mut sim = Sim::pair(33);
    sim.connect(A, B);
    sim.run_for(secs(20));
    for sent in &sim.wire {
        let expected = match sent.kind() {
            Kind::Initiation | Kind::Response | Kind::CookieReply => 0x88,
            Kind::Keepalive | Kind::Data => 0,
        };
        assert_eq!(sent.tos, expected, "{:?}", sent.kind());
    }
}

#[test]
fn the_time_of_the_last_handshake_is_told_since_the_unix_epoch() {
    let mut sim = Sim::pair(34);
    assert_eq!(sim.peer(A, B).last_handshake, None);
    sim.run_for(secs(50));
    sim.connect(A, B);
    // The initiator knows after a round trip, the responder when the first packet has come.
    assert_eq!(sim.peer(A, B).last_handshake, Some(UNIX_START + secs(50) + RTT));
    assert_eq!(sim.peer(B, A).last_handshake, Some(UNIX_START + secs(50) + RTT + DELAY));
}

#[test]
fn of_two_initiations_that_are_answered_out_of_order_the_later_one_counts() {
    let mut sim = Sim::group_with(60, 2, Calls::Steps, Bounds::default());
    sim.network.cut_both(A, B);
    sim.send(A, B);
    sim.run_for(secs(6));
    let initiations = sim.sent(A, Kind::Initiation);
    assert_eq!(initiations.len(), 2);
    // Each is computed up to its response; then two threads finish the responses in reverse order.
    let mut answers = Vec::new();
    for initiation in &initiations {
        sim.now += millis(100);
        let now = sim.now;
        let mut burst = Datagrams::new();
        assert!(burst.push(0..148, &Path::to(sim[A].address), Ecn::NotEct));
        let (interface, mut buffer) = (&mut sim[B].interface, initiation.bytes.clone());
        let opened = interface.begin_open(now, burst, &buffer).open(&mut buffer);
        assert_eq!(interface.commit(now, opened, &mut buffer).packets().count(), 0);
        let mut work = interface.poll_handshake(now).unwrap();
        for _ in 0..2 {
            work = interface.finish_handshake(now, work.compute()).unwrap();
        }
        answers.push(work);
    }
    sim.network.heal();
    for work in answers.into_iter().rev() {
        let now = sim.now;
        assert!(sim[B].interface.finish_handshake(now, work.compute()).is_none());
    }
    sim.flush(B);
    sim.run_for(RTT);
    assert_eq!((sim.count(B, Kind::Response), sim.drops(B, DropReason::PeerGone)), (1, 1));
    let packet = sim.send(A, B);
    sim.run_for(DELAY);
    assert!(sim[B].has_arrived(&packet) && sim.peer(B, A).has_session);
}
