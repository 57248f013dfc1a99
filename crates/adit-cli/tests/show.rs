//! `adit show` writes what `wg show` writes.

mod common;

use std::fs;
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::{PresharedKey, PrivateKey, PublicKey};
use adit_device::config::{DeviceState, DeviceUpdate, Facts, PeerState};
use adit_device::uapi::{Handler, Listener, Server, SetError, socket_path};
use common::{Folder, adit, interface, needs_root, output, wg};
use mio::{Events, Poll, Token, Waker};

/// An interface that is nothing but its state.
struct Still(DeviceState);

impl Handler for Still {
    fn get(&mut self) -> DeviceState {
        self.0.clone()
    }

    fn set(&mut self, _: DeviceUpdate) -> Result<(), SetError> {
        Err(SetError::invalid("it stays as it is"))
    }
}

/// A socket where the tools look for it, served until this is dropped.
struct Served {
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn new(name: &str, state: DeviceState) -> Self {
        let mut server = Server::new(Listener::bind(name).unwrap());
        let mut poll = Poll::new().unwrap();
        server.register(poll.registry(), 1..100).unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        let thread = thread::spawn(move || {
            let mut events = Events::with_capacity(16);
            let mut handler = Still(state);
            loop {
                poll.poll(&mut events, None).unwrap();
                for event in &events {
                    if event.token() == Token(0) {
                        return;
                    }
                    let _ = server.handle(event, &mut handler);
                }
            }
        });
        Self { waker, thread: Some(thread) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.waker.wake().unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn busy() -> DeviceState {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let peer = |number: u8| PeerState::new(PublicKey::from_bytes([number; 32]));
    // Far enough from a change of its last unit to be told the same twice.
    let old = now - Duration::from_secs(3 * 86_400);
    let peers = vec![
        peer(1),
        PeerState {
            preshared_key: Some(Box::new(PresharedKey::from_bytes([5; 32]))),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            persistent_keepalive: 25,
            last_handshake: Some(old - Duration::from_secs(400 * 86_400)),
            rx_bytes: 1_234_567,
            tx_bytes: 98_765_432_109,
            allowed_ips: ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/48"].map(|net| net.parse().unwrap()).to_vec(),
            ..peer(2)
        },
        PeerState {
            endpoint: Some("[2001:db8::1]:1".parse().unwrap()),
            last_handshake: Some(old),
            persistent_keepalive: 65_535,
            tx_bytes: 148,
            allowed_ips: vec!["::/0".parse().unwrap()],
            ..peer(3)
        },
    ];
    DeviceState {
        private_key: Some(Box::new(PrivateKey::from_bytes([7; 32]))),
        listen_port: 51820,
        fwmark: 0xca6c,
        peers,
        facts: Facts {
            drops: vec![("no peer for it".into(), 4)],
            offloads: "tso4".into(),
            threads: 2,
            ..Facts::default()
        },
    }
}

/// Without what counts seconds, of which one may pass between two programs.
fn without_seconds(text: &str) -> String {
    text.lines()
        .map(|line| {
            if line.contains("latest handshake:") { line.split(", ").take(2).collect() } else { line.to_owned() + "\n" }
        })
        .collect()
}

/// Without what only Adit tells, which comes behind all that `wg` tells.
fn of_wg(text: &str) -> &str {
    text.find("\ndropped: ").map_or(text, |end| &text[..end])
}

#[test]
fn what_was_dropped_and_what_was_given_up_stand_behind_what_wg_tells() {
    let name = interface('d');
    let mut state = busy();
    state.facts.drops = vec![("bad-tag".into(), 3), ("replay".into(), 1)];
    state.facts.confinement = "no core dumps".into();
    let _served = Served::new(&name, state);
    let (succeeded, shown, _) = output(adit(["show", &name]), "");
    assert!(succeeded);
    assert!(shown.ends_with("\n\ndropped: 3 bad-tag, 1 replay\n\nconfinement: no core dumps\n"), "{shown}");
}

#[test]
fn every_form_is_that_of_wg() {
    needs_root();
    let (name, bare) = (interface('s'), interface('t'));
    let _busy = Served::new(&name, busy());
    let _bare = Served::new(&bare, DeviceState::default());
    for which in [&name, &bare] {
        for colors in ["never", "auto"] {
            let [ours, theirs] = [adit(["show", which]), wg(["show", which])].map(|mut command| {
                command.env("WG_COLOR_MODE", colors).env("WG_HIDE_KEYS", "never");
                output(command, "")
            });
            assert!(ours.0, "{}", ours.2);
            assert_eq!(without_seconds(of_wg(&ours.1)), without_seconds(&theirs.1));
        }
        for field in [
            "public-key",
            "private-key",
            "listen-port",
            "fwmark",
            "peers",
            "preshared-keys",
            "endpoints",
            "allowed-ips",
            "latest-handshakes",
            "transfer",
            "persistent-keepalive",
            "dump",
        ] {
            let [ours, theirs] =
                [adit(["show", which, field]), wg(["show", which, field])].map(|command| output(command, ""));
            assert_eq!(ours, theirs, "{field}");
            assert!(ours.0);
            // Of all, each line begins with the interface. (Not compared: `wg` gives up when another interface goes.)
            let (_, all, _) = output(adit(["show", "all", field]), "");
            let prefix = format!("{which}\t");
            let lines: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix(prefix.as_str())).collect();
            assert_eq!(lines, ours.1.lines().collect::<Vec<_>>(), "all {field}");
        }
    }
    let (_, names, _) = output(adit(["show", "interfaces"]), "");
    assert!(names.split_whitespace().any(|each| each == name), "{names}");
}

#[test]
fn secret_keys_are_shown_to_nobody_who_did_not_ask() {
    needs_root();
    let name = interface('k');
    let state = busy();
    let _served = Served::new(&name, state.clone());
    let secrets = [state.private_key.unwrap().to_base64(), state.peers[1].preshared_key.as_ref().unwrap().to_base64()];
    for format in ["--json", "--log-format=text"] {
        let (success, text, _) = output(adit(["show", &name, format]), "");
        assert!(success && !secrets.iter().any(|secret| text.contains(secret.as_str())), "{text}");
        let mut command = adit(["show", &name, format]);
        command.env("WG_HIDE_KEYS", "never");
        let (_, text, _) = output(command, "");
        assert!(secrets.iter().all(|secret| text.contains(secret.as_str())), "{text}");
    }
}

#[test]
fn json_has_what_only_adit_knows_too() {
    needs_root();
    let name = interface('j');
    let _served = Served::new(&name, busy());
    let (_, text, _) = output(adit(["show", &name, "--json"]), "");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let interface = &json[&name];
    assert_eq!((&interface["listenPort"], &interface["threads"]), (&51820.into(), &2.into()));
    assert_eq!(interface["drops"]["no peer for it"], 4);
    let peer = &interface["peers"][PublicKey::from_bytes([2; 32]).to_base64()];
    assert_eq!((&peer["transferRx"], &peer["allowedIps"][1]), (&1_234_567.into(), &"192.0.2.7/32".into()));
    assert_eq!((&peer["persistentKeepalive"], &peer["hasPresharedKey"]), (&25.into(), &true.into()));
}

#[test]
fn an_interface_that_does_not_answer_is_named() {
    let (success, stdout, stderr) = output(adit(["show", "no-such-one"]), "");
    assert!(!success && stdout.is_empty());
    assert!(stderr.contains("/var/run/wireguard/no-such-one.sock"), "{stderr}");
    let (success, _, stderr) = output(adit(["show", "../etc"]), "");
    assert!(!success && stderr.contains("expected letters, digits"), "{stderr}");
}

#[test]
fn an_ordinary_user_is_told_which_interfaces_cannot_be_asked() {
    needs_root();
    let name = interface('p');
    let _served = Served::new(&name, busy());
    let folder = Folder::new();
    for arguments in [&["show"][..], &["show", "all", "dump"]] {
        let (success, stdout, stderr) = output(folder.as_nobody(arguments), "");
        assert!(!success && stdout.is_empty(), "{arguments:?}: {stdout}");
        let line = stderr.lines().find(|line| line.contains(&name)).expect("a line about it");
        assert!(line.contains("WARN") && line.contains("Permission denied"), "{line}");
        assert!(stderr.contains("interfaces could not be asked"), "{stderr}");
    }
    let (success, stdout, _) = output(folder.as_nobody(&["show", "--json"]), "");
    assert_eq!((success, stdout.as_str()), (false, "{}\n"));
    let (success, stdout, _) = output(folder.as_nobody(&["show", "interfaces"]), "");
    assert!(success && stdout.split_whitespace().any(|each| each == name), "{stdout}");
}

#[test]
fn a_socket_that_was_left_behind_is_no_interface() {
    needs_root();
    let name = interface('l');
    let served = Served::new(&interface('m'), busy());
    let path = socket_path(&name);
    drop(UnixListener::bind(&path).expect("a socket"));
    let (success, stdout, stderr) = output(adit(["show", "interfaces"]), "");
    fs::remove_file(&path).expect("it is still there");
    drop(served);
    assert!(success && !stdout.split_whitespace().any(|each| each == name), "{stdout}{stderr}");
}
