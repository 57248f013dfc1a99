//! Two hosts of our own: network namespaces without a name, joined by a pair of interfaces. They vanish with the last
//! process in them, so that nothing of them can be left behind.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use adit_device::netlink::{Netlink, namespace};
use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

/// Bytes of the longest packet in the tunnel: what fits into an Ethernet frame with WireGuard's and IPv6's headers.
const TUNNEL_MTU: u32 = 1420;
const TUN_FILE: &str = "/dev/net/tun";

/// One of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

impl Side {
    /// For people and for the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }

    /// The name of its tunnel interface.
    pub(super) fn tunnel(self) -> &'static str {
        match self {
            Side::Left => "adit-left",
            Side::Right => "adit-right",
        }
    }

    /// The name of its end of the pair of interfaces.
    fn cable(self) -> &'static str {
        match self {
            Side::Left => "veth-left",
            Side::Right => "veth-right",
        }
    }

    /// Its address outside the tunnel.
    pub(super) fn outside(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number())
    }

    /// Its address inside the tunnel.
    pub(super) fn inside(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, self.number())
    }

    fn number(self) -> u8 {
        match self {
            Side::Left => 1,
            Side::Right => 2,
        }
    }
}

/// A network namespace.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) side: Side,
    namespace: OwnedFd,
    /// The kernel's counters of this namespace.
    counters: File,
}

impl Host {
    /// The two hosts, joined outside the tunnel.
    pub(super) fn pair() -> Result<[Host; 2]> {
        let left = Host::new(Side::Left)?;
        let right = Host::new(Side::Right)?;
        left.netlink()?
            .create_veth(Side::Left.cable(), Side::Right.cable(), Some(right.namespace.as_fd()))
            .context("the two hosts cannot be joined; does this kernel have the veth driver (modprobe veth)?")?;
        for host in [&left, &right] {
            host.bring_up(host.side.cable(), host.side.outside(), None)?;
        }
        Ok([left, right])
    }

    /// Runs `work` on this host. Sockets that it opens, and processes that it starts, belong there for good.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        namespace::run_in(self.namespace.as_fd(), work)
            .with_context(|| format!("the {} network namespace cannot be entered", self.side.name()))
    }

    /// Gives the tunnel interface its address and sets it up.
    pub(super) fn bring_tunnel_up(&self) -> Result<()> {
        self.bring_up(self.side.tunnel(), self.side.inside(), Some(TUNNEL_MTU))
    }

    /// Packets that this host has sent through the tunnel. Interface counters would not tell: to them up to 64 KiB of a
    /// flow are one packet. TCP counts each segment, and everything else here is ICMP.
    pub(super) fn packets_sent(&self) -> Result<u64> {
        let mut text = String::new();
        let mut file = &self.counters;
        file.rewind().and_then(|()| file.read_to_string(&mut text)).context("the kernel's counters cannot be read")?;
        let names = [("Tcp", "OutSegs"), ("Tcp", "RetransSegs"), ("Icmp", "OutMsgs")];
        Ok(names.iter().filter_map(|(protocol, name)| counter(&text, protocol, name)).sum())
    }

    fn new(side: Side) -> Result<Host> {
        let namespace = namespace::create().map_err(|error| refused(&error))?;
        let prepare = || {
            // Without IPv6 the kernel sends nothing by itself, and every packet in the tunnel is one of ours. Where
            // this may not be set it sends a little, which does no harm.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            File::open("/proc/thread-self/net/snmp").context("the kernel's counters cannot be opened")
        };
        let counters = namespace::run_in(namespace.as_fd(), prepare)
            .with_context(|| format!("the {} network namespace cannot be entered", side.name()))??;
        let host = Host { side, namespace, counters };
        let mut netlink = host.netlink()?;
        let loopback = netlink.link("lo")?.index;
        netlink.set_up(loopback, true)?;
        Ok(host)
    }

    fn bring_up(&self, name: &str, address: Ipv4Addr, mtu: Option<u32>) -> Result<()> {
        let mut netlink = self.netlink()?;
        let index = netlink.link(name)?.index;
        if let Some(mtu) = mtu {
            netlink.set_mtu(index, mtu)?;
        }
        netlink.add_address(index, format!("{address}/24").parse().context("an address")?, true)?;
        Ok(netlink.set_up(index, true)?)
    }

    fn netlink(&self) -> Result<Netlink> {
        Ok(Netlink::open_in(self.namespace.as_fd())?)
    }
}

/// Makes sure that namespaces and TUN devices can be made, inside a user namespace of our own if it takes one; returns
/// whether it did. To be called while the process has one thread.
pub(super) fn acquire_rights() -> Result<bool> {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    let is_root = capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    if !is_root {
        namespace::become_root_of_own().map_err(|error| refused(&error))?;
    }
    // Checked now, so that the reason need not be looked for in a daemon's log.
    OpenOptions::new().read(true).write(true).open(TUN_FILE).map_err(|error| no_tun(&error))?;
    Ok(!is_root)
}

/// The kernel lets us make no namespaces.
fn refused(error: &io::Error) -> anyhow::Error {
    let advice = advice(|name| std::fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok());
    anyhow!(
        "the demo runs in network namespaces of its own, which an ordinary user makes inside a user namespace, and the \
         kernel refused: {error}\n{advice}; in a container, start it with --cap-add SYS_ADMIN --cap-add NET_ADMIN \
         --device {TUN_FILE}"
    )
}

/// What could be done about a refusal, given the machine's settings.
fn advice(setting: impl Fn(&str) -> Option<String>) -> String {
    let settings = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "10000"),
    ];
    let mut advice = "run it as root, for example with sudo".to_owned();
    for (name, found, wanted) in settings {
        if setting(name).is_some_and(|value| value.trim() == found) {
            advice.push_str(&format!(
                "; or let ordinary users make namespaces, which this machine forbids by {name} = {found}: \
                 sysctl {name}={wanted}"
            ));
        }
    }
    advice
}

/// There is no TUN device, or it may not be opened.
fn no_tun(error: &io::Error) -> anyhow::Error {
    let advice = match Errno::from_io_error(error) {
        Some(Errno::ACCESS) => format!(
            "run the demo as root, or let everybody open it, as most distributions do: chmod 666 {TUN_FILE} (to make \
             an interface with it takes CAP_NET_ADMIN all the same)"
        ),
        Some(Errno::PERM) => format!("in a container, start it with --device {TUN_FILE}"),
        _ => format!("load the driver: modprobe tun; in a container, start it with --device {TUN_FILE}"),
    };
    anyhow!("{TUN_FILE}, through which a tunnel gets its packets, cannot be opened: {error}\n{advice}")
}

/// A counter in the form of `/proc/net/snmp`: a line of names, then a line of numbers, each after the protocol.
fn counter(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let place = lines.next()?.split_whitespace().position(|found| found == name)?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_the_place_of_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: MaxConn InSegs OutSegs\nTcp: -1 20 30\nTcpExt: OutSegs\nTcpExt: 99\n";
        assert_eq!(counter(text, "Tcp", "OutSegs"), Some(30));
        assert_eq!(counter(text, "Tcp", "InSegs"), Some(20));
        for (protocol, name) in [("Tcp", "MaxConn"), ("Tcp", "RetransSegs"), ("Udp", "OutSegs")] {
            assert_eq!(counter(text, protocol, name), None, "{protocol} {name}");
        }
        assert_eq!(counter("Tcp: OutSegs\n", "Tcp", "OutSegs"), None);
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = refused(&Errno::PERM.into()).to_string();
        assert!(refused.contains("sudo") && refused.contains("user namespace"), "{refused}");
        let ubuntu = advice(|name| name.contains("apparmor").then(|| "1\n".to_owned()));
        assert!(ubuntu.contains("sysctl kernel.apparmor_restrict_unprivileged_userns=0"), "{ubuntu}");
        assert!(!ubuntu.contains("user.max_user_namespaces"), "{ubuntu}");
        assert!(!advice(|_| None).contains("sysctl"));
        for (errno, advice) in [(Errno::NOENT, "modprobe tun"), (Errno::ACCESS, "chmod 666"), (Errno::PERM, "--device")]
        {
            let text = no_tun(&errno.into()).to_string();
            assert!(text.contains(advice) && text.contains(TUN_FILE), "{text}");
        }
    }
}
