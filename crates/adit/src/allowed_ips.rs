//! Which peer owns which addresses: one truth for both directions.
//!
//! A packet from inside the tunnel goes to the owner of its destination; a
//! packet from a peer is let in if that peer owns its source. Both ask the same
//! table, so a prefix has one owner at any moment.
//!
//! The table is not a trie. Interfaces have few distinct prefix lengths (/32 and
//! /128 for peers, a /24 or a default route here and there), so a look-up tries
//! the lengths in use, longest first, in a hash table: two or three cache misses
//! for the usual table, where a binary trie of 100,000 prefixes takes a chain of
//! twenty dependent ones. A look-up takes at most 33 steps for IPv4 and 129 for
//! IPv6, one for each length in use.

mod table;
#[cfg(test)]
mod tests;

use core::hash::Hash;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use table::{Address, Table};

/// Longest-prefix match from IPv4 and IPv6 addresses to owners.
///
/// `T` names an owner: a small `Copy` type such as a peer's identifier. Adding or
/// removing a prefix takes constant time on average, and listing or removing
/// what one owner has takes time for its own prefixes only, however many others
/// there are. A peer with one prefix takes about 45 bytes (IPv4) or 60 (IPv6);
/// an empty table takes none, and memory is given back as prefixes are removed.
///
/// ```
/// use adit::AllowedIps;
///
/// let mut table = AllowedIps::new([1, 2]); // in earnest: two random numbers
/// table.insert("10.0.0.0/8".parse()?, 'a');
/// table.insert("10.1.0.0/16".parse()?, 'b');
/// assert_eq!(table.lookup([10, 1, 2, 3].into()), Some('b'));
/// assert_eq!(table.lookup([10, 2, 2, 3].into()), Some('a'));
/// assert_eq!(table.lookup([192, 0, 2, 1].into()), None);
/// # Ok::<(), ipnet::AddrParseError>(())
/// ```
pub struct AllowedIps<T> {
    v4: Table<u32, T>,
    v6: Table<Halves, T>,
}

impl<T: Copy + Eq + Hash> AllowedIps<T> {
    /// An empty table. The seed must be random and secret, so that nobody who may choose prefixes can choose ones that
    /// make look-ups slow.
    #[must_use]
    pub const fn new(seed: [u64; 2]) -> Self {
        Self { v4: Table::new(seed), v6: Table::new(seed) }
    }

    /// Gives the prefix to `owner`, taking it from whoever had it, and returns
    /// that former owner (which may be the same). Bits of the address beyond the
    /// prefix length are ignored.
    pub fn insert(&mut self, prefix: IpNet, owner: T) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.insert(net.addr().to_bits(), net.prefix_len(), owner),
            IpNet::V6(net) => self.v6.insert(Halves::of(net.addr()), net.prefix_len(), owner),
        }
    }

    /// Takes the prefix from `owner`. False, and nothing happens, if it is not
    /// `owner` that has exactly this prefix.
    pub fn remove(&mut self, prefix: IpNet, owner: T) -> bool {
        match prefix {
            IpNet::V4(net) => self.v4.remove(net.addr().to_bits(), net.prefix_len(), owner),
            IpNet::V6(net) => self.v6.remove(Halves::of(net.addr()), net.prefix_len(), owner),
        }
    }

    /// Takes all its prefixes from `owner`.
    pub fn remove_all(&mut self, owner: T) {
        self.v4.remove_all(owner);
        self.v6.remove_all(owner);
    }

    /// The owner of the longest prefix that holds the address.
    #[must_use]
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(Halves::of(address)),
        }
    }

    /// The prefixes of `owner`: IPv4 first, each family in the order in which
    /// `owner` got them.
    pub fn prefixes_of(&self, owner: T) -> impl Iterator<Item = IpNet> {
        let v4 = self.v4.entries_of(owner).filter_map(|entry| entry.prefix());
        let v6 = self.v6.entries_of(owner).filter_map(|entry| entry.prefix());
        v4.chain(v6)
    }

    /// All prefixes with their owners, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, T)> {
        let v4 = self.v4.entries().iter();
        let v6 = self.v6.entries().iter();
        v4.filter_map(|entry| Some((entry.prefix()?, entry.owner())))
            .chain(v6.filter_map(|entry| Some((entry.prefix()?, entry.owner()))))
    }

    /// How many prefixes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.v4.entries().len() + self.v6.entries().len()
    }

    /// Whether there is no prefix.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Copy + Eq + Hash + core::fmt::Debug> core::fmt::Debug for AllowedIps<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Address for u32 {
    #[inline]
    fn masked(self, length: u8) -> Self {
        let host_bits = Self::BITS.saturating_sub(length.into());
        self & Self::MAX.checked_shl(host_bits).unwrap_or(0)
    }

    #[inline]
    fn words(self) -> [u64; 2] {
        [self.into(), 0]
    }

    fn prefix(self, length: u8) -> Option<IpNet> {
        let net = Ipv4Net::new(Ipv4Addr::from_bits(self), length);
        net.ok().map(IpNet::V4)
    }
}

/// An IPv6 address, in words because a `u128` would be aligned to 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Halves {
    high: u64,
    low: u64,
}

impl Halves {
    #[inline]
    fn of(address: Ipv6Addr) -> Self {
        Self::from_bits(address.to_bits())
    }

    #[inline]
    const fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }
}

impl Address for Halves {
    #[inline]
    fn masked(self, length: u8) -> Self {
        let host_bits = u128::BITS.saturating_sub(length.into());
        let mask = Self::from_bits(u128::MAX.checked_shl(host_bits).unwrap_or(0));
        Self { high: self.high & mask.high, low: self.low & mask.low }
    }

    #[inline]
    fn words(self) -> [u64; 2] {
        [self.high, self.low]
    }

    fn prefix(self, length: u8) -> Option<IpNet> {
        let bits = (u128::from(self.high) << 64) | u128::from(self.low);
        let net = Ipv6Net::new(Ipv6Addr::from_bits(bits), length);
        net.ok().map(IpNet::V6)
    }
}
