//! Empty packets: which are needless, which are not, and when.

use adit::Instant;

use crate::sim::{A, B, C, DELAY, Kind, Sim, secs};

/// A session in which nothing is due for a long time; the wire is read from here.
fn quiet_session(seed: u64) -> Sim {
    let mut sim = Sim::pair(seed);
    sim.connect(A, B);
    sim.run_for(secs(30));
    sim.wire.clear();
    sim
}

fn keepalives(sim: &Sim) -> Vec<Instant> {
    sim.sent(A, Kind::Keepalive).iter().map(|sent| sent.at).collect()
}

#[test]
fn an_empty_packet_that_is_asked_for_is_sent_though_something_comes_first() {
    for interval in [0, 25] {
        let mut sim = quiet_session(1);
        let (now, b) = (sim.now, sim.id(A, B));
        sim[A].interface.set_persistent_keepalive(now, b, interval).unwrap();
        sim.run_for(secs(1));
        sim.wire.clear();
        // A has moved, and before its deadlines are looked at something arrives that was on its way.
        sim.send(B, A);
        let data = sim.last_sent(B, Kind::Data);
        sim[A].address = "198.51.100.7:4242".parse().unwrap();
        sim[A].configure(|interface| interface.send_keepalive(b).unwrap());
        let asked = sim.now;
        assert!(sim.replay(A, &data).is_some());
        sim.run_for(secs(9));
        assert_eq!(keepalives(&sim), [asked], "interval {interval}");
        assert_eq!(sim.peer(B, A).endpoint, Some(sim[A].address));
    }
}

#[test]
fn a_packet_that_leaves_first_is_as_good_as_the_empty_one_that_is_due() {
    let mut sim = quiet_session(2);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 25).unwrap();
    sim.run_for(secs(1));
    sim.wire.clear();
    sim[A].configure(|interface| interface.send_keepalive(b).unwrap());
    sim.send(A, B);
    sim.run_for(secs(24));
    assert_eq!(keepalives(&sim), []);
}

#[test]
fn an_empty_packet_puts_the_persistent_keepalive_off_too() {
    let mut sim = quiet_session(3);
    let (start, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(start, b, 12).unwrap();
    sim.send(B, A);
    sim.run_for(DELAY + secs(23));
    // The first at once, the second in answer to the data, after 10 s of silence.
    let answer = start + DELAY + secs(10);
    assert_eq!(keepalives(&sim), [start, answer, answer + secs(12)]);
}

#[test]
fn data_sent_in_answer_to_several_packets_leaves_one_empty_packet_for_those_that_come_later() {
    let mut sim = quiet_session(4);
    for _ in 0..2 {
        sim.send(B, A);
        sim.run_for(secs(1));
    }
    sim.send(A, B);
    sim.run_for(secs(1));
    let sent = sim.now;
    sim.send(B, A);
    sim.run_for(secs(60));
    assert_eq!(keepalives(&sim), [sent + DELAY + secs(10)]);
}

#[test]
fn a_longer_interval_counts_from_the_next_empty_packet_on() {
    let mut sim = quiet_session(5);
    let (start, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(start, b, 20).unwrap();
    sim.run_for(secs(10));
    let now = sim.now;
    sim[A].interface.set_persistent_keepalive(now, b, 60).unwrap();
    sim.run_for(secs(90));
    assert_eq!(keepalives(&sim), [0, 20, 80].map(|after| start + secs(after)));
}

#[test]
fn what_is_due_for_a_peer_is_done_in_time_though_another_is_always_due_before() {
    let mut sim = Sim::group(6, 3);
    sim.connect(A, B);
    let (now, b, c) = (sim.now, sim.id(A, B), sim.id(A, C));
    sim[A].interface.set_persistent_keepalive(now, c, 3).unwrap();
    sim.run_for(secs(30));
    let to_b = |sim: &Sim| {
        let mut sent = sim.sent(A, Kind::Keepalive);
        sent.retain(|sent| sent.path.remote == sim[B].address);
        sent.iter().map(|sent| sent.at).collect::<Vec<_>>()
    };
    let before = to_b(&sim).len();
    // In answer to data, and to show from where packets leave now.
    sim.send(B, A);
    sim.run_for(DELAY);
    let arrived = sim.now;
    sim.run_for(secs(20));
    let forgotten = sim.now;
    sim[A].configure(|interface| interface.forget_source(b).unwrap());
    sim.run_for(secs(20));
    assert_eq!(to_b(&sim)[before..], [arrived + secs(10), forgotten]);
}

#[test]
fn a_persistent_keepalive_that_comes_between_initiations_keeps_the_attempt_going() {
    let mut sim = Sim::pair(7);
    sim.network.cut_both(A, B);
    let (now, b) = (sim.now, sim.id(A, B));
    sim[A].interface.set_persistent_keepalive(now, b, 3).unwrap();
    sim.run_for(secs(1_000));
    assert_eq!(sim[A].events(), [], "each one gives the attempt another 90 s");
}
