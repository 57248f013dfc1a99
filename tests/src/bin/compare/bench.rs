//! What is measured: two hosts on one wire, with an implementation's daemon on each, or with the wire alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use adit_tests::measure::programs::{run, run_with_input};
use adit_tests::measure::{interrupt, process};
use adit_tests::{Background, Host, Implementation, Keys, Peer, for_a_while};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::results::{OURS, WIRE};

/// The interface of every daemon: hosts share no names.
pub(crate) const INTERFACE: &str = "wg0";
/// The interface of the wire, at each end.
pub(crate) const WIRE_INTERFACE: &str = "eth0";

/// What fits through a wire of 1,500 bytes, whichever version of IP is outside.
const MTU: u32 = 1420;

const PORT: u16 = 51820;

/// How long a daemon may take to come up.
const START: Duration = Duration::from_secs(10);

/// Something that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Daemon(Implementation),
    /// The wire without a tunnel.
    Wire,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Daemon(Implementation::Adit) => OURS,
            Self::Daemon(Implementation::WireguardGo) => "wireguard-go",
            Self::Daemon(Implementation::Gotatun) => "gotatun",
            Self::Daemon(Implementation::Boringtun) => "boringtun",
            Self::Wire => WIRE,
        }
    }
}

impl ValueEnum for Subject {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Daemon(Implementation::Adit),
            Self::Daemon(Implementation::WireguardGo),
            Self::Daemon(Implementation::Gotatun),
            Self::Daemon(Implementation::Boringtun),
            Self::Wire,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Two hosts between which traffic can be measured.
#[derive(Debug)]
pub(crate) struct Bench {
    // Dropped before the hosts that they run on.
    daemons: Vec<Background>,
    /// Where traffic begins.
    pub(crate) near: Host,
    /// Where it ends.
    pub(crate) far: Host,
    /// The addresses of both, inside the tunnel if there is one, and the interface by which they reach each other.
    pub(crate) near_address: IpAddr,
    pub(crate) address: IpAddr,
    pub(crate) interface: &'static str,
}

impl Bench {
    /// Sets up the hosts, and the tunnel unless the wire alone is asked for; the daemons get these options as well.
    pub(crate) fn new(subject: Subject, options: &[&str]) -> Result<Self> {
        let (near, far) = (Host::new("near"), Host::new("far"));
        near.join(WIRE_INTERFACE, &far, WIRE_INTERFACE);
        for (number, host) in [(1, &near), (2, &far)] {
            host.ip(&format!("address add {}/24 dev {WIRE_INTERFACE}", outer(number)));
        }
        let (near_address, address) = (outer(1).into(), outer(2).into());
        let mut bench = Self { daemons: Vec::new(), near, far, near_address, address, interface: WIRE_INTERFACE };
        if let Subject::Daemon(implementation) = subject {
            bench.tunnel(implementation, options)?;
        }
        run(&bench.near, 20, "ping", &["-c", "3", "-i", "0.2", "-W", "2", &bench.address.to_string()])?;
        Ok(bench)
    }

    fn tunnel(&mut self, implementation: Implementation, options: &[&str]) -> Result<()> {
        let keys = [Keys::generate(), Keys::generate()];
        let [near, far] = &keys;
        for (number, host, own, other) in [(1, &self.near, near, far), (2, &self.far, far, near)] {
            let mut daemon = start(implementation, options, host)?;
            let peer = Peer::new(other, "192.168.7.0/24").at(&format!("{}:{PORT}", outer(3 - number)));
            let configuration = configuration(own, &[peer]);
            configure(host, &mut daemon, &configuration)?;
            self.daemons.push(daemon);
            up(host, number)?;
        }
        (self.near_address, self.address, self.interface) = (inner(1).into(), inner(2).into(), INTERFACE);
        Ok(())
    }

    /// The processor time that the daemons have used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.daemons.iter().map(|daemon| process::cpu_seconds(daemon.id())).sum()
    }

    /// The most memory that a daemon has had resident, in MiB; nothing without a daemon.
    pub(crate) fn peak_memory(&self) -> Option<f64> {
        self.daemons.iter().map(|daemon| process::peak_memory(daemon.id())).max_by(f64::total_cmp)
    }

    /// The memory that a daemon has resident now, in MiB; nothing without a daemon.
    pub(crate) fn resident_memory(&self) -> Option<f64> {
        self.daemons.iter().map(|daemon| process::resident_memory(daemon.id())).max_by(f64::total_cmp)
    }
}

/// A daemon alone on a host, up but without peers.
#[derive(Debug)]
pub(crate) struct Lone {
    daemon: Background,
    pub(crate) host: Host,
    pub(crate) keys: Keys,
}

impl Lone {
    pub(crate) fn new(implementation: Implementation) -> Result<Self> {
        let host = Host::new("alone");
        let keys = Keys::generate();
        let mut daemon = start(implementation, &[], &host)?;
        configure(&host, &mut daemon, &configuration(&keys, &[]))?;
        up(&host, 1)?;
        Ok(Self { daemon, host, keys })
    }

    /// How the daemon ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.daemon.ended()
    }

    /// The memory that the daemon has resident now, in MiB.
    pub(crate) fn resident_memory(&self) -> f64 {
        process::resident_memory(self.daemon.id())
    }
}

/// A configuration as `wg setconf` reads it.
pub(crate) fn configuration(keys: &Keys, peers: &[Peer]) -> String {
    let interface = format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", keys.private);
    peers.iter().fold(interface, |text, peer| text + &peer.section())
}

fn start(implementation: Implementation, options: &[&str], host: &Host) -> Result<Background> {
    interrupt::check()?;
    let mut command: Command = implementation.foreground(INTERFACE);
    command.args(options);
    command.env("LOG_LEVEL", "error").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = host.start(command);
    let ready = for_a_while(START, || {
        let over = daemon.ended().is_some() || interrupt::is_requested();
        (over || (host.has_socket(INTERFACE) && host.has_link(INTERFACE))).then_some(())
    });
    ready.with_context(|| format!("{implementation} opens no socket"))?;
    match daemon.ended() {
        Some(status) => bail!("{implementation} ended at once: {status}"),
        None => Ok(daemon),
    }
}

fn configure(host: &Host, daemon: &mut Background, configuration: &str) -> Result<()> {
    let set = || run_with_input(host, 10, "wg", &["setconf", INTERFACE, "/dev/stdin"], configuration);
    // The socket may be there a moment before it is listened to.
    let done = for_a_while(START, || match set() {
        Err(_) if daemon.ended().is_none() && !interrupt::is_requested() => None,
        result => Some(result),
    });
    done.unwrap_or_else(set).map(drop)
}

fn up(host: &Host, number: u8) -> Result<()> {
    run(host, 10, "ip", &["address", "add", &format!("{}/24", inner(number)), "dev", INTERFACE])?;
    run(host, 10, "ip", &["link", "set", INTERFACE, "mtu", &MTU.to_string(), "up"]).map(drop)
}

fn outer(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn inner(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 7, number)
}
