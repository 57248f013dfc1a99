//! `blocking_loop.rs` at both ends of a tunnel, each in a network namespace of its own.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use adit::PrivateKey;
use adit_device::netlink::{Netlink, namespace};
use getrandom::SysRng;
use rand_core::UnwrapErr;

mod common;

/// Long enough for a second initiation, should the first one come before the link is ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace without a name, which vanishes with the test.
struct Host(OwnedFd);

impl Host {
    fn new() -> Self {
        match namespace::create() {
            Ok(namespace) => Self(namespace),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                panic!("this test makes network namespaces and TUN devices: run it as root ({error})")
            }
            Err(error) => panic!("cannot make a network namespace: {error}"),
        }
    }

    fn netlink(&self) -> Netlink {
        Netlink::open_in(self.0.as_fd()).expect("netlink")
    }

    /// Sets up this end of the cable between the hosts.
    fn plug_in(&self, link: &str, address: &str) {
        let mut netlink = self.netlink();
        let link = netlink.link(link).expect("the cable");
        netlink.add_address(link.index, address.parse().expect("an address"), true).expect("added");
        netlink.set_up(link.index, true).expect("up");
    }

    /// Starts the example and waits until its interface is up.
    fn start(&self, key: &PrivateKey, arguments: &[&str]) -> Loop {
        let mut command = Command::new(common::example("blocking_loop"));
        command.args(arguments).env("PRIVATE_KEY", key.to_base64().as_str()).stdout(Stdio::piped());
        let child = namespace::run_in(self.0.as_fd(), || command.spawn()).expect("namespace").expect("started");
        let mut running = Loop(child);
        let mut line = String::new();
        let stdout = running.0.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim_end(), format!("{} is up", arguments[0]), "the example ended");
        running
    }

    fn socket(&self, address: &str) -> UdpSocket {
        let socket = namespace::run_in(self.0.as_fd(), || UdpSocket::bind(address)).expect("namespace").expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        socket
    }
}

/// The example, until it goes out of scope.
struct Loop(Child);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_loops_carry_datagrams_of_all_sizes_there_and_back() {
    let (near, far) = (Host::new(), Host::new());
    near.netlink().create_veth("near", "far", Some(far.0.as_fd())).expect("a cable");
    near.plug_in("near", "192.0.2.1/24");
    far.plug_in("far", "192.0.2.2/24");

    let mut rng = UnwrapErr(SysRng);
    let keys = [PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng)];
    let [near_key, far_key] = keys.each_ref().map(|key| key.public_key().to_base64());
    let there = [&far_key, "10.7.0.2/32", "192.0.2.2:51820"];
    let _near = near.start(&keys[0], &[&["tun7", "10.7.0.1/24", "51820"], &there[..]].concat());
    // The far end learns from the handshake where the near one is.
    let _far = far.start(&keys[1], &["tun7", "10.7.0.2/24", "51820", &near_key, "10.7.0.1/32"]);

    let client = near.socket("10.7.0.1:0");
    client.connect("10.7.0.2:7777").expect("connected");
    let server = far.socket("10.7.0.2:7777");
    let mut buffer = [0; 2_048];
    // The last one fills the tunnel's MTU.
    for len in (0..1_392).step_by(29).chain([1_392]) {
        let sent: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
        client.send(&sent).expect("sent");
        let (received, source) = server.recv_from(&mut buffer).expect("a datagram through the tunnel");
        assert_eq!(source, client.local_addr().expect("bound"));
        server.send_to(&buffer[..received], source).expect("sent");
        let received = client.recv(&mut buffer).expect("the datagram back through the tunnel");
        assert!(buffer[..received] == sent, "{len} bytes came back changed");
    }
}

#[test]
fn without_arguments_it_says_what_it_wants() {
    let output = Command::new(common::example("blocking_loop")).output().expect("started");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("KEY blocking_loop INTERFACE ADDRESS/LEN PORT PEER_KEY ALLOWED_IP [ENDPOINT]"), "{said}");
}

#[test]
fn a_wrong_argument_is_named_with_what_is_expected_and_keys_are_not_repeated() {
    let key = PrivateKey::generate(&mut UnwrapErr(SysRng));
    let peer = PrivateKey::generate(&mut UnwrapErr(SysRng)).public_key().to_base64();
    let right = ["tun7", "10.7.0.1/24", "51820", &peer, "10.7.0.2/32", "192.0.2.2:51820"];
    let said = |private_key: &str, arguments: &[&str]| {
        let mut command = Command::new(common::example("blocking_loop"));
        let output = command.args(arguments).env("PRIVATE_KEY", private_key).output().expect("started");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert_eq!(said("abc", &right), "blocking_loop: PRIVATE_KEY: expected a key of 44 characters in the environment\n");
    for (at, wrong, expected) in [
        (2, "70000", "PORT: found \"70000\", expected 0 to 65535"),
        (3, "abc", "PEER_KEY: expected a key of 44 characters"),
        (4, "10.7.0.2/33", "ALLOWED_IP: found \"10.7.0.2/33\", expected ADDRESS/LEN"),
        (5, "host", "ENDPOINT: found \"host\", expected ADDRESS:PORT"),
    ] {
        let mut arguments = right;
        arguments[at] = wrong;
        assert_eq!(said(&key.to_base64(), &arguments), format!("blocking_loop: {expected}\n"));
    }
}
