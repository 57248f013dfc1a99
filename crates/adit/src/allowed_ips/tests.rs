use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::AllowedIps;

const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn table(prefixes: &[(&str, u32)]) -> AllowedIps<u32> {
    let mut table = AllowedIps::new(SEED);
    for &(prefix, owner) in prefixes {
        assert_eq!(table.insert(net(prefix), owner), None, "{prefix}");
    }
    table
}

fn prefixes_of(table: &AllowedIps<u32>, owner: u32) -> Vec<IpNet> {
    table.prefixes_of(owner).collect()
}

/// A /32 for peer `number`.
fn host(number: u32) -> IpNet {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)).into()
}

fn memory(table: &AllowedIps<u32>) -> usize {
    table.v4.memory() + table.v6.memory()
}

#[test]
fn the_longest_prefix_wins_in_whatever_order_they_came() {
    let prefixes = [
        ("0.0.0.0/0", 0),
        ("10.0.0.0/8", 8),
        ("10.1.0.0/16", 16),
        ("10.1.2.0/24", 24),
        ("10.1.2.3/32", 32),
        ("::/0", 100),
        ("2001:db8::/32", 132),
        ("2001:db8:1::/48", 148),
        ("2001:db8:1:2::/64", 164),
        ("2001:db8:1:2::3/128", 228),
    ];
    let mut reversed = prefixes;
    reversed.reverse();
    for prefixes in [prefixes, reversed] {
        let table = table(&prefixes);
        for (address, owner) in [
            ("192.0.2.1", 0),
            ("11.0.0.0", 0),
            ("10.255.255.255", 8),
            ("10.1.255.0", 16),
            ("10.1.2.4", 24),
            ("10.1.2.3", 32),
            ("::", 100),
            ("2001:db9::", 100),
            ("2001:db8:2::", 132),
            ("2001:db8:1:1::", 148),
            ("2001:db8:1:2::4", 164),
            ("2001:db8:1:2::3", 228),
        ] {
            assert_eq!(table.lookup(ip(address)), Some(owner), "{address}");
        }
    }
}

#[test]
fn an_address_outside_all_prefixes_has_no_owner() {
    let table = table(&[("10.0.0.0/9", 1), ("2001:db8::/33", 1)]);
    for address in ["9.255.255.255", "10.128.0.0", "::", "2001:db8:8000::", "0.0.0.0"] {
        assert_eq!(table.lookup(ip(address)), None, "{address}");
    }
    assert_eq!(table.lookup(ip("10.127.255.255")), Some(1));
    assert_eq!(table.lookup(ip("2001:db8:7fff:ffff::")), Some(1));
}

#[test]
fn the_families_are_apart() {
    let v4 = table(&[("0.0.0.0/0", 4)]);
    assert_eq!(v4.lookup(ip("::ffff:10.0.0.1")), None);
    let v6 = table(&[("::/0", 6)]);
    assert_eq!(v6.lookup(ip("10.0.0.1")), None);
}

#[test]
fn packet_bytes_are_looked_up_in_network_order() {
    let table = table(&[("10.1.2.3/32", 4), ("102:304:506:708:90a:b0c:d0e:f10/128", 6)]);
    assert_eq!(table.lookup(IpAddr::from([10, 1, 2, 3])), Some(4));
    assert_eq!(table.lookup(IpAddr::from([3, 2, 1, 10])), None);
    let address = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16_u8];
    assert_eq!(table.lookup(IpAddr::from(address)), Some(6));
}

#[test]
fn host_bits_are_ignored() {
    let mut table = table(&[("10.1.2.3/8", 1), ("2001:db8::1/32", 2)]);
    assert_eq!(prefixes_of(&table, 1), [net("10.0.0.0/8")]);
    assert_eq!(prefixes_of(&table, 2), [net("2001:db8::/32")]);
    assert_eq!(table.insert(net("10.9.9.9/8"), 3), Some(1));
    assert!(table.remove(net("10.7.7.7/8"), 3));
    assert!(table.remove(net("2001:db8::2/32"), 2));
    assert!(table.is_empty());
}

#[test]
fn an_inserted_prefix_moves_from_its_former_owner() {
    let mut table = table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 1), ("10.0.0.0/9", 2)]);
    assert_eq!(table.insert(net("10.0.0.0/8"), 2), Some(1));
    assert_eq!(table.lookup(ip("10.200.0.1")), Some(2));
    assert_eq!(prefixes_of(&table, 1), [net("10.1.0.0/16")]);
    assert_eq!(prefixes_of(&table, 2), [net("10.0.0.0/9"), net("10.0.0.0/8")]);
    assert_eq!(table.len(), 3);
    assert_eq!(table.insert(net("10.0.0.0/8"), 2), Some(2));
    assert_eq!(table.len(), 3);
}

#[test]
fn only_the_owner_gives_up_a_prefix() {
    let mut table = table(&[("10.0.0.0/8", 1)]);
    assert!(!table.remove(net("10.0.0.0/8"), 2));
    assert!(!table.remove(net("10.0.0.0/9"), 1));
    assert_eq!(table.lookup(ip("10.0.0.1")), Some(1));
    assert!(table.remove(net("10.0.0.0/8"), 1));
    assert!(!table.remove(net("10.0.0.0/8"), 1));
    assert_eq!(table.lookup(ip("10.0.0.1")), None);
}

#[test]
fn what_lay_under_a_removed_prefix_shows_again() {
    let mut table = table(&[("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.0.0.1/32", 2)]);
    assert!(table.remove(net("10.0.0.1/32"), 2));
    assert_eq!(table.lookup(ip("10.0.0.1")), Some(1));
    assert!(table.remove(net("10.0.0.0/8"), 1));
    assert_eq!(table.lookup(ip("10.0.0.1")), Some(0));
}

#[test]
fn an_owner_loses_all_its_prefixes_and_nobody_else_any() {
    let mut table =
        table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.0/24", 1), ("2001:db8::/32", 1), ("2001:db8::/48", 2)]);
    table.remove_all(1);
    assert_eq!(prefixes_of(&table, 1), []);
    assert_eq!(prefixes_of(&table, 2), [net("10.1.0.0/16"), net("2001:db8::/48")]);
    assert_eq!(table.lookup(ip("10.0.0.1")), None);
    assert_eq!(table.lookup(ip("10.1.1.1")), Some(2));
    table.remove_all(1);
    table.remove_all(3);
    assert_eq!(table.len(), 2);
}

#[test]
fn prefixes_are_listed_in_the_order_their_owner_got_them() {
    let order = ["10.0.3.0/24", "10.0.1.0/24", "10.0.2.0/32", "::3/128", "::/0", "::1/128"];
    let mut table = AllowedIps::new(SEED);
    for prefix in order {
        table.insert(net("192.0.2.0/24"), 9);
        table.insert(net(prefix), 1);
        table.insert(net(prefix), 1);
        // Removals move entries about.
        table.remove_all(9);
    }
    assert_eq!(prefixes_of(&table, 1), order.map(net));
}

#[test]
fn every_length_of_both_families_matches_exactly_its_range() {
    let mut table = AllowedIps::new(SEED);
    for length in 0..=32 {
        table.insert(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, length).into(), u32::from(length));
    }
    let ones = Ipv6Addr::from_bits(u128::MAX);
    for length in 0..=128 {
        table.insert(Ipv6Net::new_assert(ones, length).into(), u32::from(length));
    }
    for length in 0..=32_u32 {
        // Agrees with all ones in exactly the first `length` bits.
        let flipped = 1_u32.checked_shl(31_u32.wrapping_sub(length)).unwrap_or(0);
        let address = Ipv4Addr::from_bits(u32::MAX ^ flipped);
        assert_eq!(table.lookup(address.into()), Some(length));
    }
    for length in 0..=128_u32 {
        let flipped = 1_u128.checked_shl(127_u32.wrapping_sub(length)).unwrap_or(0);
        let address = Ipv6Addr::from_bits(u128::MAX ^ flipped);
        assert_eq!(table.lookup(address.into()), Some(length));
    }
    assert_eq!(table.iter().count(), 33 + 129);
}

#[test]
fn an_empty_table_takes_no_memory() {
    let mut table = AllowedIps::new(SEED);
    assert_eq!(memory(&table), 0);
    table.insert(net("10.0.0.0/8"), 1);
    table.insert(net("::/0"), 1);
    assert!(memory(&table) > 0);
    table.remove_all(1);
    assert_eq!(memory(&table), 0);
}

#[test]
fn a_hundred_thousand_peers_take_less_than_64_bytes_each() {
    let mut table = AllowedIps::new(SEED);
    for number in 0..100_000 {
        table.insert(host(number), number);
    }
    assert!(memory(&table) < 64 * 100_000, "{} bytes", memory(&table));
    table.v4.assert_consistent();
}

#[test]
fn memory_is_reused_and_given_back() {
    let mut table = AllowedIps::new(SEED);
    for number in 0..10_000 {
        table.insert(host(number), number);
    }
    let full = memory(&table);
    for number in 10_000..100_000 {
        table.remove_all(number - 10_000);
        table.insert(host(number), number);
    }
    // A hash table may double once to make room for the marks of removals.
    assert!(memory(&table) <= full * 3 / 2, "{} of {full}", memory(&table));
    for number in 90_000..99_900 {
        table.remove_all(number);
    }
    assert!(memory(&table) < full / 20, "{} of {full}", memory(&table));
    table.v4.assert_consistent();
    assert!((99_900..100_000).all(|number| prefixes_of(&table, number) == [host(number)]));
}

#[test]
fn any_seed_spreads_the_prefixes() {
    for seed in [[0, 0], [0, u64::MAX], [u64::MAX, 0], [u64::MAX; 2], [1, 1]] {
        let mut table = AllowedIps::new(seed);
        for number in 0..20_000 {
            table.insert(host(number), number);
        }
        assert!((0..20_000).all(|number| table.lookup(host(number).addr()) == Some(number)));
    }
}

/// What the table should do, without any cleverness.
#[derive(Default)]
struct Model {
    /// In the order in which the owners got them.
    prefixes: Vec<(IpNet, u32)>,
}

impl Model {
    fn insert(&mut self, prefix: IpNet, owner: u32) -> Option<u32> {
        let prefix = prefix.trunc();
        let known = self.prefixes.iter().position(|known| known.0 == prefix);
        let former = known.map(|at| self.prefixes[at].1);
        if former != Some(owner) {
            self.prefixes.retain(|known| known.0 != prefix);
            self.prefixes.push((prefix, owner));
        }
        former
    }

    fn remove(&mut self, prefix: IpNet, owner: u32) -> bool {
        let before = self.prefixes.len();
        self.prefixes.retain(|&known| known != (prefix.trunc(), owner));
        self.prefixes.len() < before
    }

    fn lookup(&self, address: IpAddr) -> Option<u32> {
        let holding = self.prefixes.iter().filter(|known| known.0.contains(&address));
        holding.max_by_key(|known| known.0.prefix_len()).map(|known| known.1)
    }

    fn prefixes_of(&self, owner: u32) -> Vec<IpNet> {
        let own = self.prefixes.iter().filter(|known| known.1 == owner);
        let (v4, v6): (Vec<_>, Vec<_>) = own.map(|known| known.0).partition(|prefix| matches!(prefix, IpNet::V4(_)));
        [v4, v6].concat()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(IpNet, u32),
    Remove(IpNet, u32),
    RemoveAll(u32),
}

/// Addresses that often share prefixes.
fn addresses() -> impl Strategy<Value = IpAddr> {
    let v4 = prop_oneof![
        3 => (0_u32..4, 0_u32..4).prop_map(|(high, low)| (high << 30) | low),
        1 => any::<u32>(),
    ];
    let v6 = prop_oneof![
        3 => (0_u128..4, 0_u128..4, 0_u128..4)
            .prop_map(|(high, mid, low)| (high << 126) | (mid << 63) | low),
        1 => any::<u128>(),
    ];
    prop_oneof![
        v4.prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        v6.prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn prefixes() -> impl Strategy<Value = IpNet> {
    let lengths = prop_oneof![2 => Just(0), 2 => Just(255), 4 => 0_u8..=128];
    (addresses(), lengths).prop_map(|(address, length)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new_assert(address, length.min(longest))
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let owners = 0_u32..6;
    let step = prop_oneof![
        6 => (prefixes(), owners.clone()).prop_map(|(prefix, owner)| Step::Insert(prefix, owner)),
        3 => (prefixes(), owners.clone()).prop_map(|(prefix, owner)| Step::Remove(prefix, owner)),
        1 => owners.prop_map(Step::RemoveAll),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_list_of_prefixes(
        steps in steps(),
        probes in proptest::collection::vec(addresses(), 20),
    ) {
        let mut table = AllowedIps::new(SEED);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Insert(prefix, owner) => {
                    prop_assert_eq!(table.insert(prefix, owner), model.insert(prefix, owner));
                }
                Step::Remove(prefix, owner) => {
                    prop_assert_eq!(table.remove(prefix, owner), model.remove(prefix, owner));
                }
                Step::RemoveAll(owner) => {
                    table.remove_all(owner);
                    model.prefixes.retain(|known| known.1 != owner);
                }
            }
            table.v4.assert_consistent();
            table.v6.assert_consistent();
            prop_assert_eq!(table.len(), model.prefixes.len());
        }
        for probe in probes {
            prop_assert_eq!(table.lookup(probe), model.lookup(probe), "{}", probe);
        }
        for owner in 0..6 {
            prop_assert_eq!(prefixes_of(&table, owner), model.prefixes_of(owner));
        }
        let mut listed: Vec<_> = table.iter().collect();
        listed.sort_unstable();
        model.prefixes.sort_unstable();
        prop_assert_eq!(listed, model.prefixes);
    }
}
