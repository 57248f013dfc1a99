//! Packets of one flow: their order where several threads serve the interface, and how long they wait where the link is
//! slow.

use adit_tests::Implementation::Adit;
use adit_tests::{Pair, Side, Udp, eventually};

/// The kernel lets what a flow sends come from the queue to which its answers are written, whatever still waits in
/// another one.
#[test]
fn when_a_flow_gets_its_first_answer_none_of_its_packets_overtakes_another() {
    const FLOWS: usize = 40;
    const DATAGRAMS: u32 = 3_000;
    let pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    assert!(std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1), "one core shows nothing here");
    let mut flows = Vec::new();
    for number in 0..FLOWS {
        // All stay open, so that each has ports of its own.
        flows.push(Udp::between(&pair.a.host, Side::A.inner_v4(), &pair.b.host, Side::B.inner_v4()));
        let arrived = flows[number].answered_burst(DATAGRAMS, 32, 100);
        assert!(arrived.len() > 100, "only {} of {DATAGRAMS} arrive", arrived.len());
        let disorder = arrived.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(disorder, None, "in flow {number} a later datagram overtakes an earlier one");
    }
}

/// What is sent faster than it leaves would wait for as long as there is memory.
#[test]
fn a_queue_that_stands_behind_a_slow_link_costs_packets_and_one_that_does_not_stand_costs_none() {
    let pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    let udp = Udp::between(&pair.a.host, Side::A.inner_v4(), &pair.b.host, Side::B.inner_v4());
    let lost_after_more = || {
        for _ in 0..200 {
            udp.send(&[0; 1_000]).expect("a datagram is sent");
        }
        pair.a.shown().drops.get("standing_queue").copied().unwrap_or_default()
    };
    // Some of them are lost elsewhere, since there is no end of them.
    let fast = (0..50).map(|_| lost_after_more()).max();
    assert_eq!(fast, Some(0), "nothing waits on the wire");
    let slow = pair.a.host.slow_down("eth0", "10mbit");
    eventually("packets are lost on purpose", || (lost_after_more() > 0).then_some(()));
    drop(slow);
    eventually("the tunnel goes on", || pair.a_reaches_b().then_some(()));
}
