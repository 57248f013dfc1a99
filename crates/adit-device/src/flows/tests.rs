use std::os::unix::net::UnixDatagram;

use super::progress::READS;
use super::*;
use crate::offload::testing::Spec;

/// With as many workers, and what puts packets into their queues.
fn flows(workers: usize) -> (Flows, Vec<UnixDatagram>) {
    let pairs = (0..workers).map(|_| UnixDatagram::pair().unwrap());
    let (queues, devices): (Vec<OwnedFd>, _) = pairs.map(|(queue, device)| (queue.into(), device)).unzip();
    (Flows::new(queues), devices)
}

/// A packet, and one of the same flow that goes the other way.
fn both_ways(spec: &Spec) -> [Vec<u8>; 2] {
    let packet = spec.build();
    let mut answer = packet.clone();
    let (addresses, length) = if spec.v6 { (8, 16) } else { (12, 4) };
    for (at, length) in [(addresses, length), (spec.l4(), 2)] {
        let (from, to) = answer[at..at + 2 * length].split_at_mut(length);
        from.swap_with_slice(to);
    }
    [packet, answer]
}

fn kinds() -> [Spec; 4] {
    [Spec::tcp4(10), Spec::tcp6(10), Spec::udp4(10), Spec::udp6(10)]
}

#[test]
fn a_flow_that_another_worker_sends_moves_to_this_one_only_while_nothing_waits_there() {
    for spec in kinds() {
        let (flows, _devices) = flows(3);
        let [packet, answer] = both_ways(&spec);
        let ways = || [0, 1, 2].map(|worker| flows.way(worker, &answer));
        flows.at_work(1, true);
        assert_eq!(ways(), [Way::Own; 3], "nobody has sent anything of it");
        flows.sent_by(1, &packet);
        assert_eq!(ways(), [Way::Aside, Way::Own, Way::Aside]);
        flows.at_work(1, false);
        flows.at_work(2, true);
        assert_eq!(
            ways(),
            [Way::OwnFrom(1), Way::Own, Way::OwnFrom(1)],
            "what the third does has nothing to do with it"
        );
        flows.sent_by(0, &packet);
        flows.at_work(0, true);
        assert_eq!(ways(), [Way::Own, Way::Aside, Way::Aside], "it has moved");
    }
}

#[test]
fn a_flow_has_arrived_once_nothing_can_be_left_of_it_where_it_was() {
    let (flows, devices) = flows(2);
    let moved = flows.moved(1).expect("a worker");
    assert!(flows.has_arrived(&moved));
    devices[1].send(b"a packet that came before the move").unwrap();
    assert!(!flows.has_arrived(&moved), "it waits in the queue");
    flows.at_work(1, true);
    rustix::io::read(&flows.workers[1].0, &mut [0; 100]).unwrap();
    assert!(!flows.has_arrived(&moved), "it is being sent");
    flows.has_sent_all(1);
    assert!(!flows.has_arrived(&moved), "that turn may have been over, but for the news, before the move");
    flows.has_sent_all(1);
    assert!(flows.has_arrived(&moved));

    let moved = flows.moved(1).expect("a worker");
    for _ in 1..READS {
        flows.sent_by(1, &Spec::udp4(1).build());
    }
    assert!(!flows.has_arrived(&moved), "the queue never becomes empty");
    flows.sent_by(1, &Spec::udp4(1).build());
    assert!(flows.has_arrived(&moved), "but it holds no more than that");

    let moved = flows.moved(1).expect("a worker");
    assert!(!flows.has_arrived(&moved));
    flows.at_work(1, false);
    assert!(flows.has_arrived(&moved), "it sleeps");
}

#[test]
fn flows_differ_by_address_port_and_protocol_and_not_by_anything_else() {
    for spec in kinds() {
        let [packet, answer] = both_ways(&spec);
        let flow = hash(&packet).expect("a flow");
        assert_eq!(hash(&answer), Some(flow));
        let same = Spec { payload: vec![9; 100], id: 3, ttl: 9, tos: 4, ..spec.clone() };
        assert_eq!(hash(&same.build()), Some(flow));
        for other in [
            Spec { host: spec.host + 1, ..spec.clone() },
            Spec { port: spec.port + 1, ..spec.clone() },
            Spec { udp: !spec.udp, ..spec.clone() },
        ] {
            assert_ne!(hash(&other.build()), Some(flow), "{other:?}");
        }
    }
}

#[test]
fn fragments_belong_to_what_their_hosts_send_since_only_the_first_has_ports() {
    let first = Spec::udp4(100).build();
    let [mut begin, mut rest] = [first.clone(), first];
    begin[6] = 0x20;
    rest[7] = 0x10;
    rest[20..].fill(0xee);
    assert_eq!(hash(&begin), hash(&rest));
}

#[test]
fn what_is_no_packet_belongs_to_no_flow() {
    for bytes in [&[][..], &[0x45], &[0x45; 19], &[0x60; 39], &[0x15; 60]] {
        assert_eq!(hash(bytes), None, "{bytes:?}");
    }
    let (flows, _devices) = flows(2);
    flows.sent_by(1, &[]);
    assert_eq!(flows.way(0, &[]), Way::Own);
}

#[test]
fn a_single_worker_keeps_no_account() {
    let (flows, _devices) = flows(1);
    flows.sent_by(0, &Spec::udp4(1).build());
    assert!(flows.places.is_empty() && flows.workers.is_empty());
    assert_eq!(flows.way(0, &Spec::udp4(1).build()), Way::Own);
}
