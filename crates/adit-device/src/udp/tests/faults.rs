//! What the kernel refuses, what is then sent in another way, and what that does to the datagrams around it.

use super::*;
use crate::counted::{self, SENDS};
use crate::refused::refuse;
use crate::sys::segmentation;

fn lengths(socket: &UdpSocket, count: usize) -> Vec<(usize, usize)> {
    let mut buffer = vec![0; MAX_RECEIVED];
    let mut receive = || socket.recv(&mut buffer).expect("received");
    (0..count).map(|_| receive()).map(|received| (received.len, received.segment_size)).collect()
}

#[test]
fn a_message_holds_64_datagrams_at_most_and_no_more_bytes_than_a_packet() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        for (address, count, size, expected) in [
            ("127.0.0.1", 130, 100, vec![6_400, 6_400, 200]),
            ("::1", 130, 100, vec![6_400, 6_400, 200]),
            ("127.0.0.1", 3, 21_800, vec![65_400]),
            ("127.0.0.1", 3, 21_840, vec![43_680, 21_840]),
            ("127.0.0.1", 2, 40_000, vec![40_000, 40_000]),
        ] {
            let path = to(address, &receiver);
            assert_all_sent(&sender.send(&path, 0, &numbered(count * size, size), size), count);
            let expected: Vec<_> = expected.into_iter().map(|len| (len, size)).collect();
            let socket = receiver.socket(&path.remote).expect("both families");
            assert_eq!(lengths(socket, expected.len()), expected, "{count} of {size} to {address}");
            assert!(sender.socket(&path.remote).expect("both families").is_coalescing(), "none was refused");
        }
    });
}

#[test]
fn datagrams_longer_than_any_can_be_are_dropped_one_by_one() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        let outcome = sender.send(&to("127.0.0.1", &receiver), 0, &vec![0; 140_100], 70_000);
        // The rest is no longer than one can be.
        assert_eq!((outcome.sent, outcome.dropped), (1, 2));
        assert_eq!(outcome.error.and_then(|error| error.raw_os_error()), Some(libc::EMSGSIZE));
        assert_eq!(lengths(receiver.v4.as_ref().expect("IPv4"), 1), [(100, 100)]);
    });
}

#[test]
fn a_reader_that_wants_no_coalesced_datagrams_gets_each_alone() {
    in_new_namespace(|| {
        let sender = sockets(1).remove(0);
        let receiver = waiting(bind(0, 1, 0, false).expect("bound")).remove(0);
        assert_all_sent(&sender.send(&to("127.0.0.1", &receiver), 0, &[1; 300], 100), 3);
        assert_eq!(lengths(receiver.v4.as_ref().expect("IPv4"), 3), [(100, 100); 3]);
    });
}

#[test]
fn without_offload_nothing_is_coalesced_after_a_group_that_was_refused_either() {
    in_new_namespace(|| {
        let sender = waiting(bind(0, 1, 0, false).expect("bound")).remove(0);
        let receiver = sockets(1).remove(0);
        let nowhere = Path { remote: "192.0.2.1:1".parse().expect("address"), ..to("127.0.0.1", &receiver) };
        let groups = [nowhere, to("127.0.0.1", &receiver)].map(|path| Group {
            path,
            tos: 0,
            contents: &[1; 300],
            segment_size: 100,
        });
        let mut outcomes = Vec::new();
        sender.send_many(&groups, |index, outcome| outcomes.push((index, outcome.sent, outcome.dropped)));
        assert_eq!(outcomes, [(0, 0, 3), (1, 3, 0)]);
        assert_eq!(lengths(receiver.v4.as_ref().expect("IPv4"), 3), [(100, 100); 3]);
    });
}

#[test]
fn a_destination_that_cannot_be_does_not_turn_coalescing_off_for_those_behind_it() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        let nowhere = Path { remote: "127.0.0.1:0".parse().expect("address"), local: None, ifindex: 0 };
        let groups = [nowhere, to("127.0.0.1", &receiver)].map(|path| Group {
            path,
            tos: 0,
            contents: &[1; 300],
            segment_size: 100,
        });
        // What coalescing was suspected of for the first group is not held against it when the second is sent.
        sender.send_many(&groups, |index, outcome| {
            assert_eq!((outcome.sent, outcome.dropped), if index == 0 { (0, 3) } else { (3, 0) });
        });
        assert_eq!(lengths(receiver.v4.as_ref().expect("IPv4"), 1), [(300, 100)]);
        assert!(sender.v4.as_ref().expect("IPv4").is_coalescing());
    });
}

#[test]
fn whatever_several_datagrams_in_one_message_are_refused_for_they_are_sent_one_by_one_and_none_is_lost() {
    // A device without checksum offload, an older kernel, one without segmentation, and a link for shorter packets.
    for errno in [libc::EIO, libc::EINVAL, libc::EOPNOTSUPP, libc::ENOPROTOOPT, libc::E2BIG, libc::EMSGSIZE] {
        in_new_namespace(|| {
            let sender = sockets(1).remove(0);
            let receivers = [sockets(1).remove(0), sockets(1).remove(0)];
            let contents = numbered(1_000, 100);
            // Some are single datagrams, which are sent before the refusal, and behind it.
            let counts = [1, 10, 3, 1, 10, 1, 2];
            let groups: Vec<Group<'_>> = (counts.iter().enumerate())
                .map(|(i, count)| Group {
                    path: to(["127.0.0.1", "::1"][i % 2], &receivers[i % 3 / 2]),
                    tos: 0,
                    contents: &contents[..count * 100],
                    segment_size: 100,
                })
                .collect();
            segmentation::while_refused_with(errno, || {
                for round in 1..=2 {
                    sender.send_many(&groups, |index, outcome| assert_all_sent(&outcome, counts[index]));
                    assert!(sender.iter().all(|socket| !socket.is_coalescing()), "error {errno}, round {round}");
                }
            });
            for receiver in &receivers {
                for socket in receiver.iter() {
                    let own = |group: &&Group<'_>| {
                        group.path.remote.port() == receiver.port
                            && receiver.socket(&group.path.remote).is_some_and(|other| std::ptr::eq(other, socket))
                    };
                    let datagrams =
                        |group: &Group<'_>| group.contents.chunks(100).map(<[u8]>::to_vec).collect::<Vec<_>>();
                    let once: Vec<_> = groups.iter().filter(own).flat_map(datagrams).collect();
                    let expected = [once.clone(), once].concat();
                    assert_eq!(receive(socket, expected.len()), expected, "error {errno}");
                }
            }
        });
    }
}

#[test]
fn a_source_is_given_up_for_all_of_its_group_at_once_and_for_no_other_group() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        let path = to("127.0.0.1", &receiver);
        let contents = numbered(150 * 1_000, 1_000);
        let group = |path, contents| Group { path, tos: 0, contents, segment_size: 1_000 };
        let groups =
            [group(from(path, "192.0.2.9", 0), &contents[..]), group(from(path, "127.0.0.5", 0), &contents[..2_000])];
        let mut gone = Vec::new();
        let calls = counted::count(&SENDS, || {
            sender.send_many(&groups, |index, outcome| {
                assert_all_sent(&outcome, [150, 2][index]);
                gone.push(outcome.source_gone);
            });
        });
        assert_eq!(gone, [true, false]);
        // With the source, without it, and all the rest.
        assert_eq!(calls, 3);
        let mut buffer = vec![0; MAX_RECEIVED];
        let mut sources = Vec::new();
        let mut count = 0;
        while count < 152 {
            let received = receiver.v4.as_ref().expect("IPv4").recv(&mut buffer).expect("received");
            count += received.datagrams().count();
            sources.push(received.path.remote.ip().to_string());
        }
        assert_eq!(sources, ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.5"]);
    });
}

#[test]
fn the_error_of_an_earlier_datagram_costs_neither_a_datagram_nor_the_source_nor_coalescing() {
    in_new_namespace(|| {
        let [sender, receiver, gone] = [sockets(1).remove(0), sockets(1).remove(0), sockets(1).remove(0)];
        let nobody = to("127.0.0.1", &gone);
        drop(gone);
        let socket = sender.v4.as_ref().expect("IPv4");
        // Without this option the kernel keeps such errors from a socket that is not connected.
        sys::set_option(socket.as_fd(), libc::SOL_IP, libc::IP_RECVERR, 1).expect("option");
        let path = to("127.0.0.1", &receiver);
        for path in [path, from(path, "127.0.0.1", 0)] {
            assert_all_sent(&sender.send(&nobody, 0, b"to nobody", 0), 1);
            let outcome = sender.send(&path, 0, &[1; 300], 100);
            assert_all_sent(&outcome, 3);
            assert!(!outcome.source_gone && socket.is_coalescing());
            assert_eq!(lengths(receiver.v4.as_ref().expect("IPv4"), 1), [(300, 100)]);
        }
        assert_all_sent(&sender.send(&nobody, 0, b"to nobody", 0), 1);
        assert_eq!(
            SockRef::from(socket).take_error().expect("asked").map(|e| e.kind()),
            Some(io::ErrorKind::ConnectionRefused)
        );
    });
}

#[test]
fn what_the_kernel_goes_on_refusing_takes_a_few_calls_and_is_dropped() {
    for (errno, source, calls_for_each) in [
        (libc::ECONNREFUSED, None, 5),
        (libc::ECONNRESET, None, 5),
        (libc::ENOBUFS, None, 1),
        (libc::EACCES, None, 1),
        (libc::EACCES, Some("127.0.0.1"), 2),
        // A firewall: it is not asked again.
        (libc::EPERM, Some("127.0.0.1"), 1),
    ] {
        in_new_namespace(|| {
            let sender = sockets(1).remove(0);
            let socket = sender.v4.as_ref().expect("IPv4");
            for call in [libc::SYS_sendmsg, libc::SYS_sendmmsg] {
                refuse(call, 0, socket.as_raw_fd(), errno);
            }
            let path = to("127.0.0.1", &sender);
            let path = Path { local: source.map(|source| source.parse().expect("address")), ..path };
            let mut outcome = SendOutcome::default();
            // Two messages.
            let calls = counted::count(&SENDS, || outcome = sender.send(&path, 0, &[0; 10_000], 100));
            assert_eq!((outcome.sent, outcome.dropped, outcome.source_gone), (0, 100, false));
            assert_eq!(outcome.error.and_then(|error| error.raw_os_error()), Some(errno));
            assert_eq!(calls, 2 * calls_for_each, "error {errno}, source {source:?}");
            assert!(socket.is_coalescing());
        });
    }
}

#[test]
fn a_destination_that_no_source_reaches_is_not_tried_datagram_by_datagram() {
    in_new_namespace(|| {
        let sender = sockets(1).remove(0);
        for (remote, foreign) in [("192.0.2.1:1", "192.0.2.9"), ("[2001:db8::1]:1", "2001:db8::9")] {
            let nowhere = Path { remote: remote.parse().expect("address"), local: None, ifindex: 0 };
            let mut outcome = SendOutcome::default();
            // With the source that is not ours, and without: IPv6 has another error for each.
            let calls = counted::count(&SENDS, || outcome = sender.send(&from(nowhere, foreign, 0), 0, &[1; 300], 100));
            assert_eq!((outcome.sent, outcome.dropped, outcome.source_gone), (0, 3, false));
            assert_eq!(calls, 2, "{remote}");
            assert_eq!(counted::count(&SENDS, || drop(sender.send(&nowhere, 0, &[1; 300], 100))), 1, "{remote}");
        }
    });
}

#[test]
fn groups_of_a_family_that_the_host_lacks_and_empty_ones_are_each_reported_once() {
    in_new_namespace(|| {
        let receiver = sockets(1).remove(0);
        let v4_only = Sockets { v6: None, ..sockets(1).remove(0) };
        let group = |address, contents| Group { path: to(address, &receiver), tos: 0, contents, segment_size: 0 };
        let groups = [
            group("::1", &b"one"[..]),
            group("127.0.0.1", b"two"),
            group("::1", b""),
            group("127.0.0.1", b""),
            group("::1", b"three"),
        ];
        for (of, expected) in [
            (&groups[..], vec![(0, 0, 1), (1, 1, 0), (2, 0, 0), (3, 0, 0), (4, 0, 1)]),
            (&groups[2..4], vec![(0, 0, 0), (1, 0, 0)]),
        ] {
            let mut outcomes = Vec::new();
            v4_only.send_many(of, |index, outcome| outcomes.push((index, outcome.sent, outcome.dropped)));
            outcomes.sort_unstable();
            assert_eq!(outcomes, expected);
        }
        // Where there is nothing but an empty group, it is reported too.
        let mut reports = 0;
        sockets(1)[0].send_many(&groups[2..4], |_, outcome| {
            assert_all_sent(&outcome, 0);
            reports += 1;
        });
        assert_eq!(reports, 2);
    });
}

#[test]
fn what_finds_no_room_where_it_is_read_to_is_counted_in_both_families() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        for (address, lost) in [("127.0.0.1", 2), ("::1", 4)] {
            let path = to(address, &receiver);
            assert_all_sent(&sender.send(&path, 0, &[1; 500], 100), 5);
            let socket = receiver.socket(&path.remote).expect("both families");
            socket.recv_many(&mut [0; 300], 300, |_, _| ()).expect("received");
            assert_eq!(receiver.overflows(), lost);
            let error = socket.recv_many(&mut [0; 300], 0, |_, _| ()).expect_err("nothing waits");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "and no room is none");
        }
    });
}

#[test]
fn a_datagram_that_was_cut_short_is_no_longer_than_what_was_read() {
    let sockets = sockets(1).remove(0);
    assert_all_sent(&sockets.send(&to("127.0.0.1", &sockets), 0, &[0; 296], 148), 2);
    let received = sockets.v4.as_ref().expect("IPv4").recv(&mut [0; 100]).expect("received");
    assert_eq!((received.len, received.segment_size), (100, 100));
}
