//! Which arguments the filter lets through, by trying all of them.
//!
//! Each call has something else that the kernel refuses (a file, a process or an address that is none), so that a call
//! that is let through has no effect: it fails with another error than the filter's.

use std::collections::BTreeSet;

use libc as c;

use super::calls::{NOBODY, SECCOMP_ALONE, call};
use super::*;

const NONE: i64 = -1;

/// Of these values those with which the filter lets the call through.
fn let_through<T: Copy + Ord>(
    number: i64,
    values: impl IntoIterator<Item = T>,
    arguments: impl Fn(T) -> [i64; 6],
) -> BTreeSet<T> {
    values.into_iter().filter(|&value| call(number, arguments(value)) != c::EPERM).collect()
}

fn confined(name: &str, body: impl FnOnce()) {
    let output = in_a_process(&format!("arguments::{name}"), || {
        give_up(&SECCOMP_ALONE, None, false);
        body();
    });
    assert_ended_well(&output);
}

/// All sockets of all kinds that can be asked for, as family, kind and protocol.
fn sockets() -> BTreeSet<(i32, i32, i32)> {
    let kinds = (0..64).flat_map(|family| (0..16).map(move |kind| (family, kind)));
    let all = kinds.flat_map(|(family, kind)| (0..264).map(move |protocol| (family, kind, protocol)));
    // Only the filter is asked: this flag is none, and with it the kernel opens nothing.
    const FLAG: i32 = 0x10;
    let_through(c::SYS_socket, all, |(family, kind, protocol)| {
        [family.into(), (kind | FLAG).into(), protocol.into(), 0, 0, 0]
    })
}

/// Those of serving.
fn of_serving() -> BTreeSet<(i32, i32, i32)> {
    [c::AF_INET, c::AF_INET6]
        .into_iter()
        .flat_map(|family| [0, 17].map(|udp| (family, c::SOCK_DGRAM, udp)))
        .chain([c::SOCK_DGRAM, c::SOCK_RAW].map(|kind| (c::AF_NETLINK, kind, c::NETLINK_ROUTE)))
        .collect()
}

#[test]
fn sockets_are_for_udp_and_routes_only() {
    confined("sockets_are_for_udp_and_routes_only", || {
        assert_eq!(sockets(), of_serving());
        // Flags change nothing.
        for flag in [c::SOCK_CLOEXEC, c::SOCK_NONBLOCK] {
            let stream = [c::AF_INET.into(), (c::SOCK_STREAM | flag).into(), 0, 0, 0, 0];
            assert_eq!(call(c::SYS_socket, stream), c::EPERM);
        }
        let pairs = (0..64).flat_map(|family| (0..16).map(move |kind| (family, kind)));
        let pairs = let_through(c::SYS_socketpair, pairs, |(family, kind)| [family.into(), kind.into(), 0, NONE, 0, 0]);
        assert_eq!(pairs, [(c::AF_UNIX, c::SOCK_STREAM)].into());
    });
}

#[test]
fn datagrams_to_a_unix_socket_take_a_service_manager() {
    let name = "arguments::datagrams_to_a_unix_socket_take_a_service_manager";
    let output = in_a_process_with(name, "/run/manager", || {
        give_up(&SECCOMP_ALONE, None, false);
        let unix: BTreeSet<_> = (0..264).map(|protocol| (c::AF_UNIX, c::SOCK_DGRAM, protocol)).collect();
        assert_eq!(sockets(), of_serving().into_iter().chain(unix).collect());
    });
    assert_ended_well(&output);
}

#[test]
fn socket_options_are_none_of_a_firewall_of_ipsec_or_of_other_tunnels() {
    confined("socket_options_are_none_of_a_firewall_of_ipsec_or_of_other_tunnels", || {
        let options = (0..300).flat_map(|level| (0..300).map(move |option| (level, option)));
        let found = let_through(c::SYS_setsockopt, options, |(level, option)| [NONE, level, option, 0, 0, 0]);
        let mut expected: BTreeSet<(i64, i64)> = (0..300).map(|option| (c::SOL_NETLINK.into(), option)).collect();
        // Not those that attach a program to every packet, or one that `bpf` has loaded.
        let socket = (0..300).filter(|option| ![26, 50, 52].contains(option));
        expected.extend(socket.map(|option| (c::SOL_SOCKET.into(), option)));
        // Segments, and datagrams read as one.
        expected.extend([103, 104].map(|option| (17, option)));
        // Without IPsec (16, 17) and iptables, ebtables and arptables (64 and above).
        expected.extend((0..64).filter(|option| ![16, 17].contains(option)).map(|option| (0, option)));
        // Without IPsec (34, 35) and ip6tables.
        expected.extend((0..300).filter(|option| ![34, 35, 64, 65].contains(option)).map(|option| (41, option)));
        let differ: Vec<_> = found.symmetric_difference(&expected).collect();
        assert!(differ.is_empty(), "{differ:?}");
    });
}

#[test]
fn device_requests_are_those_of_a_tunnel() {
    confined("device_requests_are_those_of_a_tunnel", || {
        // Of old requests all; those with a direction and a length by name.
        let old = 0..0x1_0000;
        #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
        let new = [c::TUNSETIFF, c::TUNSETPERSIST, c::TUNSETOWNER, c::TUNSETGROUP, c::TUNSETLINK, c::TUNSETTXFILTER]
            .map(|request| request as i64);
        #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
        let expected = [
            c::TUNGETIFF as i64,
            c::TUNSETOFFLOAD as i64,
            c::TUNSETVNETHDRSZ as i64,
            c::TUNGETVNETHDRSZ as i64,
            c::TUNSETQUEUE as i64,
        ];
        let requests = old.chain(new).chain(expected);
        let found = let_through(c::SYS_ioctl, requests, |request| [NONE, request, 0, 0, 0, 0]);
        // FIONBIO, FIOCLEX, FIONREAD, TIOCOUTQ, TCGETS, SIOCGIFINDEX and TUNGETDEVNETNS.
        let old = [0x5421, 0x5451, 0x541b, 0x5411, 0x5401, 0x8933, 0x54e3];
        assert_eq!(found, old.into_iter().chain(expected).collect());
    });
}

#[test]
fn of_itself_a_process_can_change_its_names_and_give_more_up() {
    confined("of_itself_a_process_can_change_its_names_and_give_more_up", || {
        const PR_SET_VMA: i64 = 0x5356_4d41;
        const PR_SET_PTRACER: i64 = 0x5961_6d61;
        const MARK: i64 = u32::from_be_bytes(*b"adit") as i64;
        let operations = (0..1_000).chain([PR_SET_VMA, PR_SET_PTRACER, MARK]);
        let found = let_through(c::SYS_prctl, operations, |operation| [operation, NONE, NONE, NONE, NONE, 0]);
        let expected = [
            c::PR_SET_PDEATHSIG,
            c::PR_GET_DUMPABLE,
            c::PR_SET_NAME,
            c::PR_GET_NAME,
            c::PR_GET_SECCOMP,
            c::PR_CAPBSET_READ,
            c::PR_SET_NO_NEW_PRIVS,
            c::PR_GET_NO_NEW_PRIVS,
            c::PR_CAP_AMBIENT,
        ];
        assert_eq!(found, expected.map(i64::from).into_iter().chain([PR_SET_VMA, MARK]).collect());
        let dumpable = |value| [c::PR_SET_DUMPABLE.into(), value, 0, 0, 0, 0];
        assert_eq!(let_through(c::SYS_prctl, 0..100, dumpable), [0].into());
    });
}

#[test]
fn signals_go_to_one_process_and_are_those_of_a_reload() {
    confined("signals_go_to_one_process_and_are_those_of_a_reload", || {
        let kill = |process| move |signal: i32| [process, signal.into(), 0, 0, 0, 0];
        let signals = [c::SIGTERM, c::SIGKILL];
        assert_eq!(let_through(c::SYS_kill, 0..100, kill(NOBODY)), signals.into());
        // A group of processes, and one that the kernel reads as a group for its sign.
        assert_eq!(let_through(c::SYS_kill, 0..100, kill(-NOBODY)), [].into());
        assert_eq!(let_through(c::SYS_kill, 0..100, kill(i32::MIN.into())), [].into());
        let thread = |signal: i32| [NOBODY, NOBODY, signal.into(), 0, 0, 0];
        assert_eq!(let_through(c::SYS_tgkill, 0..100, thread), [c::SIGABRT].into());
        // Nor is a file made to send some.
        let commands = [c::F_DUPFD, c::F_DUPFD_CLOEXEC, c::F_GETFD, c::F_SETFD, c::F_GETFL, c::F_SETFL];
        let found = let_through(c::SYS_fcntl, 0..3_000, |command: i32| [NONE, command.into(), 0, 0, 0, 0]);
        assert_eq!(found, commands.into());
    });
}

#[test]
fn limits_and_processors_of_other_processes_stay_as_they_are() {
    confined("limits_and_processors_of_other_processes_stay_as_they_are", || {
        let processes = [0, 1, 2, i64::from(std::process::id()), NOBODY, NONE];
        let limit = |process| [process, NONE, 0, 0, 0, 0];
        assert_eq!(let_through(c::SYS_prlimit64, processes, limit), [0].into());
        let processors = |process| [process, 0, 0, 0, 0, 0];
        assert_eq!(let_through(c::SYS_sched_setaffinity, processes, processors), [0].into());
    });
}

#[test]
fn no_page_comes_to_be_run_that_was_written() {
    confined("no_page_comes_to_be_run_that_was_written", || {
        // Pages of no length are not mapped.
        let map = |rights| [0, 0, rights, (c::MAP_PRIVATE | c::MAP_ANONYMOUS).into(), NONE, 0];
        assert_eq!(let_through(c::SYS_mmap, 0..8, map), [0, 1, 2, 3, 4, 5].into());
        // No page begins at an odd address.
        assert_eq!(let_through(c::SYS_mprotect, 0..8, |rights| [1, 0, rights, 0, 0, 0]), [0, 1, 2, 3].into());
    });
}

/// The flags of `open` with which a file is not opened.
fn refused_flags() -> BTreeSet<i64> {
    let all = || (0..32).map(|bit| 1 << bit).chain([0, c::O_ACCMODE.into()]);
    let refused = |number, place: usize| {
        let permitted = let_through(number, all(), |flag| {
            let mut arguments = [NONE; 6];
            arguments[place] = flag;
            arguments
        });
        all().filter(|flag| !permitted.contains(flag)).collect::<BTreeSet<i64>>()
    };
    let found = refused(c::SYS_openat, 2);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(refused(c::SYS_open, 1), found);
    found
}

#[test]
fn no_file_is_made_emptied_or_written_to() {
    let nameless = c::O_TMPFILE & !c::O_DIRECTORY;
    confined("no_file_is_made_emptied_or_written_to", || {
        let refused = [c::O_CREAT, c::O_TRUNC, nameless, c::O_WRONLY, c::O_RDWR, c::O_ACCMODE];
        assert_eq!(refused_flags(), refused.map(i64::from).into());
        // A name is removed, a folder is not.
        let flags = (0..32).map(|bit| 1 << bit).chain([0]);
        assert_eq!(let_through(c::SYS_unlinkat, flags, |flag| [NONE, NONE, flag, 0, 0, 0]), [0].into());
    });
}

#[test]
fn which_files_are_written_to_is_for_landlock_to_say_where_it_is() {
    let nameless = c::O_TMPFILE & !c::O_DIRECTORY;
    let output = in_a_process("arguments::which_files_are_written_to_is_for_landlock_to_say_where_it_is", || {
        give_up(&Confinement { landlock: true, ..SECCOMP_ALONE }, None, true);
        assert_eq!(refused_flags(), [c::O_CREAT, c::O_TRUNC, nameless].map(i64::from).into());
    });
    assert_ended_well(&output);
}
