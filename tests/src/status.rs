//! What `wg show INTERFACE dump` prints, in its fields, and what only `adit show --json` tells.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The state of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The private key in base64, or `(none)`.
    pub private_key: String,
    /// The public key in base64, or `(none)`.
    pub public_key: String,
    /// The UDP port.
    pub listen_port: u16,
    /// The mark in hexadecimal, or `off`.
    pub fwmark: String,
    /// The peers, in the order in which they are listed.
    pub peers: Vec<PeerStatus>,
}

/// The state of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The public key in base64.
    pub public_key: String,
    /// The preshared key in base64, or `(none)`.
    pub preshared_key: String,
    /// Address and port, or `(none)`.
    pub endpoint: String,
    /// The allowed IPs, sorted.
    pub allowed_ips: Vec<String>,
    /// Seconds since the Unix epoch; 0 when there was none.
    pub latest_handshake: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Seconds, or `off`.
    pub persistent_keepalive: String,
}

impl Status {
    /// Reads the lines of a dump; fails the test when they are anything else.
    #[track_caller]
    pub fn parse(dump: &str) -> Self {
        let mut lines = dump.lines();
        let first: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
        let [private_key, public_key, listen_port, fwmark] = first[..] else {
            panic!("the first line of a dump has four fields, not {first:?}");
        };
        Self {
            private_key: private_key.to_owned(),
            public_key: public_key.to_owned(),
            listen_port: number(listen_port),
            fwmark: fwmark.to_owned(),
            peers: lines.map(PeerStatus::parse).collect(),
        }
    }
}

/// What only Adit tells of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Shown {
    /// The offloads in use, in words.
    pub offloads: String,
    /// How many packets were dropped, for each reason.
    pub drops: BTreeMap<String, u64>,
}

impl Shown {
    /// Reads the JSON; fails the test when it is anything else.
    #[track_caller]
    pub fn parse(json: &str, interface: &str) -> Self {
        let mut all: BTreeMap<String, Self> =
            serde_json::from_str(json).unwrap_or_else(|error| panic!("no JSON of interfaces: {error}\n{json}"));
        all.remove(interface).unwrap_or_else(|| panic!("{interface} is not shown: {json}"))
    }

    /// How many packets were dropped for any of these reasons.
    pub fn dropped(&self, reasons: &[&str]) -> u64 {
        reasons.iter().filter_map(|reason| self.drops.get(*reason)).sum()
    }
}

impl PeerStatus {
    #[track_caller]
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let [public_key, preshared_key, endpoint, allowed_ips, handshake, received, sent, keepalive] = fields[..]
        else {
            panic!("a peer's line of a dump has eight fields, not {fields:?}");
        };
        let mut allowed_ips: Vec<String> =
            allowed_ips.split(',').filter(|ip| *ip != "(none)").map(str::to_owned).collect();
        allowed_ips.sort();
        Self {
            public_key: public_key.to_owned(),
            preshared_key: preshared_key.to_owned(),
            endpoint: endpoint.to_owned(),
            allowed_ips,
            latest_handshake: number(handshake),
            received: number(received),
            sent: number(sent),
            persistent_keepalive: keepalive.to_owned(),
        }
    }
}

#[track_caller]
fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("a number, not {text:?}"))
}
