//! One packet at a time through a library.

#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc::{PreparedKey, open, seal};
#[cfg(not(feature = "aws-lc-rs"))]
pub(crate) use pure::{open, seal};

/// The longest text that AWS-LC opens here: see `aws_lc::open`.
#[cfg(feature = "aws-lc-rs")]
pub(crate) const ROOM: usize = 2048;

/// Pure Rust: tag first, then the text.
pub(crate) mod pure {
    use chacha20poly1305::aead::inout::InOutBuf;
    use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};

    use crate::Packet;

    pub(crate) fn seal(packet: &mut Packet<'_>) {
        let cipher = ChaCha20Poly1305::new((&packet.key.bytes).into());
        let tag = cipher
            .encrypt_inout_detached(&packet.nonce().into(), packet.associated_data(), InOutBuf::from(&mut *packet.text))
            .expect("Packet::new bounds the length");
        *packet.tag = tag.into();
    }

    pub(crate) fn open(packet: &mut Packet<'_>) {
        let cipher = ChaCha20Poly1305::new((&packet.key.bytes).into());
        packet.authentic = cipher
            .decrypt_inout_detached(
                &packet.nonce().into(),
                packet.associated_data(),
                InOutBuf::from(&mut *packet.text),
                &(*packet.tag).into(),
            )
            .is_ok();
    }
}

#[cfg(feature = "aws-lc-rs")]
mod aws_lc {
    use std::sync::OnceLock;

    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};
    use aws_lc_rs::error::Unspecified;
    use zeroize::Zeroize;

    use super::{ROOM, pure};
    use crate::{Key, Packet};

    /// AWS-LC's form of the key, which lives on the heap. It is made when first needed, so never where a vector backend
    /// does all the work.
    #[derive(Default)]
    pub(crate) struct PreparedKey(OnceLock<Option<LessSafeKey>>);

    impl Clone for PreparedKey {
        fn clone(&self) -> PreparedKey {
            PreparedKey::default()
        }
    }

    fn prepared(key: &Key) -> Option<&LessSafeKey> {
        let make = || Some(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key.bytes).ok()?));
        key.prepared.0.get_or_init(make).as_ref()
    }

    pub(crate) fn seal(packet: &mut Packet<'_>) {
        let Some(key) = prepared(packet.key) else {
            return pure::seal(packet);
        };
        let nonce = Nonce::assume_unique_for_key(packet.nonce());
        let aad = Aad::from(packet.associated_data());
        seal_by(packet, |text| key.seal_in_place_separate_tag(nonce, aad, text));
    }

    /// Which library seals is settled before it touches the text, and it is not changed: AWS-LC clears a text that it
    /// failed to seal, and another library would seal the zeros as an authentic packet.
    fn seal_by(packet: &mut Packet<'_>, seal: impl FnOnce(&mut [u8]) -> Result<Tag, Unspecified>) {
        let tag = seal(packet.text).expect("Packet::new bounds the length");
        packet.tag.copy_from_slice(tag.as_ref());
    }

    /// AWS-LC decrypts while it verifies, and clears what it wrote if the tag turns out wrong. A packet that is not
    /// authentic must stay as it came, so AWS-LC writes to a buffer of ours; a text too long for that goes to the
    /// library that verifies first.
    pub(crate) fn open(packet: &mut Packet<'_>) {
        let Some(key) = prepared(packet.key).filter(|_| packet.text.len() <= ROOM) else {
            return pure::open(packet);
        };
        let mut opened = Opened { room: [0; ROOM], len: packet.text.len() };
        let nonce = Nonce::assume_unique_for_key(packet.nonce());
        packet.authentic = key
            .open_separate_gather(nonce, Aad::from(packet.associated_data()), packet.text, packet.tag, opened.text())
            .is_ok();
        if packet.authentic {
            packet.text.copy_from_slice(opened.text());
        }
    }

    /// What AWS-LC has decrypted. It is not moved, since a move would leave a copy behind.
    struct Opened {
        room: [u8; ROOM],
        len: usize,
    }

    impl Opened {
        fn text(&mut self) -> &mut [u8] {
            &mut self.room[..self.len]
        }
    }

    impl Drop for Opened {
        fn drop(&mut self) {
            self.text().zeroize();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::wiping_tests::dropped;

        #[test]
        fn a_dropped_text_that_was_decrypted_leaves_nothing_behind() {
            let opened = dropped(Opened { room: [0x5a; ROOM], len: 100 });
            assert_eq!(opened.room[..100], [0; 100]);
        }

        #[test]
        #[should_panic(expected = "bounds the length")]
        fn a_text_that_the_library_failed_to_seal_and_cleared_is_not_sealed_by_another() {
            let key = Key::new([7; 32]);
            let mut bytes = [0x5a; 64];
            seal_by(&mut Packet::new(&key, 0, &mut bytes).unwrap(), |text| {
                text.fill(0);
                Err(Unspecified)
            });
        }
    }
}
