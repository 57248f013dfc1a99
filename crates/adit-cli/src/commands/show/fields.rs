//! One kind of information, in lines and tabs.

use std::fmt::{Display, Write as _};

use adit::{PresharedKey, PrivateKey};
use adit_device::conf::Endpoint;
use adit_device::config::{DeviceState, KEEPALIVE_OFF, PeerState};
use zeroize::Zeroizing;

use super::Named;

/// What a script may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Field {
    /// The interface's public key
    PublicKey,
    /// The interface's private key
    PrivateKey,
    /// The UDP port
    ListenPort,
    /// The mark of outer packets
    Fwmark,
    /// The peers' public keys
    Peers,
    /// The peers' preshared keys
    PresharedKeys,
    /// The peers' addresses
    Endpoints,
    /// What the peers may send from
    AllowedIps,
    /// When the last handshakes were, in seconds since 1970
    LatestHandshakes,
    /// The bytes received and sent
    Transfer,
    /// The intervals of persistent keepalives
    PersistentKeepalive,
    /// Everything
    Dump,
}

/// One line per interface or peer, beginning with the interface's name if it is for all of them.
pub(super) fn write(all: &[Named], field: Field, with_names: bool) -> Zeroizing<String> {
    let rows: usize = all.iter().map(|(_, state)| 1 + state.peers.len()).sum();
    let allowed_ips: usize = all.iter().flat_map(|(_, state)| &state.peers).map(|peer| peer.allowed_ips.len()).sum();
    // Room for everything: growing would leave copies of keys behind.
    let mut text = Zeroizing::new(String::with_capacity(512 * rows + 64 * allowed_ips));
    for (name, state) in all {
        let name = with_names.then_some(name.as_str());
        write_interface(&mut text, name, state, field);
    }
    text
}

fn write_interface(text: &mut String, name: Option<&str>, state: &DeviceState, field: Field) {
    match field {
        Field::PublicKey => line(text, name, &[&public_key(state)]),
        Field::PrivateKey => line(text, name, &[&*private_key(state)]),
        Field::ListenPort => line(text, name, &[&state.listen_port]),
        Field::Fwmark => line(text, name, &[&fwmark(state)]),
        Field::Dump => {
            line(text, name, &[&*private_key(state), &public_key(state), &state.listen_port, &fwmark(state)]);
            state.peers.iter().for_each(|peer| write_peer(text, name, peer, field));
        }
        _ => state.peers.iter().for_each(|peer| write_peer(text, name, peer, field)),
    }
}

fn write_peer(text: &mut String, name: Option<&str>, peer: &PeerState, field: Field) {
    let key = &peer.public_key;
    let handshake = peer.last_handshake.unwrap_or_default().as_secs();
    match field {
        Field::PresharedKeys => line(text, name, &[key, &*preshared_key(peer)]),
        Field::Endpoints => line(text, name, &[key, &endpoint(peer)]),
        Field::AllowedIps => line(text, name, &[key, &allowed_ips(peer, " ")]),
        Field::LatestHandshakes => line(text, name, &[key, &handshake]),
        Field::Transfer => line(text, name, &[key, &peer.rx_bytes, &peer.tx_bytes]),
        Field::PersistentKeepalive => line(text, name, &[key, &keepalive(peer)]),
        Field::Dump => line(
            text,
            name,
            &[
                key,
                &*preshared_key(peer),
                &endpoint(peer),
                &allowed_ips(peer, ","),
                &handshake,
                &peer.rx_bytes,
                &peer.tx_bytes,
                &keepalive(peer),
            ],
        ),
        _ => line(text, name, &[key]),
    }
}

fn line(text: &mut String, name: Option<&str>, columns: &[&dyn Display]) {
    if let Some(name) = name {
        text.push_str(name);
        text.push('\t');
    }
    for (index, column) in columns.iter().enumerate() {
        let before = if index == 0 { "" } else { "\t" };
        write!(text, "{before}{column}").expect("a String takes all text");
    }
    text.push('\n');
}

fn public_key(state: &DeviceState) -> String {
    state.private_key.as_ref().map_or_else(none, |key| key.public_key().to_base64())
}

fn private_key(state: &DeviceState) -> Zeroizing<String> {
    state.private_key.as_deref().map_or_else(|| Zeroizing::new(none()), PrivateKey::to_base64)
}

fn preshared_key(peer: &PeerState) -> Zeroizing<String> {
    peer.preshared_key.as_deref().map_or_else(|| Zeroizing::new(none()), PresharedKey::to_base64)
}

fn fwmark(state: &DeviceState) -> String {
    if state.fwmark == 0 { "off".to_owned() } else { format!("0x{:x}", state.fwmark) }
}

fn endpoint(peer: &PeerState) -> String {
    peer.endpoint.map_or_else(none, |endpoint| Endpoint::from(endpoint).to_string())
}

fn keepalive(peer: &PeerState) -> String {
    if peer.persistent_keepalive == KEEPALIVE_OFF { "off".to_owned() } else { peer.persistent_keepalive.to_string() }
}

fn allowed_ips(peer: &PeerState, between: &str) -> String {
    if peer.allowed_ips.is_empty() {
        return none();
    }
    let networks: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    networks.join(between)
}

fn none() -> String {
    "(none)".to_owned()
}
