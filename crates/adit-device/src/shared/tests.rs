use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use getrandom::SysRng;
use rand_core::UnwrapErr;
use socket2::SockRef;

use super::*;
use crate::refused::refuse;
use crate::udp::bind;

/// What the threads of a device without a tunnel have in common, with one worker's socket for IPv4.
fn shared() -> Shared {
    let waker = mio::Waker::new(mio::Poll::new().unwrap().registry(), mio::Token(0)).unwrap();
    let interface = Interface::new(now(), unix_time(), Box::new(UnwrapErr(SysRng)));
    Shared::new(interface, vec![socket()], Offloads::NONE, true, None, waker)
}

fn socket() -> Arc<Sockets> {
    let mut sockets = bind(0, 1, 0, false).unwrap().remove(0);
    sockets.v6 = None;
    Arc::new(sockets)
}

/// An answer to a stranger, in the buffer from here to there.
fn answer(range: std::ops::Range<usize>) -> Transmit {
    let path = Path::to(SocketAddr::from(([192, 0, 2, 1], 1)));
    Transmit { peer: None, path, tos: 0x88, range, segment_size: 64 }
}

#[test]
fn answers_to_the_same_stranger_that_lie_back_to_back_become_one() {
    let mut joined = answer(0..64);
    for number in 1..4 {
        assert!(joins(&mut joined, &answer(64 * number..64 * (number + 1))));
    }
    assert_eq!(joined.range, 0..256);
}

#[test]
fn what_differs_in_anything_is_sent_by_itself() {
    let others = [
        Transmit { path: Path::to(SocketAddr::from(([192, 0, 2, 1], 2))), ..answer(64..128) },
        Transmit { path: Path { ifindex: 1, ..answer(0..0).path }, ..answer(64..128) },
        Transmit { tos: 0, ..answer(64..128) },
        // Not where the last one ends, and not of one datagram.
        answer(65..129),
        answer(64..127),
        Transmit { segment_size: 32, ..answer(64..96) },
    ];
    for other in others {
        let mut last = answer(0..64);
        assert!(!joins(&mut last, &other), "{other:?}");
        assert_eq!(last, answer(0..64));
    }
}

#[test]
fn datagrams_for_peers_are_left_as_the_engine_made_them() {
    let mut interface = Interface::new(now(), unix_time(), Box::new(UnwrapErr(SysRng)));
    let peer = interface.add_peer(adit::PublicKey::from_bytes([9; 32])).unwrap();
    let of_peer = |range| Transmit { peer: Some(peer), ..answer(range) };
    assert!(!joins(&mut of_peer(0..64), &of_peer(64..128)));
}

#[test]
fn only_ipv6_and_link_local_addresses_ask_for_the_link_by_which_they_came() {
    let asked_for = |remote: &str| link_asked_for(&Path { ifindex: 7, ..Path::to(remote.parse().unwrap()) });
    assert_eq!(asked_for("192.0.2.1:1"), 0);
    assert_eq!(asked_for("169.254.0.1:1"), 7);
    assert_eq!(asked_for("[2001:db8::1]:1"), 7);
    assert_eq!(asked_for("[fe80::1]:1"), 7);
    let path = Path { ifindex: 7, ..answer(0..0).path };
    assert_eq!(group(&Transmit { path, ..answer(0..0) }, &[]).path.ifindex, 0);
}

#[test]
fn datagrams_that_the_kernel_did_not_take_are_counted() {
    let shared = shared();
    let outcome = |sent, dropped, unsent| SendOutcome { sent, dropped, unsent, error: None, source_gone: false };
    shared.sent(None, None, &outcome(5, 0, 0));
    assert_eq!(shared.send_errors.load(Ordering::Relaxed), 0);
    shared.sent(None, None, &outcome(5, 2, 3));
    shared.sent(None, None, &outcome(0, 1, 0));
    assert_eq!(shared.send_errors.load(Ordering::Relaxed), 6);
}

/// Has more datagrams come to the worker's socket than there is room for, and says how many found none.
fn overflow(shared: &Shared) -> u64 {
    const SENT: u64 = 100;
    let (sockets, before) = (shared.sockets(0).unwrap(), shared.overflows());
    let socket = sockets.v4.as_ref().unwrap();
    SockRef::from(&socket.as_fd()).set_recv_buffer_size(4_096).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..SENT {
        sender.send_to(&[0; 1_000], ("127.0.0.1", sockets.port)).unwrap();
    }
    let mut arrived = 0;
    while arrived + shared.overflows() - before < SENT {
        match socket.recv(&mut [0; 1_000]) {
            Ok(_) => arrived += 1,
            // The kernel may still be at it.
            Err(_) => std::thread::yield_now(),
        }
    }
    SENT - arrived
}

#[test]
fn overflows_stay_counted_when_the_sockets_are_replaced() {
    let shared = shared();
    let lost = overflow(&shared);
    assert!(lost > 0);
    drop(shared.replace_sockets(vec![socket()]));
    assert_eq!(shared.overflows(), lost);
    // Those of the new sockets come on top.
    let more = overflow(&shared);
    assert!(more > 0);
    assert_eq!(shared.overflows(), lost + more);
}

#[test]
fn what_finds_a_full_buffer_leaves_from_the_spare_sockets_which_are_those_for_handshakes_if_there_are_such() {
    let shared = shared();
    let [usual, spare] = <[_; 2]>::try_from(bind(0, 1, 0, false).unwrap()).ok().unwrap().map(Arc::new);
    shared.replace_sockets(vec![usual.clone(), spare.clone()]);
    assert!(shared.handshake_sockets().is_some_and(|found| Arc::ptr_eq(&found, &spare)));
    shared.replace_sockets(vec![usual.clone(), Arc::new(Sockets { v4: None, v6: None, port: usual.port })]);
    assert!(shared.handshake_sockets().is_none());

    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_nonblocking(true).unwrap();
    {
        let mut interface = shared.interface();
        interface.set_private_key(Some(adit::PrivateKey::from_bytes([1; 32])));
        let id = interface.add_peer(adit::PrivateKey::from_bytes([2; 32]).public_key()).unwrap();
        interface.set_endpoint(id, Some(peer.local_addr().unwrap())).unwrap();
    }
    // Begins a handshake, and sends what it takes.
    let begin = |spare: Option<&Sockets>| {
        let mut interface = shared.interface();
        interface.link_down();
        interface.link_up(now());
        let id = interface.peers(now()).next().unwrap().id;
        interface.initiate_handshake(id).unwrap();
        interface.expire(now());
        let work = interface.poll_handshake(now()).expect("a handshake to begin").compute();
        assert!(interface.finish_handshake(now(), work).is_none());
        drop(interface);
        shared.transmit(Waiting::ForPeers, &usual, spare, &mut [0; 2_048]);
        peer.recv(&mut [0; 256]).ok()
    };
    std::thread::scope(|scope| {
        // The kernel goes on refusing this thread.
        let full = scope.spawn(|| {
            for call in [libc::SYS_sendmsg, libc::SYS_sendmmsg] {
                refuse(call, 0, usual.v4.as_ref().unwrap().as_raw_fd(), libc::EAGAIN);
            }
            assert_eq!(begin(None), None);
            assert_eq!(shared.send_errors.load(Ordering::Relaxed), 1);
            assert_eq!(begin(Some(&spare)), Some(148));
            assert_eq!(shared.send_errors.load(Ordering::Relaxed), 1, "nothing more is lost");
        });
        full.join().unwrap();
    });
}

/// The first of these has the second, which is given back as well, as its peer.
fn tunnel() -> (Shared, Interface) {
    let (shared, mut other) = (shared(), Interface::new(now(), unix_time(), Box::new(UnwrapErr(SysRng))));
    let keys = [[1; 32], [2; 32]].map(adit::PrivateKey::from_bytes);
    for (end, own, peer) in [(&mut *shared.interface(), &keys[0], &keys[1]), (&mut other, &keys[1], &keys[0])] {
        end.set_private_key(Some(own.clone()));
        let peer = end.add_peer(peer.public_key()).unwrap();
        end.set_endpoint(peer, Some(([192, 0, 2, 1], 51820).into())).unwrap();
    }
    (shared, other)
}

/// Has the peer send something to this address, and whatever else it takes; returns whether the control thread is to be
/// woken.
fn reach(shared: &Shared, peer: &mut Interface, local: [u8; 4]) -> bool {
    let (mut interface, mut buffer, now) = (shared.interface(), [0; 256], now());
    let id = peer.peers(now).next().unwrap().id;
    peer.send_keepalive(id).unwrap();
    peer.handle_timeout(now);
    let path = Path { local: Some(local.into()), ifindex: 1, ..Path::to(([192, 0, 2, 1], 51820).into()) };
    for _ in 0..2 {
        while let Some(transmit) = peer.poll_transmit(now, &mut buffer).unwrap() {
            let _ = interface.handle_datagram(now, &path, adit::Ecn::NotEct, &mut buffer[transmit.range]);
        }
        while let Some(transmit) = interface.poll_transmit(now, &mut buffer).unwrap() {
            let _ = peer.handle_datagram(now, &path, adit::Ecn::NotEct, &mut buffer[transmit.range]);
        }
    }
    shared.aftermath(&interface).wake_control
}

#[test]
fn the_control_thread_is_woken_for_a_source_that_is_to_be_judged_and_for_no_other_until_it_is() {
    let (shared, mut peer) = tunnel();
    // So early that nothing is due before.
    let sleep = || shared.control_sleeps_until(&shared.interface(), Some(Instant::from_nanos(1)));
    sleep();
    assert!(reach(&shared, &mut peer, [198, 51, 100, 1]));
    sleep();
    for number in 0..10 {
        assert!(!reach(&shared, &mut peer, [198, 51, 100, number % 2]), "it looks in time, and finds the latest");
    }
    assert!(shared.interface().poll_source().is_some_and(|(_, path)| path.local == Some([198, 51, 100, 1].into())));
    sleep();
    assert!(!reach(&shared, &mut peer, [198, 51, 100, 1]), "it is known");
    assert!(reach(&shared, &mut peer, [198, 51, 100, 0]));
}
