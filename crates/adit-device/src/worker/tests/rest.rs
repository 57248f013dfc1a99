//! Workers that rest while the device changes hands, and go on if it does not.

use super::*;

/// Until this packet comes out of the other end of the tunnel.
fn arrives(at: &mut End, packet: &[u8]) {
    let mut buffer = vec![0; 70_000];
    let end = Instant::now() + Duration::from_secs(20);
    while at.take(&mut buffer).is_none_or(|taken| taken != packet) {
        assert!(Instant::now() < end, "it has not arrived");
        at.serve_network();
        std::thread::yield_now();
    }
}

#[test]
fn what_came_before_and_during_a_rest_is_served_after_it() {
    let [End { mut worker, inside }, mut b] = connected();
    let shared = worker.shared.clone();
    let put = |len| {
        let packet = Spec::udp4(len).build();
        let message = [VnetHeader::default().to_bytes().as_slice(), &packet].concat();
        assert_eq!(inside.send(&message).unwrap(), message.len());
        packet
    };
    // The poll has told of this one, and does not tell again.
    let told = put(10);
    assert!(worker.wait(&mut Events::with_capacity(8), Some(Duration::ZERO)) && worker.ready.tun);
    shared.ends.store(true, Ordering::Relaxed);
    assert!(worker.run(), "it can go on");
    shared.ends.store(false, Ordering::Relaxed);
    let works = std::thread::spawn(move || worker.run());
    arrives(&mut b, &told);
    arrives(&mut b, &put(20));
    shared.ends.store(true, Ordering::Relaxed);
    // Here its poll is the one that this wakes.
    shared.wake_control();
    assert!(works.join().unwrap(), "it can rest again");
}
