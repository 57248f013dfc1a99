//! Interfaces as JSON, in the names that `wg-json` of wireguard-tools made usual.

use std::collections::BTreeMap;
use std::io;

use adit_device::conf::Endpoint;
use adit_device::config::{DeviceState, KEEPALIVE_OFF, PeerState};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::Named;

/// An object with a member for each interface. Secret keys are in it only if they are to be shown.
pub(super) fn write(all: &[Named], shows_keys: bool) -> anyhow::Result<Zeroizing<String>> {
    let all: BTreeMap<&str, Interface> =
        all.iter().map(|(name, state)| (name.as_str(), interface(state, shows_keys))).collect();
    // Its size is found first: growing would leave copies of keys behind.
    let mut count = Count(1);
    serde_json::to_writer_pretty(&mut count, &all)?;
    let mut text = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer_pretty(&mut *text, &all)?;
    text.push(b'\n');
    Ok(Zeroizing::new(String::from_utf8(std::mem::take(&mut *text))?))
}

/// How many bytes have been written.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    listen_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    fwmark: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    offloads: String,
    /// What the daemon has given up, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    confinement: String,
    /// Packets, for each reason.
    drops: BTreeMap<String, u64>,
    peers: BTreeMap<String, Peer>,
}

/// Wiped when dropped.
struct Secret(Zeroizing<String>);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    #[serde(skip_serializing_if = "Option::is_none")]
    preshared_key: Option<Secret>,
    has_preshared_key: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// Seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_handshake: Option<u64>,
    transfer_rx: u64,
    transfer_tx: u64,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent_keepalive: Option<u16>,
    allowed_ips: Vec<String>,
}

fn interface(state: &DeviceState, shows_keys: bool) -> Interface {
    Interface {
        private_key: state.private_key.as_ref().filter(|_| shows_keys).map(|key| Secret(key.to_base64())),
        public_key: state.private_key.as_ref().map(|key| key.public_key().to_base64()),
        listen_port: state.listen_port,
        fwmark: (state.fwmark != 0).then_some(state.fwmark),
        threads: (state.facts.threads != 0).then_some(state.facts.threads),
        offloads: state.facts.offloads.clone(),
        confinement: state.facts.confinement.clone(),
        drops: state.facts.drops.iter().cloned().collect(),
        peers: state.peers.iter().map(|state| (state.public_key.to_base64(), peer(state, shows_keys))).collect(),
    }
}

fn peer(state: &PeerState, shows_keys: bool) -> Peer {
    Peer {
        preshared_key: state.preshared_key.as_ref().filter(|_| shows_keys).map(|key| Secret(key.to_base64())),
        has_preshared_key: state.preshared_key.is_some(),
        endpoint: state.endpoint.map(|endpoint| Endpoint::from(endpoint).to_string()),
        latest_handshake: state.last_handshake.map(|time| time.as_secs()),
        transfer_rx: state.rx_bytes,
        transfer_tx: state.tx_bytes,
        persistent_keepalive: Some(state.persistent_keepalive).filter(|&seconds| seconds != KEEPALIVE_OFF),
        allowed_ips: state.allowed_ips.iter().map(ToString::to_string).collect(),
    }
}
