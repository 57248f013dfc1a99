//! Hosts that lack something, or where somebody else was first.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;

use adit_tests::Implementation::Adit;
use adit_tests::{Node, Pair, Side};
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

#[test]
fn a_host_without_ipv6_has_a_tunnel_over_ipv4() {
    let mut pair = Pair::stopped(Adit, Adit);
    pair.b.start();
    refuse_sockets_from_here(libc::AF_INET6);
    pair.a.start();
    pair.a.configure(Some(51820), &[pair.peer_b()]);
    pair.b.configure(Some(51820), &[pair.peer_a()]);
    pair.a.up(&["192.168.7.1/24"], 1420);
    pair.b.up(&["192.168.7.2/24"], 1420);

    assert!(has_port(&mut pair, "udp", 51820), "the daemon has its IPv4 sockets");
    assert!(!has_port(&mut pair, "udp6", 51820), "the host refuses IPv6 sockets");
    pair.assert_a_reaches_b();
    pair.assert_b_reaches_a();
    assert_eq!(pair.a_seen_by_b().endpoint, Side::A.endpoint(adit_tests::Outer::V4));
}

#[test]
fn a_port_that_is_taken_is_refused_and_nothing_changes() {
    let pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    let before = pair.a.status();
    let taken = pair.a.host.enter(|| UdpSocket::bind("0.0.0.0:0").expect("a port of somebody else's"));
    let port = taken.local_addr().expect("an address").port();

    let words = format!("set wg0 listen-port {port} fwmark 9 peer {} persistent-keepalive 7", pair.b.keys.public);
    let refusal = pair.a.try_wg(&words, "").failure();
    assert!(refusal.contains("Address already in use"), "{refusal}");
    let after = pair.a.status();
    assert_eq!((after.listen_port, &after.fwmark), (before.listen_port, &before.fwmark));
    assert_eq!(pair.b_seen_by_a().persistent_keepalive, "off");
    pair.assert_a_reaches_b();

    drop(taken);
    pair.a.set(&format!("listen-port {port}"));
    assert_eq!(pair.a.status().listen_port, port);
    pair.assert_a_reaches_b();
}

#[test]
fn where_files_are_short_a_client_is_served_though_forty_came_before_it_that_ask_nothing() {
    let mut node = Node::new(Adit, "A");
    // Once it answers it has all files that it needs.
    node.status();
    let process = node.daemon().id();
    let files = fs::read_dir(format!("/proc/{process}/fd")).expect("the daemon's files").flatten();
    let last = files.filter_map(|file| file.file_name().to_str()?.parse::<u32>().ok()).max().expect("a file");
    node.host.run("prlimit", &["--pid", &process.to_string(), &format!("--nofile={}:4096", last + 4)]).success();
    // All of them have come before the daemon looks.
    node.daemon().signal(Signal::SIGSTOP);
    let connect = || UnixStream::connect("/run/wireguard/wg0.sock").expect("connected");
    let _crowd: Vec<_> = (0..40).map(|_| node.host.enter(connect)).collect();
    node.daemon().signal(Signal::SIGCONT);
    // One by one they would have the daemon's next looks, which are 5 s apart: longer than a test may take.
    node.status();
}

/// Whether any socket on A's host has this port, by the kernel's own list.
fn has_port(pair: &mut Pair, list: &str, port: u16) -> bool {
    let daemon = pair.a.daemon().id();
    let sockets = fs::read_to_string(format!("/proc/{daemon}/net/{list}")).expect("the kernel's list of sockets");
    sockets.contains(&format!(":{port:04X} "))
}

/// From now on the kernel answers this thread, and all that it starts, that it has no such address family.
fn refuse_sockets_from_here(family: i32) {
    let family = u64::try_from(family).expect("a number of a family");
    let is_family = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family).expect("a condition");
    let rule = SeccompRule::new(vec![is_family]).expect("a rule");
    let filter = SeccompFilter::new(
        [(libc::SYS_socket, vec![rule])].into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EAFNOSUPPORT as u32),
        std::env::consts::ARCH.try_into().expect("an architecture that seccomp knows"),
    );
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    seccompiler::apply_filter(&program).expect("a filter that the kernel takes");
}
