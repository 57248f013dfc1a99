//! Opening the sockets on hosts that lack something.

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::*;
use crate::refused::refuse;

#[test]
fn a_host_that_lacks_a_family_has_sockets_of_the_other() {
    let (v4, v6) = (size_of::<libc::sockaddr_in>() as i32, size_of::<libc::sockaddr_in6>() as i32);
    let table = [
        (libc::SYS_socket, 0, libc::AF_INET6, libc::EAFNOSUPPORT, [true, false]),
        (libc::SYS_socket, 0, libc::AF_INET, libc::EAFNOSUPPORT, [false, true]),
        (libc::SYS_bind, 2, v6, libc::EADDRNOTAVAIL, [true, false]),
        (libc::SYS_bind, 2, v4, libc::EADDRNOTAVAIL, [false, true]),
    ];
    for (call, argument, value, errno, families) in table {
        in_new_namespace(|| {
            refuse(call, argument, value, errno);
            for sockets in bind(0, 2, 0, true).expect("bound") {
                assert_eq!([sockets.v4.is_some(), sockets.v6.is_some()], families, "call {call}, {value}");
                let socket = SockRef::from(sockets.iter().next().expect("one")).local_addr().expect("address");
                assert_eq!(socket.as_socket().map(|address| address.port()), Some(sockets.port));
            }
        });
    }
}

#[test]
fn a_host_without_either_family_or_without_room_for_a_socket_is_told_of() {
    in_new_namespace(|| {
        refuse(libc::SYS_socket, 0, libc::AF_INET6, libc::EMFILE);
        assert_eq!(bind(0, 1, 0, true).expect_err("not all of them").errno(), libc::EMFILE);
    });
    in_new_namespace(|| {
        for family in [libc::AF_INET, libc::AF_INET6] {
            refuse(libc::SYS_socket, 0, family, libc::EAFNOSUPPORT);
        }
        assert_eq!(bind(0, 1, 0, true).expect_err("neither").errno(), libc::EAFNOSUPPORT);
    });
}

#[test]
fn a_kernel_that_cannot_tell_messages_apart_gives_all_to_the_workers() {
    in_new_namespace(|| {
        refuse(libc::SYS_setsockopt, 2, libc::SO_ATTACH_REUSEPORT_CBPF, libc::ENOPROTOOPT);
        for workers in [1, 3] {
            let all = bind(0, workers, 0, true).expect("bound");
            let counts: Vec<_> = all.iter().map(|sockets| sockets.iter().count()).collect();
            assert_eq!(counts, [vec![2; workers], vec![0]].concat());
        }
    });
}

#[test]
fn there_is_one_worker_at_least() {
    in_new_namespace(|| assert_eq!(bind(0, 0, 0, true).expect("bound").len(), 2));
}

#[test]
fn only_a_mark_takes_the_right_to_set_one() {
    in_new_namespace(|| {
        // Capabilities are a thread's own, and this thread ends with the closure.
        let mut sets = capabilities(None).expect("what it may");
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        sets.effective.remove(CapabilitySet::NET_RAW);
        set_capabilities(None, sets).expect("a thread may give up");
        bind(0, 1, 0, true).expect("without a mark");
        assert_eq!(bind(0, 1, 1, true).expect_err("it may not").errno(), libc::EPERM);
    });
}

#[test]
fn a_port_that_is_free_for_one_family_only_is_not_chosen() {
    in_new_namespace(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003").expect("four ports");
        let mut others = Vec::new();
        for port in 40_000..=40_003 {
            if port == 40_002 {
                continue;
            }
            others.push(std::net::UdpSocket::bind(("::1", port)).expect("bound"));
        }
        // The kernel chooses for IPv4, and by chance.
        for _ in 0..10 {
            assert_eq!(bind(0, 1, 0, true).expect("bound")[0].port, 40_002);
        }
        others.push(std::net::UdpSocket::bind(("::1", 40_002)).expect("bound"));
        assert_eq!(bind(0, 1, 0, true).expect_err("none is left").errno(), libc::EADDRINUSE);
    });
}

#[test]
fn an_outer_packet_may_be_fragmented_anywhere_on_its_way() {
    let sockets = bind(0, 1, 0, true).expect("bound").remove(0);
    let option = |socket: &Option<UdpSocket>, level, name| {
        sys::option(socket.as_ref().expect("both families").as_fd(), level, name).expect("option")
    };
    let v4 = option(&sockets.v4, libc::SOL_IP, libc::IP_MTU_DISCOVER);
    let v6 = option(&sockets.v6, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER);
    assert_eq!((v4, v6), (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT));
}
