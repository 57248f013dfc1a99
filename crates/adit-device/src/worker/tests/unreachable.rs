//! Packets that no peer takes.

use super::*;

/// A worker whose peer takes nothing any more, and which may send a hundred messages, and no more with time.
fn alone() -> End {
    let [mut a, _] = connected();
    {
        let mut interface = a.worker.shared.interface();
        let peer = interface.peers(now()).next().unwrap().id;
        interface.clear_allowed_ips(peer).unwrap();
    }
    a.worker.allowance = Allowance::new(Instant::now() + Duration::from_secs(3_600));
    a
}

#[test]
fn of_the_segments_that_were_read_as_one_only_the_first_is_answered() {
    let mut a = alone();
    let bulk = Spec::tcp4(20 * SEGMENT);
    let first = bulk.segments(SEGMENT).remove(0).build();
    a.put(&bulk.build_unfinished(Some(SEGMENT as u16)));
    a.put(&finished(Spec { port: 9, ..Spec::udp4(8) }.build()));
    a.serve_tun();
    let messages = a.take_all();
    assert_eq!(messages.len(), 2, "one for each flow");
    assert_eq!(messages[0][28..], first[..548], "the first quotes the segment as it would have been sent");
}

#[test]
fn no_more_than_a_hundred_flows_are_told() {
    let mut a = alone();
    let mut told = 0;
    for port in 1..=150 {
        a.put(&finished(Spec { port, ..Spec::udp4(8) }.build()));
        a.serve_tun();
        told += a.take_all().len();
    }
    assert_eq!(told, 100);
}

#[test]
fn the_message_leaves_the_flow_of_its_packets_where_it_is() {
    let mut a = alone();
    let (aside, other) = UnixDatagram::pair().unwrap();
    a.worker.aside = Some(Arc::new(TunQueue::adopt(aside.into())));
    a.put(&finished(Spec::udp4(8).build()));
    a.serve_tun();
    assert!(a.take_all().is_empty());
    other.set_nonblocking(true).unwrap();
    assert!(other.recv(&mut [0; 100]).is_ok(), "it was written aside");
}
