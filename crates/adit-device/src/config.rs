//! What an interface is told and what it tells: plain values, shared by the UAPI, the configuration files and the
//! device.
//!
//! Keys redact themselves in `Debug`, so every type here can be logged. Secret keys are boxed: when a list grows or a
//! value is moved, only the address of a key is left behind, and each key is wiped where it lies.

use std::net::SocketAddr;
use std::time::Duration;

use adit::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;

/// The interval of the persistent keepalive that means "off".
pub const KEEPALIVE_OFF: u16 = 0;

/// Changes to an interface. What is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUpdate {
    /// `Some(None)` removes the key.
    pub private_key: Option<Option<Box<PrivateKey>>>,
    /// 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// 0 removes the mark.
    pub fwmark: Option<u32>,
    /// Remove every peer before those below are set.
    pub replace_peers: bool,
    /// In the order in which they are to be applied; a peer may occur more than once.
    pub peers: Vec<PeerUpdate>,
}

/// Changes to one peer. An existing peer keeps its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUpdate {
    /// The peer's name.
    pub public_key: PublicKey,
    /// Remove this peer.
    pub remove: bool,
    /// Do nothing if there is no such peer.
    pub update_only: bool,
    /// `Some(None)` removes the key.
    pub preshared_key: Option<Option<Box<PresharedKey>>>,
    /// The peer's UDP address.
    pub endpoint: Option<SocketAddr>,
    /// In seconds; 0 is off.
    pub persistent_keepalive: Option<u16>,
    /// Remove every allowed IP of this peer before those below are changed.
    pub replace_allowed_ips: bool,
    /// In the order in which they are to be applied.
    pub allowed_ips: Vec<AllowedIpChange>,
}

impl PeerUpdate {
    /// Changes nothing, except that the peer will exist.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// One allowed IP given to a peer or taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllowedIpChange {
    /// Take it from this peer, if it is this peer's.
    pub remove: bool,
    /// Without bits beyond the prefix.
    pub net: IpNet,
}

impl AllowedIpChange {
    /// Gives `net` to the peer, taking it from any other.
    pub fn add(net: IpNet) -> Self {
        Self { remove: false, net: net.trunc() }
    }
}

/// What an interface is and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// The interface's identity.
    pub private_key: Option<Box<PrivateKey>>,
    /// The UDP port in use.
    pub listen_port: u16,
    /// 0 is none.
    pub fwmark: u32,
    /// In the order in which they are shown.
    pub peers: Vec<PeerState>,
    /// What only Adit tells; see [`Request::GetFacts`](crate::uapi::Request::GetFacts).
    pub facts: Facts,
}

/// What a peer is and has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerState {
    /// The peer's name.
    pub public_key: PublicKey,
    /// Mixed into the handshake, if set.
    pub preshared_key: Option<Box<PresharedKey>>,
    /// Where the peer was last heard, or was said to be.
    pub endpoint: Option<SocketAddr>,
    /// In seconds; 0 is off.
    pub persistent_keepalive: u16,
    /// Since the Unix epoch; `None` if there has been none.
    pub last_handshake: Option<Duration>,
    /// Bytes received from the peer.
    pub rx_bytes: u64,
    /// Bytes sent to the peer.
    pub tx_bytes: u64,
    /// The addresses that the peer may send from; packets to them go to it.
    pub allowed_ips: Vec<IpNet>,
    /// The version of the WireGuard protocol; there is only 1.
    pub protocol_version: u32,
}

impl PeerState {
    /// A peer of which nothing is known but its key.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: KEEPALIVE_OFF,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            allowed_ips: Vec::new(),
            protocol_version: 1,
        }
    }
}

/// What Adit tells beyond the WireGuard interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Packets dropped, for each reason that has occurred.
    pub drops: Vec<(String, u64)>,
    /// The offloads in use, in words.
    pub offloads: String,
    /// Worker threads; 0 if not known.
    pub threads: u32,
    /// What the process has given up, in words; empty if not known.
    pub confinement: String,
}

impl Facts {
    /// The reasons for drops that are the device's, beside those of the engine ([`adit::DropReason::ALL`]).
    pub const DEVICE_DROPS: [&str; 4] = ["receive_overflow", "send_error", "standing_queue", "tun_error"];
}
