//! Packets that are lost on purpose, since a queue stands behind the sockets.

use super::*;

/// The payloads of segments of ten bytes, in bulk: each filled with its number.
fn bulk(count: u8) -> (VnetHeader, Vec<u8>) {
    let (vnet, mut packet) = Spec::tcp4(10 * usize::from(count)).build_unfinished(Some(10));
    let header_len = packet.len() - 10 * usize::from(count);
    for (number, payload) in (0..).zip(packet[header_len..].chunks_mut(10)) {
        payload.fill(number);
    }
    (vnet, packet)
}

/// The numbers of the segments that have come out.
fn numbers(end: &mut End) -> Vec<u8> {
    end.serve_network();
    let payloads = end.take_all().into_iter().flat_map(|packet| packet[40..].to_vec());
    payloads.step_by(10).collect()
}

/// What owes a packet for the peer.
fn owing(end: &End) -> Codel {
    Codel::owing(end.worker.shared.interface().route([192, 0, 2, 1].into()))
}

fn lost(end: &End) -> u64 {
    end.worker.shared.standing_queue.load(Ordering::Relaxed)
}

#[test]
fn a_queue_that_stands_costs_the_first_segment_of_a_read_and_no_other() {
    let [mut a, mut b] = connected();
    a.worker.codel = owing(&a);
    a.put(&bulk(5));
    a.put(&bulk(3));
    a.serve_tun();
    assert_eq!((numbers(&mut b), lost(&a)), (vec![1, 2, 3, 4, 0, 1, 2], 1));
}

#[test]
fn a_queue_that_stands_costs_a_packet_that_comes_alone_only_if_others_do_so_too() {
    let [mut a, mut b] = connected();
    a.put(&bulk(2));
    a.serve_tun();
    assert_eq!(numbers(&mut b), [0, 1]);
    a.worker.codel = owing(&a);
    let alone = |len| Spec::udp4(len).build();
    for len in [10, 20, 30] {
        a.put(&finished(alone(len)));
    }
    a.serve_tun();
    b.serve_network();
    assert_eq!((b.take_all(), lost(&a)), (vec![alone(10), alone(30)], 1));
}

#[test]
fn a_queue_that_stands_for_another_peer_costs_nothing() {
    let [mut a, mut b] = connected();
    let other = a.worker.shared.interface().add_peer(PrivateKey::from_bytes([3; 32]).public_key()).unwrap();
    a.worker.codel = Codel::owing(Some(other));
    a.put(&bulk(3));
    a.serve_tun();
    assert_eq!((numbers(&mut b), lost(&a)), (vec![0, 1, 2], 0));
}

#[test]
fn a_worker_looks_again_after_a_rest_at_what_waited_before() {
    let [mut a, _b] = connected();
    a.worker.codel.looked(Instant::now(), 1);
    assert!(!a.worker.codel.is_to_look());
    a.worker.ready = Ready::default();
    a.worker.turn(&mut Events::with_capacity(8), &mut Patience::new(None, Instant::now()));
    assert!(a.worker.codel.is_to_look());
}

#[test]
fn a_queue_that_stands_costs_nothing_that_can_be_told_of_it_by_a_mark() {
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    let [mut a, mut b] = connected();
    for number in 0..2 {
        a.worker.codel = owing(&a);
        a.put(&Spec { tos: ECT0, ..Spec::tcp4(30) }.build_unfinished(Some(10)));
        a.put(&finished(Spec { tos: ECT0, ..Spec::udp4(number) }.build()));
        a.serve_tun();
    }
    b.serve_network();
    let marks: Vec<u8> = b.take_all().iter().map(|packet| packet[1]).collect();
    assert_eq!((marks, lost(&a)), (vec![CE, ECT0, CE, ECT0], 0), "the segments of each read have come out as one");
}

#[test]
fn what_the_sockets_have_taken_is_what_has_joined_the_queue() {
    let [mut a, _b] = connected();
    assert!(!a.worker.codel.is_to_look());
    // As datagrams the segments have 96 bytes each: 15,360 together.
    for sent in 1..=7 {
        assert!(!a.worker.codel.is_to_look(), "before {sent} times 160 segments");
        a.put(&bulk(160));
        a.serve_tun();
    }
    assert!(a.worker.codel.is_to_look(), "107,520 bytes");
    a.put(&finished(Spec::udp4(10).build()));
    a.serve_tun();
    assert!(!a.worker.codel.is_to_look(), "they were looked at");
}
