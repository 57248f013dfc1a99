//! `adit demo` from the outside: what it prints, and what is left of it.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use common::{Folder, NOBODY, in_mount_namespace, needs_root};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

const ADIT: &str = env!("CARGO_BIN_EXE_adit");
/// What is said where users may make no namespaces, and where the TUN device cannot be had.
const NO_NAMESPACE: &str = "user namespace, and the kernel refused";
const NO_TUN: &str = "/dev/net/tun, through which a tunnel gets its packets, cannot be opened";

#[test]
fn as_root_it_moves_data_both_ways_and_tells_the_figures_as_json() {
    needs_root();
    let output = Command::new(ADIT).args(["demo", "--seconds", "2", "--json"]).output().expect("started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let figures: Value = serde_json::from_slice(&output.stdout).expect("nothing but one JSON object");
    assert_eq!(figures["user_namespace"], false);
    check(&figures);
    assert!(errors.contains("left \u{2192} right") && errors.contains("RTT"), "progress: {errors}");
    assert!(!errors.contains('\x1b'), "a pipe is no terminal: {errors}");
}

#[test]
fn an_ordinary_user_gets_a_tunnel_or_is_told_what_to_do() {
    needs_root();
    let folder = Folder::new();
    let output = folder.as_nobody(&["demo", "--seconds", "2", "--json"]).output().expect("started");
    if an_ordinary_user_may(": <> /dev/net/tun") {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let figures: Value = serde_json::from_slice(&output.stdout).expect("nothing but one JSON object");
        assert_eq!(figures["user_namespace"], true);
        check(&figures);
    } else {
        let errors = refusal(output);
        let reason = if an_ordinary_user_may("true") { NO_TUN } else { NO_NAMESPACE };
        assert!(errors.contains(reason) && errors.contains("root"), "{errors}");
    }
}

#[test]
fn a_user_who_may_make_no_namespace_is_told_what_to_do() {
    needs_root();
    // The kernel gives no user namespace to a process in another root directory.
    let folder = Folder::new();
    fs::create_dir(folder.0.join("root")).expect("a folder");
    let script = "mount --rbind / \"$1/root\" && exec chroot --userspec=65534:65534 \"$1/root\" \"$1/adit\" demo";
    let errors = refusal(in_mount_namespace(script, &folder));
    assert!(errors.contains("user namespace") && errors.contains("run it as root"), "{errors}");
}

#[test]
fn without_the_tun_driver_it_says_so() {
    needs_root();
    let script = "mount -t tmpfs none /dev/net && exec \"$1/adit\" demo";
    let errors = refusal(in_mount_namespace(script, &Folder::new()));
    assert!(errors.contains("/dev/net/tun") && errors.contains("modprobe tun"), "{errors}");
}

#[test]
fn a_user_who_may_not_open_the_tun_device_is_told_what_to_do() {
    needs_root();
    let script = "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200 \
                  && exec chroot --userspec=65534:65534 / \"$1/adit\" demo";
    let output = in_mount_namespace(script, &Folder::new());
    let errors = refusal(output);
    // Where users may make no namespaces, that is said instead.
    let advice = if an_ordinary_user_may("true") { "chmod 666 /dev/net/tun" } else { NO_NAMESPACE };
    assert!(errors.contains(advice), "{errors}");
}

#[test]
fn interrupted_twice_it_sums_up_and_leaves_nothing_behind() {
    needs_root();
    let folder = Folder::new();
    let temporary = folder.0.join("tmp");
    fs::create_dir(&temporary).expect("a folder");
    let mut demo = Demo::start(&temporary);
    let adits = demo.adits();
    assert_eq!(adits.len(), 2);
    let hosts: BTreeSet<_> = adits.iter().filter_map(|&adit| namespace(adit)).collect();
    assert_eq!(hosts.len(), 2, "each Adit has a namespace of its own");
    assert!(!hosts.contains(&namespace(Pid::as_raw_pid(rustix::process::getpid())).expect("ours")));

    demo.signal(Signal::INT);
    demo.signal(Signal::INT);
    let output = demo.rest();
    let status = demo.process.wait().expect("waited for");
    assert!(status.success(), "{status}");
    assert!(output.contains("Interrupted") && output.contains("handshake     completed"), "{output}");

    for adit in adits {
        assert!(!Path::new(&format!("/proc/{adit}")).exists(), "{adit} still runs");
    }
    let namespaces: BTreeSet<_> = processes().filter_map(namespace).collect();
    assert!(hosts.is_disjoint(&namespaces), "a namespace still has a process in it");
    assert_eq!(fs::read_dir(&temporary).expect("read").count(), 0, "no temporary file");
    for folder in ["/run/netns", "/run/wireguard", "/sys/class/net"] {
        // What is not there has nothing in it.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(
                !["adit-left", "adit-right", "veth-left", "veth-right"].iter().any(|ours| name.starts_with(ours)),
                "{name}"
            );
        }
    }
}

#[test]
fn an_adit_that_dies_ends_the_demo_with_its_log() {
    needs_root();
    let folder = Folder::new();
    let mut demo = Demo::start(&folder.0);
    let adits = demo.adits();
    let victim = *adits.first().expect("two Adits");
    kill_process(Pid::from_raw(victim).expect("a process"), Signal::KILL).expect("killed");
    demo.rest();
    let mut errors = String::new();
    demo.process.stderr.take().expect("piped").read_to_string(&mut errors).expect("read");
    assert!(!demo.process.wait().expect("waited for").success());
    assert!(errors.contains(&format!("(process {victim}) has ended (signal: 9")), "{errors}");
    assert!(errors.contains("it has logged:\n"), "{errors}");
    for adit in adits {
        assert!(!Path::new(&format!("/proc/{adit}")).exists(), "{adit} still runs");
    }
}

#[test]
fn killed_it_takes_its_adits_along() {
    needs_root();
    let folder = Folder::new();
    let mut demo = Demo::start(&folder.0);
    let adits: Vec<_> = demo.adits().into_iter().filter_map(Pid::from_raw).collect();
    let adits: Vec<_> = adits.into_iter().map(|pid| pidfd_open(pid, PidfdFlags::empty()).expect("it runs")).collect();
    assert_eq!(adits.len(), 2);
    demo.process.kill().expect("killed");
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    for adit in &adits {
        let ended = poll(&mut [PollFd::new(adit, PollFlags::IN)], Some(&patience)).expect("polled");
        assert_eq!(ended, 1, "an Adit outlives the demo");
    }
}

/// The figures of a whole run of 2 seconds.
fn check(figures: &Value) {
    assert_eq!((&figures["seconds"], &figures["interrupted"]), (&2.into(), &false.into()), "{figures}");
    assert_eq!(figures["handshake"]["completed"], true, "{figures}");
    assert!(figures["handshake"]["first_answer_ms"].as_f64().is_some_and(|time| time > 0.0), "{figures}");
    for pings in ["idle", "loaded"] {
        let pings = &figures["ping"][pings];
        let [min, median, max] = ["min", "median", "max"].map(|name| pings["rtt_us"][name].as_f64().expect("a number"));
        assert!(0.0 < min && min <= median && median <= max, "{figures}");
        assert!(
            0 < pings["answered"].as_u64().expect("a number") && pings["answered"].as_u64() <= pings["sent"].as_u64()
        );
    }
    for way in ["left_to_right", "right_to_left"] {
        let bulk = &figures["bulk"][way];
        let [bytes, seconds, rate] =
            ["bytes", "seconds", "gigabits_per_second"].map(|name| bulk[name].as_f64().expect("a number"));
        assert!(bytes > 0.0 && seconds > 0.0, "{figures}");
        assert!((rate - bytes * 8.0 / seconds / 1e9).abs() < 1e-6, "{figures}");
        let node = &figures["nodes"][if way == "left_to_right" { "left" } else { "right" }];
        let sent = node["tx_bytes"].as_f64().expect("a number");
        assert!(sent > bytes, "WireGuard's own bytes come on top: {figures}");
        let packets = node["packets_sent"].as_f64().expect("a number");
        assert!(packets > bytes / 1420.0, "no packet is longer than the MTU: {figures}");
        assert!(node["last_handshake_unix_seconds"].as_f64().is_some_and(|time| time > 0.0), "{figures}");
    }
}

/// A demo that would run for a long time, and has shown its first line.
struct Demo {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Demo {
    fn start(temporary: &Path) -> Demo {
        let mut command = Command::new(ADIT);
        command.args(["demo", "--seconds", "600"]).env("TMPDIR", temporary).env_remove("LOG_LEVEL");
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("read");
        // On a busy machine some seconds pass before it is written.
        let is_age = |text: &str| text.split_once(" s ago").is_some_and(|(age, _)| age.parse::<u64>().is_ok());
        assert!(line.split("handshake ").skip(1).any(is_age), "{line}");
        Demo { process, output }
    }

    /// The processes that it has started.
    fn adits(&self) -> Vec<i32> {
        let parent = format!("PPid:\t{}\n", self.process.id());
        processes()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&parent))
            })
            .collect()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).expect("it is not waited for yet");
    }

    /// What it prints from now on.
    fn rest(&mut self) -> String {
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("read");
        text
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Of a test that failed midway.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether this machine lets an ordinary user do something in a user namespace with a network of its own.
fn an_ordinary_user_may(script: &str) -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
    command.current_dir("/").uid(NOBODY).gid(NOBODY);
    command.output().expect("unshare(1) of util-linux").status.success()
}

/// What a demo that did not run said.
fn refusal(output: Output) -> String {
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert!(errors.starts_with("adit: "), "{errors}");
    errors
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// What tells a process's network namespace from every other.
fn namespace(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|metadata| metadata.ino())
}
