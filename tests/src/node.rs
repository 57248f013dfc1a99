//! A node: a host with a daemon, and `wg` to configure it.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use crate::command::Outcome;
use crate::daemon::Daemon;
use crate::host::Host;
use crate::implementation::{Implementation, Launch};
use crate::status::{PeerStatus, Shown, Status};
use crate::wait::eventually;

/// The interface of every node: hosts share no names.
const INTERFACE: &str = "wg0";

/// A pair of keys in base64.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

impl Keys {
    /// Makes keys by `wg genkey` and `wg pubkey`.
    pub fn generate() -> Self {
        let private = wg_key("genkey", "");
        Self { public: wg_key("pubkey", &private), private }
    }
}

/// Makes a preshared key by `wg genpsk`.
pub fn preshared_key() -> String {
    wg_key("genpsk", "")
}

/// A peer as a configuration names it.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The public key in base64.
    pub public_key: String,
    /// The preshared key in base64.
    pub preshared_key: Option<String>,
    /// The allowed IPs, separated by commas.
    pub allowed_ips: String,
    /// Address and port.
    pub endpoint: Option<String>,
    /// The interval in seconds.
    pub persistent_keepalive: Option<u16>,
}

impl Peer {
    /// A peer that nobody is: its key is a number.
    pub fn nobody(number: u32, allowed_ips: &str) -> Self {
        // Decimal digits are digits of base64 too. The last of the 43 ends in two bits that must be zero, and the one
        // before has the key's highest bit, which X25519 passes over.
        Self { public_key: format!("{number:0>41}AA="), allowed_ips: allowed_ips.to_owned(), ..Self::default() }
    }

    /// A peer with nothing but its key and its allowed IPs.
    pub fn new(keys: &Keys, allowed_ips: &str) -> Self {
        Self { public_key: keys.public.clone(), allowed_ips: allowed_ips.to_owned(), ..Self::default() }
    }

    /// The same peer at this endpoint.
    #[must_use]
    pub fn at(mut self, endpoint: &str) -> Self {
        self.endpoint = Some(endpoint.to_owned());
        self
    }

    /// The same peer with this preshared key.
    #[must_use]
    pub fn with_preshared_key(mut self, key: Option<&str>) -> Self {
        self.preshared_key = key.map(str::to_owned);
        self
    }

    /// The same peer with a persistent keepalive.
    #[must_use]
    pub fn with_keepalive(mut self, seconds: u16) -> Self {
        self.persistent_keepalive = Some(seconds);
        self
    }

    /// The peer's section of a configuration.
    pub fn section(&self) -> String {
        let mut text = format!("[Peer]\nPublicKey = {}\n", self.public_key);
        let mut line = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                writeln!(text, "{key} = {value}").expect("writing to a string");
            }
        };
        line("PresharedKey", self.preshared_key.clone());
        line("AllowedIPs", (!self.allowed_ips.is_empty()).then(|| self.allowed_ips.clone()));
        line("Endpoint", self.endpoint.clone());
        line("PersistentKeepalive", self.persistent_keepalive.map(|seconds| seconds.to_string()));
        text
    }
}

/// A host with a daemon in it.
#[derive(Debug)]
pub struct Node {
    // Dropped before the host, so that its log is whole.
    daemon: Option<Daemon>,
    /// The host.
    pub host: Host,
    /// The implementation.
    pub implementation: Implementation,
    /// The node's keys.
    pub keys: Keys,
}

impl Node {
    /// A host with a running daemon that is not configured yet.
    pub fn new(implementation: Implementation, label: &str) -> Self {
        let mut node = Self::stopped(implementation, label);
        node.start();
        node
    }

    /// A host whose daemon does not run yet.
    pub fn stopped(implementation: Implementation, label: &str) -> Self {
        Self { daemon: None, host: Host::new(label), implementation, keys: Keys::generate() }
    }

    /// Starts the daemon.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_as(Launch::default());
    }

    /// Starts the daemon in a certain way.
    #[track_caller]
    pub fn start_as(&mut self, launch: Launch) {
        self.daemon = Some(Daemon::start_as(self.implementation, &self.host, INTERFACE, launch));
    }

    /// The interface's name.
    pub fn interface(&self) -> &'static str {
        INTERFACE
    }

    /// The running daemon.
    #[track_caller]
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("a daemon that was started")
    }

    /// Runs `wg` with these words, which must succeed.
    #[track_caller]
    pub fn wg(&self, arguments: &str) -> String {
        self.try_wg(arguments, "").success()
    }

    /// Runs `wg` with these words and this input, which `/dev/stdin` names.
    #[track_caller]
    pub fn try_wg(&self, arguments: &str, input: &str) -> Outcome {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        self.host.run_with_input("wg", &words, input)
    }

    /// Runs `wg set` on the interface.
    #[track_caller]
    pub fn set(&self, arguments: &str) {
        self.set_with_input(arguments, "");
    }

    /// Runs `wg set` on the interface, with a key on `/dev/stdin`.
    #[track_caller]
    pub fn set_with_input(&self, arguments: &str, input: &str) {
        self.try_wg(&format!("set {INTERFACE} {arguments}"), input).success();
    }

    /// Whether the interface has a peer with these keys.
    #[track_caller]
    pub fn has_peer(&self, keys: &Keys) -> bool {
        self.status().peers.iter().any(|peer| peer.public_key == keys.public)
    }

    /// Replaces the whole configuration by the node's key, the port and these peers.
    #[track_caller]
    pub fn configure(&self, port: Option<u16>, peers: &[Peer]) {
        let configuration = self.configuration(port, peers);
        self.try_wg(&format!("setconf {INTERFACE} /dev/stdin"), &configuration).success();
    }

    /// A configuration as `wg setconf` reads it.
    pub fn configuration(&self, port: Option<u16>, peers: &[Peer]) -> String {
        let mut text = format!("[Interface]\nPrivateKey = {}\n", self.keys.private);
        if let Some(port) = port {
            writeln!(text, "ListenPort = {port}").expect("writing to a string");
        }
        for peer in peers {
            text.push_str(&peer.section());
        }
        text
    }

    /// Makes the node send from another UDP port, as a node does that roams.
    #[track_caller]
    pub fn move_port(&self, port: u16) {
        if self.implementation.actual() == Implementation::Gotatun {
            // Now and then it ends when its port is changed, so that its host has to change the port for it.
            self.host.translate_output(&format!("udp sport 51820 masquerade to :{port}"));
        } else {
            self.set(&format!("listen-port {port}"));
        }
    }

    /// Gives the interface addresses and sets it up.
    #[track_caller]
    pub fn up(&self, addresses: &[&str], mtu: u32) {
        for address in addresses {
            self.host.ip(&format!("address add {address} dev {INTERFACE}"));
        }
        self.host.ip(&format!("link set {INTERFACE} mtu {mtu} up"));
        for address in addresses.iter().filter_map(|address| address.split('/').next()?.parse().ok()) {
            eventually("the interface's address is usable", || self.host.is_ready(address).then_some(()));
        }
    }

    /// The interface's state.
    #[track_caller]
    pub fn status(&self) -> Status {
        Status::parse(&self.wg(&format!("show {INTERFACE} dump")))
    }

    /// What `adit show --json` tells of the interface; of an Adit.
    #[track_caller]
    pub fn shown(&self) -> Shown {
        let binary = self.implementation.binary();
        let mut command = Command::new(binary);
        command.args(["show", INTERFACE, "--json"]);
        Shown::parse(&self.host.complete(command, "").success(), INTERFACE)
    }

    /// The state of the peer with these keys.
    #[track_caller]
    pub fn peer(&self, keys: &Keys) -> PeerStatus {
        let peers = self.status().peers;
        match peers.into_iter().find(|peer| peer.public_key == keys.public) {
            Some(peer) => peer,
            None => panic!("{} has no peer {}", self.host.label(), keys.public),
        }
    }
}

fn wg_key(verb: &str, input: &str) -> String {
    let mut command = Command::new("wg");
    command.arg(verb).stderr(Stdio::inherit());
    Outcome::of(command, input).success().trim().to_owned()
}
