//! Configuration files as `wg(8)` and `wg-quick(8)` read them.
//!
//! Keys and section names may be written in any case; `#` begins a comment wherever it stands; a list may be spread
//! over several lines; of a key that takes one value, the last one counts; white space within a section's name, a key
//! or a value that `wg` reads is passed over. What cannot be understood is an error that says where it stands, what was
//! found and what was expected, and never repeats a key.

mod endpoint;
mod parse;
mod rt_tables;
mod write;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use adit::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::config::{AllowedIpChange, DeviceState, DeviceUpdate, KEEPALIVE_OFF, PeerUpdate};

pub use endpoint::Endpoint;

/// The most bytes of a file; about 300,000 peers.
const MAX_FILE: u64 = 64 << 20;

/// A configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The `[Interface]` section.
    pub interface: InterfaceConfig,
    /// The `[Peer]` sections.
    pub peers: Vec<PeerConfig>,
}

/// The `[Interface]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// `PrivateKey`
    pub private_key: Option<Box<PrivateKey>>,
    /// `ListenPort`; the kernel chooses if there is none.
    pub listen_port: Option<u16>,
    /// `FwMark`; 0 is none.
    pub fwmark: Option<u32>,
    /// `Address`, with the bits beyond the prefix.
    pub addresses: Vec<IpNet>,
    /// `MTU`
    pub mtu: Option<u16>,
    /// `DNS`: addresses of servers and names of search domains.
    pub dns: Vec<String>,
    /// `Table`
    pub table: Table,
    /// `PreUp`
    pub pre_up: Vec<String>,
    /// `PostUp`
    pub post_up: Vec<String>,
    /// `PreDown`
    pub pre_down: Vec<String>,
    /// `PostDown`
    pub post_down: Vec<String>,
    /// `SaveConfig`
    pub save_config: bool,
}

/// A `[Peer]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// `PublicKey`
    pub public_key: PublicKey,
    /// `PresharedKey`
    pub preshared_key: Option<Box<PresharedKey>>,
    /// `Endpoint`
    pub endpoint: Option<Endpoint>,
    /// `PersistentKeepalive`, in seconds; 0 is off.
    pub persistent_keepalive: Option<u16>,
    /// `AllowedIPs`, without bits beyond the prefix.
    pub allowed_ips: Vec<IpNet>,
}

/// Where routes to the peers' allowed IPs go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// To the main table; a default route to a table of its own, by rules.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// To this table, all of them.
    Number(u32),
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfError`].
    pub fn read(path: &Path) -> Result<Self, ConfError> {
        let mut text = Zeroizing::new(Vec::new());
        let failed = |source| ConfError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        if length > MAX_FILE {
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "the file has more than 64 MiB")));
        }
        // At once, so that growing leaves no copies of keys behind.
        text.reserve_exact(usize::try_from(length).unwrap_or(0) + 1);
        file.by_ref().take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
        Self::parse(&text).map_err(|wrong| ConfError::Wrong { path: path.to_owned(), wrong })
    }

    /// Understands the text of a file.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn parse(text: &[u8]) -> Result<Self, Wrong> {
        parse::parse(text)
    }

    /// The text of a file that means this.
    pub fn to_text(&self) -> Zeroizing<String> {
        write::write(self)
    }

    /// What `wg showconf` would write of an interface.
    pub fn from_state(state: &DeviceState) -> Self {
        let peers = state.peers.iter().map(|peer| PeerConfig {
            public_key: peer.public_key,
            preshared_key: peer.preshared_key.clone(),
            endpoint: peer.endpoint.map(Endpoint::from),
            persistent_keepalive: (peer.persistent_keepalive != KEEPALIVE_OFF).then_some(peer.persistent_keepalive),
            allowed_ips: peer.allowed_ips.clone(),
        });
        let interface = InterfaceConfig {
            private_key: state.private_key.clone(),
            listen_port: (state.listen_port != 0).then_some(state.listen_port),
            fwmark: (state.fwmark != 0).then_some(state.fwmark),
            ..InterfaceConfig::default()
        };
        Self { interface, peers: peers.collect() }
    }

    /// The changes that make any interface one of this configuration, as `wg setconf` would ask for them. `endpoints`
    /// are the peers' endpoints, resolved, in their order.
    pub fn to_update(&self, endpoints: &[Option<SocketAddr>]) -> DeviceUpdate {
        let endpoints = endpoints.iter().copied().chain(std::iter::repeat(None));
        let peers = self.peers.iter().zip(endpoints).map(|(peer, endpoint)| PeerUpdate {
            // All are new: what is not said is off, or was said in an earlier section of the same peer.
            preshared_key: peer.preshared_key.clone().map(Some),
            endpoint,
            persistent_keepalive: peer.persistent_keepalive,
            replace_allowed_ips: true,
            allowed_ips: peer.allowed_ips.iter().copied().map(AllowedIpChange::add).collect(),
            ..PeerUpdate::new(peer.public_key)
        });
        DeviceUpdate {
            private_key: Some(self.interface.private_key.clone()),
            listen_port: Some(self.interface.listen_port.unwrap_or(0)),
            fwmark: Some(self.interface.fwmark.unwrap_or(0)),
            replace_peers: true,
            peers: peers.collect(),
        }
    }
}

impl PeerConfig {
    /// A peer of which nothing is known but its key.
    pub fn new(public_key: PublicKey) -> Self {
        Self { public_key, preshared_key: None, endpoint: None, persistent_keepalive: None, allowed_ips: Vec::new() }
    }
}

/// Why a file gives no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be understood.
    #[error("{}:{wrong}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        wrong: Wrong,
    },
}

/// What is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What stands there; never a key.
    pub found: String,
    /// What should stand there.
    pub expected: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: found {}, expected {}", self.line, self.column, self.found, self.expected)
    }
}

impl std::error::Error for Wrong {}

#[cfg(test)]
mod tests;
