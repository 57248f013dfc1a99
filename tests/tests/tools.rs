//! `wg` and `wg-quick` drive the daemon, and so does what else speaks its socket's language.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_tests::Implementation::Adit;
use adit_tests::{Host, Keys, Node, Outcome, Outer, Pair, PairBuilder, Peer, Ping, Scratch, Side, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn wg_set_changes_what_it_names_and_nothing_else() {
    let pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    let before = pair.b_seen_by_a();
    let key = adit_tests::preshared_key();
    let peer = format!("peer {}", pair.b.keys.public);
    pair.a.set(&format!("{peer} persistent-keepalive 25"));
    pair.a.set_with_input(&format!("{peer} preshared-key /dev/stdin"), &key);
    pair.a.set(&format!("{peer} allowed-ips {},10.1.0.0/16", Side::B.allowed_ips()));
    pair.a.set("fwmark 7");
    let after = pair.b_seen_by_a();
    assert_eq!(after.persistent_keepalive, "25");
    assert_eq!(after.preshared_key, key);
    assert_eq!(after.allowed_ips.len(), 3);
    assert_eq!(after.endpoint, before.endpoint);
    assert_eq!(after.latest_handshake, before.latest_handshake, "the session is kept");
    pair.assert_a_reaches_b();
    assert_eq!(pair.a.status().fwmark, "0x7");
    assert_eq!(pair.a.status().listen_port, 51820);
    pair.a.set(&format!("{peer} preshared-key /dev/null"));
    assert_eq!(pair.b_seen_by_a().preshared_key, "(none)");
}

#[test]
fn wg_show_prints_every_part() {
    let pair = Pair::new(Adit, Adit);
    pair.assert_a_reaches_b();
    let part = |part: &str| pair.a.wg(&format!("show wg0 {part}")).trim().to_owned();
    let b = &pair.b.keys.public;
    assert_eq!(part("public-key"), pair.a.keys.public);
    assert_eq!(part("private-key"), pair.a.keys.private);
    assert_eq!(part("listen-port"), "51820");
    assert_eq!(part("fwmark"), "off");
    assert_eq!(part("peers"), *b);
    assert_eq!(part("preshared-keys"), format!("{b}\t(none)"));
    assert_eq!(part("endpoints"), format!("{b}\t{}", Side::B.endpoint(Outer::V4)));
    assert_eq!(part("persistent-keepalive"), format!("{b}\toff"));
    assert!(part("latest-handshakes").starts_with(&format!("{b}\t1")));
    assert_eq!(part("transfer").split('\t').count(), 3);
    let all = pair.a.wg("show");
    for words in ["interface: wg0", "listening port: 51820", "latest handshake: ", "transfer: ", " received, "] {
        assert!(all.contains(words), "{words:?} is missing in\n{all}");
    }
    assert!(!all.contains(&pair.a.keys.private), "the private key is hidden");
}

#[test]
fn five_thousand_peers_are_set_and_synced_in_one_request_each() {
    let node = Node::new(Adit, "A");
    let peer = |number| Peer::nobody(number, &format!("10.{}.{}.0/24", number / 250, number % 250));
    let set = |verb: &str, numbers: std::ops::Range<u32>| {
        let peers: Vec<Peer> = numbers.map(peer).collect();
        let configuration = node.configuration(Some(51820), &peers);
        node.try_wg(&format!("{verb} wg0 /dev/stdin"), &configuration).success();
    };
    let keys = || -> BTreeSet<String> { node.status().peers.into_iter().map(|peer| peer.public_key).collect() };
    let expected = |numbers: std::ops::Range<u32>| numbers.map(|number| peer(number).public_key).collect();
    set("setconf", 0..5000);
    assert!(keys() == expected(0..5000), "other peers after setconf");
    set("syncconf", 2500..7500);
    assert!(keys() == expected(2500..7500), "other peers after syncconf");
    set("setconf", 0..0);
    assert!(keys().is_empty());
}

#[test]
fn setconf_replaces_and_addconf_adds() {
    let node = Node::new(Adit, "A");
    let keys = [Keys::generate(), Keys::generate(), Keys::generate()];
    node.configure(Some(40000), &[Peer::new(&keys[0], "10.1.0.0/16"), Peer::new(&keys[1], "10.2.0.0/16")]);
    node.try_wg("addconf wg0 /dev/stdin", &Peer::new(&keys[2], "10.2.0.0/16").section()).success();
    assert_eq!(node.status().peers.len(), 3);
    assert_eq!(node.peer(&keys[1]).allowed_ips, [""; 0], "the prefix has moved to the new peer");
    assert_eq!(node.peer(&keys[2]).allowed_ips, ["10.2.0.0/16"]);
    node.configure(Some(40001), &[Peer::new(&keys[1], "10.3.0.0/16")]);
    assert_eq!(node.status().peers.len(), 1);
    assert_eq!(node.status().listen_port, 40001);
}

#[test]
fn a_port_that_is_taken_is_refused_and_the_old_one_kept() {
    let node = Node::new(Adit, "A");
    node.configure(Some(40000), &[]);
    let taken = node.host.enter(|| std::net::UdpSocket::bind(("0.0.0.0", 0))).expect("a port");
    let port = taken.local_addr().expect("its number").port();
    let error = node.try_wg(&format!("set wg0 listen-port {port}"), "").failure();
    assert!(error.contains("in use"), "{error}");
    assert_eq!(node.status().listen_port, 40000);
}

#[test]
fn a_refused_request_changes_nothing_and_names_its_error() {
    let node = Node::new(Adit, "A");
    let keys = Keys::generate();
    node.configure(Some(40000), &[Peer::new(&keys, "10.1.0.0/16")]);
    let before = node.status();
    let mut socket = Socket::connect(&node.host);
    for wrong in [
        "listen_port=40001\nlisten_port=70000\n",
        "listen_port=40001\nno_such_key=1\n",
        "fwmark=9\npublic_key=00\n",
        "fwmark=9\npublic_key=zz00000000000000000000000000000000000000000000000000000000000000\n",
        "replace_peers=true\nprivate_key=1234\n",
        "fwmark=9\nendpoint=10.0.0.1:1\n",
        "replace_peers=true\nallowed_ip=10.0.0.0/8\n",
        "fwmark=9\nthis line is none\n",
    ] {
        let answer = socket.ask(&format!("set=1\n{wrong}\n"));
        let code = answer.trim().strip_prefix("errno=").expect("an error number");
        assert!(code.parse::<i32>().is_ok_and(|code| code != 0), "{wrong:?} is answered by {answer:?}");
        assert_eq!(node.status(), before, "after {wrong:?}");
    }
    assert_eq!(socket.ask("set=1\nfwmark=9\n\n"), "errno=0\n\n", "the same connection still works");
}

#[test]
fn requests_are_answered_in_their_order_on_one_connection() {
    let node = Node::new(Adit, "A");
    let mut socket = Socket::connect(&node.host);
    socket.send("set=1\nlisten_port=40000\n\nget=1\n\nset=1\nfwmark=9\n\nget=1\n\n");
    assert_eq!(socket.receive(), "errno=0\n\n");
    let first = socket.receive();
    assert!(first.contains("listen_port=40000\n") && !first.contains("fwmark=9"), "{first}");
    assert_eq!(socket.receive(), "errno=0\n\n");
    assert!(socket.receive().contains("fwmark=9\n"));
}

#[test]
fn clients_that_say_nothing_or_half_hold_up_nobody() {
    let node = Node::new(Adit, "A");
    let mut waiting: Vec<Socket> = (0..40).map(|_| Socket::connect(&node.host)).collect();
    for socket in &mut waiting[..20] {
        socket.send("set=1\nlisten_port=4000");
    }
    node.configure(Some(51820), &[]);
    assert_eq!(node.status().listen_port, 51820);
    waiting[0].send("0\n\n");
    assert_eq!(waiting[0].receive(), "errno=0\n\n");
    assert_eq!(node.status().listen_port, 40000);
    assert!(waiting[39].ask("get=1\n\n").ends_with("errno=0\n\n"));
}

#[test]
fn the_socket_is_for_its_owner_only() {
    let node = Node::new(Adit, "A");
    let mode = node.host.enter(|| fs::metadata("/run/wireguard/wg0.sock").expect("the socket").permissions().mode());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn wg_quick_routes_everything_through_a_default_route() {
    let pair = with_partner_up();
    pair.b.host.ip("address add 203.0.113.1/32 dev lo");
    pair.b.host.ip("address add 10.5.5.5/32 dev lo");
    pair.a.host.ip("route add default via 10.0.0.2");
    let quick = Quick::new(
        &pair.a.host,
        &format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}/24\nTable = auto\nMTU = 1400\n\
             PostUp = ip address add 10.44.0.1/32 dev %i\nPreDown = ip address delete 10.44.0.1/32 dev %i\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 10.5.5.5:51820\n",
            pair.a.keys.private,
            Side::A.inner_v4(),
            pair.b.keys.public
        ),
    );
    quick.run("up").success();
    Ping::to("203.0.113.1".parse().expect("an address")).from(&pair.a.host).assert_all_answered();
    assert_ne!(pair.a.status().fwmark, "off");
    assert!(pair.a.host.ip("address show dev wg0").contains("10.44.0.1/32"), "PostUp has run");
    assert!(pair.a.host.ip("link show dev wg0").contains("mtu 1400"));
    quick.run("down").success();
    quick.assert_gone();
    assert!(!pair.a.host.ip("rule show").contains("51820"), "no rule is left");
}

#[test]
fn wg_quick_saves_what_has_changed() {
    let pair = with_partner_up();
    let interface = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = {}/24\nSaveConfig = true\n",
        pair.a.keys.private,
        Side::A.inner_v4()
    );
    let quick = Quick::new(&pair.a.host, &(interface + &pair.peer_b().section()));
    quick.run("up").success();
    pair.assert_a_reaches_b();
    let other = Keys::generate();
    pair.a.set(&format!("peer {} allowed-ips 10.9.0.0/16", other.public));
    quick.run("save").success();
    assert!(quick.text().contains(&other.public), "{}", quick.text());
    pair.a.set(&format!("peer {} persistent-keepalive 33", other.public));
    quick.run("down").success();
    quick.assert_gone();
    let saved = quick.text();
    assert!(saved.contains("PersistentKeepalive = 33") && saved.contains(&pair.b.keys.public), "{saved}");
    quick.run("up").success();
    assert_eq!(pair.a.peer(&other).allowed_ips, ["10.9.0.0/16"]);
    pair.assert_a_reaches_b();
    quick.run("down").success();
    quick.assert_gone();
}

#[test]
fn adit_up_and_down_do_without_wg_quick() {
    let pair = with_partner_up();
    let interface = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = {}/24, {}/64\nMTU = 1380\n\
         PostUp = ip address add 10.44.0.1/32 dev %i\n",
        pair.a.keys.private,
        Side::A.inner_v4(),
        Side::A.inner_v6()
    );
    let peer = Peer { allowed_ips: format!("{},10.9.0.0/16", Side::B.allowed_ips()), ..pair.peer_b() };
    let quick = Quick::new(&pair.a.host, &(interface + &peer.section()));
    let adit = |verb: &str| {
        let mut command = Command::new(Adit.binary());
        command.arg(verb).arg(quick.file());
        pair.a.host.complete(command, "")
    };
    adit("up").success();
    pair.assert_a_reaches_b();
    assert!(pair.a.host.ip("link show dev wg0").contains("mtu 1380"));
    assert!(pair.a.host.ip("address show dev wg0").contains("10.44.0.1/32"), "PostUp has run");
    assert!(pair.a.host.ip("route show dev wg0").contains("10.9.0.0/16"));
    adit("up").failure();
    pair.assert_a_reaches_b();
    adit("down").success();
    quick.assert_gone();
}

#[test]
fn what_goes_down_comes_up_again_at_once_with_the_same_port() {
    let host = Host::new("A");
    let quick = Quick::new(&host, "[Interface]\nListenPort = 51820\n");
    let adit = |verb: &str, what: &Path| {
        let mut command = Command::new(Adit.binary());
        command.arg(verb).arg(what);
        host.complete(command, "")
    };
    for _ in 0..15 {
        adit("up", &quick.file()).success();
        adit("reload", Path::new("wg0")).success();
        adit("down", &quick.file()).success();
    }
    for _ in 0..15 {
        quick.run("up").success();
        quick.run("down").success();
    }
}

#[test]
fn adit_down_cleans_up_once_after_a_daemon_that_ended_in_another_way() {
    let host = Host::new("A");
    let peer = Peer::new(&Keys::generate(), "0.0.0.0/0");
    let interface = "[Interface]\nAddress = 10.0.0.1/24\nPostDown = ip address add 10.44.0.1/32 dev lo\n";
    let quick = Quick::new(&host, &format!("{interface}{}", peer.section()));
    let adit = |verb: &str| {
        let mut command = Command::new(Adit.binary());
        command.arg(verb).arg(quick.file());
        host.complete(command, "")
    };
    let signal = |signal| {
        for process in host.processes() {
            kill(Pid::from_raw(process as i32), signal).expect("end the daemon");
        }
    };
    let ways: [(&str, &dyn Fn()); 3] = [
        ("SIGKILL", &|| signal(Signal::SIGKILL)),
        ("SIGTERM", &|| signal(Signal::SIGTERM)),
        ("ip link delete", &|| drop(host.ip("link delete wg0"))),
    ];
    for (way, end) in ways {
        adit("up").success();
        assert!(host.ip("rule show").contains("lookup 51820"));
        assert_eq!(host.run("wg", &["show", "interfaces"]).success(), "wg0\n", "{way}");
        end();
        // Its other threads may live a little longer than the one by which the process is known.
        let listens = || UnixStream::connect("/run/wireguard/wg0.sock").is_ok();
        eventually("the daemon is gone", || (!host.has_link("wg0") && !host.enter(listens)).then_some(()));
        let error = adit("down").failure();
        assert!(error.contains("wg0 is not the interface of a running WireGuard daemon"), "{way}: {error}");
        assert!(!host.ip("rule show").contains("51820"), "{way}: {error}");
        assert!(host.sockets().is_empty(), "{way}: {error}");
        host.ip("address delete 10.44.0.1/32 dev lo");
        adit("down").failure();
        assert!(!host.ip("address show dev lo").contains("10.44.0.1"), "{way}: PostDown runs once");
    }
    adit("up").success();
    adit("down").success();
    host.ip("address delete 10.44.0.1/32 dev lo");
    adit("down").failure();
    assert!(!host.ip("address show dev lo").contains("10.44.0.1"), "all was cleaned up");
    host.enter(|| assert!(!Path::new("/run/wireguard/wg0.up").exists()));
}

#[test]
fn adit_up_says_which_port_or_route_is_in_the_way() {
    let host = Host::new("A");
    let adit = |verb: &str, quick: &Quick<'_>| {
        let mut command = Command::new(Adit.binary());
        command.arg(verb).arg(quick.file());
        host.complete(command, "")
    };
    let taken = host.enter(|| std::net::UdpSocket::bind(("0.0.0.0", 0))).expect("a port");
    let port = taken.local_addr().expect("its number").port();
    let quick = Quick::new(&host, &format!("[Interface]\nListenPort = {port}\n"));
    let error = adit("up", &quick).failure();
    assert!(error.contains(&format!("UDP port {port} of ListenPort is in use by another program")), "{error}");
    quick.assert_gone();

    host.ip("link set lo up");
    host.ip("route add 10.9.0.0/16 dev lo");
    let peer = Peer::new(&Keys::generate(), "10.9.0.0/16");
    let quick = Quick::new(&host, &format!("[Interface]\n{}", peer.section()));
    let error = adit("up", &quick).failure();
    assert!(error.contains("there is another route to 10.9.0.0/16 in table 254"), "{error}");
    quick.assert_gone();
}

#[test]
fn adit_up_leaves_out_ipv6_addresses_where_the_mtu_is_below_that_of_ipv6() {
    let host = Host::new("A");
    let quick = Quick::new(&host, "[Interface]\nAddress = 10.0.0.1/24, fd00::1/64\nMTU = 1200\n");
    for is_adit in [false, true] {
        let run = |verb: &str| {
            if !is_adit {
                return quick.run(verb);
            }
            let mut command = Command::new(Adit.binary());
            command.arg(verb).arg(quick.file());
            host.complete(command, "")
        };
        run("up").success();
        assert!(host.ip("link show dev wg0").contains("mtu 1200"));
        let addresses = host.ip("address show dev wg0");
        assert!(addresses.contains("10.0.0.1/24") && !addresses.contains("fd00::"), "adit {is_adit}: {addresses}");
        run("down").success();
        quick.assert_gone();
    }
}

#[test]
fn adit_down_ends_a_tunnel_though_a_rule_for_its_table_is_somebody_elses() {
    let host = Host::new("A");
    let peer = Peer::new(&Keys::generate(), "0.0.0.0/0");
    let quick = Quick::new(&host, &format!("[Interface]\nAddress = 10.0.0.1/24\n{}", peer.section()));
    let adit = |verb: &str| {
        let mut command = Command::new(Adit.binary());
        command.arg(verb).arg(quick.file());
        host.complete(command, "")
    };
    adit("up").success();
    host.ip("rule add fwmark 0x100/0xff00 lookup 51820");
    adit("down").success();
    quick.assert_gone();
    assert!(!host.ip("rule show").contains("51820"), "as wg-quick leaves it");
}

#[test]
fn adit_up_gives_resolvconf_the_name_servers_and_down_takes_them_away() {
    let host = Host::new("A");
    let folder = Scratch::new();
    let after = folder.join("after");
    let commands = format!("PreUp = true\nPostDown = : > {}\n", after.display());
    let quick = Quick::new(&host, &format!("[Interface]\nDNS = 10.0.0.1, corp.example\nDNS = fd00::1\n{commands}"));
    let resolvconf = quick.folder.join("resolvconf");
    let adit = |verb: &str, folders: &str| {
        let mut command = Command::new(Adit.binary());
        command.arg(verb).arg(quick.file()).env("PATH", folders);
        host.complete(command, "")
    };
    let error = adit("up", "/nonexistent").failure();
    assert!(error.contains("cannot set the name servers of DNS: there is no resolvconf in PATH"), "{error}");
    assert!(!after.exists(), "nothing was begun");

    let folders = format!("{}:{}", quick.folder.display(), std::env::var("PATH").expect("folders of programs"));
    let install = |script: &str| {
        fs::write(&resolvconf, format!("#!/bin/sh\n{script}\n")).expect("write the script");
        fs::set_permissions(&resolvconf, fs::Permissions::from_mode(0o755)).expect("make it executable");
    };
    install("exit 3");
    let error = adit("up", &folders).failure();
    assert!(error.contains("cannot set the name servers of DNS: resolvconf -a: exit status: 3"), "{error}");
    fs::remove_file(&after).expect("PostDown has run");
    quick.assert_gone();

    install("{ echo \"$@\"; cat; } >> \"$0.told\"");
    let told = || fs::read_to_string(quick.folder.join("resolvconf.told")).expect("what it was told");
    adit("up", &folders).success();
    let set = "-a wg0 -m 0 -x\nnameserver 10.0.0.1\nnameserver fd00::1\nsearch corp.example\n";
    assert_eq!(told(), set);
    adit("down", &folders).success();
    assert_eq!(told(), format!("{set}-d wg0 -f\n"));
    quick.assert_gone();
    assert!(after.exists(), "PostDown has run");
}

/// A without a daemon, which wg-quick starts, and B waiting for it.
fn with_partner_up() -> Pair {
    let mut pair = Pair::stopped(Adit, Adit);
    pair.b.start();
    PairBuilder::new(Adit, Adit).only_a_begins().configure_b(&pair);
    pair
}

/// `wg-quick` with a configuration of its own for `wg0`.
struct Quick<'a> {
    host: &'a Host,
    folder: Scratch,
}

impl<'a> Quick<'a> {
    fn new(host: &'a Host, configuration: &str) -> Self {
        let quick = Self { host, folder: Scratch::new() };
        fs::write(quick.file(), configuration).expect("write the configuration");
        fs::set_permissions(quick.file(), fs::Permissions::from_mode(0o600)).expect("hide the configuration");
        quick
    }

    fn run(&self, verb: &str) -> Outcome {
        let binary = Adit.binary();
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let own = binary.parent().expect("the daemon's folder").to_owned();
        let path = std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&folders))).expect("a path");
        let mut command = Command::new("wg-quick");
        command.arg(verb).arg(self.file()).env("PATH", path).env("WG_SUDO", "1");
        command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", binary.file_name().expect("the daemon's name"));
        self.host.complete(command, "")
    }

    fn assert_gone(&self) {
        assert!(!self.host.has_link("wg0"));
        eventually("the daemon ends", || self.host.processes().is_empty().then_some(()));
        assert!(!self.host.has_socket("wg0"));
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).expect("the configuration")
    }

    fn file(&self) -> PathBuf {
        self.folder.join("wg0.conf")
    }
}

/// A connection to the daemon of `wg0`.
struct Socket(UnixStream);

impl Socket {
    fn connect(host: &Host) -> Self {
        let stream = host.enter(|| UnixStream::connect("/run/wireguard/wg0.sock")).expect("the daemon's socket");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
        Self(stream)
    }

    fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.receive()
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("send a request");
    }

    /// One answer: it ends in an empty line.
    fn receive(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\n\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|error| panic!("no answer: {error}"));
            text.extend_from_slice(&byte);
        }
        String::from_utf8(text).expect("an answer in UTF-8")
    }
}
