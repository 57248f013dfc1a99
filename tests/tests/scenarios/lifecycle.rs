//! How a daemon comes, goes and is told to go.

use std::fs;
use std::process::Command;

use adit_tests::{Daemon, Implementation, Node, Pair, PairBuilder, Scratch, Side, eventually};
use nix::sys::signal::Signal;

pub(crate) fn starts_and_is_listed(a: Implementation) {
    let node = Node::new(a, "A");
    assert_eq!(node.wg("show interfaces").trim(), "wg0");
    assert!(node.host.has_link("wg0"));
    assert_eq!(node.host.ip("-brief link show wg0").split_whitespace().next(), Some("wg0"));
    assert_eq!(node.status().peers, []);
}

pub(crate) fn sigterm_cleans_up(a: Implementation) {
    ends_and_leaves_nothing(a, |node| node.daemon().signal(Signal::SIGTERM));
}

pub(crate) fn sigint_cleans_up(a: Implementation) {
    ends_and_leaves_nothing(a, |node| node.daemon().signal(Signal::SIGINT));
}

pub(crate) fn link_delete_ends_daemon(a: Implementation) {
    ends_and_leaves_nothing(a, |node| {
        node.host.ip("link delete wg0");
    });
}

pub(crate) fn socket_delete_ends_daemon(a: Implementation) {
    ends_and_leaves_nothing(a, |node| {
        node.host.enter(|| fs::remove_file("/run/wireguard/wg0.sock")).expect("remove the socket");
    });
}

pub(crate) fn restart_over_stale_socket(a: Implementation) {
    let mut node = Node::new(a, "A");
    node.daemon().signal(Signal::SIGKILL);
    node.daemon().wait();
    assert!(node.host.has_socket("wg0"), "a killed daemon leaves its socket, or this test tries nothing");
    node.start();
    node.configure(Some(51820), &[]);
    assert_eq!(node.status().listen_port, 51820);
}

pub(crate) fn second_daemon_same_name_refused(a: Implementation) {
    let mut node = Node::new(a, "A");
    node.configure(Some(51820), &[]);
    let mut second = Daemon::start_unchecked(a, &node.host, "wg0");
    assert!(!second.wait().success(), "the second daemon ends without an error");
    assert_eq!(node.daemon().ended(), None, "the first daemon goes on");
    assert_eq!(node.status().listen_port, 51820, "the first daemon is still the one that answers");
    assert!(node.host.has_link("wg0"));
}

pub(crate) fn link_down_up(a: Implementation, b: Implementation) {
    let pair = Pair::new(a, b);
    pair.assert_a_reaches_b();
    pair.a.host.ip("link set wg0 down");
    assert!(!pair.a.wg("show wg0 listen-port").is_empty(), "a daemon whose link is down still answers");
    pair.a.host.ip("link set wg0 up");
    eventually("A reaches B again", || pair.a_reaches_b().then_some(()));
    pair.assert_b_reaches_a();
}

pub(crate) fn wg_quick_up_down(a: Implementation, b: Implementation) {
    let mut pair = Pair::stopped(a, b);
    pair.b.start();
    let configuration = format!(
        "{}\n[Interface]\nAddress = {}/24, {}/64\nMTU = 1380\n",
        pair.a.configuration(Some(51820), &[pair.peer_b()]),
        Side::A.inner_v4(),
        Side::A.inner_v6(),
    );
    let folder = Scratch::new();
    let file = folder.join("wg0.conf");
    fs::write(&file, configuration).expect("write the configuration");
    let quick = |verb: &str| {
        let binary = a.binary();
        let mut path = binary.parent().expect("the daemon's folder").as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("wg-quick");
        command.arg(verb).arg(&file).env("PATH", path).env("WG_SUDO", "1");
        command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", binary.file_name().expect("the daemon's name"));
        pair.a.host.complete(command, "").success();
    };

    PairBuilder::new(a, b).configure_b(&pair);
    quick("up");
    assert_eq!(pair.a.host.processes().len(), 1, "the daemon went to the background");
    assert!(pair.a.host.ip("link show wg0").contains("mtu 1380"));
    pair.assert_a_reaches_b();
    quick("down");
    assert!(!pair.a.host.has_link("wg0"));
    eventually("the daemon ends", || pair.a.host.processes().is_empty().then_some(()));
    assert!(!pair.a.host.has_socket("wg0"));
    quick("up");
    pair.assert_a_reaches_b();
    quick("down");
}

fn ends_and_leaves_nothing(a: Implementation, end: impl FnOnce(&mut Node)) {
    let mut node = Node::new(a, "A");
    node.configure(Some(51820), &[]);
    node.up(&["192.168.7.1/24"], 1420);
    end(&mut node);
    node.daemon().wait();
    assert!(!node.host.has_link("wg0"), "the interface is left");
    assert!(!node.host.has_socket("wg0"), "the socket is left");
}
