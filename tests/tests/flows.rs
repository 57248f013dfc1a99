//! Packets of one flow, where several threads serve the interface.

use adit_tests::Implementation::Adit;
use adit_tests::{Pair, Side, Udp};

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
