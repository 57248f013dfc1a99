//! What the daemon was told when it started, and since, holds after any number of reloads.

use std::fs;

use adit_tests::{Host, Implementation, Ping, Side, eventually};

use super::{Program, pair, pair_in_the_background, pair_of};

/// Each way to be confined less, and what `adit show` says of it after a reload.
const SWITCHES: [(&[&str], &str); 7] = [
    (&[], "landlock (inherited), seccomp"),
    (&["--keep-capabilities"], "capabilities kept"),
    (&["--allow-new-privileges", "--no-seccomp", "--no-landlock"], "new privileges possible"),
    (&["--no-seccomp"], "landlock (inherited), no seccomp"),
    (&["--no-landlock"], "no landlock, seccomp"),
    (&["--allow-core-dumps"], "core dumps possible"),
    (&["--no-mlock"], "memory not locked"),
];

#[test]
fn with_any_part_of_the_confinement_turned_off_one_reload_can_follow_another() {
    let adit = Implementation::Adit.binary();
    for (switches, expected) in SWITCHES {
        let program = Program::new();
        let (pair, _daemon) = pair_of(program.command(&[&["-f"], switches, &["wg0"]].concat()));
        let before = pair.b_seen_by_a();
        for number in 1..=3 {
            program.reload(&pair.a.host).unwrap_or_else(|why| panic!("{switches:?}, reload {number}: {why}"));
            pair.assert_b_reaches_a();
        }
        assert_eq!(pair.b_seen_by_a().latest_handshake, before.latest_handshake, "{switches:?}: the same session");
        let shown = pair.a.host.run(adit.to_str().expect("a path in UTF-8"), &["show", "wg0"]).success();
        assert!(shown.contains(expected), "{switches:?}: {expected:?} is missing in\n{shown}");
    }
}

#[test]
fn the_mark_of_packets_holds_after_a_reload_and_for_sockets_that_are_opened_then() {
    let program = Program::new();
    let (pair, _daemon) = pair(&program);
    pair.a.set("fwmark 0x2a");
    pair.a.host.ip("rule add fwmark 0x2a prohibit");
    assert!(!pair.a_reaches_b(), "packets have the mark");
    program.reload(&pair.a.host).expect("a reload");
    assert_eq!(pair.a.wg("show wg0 fwmark").trim(), "0x2a");
    pair.a.set("listen-port 0");
    assert!(!pair.a_reaches_b(), "those of the new sockets too");
    pair.a.set("fwmark 0");
    pair.assert_a_reaches_b();
}

/// How often the workers of the daemons on this host have gone to sleep.
fn sleeps_of_workers(host: &Host) -> u64 {
    let tasks = host.processes().into_iter().flat_map(|process| fs::read_dir(format!("/proc/{process}/task")));
    let texts = tasks.flatten().filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let workers = texts.filter(|text| text.starts_with("Name:\tworker"));
    let counts = workers.map(|text| {
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.expect("a count").trim().parse::<u64>().expect("a number")
    });
    counts.sum()
}

#[test]
fn workers_that_are_told_to_look_for_packets_do_not_sleep_between_them_after_a_reload_either() {
    let program = Program::new();
    let pair = pair_in_the_background(&program, &["--busy-poll", "1000000", "wg0"]);
    let pings = Ping::to(Side::B.inner_v4()).count(100, 0.005);
    for is_reloaded in [false, true] {
        let before = [&pair.a, &pair.b].map(|node| sleeps_of_workers(&node.host));
        pings.from(&pair.a.host).assert_all_answered();
        let after = [&pair.a, &pair.b].map(|node| sleeps_of_workers(&node.host));
        let [a, b] = [0, 1].map(|node: usize| after[node] - before[node]);
        assert!(b >= 20 && a <= b / 10, "reloaded: {is_reloaded}; A's workers slept {a} times, B's {b} times");
        if !is_reloaded {
            program.reload(&pair.a.host).expect("a reload");
            eventually("who handed over ends", || (pair.a.host.processes().len() == 1).then_some(()));
            pair.assert_a_reaches_b();
        }
    }
}
