//! Hosts for tests: network namespaces without a name, which vanish with the test.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::{Netlink, namespace};

/// Runs a test in a network namespace of its own, with the loopback interface up.
pub(crate) fn in_new_namespace(test: impl FnOnce() + Send) {
    let namespace = new_namespace();
    namespace::run_in(namespace.as_fd(), test).expect("the namespace can be entered");
}

/// A network namespace with the loopback interface up. A test that cannot have it must not pass for one that ran.
pub(crate) fn new_namespace() -> OwnedFd {
    let namespace = namespace::create().expect("this test makes network namespaces: run it as root");
    let mut netlink = Netlink::open_in(namespace.as_fd()).expect("netlink");
    netlink.set_up(1, true).expect("loopback up");
    namespace
}

/// Joins the calling thread's namespace (`left`, its name) and another (`right`) by a pair of interfaces, each up and
/// with its addresses. Returns the indices.
pub(crate) fn connect(other: &OwnedFd, mtu: u32, left: &[&str], right: &[&str]) -> (u32, u32) {
    let mut here = Netlink::open().expect("netlink");
    let mut there = Netlink::open_in(other.as_fd()).expect("netlink");
    here.create_veth("left", "right", Some(other.as_fd())).expect("veth");
    let set_up = |netlink: &mut Netlink, name, addresses: &[&str]| {
        let index = netlink.link(name).expect("link").index;
        netlink.set_mtu(index, mtu).expect("MTU");
        netlink.set_up(index, true).expect("up");
        for address in addresses {
            add_address(netlink, index, address);
        }
        index
    };
    (set_up(&mut here, "left", left), set_up(&mut there, "right", right))
}

/// Gives an interface an address, and waits until packets to it are accepted: for IPv6, the kernel makes the route for
/// that a little later.
pub(crate) fn add_address(netlink: &mut Netlink, index: u32, address: &str) {
    const LOCAL_TABLE: u32 = 255;
    let address = net(address);
    netlink.add_address(index, address, true).expect("address");
    let host = IpNet::from(address.addr());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !netlink.routes(LOCAL_TABLE).expect("routes").iter().any(|route| route.destination == host) {
        assert!(Instant::now() < deadline, "packets to {host} are not taken");
        thread::yield_now();
    }
}

/// An address with its prefix length.
pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("an address and a prefix length")
}
