//! Another private key, or none: what becomes of what was made with the one before.

use adit::{Datagrams, DropReason, Ecn, Interface, Path, PrivateKey};

use crate::sim::{A, B, DELAY, Kind, RTT, Sim, millis, secs};

/// Gives B another private key, of which A learns at once.
fn change_key_of_b(sim: &mut Sim) {
    let new = PrivateKey::from_bytes([77; 32]);
    sim[B].configure(|interface| interface.set_private_key(Some(new.clone())));
    sim[B].private_key = new;
    sim.introduce(A, B);
}

#[test]
fn a_session_of_the_old_private_key_does_not_end_the_handshake_with_the_new_one() {
    let mut sim = Sim::pair(1);
    sim.send(A, B);
    sim.run_for(DELAY);
    // B has answered, and A's first packet is to come.
    change_key_of_b(&mut sim);
    let (changed, before) = (sim.now, sim.peer(B, A).last_handshake);
    let packet = sim.send(B, A);
    assert_eq!(sim.count(B, Kind::Initiation), 1);
    sim.run_for(RTT - millis(1));
    assert_eq!(sim.count(A, Kind::Data), 1);
    assert_eq!((sim[B].arrived.len(), sim[B].events()), (0, vec![]));
    let took = sim.run_until_done(secs(60), |sim| sim[A].has_arrived(&packet)).unwrap();
    assert!(took <= RTT && sim[B].arrived.len() == 1, "{took:?}");
    assert!(before.is_none() && sim.peer(B, A).session_made.unwrap() > changed);
    assert_eq!(sim[B].events().len(), 1, "one handshake of use");
}

#[test]
fn a_session_that_both_ends_preferred_under_the_old_private_key_does_not_take_the_place_of_a_new_one() {
    // B has the larger key, so that A's session is the one that both ends prefer.
    let with_larger = |&seed: &u64| {
        let sim = Sim::pair(seed);
        sim[A].private_key.public_key() < sim[B].private_key.public_key()
    };
    let mut sim = Sim::pair((2..).find(with_larger).unwrap());
    sim.network.cut_both(A, B);
    sim.send(A, B);
    sim.send(B, A);
    let initiation = sim.last_sent(A, Kind::Initiation);
    sim.replay(B, &initiation);
    let response = sim.last_sent(B, Kind::Response);
    sim.replay(A, &response);
    let first = sim.last_sent(A, Kind::Data);
    change_key_of_b(&mut sim);
    sim.network.heal();
    sim.connect(B, A);
    let session = sim.last_index(B);
    sim.replay(B, &first);
    let packet = sim.send(B, A);
    assert_eq!(sim.last_index(B), session);
    sim.run_for(RTT);
    assert!(sim[A].has_arrived(&packet));
}

#[test]
fn the_session_that_a_peer_uses_is_heard_when_the_one_after_another_private_key_is_made() {
    let mut sim = Sim::pair(3);
    sim.connect(A, B);
    sim.run_for(secs(121));
    // A makes another session, and uses it, but B has not heard of that yet.
    sim.send(A, B);
    sim.network.lose(|sent| matches!(sent.kind(), Kind::Keepalive | Kind::Data));
    sim.run_for(RTT);
    sim.send(A, B);
    let late = sim.send(A, B);
    let [.., first, second] = &sim.sent(A, Kind::Data)[..] else { panic!("two packets") };
    let (first, second) = (first.clone(), second.clone());
    assert_ne!(first.first_index(), sim.sent(A, Kind::Data)[0].first_index());
    sim.network.heal();
    change_key_of_b(&mut sim);
    assert!(sim.replay(B, &first).is_some());
    sim.connect(B, A);
    assert_eq!(sim.replay(B, &second), Some(late));
}

#[test]
fn no_handshake_is_being_tried_when_the_private_key_that_it_was_begun_with_is_gone() {
    for new in [None, Some(PrivateKey::from_bytes([77; 32]))] {
        let mut sim = Sim::pair(4);
        sim.network.cut_both(A, B);
        sim.send(A, B);
        sim.run_for(secs(1));
        assert!(sim.peer(A, B).attempting_since.is_some());
        sim[A].configure(|interface| interface.set_private_key(new.clone()));
        assert_eq!(sim.peer(A, B).attempting_since, None);
        let changed = sim.now;
        sim.run_for(secs(1_000));
        assert_eq!(sim.peer(A, B).attempting_since, None);
        // What waited under the new key is tried for as long as ever from the first try on.
        let mut tries: Vec<_> = sim.sent(A, Kind::Initiation).iter().map(|sent| sent.at).collect();
        tries.retain(|&at| at > changed);
        let tried = tries.last().map(|last| last.saturating_since(tries[0]));
        assert_eq!(tried.is_some_and(|tried| tried > secs(84)), new.is_some(), "{tried:?}");
    }
}

/// Gives B an initiation of A's, which waits to be computed.
fn waiting_initiation(seed: u64) -> Sim {
    let mut sim = Sim::pair(seed);
    sim.network.cut_both(A, B);
    sim.send(A, B);
    let mut message = sim.last_sent(A, Kind::Initiation);
    let (now, interface) = (sim.now, &mut sim[B].interface);
    let mut burst = Datagrams::new();
    assert!(burst.push(0..message.bytes.len(), &Path::to(message.source), Ecn::NotEct));
    let opened = interface.begin_open(now, burst, &message.bytes).open(&mut message.bytes);
    assert_eq!(interface.commit(now, opened, &mut message.bytes).packets().count(), 0);
    assert!(interface.has_handshakes());
    sim
}

#[test]
fn handshake_messages_that_are_given_up_before_they_are_computed_are_counted() {
    let ways: [fn(&mut Interface); 4] = [
        |interface| interface.set_private_key(None),
        |interface| interface.set_private_key(Some(PrivateKey::from_bytes([77; 32]))),
        Interface::link_down,
        Interface::discard_handshakes,
    ];
    for (number, give_up) in ways.into_iter().enumerate() {
        let mut sim = waiting_initiation(5);
        sim[B].configure(give_up);
        assert!(!sim[B].interface.has_handshakes());
        assert_eq!(sim.drops(B, DropReason::PeerGone), 1, "way {number}");
    }
}

#[test]
fn a_session_that_is_asked_for_is_made_with_the_new_private_key_when_the_old_one_goes_meanwhile() {
    let mut sim = Sim::pair(6);
    sim.connect(A, B);
    sim.run_for(secs(6));
    let (now, a) = (sim.now, sim.id(B, A));
    sim[B].configure(|interface| interface.initiate_handshake(a).unwrap());
    sim[B].interface.expire(now);
    let work = sim[B].interface.poll_handshake(now).unwrap();
    change_key_of_b(&mut sim);
    assert!(sim[B].interface.finish_handshake(now, work.compute()).is_none());
    sim.run_for(RTT * 2);
    // The caller looks at what is to be computed after each call.
    sim[B].configure(|interface| interface.handle_timeout(now));
    sim.flush(B);
    sim.run_for(RTT * 2);
    assert!(sim.peer(B, A).session_made.unwrap() > now);
    assert_eq!(sim.count(B, Kind::Initiation), 1);
}

#[test]
fn an_initiation_that_is_computed_meanwhile_leads_to_nothing_and_is_counted() {
    let ways: [fn(&mut Interface); 3] = [
        |interface| interface.set_private_key(None),
        |interface| interface.set_private_key(Some(PrivateKey::from_bytes([77; 32]))),
        Interface::link_down,
    ];
    for (number, change) in ways.into_iter().enumerate() {
        let mut sim = waiting_initiation(7);
        let now = sim.now;
        let work = sim[B].interface.poll_handshake(now).unwrap();
        sim[B].configure(change);
        assert!(sim[B].interface.finish_handshake(now, work.compute()).is_none());
        assert_eq!(sim.drops(B, DropReason::PeerGone), 1, "way {number}");
        assert!(!sim[B].interface.has_transmits());
    }
}
