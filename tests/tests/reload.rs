//! A daemon replaced while it serves: no packet and no session is lost, and if it cannot be replaced nothing has
//! happened.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_tests::{
    Background, Host, Implementation, Node, Pair, PairBuilder, Ping, Scratch, Side, eventually, tcp_transfer,
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

    /// Puts a script in its place. Its words are `take`, a state from the process that hands over, and `say`, a message of
    /// this kind to it.
    fn replace_by_script(&self, script: &str) {
        let new = self.folder.join("script");
        fs::write(&new, format!("{WORDS}{script}\n")).expect("write the script");
        self.replace(&new);
    }

    /// The daemon's command if it is to start scripts as well.
    fn unconfined(&self) -> Command {
        self.command(&["-f", "--no-seccomp", "--no-landlock", "wg0"])
    }

    /// Asks the daemon on this host to reload; what it says on failure.
    fn reload(&self, host: &Host) -> Result<(), String> {
        // By a copy, since the one on disk may be no such program.
        let adit = Implementation::Adit.binary();
        let outcome = host.run(adit.to_str().expect("a path in UTF-8"), &["reload", "wg0"]);
        if outcome.is_success() { Ok(()) } else { Err(outcome.stderr()) }
    }
}

/// The state has a head of four numbers: magic and kind, and how many open files, bytes of text and bytes there are. A
/// byte goes with each 64 files.
const WORDS: &str = r#"#!/bin/sh
take() {
    set -- $(head -c 16 | od -A n -t u4)
    head -c $((($2 + 63) / 64 + $3 + $4)) > /dev/null
}
say() {
    printf "adi\\00$1\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0\\0" >&0
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

/// Packets that the kernel has thrown away on their way into or out of the daemon.
fn lost_in_queues(host: &Host) -> u64 {
    host.enter(|| {
        let number = |path: &str| -> u64 { fs::read_to_string(path).expect(path).trim().parse().expect("a number") };
        let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("the host's counters");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let udp = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "RcvbufErrors");
        let udp: u64 = udp.expect("the counter of full buffers").1.parse().expect("a number");
        udp + number("/sys/class/net/wg0/statistics/tx_dropped")
    })
}

fn received(node: &Node) -> u64 {
    node.status().peers.iter().map(|peer| peer.received).sum()
}

/// Lets A ping B every 2 ms and both send a stream while `action` is done, and fails the test unless every packet is
/// answered and every byte arrives.
#[track_caller]
fn while_busy(pair: &Pair, action: impl FnOnce()) {
    let lost = [&pair.a, &pair.b].map(|node| lost_in_queues(&node.host));
    let before = received(&pair.a);
    let pings = Ping::to(Side::B.inner_v4()).every(0.002).patience(10).start(&pair.a.host);
    std::thread::scope(|scope| {
        let there = scope.spawn(|| tcp_transfer(&pair.a.host, &pair.b.host, Side::B.inner_v4(), 48 << 20));
        let back = scope.spawn(|| tcp_transfer(&pair.b.host, &pair.a.host, Side::A.inner_v6(), 48 << 20));
        eventually("traffic flows", || (received(&pair.a) > before + 100_000).then_some(()));
        action();
        pings.stop();
        there.join().expect("the stream there");
        back.join().expect("the stream back");
    });
    assert_eq!([&pair.a, &pair.b].map(|node| lost_in_queues(&node.host)), lost, "a queue was full");
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
    assert_eq!(pair.a.host.enter(|| fs::read_dir("/run/wireguard").expect("the sockets").count()), 0);
}

#[test]
fn ten_reloads_in_a_row_under_traffic_lose_nothing_and_leave_two_processes() {
    let program = Program::new();
    let (pair, mut daemon) = pair(&program);
    let before = pair.b_seen_by_a();
    while_busy(&pair, || {
        for _ in 0..10 {
            program.reload(&pair.a.host).expect("the reload");
        }
    });
    eventually("those that handed over end", || (pair.a.host.processes().len() == 2).then_some(()));
    let after = pair.b_seen_by_a();
    assert!(after.received >= before.received + (48 << 20) && after.sent >= before.sent + (48 << 20));
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
fn a_program_that_cannot_take_over_leaves_the_daemon_serving_with_nothing_lost() {
    let program = Program::new();
    let (pair, _daemon) = pair(&program);
    let before = pair.b_seen_by_a();
    let processes = pair.a.host.processes();
    while_busy(&pair, || {
        program.replace(Path::new("/bin/false"));
        let why = program.reload(&pair.a.host).expect_err("false takes over nothing");
        assert!(why.contains("the new program ended"), "{why}");
        fs::remove_file(&program.path).expect("remove the program");
        let why = program.reload(&pair.a.host).expect_err("there is no program");
        assert!(why.contains("No such file"), "{why}");
    });
    assert_eq!(pair.a.host.processes(), processes);
    assert_eq!(pair.b_seen_by_a().latest_handshake, before.latest_handshake);
    program.replace(&Implementation::Adit.binary());
    program.reload(&pair.a.host).expect("the reload");
    assert_ne!(pair.a.host.processes(), processes);
    pair.assert_a_reaches_b();
}

#[test]
fn a_program_that_goes_silent_or_dies_on_the_way_leaves_the_daemon_serving_with_nothing_lost() {
    let whole = "take; say 2; ";
    let cases = [
        ("silent", "exec cat > /dev/null", "says nothing for 10 seconds"),
        ("hangs", &format!("{whole} exec cat > /dev/null"), "says nothing for 3 seconds"),
        ("dies", &format!("{whole} exec head -c 20 > /dev/null"), "the new program ended"),
        ("refuses", &format!("{whole} take; say 3"), "the new program refuses"),
        ("raves", "take; echo what is all this >&0", "talking to the new program"),
    ];
    std::thread::scope(|scope| {
        for (name, script, expected) in cases {
            scope.spawn(move || {
                let program = Program::new();
                let (pair, _daemon) = pair_of(program.unconfined());
                let (before, processes) = (pair.b_seen_by_a(), pair.a.host.processes());
                program.replace_by_script(script);
                let host = &pair.a.host;
                std::thread::scope(|scope| {
                    // While the other one is silent few packets come, so that there is room for them to wait.
                    let pings = Ping::to(Side::B.inner_v4()).count(100, 0.05).patience(10);
                    let pings = scope.spawn(move || pings.from(host));
                    let why = program.reload(&pair.a.host).expect_err("nobody takes over");
                    assert!(why.contains(expected), "{name}: {why}");
                    pings.join().expect("the pings").assert_all_answered();
                });
                pair.assert_b_reaches_a();
                assert_eq!(pair.b_seen_by_a().latest_handshake, before.latest_handshake, "{name}: the same session");
                assert_eq!(pair.a.host.processes(), processes, "{name}: nothing is left of the other one");
            });
        }
    });
}

#[test]
fn a_program_that_has_taken_over_and_makes_no_sense_costs_the_sessions_and_not_the_tunnel() {
    let program = Program::new();
    let (pair, _daemon) = pair_of(program.unconfined());
    let (before, processes) = (pair.b_seen_by_a(), pair.a.host.processes());
    eventually("handshakes can be told apart, by the second", || {
        (std::time::UNIX_EPOCH.elapsed().ok()?.as_secs() > before.latest_handshake).then_some(())
    });
    // It says twice that it is prepared, and that it has taken over: it may have used the sessions.
    program.replace_by_script("take; say 2; say 2; say 4; exec cat > /dev/null");
    let why = program.reload(&pair.a.host).expect_err("what takes over must make sense");
    assert!(why.contains("makes no sense"), "{why}");
    assert_eq!(pair.a.host.processes(), processes);
    pair.assert_a_reaches_b();
    assert!(pair.b_seen_by_a().latest_handshake > before.latest_handshake, "no counter can have been used twice");
    pair.assert_b_reaches_a();
}

#[test]
fn a_program_that_dies_when_it_serves_ends_the_process_that_stayed_with_a_failure() {
    let program = Program::new();
    let (pair, mut daemon) = pair_of(program.unconfined());
    program.replace_by_script("take; say 2; take; say 4");
    program.reload(&pair.a.host).expect("it has taken over, as far as anybody can tell");
    assert!(!daemon.wait().success(), "whoever waits is told, and can start it again");
    assert!(pair.a.host.processes().is_empty() && !pair.a.host.has_link("wg0"));
}

#[test]
fn an_interface_in_another_namespace_is_not_handed_over_until_it_is_back() {
    let program = Program::new();
    let (pair, _daemon) = pair(&program);
    let inside = Host::new("inside");
    pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
    // Not to be mistaken for the daemon's.
    pair.a.host.ip("tuntap add wg0 mode tun");
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 up");
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
    let processes = pair.a.host.processes();
    let why = program.reload(&pair.a.host).expect_err("the next one could not follow it");
    assert!(why.contains("wg0 is in another network namespace"), "{why}");
    assert_eq!(pair.a.host.processes(), processes);
    to_b.from(&inside).assert_all_answered();

    pair.a.host.ip("link delete wg0");
    inside.ip(&format!("link set wg0 netns {}", pair.a.host.network_path()));
    pair.a.up(&[&format!("{}/24", Side::A.inner_v4())], 1420);
    eventually("B is reached from home", || pair.a_reaches_b().then_some(()));
    program.reload(&pair.a.host).expect("the reload");
    pair.assert_a_reaches_b();
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
fn an_interface_that_leaves_while_the_next_process_prepares_itself_is_served_on() {
    let program = Program::new();
    let (pair, _daemon) = pair_of(program.unconfined());
    let (taken, moved) = (program.folder.join("taken"), program.folder.join("moved"));
    program.replace_by_script(&format!(
        "take; : > {}; until [ -e {} ]; do sleep 0.01; done; say 2; exec cat > /dev/null",
        taken.display(),
        moved.display()
    ));
    let inside = Host::new("inside");
    let processes = pair.a.host.processes();
    let why = std::thread::scope(|scope| {
        let reload = scope.spawn(|| program.reload(&pair.a.host));
        eventually("the state is sent", || taken.exists().then_some(()));
        pair.a.host.ip(&format!("link set wg0 netns {}", inside.network_path()));
        fs::write(moved, "").expect("a word to the script");
        reload.join().expect("the reload").expect_err("the next one could not follow it")
    });
    assert!(why.contains("wg0 is in another network namespace"), "{why}");
    assert_eq!(pair.a.host.processes(), processes);
    inside.add_address(&format!("{}/24", Side::A.inner_v4()), "wg0");
    inside.ip("link set wg0 up");
    let to_b = Ping::to(Side::B.inner_v4());
    eventually("B is reached from inside", || to_b.from(&inside).all_answered().then_some(()));
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
    let left = pair.a.host.enter(|| fs::read_dir("/run/wireguard").expect("the sockets").count());
    assert_eq!(left, 1, "its own are removed");
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

#[test]
fn a_daemon_in_the_background_is_replaced_by_one_process() {
    let program = Program::new();
    let mut pair = Pair::stopped(Implementation::Adit, Implementation::Adit);
    pair.b.start();
    pair.a.host.run(program.path.to_str().expect("a path in UTF-8"), &["wg0"]).success();
    PairBuilder::new(Implementation::Adit, Implementation::Adit).configure(&pair);
    pair.assert_a_reaches_b();
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
fn without_a_daemon_a_reload_fails_and_says_so() {
    let node = Node::stopped(Implementation::Adit, "A");
    let program = Program::new();
    let why = program.reload(&node.host).expect_err("nobody is there");
    assert!(why.contains("no daemon of that interface"), "{why}");
}
