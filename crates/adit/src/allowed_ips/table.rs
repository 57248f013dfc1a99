//! The table of one address family.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher as _};
use core::iter;

use hashbrown::HashTable;
use ipnet::IpNet;
use siphasher::sip::SipHasher13;

/// Below this many entries no memory is given back.
const SMALL: usize = 32;

/// An address of one family.
pub(super) trait Address: Copy + Eq {
    /// The address with all bits after the first `length` cleared.
    fn masked(self, length: u8) -> Self;

    /// The address as two words, for hashing.
    fn words(self) -> [u64; 2];

    /// The prefix of this length at this address.
    fn prefix(self, length: u8) -> Option<IpNet>;
}

/// Prefixes of one family and their owners.
///
/// The entries lie in one vector without gaps: the last one moves to where one
/// was removed. All links are positions in it.
pub(super) struct Table<A, T> {
    entries: Vec<Entry<A, T>>,
    /// The lengths in use, longest first.
    lengths: Vec<Length>,
    /// Finds an entry by its prefix.
    by_prefix: HashTable<u32>,
    /// Finds the first entry of an owner.
    by_owner: HashTable<u32>,
    seed: [u64; 2],
}

/// A prefix and its owner, a member of the ring of that owner's entries.
pub(super) struct Entry<A, T> {
    address: A,
    owner: T,
    next: u32,
    previous: u32,
    length: u8,
}

/// A prefix length and how many entries have it.
struct Length {
    length: u8,
    entries: u32,
}

impl<A: Address, T: Copy> Entry<A, T> {
    pub(super) const fn owner(&self) -> T {
        self.owner
    }

    pub(super) fn prefix(&self) -> Option<IpNet> {
        self.address.prefix(self.length)
    }
}

impl<A: Address, T: Copy + Eq + Hash> Table<A, T> {
    pub(super) const fn new(seed: [u64; 2]) -> Self {
        Self { entries: Vec::new(), lengths: Vec::new(), by_prefix: HashTable::new(), by_owner: HashTable::new(), seed }
    }

    pub(super) const fn entries(&self) -> &[Entry<A, T>] {
        self.entries.as_slice()
    }

    #[inline]
    pub(super) fn lookup(&self, address: A) -> Option<T> {
        self.lengths.iter().find_map(|&Length { length, .. }| {
            let entry = self.find(address.masked(length), length)?;
            Some(self.entries.get(entry as usize)?.owner)
        })
    }

    /// The entries of an owner, in the order in which it got them.
    pub(super) fn entries_of(&self, owner: T) -> impl Iterator<Item = &Entry<A, T>> {
        let first = self.first_of(owner);
        iter::successors(first, move |&at| Some(self.entries[at as usize].next).filter(|&next| Some(next) != first))
            .map(|at| &self.entries[at as usize])
    }

    pub(super) fn insert(&mut self, address: A, length: u8, owner: T) -> Option<T> {
        let address = address.masked(length);
        if let Some(at) = self.find(address, length) {
            let former = self.entries[at as usize].owner;
            if former != owner {
                self.unlink(at);
                self.entries[at as usize].owner = owner;
                self.link(at);
            }
            return Some(former);
        }
        // Memory runs out long before positions do.
        let at = self.entries.len() as u32;
        self.entries.push(Entry { address, owner, next: at, previous: at, length });
        let (entries, seed) = (&self.entries, self.seed);
        self.by_prefix.insert_unique(hash_prefix(address, length, seed), at, |&at| {
            let entry = &entries[at as usize];
            hash_prefix(entry.address, entry.length, seed)
        });
        self.link(at);
        self.count_length(length);
        None
    }

    pub(super) fn remove(&mut self, address: A, length: u8, owner: T) -> bool {
        match self.find(address.masked(length), length) {
            Some(at) if self.entries[at as usize].owner == owner => {
                self.remove_at(at);
                true
            }
            _ => false,
        }
    }

    pub(super) fn remove_all(&mut self, owner: T) {
        while let Some(first) = self.first_of(owner) {
            self.remove_at(first);
        }
    }

    /// The position of the entry with exactly this prefix; `address` is masked.
    #[inline]
    fn find(&self, address: A, length: u8) -> Option<u32> {
        let hash = hash_prefix(address, length, self.seed);
        let same = |&at: &u32| {
            let entry = self.entries.get(at as usize);
            entry.is_some_and(|entry| entry.address == address && entry.length == length)
        };
        self.by_prefix.find(hash, same).copied()
    }

    fn first_of(&self, owner: T) -> Option<u32> {
        let hash = hash_owner(owner, self.seed);
        let same = |&at: &u32| self.entries[at as usize].owner == owner;
        self.by_owner.find(hash, same).copied()
    }

    /// Makes an entry that is in no ring the last one of its owner's.
    fn link(&mut self, at: u32) {
        let owner = self.entries[at as usize].owner;
        let (entries, seed) = (&mut self.entries, self.seed);
        let hash = hash_owner(owner, seed);
        let same = |&first: &u32| entries[first as usize].owner == owner;
        if let Some(&first) = self.by_owner.find(hash, same) {
            let last = entries[first as usize].previous;
            entries[last as usize].next = at;
            entries[first as usize].previous = at;
            entries[at as usize].previous = last;
            entries[at as usize].next = first;
        } else {
            entries[at as usize].previous = at;
            entries[at as usize].next = at;
            self.by_owner.insert_unique(hash, at, |&first| hash_owner(entries[first as usize].owner, seed));
        }
    }

    /// Takes an entry out of its owner's ring.
    fn unlink(&mut self, at: u32) {
        let Entry { owner, next, previous, .. } = self.entries[at as usize];
        let hash = hash_owner(owner, self.seed);
        if let Ok(mut first) = self.by_owner.find_entry(hash, |&first| first == at) {
            if next == at {
                first.remove();
            } else {
                *first.get_mut() = next;
            }
        }
        self.entries[previous as usize].next = next;
        self.entries[next as usize].previous = previous;
    }

    fn remove_at(&mut self, at: u32) {
        self.unlink(at);
        let Entry { address, length, .. } = self.entries[at as usize];
        let hash = hash_prefix(address, length, self.seed);
        if let Ok(slot) = self.by_prefix.find_entry(hash, |&slot| slot == at) {
            slot.remove();
        }
        self.uncount_length(length);
        let last = self.entries.len() as u32 - 1;
        if at != last {
            self.announce_move(last, at);
        }
        self.entries.swap_remove(at as usize);
        self.give_memory_back();
    }

    /// Makes everything that points to `from` point to `to`.
    fn announce_move(&mut self, from: u32, to: u32) {
        let Entry { address, owner, next, previous, length } = self.entries[from as usize];
        let hash = hash_prefix(address, length, self.seed);
        if let Some(slot) = self.by_prefix.find_mut(hash, |&slot| slot == from) {
            *slot = to;
        }
        let hash = hash_owner(owner, self.seed);
        if let Some(first) = self.by_owner.find_mut(hash, |&first| first == from) {
            *first = to;
        }
        // In a ring of one, both are the entry's own links.
        self.entries[previous as usize].next = to;
        self.entries[next as usize].previous = to;
    }

    fn count_length(&mut self, length: u8) {
        match self.lengths.binary_search_by(|known| length.cmp(&known.length)) {
            Ok(at) => self.lengths[at].entries += 1,
            Err(at) => self.lengths.insert(at, Length { length, entries: 1 }),
        }
    }

    fn uncount_length(&mut self, length: u8) {
        if let Ok(at) = self.lengths.binary_search_by(|known| length.cmp(&known.length)) {
            self.lengths[at].entries -= 1;
            if self.lengths[at].entries == 0 {
                self.lengths.remove(at);
            }
        }
    }

    /// Halves what is three quarters unused, so that a removal takes constant
    /// time on average.
    fn give_memory_back(&mut self) {
        let used = self.entries.len();
        if used == 0 {
            *self = Self::new(self.seed);
        } else if used >= SMALL && used < self.entries.capacity() / 4 {
            let (entries, seed) = (&mut self.entries, self.seed);
            entries.shrink_to(used * 2);
            self.by_prefix.shrink_to(used * 2, |&at| {
                let entry = &entries[at as usize];
                hash_prefix(entry.address, entry.length, seed)
            });
            self.by_owner.shrink_to(used * 2, |&first| hash_owner(entries[first as usize].owner, seed));
        }
    }
}

/// Hashes a prefix: on the path of every packet, so by one multiplication, whose
/// halves are folded together. The seed keeps collisions from being made at will.
#[inline]
fn hash_prefix<A: Address>(address: A, length: u8, seed: [u64; 2]) -> u64 {
    // Digits of the golden ratio and of pi: a seed of zeros, which tests use, does not make the factors small either.
    const LENGTH: u64 = 0x9e37_79b9_7f4a_7c15;
    const FACTORS: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344];
    let [high, low] = address.words();
    let left = high ^ seed[0] ^ FACTORS[0];
    let right = low ^ seed[1] ^ FACTORS[1];
    let product = u128::from(left) * u128::from(right);
    let folded = (product >> 64) as u64 ^ product as u64;
    // Each length moves to another part of the table.
    folded.wrapping_add(LENGTH.wrapping_mul(length.into()))
}

/// Hashes an owner: only when the table is changed or listed.
fn hash_owner<T: Hash>(owner: T, [key0, key1]: [u64; 2]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key0, key1);
    owner.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
impl<A: Address, T: Copy + Eq + Hash> Table<A, T> {
    /// Bytes of heap in use.
    pub(super) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<A, T>>()
            + self.lengths.capacity() * size_of::<Length>()
            + self.by_prefix.allocation_size()
            + self.by_owner.allocation_size()
    }

    /// Panics unless all parts of the table agree.
    pub(super) fn assert_consistent(&self) {
        assert_eq!(self.by_prefix.len(), self.entries.len());
        let mut in_rings = 0;
        for &first in &self.by_owner {
            let owner = self.entries[first as usize].owner;
            assert_eq!(self.first_of(owner), Some(first));
            for entry in self.entries_of(owner) {
                assert!(entry.owner == owner);
                in_rings += 1;
                assert!(in_rings <= self.entries.len());
            }
        }
        assert_eq!(in_rings, self.entries.len());
        for (at, entry) in self.entries.iter().enumerate() {
            let at = at as u32;
            assert_eq!(self.find(entry.address, entry.length), Some(at));
            assert_eq!(self.entries[entry.next as usize].previous, at);
            assert_eq!(self.entries[entry.previous as usize].next, at);
        }
        let counted: u32 = self.lengths.iter().map(|length| length.entries).sum();
        assert_eq!(counted as usize, self.entries.len());
        assert!(self.lengths.is_sorted_by(|a, b| a.length > b.length));
        assert!(self.lengths.iter().all(|length| length.entries > 0));
    }
}
