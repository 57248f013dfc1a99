//! Known answers, which a backend must give before its first use: one that was miscompiled, or is wrong on this CPU, is
//! passed over.

use core::array;

use arrayvec::ArrayVec;

use crate::{Key, Packet, TAG_LEN};

/// What a batch of packets is sealed to.
struct Answers<const COUNT: usize> {
    lengths: [usize; COUNT],
    /// The number of the first packet, from which its counter is made.
    first: u64,
    /// The tags, which stand for the ciphertexts that they are computed from.
    tags: [u128; COUNT],
}

/// Eight of equal length, then an empty one, lengths at and next to a block of the authenticator and of the cipher, and
/// one that is much longer than the others.
const SHORT: Answers<16> = Answers {
    lengths: [100, 100, 100, 100, 100, 100, 100, 100, 0, 1, 15, 16, 17, 63, 64, 700],
    first: 0,
    tags: [
        0xf53fef78_637e2194_0b647015_29a29d23,
        0x0409924b_4952e0d4_a9447c1e_653103cc,
        0x0e3b1305_2f2d9204_b19e4dd7_16d754e3,
        0x80b963f3_28f555a9_f3dabd79_1341b102,
        0xe8a52ce3_0e8f0142_0f08eaae_d9eee819,
        0x6446772b_605a705a_a3c4070e_d904ed3c,
        0xe8a60bd2_79b53816_2b22af15_6402929b,
        0x58010fe4_bd6b3f9e_fb3de85f_a55fa647,
        0x54e09a86_1b64c40d_c8a01f3a_45949166,
        0xd2d95614_577a1bb1_e6b22dd8_bf136502,
        0xe643ccb8_85d71a94_3fa5cca4_f87c8a50,
        0x2ce24703_e389b950_08a89b4e_5a61e807,
        0x41948339_5dbef05b_61b5e3dd_2b4a83a8,
        0x03df1c51_3e391233_4150b5de_fcb0bf4e,
        0xd8efd35d_e387e1f8_32dc0cf5_8849cc3e,
        0x0de2e853_76876e7d_00bfd84e_89f36a37,
    ],
};
/// Length of all these packets one after the other.
const SHORT_LEN: usize = 8 * 100 + 876 + 16 * TAG_LEN;

/// More packets than there are lanes, long enough together for the code that is only for long ones; all but the last of
/// equal length. Together they are no longer than that takes.
const MANY: Answers<9> = Answers {
    lengths: [440, 440, 440, 440, 440, 440, 440, 440, 1_090],
    first: 0,
    tags: [
        0x715a9b5c_2e169ad9_8c18fbb8_b566b065,
        0x08067d2f_9468fb8d_85ccbaa5_5b63630b,
        0x7c268f96_5ef84f89_5a400c8c_42e4bba0,
        0xc7abbc5b_7e157ade_e8504483_a9a49494,
        0x056977d0_c409d89e_b2868316_f7a7c828,
        0xcaac2ebd_ab4f2d73_09119e96_d956fbff,
        0x948ac31f_343e8422_ff67b25e_957c8190,
        0xa11380cf_62c58b94_86cb6a65_23d26801,
        0x52c22221_18e4c3db_f2450ada_c4a367ca,
    ],
};
const MANY_LEN: usize = 8 * 440 + 1_090 + 9 * TAG_LEN;

/// One that is longer than most that come over a network.
const LONG: Answers<1> = Answers { lengths: [2_100], first: 9, tags: [0x5f90ef48_cec50194_66c6ba8d_f34ea8ee] };
const LONG_LEN: usize = 2_100 + TAG_LEN;

/// A short packet by itself, for which there may be other code than for several.
const ALONE: Answers<1> = Answers { lengths: [150], first: 7, tags: [0x41b307c7_d4c05eab_01c342eb_33b3f1e9] };
const ALONE_LEN: usize = 150 + TAG_LEN;
/// A longer one by itself, which still counts as short where vectors are long.
const ALONE_LONGER: Answers<1> = Answers { lengths: [400], first: 8, tags: [0xeb513528_f414f180_d68d9910_4aa53114] };
const ALONE_LONGER_LEN: usize = 400 + TAG_LEN;

/// Whether `seal` and `open` seal the texts as they should, open what was
/// sealed, and refuse what was changed.
///
/// The packets lie on the stack, which is small where there are no vectors: without `in_lanes`, none are many.
pub(crate) fn are_given_by(seal: impl Fn(&mut [Packet<'_>]), open: impl Fn(&mut [Packet<'_>]), in_lanes: bool) -> bool {
    SHORT.are_given_by::<SHORT_LEN>(&seal, &open)
        && LONG.are_given_by::<LONG_LEN>(&seal, &open)
        && ALONE.are_given_by::<ALONE_LEN>(&seal, &open)
        && ALONE_LONGER.are_given_by::<ALONE_LONGER_LEN>(&seal, &open)
        && (!in_lanes || MANY.are_given_by::<MANY_LEN>(&seal, &open))
}

impl<const COUNT: usize> Answers<COUNT> {
    // Each in a frame of its own, so that the stack need hold one at a time.
    #[inline(never)]
    fn are_given_by<const LEN: usize>(
        &self,
        seal: impl Fn(&mut [Packet<'_>]),
        open: impl Fn(&mut [Packet<'_>]),
    ) -> bool {
        // Filled in place: `from_fn` would build another on the stack.
        let mut buffer = [0; LEN];
        buffer.iter_mut().enumerate().for_each(|(i, byte)| *byte = text(i));
        let keys = [0, 1].map(|i| Key::new(key(i)));
        let mut batch = self.packets(&keys, &mut buffer);
        seal(&mut batch);
        let tags = batch.iter().map(|packet| u128::from_be_bytes(*packet.tag));
        let mut right = tags.eq(self.tags);

        // With a bit of its tag changed, each must be refused as it came.
        batch.iter_mut().for_each(change);
        open(&mut batch);
        right &= batch.iter().all(|packet| !packet.authentic);
        batch.iter_mut().for_each(change);
        // Every other one has it changed again, and must be refused beside those that are right.
        batch.iter_mut().skip(1).step_by(2).for_each(change);
        open(&mut batch);
        for (i, (packet, is_plain)) in batch.iter().zip(are_plain(&batch)).enumerate() {
            let is_changed = i % 2 == 1;
            right &= packet.authentic != is_changed;
            right &= is_plain || is_changed;
        }
        // Then all have the same bit changed. Those that were refused must open, as they do only if they were left as
        // they came. The others, which are open, must be refused and left so.
        batch.iter_mut().for_each(change);
        open(&mut batch);
        for (i, (packet, is_plain)) in batch.iter().zip(are_plain(&batch)).enumerate() {
            let is_changed = i % 2 == 0;
            right &= packet.authentic != is_changed;
            right &= is_plain;
        }
        right
    }

    /// The packets in a buffer, under the two keys in turn.
    fn packets<'a>(&self, keys: &'a [Key; 2], buffer: &'a mut [u8]) -> ArrayVec<Packet<'a>, COUNT> {
        let mut rest = buffer;
        let mut packets = ArrayVec::new();
        for (i, length) in self.lengths.into_iter().enumerate() {
            let (bytes, others) = rest.split_at_mut(length + TAG_LEN);
            rest = others;
            // Counters of all sizes, with bits in both words.
            let counter = (self.first + i as u64).wrapping_mul(0x1_2345_6789_abcd);
            packets.extend(Packet::new(&keys[i % 2], counter, bytes));
        }
        packets
    }
}

/// The texts of a buffer, with the places for the tags, at byte `i`.
fn text(i: usize) -> u8 {
    (i * 7 + i / 256) as u8
}

/// For each of a buffer's packets, whether its text is the one that was to be sealed. There is no copy to compare with,
/// for which the stack may have no room.
fn are_plain(batch: &[Packet<'_>]) -> impl Iterator<Item = bool> {
    let mut begin = 0;
    batch.iter().map(move |packet| {
        let range = begin..begin + packet.text.len();
        begin = range.end + TAG_LEN;
        packet.text.iter().copied().eq(range.map(text))
    })
}

fn change(packet: &mut Packet<'_>) {
    packet.tag[7] ^= 0x20;
}

fn key(number: u8) -> [u8; 32] {
    array::from_fn(|i| (37 + number * 174).wrapping_mul(i as u8 + 1))
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::vec::Vec;

    use chacha20poly1305::aead::Aead;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

    use super::*;
    use crate::{Backend, open_with, seal_with};

    #[test]
    fn every_backend_that_the_machine_supports_gives_the_known_answers() {
        for backend in [Backend::Avx512, Backend::Avx2, Backend::Portable] {
            if backend.is_supported() {
                assert!(backend.gives_known_answers(), "{backend:?}");
            }
        }
    }

    #[test]
    fn the_known_answers_are_checked_on_a_small_stack() {
        for (backend, stack) in [(Backend::Portable, 20 << 10), (Backend::Avx2, 32 << 10), (Backend::Avx512, 32 << 10)]
        {
            if backend.is_supported() {
                let check = thread::Builder::new().stack_size(stack).spawn(move || backend.gives_known_answers());
                assert!(check.unwrap().join().unwrap(), "{backend:?}");
            }
        }
    }

    #[test]
    fn a_backend_that_errs_in_one_packet_does_not_give_the_known_answers() {
        let seal = |packets: &mut [Packet<'_>]| seal_with(Backend::Portable, packets);
        let open = |packets: &mut [Packet<'_>]| open_with(Backend::Portable, packets);
        let wrong_tag = |packets: &mut [Packet<'_>]| {
            seal(packets);
            if let Some(packet) = packets.get_mut(13) {
                packet.tag[3] ^= 1;
            }
        };
        assert!(!are_given_by(wrong_tag, open, true));
        let wrong_text = |packets: &mut [Packet<'_>]| {
            open(packets);
            if let Some(packet) = packets.get_mut(14) {
                packet.text[63] ^= 1;
            }
        };
        assert!(!are_given_by(seal, wrong_text, true));
        let too_trusting = |packets: &mut [Packet<'_>]| {
            open(packets);
            if let Some(packet) = packets.get_mut(15) {
                packet.authentic = true;
            }
        };
        assert!(!are_given_by(seal, too_trusting, true));
        let decrypts_the_forged = |packets: &mut [Packet<'_>]| {
            open(packets);
            if let Some(packet) = packets.get_mut(1) {
                packet.text[99] ^= 1;
            }
        };
        assert!(!are_given_by(seal, decrypts_the_forged, true));
    }

    #[test]
    fn a_backend_that_errs_in_long_packets_only_does_not_give_the_known_answers() {
        let seal = |packets: &mut [Packet<'_>]| seal_with(Backend::Portable, packets);
        let open = |packets: &mut [Packet<'_>]| {
            open_with(Backend::Portable, packets);
            for packet in packets.iter_mut().filter(|packet| packet.text.len() > 2048) {
                packet.text[2048] ^= 1;
            }
        };
        assert!(!are_given_by(seal, open, true));
    }

    #[test]
    fn a_backend_that_errs_in_more_packets_than_it_has_lanes_does_not_give_the_known_answers() {
        let seal = |packets: &mut [Packet<'_>]| seal_with(Backend::Portable, packets);
        let open = |packets: &mut [Packet<'_>]| {
            open_with(Backend::Portable, packets);
            if let [_, _, _, _, _, _, _, _, ninth] = packets {
                ninth.authentic = false;
            }
        };
        assert!(!are_given_by(seal, open, true));
    }

    #[test]
    fn a_backend_that_errs_in_a_packet_that_comes_alone_does_not_give_the_known_answers() {
        let seal = |packets: &mut [Packet<'_>]| seal_with(Backend::Portable, packets);
        let open = |packets: &mut [Packet<'_>]| open_with(Backend::Portable, packets);
        for length in [150, 400] {
            let wrong_tag = |packets: &mut [Packet<'_>]| {
                seal(packets);
                if let [packet] = packets
                    && packet.text.len() == length
                {
                    packet.tag[3] ^= 1;
                }
            };
            assert!(!are_given_by(wrong_tag, open, true));
            let too_trusting = |packets: &mut [Packet<'_>]| {
                open(packets);
                if let [packet] = packets
                    && packet.text.len() == length
                {
                    packet.authentic = true;
                }
            };
            assert!(!are_given_by(seal, too_trusting, true));
            let overlooks_a_bit = |packets: &mut [Packet<'_>]| {
                open(packets);
                if let [packet] = packets
                    && packet.text.len() == length
                    && !packet.authentic
                {
                    change(packet);
                    open_with(Backend::Portable, std::slice::from_mut(packet));
                    change(packet);
                }
            };
            assert!(!are_given_by(seal, overlooks_a_bit, true));
        }
    }

    #[test]
    fn the_known_answers_are_those_of_another_implementation() {
        check::<16, SHORT_LEN>(&SHORT);
        check::<9, MANY_LEN>(&MANY);
        check::<1, LONG_LEN>(&LONG);
        check::<1, ALONE_LEN>(&ALONE);
        check::<1, ALONE_LONGER_LEN>(&ALONE_LONGER);
    }

    fn check<const COUNT: usize, const LEN: usize>(answers: &Answers<COUNT>) {
        let mut buffer: [u8; LEN] = array::from_fn(text);
        let keys = [0, 1].map(|i| Key::new(key(i)));
        let tags: Vec<u128> = answers
            .packets(&keys, &mut buffer)
            .iter()
            .enumerate()
            .map(|(i, packet)| {
                let cipher = ChaCha20Poly1305::new(&key(i as u8 % 2).into());
                let sealed = cipher.encrypt(&packet.nonce().into(), &*packet.text).unwrap();
                u128::from_be_bytes(*sealed.last_chunk().unwrap())
            })
            .collect();
        assert_eq!(tags, answers.tags, "{tags:#x?}");
    }
}
