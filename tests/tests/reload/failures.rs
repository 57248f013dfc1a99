//! Programs that do not take over, as they should or at all: the daemon serves on.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use adit_tests::{Host, Implementation, Node, Pair, PairBuilder, Ping, Side, eventually};
use nix::sys::signal::Signal;

use super::{Program, pair, pair_of, while_busy};

/// Where reloads are asked for, within the folder of the UAPI's sockets.
const ASKS: &str = "adit/wg0.reload";

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
fn whoever_asks_while_no_file_can_be_opened_is_answered_once_one_can() {
    let mut pair = Pair::new(Implementation::Adit, Implementation::Adit);
    pair.assert_a_reaches_b();
    let process = pair.a.daemon().id().to_string();
    let limit = |host: &Host, files: u16| {
        host.run("prlimit", &["--pid", &process, &format!("--nofile={files}:4096")]).success();
    };
    limit(&pair.a.host, 3);
    let adit = Implementation::Adit.binary();
    let [mut shown, mut reloaded] = [&["show", "wg0"], &["reload", "wg0"]].map(|arguments| {
        let mut command = Command::new(&adit);
        command.args(arguments).stdout(std::process::Stdio::null());
        pair.a.host.start(command)
    });
    for whom in ["cannot accept a UAPI client", "cannot accept one who asks for a reload"] {
        eventually(whom, || pair.a.daemon().log().contains(whom).then_some(()));
    }
    limit(&pair.a.host, 4096);
    assert!(shown.wait().success() && reloaded.wait().success());
    pair.assert_a_reaches_b();
}

#[test]
fn whoever_asks_where_too_few_files_can_be_opened_is_told_which_limit_to_raise() {
    let mut pair = Pair::new(Implementation::Adit, Implementation::Adit);
    let process = pair.a.daemon().id().to_string();
    let files = fs::read_dir(format!("/proc/{process}/fd")).expect("the daemon's files").flatten();
    let last = files.filter_map(|file| file.file_name().to_str()?.parse::<u32>().ok()).max().expect("a file");
    // One for who asks, and fewer than a new process is given.
    pair.a.host.run("prlimit", &["--pid", &process, &format!("--nofile={}:4096", last + 4)]).success();
    let adit = Implementation::Adit.binary();
    let adit = adit.to_str().expect("a path in UTF-8");
    let why = pair.a.host.run(adit, &["reload", "wg0"]).failure();
    let expected =
        "files cannot be opened for a new process: Too many open files (os error 24); raise the limit of open";
    assert!(why.contains(expected), "{why}");
    pair.assert_a_reaches_b();
}

/// A unit would count as one that reloads for good.
#[test]
fn a_service_manager_is_told_of_the_end_of_a_reload_that_could_not_even_begin() {
    let program = Program::new();
    let path = program.folder.join("notify");
    let manager = UnixDatagram::bind(&path).expect("a service manager's socket");
    manager.set_read_timeout(Some(Duration::from_secs(40))).expect("its patience");
    let hears = |word: &str| {
        let mut buffer = [0; 512];
        let len = manager.recv(&mut buffer).expect("a word to the service manager");
        let said = String::from_utf8_lossy(&buffer[..len]);
        assert!(said.starts_with(word), "{said}");
    };
    let mut command = program.command(&["-f", "wg0"]);
    command.env("NOTIFY_SOCKET", &path);
    let (pair, daemon) = pair_of(command);
    hears("READY=1");
    let process = daemon.id().to_string();
    for limit in ["--nofile=3:4096", "--nofile=4096:4096"] {
        pair.a.host.run("prlimit", &["--pid", &process, limit]).success();
        daemon.signal(Signal::SIGUSR2);
        hears("RELOADING=1");
        hears("READY=1");
        pair.assert_a_reaches_b();
    }
}

#[test]
fn a_program_that_goes_silent_or_dies_on_the_way_leaves_the_daemon_serving_with_nothing_lost() {
    let whole = "take; say 2; ";
    // The head of a refusal with 65,535 bytes of text, of which one comes each half second.
    let drip = r"printf 'adi\003\0\0\0\0\377\377\0\0\0\0\0\0' >&0; while printf . >&0; do sleep 0.5; done";
    let cases = [
        ("silent", "exec cat > /dev/null", "has not answered within 10 seconds"),
        ("drips", &format!("take; {drip}"), "has not answered within 10 seconds"),
        ("hangs", &format!("{whole} exec cat > /dev/null"), "has not answered within 3 seconds"),
        ("hangs and drips", &format!("{whole} take; {drip}"), "has not answered within 3 seconds"),
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
                eventually("nothing is left of the other one", || (host.processes() == processes).then_some(()));
            });
        }
    });
}

#[test]
fn a_script_that_starts_the_program_must_become_it_for_what_it_starts_could_not_be_ended() {
    let program = Program::new();
    let (pair, _daemon) = pair_of(program.unconfined());
    let (before, processes) = (pair.b_seen_by_a(), pair.a.host.processes());
    let adit = Implementation::Adit.binary();
    program.replace_by_script(&format!("{} \"$@\"", adit.display()));
    let why = program.reload(&pair.a.host).expect_err("another process answers");
    assert!(why.contains("a script that starts it must do so by exec"), "{why}");
    eventually("nothing is left of the other one", || (pair.a.host.processes() == processes).then_some(()));
    pair.assert_a_reaches_b();
    pair.assert_b_reaches_a();
    program.replace_by_script(&format!("exec {} \"$@\"", adit.display()));
    program.reload(&pair.a.host).expect("the reload");
    pair.assert_b_reaches_a();
    assert_eq!(pair.b_seen_by_a().latest_handshake, before.latest_handshake, "the same session");
}

/// With few files it fails at the first step that opens one too many: which that is changes with each file more.
#[test]
fn a_program_that_fails_at_whichever_step_leaves_the_daemon_serving_with_nothing_lost() {
    let program = Program::new();
    let (pair, _daemon) = pair_of(program.unconfined());
    let (before, processes) = (pair.a_seen_by_b(), pair.a.host.processes());
    let mut failures = Vec::new();
    let adit = Implementation::Adit.binary();
    for files in 16.. {
        program.replace_by_script(&format!("ulimit -n {files}; exec {} \"$@\"", adit.display()));
        let Err(why) = program.reload(&pair.a.host) else { break };
        assert_eq!(pair.a.host.processes(), processes, "{files} files: {why}");
        pair.assert_b_reaches_a();
        assert_eq!(pair.a_seen_by_b().latest_handshake, before.latest_handshake, "{files} files: {why}");
        pair.a.status();
        failures.push((files, why));
    }
    let late = failures.iter().filter(|(_, why)| why.contains("the new program ended")).count();
    assert!(late > 2 && late < failures.len(), "{failures:#?}");
    assert_ne!(pair.a.host.processes(), processes);
    pair.assert_a_reaches_b();
    assert_eq!(pair.a_seen_by_b().latest_handshake, before.latest_handshake);
}

/// For a script: the daemon that has started it can open no file from now on.
const NO_FILES: &str = "prlimit --pid $PPID --nofile=3:4096";

/// Lets a reload by this script fail, which makes use of [`NO_FILES`]; fails the test unless nothing is lost, this
/// reason is told, and the same process serves the same session.
#[track_caller]
fn assert_serves_on_without_files(script: &str, expected: &str) {
    let program = Program::new();
    let (pair, mut daemon) = pair_of(program.unconfined());
    let (before, processes) = (pair.b_seen_by_a(), pair.a.host.processes());
    program.replace_by_script(script);
    while_busy(&pair, || {
        let why = program.reload(&pair.a.host).expect_err("nobody takes over");
        assert!(why.contains(expected), "{why}");
    });
    assert_eq!(daemon.ended(), None);
    pair.assert_b_reaches_a();
    pair.a.host.run("prlimit", &["--pid", &daemon.id().to_string(), "--nofile=4096:4096"]).success();
    assert_eq!(pair.a.host.processes(), processes);
    assert_eq!(pair.b_seen_by_a().latest_handshake, before.latest_handshake, "the same session");
    program.replace(&Implementation::Adit.binary());
    program.reload(&pair.a.host).expect("the reload");
    pair.assert_a_reaches_b();
}

#[test]
fn where_the_interface_is_cannot_be_asked_without_a_file_and_nobody_is_told_that_it_is_elsewhere() {
    let script = format!("take; {NO_FILES}; say 2; exec cat > /dev/null");
    assert_serves_on_without_files(
        &script,
        "which network namespace wg0 is in cannot be asked for: Too many open files",
    );
}

#[test]
fn a_daemon_that_can_open_no_file_when_nobody_takes_over_serves_on_with_nothing_lost() {
    // The present state is sent by then: its workers rest.
    assert_serves_on_without_files(&format!("take; say 2; take; {NO_FILES}; say 3"), "the new program refuses");
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
    program.replace_by_script("take; say 2 2 4; exec cat > /dev/null");
    let why = program.reload(&pair.a.host).expect_err("what takes over must make sense");
    assert!(why.contains("was expected"), "{why}");
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
fn a_daemon_that_may_not_be_replaced_says_so_at_once_and_serves_on() {
    let program = Program::new();
    let (pair, mut daemon) = pair_of(program.command(&["-f", "--no-reload", "wg0"]));
    let processes = pair.a.host.processes();
    for _ in 0..2 {
        let why = program.reload(&pair.a.host).expect_err("it may start no program");
        assert!(why.contains("reloads are off"), "{why}");
    }
    assert_eq!(pair.a.host.processes(), processes);
    pair.assert_a_reaches_b();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert!(pair.a.host.sockets().is_empty(), "its sockets are removed");
}

#[test]
fn a_daemon_that_may_not_be_replaced_answers_on_a_socket_that_was_handed_in_too() {
    let program = Program::new();
    let mut pair = Pair::stopped(Implementation::Adit, Implementation::Adit);
    pair.a.host.enter(|| fs::create_dir("/run/wireguard/adit")).expect("a folder");
    let listen = |name: &str| {
        let socket = pair.a.host.enter(|| UnixListener::bind(Path::new("/run/wireguard").join(name)));
        OwnedFd::from(socket.expect("a socket"))
    };
    let (uapi, asks) = (listen("wg0.sock"), listen(ASKS));
    let mut command = Command::new("sh");
    let script = "exec 3<&0 4<&1 < /dev/null > /dev/null; LISTEN_PID=$$ exec \"$0\" -f --no-reload wg0";
    command.args(["-c", script]).arg(&program.path).stdin(uapi).stdout(asks);
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "uapi:uapi");
    let mut daemon = pair.a.host.start(command);
    pair.b.start();
    PairBuilder::new(Implementation::Adit, Implementation::Adit).configure(&pair);
    let why = program.reload(&pair.a.host).expect_err("it may start no program");
    assert!(why.contains("reloads are off"), "{why}");
    pair.assert_a_reaches_b();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert_eq!(pair.a.host.sockets(), [ASKS, "wg0.sock"], "the sockets are somebody else's");
}

#[test]
fn without_a_daemon_a_reload_fails_and_says_so() {
    let node = Node::stopped(Implementation::Adit, "A");
    let program = Program::new();
    let why = program.reload(&node.host).expect_err("nobody is there");
    assert!(why.contains("runs here: see adit show interfaces"), "{why}");
}
