//! A caller's clock that was set back, though it never should be.

use adit::DropReason;

use crate::cookies::{address, junk};
use crate::sim::{A, B, Kind, RTT, Sim, secs};

#[test]
fn no_handshake_waits_until_a_clock_that_was_set_back_is_where_it_was() {
    for node in [A, B] {
        let mut sim = Sim::pair(40);
        sim[node].clock_ahead = secs(3_600);
        sim.connect(A, B);
        sim[node].clock_ahead = secs(0);
        for (initiator, responder) in [(A, B), (B, A)] {
            // Beyond `REKEY_TIMEOUT`, for which there is no other initiation anyhow.
            sim.run_for(secs(6));
            let (id, answered) = (sim.id(initiator, responder), sim.count(responder, Kind::Response));
            sim[initiator].configure(|interface| interface.initiate_handshake(id).unwrap());
            sim.run_for(RTT * 2);
            let answered = sim.count(responder, Kind::Response) - answered;
            assert_eq!(answered, 1, "{initiator} began, the clock of {node} was set back");
        }
        assert_eq!(sim.drops(A, DropReason::InitiationFlood) + sim.drops(B, DropReason::InitiationFlood), 0);
    }
}

#[test]
fn load_is_forgotten_when_the_clock_is_set_back() {
    let mut sim = Sim::pair(31);
    sim[B].clock_ahead = secs(3_600);
    for number in 0..2_100 {
        let message = junk(&sim, B, number.into());
        sim.inject(B, address(number), &message);
    }
    assert_eq!(sim.count(B, Kind::CookieReply), 100);
    sim[B].clock_ahead = secs(0);
    let packet = sim.send(A, B);
    sim.run_for(RTT * 2);
    assert!(sim[B].has_arrived(&packet));
    assert_eq!(sim.count(B, Kind::CookieReply), 100);
}
