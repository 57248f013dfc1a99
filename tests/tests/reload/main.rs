//! A daemon replaced while it serves: no packet and no session is lost, and if it cannot be replaced nothing has
//! happened.

mod failures;
mod switches;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use adit_tests::{
    Background, Host, Implementation, Outer, Pair, PairBuilder, Ping, Scratch, Side, eventually, tcp_stream,
};
use nix::sys::signal::Signal;

/// A copy of the daemon's program, to be replaced at will.
struct Program {
    folder: Scratch,
    path: PathBuf,
}

impl Program {
    fn new() -> Self {
        let folder = Scratch::new();
        let program = Self { path: folder.join("adit"), folder };
        program.replace(&Implementation::Adit.binary());
        program
    }

    /// Puts another program in its place, as a package manager does: under the same name, as another file.
    fn replace(&self, by: &Path) {
        let new = self.folder.join("adit.new");
        fs::copy(by, &new).expect("copy the program");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("make it executable");
        fs::rename(&new, &self.path).expect("put it in place");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).stdin(Stdio::null()).env("LOG_LEVEL", "verbose");
        command
    }

    /// Puts a script in its place. Its words are `take`, a state from the process that hands over, and `say`, messages
    /// of these kinds to it, all at once.
    fn replace_by_script(&self, script: &str) {
        let new = self.folder.join("script");
        fs::write(&new, format!("{WORDS}{script}\n")).expect("write the script");
        self.replace(&new);
    }

    /// The daemon's command if it is to start scripts as well.
    fn unconfined(&self) -> Command {
        self.command(&[&["-f"], &UNCONFINED[..]].concat())
    }

    /// Asks the daemon on this host to reload; what it says on failure.
    fn reload(&self, host: &Host) -> Result<(), String> {
        // By a copy, since the one on disk may be no such program.
        let adit = Implementation::Adit.binary();
        let outcome = host.run(adit.to_str().expect("a path in UTF-8"), &["reload", "wg0"]);
        if outcome.is_success() { Ok(()) } else { Err(outcome.stderr()) }
    }
}

const UNCONFINED: [&str; 3] = ["--no-seccomp", "--no-landlock", "wg0"];

/// The state has a head of four numbers: magic and kind, and how many open files, bytes of text and bytes there are. A
/// byte goes with each 64 files.
const WORDS: &str = r#"#!/bin/sh
take() {
    set -- $(head -c 16 | od -A n -t u4)
    head -c $((($2 + 63) / 64 + $3 + $4)) > /dev/null
}
say() {
    printf "$(printf 'adi\\00%s\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0' "$@")" >&0
}
"#;

/// A tunnel between two hosts of which A's daemon runs this program in the foreground.
fn pair(program: &Program) -> (Pair, Background) {
    pair_of(program.command(&["-f", "wg0"]))
}

fn pair_of(command: Command) -> (Pair, Background) {
    let mut pair = Pair::stopped(Implementation::Adit, Implementation::Adit);
    let daemon = pair.a.host.start(command);
    eventually("A's daemon opens its socket", || pair.a.host.has_socket("wg0").then_some(()));
    pair.b.start();
    PairBuilder::new(Implementation::Adit, Implementation::Adit).configure(&pair);
    pair.assert_a_reaches_b();
    pair.assert_b_reaches_a();
    (pair, daemon)
}

/// A tunnel of which A's daemon runs this program in the background.
fn pair_in_the_background(program: &Program, arguments: &[&str]) -> Pair {
    let mut pair = Pair::stopped(Implementation::Adit, Implementation::Adit);
    pair.b.start();
    pair.a.host.run(program.path.to_str().expect("a path in UTF-8"), arguments).success();
    PairBuilder::new(Implementation::Adit, Implementation::Adit).configure(&pair);
    pair.assert_a_reaches_b();
    pair
}

/// A number in one of the files in which the kernel counts for each protocol: a line of names, and one of numbers.
fn counter(host: &Host, file: &str, protocol: &str, name: &str) -> u64 {
    host.enter(|| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("the host's counters");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_, value) = pairs.find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        value.parse().expect("a number")
    })
}

/// Packets that the kernel has thrown away on their way into or out of the daemon.
fn lost_in_queues(host: &Host) -> u64 {
    let dropped = host.enter(|| fs::read_to_string("/sys/class/net/wg0/statistics/tx_dropped"));
    let dropped: u64 = dropped.expect("the interface's counters").trim().parse().expect("a number");
    counter(host, "snmp", "Udp", "RcvbufErrors") + dropped
}

/// Segments of TCP that this host has sent again because later ones had arrived and they had not. (Those that it sends
/// again when it hears nothing for some milliseconds are not among them.)
fn holes_filled(host: &Host) -> u64 {
    counter(host, "netstat", "TcpExt", "TCPFastRetrans")
}

/// Bytes that the tunnel has brought to this host. As the kernel counts them: some of the daemons here can open no file,
/// and so cannot be asked.
fn received(host: &Host) -> u64 {
    let text = host.enter(|| fs::read_to_string("/sys/class/net/wg0/statistics/rx_bytes"));
    text.expect("the interface's counters").trim().parse().expect("a number")
}

/// Lets A ping B every 2 ms and both send a stream before, while and after `action` is done, and fails the test unless
/// every packet is answered, every byte arrives, and no segment of the streams was lost. Returns how many bytes the
/// streams have moved from A and to A.
#[track_caller]
fn while_busy(pair: &Pair, action: impl FnOnce()) -> [u64; 2] {
    let hosts = [&pair.a.host, &pair.b.host];
    let lost = hosts.map(lost_in_queues);
    let pings = Ping::to(Side::B.inner_v4()).every(0.002).patience(10).start(&pair.a.host);
    let streams_flow = || {
        let before = hosts.map(received);
        eventually("both streams flow", || {
            let now = hosts.map(received);
            (0..2).all(|host| now[host] > before[host] + (4 << 20)).then_some(())
        });
    };
    let moved = std::thread::scope(|scope| {
        // The streams end when this is dropped, be it because the action has failed.
        let goes_on = Arc::new(());
        let [more_there, more_back] = [Arc::downgrade(&goes_on), Arc::downgrade(&goes_on)]
            .map(|goes_on| move |_sent| if goes_on.strong_count() > 0 { 1 << 16 } else { 0 });
        let there = scope.spawn(|| tcp_stream(&pair.a.host, &pair.b.host, Side::B.inner_v4(), more_there));
        let back = scope.spawn(|| tcp_stream(&pair.b.host, &pair.a.host, Side::A.inner_v6(), more_back));
        streams_flow();
        action();
        streams_flow();
        drop(goes_on);
        pings.stop();
        [there.join().expect("the stream there") as u64, back.join().expect("the stream back") as u64]
    });
    assert_eq!(hosts.map(lost_in_queues), lost, "a queue was full");
    assert_eq!(hosts.map(holes_filled), [0, 0], "a segment was lost or overtaken");
    moved
}

#[test]
fn a_ping_every_two_milliseconds_and_streams_both_ways_cross_a_reload_with_none_lost() {
    let program = Program::new();
    let (pair, mut daemon) = pair(&program);
    let (before, seen_by_b) = (pair.b_seen_by_a(), pair.a_seen_by_b());
    let processes = pair.a.host.processes();
    while_busy(&pair, || {
        program.replace(&Implementation::Adit.binary());
        program.reload(&pair.a.host).expect("the reload");
    });
    assert_ne!(pair.a.host.processes(), processes, "another process serves");
    let after = pair.b_seen_by_a();
    assert_eq!(after.latest_handshake, before.latest_handshake, "no handshake was needed");
    assert_eq!(pair.a_seen_by_b().latest_handshake, seen_by_b.latest_handshake);
    assert!(after.received > before.received && after.sent > before.sent);
    assert_eq!((after.endpoint, after.allowed_ips), (before.endpoint, before.allowed_ips));
    // The process that somebody waits for is still there, and passes on that it is to end.
    assert_eq!(daemon.ended(), None);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    eventually("the process that has served ends", || pair.a.host.processes().is_empty().then_some(()));
    assert!(!pair.a.host.has_link("wg0") && !pair.a.host.has_socket("wg0"));
    assert!(pair.a.host.sockets().is_empty());
}

#[test]
fn ten_reloads_in_a_row_under_traffic_lose_nothing_and_leave_two_processes() {
    let program = Program::new();
    let (pair, mut daemon) = pair(&program);
    let before = pair.b_seen_by_a();
    let [sent, received] = while_busy(&pair, || {
        for _ in 0..10 {
            program.reload(&pair.a.host).expect("the reload");
        }
    });
    eventually("those that handed over end", || (pair.a.host.processes().len() == 2).then_some(()));
    let after = pair.b_seen_by_a();
    assert!(after.received >= before.received + received && after.sent >= before.sent + sent);
    assert_eq!(after.latest_handshake, before.latest_handshake);
    // The present process can be configured as the first could.
    pair.a.set("listen-port 51999");
    assert_eq!(pair.a.status().listen_port, 51999);
    program.reload(&pair.a.host).expect("the reload");
    assert_eq!(pair.a.status().listen_port, 51999);
    pair.assert_a_reaches_b();
    pair.a.host.ip("link delete wg0");
    assert!(daemon.wait().success());
    assert!(!pair.a.host.has_socket("wg0"));
}

#[test]
fn a_process_that_has_taken_over_hears_of_the_interface_in_other_namespaces_as_the_first_did() {
    let program = Program::new();
    let log = program.folder.join("log");
    let mut command = program.command(&["-f", "wg0"]);
    command.stderr(fs::File::create(&log).expect("a file for the log")).stdout(Stdio::null());
    let (pair, _daemon) = pair_of(command);
    let inside = Host::new("inside");
    let logged = |what: &str| fs::read_to_string(&log).expect("the log").matches(what).count();
    // The second time that which listens already is handed over.
    for mtu in ["1301", "1302"] {
        program.reload(&pair.a.host).expect("the reload");
        let before = logged("in another network namespace now");
        pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
        eventually("the interface is followed", || (logged("in another network namespace now") > before).then_some(()));
        inside.ip(&format!("link set wg0 mtu {mtu} up"));
        eventually("what happens there is heard", || (logged(&format!("mtu={mtu}")) > 0).then_some(()));
        inside.ip(&format!("link set wg0 netns {}", pair.a.host.network_path()));
        pair.a.up(&[&format!("{}/24", Side::A.inner_v4())], 1420);
        eventually("B is reached from home", || pair.a_reaches_b().then_some(()));
    }
}

#[test]
fn an_idle_connection_ends_cleanly_and_the_next_one_is_the_new_process_s() {
    let program = Program::new();
    let (pair, _daemon) = pair(&program);
    let connect = || pair.a.host.enter(|| UnixStream::connect("/run/wireguard/wg0.sock")).expect("the daemon's socket");
    let (mut idle, mut half) = (connect(), connect());
    idle.write_all(b"get=1\n\n").expect("ask");
    let mut text = String::new();
    let mut reader = BufReader::new(&idle);
    while text.lines().last() != Some("errno=0") {
        reader.read_line(&mut text).expect("the answer");
    }
    half.write_all(b"set=1\nlisten_port=7\n").expect("half a request");
    program.reload(&pair.a.host).expect("the reload");
    for mut stream in [&idle, &half] {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("a clean end");
        assert_eq!(rest.iter().filter(|byte| **byte != b'\n').count(), 0, "nothing more is said");
    }
    assert_eq!(pair.a.status().listen_port, 51820);
    pair.assert_a_reaches_b();
}

#[test]
fn a_socket_that_was_handed_in_is_left_by_the_next_process_as_by_the_first() {
    let program = Program::new();
    let mut pair = Pair::stopped(Implementation::Adit, Implementation::Adit);
    let socket = pair.a.host.enter(|| UnixListener::bind("/run/wireguard/wg0.sock")).expect("a socket");
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3<&0 < /dev/null; WG_UAPI_FD=3 exec \"$0\" -f wg0"]).arg(&program.path);
    command.stdin(OwnedFd::from(socket));
    let mut daemon = pair.a.host.start(command);
    pair.b.start();
    PairBuilder::new(Implementation::Adit, Implementation::Adit).configure(&pair);
    for _ in 0..2 {
        program.reload(&pair.a.host).expect("the reload");
    }
    pair.assert_a_reaches_b();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(pair.a.host.has_socket("wg0"), "somebody else's socket");
    assert_eq!(pair.a.host.sockets(), ["wg0.sock"], "its own are removed");
}

#[test]
fn a_signal_does_the_same_and_reaches_whoever_serves() {
    let program = Program::new();
    let log = program.folder.join("log");
    let mut command = program.command(&["-f", "wg0"]);
    command.stderr(fs::File::create(&log).expect("a file for the log")).stdout(Stdio::null());
    let (pair, mut daemon) = pair_of(command);
    for count in 1..=3 {
        daemon.signal(Signal::SIGUSR2);
        eventually("another process serves", || {
            let log = fs::read_to_string(&log).expect("the log");
            (log.matches("handed over").count() == count).then_some(())
        });
        pair.assert_a_reaches_b();
    }
    daemon.signal(Signal::SIGINT);
    assert!(daemon.wait().success());
}

/// A file more could be refused, and nothing may fail once another process serves.
#[test]
fn the_process_that_stays_has_no_socket_that_it_had_not_before() {
    let program = Program::new();
    let (pair, daemon) = pair(&program);
    let sockets = || -> BTreeSet<PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", daemon.id())).expect("the daemon's files");
        // One may be closed meanwhile.
        let files = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        files.filter(|file| file.to_string_lossy().starts_with("socket:")).collect()
    };
    let before = sockets();
    program.reload(&pair.a.host).expect("the reload");
    let processes = pair.a.host.processes();
    // It stays once it passes signals on.
    daemon.signal(Signal::SIGUSR2);
    eventually("yet another process serves", || {
        let now = pair.a.host.processes();
        (now.len() == 2 && now != processes).then_some(())
    });
    let after = sockets();
    assert!(after.len() < before.len() && after.is_subset(&before), "{before:?}, then {after:?}");
    pair.assert_a_reaches_b();
}

#[test]
fn a_daemon_in_the_background_is_replaced_by_one_process() {
    let program = Program::new();
    let pair = pair_in_the_background(&program, &["wg0"]);
    for _ in 0..2 {
        let before = pair.a.host.processes();
        program.reload(&pair.a.host).expect("the reload");
        eventually("the process that handed over ends", || {
            let now = pair.a.host.processes();
            (now.len() == 1 && now != before).then_some(())
        });
        pair.assert_a_reaches_b();
    }
    pair.a.host.ip("link delete wg0");
    eventually("the daemon ends", || pair.a.host.processes().is_empty().then_some(()));
    assert!(!pair.a.host.has_socket("wg0"));
}

#[test]
fn a_daemon_in_the_background_that_is_told_to_end_while_it_hands_over_passes_that_on() {
    let program = Program::new();
    let pair = pair_in_the_background(&program, &UNCONFINED);
    let told = program.folder.join("told");
    // The signal is there before it can be known who serves, and the first process ends when that is known.
    program.replace_by_script(&format!(
        "trap ': > {}; kill $!; exit' TERM; take; say 2; take; kill -TERM $PPID; say 4; sleep 100 & wait",
        told.display()
    ));
    program.reload(&pair.a.host).expect("it has taken over, as far as anybody can tell");
    eventually("whoever serves is told to end", || told.exists().then_some(()));
    eventually("nobody is left", || pair.a.host.processes().is_empty().then_some(()));
}

#[test]
fn what_was_dropped_is_counted_on_by_the_next_process() {
    let program = Program::new();
    let (pair, daemon) = pair(&program);
    let to = Side::A.endpoint(Outer::V4);
    daemon.signal(Signal::SIGSTOP);
    pair.b.host.enter(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).expect("a socket");
        eventually("there is no room left", || {
            for _ in 0..1_000 {
                socket.send_to(&[0; 1_400], &to).expect("send");
            }
            (pair.a.host.datagrams_without_room() > 0).then_some(())
        });
    });
    daemon.signal(Signal::SIGCONT);
    let before = eventually("all is counted", || {
        let drops = pair.a.shown().drops;
        let of = |reason: &str| drops.get(reason).copied().unwrap_or(0);
        (of("receive_overflow") >= pair.a.host.datagrams_without_room() && of("bad_type") > 0).then_some(drops)
    });
    // What the old sockets have lost is known to the process alone; what the new ones lose the kernel counts.
    pair.a.set("listen-port 51821");
    program.reload(&pair.a.host).expect("the reload");
    let after = pair.a.shown().drops;
    for (reason, count) in before {
        assert!(after.get(&reason).is_some_and(|after| *after >= count), "{reason}: {count} before, now {after:?}");
    }
}
