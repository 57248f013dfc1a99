//! The real Linux kernel as a partner, booted in a virtual machine.

use std::net::IpAddr;
use std::time::Duration;

use adit_tests::{Implementation, KernelPeer, Keys, Launch, Node, Peer, Ping, eventually, preshared_key};
use nix::sys::signal::Signal;

const OWN_V4: &str = "10.79.0.1";
const OWN_V6: &str = "fd79::1";
const KERNEL_V4: &str = "10.79.0.2";
const KERNEL_V6: &str = "fd79::2";
const INNER_OWN: [&str; 2] = ["192.168.7.1", "fd00:7::1"];
const INNER_KERNEL: [&str; 2] = ["192.168.7.2", "fd00:7::2"];
const BULK: usize = 3_000_000;

#[test]
fn adit_initiates_to_the_kernel_over_v4_with_offloads_and_without() {
    let mut rig = Rig::boot();
    let key = preshared_key();
    rig.configure(&key, &format!("{KERNEL_V4}:20000"), None);

    ping(INNER_KERNEL[0]).from(&rig.node.host).assert_all_answered();
    ping(INNER_KERNEL[1]).count(5, 0.05).from(&rig.node.host).assert_all_answered();
    ping(INNER_KERNEL[0]).count(100, 0.02).from(&rig.node.host).assert_all_answered();
    for length in [28, 29, 43, 44, 45, 128, 1419, 1420] {
        ping(INNER_KERNEL[0]).packet_length(length).from(&rig.node.host).assert_all_answered();
    }
    rig.kernel.run(&format!("ping -c 3 -W 5 {}", INNER_OWN[0]));
    rig.tcp_to_the_kernel();
    rig.tcp_from_the_kernel();

    // Adit moves to another port; the kernel follows.
    rig.node.set("listen-port 10005");
    ping(INNER_KERNEL[0]).from(&rig.node.host).assert_all_answered();
    assert!(rig.kernel.run("wg show wg0 endpoints").contains(&format!("{OWN_V4}:10005")));

    // The same without offloads.
    rig.node.daemon().signal(Signal::SIGTERM);
    assert!(rig.node.daemon().wait().success());
    rig.node.start_as(Launch::NO_OFFLOAD);
    rig.configure(&key, &format!("{KERNEL_V4}:20000"), None);
    ping(INNER_KERNEL[0]).from(&rig.node.host).assert_all_answered();
    ping(INNER_KERNEL[1]).packet_length(1420).from(&rig.node.host).assert_all_answered();
    rig.tcp_to_the_kernel();
    rig.tcp_from_the_kernel();
}

#[test]
fn the_kernel_initiates_to_adit_over_v6() {
    let mut rig = Rig::boot();
    let key = preshared_key();
    rig.configure(&key, "", Some(&format!("[{OWN_V6}]:10000")));

    rig.kernel.run(&format!("ping -c 1 -W 8 {}", INNER_OWN[0]));
    rig.kernel.run(&format!("ping -c 3 -W 5 {}", INNER_OWN[1]));
    assert_eq!(rig.seen_by_adit().endpoint, format!("[{KERNEL_V6}]:20000"));
    ping(INNER_KERNEL[0]).count(20, 0.02).from(&rig.node.host).assert_all_answered();
    rig.tcp_from_the_kernel();
    rig.tcp_to_the_kernel();

    // The kernel moves to another port, then to IPv4; Adit follows.
    rig.kernel.run("wg set wg0 listen-port 20001");
    rig.kernel.run(&format!("ping -c 2 -W 5 {}", INNER_OWN[0]));
    assert_eq!(rig.seen_by_adit().endpoint, format!("[{KERNEL_V6}]:20001"));
    let adit = rig.node.keys.public.clone();
    rig.kernel.run(&format!("wg set wg0 peer {adit} endpoint {OWN_V4}:10000"));
    rig.kernel.run(&format!("ping -c 2 -W 5 {}", INNER_OWN[0]));
    assert_eq!(rig.seen_by_adit().endpoint, format!("{KERNEL_V4}:20001"));
    ping(INNER_KERNEL[1]).count(5, 0.05).from(&rig.node.host).assert_all_answered();

    // The kernel forgets its session and begins another one, while Adit still has the first.
    let first = rig.seen_by_adit().latest_handshake;
    eventually("a second has passed, so that handshakes can be told apart", || {
        (std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs() > first).then_some(())
    });
    rig.configure_kernel(&key, Some(&format!("[{OWN_V6}]:10000")));
    rig.kernel.run(&format!("ping -c 3 -W 8 {}", INNER_OWN[0]));
    assert!(rig.seen_by_adit().latest_handshake > first, "a new session");
    ping(INNER_KERNEL[0]).count(5, 0.05).from(&rig.node.host).assert_all_answered();
}

/// Adit on a host and the kernel in a machine on a wire to it.
struct Rig {
    // Ended before the host that it is on.
    kernel: KernelPeer,
    node: Node,
    keys: Keys,
}

impl Rig {
    fn boot() -> Self {
        let node = Node::new(Implementation::Adit, "A");
        let (own_v4, own_v6) = (format!("{OWN_V4}/24"), format!("{OWN_V6}/64"));
        let (v4, v6) = (format!("{KERNEL_V4}/24"), format!("{KERNEL_V6}/64"));
        let mut kernel = KernelPeer::boot(&node.host, &[&own_v4, &own_v6], &[&v4, &v6]);
        kernel.make_interface(&[&format!("{}/24", INNER_KERNEL[0]), &format!("{}/64", INNER_KERNEL[1])]);
        Self { kernel, node, keys: Keys::generate() }
    }

    /// Configures both; the kernel is told Adit's endpoint, or Adit the kernel's.
    fn configure(&mut self, key: &str, kernel_endpoint: &str, own_endpoint: Option<&str>) {
        let allowed_ips = format!("{}/32,{}/128", INNER_KERNEL[0], INNER_KERNEL[1]);
        let mut peer = Peer::new(&self.keys, &allowed_ips).with_preshared_key(Some(key));
        if !kernel_endpoint.is_empty() {
            peer = peer.at(kernel_endpoint);
        }
        self.node.configure(Some(10000), &[peer]);
        self.node.up(&[&format!("{}/24", INNER_OWN[0]), &format!("{}/64", INNER_OWN[1])], 1420);
        self.configure_kernel(key, own_endpoint);
    }

    fn configure_kernel(&mut self, key: &str, own_endpoint: Option<&str>) {
        let allowed_ips = format!("{}/32,{}/128", INNER_OWN[0], INNER_OWN[1]);
        let mut peer = Peer::new(&self.node.keys, &allowed_ips).with_preshared_key(Some(key));
        if let Some(endpoint) = own_endpoint {
            peer = peer.at(endpoint);
        }
        let interface = format!("[Interface]\nPrivateKey = {}\nListenPort = 20000\n", self.keys.private);
        self.kernel.set_configuration(&(interface + &peer.section()));
    }

    fn seen_by_adit(&self) -> adit_tests::PeerStatus {
        self.node.peer(&self.keys)
    }

    fn tcp_to_the_kernel(&mut self) {
        self.kernel.start("nc -l -p 5002 | md5sum");
        let address: IpAddr = INNER_KERNEL[0].parse().expect("an address");
        let (sent, bytes) = (eventually_connected(&self.node, address, 5002), bulk());
        std::io::Write::write_all(&mut &sent, &bytes).expect("send to the kernel");
        sent.shutdown(std::net::Shutdown::Write).expect("end the stream");
        let (_, text) = self.kernel.finish();
        assert!(text.contains(&md5(&bytes)), "other bytes arrive: {text}");
    }

    fn tcp_from_the_kernel(&mut self) {
        let address: IpAddr = INNER_OWN[1].parse().expect("an address");
        let listener = self.node.host.enter(|| std::net::TcpListener::bind((address, 5001))).expect("listen");
        self.kernel.start(&format!("head -c {BULK} /dev/urandom > /sent; nc {address} 5001 < /sent; md5sum < /sent"));
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time-out");
        let mut received = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut received).expect("receive from the kernel");
        drop(stream);
        let (_, text) = self.kernel.finish();
        assert_eq!(received.len(), BULK);
        assert!(text.contains(&md5(&received)), "other bytes arrive than {text}");
    }
}

fn eventually_connected(node: &Node, address: IpAddr, port: u16) -> std::net::TcpStream {
    eventually("the kernel listens", || node.host.enter(|| std::net::TcpStream::connect((address, port))).ok())
}

fn bulk() -> Vec<u8> {
    (0..BULK).map(|position| (position % 251) as u8).collect()
}

fn md5(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new("md5sum");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run md5sum");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("write to md5sum");
    let output = child.wait_with_output().expect("md5sum's output");
    String::from_utf8_lossy(&output.stdout).chars().take(32).collect()
}

fn ping(address: &str) -> Ping {
    Ping::to(address.parse().expect("an address"))
}
