//! The Internet checksum (RFC 1071): the ones' complement sum of 16-bit words.

use std::ops::Add;

use crate::sys;

/// A ones' complement sum, not yet folded to 16 bits. The words are taken in the machine's byte order, which changes
/// nothing: a sum with its bytes swapped is the sum of swapped words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum(u64);

/// From this many words on vectors are worth asking for; headers are shorter.
const WORTH_VECTORS: usize = 16;

impl Sum {
    /// The sum over these bytes. Parts of a packet may be summed apart if all but the last have an even length.
    pub(crate) fn of(bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks();
        let whole = if words.len() < WORTH_VECTORS {
            words.iter().map(halves).sum()
        } else {
            sys::with_vectors(
                #[inline(always)]
                || words.iter().map(halves).sum::<u64>(),
            )
        };
        Sum(whole + last_word(rest))
    }

    /// Copies `from` to `to`, of the same length, and returns the sum over it: cheaper than one after the other.
    pub(super) fn of_copied(from: &[u8], to: &mut [u8]) -> Sum {
        let (words, rest) = from.as_chunks();
        let (to_words, to_rest) = to.as_chunks_mut();
        let whole = sys::with_vectors(
            #[inline(always)]
            || {
                let mut sum = 0;
                for (word, to) in words.iter().zip(to_words) {
                    *to = *word;
                    sum += halves(word);
                }
                sum
            },
        );
        to_rest.copy_from_slice(rest);
        Sum(whole + last_word(rest))
    }

    /// A number that stands in the packet as a 16-bit word.
    pub(crate) fn word(value: u16) -> Sum {
        Sum(u64::from(u16::from_ne_bytes(value.to_be_bytes())))
    }

    /// The sum to add to take [`Sum::word`] of this number out again.
    pub(super) fn minus_word(value: u16) -> Sum {
        Sum::word(!value)
    }

    /// The sum in 16 bits, as it stands in a packet.
    pub(super) fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum: the complement of the sum, as it stands in a packet.
    pub(crate) fn checksum(self) -> [u8; 2] {
        let [a, b] = self.folded();
        [!a, !b]
    }

    /// Whether this, the sum of bytes that include their checksum, says that the checksum is right.
    pub(super) fn is_right(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

impl Add for Sum {
    type Output = Sum;

    fn add(self, other: Sum) -> Sum {
        Sum(self.0 + other.0)
    }
}

/// Adds the halves of a word, so that there is room for carries: in this form the compiler vectorises the loop.
#[inline(always)]
fn halves(word: &[u8; 8]) -> u64 {
    let word = u64::from_ne_bytes(*word);
    (word & 0xffff_ffff) + (word >> 32)
}

/// The sum over fewer bytes than a word.
fn last_word(bytes: &[u8]) -> u64 {
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(bytes) {
        *to = *from;
    }
    halves(&last)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The checksum by the letter of RFC 1071, word by word.
    pub(in crate::offload) fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let low = if pair.len() == 2 { pair[1] } else { 0 };
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), [0xdd, 0xf2]);
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(Sum::of(&bytes).checksum(), naive(&bytes).to_be_bytes());
    }

    #[test]
    fn taking_a_word_out_undoes_putting_it_in() {
        for value in [0u16, 1, 0x1234, 0xfffe, 0xffff] {
            let sum = Sum::word(0x4321) + Sum::word(value) + Sum::minus_word(value);
            assert_eq!(sum.folded(), [0x43, 0x21], "{value:#x}");
        }
    }

    proptest! {
        #[test]
        fn every_length_agrees_with_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Sum::of(&bytes).checksum(), naive(&bytes).to_be_bytes());
        }

        #[test]
        fn copying_gives_the_same_bytes_and_their_sum(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut copy = vec![0; bytes.len()];
            prop_assert_eq!(Sum::of_copied(&bytes, &mut copy), Sum::of(&bytes));
            prop_assert_eq!(copy, bytes);
        }

        #[test]
        fn a_sum_may_be_taken_in_parts(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0usize..200) {
            let (head, tail) = bytes.split_at(at.min(bytes.len() / 2) * 2);
            prop_assert_eq!((Sum::of(head) + Sum::of(tail)).folded(), Sum::of(&bytes).folded());
        }
    }
}
