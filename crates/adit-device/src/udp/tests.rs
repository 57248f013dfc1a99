mod faults;
mod hosts;
mod many;
mod room;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::*;
use crate::netlink::testing::{connect, in_new_namespace, net, new_namespace};
use crate::netlink::{Netlink, namespace};

/// Sockets that wait for what they receive, but not for ever.
pub(super) fn sockets(workers: usize) -> Vec<Sockets> {
    waiting(bind(0, workers, 0, true).expect("bound"))
}

fn waiting(sockets: Vec<Sockets>) -> Vec<Sockets> {
    for socket in sockets.iter().flat_map(Sockets::iter) {
        let socket = SockRef::from(socket);
        socket.set_nonblocking(false).expect("blocking");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    }
    sockets
}

fn sockets_in(namespace: &OwnedFd) -> Sockets {
    namespace::run_in(namespace.as_fd(), || sockets(1).remove(0)).expect("entered")
}

pub(super) fn to(address: &str, sockets: &Sockets) -> Path {
    Path { remote: SocketAddr::new(address.parse().expect("address"), sockets.port), local: None, ifindex: 0 }
}

fn from(path: Path, local: &str, ifindex: u32) -> Path {
    Path { local: Some(local.parse().expect("address")), ifindex, ..path }
}

/// Datagrams of `size` bytes, each filled with its number, `length` bytes in all.
fn numbered(length: usize, size: usize) -> Vec<u8> {
    (0..length).map(|i| (i / size) as u8).collect()
}

/// Receives datagrams until there are `count`.
fn receive(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; MAX_RECEIVED];
    let mut datagrams = Vec::new();
    while datagrams.len() < count {
        let received = socket.recv(&mut buffer).expect("received");
        datagrams.extend(received.datagrams().map(|range| buffer[range].to_vec()));
    }
    datagrams
}

#[test]
fn whatever_waits_is_received_in_one_call_each_in_its_place_and_cut_off_there() {
    const SIZE: usize = 100;
    let sockets = bind(0, 1, 0, true).expect("bound").remove(0);
    let socket = sockets.v4.as_ref().expect("IPv4");
    for number in 0..40 {
        let contents = vec![number; 90 + usize::from(number)];
        assert_all_sent(&sockets.send(&to("127.0.0.1", &sockets), 0, &contents, 0), 1);
    }
    let mut buffer = vec![0xff; 100 * SIZE];
    let mut number = 0;
    let mut places = Vec::new();
    for (count, more) in [(32, true), (8, false)] {
        places.clear();
        let result = socket.recv_many(&mut buffer, SIZE, |start, received| places.push((start, *received)));
        assert_eq!(result.expect("received"), (count * SIZE, more));
        assert_eq!(places.len(), count);
        for (index, (start, received)) in places.iter().enumerate() {
            assert_eq!((*start, received.len), (index * SIZE, (90 + number).min(SIZE)));
            assert_eq!(received.path.remote.port(), sockets.port);
            assert!(buffer[*start..start + received.len].iter().all(|&byte| usize::from(byte) == number));
            number += 1;
        }
    }
    let error = socket.recv_many(&mut buffer, SIZE, |_, _| unreachable!("nothing waits")).expect_err("nothing");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    // Room for two only: a third may wait.
    assert_all_sent(&sockets.send(&to("127.0.0.1", &sockets), 0, &[0; 50], 10), 5);
    assert_all_sent(&sockets.send(&to("127.0.0.1", &sockets), 0, &[0; 40], 0), 1);
    let result =
        socket.recv_many(&mut buffer[..2 * SIZE + 1], SIZE, |_, received| number += received.datagrams().count());
    assert_eq!((result.expect("received"), number), ((2 * SIZE, true), 46), "coalesced ones too");
}

#[test]
fn a_remote_that_cannot_be_reached_does_not_get_in_the_way_of_what_waits() {
    in_new_namespace(|| {
        let here = bind(0, 1, 0, true).expect("bound").remove(0);
        let [gone, there] = [sockets(1).remove(0), sockets(1).remove(0)];
        let nobody = ["127.0.0.1", "::1"].map(|address| to(address, &gone));
        drop(gone);
        for (path, socket) in nobody.iter().zip(here.iter()) {
            assert_all_sent(&here.send(path, 0, b"to nobody", 0), 1);
            // The kernel has answered with an ICMP message by now.
            let address = path.remote.ip().to_string();
            assert_all_sent(&there.send(&to(&address, &here), 0, b"hello", 0), 1);
            let received = socket.recv(&mut [0; 100]).expect("the datagram, and no error of an earlier one");
            assert_eq!(received.len, 5);
        }
    });
}

pub(super) fn assert_all_sent(outcome: &SendOutcome, count: usize) {
    let SendOutcome { sent, dropped, unsent, error, .. } = outcome;
    assert_eq!((*sent, *dropped, *unsent), (count, 0, 0), "{error:?}");
}

#[test]
fn datagrams_sent_as_one_are_received_as_one() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        for (address, socket) in [("127.0.0.1", &receiver.v4), ("::1", &receiver.v6)] {
            let socket = socket.as_ref().expect("both families");
            let contents = numbered(9_500, 1_000);
            assert_all_sent(&sender.send(&to(address, &receiver), 0, &contents, 1_000), 10);
            let mut buffer = vec![0; MAX_RECEIVED];
            let received = socket.recv(&mut buffer).expect("received");
            let path = from(to(address, &sender), address, 1);
            assert_eq!(received, Received { len: 9_500, segment_size: 1_000, path, ecn: Ecn::NotEct });
            assert_eq!(buffer[..9_500], contents);
            assert_eq!(
                received.datagrams().map(|range| range.len()).collect::<Vec<_>>(),
                [vec![1_000; 9], vec![500]].concat()
            );
        }
    });
}

#[test]
fn one_datagram_is_not_divided() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        for segment_size in [0, 700, 701, 70_000] {
            assert_all_sent(&sender.send(&to("127.0.0.1", &receiver), 0, &[1; 700], segment_size), 1);
            let mut buffer = vec![0; MAX_RECEIVED];
            let received = receiver.v4.as_ref().expect("IPv4").recv(&mut buffer).expect("received");
            assert_eq!((received.len, received.segment_size), (700, 700), "{segment_size}");
        }
    });
}

#[test]
fn more_than_one_message_can_hold_is_sent_in_several() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        for (count, size) in [(150, 1_000), (200, 32), (3, 40_000), (65, 1)] {
            let contents = numbered(count * size, size);
            assert_all_sent(&sender.send(&to("127.0.0.1", &receiver), 0, &contents, size), count);
            let expected: Vec<_> = contents.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(receive(receiver.v4.as_ref().expect("IPv4"), count), expected);
        }
    });
}

#[test]
fn without_offload_every_datagram_travels_alone() {
    in_new_namespace(|| {
        let [sender, receiver] =
            [bind(0, 1, 0, false), bind(0, 1, 0, false)].map(|s| waiting(s.expect("bound")).remove(0));
        assert!(!sender.v4.as_ref().expect("IPv4").is_coalescing());
        let contents = numbered(70 * 100, 100);
        assert_all_sent(&sender.send(&to("127.0.0.1", &receiver), 0, &contents, 100), 70);
        let mut buffer = vec![0; MAX_RECEIVED];
        for i in 0..70u8 {
            let received = receiver.v4.as_ref().expect("IPv4").recv(&mut buffer).expect("received");
            assert_eq!((received.len, buffer[0]), (100, i));
        }
    });
}

#[test]
fn a_kernel_that_does_not_know_segmentation_is_given_no_coalesced_sends() {
    let refused = |errno| move || Err(io::Error::from_raw_os_error(errno));
    for errno in [libc::ENOPROTOOPT, libc::EOPNOTSUPP, libc::EPERM] {
        assert!(!bind::can_segment(true, refused(errno)), "error {errno}");
    }
    assert!(bind::can_segment(true, || Ok(0)));
    assert!(!bind::can_segment(false, || Ok(0)), "nobody wants it");
}

#[test]
fn a_socket_that_is_taken_over_is_asked_whether_it_knows_segmentation() {
    // The kernel answers for the option of a socket of another protocol as an older one does for UDP.
    for (kind, is_known) in [(Type::DGRAM, true), (Type::STREAM, false)] {
        let socket = Socket::new(Domain::IPV4, kind, None).expect("opened");
        assert_eq!(UdpSocket::adopt(socket.into(), true).is_coalescing(), is_known, "{kind:?}");
    }
}

#[test]
fn the_congestion_mark_is_received_as_it_was_sent() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        for (address, socket) in [("127.0.0.1", &receiver.v4), ("::1", &receiver.v6)] {
            for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
                let mut buffer = vec![0; MAX_RECEIVED];
                assert_all_sent(&sender.send(&to(address, &receiver), 0x88 | ecn.bits(), &[1; 250], 100), 3);
                let received = socket.as_ref().expect("both families").recv(&mut buffer).expect("received");
                assert_eq!((received.ecn, received.segment_size), (ecn, 100), "{address}");
            }
        }
    });
}

#[test]
fn the_class_of_traffic_is_on_the_wire_as_it_was_asked_for_alone_and_among_several() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        for (address, socket) in [("127.0.0.1", &receiver.v4), ("::1", &receiver.v6)] {
            let path = to(address, &receiver);
            assert_all_sent(&sender.send(&path, adit::limits::HANDSHAKE_TOS, &[1; 100], 0), 1);
            let groups =
                [0, adit::limits::HANDSHAKE_TOS].map(|tos| Group { path, tos, contents: &[2; 100], segment_size: 0 });
            sender.send_many(&groups, |_, outcome| assert_all_sent(&outcome, 1));
            for tos in [0x88, 0, 0x88] {
                let socket = socket.as_ref().expect("both families");
                let received = sys::receive(socket.as_fd(), &mut [0; 2_000]).expect("received");
                assert_eq!(received.control.tos, tos, "{address}");
            }
        }
    });
}

#[test]
fn an_empty_datagram_is_one_datagram() {
    in_new_namespace(|| {
        let receiver = sockets(1).remove(0);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("bound");
        sender.send_to(&[], ("127.0.0.1", receiver.port)).expect("sent");
        let received = receiver.v4.as_ref().expect("IPv4").recv(&mut [0; 10]).expect("received");
        assert_eq!((received.len, received.segment_size), (0, 1));
        assert!(received.datagrams().eq(std::iter::once(0..0)));
    });
}

#[test]
fn nothing_to_send_is_nothing_sent() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        assert_all_sent(&sender.send(&to("127.0.0.1", &receiver), 0, &[], 0), 0);
        sender.send_many(&[], |_, _| panic!("there is nothing to report"));
    });
}

#[test]
fn all_workers_share_one_port_in_both_families() {
    in_new_namespace(|| {
        let workers = bind(0, 4, 0, true).expect("bound");
        let port = workers[0].port;
        assert_ne!(port, 0);
        for socket in workers.iter().flat_map(Sockets::iter) {
            assert_eq!(SockRef::from(socket).local_addr().expect("address").as_socket().expect("IP").port(), port);
        }
        // And one for handshakes.
        assert_eq!(workers.iter().map(|worker| worker.iter().count()).collect::<Vec<_>>(), [2; 5]);
    });
}

#[test]
fn a_port_that_anyone_has_is_in_use() {
    in_new_namespace(|| {
        for address in ["0.0.0.0:7777", "127.0.0.1:7777", "[::]:7777", "[::1]:7777"] {
            let address: SocketAddr = address.parse().expect("address");
            for reuse in [false, true] {
                let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
                let other = Socket::new(domain, Type::DGRAM, None).expect("socket");
                other.set_reuse_port(reuse).expect("option");
                other.bind(&address.into()).expect("bound");
                for workers in [1, 2] {
                    let error = bind(7_777, workers, 0, true).expect_err("taken");
                    assert_eq!(error.errno(), libc::EADDRINUSE, "{address}, SO_REUSEPORT {reuse}: {error}");
                }
            }
        }
        let first = bind(7_777, 2, 0, true).expect("free again");
        assert_eq!(bind(7_777, 2, 0, true).expect_err("taken by ourselves").errno(), libc::EADDRINUSE);
        drop(first);
        bind(7_777, 2, 0, true).expect("free again");
    });
}

#[test]
fn a_host_with_one_family_does_with_that() {
    in_new_namespace(|| {
        let receiver = sockets(1).remove(0);
        let v4_only = Sockets { v6: None, ..sockets(1).remove(0) };
        assert_all_sent(&v4_only.send(&to("127.0.0.1", &receiver), 0, b"one", 0), 1);
        assert!(v4_only.socket(&to("::1", &receiver).remote).is_none());
        let outcome = v4_only.send(&to("::1", &receiver), 0, &[1; 250], 100);
        assert_eq!((outcome.sent, outcome.dropped), (0, 3));
        assert_eq!(outcome.error.and_then(|error| error.raw_os_error()), Some(libc::EAFNOSUPPORT));
    });
}

#[test]
fn a_source_that_is_not_ours_is_given_up_and_nothing_is_lost() {
    in_new_namespace(|| {
        let other = new_namespace();
        let (left, _) = connect(&other, 1_500, &["10.0.0.1/24", "fd00::1/64"], &["10.0.0.2/24", "fd00::2/64"]);
        let (sender, receiver) = (sockets(1).remove(0), sockets_in(&other));
        let contents = numbered(2_500, 1_000);
        for (address, own, foreign) in [("10.0.0.2", "10.0.0.1", "10.0.0.9"), ("fd00::2", "fd00::1", "fd00::9")] {
            let path = to(address, &receiver);
            let table = [
                ("our address and interface", from(path, own, left), false),
                ("our address", from(path, own, 0), false),
                ("a foreign address", from(path, foreign, left), true),
                ("an interface that does not exist", from(path, own, 999), true),
            ];
            for (name, path, gone) in table {
                let outcome = sender.send(&path, 0, &contents, 1_000);
                assert_all_sent(&outcome, 3);
                assert_eq!(outcome.source_gone, gone, "{name}, to {address}");
                let socket = receiver.socket(&path.remote).expect("both families");
                assert_eq!(receive(socket, 3).concat(), contents, "{name}, to {address}");
            }
            assert!(sender.socket(&path.remote).expect("both families").is_coalescing(), "the source was at fault");
        }
    });
}

#[test]
fn answers_leave_from_the_address_that_was_reached_until_it_is_gone() {
    in_new_namespace(|| {
        let other = new_namespace();
        let (left, _) = connect(&other, 1_500, &["10.0.0.1/24", "10.0.0.3/24"], &["10.0.0.2/24"]);
        let (here, there) = (sockets(1).remove(0), sockets_in(&other));
        let mut buffer = vec![0; MAX_RECEIVED];
        assert_all_sent(&there.send(&to("10.0.0.3", &here), 0, b"question", 0), 1);
        let question = here.v4.as_ref().expect("IPv4").recv(&mut buffer).expect("received");
        assert_eq!(question.path, from(to("10.0.0.2", &there), "10.0.0.3", left));

        let mut source_of_answer = || {
            let outcome = here.send(&question.path, 0, b"answer", 0);
            assert_all_sent(&outcome, 1);
            let answer = there.v4.as_ref().expect("IPv4").recv(&mut buffer).expect("received");
            (answer.path.remote.ip(), outcome.source_gone)
        };
        assert_eq!(source_of_answer(), (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3)), false));
        Netlink::open().expect("netlink").remove_address(left, net("10.0.0.3/24")).expect("removed");
        assert_eq!(source_of_answer(), (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), true));
    });
}

#[test]
fn link_local_addresses_keep_their_interface() {
    in_new_namespace(|| {
        let other = new_namespace();
        // An older interface, to which a route without one would lead.
        let mut netlink = Netlink::open().expect("netlink");
        netlink.create_veth("other", "end", None).expect("veth");
        for name in ["other", "end"] {
            let index = netlink.link(name).expect("link").index;
            netlink.set_up(index, true).expect("up");
        }
        let (left, right) = connect(&other, 1_500, &["fe80::1/64"], &["fe80::2/64"]);
        let (here, there) = (sockets(1).remove(0), sockets_in(&other));
        let mut buffer = vec![0; MAX_RECEIVED];
        // Without a scope, but with an interface.
        let path = Path { ifindex: left, ..to("fe80::2", &there) };
        assert_all_sent(&here.send(&path, 0, b"question", 0), 1);
        let question = there.v6.as_ref().expect("IPv6").recv(&mut buffer).expect("received");
        let remote = SocketAddrV6::new("fe80::1".parse().expect("address"), here.port, 0, right);
        assert_eq!(question.path, from(Path { remote: remote.into(), ..path }, "fe80::2", right));
        assert_all_sent(&there.send(&question.path, 0, b"answer", 0), 1);
        assert_eq!(receive(here.v6.as_ref().expect("IPv6"), 1), [b"answer"]);
        // A scope alone will do.
        let remote = SocketAddrV6::new("fe80::2".parse().expect("address"), there.port, 0, left).into();
        assert_all_sent(&here.send(&Path { remote, local: None, ifindex: 0 }, 0, b"again", 0), 1);
        assert_eq!(receive(there.v6.as_ref().expect("IPv6"), 1), [b"again"]);
    });
}

#[test]
fn datagrams_too_long_for_the_link_are_fragmented_and_none_is_lost() {
    in_new_namespace(|| {
        let other = new_namespace();
        connect(&other, 1_300, &["10.0.0.1/24", "fd00::1/64"], &["10.0.0.2/24", "fd00::2/64"]);
        let (sender, receiver) = (sockets(1).remove(0), sockets_in(&other));
        for address in ["10.0.0.2", "fd00::2"] {
            let path = to(address, &receiver);
            let socket = sender.socket(&path.remote).expect("both families");
            let contents = numbered(4_500, 1_400);
            assert_all_sent(&sender.send(&path, 0, &contents, 1_400), 4);
            let received = receive(receiver.socket(&path.remote).expect("both families"), 4);
            assert_eq!(received, contents.chunks(1_400).map(<[u8]>::to_vec).collect::<Vec<_>>(), "{address}");
            assert!(!socket.is_coalescing(), "the kernel refused to send them as one");

            // Later it is tried again, but for datagrams that are alone it makes no difference.
            for _ in 0..1_000 {
                assert_all_sent(&sender.send(&path, 0, &contents[..100], 100), 1);
            }
            assert!(!socket.is_coalescing(), "{address}");
            for _ in 0..1_000 {
                if socket.is_coalescing() {
                    break;
                }
                assert_all_sent(&sender.send(&path, 0, &contents[..200], 100), 2);
            }
            assert!(socket.is_coalescing(), "{address}");
        }
    });
}

#[test]
fn a_destination_that_cannot_be_does_not_turn_coalescing_off() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        let nowhere = Path { remote: "127.0.0.1:0".parse().expect("address"), local: None, ifindex: 0 };
        let outcome = sender.send(&nowhere, 0, &[1; 250], 100);
        assert_eq!((outcome.sent, outcome.dropped), (0, 3));
        assert_eq!(outcome.error.and_then(|error| error.raw_os_error()), Some(libc::EINVAL));
        assert!(sender.v4.as_ref().expect("IPv4").is_coalescing());
        assert_all_sent(&sender.send(&to("127.0.0.1", &receiver), 0, &[1; 250], 100), 3);
    });
}

#[test]
fn nobody_listening_does_not_disturb_the_socket() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        let closed = Path { remote: "127.0.0.1:9".parse().expect("address"), local: None, ifindex: 0 };
        for _ in 0..3 {
            assert_all_sent(&sender.send(&closed, 0, b"anyone?", 0), 1);
        }
        assert_all_sent(&sender.send(&to("127.0.0.1", &receiver), 0, b"one", 0), 1);
        assert_eq!(receive(receiver.v4.as_ref().expect("IPv4"), 1), [b"one"]);
        SockRef::from(sender.v4.as_ref().expect("IPv4")).set_nonblocking(true).expect("non-blocking");
        let error = sender.v4.as_ref().expect("IPv4").recv(&mut [0; 10]).expect_err("nothing there");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn the_mark_is_set_at_once_and_changed_later() {
    in_new_namespace(|| {
        let sockets = bind(0, 1, 51_820, true).expect("bound").remove(0);
        let marks = || sockets.iter().map(|s| SockRef::from(s).mark().expect("mark")).collect::<Vec<_>>();
        assert_eq!(marks(), [51_820; 2]);
        sockets.set_mark(0).expect("root");
        assert_eq!(marks(), [0; 2]);
    });
}

#[test]
fn the_buffers_have_the_size_asked_for() {
    in_new_namespace(|| {
        let sockets = bind(0, 1, 0, true).expect("bound").remove(0);
        for socket in sockets.iter() {
            // The kernel reserves as much again for its own bookkeeping.
            for name in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
                assert_eq!(sys::option(socket.as_fd(), libc::SOL_SOCKET, name).expect("option"), 2 * BUFFER_SIZE);
            }
        }
    });
}
