//! Sessions: when a new one is asked for, when an old one is refused, and what each lets in.

use std::time::Duration;

use adit::{DropReason, Event};

use crate::sim::{A, B, DELAY, Kind, RTT, START, Sim, millis, secs};

const NANO: Duration = Duration::from_nanos(1);

/// A session of which A is the initiator, and which is `age` old at A.
fn aged(seed: u64, age: Duration) -> Sim {
    let mut sim = Sim::pair(seed);
    sim.connect(A, B);
    // The initiator made its keys when the response came, a round trip after the beginning.
    sim.run_until(START + RTT + age);
    sim.wire.clear();
    sim
}

#[test]
fn the_initiator_asks_for_a_new_session_when_it_sends_after_120_s() {
    let mut sim = aged(1, secs(120) - NANO);
    sim.send(A, B);
    assert_eq!(sim.count(A, Kind::Initiation), 0);
    sim.run_for(NANO);
    let packet = sim.send(A, B);
    assert_eq!(sim.count(A, Kind::Initiation), 1);
    assert_eq!(sim.count(A, Kind::Data), 2, "the packet goes out in the old session meanwhile");
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
    let events: Vec<_> = sim[A].events();
    assert_eq!(events.len(), 2, "two handshakes: {events:?}");
}

#[test]
fn a_keepalive_sent_after_120_s_asks_for_a_new_session_too() {
    let mut sim = aged(2, secs(119));
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 3).unwrap();
    sim.run_for(secs(2));
    assert_eq!(sim.count(A, Kind::Initiation), 0);
    sim.run_for(secs(1));
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Response)), (1, 0));
}

#[test]
fn the_responder_never_asks_for_a_new_session_because_of_age() {
    let mut sim = Sim::pair(3);
    sim.connect(A, B);
    // The initiator's part of renewing the session is lost.
    sim.network.lose(|sent| sent.kind() == Kind::Initiation);
    while sim.now < START + DELAY + secs(179) {
        sim.send(B, A);
        sim.send(A, B);
        sim.run_for(secs(1));
    }
    assert_eq!(sim.count(B, Kind::Initiation), 0);
    // It asks for one when there is none left.
    sim.run_until(START + DELAY + secs(180));
    sim.send(B, A);
    assert_eq!(sim.count(B, Kind::Initiation), 1);
}

#[test]
fn the_initiator_asks_for_a_new_session_when_it_receives_after_165_s() {
    let mut sim = aged(4, secs(165) - DELAY - NANO);
    sim.send(B, A);
    sim.run_for(DELAY);
    assert_eq!(sim.count(A, Kind::Initiation), 0);
    sim.run_until(START + (RTT + secs(165) - DELAY));
    sim.send(B, A);
    sim.run_for(DELAY);
    assert_eq!(sim.count(A, Kind::Initiation), 1);
}

#[test]
fn what_is_received_after_165_s_asks_for_a_new_session_once() {
    let mut sim = aged(5, secs(166));
    sim.network.cut(A, B);
    let start = sim.now;
    for _ in 0..13 {
        sim.send(B, A);
        sim.run_for(secs(1));
    }
    // From then on it is repeated by its timer alone, and given up 90 s after the first packet, not
    // after the last one.
    let times: Vec<_> = sim.sent(A, Kind::Initiation).iter().map(|sent| sent.at).collect();
    assert_eq!((times.len(), times[0]), (3, start + DELAY));
    let _ = sim[A].events();
    sim.run_until(start + secs(96));
    assert!(sim[A].events().contains(&Event::HandshakeGaveUp { peer: sim.id(A, B) }));
}

#[test]
fn a_session_that_was_made_on_receipt_after_165_s_is_renewed_in_the_same_way() {
    let mut sim = aged(30, secs(166));
    for renewed in 1..=3 {
        sim.send(B, A);
        sim.run_for(DELAY);
        assert_eq!(sim.count(A, Kind::Initiation), renewed);
        // The initiator makes its keys a round trip later; what is sent now arrives after 165 s.
        sim.run_for(RTT + secs(165) - DELAY);
    }
}

#[test]
fn a_session_is_used_for_180_s_and_no_longer_on_sending() {
    let mut sim = Sim::pair(6);
    sim.connect(A, B);
    sim.network.lose(|sent| sent.kind() == Kind::Initiation);
    sim.run_until(START + (RTT + secs(180) - NANO));
    assert!(sim.peer(A, B).has_session);
    sim.send(A, B);
    assert_eq!(sim.last_sent(A, Kind::Data).at, sim.now);
    sim.run_for(NANO);
    assert!(!sim.peer(A, B).has_session);
    let before = sim.count(A, Kind::Data);
    let packet = sim.send(A, B);
    sim.run_for(secs(1));
    assert_eq!(sim.count(A, Kind::Data), before, "it waits for a new session");
    sim.network.heal();
    sim.run_for(secs(6));
    assert!(sim[B].has_arrived(&packet));
}

#[test]
fn a_session_is_used_for_180_s_and_no_longer_on_receiving() {
    let mut sim = Sim::pair(7);
    sim.connect(A, B);
    sim.network.cut_both(A, B);
    sim.run_until(START + secs(170));
    let packets = [sim.send(A, B), sim.send(A, B)];
    let held: Vec<_> = sim.sent(A, Kind::Data).split_off(1);
    // The responder made its keys one delay after the beginning.
    sim.run_until(START + (DELAY + secs(180) - NANO));
    assert_eq!(sim.replay(B, &held[0]), Some(packets[0].clone()));
    sim.run_for(NANO);
    assert_eq!(sim.replay(B, &held[1]), None);
    assert_eq!(sim.drops(B, DropReason::SessionExpired), 1);
}

#[test]
fn traffic_goes_on_without_a_gap_while_the_session_is_renewed() {
    let mut sim = Sim::pair(8);
    sim.connect(A, B);
    sim.network.spread = millis(8);
    let mut packets = Vec::new();
    while sim.elapsed() < secs(400) {
        packets.push((B, sim.send(A, B)));
        packets.push((A, sim.send(B, A)));
        sim.run_for(millis(if sim.elapsed().as_secs() % 120 < 2 { 3 } else { 500 }));
    }
    sim.run_for(secs(1));
    assert!(sim.count(A, Kind::Initiation) >= 4 && sim.count(B, Kind::Initiation) == 0);
    for (to, packet) in packets {
        assert!(sim[to].has_arrived(&packet));
    }
}

#[test]
fn traffic_goes_on_without_a_gap_after_both_ends_began_at_once() {
    for seed in 0..6 {
        let mut sim = Sim::pair(90 + seed);
        sim.network.spread = Duration::from_micros(seed * 100);
        let mut packets = vec![(B, sim.send(A, B)), (A, sim.send(B, A))];
        while sim.elapsed() < secs(400) {
            sim.run_for(millis(if sim.elapsed().as_millis() % 120_000 < 1_000 { 2 } else { 250 }));
            packets.push((B, sim.send(A, B)));
            packets.push((A, sim.send(B, A)));
        }
        sim.run_for(secs(1));
        let lost = packets.iter().filter(|(to, packet)| !sim[*to].has_arrived(packet)).count();
        assert_eq!(lost, 0, "of {}, with seed {seed}", packets.len());
        // The ends agree on the session that the end with the smaller public key began, so that end alone renews it.
        let [a, b] = [A, B].map(|node| sim[node].private_key.public_key());
        let (renews, other) = if a < b { (A, B) } else { (B, A) };
        assert_eq!((sim.count(other, Kind::Initiation), sim.count(renews, Kind::Initiation)), (1, 4), "seed {seed}");
    }
}

#[test]
fn packets_of_the_previous_session_that_were_overtaken_by_the_new_one_still_arrive() {
    let mut sim = aged(9, secs(119));
    sim.network.cut(A, B);
    let late = sim.send(A, B);
    let held = sim.last_sent(A, Kind::Data);
    sim.network.heal();
    sim.run_for(secs(1));
    sim.send(A, B);
    sim.run_for(secs(1));
    let fresh = sim.send(A, B);
    sim.run_for(RTT);
    assert_eq!(sim.count(A, Kind::Initiation), 1);
    assert_ne!(sim.last_sent(A, Kind::Data).first_index(), held.first_index(), "a new session is in use");
    assert!(sim[B].has_arrived(&fresh));
    assert_eq!(sim.replay(B, &held), Some(late));
}

#[test]
fn packets_of_the_session_before_the_previous_one_are_refused() {
    let mut sim = aged(10, secs(1));
    sim.network.cut(A, B);
    sim.send(A, B);
    let held = sim.last_sent(A, Kind::Data);
    sim.network.heal();
    for _ in 0..2 {
        sim.run_for(secs(121));
        sim.send(A, B);
        sim.run_for(secs(1));
    }
    assert_eq!(sim.replay(B, &held), None);
    assert_eq!(sim.drops(B, DropReason::UnknownIndex), 1);
}

#[test]
fn the_responder_goes_on_in_the_old_session_until_the_initiator_has_used_the_new_one() {
    let mut sim = Sim::pair(11);
    sim.connect(A, B);
    let old = sim.last_index(B);
    sim.run_for(secs(121));
    sim.network.lose(|sent| sent.from == A && matches!(sent.kind(), Kind::Data | Kind::Keepalive));
    sim.send(A, B);
    sim.run_for(RTT);
    assert_eq!(sim.count(B, Kind::Response), 2);
    let packet = sim.send(B, A);
    assert_eq!(sim.last_index(B), old);
    sim.network.heal();
    sim.run_for(RTT);
    assert!(sim[A].has_arrived(&packet), "the initiator opens the previous session");
    let confirming = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&confirming));
    sim.send(B, A);
    assert_ne!(sim.last_index(B), old);
}

#[test]
fn a_peer_that_never_heard_of_the_current_session_is_heard_in_the_one_before_while_it_asks_for_the_next() {
    let mut sim = Sim::pair(20);
    sim.connect(B, A);
    sim.run_for(secs(1));
    // A hears nothing, asks for another session, and uses it; B does not hear that.
    sim.network.cut(B, A);
    sim.send(A, B);
    sim.run_for(secs(13));
    sim.network.heal();
    sim.network.lose(|sent| sent.from == A && matches!(sent.kind(), Kind::Data | Kind::Keepalive));
    sim.run_for(secs(3));
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Response)), (1, 1));
    sim.network.heal();
    sim.run_for(secs(110));
    sim.send(B, A);
    sim.run_for(RTT / 2);
    assert_eq!(sim.count(A, Kind::Response), 2, "B has asked for another, and cannot know the answer yet");
    let packet = sim.send(B, A);
    sim.run_for(RTT);
    assert!(sim[A].has_arrived(&packet));
}

#[test]
fn a_peer_that_never_heard_of_several_sessions_is_heard_in_the_one_before_them() {
    let mut sim = Sim::pair(21);
    sim.connect(B, A);
    sim.run_for(secs(1));
    let used = sim.last_index(B);
    // A asks for one session after another. B answers, but never hears that they are in use.
    for sessions in 1..=3 {
        sim.network.heal();
        sim.network.cut_both(A, B);
        sim.send(A, B);
        sim.run_for(secs(13));
        sim.network.heal();
        sim.network.lose(|sent| sent.from == A && matches!(sent.kind(), Kind::Data | Kind::Keepalive));
        sim.run_for(secs(3));
        assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Response)), (sessions, sessions));
    }
    sim.network.heal();
    let packet = sim.send(B, A);
    assert_eq!(sim.last_sent(B, Kind::Data).first_index(), used);
    sim.run_for(RTT);
    assert!(sim[A].has_arrived(&packet));
    assert_eq!(sim.count(A, Kind::Initiation), 3, "no further session is needed");
}

#[test]
fn each_message_of_a_session_has_the_next_counter() {
    let mut sim = Sim::pair(12);
    sim.connect(A, B);
    sim.send_many(A, B, 20);
    sim.run_for(secs(15));
    sim.send(B, A);
    sim.run_for(secs(15));
    sim.send_many(A, B, 3);
    let counters: Vec<_> =
        sim.wire.iter().filter(|sent| sent.from == A && sent.bytes[0] == 4).map(|sent| sent.counter()).collect();
    assert!(sim.count(A, Kind::Keepalive) > 0, "keepalives count as well");
    assert_eq!(counters, (0..counters.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_transport_message_is_let_in_once() {
    let mut sim = Sim::pair(13);
    sim.connect(A, B);
    sim.send_many(A, B, 10);
    sim.run_for(RTT);
    for sent in sim.wire.clone().iter().filter(|sent| sent.from == A && sent.bytes[0] == 4) {
        assert_eq!(sim.replay(B, sent), None);
    }
    assert_eq!(sim.drops(B, DropReason::Replay), 11);
    assert_eq!(sim[B].arrived.len(), 11);
}

#[test]
fn a_counter_that_was_seen_is_not_worth_a_decryption() {
    let mut sim = Sim::pair(19);
    sim.connect(A, B);
    let mut forged = sim.last_sent(A, Kind::Data);
    forged.bytes[20] ^= 1;
    sim.replay(B, &forged);
    assert_eq!((sim.drops(B, DropReason::Replay), sim.drops(B, DropReason::BadTag)), (1, 0));
}

#[test]
fn a_transport_message_twice_in_one_burst_is_let_in_once() {
    let mut sim = Sim::group_with(14, 2, crate::sim::Calls::Steps, adit::Bounds::default());
    sim.connect(A, B);
    sim.network.duplication = 1_000;
    let packets = sim.send_many(A, B, 30);
    sim.run_for(RTT);
    let arrived: Vec<_> = sim[B].arrived.iter().skip(1).map(|arrived| arrived.packet.clone()).collect();
    assert_eq!(arrived, packets);
    assert_eq!(sim.drops(B, DropReason::Replay), 30);
}

#[test]
fn messages_may_be_overtaken_by_eight_thousand_others_and_no_more() {
    let mut sim = Sim::pair(15);
    sim.connect(A, B);
    sim.network.cut(A, B);
    sim.send_many(A, B, 8_200);
    let held: Vec<_> = sim.sent(A, Kind::Data).split_off(1);
    let newest = held.last().unwrap();
    assert!(sim.replay(B, newest).is_some());
    // The window has 8192 bits; one word of 64 of them is kept clear.
    for (behind, is_let_in) in [(8_000, true), (8_128, true), (8_129, false), (8_192, false), (1, true)] {
        let sent = &held[held.len() - 1 - behind];
        assert_eq!(newest.counter() - sent.counter(), behind as u64);
        assert_eq!(sim.replay(B, sent).is_some(), is_let_in, "{behind} behind");
    }
    assert_eq!(sim.drops(B, DropReason::Replay), 2);
}

#[test]
fn order_is_kept_within_a_burst_and_through_a_handshake() {
    for calls in [crate::sim::Calls::Single, crate::sim::Calls::Steps] {
        let mut sim = Sim::group_with(16, 2, calls, adit::Bounds::default());
        let mut packets = sim.send_many(A, B, 40);
        sim.run_for(DELAY * 2);
        // The session is there now, and the first 40 may still be on their way.
        packets.extend(sim.send_many(A, B, 40));
        sim.run_for(secs(1));
        let arrived: Vec<_> = sim[B].arrived.iter().map(|arrived| arrived.packet.clone()).collect();
        assert_eq!(arrived, packets, "{calls:?}");
    }
}

#[test]
fn a_peer_that_lost_its_sessions_is_back_after_its_first_packet() {
    let mut sim = Sim::pair(17);
    sim.connect(A, B);
    // B restarts: same keys, nothing else left.
    let a = sim.id(B, A);
    sim[B].interface.remove_peer(a);
    sim.introduce(B, A);
    sim.run_for(secs(1));
    let packet = sim.send(B, A);
    sim.run_for(RTT * 2);
    assert!(sim[A].has_arrived(&packet));
    let packet = sim.send(A, B);
    sim.run_for(RTT);
    assert!(sim[B].has_arrived(&packet));
    assert!(sim[A].events().contains(&Event::HandshakeCompleted { peer: sim.id(A, B) }));
}

#[test]
fn bytes_are_counted_with_all_that_the_protocol_adds() {
    let mut sim = Sim::pair(18);
    sim.connect(A, B);
    sim.send_many(A, B, 5);
    sim.run_for(secs(20));
    let sum = |from| sim.wire.iter().filter(|sent| sent.from == from).map(|sent| sent.bytes.len() as u64).sum::<u64>();
    let (a, b) = (sim.peer(A, B), sim.peer(B, A));
    assert_eq!((a.tx_bytes, a.rx_bytes), (sum(A), sum(B)));
    assert_eq!((b.tx_bytes, b.rx_bytes), (sum(B), sum(A)));
}

#[test]
fn a_session_that_was_never_confirmed_is_forgotten_with_the_next_one_after_its_time() {
    let mut sim = Sim::pair(40);
    sim.network.lose(|sent| sent.from == A && sent.kind() == Kind::Data);
    sim.send(A, B);
    sim.run_for(RTT * 2);
    let never_came = sim.last_sent(A, Kind::Data);
    sim.network.heal();
    // From now on B begins all sessions; the third is made after more than 180 s.
    for _ in 0..3 {
        sim.send(B, A);
        sim.run_for(secs(7));
        assert!(sim.peer(B, A).has_session);
        sim.run_for(secs(121));
    }
    assert_eq!(sim.count(A, Kind::Initiation), 1);
    sim.replay(B, &never_came);
    assert_eq!((sim.drops(B, DropReason::UnknownIndex), sim.drops(B, DropReason::SessionExpired)), (1, 0));
}
