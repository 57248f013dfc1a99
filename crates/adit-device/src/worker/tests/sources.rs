//! Errors of sources, and sources that the kernel does not watch.

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;

use super::*;

/// A worker that nobody knows, alone or (with `index` 1) the one for handshakes beside it.
fn stranger(index: usize) -> (Arc<Shared>, Worker) {
    let sockets = bind(0, 1, 0, false).unwrap().into_iter().map(Arc::new).collect();
    let interface = adit::Interface::new(now(), crate::shared::unix_time(), Box::new(UnwrapErr(SysRng)));
    let poll = Poll::new().unwrap();
    let waker = Waker::new(poll.registry(), WAKER).unwrap();
    let shared = Arc::new(Shared::new(interface, sockets, Offloads::ALL, true, None, waker));
    let tun = (index == 0).then(|| TunQueue::adopt(UnixDatagram::pair().unwrap().0.into()));
    let worker = Worker::new(shared.clone(), index, poll, tun, None).unwrap();
    (shared, worker)
}

/// Sends a message of this type that nobody makes anything of.
fn send_to(port: u16, kind: u8) {
    let mut message = [0; 64];
    message[0] = kind;
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&message, ("127.0.0.1", port)).unwrap();
}

fn read_until_empty(worker: &mut Worker) {
    while worker.ready.v4 || worker.ready.v6 {
        worker.serve_network();
    }
}

#[test]
fn sockets_that_cannot_be_watched_are_read_all_the_same_and_watched_as_soon_as_they_can_be() {
    let (shared, mut worker) = stranger(0);
    let unknown = || shared.interface().drops().get(adit::DropReason::UnknownIndex);
    let sockets: Vec<_> = bind(0, 1, 0, false).unwrap().into_iter().map(Arc::new).collect();
    let (port, v4) = (sockets[0].port, sockets[0].v4.as_ref().unwrap().as_raw_fd());
    // The kernel does not watch a file twice; this one it watches for something else, that never comes.
    worker.poll.registry().register(&mut SourceFd(&v4), Token(9), Interest::PRIORITY).unwrap();
    shared.replace_sockets(sockets);
    shared.wake_control();
    let mut events = Events::with_capacity(8);
    let patience = Some(Duration::from_secs(20));
    assert!(worker.wait(&mut events, patience));
    read_until_empty(&mut worker);

    for sent in 1..4 {
        send_to(port, 4);
        assert!(worker.wait(&mut events, patience));
        read_until_empty(&mut worker);
        assert_eq!(unknown(), sent, "it is not watched, and read");
    }
    worker.poll.registry().deregister(&mut SourceFd(&v4)).unwrap();
    assert!(worker.wait(&mut events, patience));
    read_until_empty(&mut worker);
    send_to(port, 4);
    assert!(worker.wait(&mut events, patience));
    assert!(!events.is_empty(), "it is watched");
    read_until_empty(&mut worker);
    assert_eq!(unknown(), 4);
}

#[test]
fn behind_an_error_a_socket_is_read_on() {
    for (index, kind) in [(0, 4), (1, 1)] {
        let (shared, mut worker) = stranger(index);
        for _ in 0..3 {
            send_to(worker.sockets.port, kind);
        }
        // The answer that nobody is there is an error of the next system call.
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = UdpSocket::from(worker.sockets.v4.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap());
        socket.connect(closed).unwrap();
        socket.send(&[0]).unwrap();
        worker.ready.v4 = true;
        read_until_empty(&mut worker);
        let drops: u64 = shared.interface().drops().iter().map(|(_, count)| count).sum();
        assert_eq!(drops, 3, "messages of type {kind}");
    }
}

#[test]
fn behind_an_error_the_device_is_read_on() {
    let [mut a, mut b] = connected();
    // Each longer than the one before, so that none is joined to it.
    let packets = [100, 200, 300].map(|len| finished(Spec::udp4(len).build()));
    let unread = [0; 32];
    a.worker.tun.as_ref().unwrap().write_vectored(&[IoSlice::new(&unread)]).unwrap();
    for packet in &packets {
        a.put(packet);
    }
    // Whoever lets go of its end and leaves something unread is an error at the other end.
    let elsewhere = UnixDatagram::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name("adit").unwrap());
    a.inside.connect_addr(&elsewhere.unwrap().local_addr().unwrap()).unwrap();
    a.serve_tun();
    b.serve_network();
    assert_eq!(b.take_all(), packets.map(|packet| packet.1));
}

#[test]
fn a_source_that_only_fails_is_left_alone() {
    let mut failures = Failures::default();
    let read = |failures: &mut Failures, error: io::ErrorKind| failures.let_read_on(&error.into());
    let mut lasts = |error| (0..1_000).take_while(|_| read(&mut failures, error)).count();
    assert_eq!(lasts(io::ErrorKind::WouldBlock), 0);
    assert!((4..64).contains(&lasts(io::ErrorKind::ConnectionRefused)));
}
