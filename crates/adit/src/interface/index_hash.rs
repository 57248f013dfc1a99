//! Indices are random numbers of this interface's own making, so they are their own hash.

use core::hash::{BuildHasher, Hasher};

#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct IndexHash;

#[derive(Debug)]
pub(crate) struct IndexHasher(u64);

impl BuildHasher for IndexHash {
    type Hasher = IndexHasher;

    fn build_hasher(&self) -> IndexHasher {
        IndexHasher(0)
    }
}

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_u32(&mut self, index: u32) {
        // The table takes its tag from the highest bits and its place from the lowest.
        self.0 = u64::from(index) << 32 | u64::from(index);
    }
}
