//! Poly1305 of one packet in general registers, while the vector registers make key stream.

use zeroize::optimization_barrier;

use crate::poly1305::{BLOCK_LEN, Block, tag};

/// One authenticator: the sum h, as two words and what is above them, which is 4 at most, and the factor r.
#[derive(Clone, Copy)]
pub(crate) struct Scalar {
    h: [u64; 3],
    r: [u64; 2],
    /// 5/4 of the high word of r, for those of its products that pass 2^130.
    r1_wrapped: u64,
    s: u128,
}

impl Scalar {
    /// One without a key.
    pub(crate) const EMPTY: Scalar = Scalar { h: [0; 3], r: [0; 2], r1_wrapped: 0, s: 0 };

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        (self.h, self.r, self.r1_wrapped, self.s) == ([0; 3], [0; 2], 0, 0)
    }

    pub(crate) fn new(key: &[u8; 32]) -> Scalar {
        let (words, _) = key.as_chunks();
        let word = |i: usize| u64::from_le_bytes(words[i]);
        let r = [word(0) & 0x0fff_fffc_0fff_ffff, word(1) & 0x0fff_fffc_0fff_fffc];
        Scalar { h: [0; 3], r, r1_wrapped: r[1] + (r[1] >> 2), s: u128::from(word(2)) | u128::from(word(3)) << 64 }
    }

    /// Adds a block to the sum, and multiplies that by r.
    #[inline]
    pub(crate) fn absorb(&mut self, block: &Block) {
        let m = u128::from_le_bytes(*block);
        let [h0, h1, h2] = self.h;
        let [r0, r1] = self.r;
        let (h, carried) = (u128::from(h0) | u128::from(h1) << 64).overflowing_add(m);
        let (h0, h1) = (h as u64, (h >> 64) as u64);
        // The carry, and the bit above the block.
        let h2 = h2 + u64::from(carried) + 1;

        let product = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let d0 = product(h0, r0) + product(h1, self.r1_wrapped);
        let d1 = product(h0, r1) + product(h1, r0) + u128::from(h2 * self.r1_wrapped) + (d0 >> 64);
        let d2 = h2 * r0 + (d1 >> 64) as u64;

        // What has passed 2^130 is added back five times: four times as it stands, once two bits lower.
        let over = (d2 & !3) + (d2 >> 2);
        let h = u128::from(d0 as u64) | u128::from(d1 as u64) << 64;
        let (h, carried) = h.overflowing_add(u128::from(over));
        self.h = [h as u64, (h >> 64) as u64, (d2 & 3) + u64::from(carried)];
    }

    /// Absorbs the rest of a text, padded to whole blocks, and the last block; then gives the tag, and forgets the key.
    pub(crate) fn finish(&mut self, rest: &[u8], last: &Block) -> Block {
        let (blocks, rest) = rest.as_chunks::<BLOCK_LEN>();
        for block in blocks {
            self.absorb(block);
        }
        if !rest.is_empty() {
            let mut block = [0; BLOCK_LEN];
            block[..rest.len()].copy_from_slice(rest);
            self.absorb(&block);
        }
        self.absorb(last);

        let [h0, h1, h2] = self.h;
        let tag = tag(u128::from(h0) | u128::from(h1) << 64, h2, self.s);
        *self = Scalar::EMPTY;
        optimization_barrier(self);
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authenticator_that_has_given_its_tag_has_forgotten_its_key_and_its_sum() {
        let mut mac = Scalar::new(&[0x5a; 32]);
        mac.finish(&[0x33; 40], &[1; BLOCK_LEN]);
        assert!(mac.is_empty());
    }
}
