//! Answers to strangers under load: cookie replies.

use super::*;

/// So many strangers ask, all from one address, and all in one burst. The first 64 wait for their turn; the others are
/// to be sent a cookie.
fn ask(shared: &Shared, count: usize, path: &Path) {
    let key = PrivateKey::from_bytes([1; 32]).public_key();
    let mut buffer: Vec<u8> = (0..count).flat_map(|number| initiation(key, number as u64)).collect();
    let mut datagrams = Datagrams::default();
    for number in 0..count {
        assert!(datagrams.push(number * INITIATION_LEN..(number + 1) * INITIATION_LEN, path, Ecn::NotEct));
    }
    let opened = shared.interface().begin_open(now(), datagrams, &buffer).open(&mut buffer);
    assert_eq!(shared.interface().commit(now(), opened, &mut buffer).packets().count(), 0);
}

#[test]
fn strangers_are_answered_by_whoever_gets_handshakes_and_by_every_worker_where_the_kernel_cannot_tell_them_apart() {
    for (has_socket_for_handshakes, answers) in [(true, [false, false, true]), (false, [true, true, true])] {
        let mut sockets = bind(0, 2, 0, true).unwrap();
        if !has_socket_for_handshakes {
            let last = sockets.last_mut().unwrap();
            (last.v4, last.v6) = (None, None);
        }
        let interface = adit::Interface::new(now(), crate::shared::unix_time(), Box::new(UnwrapErr(SysRng)));
        let waker = Waker::new(Poll::new().unwrap().registry(), WAKER).unwrap();
        let sockets = sockets.into_iter().map(Arc::new).collect();
        let shared = Arc::new(Shared::new(interface, sockets, Offloads::ALL, true, None, waker));
        let found = [0, 1, 2]
            .map(|index| Worker::new(shared.clone(), index, Poll::new().unwrap(), None, None).unwrap().answers);
        assert_eq!(found, answers);
    }
}

#[test]
fn answers_that_were_put_off_leave_when_nothing_more_has_come() {
    let [mut a, _] = connected();
    let attacker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    attacker.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket2::SockRef::from(&attacker).set_recv_buffer_size(1 << 20).unwrap();
    // Under load, and more has come than one turn answers.
    let count = 2 * BURST;
    let key = PrivateKey::from_bytes([1; 32]).public_key();
    let port = a.worker.sockets.port;
    for number in 0..count {
        attacker.send_to(&initiation(key, number as u64), ("127.0.0.1", port)).unwrap();
    }
    a.worker.ready.v4 = true;
    while a.worker.ready.v4 {
        a.worker.serve_network();
    }
    // The first 64 wait for their turn; the others are sent a cookie.
    for _ in 64..count {
        let mut reply = [0; 148];
        assert_eq!((attacker.recv(&mut reply).unwrap(), reply[0]), (64, 3));
    }
    assert!(!a.worker.owes_answers);
}

#[test]
fn strangers_wait_for_answers_while_more_come_than_can_be_read_but_not_for_ever() {
    let [mut a, _] = connected();
    let attacker = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    attacker.set_nonblocking(true).unwrap();
    let initiation = initiation(PrivateKey::from_bytes([1; 32]).public_key(), 1);
    let mut sent = 0;
    while a.worker.sockets.overflows() == 0 {
        attacker.send_to(&initiation, ("127.0.0.1", a.worker.sockets.port)).unwrap();
        sent += 1;
    }
    let [most, half] = [sent / BURST, sent / BURST / 2];
    assert!(half > MOST_PUT_OFF as usize + 1, "too few for this test: {sent}");
    let mut answered = Vec::new();
    a.worker.ready.v4 = true;
    while a.worker.ready.v4 {
        a.worker.serve_network();
        let mut reply = [0; 148];
        answered.push(std::iter::from_fn(|| attacker.recv(&mut reply).ok()).count() > 0);
    }
    let first = MOST_PUT_OFF as usize;
    assert_eq!(answered[..=first], [&vec![false; first][..], &[true]].concat());
    assert!(answered[most - 1], "less than half of the buffer is full");
    assert!(!a.worker.owes_answers);
}

#[test]
fn answers_that_another_process_has_handed_over_leave_before_anything_comes() {
    let [a, _] = connected();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    ask(&a.worker.shared, 65, &Path::to(stranger.local_addr().unwrap()));
    let mut successor = Worker::new(a.worker.shared.clone(), 0, Poll::new().unwrap(), None, None).unwrap();
    successor.ready.v4 = true;
    assert_eq!(successor.serve_network(), 0);
    let mut reply = [0; 148];
    assert_eq!((stranger.recv(&mut reply).unwrap(), reply[0]), (64, 3));
}

#[test]
fn answers_to_one_stranger_leave_as_one_and_each_is_an_answer_of_its_own() {
    let [mut a, _] = connected();
    let key = PrivateKey::from_bytes([1; 32]).public_key();
    let port = a.worker.sockets.port;
    let stranger = bind(0, 1, 0, true).unwrap().remove(0);
    let socket = stranger.v4.as_ref().unwrap();
    // Under load after the first 64.
    for number in 0..BURST {
        let outcome = socket.send(&Path::to(([127, 0, 0, 1], port).into()), 0, &initiation(key, number as u64), 0);
        assert_eq!(outcome.sent, 1);
    }
    a.worker.ready.v4 = true;
    while a.worker.ready.v4 {
        a.worker.serve_network();
    }
    let mut buffer = vec![0; MAX_RECEIVED];
    let mut answers = std::collections::HashSet::new();
    let mut reads = 0;
    while let Ok(received) = socket.recv(&mut buffer) {
        reads += 1;
        for datagram in received.datagrams() {
            assert_eq!((datagram.len(), buffer[datagram.start]), (64, 3));
            answers.insert(buffer[datagram].to_vec());
        }
    }
    assert_eq!(answers.len(), BURST - 64);
    assert!(reads <= 8, "{reads} reads, where the kernel coalesces what was sent as one");
}

#[test]
fn the_engine_is_held_for_no_more_answers_than_one_burst_of_a_flood_asks_for() {
    let [a, _] = connected();
    let shared = &a.worker.shared;
    ask(shared, 500, &Path::to(([127, 0, 0, 1], 9).into()));
    let mut buffer = vec![0; 65_536];
    let mut left = 500 - 64;
    while left > 0 {
        let taken = shared.take_transmits(Waiting::All, &mut buffer);
        assert_eq!(taken.len(), 1);
        let count = taken[0].range.len() / taken[0].segment_size;
        assert!((1..=BURST.min(left)).contains(&count), "{count} of {left} in one hold");
        left -= count;
    }
    assert!(!shared.interface().has_transmits());
}
