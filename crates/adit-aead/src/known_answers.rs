//! Known answers, which a backend must give before its first use: one that was miscompiled, or is wrong on this CPU, is
//! passed over.

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

/// More packets of equal length than there are lanes, long enough for the code that is only for long packets; then one
/// that is longer than most that come over a network.
const LONG: Answers<10> = Answers {
    lengths: [530, 530, 530, 530, 530, 530, 530, 530, 530, 2_100],
    first: 0,
    tags: [
        0x04b37441_0a4137b7_466835a5_6b668fb8,
        0x8ac76717_354c6ac6_23654fb9_8bfe1dac,
        0x8820ab0d_3f043f0a_84c4cdcc_9a8d74c1,
        0x8b0ce5ab_677585ad_03bc5f53_824cc5ec,
        0xe5513c35_94337a42_c4d6105f_315e40ec,
        0xfcfc1854_47c4219d_4d81205b_5790a14c,
        0xbea8731e_a1504de3_ce69016c_b0cbbe5e,
        0x511ce785_899bfc40_a5935e08_16dc1eb5,
        0x6f2800e4_8d844f43_862bb75f_ec7e1f2a,
        0x3cdaf90e_6bbb639a_e71af823_26840045,
    ],
};
const LONG_LEN: usize = 9 * 530 + 2_100 + 10 * TAG_LEN;

/// A short packet by itself, for which there may be other code than for several.
const ALONE: Answers<1> = Answers { lengths: [150], first: 7, tags: [0x41b307c7_d4c05eab_01c342eb_33b3f1e9] };
const ALONE_LEN: usize = 150 + TAG_LEN;
/// A longer one by itself, which still counts as short where vectors are long.
const ALONE_LONGER: Answers<1> = Answers { lengths: [400], first: 8, tags: [0xeb513528_f414f180_d68d9910_4aa53114] };
const ALONE_LONGER_LEN: usize = 400 + TAG_LEN;

/// Whether `seal` and `open` seal the texts as they should, open what was
/// sealed, and refuse what was changed.
pub(crate) fn are_given_by(seal: impl Fn(&mut [Packet<'_>]), open: impl Fn(&mut [Packet<'_>])) -> bool {
    SHORT.are_given_by::<SHORT_LEN>(&seal, &open)
        && LONG.are_given_by::<LONG_LEN>(&seal, &open)
        && ALONE.are_given_by::<ALONE_LEN>(&seal, &open)
        && ALONE_LONGER.are_given_by::<ALONE_LONGER_LEN>(&seal, &open)
}

impl<const COUNT: usize> Answers<COUNT> {
    #[inline(never)]
    fn are_given_by<const LEN: usize>(
        &self,
        seal: impl Fn(&mut [Packet<'_>]),
        open: impl Fn(&mut [Packet<'_>]),
    ) -> bool {
        let texts = texts::<LEN>();
        let keys = [0, 1].map(|i| Key::new(key(i)));

        let mut sealed = texts;
        let mut batch = self.packets(&keys, &mut sealed);
        seal(&mut batch);
        let tags = batch.iter().map(|packet| u128::from_be_bytes(*packet.tag));
        let mut right = tags.eq(self.tags);
        drop(batch);

        // Every other packet has a bit of its tag changed, and must stay sealed; then each of the rest.
        for changed in [1, 0] {
            let (mut opened, mut texts, mut sealed) = (sealed, texts, sealed);
            let mut batch = self.packets(&keys, &mut opened);
            for packet in batch.iter_mut().skip(changed).step_by(2) {
                packet.tag[7] ^= 0x20;
            }
            open(&mut batch);
            let expected = self.packets(&keys, &mut texts).into_iter().zip(self.packets(&keys, &mut sealed));
            for (i, (packet, (plain, sealed))) in batch.iter().zip(expected).enumerate() {
                let is_changed = i % 2 == changed;
                right &= packet.authentic != is_changed;
                right &= packet.text == if is_changed { sealed.text } else { plain.text };
            }
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

fn texts<const LEN: usize>() -> [u8; LEN] {
    core::array::from_fn(|i| (i * 7 + i / 256) as u8)
}

fn key(number: u8) -> [u8; 32] {
    core::array::from_fn(|i| (37 + number * 174).wrapping_mul(i as u8 + 1))
}

#[cfg(test)]
mod tests {
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
    fn a_backend_that_errs_in_one_packet_does_not_give_the_known_answers() {
        let seal = |packets: &mut [Packet<'_>]| seal_with(Backend::Portable, packets);
        let open = |packets: &mut [Packet<'_>]| open_with(Backend::Portable, packets);
        let wrong_tag = |packets: &mut [Packet<'_>]| {
            seal(packets);
            if let Some(packet) = packets.get_mut(13) {
                packet.tag[3] ^= 1;
            }
        };
        assert!(!are_given_by(wrong_tag, open));
        let wrong_text = |packets: &mut [Packet<'_>]| {
            open(packets);
            if let Some(packet) = packets.get_mut(14) {
                packet.text[63] ^= 1;
            }
        };
        assert!(!are_given_by(seal, wrong_text));
        let too_trusting = |packets: &mut [Packet<'_>]| {
            open(packets);
            if let Some(packet) = packets.get_mut(15) {
                packet.authentic = true;
            }
        };
        assert!(!are_given_by(seal, too_trusting));
        let decrypts_the_forged = |packets: &mut [Packet<'_>]| {
            open(packets);
            if let Some(packet) = packets.get_mut(1) {
                packet.text[99] ^= 1;
            }
        };
        assert!(!are_given_by(seal, decrypts_the_forged));
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
        assert!(!are_given_by(seal, open));
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
            assert!(!are_given_by(wrong_tag, open));
            let too_trusting = |packets: &mut [Packet<'_>]| {
                open(packets);
                if let [packet] = packets
                    && packet.text.len() == length
                {
                    packet.authentic = true;
                }
            };
            assert!(!are_given_by(seal, too_trusting));
        }
    }

    #[test]
    fn the_known_answers_are_those_of_another_implementation() {
        check::<16, SHORT_LEN>(&SHORT);
        check::<10, LONG_LEN>(&LONG);
        check::<1, ALONE_LEN>(&ALONE);
        check::<1, ALONE_LONGER_LEN>(&ALONE_LONGER);
    }

    fn check<const COUNT: usize, const LEN: usize>(answers: &Answers<COUNT>) {
        let mut buffer = texts::<LEN>();
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
