//! A host: a network namespace that lives as long as the test holds it.

use std::fs::{self, File};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{Background, Outcome};

/// A network of its own, with a loopback interface and nothing else, and a `/run` of its own, where the UAPI sockets
/// are.
///
/// The namespaces have no name: the kernel removes them with the last process in them and with this value, so that
/// nothing is left behind by a test that was killed but what it had sent to the background. Two hosts may use the same
/// names for their interfaces.
#[derive(Debug)]
pub struct Host {
    label: String,
    network: File,
    mounts: File,
}

impl Host {
    /// Makes a host; the label is for messages.
    pub fn new(label: &str) -> Self {
        let in_namespaces = || -> std::io::Result<(File, File)> {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
            let nothing: Option<&str> = None;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing)?;
            // Where there is no folder for sockets, none is made that would be left.
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
            fs::DirBuilder::new().mode(0o700).create("/run/wireguard")?;
            for (setting, value) in SETTINGS {
                fs::write(format!("/proc/sys/net/{setting}"), value)?;
            }
            Ok((File::open("/proc/thread-self/ns/net")?, File::open("/proc/thread-self/ns/mnt")?))
        };
        let made = std::thread::scope(|scope| scope.spawn(in_namespaces).join());
        let (network, mounts) = made
            .expect("the thread that makes a host")
            .unwrap_or_else(|error| panic!("cannot make a network namespace: {error}; these tests need root"));
        let host = Self { label: label.to_owned(), network, mounts };
        host.ip("link set lo up");
        host
    }

    /// Runs a closure on a thread inside the host. What it opens or starts there stays there.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            // A thread that shares its root and working folder with others may not change its mounts.
            unshare(CloneFlags::CLONE_FS).expect("a working folder of the thread's own");
            setns(&self.mounts, CloneFlags::CLONE_NEWNS).expect("the host's mounts");
            setns(&self.network, CloneFlags::CLONE_NEWNET).expect("the host's network");
            action()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a program to its end.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Outcome {
        self.run_with_input(program, arguments, "")
    }

    /// Runs a program to its end and gives it something to read.
    #[track_caller]
    pub fn run_with_input(&self, program: &str, arguments: &[&str], input: &str) -> Outcome {
        let mut command = Command::new(program);
        command.args(arguments);
        self.complete(command, input)
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn complete(&self, command: Command, input: &str) -> Outcome {
        self.enter(|| Outcome::of(command, input))
    }

    /// Starts a program that goes on in the background.
    #[track_caller]
    pub fn start(&self, command: Command) -> Background {
        self.enter(|| Background::start(command))
    }

    /// Runs `ip` with these words.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        self.command(&format!("ip {arguments}")).success()
    }

    fn command(&self, line: &str) -> Outcome {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        self.run(program, &words.collect::<Vec<_>>())
    }

    /// Gives an interface an address with its prefix length, to be used at once.
    #[track_caller]
    pub fn add_address(&self, address: &str, interface: &str) {
        let at_once = if address.contains(':') { "nodad" } else { "" };
        self.ip(&format!("address add {address} dev {interface} {at_once}"));
    }

    /// Whether the host may send from this address, and has a route to its next neighbour.
    ///
    /// The kernel takes a moment for that when an interface with IPv6 comes up.
    pub fn is_ready(&self, address: IpAddr) -> bool {
        let neighbour = match address {
            IpAddr::V4(own) => IpAddr::V4((u32::from(own) ^ 0x40).into()),
            IpAddr::V6(own) => IpAddr::V6((u128::from(own) ^ 0x40).into()),
        };
        self.enter(|| UdpSocket::bind((address, 0)).and_then(|socket| socket.connect((neighbour, 9)))).is_ok()
    }

    /// Sets a network setting, named by its path below `/proc/sys/net`.
    #[track_caller]
    pub fn set(&self, setting: &str, value: &str) {
        self.enter(|| fs::write(format!("/proc/sys/net/{setting}"), value))
            .unwrap_or_else(|error| panic!("cannot set {setting} to {value}: {error}"));
    }

    /// Whether there is an interface of this name.
    pub fn has_link(&self, name: &str) -> bool {
        self.enter(|| fs::exists(format!("/sys/class/net/{name}")).unwrap_or(false))
    }

    /// The number of an interface.
    pub fn link_number(&self, name: &str) -> u32 {
        self.link(name, "ifindex").parse().expect("a number")
    }

    /// The Ethernet address of an interface.
    pub fn link_address(&self, name: &str) -> [u8; 6] {
        let text = self.link(name, "address");
        let bytes: Vec<u8> = text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        bytes.try_into().expect("six bytes")
    }

    fn link(&self, name: &str, property: &str) -> String {
        let text = self.enter(|| fs::read_to_string(format!("/sys/class/net/{name}/{property}")));
        text.expect("an interface's property").trim().to_owned()
    }

    /// Whether there is a UAPI socket for the interface.
    pub fn has_socket(&self, name: &str) -> bool {
        self.enter(|| fs::exists(socket(name)).unwrap_or(false))
    }

    /// The sockets of daemons, by their paths within the folder of the UAPI's.
    pub fn sockets(&self) -> Vec<String> {
        let mut sockets = self.enter(|| sockets_in(Path::new("/run/wireguard")));
        sockets.sort();
        sockets
    }

    /// A path by which `ip link set … netns PATH` finds this host's network.
    pub fn network_path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd())
    }

    /// Joins two hosts by a wire between two interfaces of these names.
    #[track_caller]
    pub fn join(&self, name: &str, other: &Host, other_name: &str) {
        let other_network = other.network_path();
        self.ip(&format!("link add {name} type veth peer name {other_name} netns {other_network}"));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {other_name} up"));
    }

    /// Lets no more leave by an interface than this, in the words of `tc`, until the result is dropped. What waits for
    /// that is a queue of 1,000 packets, the kernel's usual one.
    #[track_caller]
    pub fn slow_down(&self, interface: &str, rate: &str) -> Undo<'_> {
        self.command(&format!("tc qdisc add dev {interface} root handle 1: tbf rate {rate} burst 64kb limit 1mb"))
            .success();
        let undo = Undo { host: self, command: format!("tc qdisc del dev {interface} root") };
        self.command(&format!("tc qdisc add dev {interface} parent 1:1 pfifo limit 1000")).success();
        undo
    }

    /// Chooses TCP's congestion control for connections with an address that is reached by this interface, until the
    /// result is dropped.
    #[track_caller]
    pub fn control_congestion(&self, algorithm: &str, address: IpAddr, interface: &str) -> Undo<'_> {
        self.command(&format!("ip route add {address} dev {interface} congctl {algorithm}")).success();
        Undo { host: self, command: format!("ip route del {address} dev {interface}") }
    }

    /// Lets the firewall filter what comes in by this rule, in the words of `nft`.
    #[track_caller]
    pub fn filter_input(&self, rule: &str) {
        self.firewall("in", "filter hook input priority 0", rule);
    }

    /// Lets the firewall translate the addresses of what goes out by this rule, in the words of `nft`.
    #[track_caller]
    pub fn translate_output(&self, rule: &str) {
        self.firewall("out", "nat hook postrouting priority 100", rule);
    }

    #[track_caller]
    fn firewall(&self, chain: &str, kind: &str, rule: &str) {
        let rules = format!("table inet test {{\nchain {chain} {{\ntype {kind};\n{rule};\n}}\n}}\n");
        self.run_with_input("nft", &["-f", "-"], &rules).success();
    }

    /// How many UDP datagrams over IPv4 have reached a socket of the host.
    pub fn datagrams_received(&self) -> u64 {
        self.udp_counter("InDatagrams")
    }

    /// How many UDP datagrams over IPv4 were lost since a socket had no room for them.
    pub fn datagrams_without_room(&self) -> u64 {
        self.udp_counter("RcvbufErrors")
    }

    fn udp_counter(&self, counter: &str) -> u64 {
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/snmp")).expect("the host's counters");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut counters = names.split(' ').zip(values.split(' '));
        let (_, value) = counters.find(|(name, _)| *name == counter).expect("the counter of datagrams");
        value.parse().expect("a number")
    }

    /// How many bytes an interface has received.
    pub fn bytes_received(&self, name: &str) -> u64 {
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("the host's interfaces");
        let of_interface = |line: &str| line.trim_start().strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
        let counters = text.lines().find_map(of_interface).expect("the interface");
        counters.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
    }

    /// The processes that run inside.
    pub fn processes(&self) -> Vec<u32> {
        let own = fs::read_link(self.network_path()).ok();
        let Ok(processes) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .filter_map(|process| process.ok()?.file_name().to_str()?.parse().ok())
            .filter(|process| fs::read_link(format!("/proc/{process}/ns/net")).ok() == own)
            .collect()
    }

    /// What the host is called in messages.
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for process in self.processes() {
            if let Ok(process) = process.try_into() {
                let _ended_by_itself = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
        }
    }
}

/// Takes back what a host was told, when it is dropped.
#[derive(Debug)]
#[must_use = "it is taken back at once"]
pub struct Undo<'a> {
    host: &'a Host,
    command: String,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let outcome = self.host.command(&self.command);
        if !std::thread::panicking() {
            outcome.success();
        }
    }
}

/// The path of an interface's UAPI socket.
pub(crate) fn socket(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/wireguard/{name}.sock"))
}

/// Addresses are usable at once, and no host speaks unless a test makes it.
const SETTINGS: &[(&str, &str)] = &[
    // The daemons have to look at source addresses, not the hosts.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
];

/// All sockets in a folder and those beneath.
pub fn sockets_in(folder: &Path) -> Vec<String> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sockets").map(|entry| entry.expect("a file")) {
        let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type().expect("its type"));
        if kind.is_socket() {
            sockets.push(name);
        } else if kind.is_dir() {
            sockets.extend(sockets_in(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        }
    }
    sockets
}
