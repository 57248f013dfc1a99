//! The units in `packaging/systemd`, under a real systemd.

use std::fs;
use std::path::Path;

use adit_tests::Implementation::Adit;
use adit_tests::{Pair, Ping, Side, Systemd, eventually};

const SERVICE: &str = "adit@wg0.service";
const SOCKET: &str = "adit@wg0.socket";
const CAP_NET_ADMIN: u64 = 1 << 12;

#[test]
fn the_first_word_to_the_socket_starts_a_service_without_root_that_is_configured_as_any() {
    let pair = pair();
    let systemd = Systemd::boot(&pair.a.host);
    systemd.run(&format!("systemctl start {SOCKET}"));
    assert_eq!(systemd.property(SOCKET, "ActiveState"), "active");
    assert_eq!(systemd.property(SERVICE, "ActiveState"), "inactive");
    assert!(pair.a.host.has_socket("wg0") && !pair.a.host.has_link("wg0"));

    assert!(systemd.run("wg show").contains("interface: wg0"));
    await_active(&systemd);
    assert_eq!(systemd.property(SERVICE, "StatusText"), "Serving wg0");
    let [process] = systemd.processes(SERVICE)[..] else { panic!("one process serves") };
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the daemon's process");
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("no {name} in\n{status}")).to_owned()
    };
    let user: u32 = value("Uid").split('\t').next().and_then(|user| user.parse().ok()).expect("a user");
    assert!((61_184..=65_519).contains(&user), "{user} is no dynamic user's number");
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&value(set), 16), Ok(CAP_NET_ADMIN), "{set}");
    }
    let shown = systemd.run("adit show wg0");
    let confinement = shown.lines().find_map(|line| line.strip_prefix("confinement: ")).expect("a line of it");
    let mut expected =
        "capabilities dropped (cap_net_admin kept), no_new_privs, landlock, seccomp, no core dumps, ".to_owned();
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("the daemon's limits");
    let locked = limits.lines().find(|line| line.starts_with("Max locked memory")).expect("a limit of locked memory");
    // A systemd that may not raise limits leaves them as they are.
    expected += if locked.contains("unlimited") { "locked memory" } else { "memory not locked (the limit is" };
    assert!(confinement.starts_with(&expected), "{confinement}\nis not\n{expected}");

    configure(&pair);
    pair.assert_a_reaches_b();
    pair.assert_b_reaches_a();
}

#[test]
fn a_reload_replaces_the_process_while_the_unit_stays_active_and_nothing_is_lost() {
    let pair = pair();
    let systemd = Systemd::boot(&pair.a.host);
    systemd.run(&format!("systemctl start {SERVICE}"));
    await_active(&systemd);
    configure(&pair);
    pair.assert_a_reaches_b();
    let before = pair.b_seen_by_a();
    let unit = || ["MainPID", "NRestarts", "ActiveEnterTimestampMonotonic"].map(|name| systemd.property(SERVICE, name));
    let (begun, mut serving) = (unit(), systemd.processes(SERVICE));
    let reload_by = |words: &str| {
        let others = systemd.processes(SERVICE);
        systemd.run(words);
        let now = eventually("one process serves, beside the first", || {
            let now = systemd.processes(SERVICE);
            (now.len() == 2 && now != others && systemd.property(SERVICE, "ActiveState") == "active").then_some(now)
        });
        assert_ne!(now, others, "{words}: another process serves");
    };
    std::thread::scope(|scope| {
        let pings = scope.spawn(|| Ping::to(Side::B.inner_v4()).count(2000, 0.002).from(&pair.a.host));
        systemd.replace("/usr/bin/adit", &Adit.binary());
        for words in ["systemctl reload adit@wg0", "adit reload wg0", "systemctl kill --kill-who=main -s USR2 adit@wg0"]
        {
            reload_by(words);
        }
        pings.join().expect("the pings").assert_all_answered();
    });
    serving.retain(|process| systemd.processes(SERVICE).contains(process));
    assert_eq!(serving.len(), 1, "the first process stays, and has handed over");
    assert_eq!(unit(), begun);
    assert_eq!(pair.b_seen_by_a().latest_handshake, before.latest_handshake, "no handshake was needed");
    let shown = systemd.run("adit show wg0");
    assert!(shown.contains("landlock (inherited), seccomp"), "{shown}");

    // What cannot take over is told, and the service goes on.
    systemd.replace("/usr/bin/adit", Path::new("/bin/false"));
    let processes = systemd.processes(SERVICE);
    let _told = systemd.try_run("systemctl reload adit@wg0").failure();
    assert_eq!(systemd.property(SERVICE, "ActiveState"), "active");
    assert_eq!(systemd.processes(SERVICE), processes);
    pair.assert_a_reaches_b();
}

#[test]
fn what_is_stopped_leaves_nothing_and_its_socket_starts_it_again() {
    let pair = pair();
    let systemd = Systemd::boot(&pair.a.host);
    systemd.run(&format!("systemctl start {SERVICE}"));
    await_active(&systemd);
    systemd.run("systemctl reload adit@wg0");
    systemd.run(&format!("systemctl stop {SERVICE}"));
    assert_eq!(systemd.property(SERVICE, "Result"), "success");
    assert!(!pair.a.host.has_link("wg0") && systemd.processes(SERVICE).is_empty());
    assert!(pair.a.host.has_socket("wg0"), "the socket is the service manager's");

    assert!(systemd.run("wg show").contains("interface: wg0"));
    await_active(&systemd);
    systemd.run(&format!("systemctl stop {SOCKET} {SERVICE}"));
    assert!(!pair.a.host.has_link("wg0") && systemd.processes(SERVICE).is_empty());
    let left = adit_tests::sockets_in(&systemd.file("/run/wireguard"));
    assert!(left.is_empty(), "{left:?} is left");
    assert_eq!(systemd.run("systemctl --failed --quiet --plain list-units 'adit*'"), "");
}

#[test]
fn a_daemon_that_is_killed_is_started_again_with_its_configuration() {
    let pair = pair();
    let systemd = Systemd::boot(&pair.a.host);
    let folder = systemd.file("/etc/adit");
    fs::create_dir(&folder).expect("a folder for the configuration");
    fs::write(folder.join("wg0.conf"), pair.a.configuration(Some(51820), &[pair.peer_b()])).expect("a configuration");
    systemd.run(&format!("systemctl start {SERVICE}"));
    await_active(&systemd);
    configure(&pair);
    pair.assert_a_reaches_b();
    // First the only process, then the one that has taken over, of which the first is told.
    for (count, is_reloaded) in [(1, false), (2, true)] {
        let [first] = systemd.processes(SERVICE)[..] else { panic!("one process serves") };
        if is_reloaded {
            systemd.run("systemctl reload adit@wg0");
        }
        let serving = systemd.processes(SERVICE).into_iter().find(|process| *process != first).unwrap_or(first);
        let process = nix::unistd::Pid::from_raw(serving.try_into().expect("a process"));
        nix::sys::signal::kill(process, nix::sys::signal::SIGKILL).expect("kill it");
        eventually("it is started again", || {
            let is_again = systemd.property(SERVICE, "NRestarts") == count.to_string();
            (is_again && systemd.property(SERVICE, "ActiveState") == "active").then_some(())
        });
        pair.a.up(&[&format!("{}/24", Side::A.inner_v4())], 1420);
        pair.assert_a_reaches_b();
    }
}

#[test]
fn a_service_in_the_background_stays_active_when_another_process_takes_over() {
    const UNIT: &str = "background.service";
    let pair = pair();
    let systemd = Systemd::boot(&pair.a.host);
    let unit = "[Service]\nType=forking\nExecStart=/usr/bin/adit wg0\n";
    fs::write(systemd.file(&format!("/run/systemd/system/{UNIT}")), unit).expect("a unit");
    systemd.run("systemctl daemon-reload");
    systemd.run(&format!("systemctl start {UNIT}"));
    configure(&pair);
    pair.assert_a_reaches_b();
    let before = systemd.processes(UNIT);
    for _ in 0..2 {
        systemd.run("adit reload wg0");
        eventually("one process serves, beside the first", || (systemd.processes(UNIT).len() == 2).then_some(()));
        pair.assert_a_reaches_b();
    }
    assert_eq!(systemd.property(UNIT, "ActiveState"), "active");
    assert!(before.len() == 1 && systemd.processes(UNIT).contains(&before[0]), "the first process stays");
    systemd.run(&format!("systemctl stop {UNIT}"));
    assert_eq!(systemd.property(UNIT, "Result"), "success");
    assert!(!pair.a.host.has_link("wg0"));
}

#[test]
fn what_brings_the_network_up_does_not_wait_for_the_name_of_an_endpoint_nor_for_itself() {
    let pair = pair();
    let systemd = Systemd::boot(&pair.a.host);
    let folder = systemd.file("/etc/adit");
    fs::create_dir(&folder).expect("a folder for the configuration");
    let peer = pair.peer_b().at("nobody-answers-for.invalid:51820");
    fs::write(folder.join("wg0.conf"), pair.a.configuration(Some(51820), &[peer])).expect("a configuration");
    let services = [
        // As what brings interfaces up, and starts this one by asking for it.
        ("networking", "Before=network-online.target", "/usr/bin/wg show wg0"),
        // As a resolver on this machine, which would answer.
        ("resolver", "Wants=network.target\nAfter=network.target", "/bin/true"),
    ];
    for (name, order, program) in services {
        let unit = format!("[Unit]\n{order}\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={program}\n");
        fs::write(systemd.file(&format!("/run/systemd/system/{name}.service")), unit).expect("a unit");
    }
    systemd.run("systemctl daemon-reload");
    systemd.run(&format!("systemctl start {SOCKET}"));
    systemd.run("systemctl start networking.service");
    eventually("it asks for the name", || (systemd.property(SERVICE, "SubState") == "start-post").then_some(()));
    systemd.run("systemctl start resolver.service");
    assert_eq!(systemd.property(SERVICE, "SubState"), "start-post", "the name has not been given up meanwhile");
}

/// Two hosts on a wire, and an Adit on B; A is the service manager's.
fn pair() -> Pair {
    let mut pair = Pair::stopped(Adit, Adit);
    pair.b.start();
    pair
}

/// Configures both, by `wg setconf`.
fn configure(pair: &Pair) {
    adit_tests::PairBuilder::new(Adit, Adit).configure(pair);
}

fn await_active(systemd: &Systemd<'_>) {
    eventually("the service is active", || (systemd.property(SERVICE, "ActiveState") == "active").then_some(()));
}
