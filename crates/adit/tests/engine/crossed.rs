//! Both ends begin a handshake at about the same time.

use crate::sim::{A, B, DELAY, Kind, RTT, Sim, secs};

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
