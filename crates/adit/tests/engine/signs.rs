//! Handshake messages are signs of life as data is: which timers they put off, and which they make needless.

use crate::sim::{A, B, DELAY, Kind, RTT, START, Sim, millis, secs};

/// A session of which A is the initiator, at the moment when it is so old that A renews it on sending.
fn to_be_renewed(seed: u64) -> Sim {
    let mut sim = Sim::pair(seed);
    sim.connect(A, B);
    sim.run_until(START + (RTT + secs(120)));
    sim.wire.clear();
    sim
}

#[test]
fn an_initiation_puts_the_persistent_keepalive_off() {
    let mut sim = Sim::pair(1);
    sim.connect(A, B);
    sim.run_for(secs(20));
    sim.wire.clear();
    sim.network.cut_both(A, B);
    let (start, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(start, b, 20).unwrap();
    sim.send(A, B);
    // Nothing answers the data, so after 15 s there is an initiation, and others follow.
    sim.run_for(secs(60));
    assert_eq!(sim.sent(A, Kind::Initiation)[0].at, start + secs(15));
    assert_eq!(sim.sent(A, Kind::Keepalive).iter().filter(|sent| sent.at > start).count(), 0);
}

#[test]
fn a_handshake_that_is_answered_puts_the_persistent_keepalive_off() {
    let mut sim = to_be_renewed(2);
    let (start, a) = (sim.now, sim.id(B, A));
    sim[B].interface.set_persistent_keepalive(start, a, 20).unwrap();
    sim.run_for(secs(10));
    assert_eq!(sim.count(B, Kind::Keepalive), 1, "the first one");
    // Nothing but the initiation comes from A.
    sim.network.lose(|sent| sent.from == A && sent.kind() != Kind::Initiation);
    sim.send(A, B);
    let answered = sim.now + DELAY;
    sim.run_until(answered + (secs(20) - millis(1)));
    assert_eq!((sim.count(B, Kind::Response), sim.count(B, Kind::Keepalive)), (1, 1));
    sim.run_for(millis(1));
    assert_eq!(sim.count(B, Kind::Keepalive), 2);
}

#[test]
fn an_initiation_makes_the_passive_keepalive_needless() {
    let mut sim = to_be_renewed(3);
    sim.network.lose_kind(Kind::Response);
    sim.send(A, B);
    sim.run_for(secs(1));
    sim.send(B, A);
    // Before the silence has lasted for 10 s the initiation is repeated, and so on.
    sim.run_for(secs(30));
    assert!(sim[A].arrived.len() == 2 && sim.count(A, Kind::Initiation) > 4);
    assert_eq!(sim.count(A, Kind::Keepalive), 0);
}

#[test]
fn a_response_makes_the_passive_keepalive_needless() {
    let mut sim = Sim::pair(4);
    sim.connect(A, B);
    sim.run_until(START + (RTT + secs(118)));
    sim.wire.clear();
    // B is to end the silence after this at 128 s.
    sim.send(A, B);
    sim.run_for(secs(3));
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 100).unwrap();
    sim.run_for(secs(30));
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Response)), (1, 1));
    assert_eq!(sim.count(B, Kind::Keepalive), 0);
}

#[test]
fn an_initiation_is_an_echo_of_what_was_sent() {
    let mut sim = to_be_renewed(5);
    sim.network.lose(|sent| sent.from == A && sent.kind() != Kind::Initiation);
    sim.send(B, A);
    sim.run_for(secs(5));
    sim.send(A, B);
    sim.run_for(secs(40));
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Initiation)), (1, 0));
}

#[test]
fn a_response_is_an_echo_of_what_was_sent() {
    let mut sim = to_be_renewed(6);
    sim.network.lose(|sent| sent.from == B && sent.kind() != Kind::Response);
    sim.send(A, B);
    sim.run_for(secs(40));
    assert_eq!((sim.count(A, Kind::Initiation), sim.count(B, Kind::Response)), (1, 1));
}
