//! The table of allowed IPs at the size of a fleet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit::AllowedIps;
use ipnet::IpNet;
use proptest::prelude::*;

const PEERS: u32 = 100_000;

fn v4_of(peer: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + peer).into()
}

fn v6_of(peer: u32) -> IpAddr {
    Ipv6Addr::from_bits((0xfd00_u128 << 112) + (u128::from(peer) << 64) + 1).into()
}

/// One /32 and one /64 for each peer, and everything else to a gateway.
fn fleet() -> AllowedIps<u32> {
    let mut table = AllowedIps::new([7, 11]);
    let default_routes = ["0.0.0.0/0", "::/0"];
    for route in default_routes {
        table.insert(route.parse().unwrap(), PEERS);
    }
    for peer in 0..PEERS {
        assert_eq!(table.insert(v4_of(peer).into(), peer), None);
        assert_eq!(table.insert(IpNet::new_assert(v6_of(peer), 64), peer), None);
    }
    table
}

#[test]
fn each_of_100_000_peers_is_found_by_its_addresses_until_it_is_removed() {
    let mut table = fleet();
    assert_eq!(table.len(), 2 + 2 * PEERS as usize);
    // 61 shares no factor with the number of peers: each comes once, far from the last one.
    for step in 0..PEERS {
        let peer = (step * 61) % PEERS;
        assert_eq!(table.lookup(v4_of(peer)), Some(peer));
        assert_eq!(table.lookup(v6_of(peer)), Some(peer));
        assert_eq!(table.prefixes_of(peer).count(), 2);
        table.remove_all(peer);
        assert_eq!(table.lookup(v4_of(peer)), Some(PEERS));
        assert_eq!(table.lookup(v6_of(peer)), Some(PEERS));
        assert_eq!(table.prefixes_of(peer).count(), 0);
    }
    assert_eq!(table.len(), 2);
}

#[test]
fn a_peer_may_take_over_all_prefixes_of_all_others() {
    let mut table = fleet();
    let prefixes: Vec<_> = table.iter().collect();
    for (prefix, owner) in prefixes {
        assert_eq!(table.insert(prefix, 5), Some(owner));
    }
    assert_eq!(table.prefixes_of(5).count(), 2 + 2 * PEERS as usize);
    assert_eq!(table.lookup(v4_of(99)), Some(5));
    table.remove_all(5);
    assert!(table.is_empty());
}

fn v4_net() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0_u8..=32).prop_map(|(bits, length)| IpNet::new_assert(Ipv4Addr::from_bits(bits).into(), length))
}

fn v6_net() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0_u8..=128).prop_map(|(bits, length)| IpNet::new_assert(Ipv6Addr::from_bits(bits).into(), length))
}

proptest! {
    #[test]
    fn a_prefix_owns_its_first_and_last_address_and_not_their_neighbours(
        net in prop_oneof![v4_net(), v6_net()],
        seed in any::<[u64; 2]>(),
    ) {
        let mut table = AllowedIps::new(seed);
        table.insert(net, 1);
        prop_assert_eq!(table.lookup(net.network()), Some(1));
        prop_assert_eq!(table.lookup(net.broadcast()), Some(1));
        let (before, after) = match (net.network(), net.broadcast()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (
                first.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
                last.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
            ),
            (IpAddr::V6(first), IpAddr::V6(last)) => (
                first.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
                last.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
            ),
            _ => unreachable!("both ends are of one family"),
        };
        for outside in [before, after].into_iter().flatten() {
            prop_assert_eq!(table.lookup(outside), None);
        }
    }

    #[test]
    fn adding_and_removing_a_prefix_leaves_no_trace(
        nets in proptest::collection::vec((prop_oneof![v4_net(), v6_net()], 0_u32..5), 0..40),
        extra in prop_oneof![v4_net(), v6_net()],
        probes in proptest::collection::vec(any::<u32>(), 10),
    ) {
        let mut table = AllowedIps::new([3, 5]);
        for &(net, owner) in &nets {
            table.insert(net, owner);
        }
        prop_assume!(nets.iter().all(|(net, _)| net.trunc() != extra.trunc()));
        let answers = |table: &AllowedIps<u32>| -> Vec<Option<u32>> {
            let v4 = probes.iter().map(|&bits| IpAddr::from(Ipv4Addr::from_bits(bits)));
            let ends = nets.iter().flat_map(|(net, _)| [net.network(), net.broadcast()]);
            v4.chain(ends).map(|address| table.lookup(address)).collect()
        };
        let before = answers(&table);
        prop_assert_eq!(table.insert(extra, 9), None);
        prop_assert!(table.remove(extra, 9));
        prop_assert_eq!(answers(&table), before);
    }
}
