use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::SockRef;

use crate::netlink::testing::in_new_namespace;
use crate::udp::tests::{assert_all_sent, sockets, to};
use crate::udp::{MAX_RECEIVED, Sockets, bind};

#[test]
fn a_peer_stays_with_one_worker_and_several_peers_are_spread() {
    in_new_namespace(|| {
        let workers = bind(0, 4, 0, true).expect("bound");
        let mut poll = Poll::new().expect("poll");
        for (index, worker) in workers.iter().enumerate() {
            for socket in worker.iter() {
                let source = &mut SourceFd(&socket.as_raw_fd());
                poll.registry().register(source, Token(index), Interest::READABLE).expect("registered");
            }
        }
        // Peers at many ports of one address, and at many addresses with one port.
        let at = |address: String, port: u16| std::net::UdpSocket::bind((address, port)).expect("bound");
        for (address, peers) in [
            ("127.0.0.1", (0..64).map(|_| at("127.0.0.1".to_owned(), 0)).collect::<Vec<_>>()),
            ("::1", (0..64).map(|_| at("::1".to_owned(), 0)).collect()),
            ("127.0.0.1", (1..=64).map(|last| at(format!("127.0.1.{last}"), 9_999)).collect()),
        ] {
            for _ in 0..3 {
                for peer in &peers {
                    peer.send_to(&transport(32), (address, workers[0].port)).expect("sent");
                }
            }
            let mut homes: HashMap<SocketAddr, Vec<usize>> = HashMap::new();
            let mut events = Events::with_capacity(16);
            while homes.values().map(Vec::len).sum::<usize>() < 3 * peers.len() {
                for (index, worker) in workers.iter().enumerate() {
                    while let Ok(received) = worker.iter().find_map(|s| s.recv(&mut [0; 100]).ok()).ok_or(()) {
                        homes.entry(received.path.remote).or_default().push(index);
                    }
                }
                if homes.values().map(Vec::len).sum::<usize>() < 3 * peers.len() {
                    poll.poll(&mut events, Some(Duration::from_secs(10))).expect("polled");
                    assert!(!events.is_empty(), "all of it arrives");
                }
            }
            assert_eq!(homes.len(), peers.len());
            assert!(homes.values().all(|home| home.iter().all(|index| *index == home[0])), "{homes:?}");
            let used: HashSet<usize> = homes.values().flatten().copied().collect();
            assert_eq!(used, HashSet::from([0, 1, 2, 3]), "{address}");
        }
    });
}

/// What looks like a transport message.
fn transport(len: usize) -> Vec<u8> {
    let mut message = vec![0x5a; len];
    message[..4].copy_from_slice(&[4, 0, 0, 0]);
    message
}

#[test]
fn transport_messages_go_to_the_workers_and_all_else_to_a_socket_of_its_own() {
    in_new_namespace(|| {
        let with = |first: [u8; 4], len: usize| [&first[..], &vec![0x5a; len]].concat()[..len].to_vec();
        let table = [
            ("a keepalive", transport(32), true),
            ("a packet", transport(1_452), true),
            ("the longest there is", transport(65_507), true),
            ("shorter than any transport message", transport(31), false),
            ("an initiation", with([1, 0, 0, 0], 148), false),
            ("a response", with([2, 0, 0, 0], 92), false),
            ("a cookie reply", with([3, 0, 0, 0], 64), false),
            ("a reserved byte", with([4, 0, 0, 1], 64), false),
            ("no type", with([0, 0, 0, 4], 64), false),
            ("three bytes", with([4, 0, 0, 0], 3), false),
            ("nothing", Vec::new(), false),
        ];
        for workers in [1, 3] {
            let all = sockets(workers);
            let (rest, workers) = all.split_last().expect("one more");
            for address in ["127.0.0.1", "::1"] {
                let sender = std::net::UdpSocket::bind((address, 0)).expect("bound");
                let family = |sockets: &Sockets| {
                    let socket = if address.contains(':') { &sockets.v6 } else { &sockets.v4 };
                    SockRef::from(socket.as_ref().expect("both families")).set_nonblocking(true).expect("non-blocking");
                    socket.as_ref().and_then(|socket| socket.recv(&mut vec![0; MAX_RECEIVED]).ok()).map(|r| r.len)
                };
                for (name, datagram, is_for_workers) in &table {
                    // On loopback what is sent has arrived.
                    sender.send_to(datagram, (address, rest.port)).expect("sent");
                    let at_workers = workers.iter().find_map(family);
                    let found = (at_workers, family(rest));
                    let len = Some(datagram.len());
                    let expected = if *is_for_workers { (len, None) } else { (None, len) };
                    assert_eq!(found, expected, "{name}, {address}, {} workers", workers.len());
                }
            }
        }
    });
}

#[test]
fn what_was_steered_to_a_socket_that_is_closed_goes_to_a_worker() {
    in_new_namespace(|| {
        let mut workers = sockets(2);
        drop(workers.pop());
        for address in ["127.0.0.1", "::1"] {
            let sender = std::net::UdpSocket::bind((address, 0)).expect("bound");
            let path = to(address, &workers[0]);
            for datagram in [[1; 148].as_slice(), &[3; 64], &transport(32)] {
                sender.send_to(datagram, path.remote).expect("sent");
                let read = |sockets: &Sockets| {
                    let socket = sockets.socket(&path.remote).expect("both families");
                    SockRef::from(socket).set_nonblocking(true).expect("non-blocking");
                    socket.recv(&mut [0; 1_500]).ok().map(|received| received.len)
                };
                assert_eq!(workers.iter().find_map(read), Some(datagram.len()), "{address}, {}", datagram[0]);
            }
        }
    });
}

#[test]
fn what_the_kernel_coalesced_goes_to_a_worker_as_one() {
    in_new_namespace(|| {
        let (sender, receivers) = (sockets(1).remove(0), sockets(2));
        for address in ["127.0.0.1", "::1"] {
            let path = to(address, &receivers[0]);
            let contents = [transport(1_000), transport(1_000), transport(500)].concat();
            assert_all_sent(&sender.send(&path, 0, &contents, 1_000), 3);
            let socket = |sockets: &Sockets| {
                let socket = sockets.socket(&path.remote).expect("both families");
                SockRef::from(socket).set_nonblocking(true).expect("non-blocking");
                socket.recv(&mut vec![0; MAX_RECEIVED]).ok().map(|received| received.datagrams().count())
            };
            let found: Vec<_> = receivers[..2].iter().filter_map(socket).collect();
            assert_eq!(found, [3], "{address}");
            assert_eq!(socket(&receivers[2]), None);
        }
    });
}
