//! What a worker does with packets that come one by one.

use super::*;

#[test]
fn a_packet_that_comes_when_they_come_one_by_one_leaves_before_it_is_looked_for_more() {
    let [mut a, _] = connected();
    let mut events = Events::with_capacity(8);
    let packet = finished(Spec::udp4(100).build());
    let mut sends = |count: usize| {
        for _ in 0..count {
            a.put(&packet);
        }
        a.worker.ready.tun = true;
        counted::count(&SENDS, || assert_eq!(a.worker.serve(&mut events).unwrap().outbound, count))
    };
    assert_eq!(sends(4), 1, "as one");
    assert_eq!(sends(4), 1, "they came together before as well");
    assert_eq!(sends(0), 0);
    assert_eq!(sends(4), 1, "a turn without a packet says nothing");
    assert_eq!(sends(1), 1);
    assert_eq!(sends(4), 2, "the first by itself, and the others as one");
    assert_eq!(sends(4), 1);
}

#[test]
fn a_datagram_that_comes_when_they_come_one_by_one_is_delivered_before_it_is_looked_for_more() {
    let [mut a, mut b] = connected();
    let mut events = Events::with_capacity(8);
    let packet = finished(Spec::udp4(100).build());
    let mut writes = |count: usize| {
        for _ in 0..count {
            a.put(&packet);
            a.serve_tun();
        }
        b.worker.ready.v4 = true;
        assert_eq!(b.worker.serve(&mut events).unwrap().inbound, count);
        b.take_all().len()
    };
    assert_eq!(writes(4), 1, "as one");
    assert_eq!(writes(1), 1);
    assert_eq!(writes(4), 2, "the first by itself, and the others as one");
    assert_eq!(writes(4), 1);
}

#[test]
fn an_answer_leaves_in_the_turn_of_its_question_when_they_come_one_by_one() {
    let [mut a, mut b] = connected();
    let mut events = Events::with_capacity(8);
    let packet = finished(Spec::udp4(100).build());
    let answer = finished(Spec::udp4(50).build());
    // No event tells of the answer, just as none does when the kernel queues it within the write.
    let mut turn = |questions: usize| {
        for _ in 0..questions {
            a.put(&packet);
        }
        a.serve_tun();
        b.put(&answer);
        b.worker.ready.v4 = true;
        let turn = b.worker.serve(&mut events).unwrap();
        b.serve_tun();
        (turn.inbound, turn.outbound)
    };
    assert_eq!(turn(3), (3, 0), "they come together, and the kernel will tell");
    assert_eq!(turn(1), (1, 0));
    assert_eq!(turn(1), (1, 1));
    assert_eq!(turn(1), (1, 1));
    assert_eq!(turn(3), (3, 1), "nobody knew");
    assert_eq!(turn(3), (3, 0));
}
