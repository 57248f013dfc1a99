//! From which of the host's addresses a running device answers, when the addresses and the sockets change under it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use adit::{Ecn, Interface, Path, PrivateKey};
use adit_device::netlink::{Netlink, namespace};
use adit_device::uapi::socket_path;
use adit_device::{Options, run};
use getrandom::SysRng;
use rand_core::UnwrapErr;

/// The address at which the peer reaches the device first. It belongs to the loopback network whether an interface has
/// it or not, so the kernel goes on accepting it as a source, and only the device's own memory tells where answers come
/// from.
const REACHED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
/// Where answers come from when no source is asked for.
const USUAL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const PATIENCE: Duration = Duration::from_secs(20);

/// A device that sends a keepalive each second, and the socket of the only peer, with which it has a session.
struct Tunnel {
    name: String,
    port: u16,
    peer: UdpSocket,
    netlink: Netlink,
}

/// Ends the device, if the test has failed before it could.
struct Ended(PathBuf);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Runs a test in a network namespace of its own, with a tunnel whose answers come from [`REACHED`].
fn with_tunnel(letter: char, test: impl FnOnce(&mut Tunnel) + Send) {
    let namespace = namespace::create().expect("this test makes network namespaces: run it as root");
    let name = format!("s{letter}{}", std::process::id());
    let _ended = Ended(socket_path(&name));
    namespace::run_in(namespace.as_fd(), || {
        let mut netlink = Netlink::open().unwrap();
        netlink.set_up(1, true).unwrap();
        netlink.add_address(1, "127.0.0.5/32".parse().unwrap(), true).unwrap();
        let (ready, is_ready) = mpsc::channel();
        let mut options = Options::new(&name);
        options.threads = NonZeroUsize::MIN;
        options.ready = Some(Box::new(move |_| ready.send(()).unwrap()));
        let device = thread::spawn(|| run(options));
        is_ready.recv_timeout(PATIENCE).expect("a device");
        let index = netlink.link(&name).unwrap().index;
        netlink.set_up(index, true).unwrap();
        let peer = UdpSocket::bind((USUAL, 0)).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut tunnel = Tunnel { name, port: 0, peer, netlink };
        tunnel.connect();
        test(&mut tunnel);
        tunnel.netlink.delete_link(index).unwrap();
        device.join().unwrap().unwrap();
    })
    .unwrap();
}

impl Tunnel {
    /// Changes the device's configuration.
    fn set(&self, text: &str) {
        let mut stream = UnixStream::connect(socket_path(&self.name)).unwrap();
        write!(stream, "set=1\n{text}\n").unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        assert_eq!(reply, "errno=0\n");
    }

    /// The peer's handshake with the device.
    fn connect(&mut self) {
        let keys = [[1; 32], [2; 32]].map(PrivateKey::from_bytes);
        // The first free port, as the kernel sees it.
        self.port = UdpSocket::bind((USUAL, 0)).unwrap().local_addr().unwrap().port();
        self.set(&format!(
            "private_key={}\nlisten_port={}\npublic_key={}\npersistent_keepalive_interval=1\n",
            hex(&[1; 32]),
            self.port,
            hex(keys[1].public_key().as_bytes()),
        ));
        let now = adit::Instant::from_nanos(0);
        let unix_time = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let mut interface = Interface::new(now, unix_time, Box::new(UnwrapErr(SysRng)));
        interface.set_private_key(Some(keys[1].clone()));
        let id = interface.add_peer(keys[0].public_key()).unwrap();
        let device = SocketAddr::from((REACHED, self.port));
        interface.set_endpoint(id, Some(device)).unwrap();
        // It asks for a session at once.
        interface.set_persistent_keepalive(now, id, 1).unwrap();
        interface.handle_timeout(now);
        let mut buffer = [0; 2_048];
        for _ in ["initiation", "keepalive"] {
            let sent = interface.poll_transmit(now, &mut buffer).unwrap().expect("a message");
            self.peer.send_to(&buffer[sent.range], device).unwrap();
            let (len, from) = self.peer.recv_from(&mut buffer).unwrap();
            assert_eq!(from, device, "the answer comes from where the peer reached it");
            let _ = interface.handle_datagram(now, &Path::to(from), Ecn::NotEct, &mut buffer[..len]);
        }
        assert!(interface.peer(now, id).unwrap().has_session);
    }

    /// Waits until keepalives come from an address; those that were on their way may come from another.
    fn wait_for_keepalive_from(&self, address: Ipv4Addr, port: u16) {
        let (from, start) = (SocketAddr::from((address, port)), Instant::now());
        while self.peer.recv_from(&mut [0; 2_048]).unwrap().1 != from {
            assert!(start.elapsed() < Duration::from_secs(5), "nothing comes from {from}");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn answers_stop_leaving_from_an_address_that_the_host_has_no_more() {
    with_tunnel('a', |tunnel| {
        tunnel.wait_for_keepalive_from(REACHED, tunnel.port);
        tunnel.netlink.remove_address(1, "127.0.0.5/32".parse().unwrap()).unwrap();
        tunnel.wait_for_keepalive_from(USUAL, tunnel.port);
    });
}

#[test]
fn another_port_makes_the_device_forget_from_where_answers_left() {
    with_tunnel('b', |tunnel| {
        tunnel.wait_for_keepalive_from(REACHED, tunnel.port);
        let port = UdpSocket::bind((USUAL, 0)).unwrap().local_addr().unwrap().port();
        tunnel.set(&format!("listen_port={port}\n"));
        tunnel.wait_for_keepalive_from(USUAL, port);
    });
}
