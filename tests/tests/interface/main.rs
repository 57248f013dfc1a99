//! What the daemon makes of its interface, and knows of it when it could not be told everything, or lacks something.

mod firewalls;
mod unreachable;
mod ways;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use adit_tests::Implementation::Adit;
use adit_tests::{Host, Node, Outer, Pair, PairBuilder, Ping, Scratch, Side, Tap, eventually};
use nix::sys::signal::Signal;

#[test]
fn when_news_were_lost_the_link_is_what_it_is_now_and_not_what_the_last_news_said() {
    let mut pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    pair.a.daemon().signal(Signal::SIGSTOP);
    pair.a.host.ip("link set wg0 down");
    lose_news(&pair.a.host);
    pair.a.host.ip("link set wg0 mtu 1420 up");
    pair.a.daemon().signal(Signal::SIGCONT);
    eventually("A reaches B again", || pair.a_reaches_b().then_some(()));
}

#[test]
fn how_the_link_is_that_could_not_be_asked_for_when_news_were_lost_is_asked_for_again() {
    let mut pair = stopped_with_a_link_that_is_down();
    pair.a.host.ip("link set wg0 mtu 1420 up");
    let process = pair.a.daemon().id().to_string();
    let limit_files = |host: &Host, to: &str| {
        let limit = format!("--nofile={to}:");
        host.run("prlimit", &["--pid", &process, &limit]).success();
    };
    limit_files(&pair.a.host, "3");
    pair.a.daemon().signal(Signal::SIGCONT);
    eventually("it cannot be asked for", || pair.a.daemon().log().contains("are not known").then_some(()));
    limit_files(&pair.a.host, "1024");
    eventually("A reaches B again", || pair.a_reaches_b().then_some(()));
}

#[test]
fn an_interface_is_followed_to_another_namespace_though_the_news_of_it_were_lost() {
    let mut pair = stopped_with_a_link_that_is_down();
    let inside = Host::new("inside");
    pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 mtu 1420 up");
    pair.a.daemon().signal(Signal::SIGCONT);
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
}

/// A's link is down, and its daemon is stopped once it knows. Of what happens next the news are lost.
fn stopped_with_a_link_that_is_down() -> Pair {
    let mut pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    pair.a.host.ip("link set wg0 down");
    eventually("the link is followed", || pair.a.daemon().log().contains("is_up=false").then_some(()));
    pair.a.daemon().signal(Signal::SIGSTOP);
    lose_news(&pair.a.host);
    pair
}

/// Changes the link until the kernel has no more room to tell of it. What happens before that is read is lost.
#[track_caller]
fn lose_news(host: &Host) {
    let changes: String = (0..100).map(|number| format!("link set wg0 mtu {}\n", 1300 + number)).collect();
    eventually("news are lost", || {
        host.run_with_input("ip", &["-batch", "-"], &changes).success();
        let sockets = host.enter(|| fs::read_to_string("/proc/thread-self/net/netlink")).expect("netlink's sockets");
        let drops = |line: &str| line.split_whitespace().nth(8).is_some_and(|drops| drops != "0");
        sockets.lines().skip(1).any(drops).then_some(())
    });
}

#[test]
fn packets_pass_though_nobody_reads_the_log() {
    let mut pair = Pair::stopped(Adit, Adit);
    let (mut log, theirs) = std::io::pipe().expect("a pipe");
    let path = format!("/proc/self/fd/{}", theirs.as_raw_fd());
    let mut command = Adit.foreground("wg0");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs.try_clone().expect("the log's end"));
    let mut daemon = pair.a.host.start(command);
    eventually("A's daemon opens its socket", || pair.a.host.has_socket("wg0").then_some(()));
    pair.b.start();
    PairBuilder::new(Adit, Adit).configure(&pair);
    // Opened anew, so that the daemon waits where this one does not.
    let filler = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    fill(filler.expect("the log's end"));

    pair.assert_a_reaches_b();
    // Workers log what cannot be sent.
    pair.a.host.ip("link set eth0 down");
    assert!(!Ping::to(Side::B.inner_v4()).from(&pair.a.host).all_answered());
    pair.a.host.ip("link set eth0 up");
    eventually("B is reached again", || Ping::to(Side::B.inner_v4()).from(&pair.a.host).all_answered().then_some(()));
    Ping::to(Side::B.inner_v4()).count(20, 0.01).from(&pair.a.host).assert_all_answered();
    Ping::to(Side::A.inner_v4()).count(20, 0.01).from(&pair.b.host).assert_all_answered();

    // When somebody reads again, the next line says what was lost.
    drop(theirs);
    assert!(log.read(&mut [0; 1 << 20]).expect("the log") > 0);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    let log = std::io::read_to_string(log).expect("the log");
    assert!(log.contains(" log lines were lost, since nobody read them\n") && log.contains("ended"), "{log}");
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let mut pair = Pair::stopped(Adit, Adit);
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a disk without room");
    let mut command = Adit.foreground("wg0");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full);
    let mut daemon = pair.a.host.start(command);
    eventually("A's daemon opens its socket", || pair.a.host.has_socket("wg0").then_some(()));
    pair.b.start();
    PairBuilder::new(Adit, Adit).configure(&pair);
    pair.assert_a_reaches_b();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(!pair.a.host.has_socket("wg0"));
}

#[test]
fn after_a_reload_the_interface_ends_with_the_process_that_somebody_waits_for_however_that_ends() {
    let mut node = Node::stopped(Adit, "A");
    node.start();
    let adit = Adit.binary();
    node.host.run(adit.to_str().expect("a path in UTF-8"), &["reload", "wg0"]).success();
    node.daemon().signal(Signal::SIGKILL);
    assert!(!node.daemon().wait().success());
    eventually("the interface ends", || (!node.host.has_link("wg0") && !node.host.has_socket("wg0")).then_some(()));
}

#[test]
fn descriptors_that_are_empty_words_are_none() {
    let host = Host::new("A");
    let mut command = Adit.foreground("wg0");
    command.env("WG_TUN_FD", "-1").env("WG_UAPI_FD", "").stdin(Stdio::null());
    let _daemon = host.start(command);
    eventually("the daemon opens its socket", || host.has_socket("wg0").then_some(()));
}

#[test]
fn files_that_whoever_starts_the_daemon_has_open_are_not_kept_open() {
    let (host, folder) = (Host::new("A"), Scratch::new());
    let lock = folder.join("lock");
    let (adit, path) = (Adit.binary(), lock.to_str().expect("a path in UTF-8"));
    // In the background there are two programs, of which the second must not have it either.
    for start in ["exec \"$0\" wg0", "\"$0\" -f wg0 < /dev/null > /dev/null 2>&1 &"] {
        let script = format!("exec 9> \"$1\"; {start}");
        host.run("sh", &["-c", &script, adit.to_str().expect("a path in UTF-8"), path]).success();
        eventually("the daemon serves", || host.has_socket("wg0").then_some(()));
        let processes = host.processes();
        for process in &processes {
            let files = fs::read_dir(format!("/proc/{process}/fd")).expect("the daemon's files");
            let files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
            assert_eq!(files.filter(|file| *file == lock).count(), 0, "{start}");
        }
        assert_eq!(processes.len(), 1);
        host.ip("link delete wg0");
        eventually("the daemon ends", || host.processes().is_empty().then_some(()));
    }
}

/// Programs made with wgctrl take each socket there for an interface, whatever its name.
#[test]
fn in_the_folder_of_the_uapi_there_are_sockets_of_interfaces_alone() {
    let mut node = Node::stopped(Adit, "A");
    node.start();
    assert_eq!(node.host.sockets(), ["adit/wg0.reload", "wg0.sock"]);
}

#[test]
fn a_port_that_was_left_can_be_used_at_once() {
    let mut node = Node::stopped(Adit, "A");
    node.start();
    let socket = node.host.enter(|| UnixStream::connect("/run/wireguard/wg0.sock")).expect("the daemon's socket");
    for port in (0..20).map(|round| 40_000 + round % 2) {
        write!(&socket, "set=1\nlisten_port={port}\n\n").expect("a request");
        let mut answer = [0; 9];
        (&socket).read_exact(&mut answer).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer), "errno=0\n\n");
    }
}

#[test]
fn what_a_peer_can_bring_about_as_often_as_it_likes_is_not_in_the_usual_log() {
    let mut pair = Pair::stopped(Adit, Adit);
    let (mut log, theirs) = std::io::pipe().expect("a pipe");
    let mut command = Adit.foreground("wg0");
    command.env("LOG_LEVEL", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs);
    let mut daemon = pair.a.host.start(command);
    eventually("A's daemon opens its socket", || pair.a.host.has_socket("wg0").then_some(()));
    pair.b.start();
    PairBuilder::new(Adit, Adit).configure(&pair);
    for port in [51001, 51002] {
        pair.b.set(&format!("listen-port {port}"));
        pair.assert_b_reaches_a();
        let endpoint = format!("{}:{port}", Side::B.outer(Outer::V4));
        eventually("A has seen it", || (pair.b_seen_by_a().endpoint == endpoint).then_some(()));
    }
    // Whatever there is to be logged has been logged before this is answered.
    pair.a.status();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    let mut text = String::new();
    log.read_to_string(&mut text).expect("the log");
    assert!(text.contains("the link has changed") && !text.contains("endpoint"), "{text}");
}

fn fill(mut pipe: File) {
    loop {
        match pipe.write(b"\n") {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn an_interface_made_by_the_daemon_has_the_addresses_alone_that_it_is_given() {
    let mut node = Node::stopped(Adit, "A");
    node.start();
    node.host.ip("link set wg0 up");
    node.host.add_address("fd00::1/64", "wg0");
    let addresses = node.host.ip("-6 address show dev wg0");
    assert!(addresses.contains("fd00::1/64") && !addresses.contains("fe80:"), "{addresses}");
}

#[test]
fn an_interface_made_by_the_daemon_has_room_for_the_tunnel_and_one_that_was_there_keeps_its_mtu() {
    let mut node = Node::stopped(Adit, "A");
    let mtu = |node: &Node| {
        let mtu = node.host.enter(|| fs::read_to_string("/sys/class/net/wg0/mtu")).expect("the interface's MTU");
        mtu.trim().to_owned()
    };
    node.start();
    assert_eq!(mtu(&node), "1420");
    node.daemon().signal(Signal::SIGTERM);
    assert!(node.daemon().wait().success());

    node.host.ip("tuntap add wg0 mode tun multi_queue");
    node.start();
    assert_eq!(mtu(&node), "1500");
}

#[test]
fn a_packet_that_waited_for_its_session_is_padded_no_further_than_to_the_mtu_of_the_link() {
    // No multiple of 16, to which shorter packets are padded.
    const MTU: u16 = 1411;
    let pair = PairBuilder::new(Adit, Adit).mtu(MTU.into()).build();
    let mut tap = Tap::open(&pair.a.host);
    Ping::to(Side::B.inner_v4()).packet_length(MTU).from(&pair.a.host).assert_all_answered();
    let IpAddr::V4(b) = Side::B.outer(Outer::V4) else { unreachable!("an address of IPv4") };
    // The header, with type, index and counter, and the tag.
    assert_eq!(tap.message(4, b).len(), 16 + usize::from(MTU) + 16);
}

#[test]
fn many_workers_need_more_files_than_the_usual_limit_and_can_change_the_port_and_reload() {
    let mut pair = Pair::stopped(Adit, Adit);
    pair.b.start();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=256:4096").arg(Adit.binary()).args(["-f", "--threads", "64", "wg0"]).stdin(Stdio::null());
    let _daemon = pair.a.host.start(command);
    eventually("A's daemon opens its socket", || pair.a.host.has_socket("wg0").then_some(()));
    PairBuilder::new(Adit, Adit).configure(&pair);
    pair.assert_a_reaches_b();
    pair.a.set("listen-port 40000");
    pair.assert_a_reaches_b();
    let adit = Adit.binary();
    pair.a.host.run(adit.to_str().expect("a path in UTF-8"), &["reload", "wg0"]).success();
    pair.assert_a_reaches_b();
    assert_ne!(pair.a_seen_by_b().endpoint, Side::A.endpoint(Outer::V4));
}

#[test]
fn the_kernel_numbers_an_interface_that_is_asked_for_with_a_place_for_a_number() {
    let mut pair = Pair::stopped(Adit, Adit);
    pair.b.start();
    let adit = Adit.binary();
    let adit = adit.to_str().expect("a path in UTF-8");
    pair.a.host.run(adit, &["wg%d"]).success();
    PairBuilder::new(Adit, Adit).configure(&pair);
    pair.assert_a_reaches_b();
    pair.a.host.run(adit, &["reload", "wg0"]).success();
    pair.assert_a_reaches_b();
    pair.a.host.run(adit, &["wg%d"]).success();
    assert!(pair.a.host.has_socket("wg1") && pair.a.host.has_link("wg1"));
}

#[test]
fn what_is_due_while_the_machine_sleeps_is_waited_for_by_a_clock_that_goes_on() {
    let mut pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    let files = fs::read_dir(format!("/proc/{}/fdinfo", pair.a.daemon().id())).expect("the daemon's files");
    let files: Vec<_> = files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
    // Of CLOCK_BOOTTIME, and set to go off.
    let waits = |file: &String| file.contains("clockid: 7\n") && !file.contains("it_value: (0, 0)");
    assert!(files.iter().any(waits), "{files:?}");
}

#[test]
fn where_the_kernel_does_not_tell_of_files_the_daemon_looks_whether_its_socket_is_there() {
    let host = Host::new("A");
    // A limit of inotify for this daemon alone takes a user namespace, and that a network of its own.
    let mut command = Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_inotify_instances; exec \"$0\" -f wg0";
    command.args(["--user", "--map-root-user", "--net", "sh", "-euc", script]).arg(Adit.binary());
    let mut daemon = host.start(command);
    eventually("the daemon opens its socket", || host.has_socket("wg0").then_some(()));
    host.enter(|| fs::remove_file("/run/wireguard/wg0.sock")).expect("the socket");
    assert!(daemon.wait().success());
}
