//! The daemon goes to the background, interfaces come and go by their files. Each in a network namespace of its own.

mod common;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_device::netlink::{MAIN_TABLE, Netlink, Rule, namespace};
use adit_device::uapi::{Client, socket_path};
use common::{Folder, Scratch, adit, in_mount_namespace, interface, needs_root, output, wg};
use serde_json::Value;

const KEY: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

/// A folder with the file of an interface.
struct Files {
    folder: Scratch,
    file: PathBuf,
}

impl Files {
    fn new(name: &str, text: &str) -> Self {
        let folder = Scratch::new();
        let file = folder.join(format!("{name}.conf"));
        fs::write(&file, text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
        Self { folder, file }
    }

    fn path(&self) -> &str {
        self.file.to_str().unwrap()
    }

    /// What the hooks wrote.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// Ends the daemon of an interface, if the test has failed before it could.
struct Ended<'a>(&'a str);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(socket_path(self.0));
    }
}

/// Runs a test in a network namespace of its own; the name is for an interface.
fn in_namespace(letter: char, test: impl FnOnce(&str, Netlink) + Send) {
    needs_root();
    let namespace: OwnedFd = namespace::create().unwrap();
    let name = interface(letter);
    let _ended = Ended(&name);
    namespace::run_in(namespace.as_fd(), || test(&name, Netlink::open().unwrap())).unwrap();
}

/// Waits for the daemon's end: it closes its connections.
fn wait_for_end(mut connection: UnixStream) {
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    match connection.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn rules(netlink: &mut Netlink) -> Vec<Rule> {
    [false, true]
        .into_iter()
        .flat_map(|v6| netlink.rules(v6).unwrap())
        .map(|rule| Rule { priority: None, ..rule })
        .collect()
}

#[test]
fn the_daemon_goes_to_the_background_and_ends_with_its_interface() {
    in_namespace('d', |name, mut netlink| {
        // Were standard output or error kept open, this would not return.
        let (success, stdout, stderr) = output(adit([name]), "");
        assert!(success && stdout.is_empty(), "{stderr}");
        let connection = UnixStream::connect(socket_path(name)).unwrap();
        let index = netlink.link(name).unwrap().index;
        assert_eq!(output(wg(["set", name, "fwmark", "7"]), "").2, "");
        assert_eq!(Client::connect(name).unwrap().get().unwrap().fwmark, 7);
        let (success, _, stderr) = output(adit([name]), "");
        assert!(!success && stderr.contains("could not start"), "a second one: {stderr}");
        netlink.delete_link(index).unwrap();
        wait_for_end(connection);
        assert!(!socket_path(name).exists());
    });
}

#[test]
fn a_daemon_that_cannot_be_started_is_named_with_what_stands_in_the_way() {
    // One file beside the three that it has: enough for its libraries, and too few for a pipe.
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3>&-; ulimit -n 4; exec \"$0\" wg7", env!("CARGO_BIN_EXE_adit")]);
    let (success, _, stderr) = output(command, "");
    let expected = "in the folder /: Too many open files (os error 24); raise the limit of open files (ulimit -n";
    assert!(!success && stderr.starts_with("adit: cannot start the daemon of wg7: /"), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn the_daemon_ends_with_its_socket() {
    in_namespace('e', |name, mut netlink| {
        assert!(output(adit([name, "--threads", "1", "--no-offload", "--busy-poll", "50"]), "").0);
        let connection = UnixStream::connect(socket_path(name)).unwrap();
        fs::remove_file(socket_path(name)).unwrap();
        wait_for_end(connection);
        assert!(netlink.link(name).unwrap_err().is_not_found());
    });
}

#[test]
fn the_log_has_the_same_words_for_offloads_as_show() {
    in_namespace('o', |name, _| {
        let mut command = adit(["--foreground", name, "--threads", "1", "--log-format", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = command.spawn().unwrap();
        let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
        let started = loop {
            let line: Value = serde_json::from_str(&lines.next().expect("it starts").unwrap()).unwrap();
            if line["message"] == "started" {
                break line;
            }
        };
        let (_, shown, stderr) = output(adit(["show", name, "--json"]), "");
        let shown: Value = serde_json::from_str(&shown).expect(&stderr);
        let words = shown[name]["offloads"].as_str().expect("words");
        assert!(words.contains("udp-gso"), "{words}");
        assert_eq!(started["offloads"], words);
        fs::remove_file(socket_path(name)).unwrap();
        assert!(daemon.wait().unwrap().success());
    });
}

#[test]
fn an_interface_comes_and_goes_by_its_file() {
    in_namespace('u', |name, mut netlink| {
        let files = Files::new(
            name,
            &format!(
                "[Interface]\nPrivateKey = {KEY}\nAddress = 10.77.0.1/24, fd77::1/64\nListenPort = 5182\nMTU = 1300\n\
                 PreUp = echo PreUp %i >> FOLDER/log\nPostUp = echo PostUp >> FOLDER/log\n\
                 PreDown = echo PreDown >> FOLDER/log\nPostDown = echo PostDown >> FOLDER/log\nSaveConfig = true\n\
                 [Peer]\nPublicKey = {PEER}\nAllowedIPs = 0.0.0.0/0, ::/0, 10.77.0.2/32, 192.168.7.0/24\n\
                 Endpoint = 192.0.2.1:51820\n"
            ),
        );
        let before = rules(&mut netlink);
        fs::set_permissions(&files.file, fs::Permissions::from_mode(0o644)).unwrap();
        let (success, _, stderr) = output(adit(["up", files.path()]), "");
        assert!(success, "{stderr}");
        assert!(stderr.contains(&format!("chmod 600 {}", files.path())), "{stderr}");
        let link = netlink.link(name).unwrap();
        assert!(link.is_up() && link.mtu == 1300);
        let addresses = netlink.addresses(link.index).unwrap();
        assert!(
            ["10.77.0.1/24", "fd77::1/64"].iter().all(|net| addresses.contains(&net.parse().unwrap())),
            "{addresses:?}"
        );
        let mut routes = |table| -> Vec<String> {
            let routes = netlink.routes(table).unwrap().into_iter().filter(|route| route.ifindex == link.index);
            routes.map(|route| route.destination.to_string()).collect()
        };
        assert_eq!(routes(51820), ["0.0.0.0/0", "::/0"]);
        let main = routes(MAIN_TABLE);
        assert!(main.contains(&"192.168.7.0/24".into()) && !main.contains(&"10.77.0.2/32".into()), "{main:?}");
        assert_eq!(rules(&mut netlink).len(), before.len() + 4);
        let state = Client::connect(name).unwrap().get().unwrap();
        assert_eq!((state.listen_port, state.fwmark, state.peers.len()), (5182, 51820, 1));
        assert_eq!(files.log(), format!("PreUp {name}\nPostUp\n"));

        let (success, _, stderr) = output(adit(["up", files.path()]), "");
        assert!(
            !success && stderr.contains(&format!("exists already; if it is a tunnel, end it first: adit down {name}")),
            "{stderr}"
        );

        let (success, _, stderr) = output(adit(["down", files.path()]), "");
        assert!(success, "{stderr}");
        assert!(netlink.link(name).unwrap_err().is_not_found());
        assert_eq!(rules(&mut netlink), before);
        assert!(!socket_path(name).exists());
        assert_eq!(files.log(), format!("PreUp {name}\nPostUp\nPreDown\nPostDown\n"));
        let saved = fs::read_to_string(&files.file).unwrap();
        assert!(saved.contains("FwMark = 0xca6c\n") && saved.contains("MTU = 1300\n"), "{saved}");

        let (success, _, stderr) = output(adit(["down", files.path()]), "");
        assert!(!success && stderr.contains("is not the interface of a running"), "{stderr}");
    });
}

#[test]
fn an_ordinary_user_is_told_to_be_another_one_and_not_that_there_is_no_daemon() {
    in_namespace('y', |name, mut netlink| {
        let files = Files::new(name, "[Interface]\n");
        let program = Folder::new();
        assert!(output(adit(["up", files.path()]), "").0);
        let socket = socket_path(name);
        let denied = "Permission denied (os error 13); run this as root or as the daemon's user\n";
        for (arguments, expected) in [
            (["down", files.path()], format!("adit: the daemon of {name} cannot be asked at {}: ", socket.display())),
            (["show", name], format!("adit: no interface can be asked at {}: ", socket.display())),
            (["reload", name], format!("adit: {name} was not reloaded: /var/run/wireguard/adit/{name}.reload: ")),
        ] {
            let (success, _, stderr) = output(program.as_nobody(&arguments), "");
            assert!(!success && stderr.ends_with(&format!("{expected}{denied}")), "{stderr}");
        }
        let index = netlink.link(name).unwrap().index;
        let connection = UnixStream::connect(&socket).unwrap();
        netlink.delete_link(index).unwrap();
        wait_for_end(connection);
        let (_, _, stderr) = output(adit(["show", name]), "");
        assert!(stderr.ends_with(&format!("; no daemon of {name} runs here: see adit show interfaces\n")), "{stderr}");
        let (_, _, stderr) = output(adit(["reload", name]), "");
        assert!(stderr.ends_with(&format!("; no daemon of {name} runs here: see adit show interfaces\n")), "{stderr}");
    });
}

#[test]
fn how_to_end_an_interface_without_its_file_is_told_only_if_there_is_one() {
    in_namespace('x', |name, mut netlink| {
        let missing = format!("/nowhere/{name}.conf");
        let (success, _, stderr) = output(adit(["down", &missing]), "");
        assert!(!success && stderr.starts_with("adit: cannot read /nowhere/"), "{stderr}");
        netlink.create_veth(name, "other", None).unwrap();
        let (success, _, stderr) = output(adit(["down", &missing]), "");
        assert!(!success && stderr.contains(&format!("by: ip link delete dev {name}\n")), "{stderr}");
    });
}

#[test]
fn a_file_that_fails_at_its_last_step_leaves_nothing() {
    in_namespace('f', |name, mut netlink| {
        let peer = format!("[Peer]\nPublicKey = {PEER}\nAllowedIPs = 0.0.0.0/0\n");
        let files =
            Files::new(name, &format!("[Interface]\nPostUp = exit 3\nPostDown = echo gone > FOLDER/log\n{peer}"));
        let before = rules(&mut netlink);
        let (success, _, stderr) = output(adit(["up", files.path()]), "");
        assert!(!success && stderr.contains("PostUp command 1 of 1 failed: exit status: 3"), "{stderr}");
        assert!(netlink.link(name).unwrap_err().is_not_found());
        assert_eq!(rules(&mut netlink), before);
        assert!(netlink.routes(51820).unwrap().is_empty());
        assert!(!socket_path(name).exists());
        assert_eq!(files.log(), "gone\n");
    });
}

#[test]
fn one_that_is_interrupted_leaves_nothing() {
    in_namespace('i', |name, mut netlink| {
        let files = Files::new(name, "[Interface]\nPostUp = kill -INT $PPID\nPostDown = echo gone > FOLDER/log\n");
        let (success, _, stderr) = output(adit(["up", files.path()]), "");
        assert!(!success && stderr.contains("adit: interrupted"), "{stderr}");
        assert!(netlink.link(name).unwrap_err().is_not_found());
        assert_eq!(files.log(), "gone\n");
    });
}

#[test]
fn a_wrong_file_is_refused_before_anything_is_done() {
    in_namespace('w', |name, mut netlink| {
        for (wrong, expected) in [
            ("MTU = x", ":3:7: found \"x\", expected an MTU"),
            ("Adress = 10.0.0.1/8", ":3:1: found the key \"Adress\", expected PrivateKey, "),
        ] {
            let files = Files::new(name, &format!("[Interface]\nPreUp = touch FOLDER/log\n{wrong}\n"));
            let (success, _, stderr) = output(adit(["up", files.path()]), "");
            assert!(!success && stderr.contains(&format!("{}{expected}", files.path())), "{stderr}");
            assert!(!files.folder.join("log").exists());
        }
        assert!(netlink.link(name).unwrap_err().is_not_found());
        let missing = Path::new("/no/such/folder/wg0.conf");
        let (success, _, stderr) = output(adit(["up", missing.to_str().unwrap()]), "");
        assert!(!success && stderr.contains("cannot read /no/such/folder/wg0.conf"), "{stderr}");
    });
}

#[test]
fn what_is_inherited_must_be_there() {
    for (variable, value, expected) in [
        ("WG_TUN_FD", "999", "file descriptor 999 is not open"),
        ("WG_UAPI_FD", "x", "WG_UAPI_FD: found \"x\", expected the number of a file descriptor"),
    ] {
        let mut command = adit(["-f", "wg0"]);
        command.env(variable, value);
        let (success, _, stderr) = output(command, "");
        assert!(!success && stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn a_name_that_no_interface_can_have_is_refused() {
    let (success, _, stderr) = output(adit(["a/b"]), "");
    assert!(!success && stderr.contains("found '/' in \"a/b\", expected letters, digits"), "{stderr}");
}

#[test]
fn a_name_that_is_a_command_is_refused_before_anything_is_done() {
    let files = Files::new("show", "[Interface]\nPreUp = touch FOLDER/log\nPreDown = touch FOLDER/log\n");
    for command in ["up", "down"] {
        let (success, _, stderr) = output(adit([command, files.path()]), "");
        assert!(!success && stderr.contains("an interface cannot be called show: that is a command"), "{stderr}");
        assert!(!files.folder.join("log").exists());
    }
    for line in [&["--", "show"][..], &["-f", "show"], &["--threads", "2", "show", "wg0"]] {
        let mut command = adit([]);
        command.args(line);
        let (success, _, stderr) = output(command, "");
        assert!(!success && stderr.contains("show is a command, and no interface can have its name"), "{stderr}");
    }
}

#[test]
fn without_the_tun_device_it_is_said_what_to_do() {
    needs_root();
    let name = interface('n');
    let open =
        "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200 && exec chroot --userspec=65534:65534 /";
    for (before, advice) in [("mount -t tmpfs none /dev/net && exec", "modprobe tun"), (open, "run it as root")] {
        let script = format!("{before} \"$1/adit\" --foreground {name}");
        let output = in_mount_namespace(&script, &Folder::new());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success());
        assert!(stderr.contains("/dev/net/tun cannot be opened: ") && stderr.contains(advice), "{stderr}");
        assert_eq!(stderr.matches("os error").count(), 1, "{stderr}");
    }
}
