//! Many groups of datagrams in one call.

use super::*;
use crate::counted::{self, SENDS};

#[test]
fn many_groups_to_many_peers_are_all_sent_and_each_is_reported_once() {
    in_new_namespace(|| {
        let sender = sockets(1).remove(0);
        let receivers: Vec<_> = (0..5).map(|_| sockets(1).remove(0)).collect();
        let contents = numbered(60_000, 100);
        let addresses = ["127.0.0.1", "::1"];
        // Groups of different sizes, in turns to each receiver in both families; some are empty.
        let groups: Vec<Group<'_>> = (0..90)
            .map(|i| Group {
                path: to(addresses[i % 2], &receivers[i % 5]),
                tos: (i % 3) as u8,
                contents: &contents[..(i % 7) * 150],
                segment_size: 100,
            })
            .collect();
        let count = |group: &Group<'_>| group.contents.len().div_ceil(100);
        let mut reported = vec![0; groups.len()];
        sender.send_many(&groups, |index, outcome| {
            assert_all_sent(&outcome, count(&groups[index]));
            reported[index] += 1;
        });
        assert_eq!(reported, vec![1; groups.len()]);
        for receiver in &receivers {
            for socket in receiver.iter() {
                let own = groups.iter().filter(|group| {
                    group.path.remote.port() == receiver.port
                        && receiver.socket(&group.path.remote).is_some_and(|s| std::ptr::eq(s, socket))
                });
                let expected: Vec<_> = own.flat_map(|group| group.contents.chunks(100).map(<[u8]>::to_vec)).collect();
                assert_eq!(receive(socket, expected.len()), expected, "order holds");
            }
        }
    });
}

#[test]
fn runs_of_different_sizes_to_several_peers_leave_in_one_system_call_a_family() {
    in_new_namespace(|| {
        let sender = sockets(1).remove(0);
        let receivers: Vec<_> = (0..5).map(|_| sockets(1).remove(0)).collect();
        let contents = numbered(10_000, 100);
        // Every other run is one datagram, as where the kernel coalesces nothing.
        let groups = |addresses: &[&str]| -> Vec<Group<'_>> {
            let group = |i: usize| Group {
                path: to(addresses[i % addresses.len()], &receivers[i % 5]),
                tos: 0,
                contents: &contents[..if i.is_multiple_of(2) { 100 } else { 1_000 + i * 100 }],
                segment_size: 100 + i,
            };
            (0..20).map(group).collect()
        };
        let count = |group: &Group<'_>| group.contents.len().div_ceil(group.segment_size);
        for (addresses, families) in [(&["127.0.0.1"][..], 1), (&["127.0.0.1", "::1"], 2)] {
            let groups = groups(addresses);
            let calls = counted::count(&SENDS, || {
                sender.send_many(&groups, |index, outcome| assert_all_sent(&outcome, count(&groups[index])));
            });
            assert_eq!(calls, families);
            for receiver in &receivers {
                for socket in receiver.iter() {
                    let own = groups.iter().filter(|group| {
                        group.path.remote.port() == receiver.port
                            && receiver.socket(&group.path.remote).is_some_and(|s| std::ptr::eq(s, socket))
                    });
                    receive(socket, own.map(count).sum());
                }
            }
        }
    });
}

#[test]
fn one_group_that_fails_does_not_keep_the_others_back() {
    in_new_namespace(|| {
        let [sender, receiver] = [sockets(1).remove(0), sockets(1).remove(0)];
        let group = |address, local: Option<&str>| Group {
            path: Path { local: local.map(|local| local.parse().expect("address")), ..to(address, &receiver) },
            tos: 0,
            contents: &[7; 250],
            segment_size: 100,
        };
        let groups = [
            group("127.0.0.1", None),
            group("192.0.2.1", None),
            group("127.0.0.1", Some("192.0.2.9")),
            group("127.0.0.1", None),
        ];
        let mut outcomes = Vec::new();
        sender.send_many(&groups, |index, outcome| {
            let error = outcome.error.and_then(|error| error.raw_os_error());
            outcomes.push((index, outcome.sent, outcome.dropped, outcome.source_gone, error));
        });
        let unreachable = Some(libc::ENETUNREACH);
        let expected =
            [(0, 3, 0, false, None), (1, 0, 3, false, unreachable), (2, 3, 0, true, None), (3, 3, 0, false, None)];
        assert_eq!(outcomes, expected);
        assert_eq!(receive(receiver.v4.as_ref().expect("IPv4"), 9).len(), 9);
    });
}

#[test]
fn what_a_full_socket_does_not_take_is_told() {
    in_new_namespace(|| {
        let other = new_namespace();
        connect(&other, 1_500, &["10.0.0.1/24"], &[]);
        let sockets = bind(0, 1, 0, true).expect("bound").remove(0);
        let socket = sockets.v4.as_ref().expect("IPv4");
        SockRef::from(socket).set_send_buffer_size(1).expect("the kernel's least");
        // Nobody answers for this address, so that datagrams wait for it in the socket's buffer.
        let path = Path { remote: "10.0.0.77:9".parse().expect("address"), local: None, ifindex: 0 };
        let groups = [0u8; 4].map(|tos| Group { path, tos, contents: &[0; 10_000], segment_size: 1_000 });
        let mut totals = [0; 4];
        sockets.send_many(&groups, |_, outcome| {
            assert_eq!(outcome.sent + outcome.dropped + outcome.unsent, 10);
            if outcome.unsent > 0 {
                assert_eq!(outcome.error.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
                totals[1] += outcome.unsent;
            }
            totals[0] += outcome.sent;
            totals[2] += 1;
        });
        assert!(totals[0] > 0 && totals[1] > 0, "{totals:?}");
        assert_eq!(totals[2], 4, "each group is reported");
        // A source that is not ours does not make it a refusal.
        let outcome = sockets.send(&from(path, "10.0.0.9", 0), 0, &[0; 10_000], 1_000);
        assert_eq!((outcome.sent, outcome.dropped, outcome.unsent, outcome.source_gone), (0, 0, 10, true));
        assert_eq!(outcome.error.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    });
}

#[test]
fn what_has_not_left_the_machine_waits() {
    let (here, there) = (new_namespace(), new_namespace());
    let sockets = sockets_in(&here);
    let waiting = namespace::run_in(here.as_fd(), || {
        connect(&there, 1500, &["10.0.0.1/24"], &[]);
        assert_eq!(sockets.waiting(), 0);
        // Nobody has this address, so the kernel keeps the datagram until it knows that.
        assert_all_sent(&sockets.send(&to("10.0.0.2", &sockets), 0, &[0; 1_000], 0), 1);
        sockets.waiting()
    });
    assert!(waiting.expect("entered") >= 1_000);
}
