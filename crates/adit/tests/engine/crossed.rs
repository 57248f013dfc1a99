//! Both ends begin a handshake at about the same time.

use adit::PrivateKey;

use crate::sim::{A, B, DELAY, Kind, RTT, Sent, Sim, millis, secs};

/// Two nodes, and which of them has the smaller key and which the larger: the first one's session is preferred.
fn pair(seed: u64) -> (Sim, usize, usize) {
    let sim = Sim::pair(seed);
    let [a, b] = [A, B].map(|node| sim[node].private_key.public_key());
    if a < b { (sim, A, B) } else { (sim, B, A) }
}

/// Both ends begin at once, and the initiation of the larger is slow: it arrives when the smaller has its session
/// already. In the end the larger has sent in its own session, and the smaller in both.
fn crossed(seed: u64) -> (Sim, usize, usize, [Sent; 3]) {
    let (mut sim, smaller, larger) = pair(seed);
    sim.network.cut_both(A, B);
    sim.send(smaller, larger);
    sim.send(larger, smaller);
    let [of_smaller, of_larger] = [smaller, larger].map(|node| sim.last_sent(node, Kind::Initiation));
    sim.replay(larger, &of_smaller);
    let response = sim.last_sent(larger, Kind::Response);
    sim.replay(smaller, &response);
    let preferred = sim.last_sent(smaller, Kind::Data);
    sim.replay(smaller, &of_larger);
    let response = sim.last_sent(smaller, Kind::Response);
    sim.replay(larger, &response);
    let other = sim.last_sent(larger, Kind::Data);
    sim.replay(larger, &preferred);
    // By now the larger sends in the session of the smaller.
    let serial = sim.send(larger, smaller);
    let in_preferred = sim.last_sent(larger, Kind::Data);
    assert!(!serial.is_empty() && in_preferred.first_index() != other.first_index());
    (sim, smaller, larger, [preferred, other, in_preferred])
}

/// Sends both ways for a while, often where it matters, and tells how many packets did not arrive.
fn lost_until(sim: &mut Sim, end: u64, gap: impl Fn(u64) -> u64) -> usize {
    let mut packets = Vec::new();
    while sim.elapsed() < secs(end) {
        packets.push((B, sim.send(A, B)));
        packets.push((A, sim.send(B, A)));
        let gap = gap(sim.elapsed().as_millis() as u64);
        sim.run_for(millis(gap));
    }
    sim.run_for(secs(1));
    packets.iter().filter(|(to, packet)| !sim[*to].has_arrived(packet)).count()
}

#[test]
fn the_first_packet_in_a_session_that_was_answered_ends_the_own_attempt_at_one() {
    let mut sim = Sim::pair(1);
    sim.network.cut(B, A);
    let back = sim.send(B, A);
    sim.run_for(secs(1));
    assert_eq!(sim.count(B, Kind::Initiation), 1);
    sim.network.heal();
    let there = sim.send(A, B);
    sim.run_for(RTT + DELAY * 2);
    assert!(sim[B].has_arrived(&there) && sim[A].has_arrived(&back));
    assert_eq!(sim.peer(B, A).attempting_since, None);
    sim.run_for(secs(100));
    assert_eq!((sim.count(B, Kind::Initiation), sim.count(A, Kind::Initiation)), (1, 1));
}

#[test]
fn the_ends_agree_on_the_session_of_the_smaller_key_though_the_other_initiation_came_late() {
    // What the larger sent in its own session may arrive before or after what it sent in the other.
    for order in [[1, 2], [2, 1]] {
        let (mut sim, smaller, larger, sent) = crossed(2);
        for number in order {
            assert!(sim.replay(smaller, &sent[number]).is_some());
        }
        sim.network.heal();
        let lost = lost_until(&mut sim, 400, |at| if at % 60_000 < 1_000 || at % 60_000 > 59_500 { 2 } else { 250 });
        assert_eq!(lost, 0, "order {order:?}");
        assert_eq!((sim.count(larger, Kind::Initiation), sim.count(smaller, Kind::Initiation)), (1, 4));
    }
}

#[test]
fn nothing_is_lost_when_a_session_is_asked_for_after_initiations_crossed() {
    for asks_smaller in [true, false] {
        let (mut sim, smaller, larger, sent) = crossed(3);
        assert!(sim.replay(smaller, &sent[1]).is_some());
        sim.network.heal();
        assert_eq!(lost_until(&mut sim, 6, |_| 100), 0);
        let (asker, other) = if asks_smaller { (smaller, larger) } else { (larger, smaller) };
        let id = sim.id(asker, other);
        sim[asker].configure(|interface| interface.initiate_handshake(id).unwrap());
        assert_eq!(lost_until(&mut sim, 8, |_| 1), 0, "asks_smaller: {asks_smaller}");
        assert_eq!(sim.count(asker, Kind::Initiation), 2);
    }
}

#[test]
fn after_another_private_key_the_ends_have_nothing_to_agree_on() {
    let (mut sim, smaller, larger, sent) = crossed(6);
    assert!(sim.replay(smaller, &sent[1]).is_some());
    sim[smaller].configure(|interface| interface.set_private_key(Some(PrivateKey::from_bytes([77; 32]))));
    assert!(sim.replay(smaller, &sent[2]).is_some());
    let before = sim.count(smaller, Kind::Data);
    sim.send(smaller, larger);
    assert_eq!(sim.count(smaller, Kind::Data), before, "it waits for a session with the new key");
}

#[test]
fn an_end_that_has_forgotten_the_session_of_the_smaller_key_is_spoken_to_in_its_own() {
    let (mut sim, smaller, larger) = pair(4);
    sim.send(smaller, larger);
    sim.run_for(RTT + DELAY);
    sim.network.cut(larger, smaller);
    sim.send(larger, smaller);
    let slow = sim.last_sent(larger, Kind::Data);
    assert!(sim.peer(smaller, larger).has_session);
    // The larger begins anew, before anything has come in that session.
    let id = sim.id(larger, smaller);
    sim[larger].configure(|interface| interface.remove_peer(id));
    sim.introduce(larger, smaller);
    sim.network.heal();
    sim.connect(larger, smaller);
    let packet = sim.send(smaller, larger);
    sim.run_for(DELAY);
    assert!(sim[larger].has_arrived(&packet));
    // What it had sent in the session before, and is slow, changes that for a moment at most.
    assert!(sim.replay(smaller, &slow).is_some());
    sim.send(larger, smaller);
    sim.run_for(DELAY);
    let packet = sim.send(smaller, larger);
    sim.run_for(DELAY);
    assert!(sim[larger].has_arrived(&packet));
}

#[test]
fn a_newer_initiation_counts_for_more_than_the_preference_for_the_session_before() {
    let (mut sim, smaller, larger) = pair(5);
    sim.network.cut_both(A, B);
    sim.send(smaller, larger);
    sim.send(larger, smaller);
    let initiation = sim.last_sent(smaller, Kind::Initiation);
    sim.replay(larger, &initiation);
    let response = sim.last_sent(larger, Kind::Response);
    sim.replay(smaller, &response);
    let late = sim.last_sent(smaller, Kind::Data);
    // All that the smaller sends is lost, so the larger tries again.
    sim.run_until_done(secs(6), |sim| sim.count(larger, Kind::Initiation) == 2).unwrap();
    let initiation = sim.last_sent(larger, Kind::Initiation);
    sim.replay(smaller, &initiation);
    let response = sim.last_sent(smaller, Kind::Response);
    sim.replay(larger, &response);
    let session = sim.last_index(larger);
    let first = sim.last_sent(larger, Kind::Data);
    sim.replay(smaller, &first);
    sim.replay(larger, &late);
    sim.send(larger, smaller);
    assert_eq!(sim.last_index(larger), session);
    sim.network.heal();
    assert_eq!(lost_until(&mut sim, 400, |at| if at % 60_000 < 1_000 { 5 } else { 250 }), 0);
    assert_eq!(sim.count(smaller, Kind::Initiation), 1, "the larger renews it");
}

#[test]
fn what_comes_in_the_session_before_two_that_crossed_pushes_out_neither() {
    let (mut sim, smaller, larger) = pair(7);
    sim.connect(smaller, larger);
    sim.run_for(secs(6));
    sim.network.cut_both(A, B);
    let in_old = [sim.send(larger, smaller), sim.send(larger, smaller)];
    let [.., first, second] = &sim.sent(larger, Kind::Data)[..] else { panic!("two packets") };
    let old = [first.clone(), second.clone()];
    for (node, other) in [(smaller, larger), (larger, smaller)] {
        let id = sim.id(node, other);
        sim[node].configure(|interface| interface.initiate_handshake(id).unwrap());
    }
    sim.run_for(millis(1));
    let [of_smaller, of_larger] = [smaller, larger].map(|node| sim.last_sent(node, Kind::Initiation));
    sim.replay(larger, &of_smaller);
    let response = sim.last_sent(larger, Kind::Response);
    sim.replay(smaller, &response);
    let preferred = sim.last_sent(smaller, Kind::Keepalive);
    sim.replay(smaller, &of_larger);
    assert_eq!(sim.replay(smaller, &old[0]).as_ref(), Some(&in_old[0]));
    let response = sim.last_sent(smaller, Kind::Response);
    sim.replay(larger, &response);
    let other = sim.last_sent(larger, Kind::Keepalive);
    sim.replay(larger, &preferred);
    sim.replay(smaller, &other);
    let packet = sim.send(larger, smaller);
    let in_preferred = sim.last_sent(larger, Kind::Data);
    assert_eq!(sim.replay(smaller, &in_preferred), Some(packet));
    sim.send(smaller, larger);
    assert_eq!(sim.last_index(smaller), preferred.first_index(), "the ends agree");
}

#[test]
fn a_packet_that_comes_late_in_a_session_that_was_used_brings_it_not_back() {
    let (mut sim, smaller, larger) = pair(8);
    sim.connect(smaller, larger);
    sim.run_for(secs(6));
    sim.network.cut(larger, smaller);
    sim.send(larger, smaller);
    let late = sim.last_sent(larger, Kind::Data);
    sim.network.heal();
    let id = sim.id(larger, smaller);
    sim[larger].configure(|interface| interface.initiate_handshake(id).unwrap());
    sim.run_for(RTT * 2);
    sim.send(smaller, larger);
    let session = sim.last_index(smaller);
    assert!(sim.replay(smaller, &late).is_some());
    sim.send(smaller, larger);
    assert_eq!(sim.last_index(smaller), session);
}

#[test]
fn a_session_of_the_old_private_key_is_not_used_again_though_nothing_had_come_in_it() {
    let (mut sim, smaller, larger) = pair(9);
    sim.send(smaller, larger);
    sim.run_for(RTT + DELAY);
    sim.network.cut(larger, smaller);
    sim.send(larger, smaller);
    let late = sim.last_sent(larger, Kind::Data);
    sim.network.heal();
    let key = PrivateKey::from_bytes([77; 32]);
    sim[smaller].configure(|interface| interface.set_private_key(Some(key.clone())));
    sim[smaller].private_key = key;
    sim.introduce(larger, smaller);
    sim.connect(larger, smaller);
    assert!(sim.replay(smaller, &late).is_some());
    let packet = sim.send(smaller, larger);
    sim.run_for(DELAY);
    assert!(sim[larger].has_arrived(&packet));
}
