//! Any configuration at all, for property tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit::{PresharedKey, PrivateKey, PublicKey};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::config::{AllowedIpChange, DeviceState, DeviceUpdate, Facts, PeerState, PeerUpdate};

pub(crate) fn private_key() -> impl Strategy<Value = Box<PrivateKey>> {
    any::<[u8; 32]>().prop_map(|bytes| Box::new(PrivateKey::from_bytes(bytes)))
}

pub(crate) fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey::from_bytes)
}

/// Never all zeros, which stand for "none".
pub(crate) fn preshared_key() -> impl Strategy<Value = Box<PresharedKey>> {
    (any::<[u8; 31]>(), 1u8..).prop_map(|(low, high)| {
        let mut bytes = [high; 32];
        bytes[..31].copy_from_slice(&low);
        Box::new(PresharedKey::from_bytes(bytes))
    })
}

pub(crate) fn network() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0u8..=32).prop_map(|(bits, length)| (IpAddr::V4(Ipv4Addr::from(bits)), length));
    let v6 = (any::<u128>(), 0u8..=128).prop_map(|(bits, length)| (IpAddr::V6(Ipv6Addr::from(bits)), length));
    prop_oneof![v4, v6].prop_map(|(address, length)| IpNet::new(address, length).unwrap().trunc())
}

/// No IPv4-mapped IPv6 address, which would be read back as IPv4.
pub(crate) fn endpoint() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits)));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits | 1 << 127)));
    (prop_oneof![v4, v6], any::<u16>()).prop_map(SocketAddr::from)
}

prop_compose! {
    fn peer_update()(
        public_key in public_key(),
        (remove, update_only, replace_allowed_ips) in any::<(bool, bool, bool)>(),
        preshared_key in of(of(preshared_key())),
        endpoint in of(endpoint()),
        persistent_keepalive in any::<Option<u16>>(),
        allowed_ips in vec((any::<bool>(), network()).prop_map(|(remove, net)| AllowedIpChange { remove, net }), 0..4),
    ) -> PeerUpdate {
        PeerUpdate {
            public_key, remove, update_only, preshared_key, endpoint, persistent_keepalive, replace_allowed_ips,
            allowed_ips,
        }
    }
}

prop_compose! {
    pub(crate) fn device_update()(
        private_key in of(of(private_key())),
        (listen_port, fwmark, replace_peers) in any::<(Option<u16>, Option<u32>, bool)>(),
        peers in vec(peer_update(), 0..5),
    ) -> DeviceUpdate {
        DeviceUpdate { private_key, listen_port, fwmark, replace_peers, peers }
    }
}

prop_compose! {
    fn peer_state()(
        public_key in public_key(),
        preshared_key in of(preshared_key()),
        endpoint in of(endpoint()),
        last_handshake in of((1u64.., 0u32..1_000_000_000).prop_map(|(s, ns)| Duration::new(s, ns))),
        (persistent_keepalive, rx_bytes, tx_bytes) in any::<(u16, u64, u64)>(),
        allowed_ips in vec(network(), 0..4),
    ) -> PeerState {
        PeerState {
            public_key, preshared_key, endpoint, persistent_keepalive, last_handshake, rx_bytes, tx_bytes, allowed_ips,
            protocol_version: 1,
        }
    }
}

prop_compose! {
    pub(crate) fn device_state()(
        private_key in of(private_key()),
        (listen_port, fwmark, threads) in any::<(u16, u32, u32)>(),
        offloads in "[a-z0-9 ]{0,20}",
        confinement in "[a-z0-9_, ()]{0,20}",
        drops in vec(("[a-z ]{0,10}", any::<u64>()), 0..3),
        peers in vec(peer_state(), 0..5),
    ) -> DeviceState {
        DeviceState { private_key, listen_port, fwmark, peers, facts: Facts { drops, offloads, threads, confinement } }
    }
}
