//! One short packet by itself, as it comes when the tunnel is nearly idle: few blocks, and little code, since all code
//! has left the caches by then.

use crate::scalar::Scalar;
use crate::stream::{self, BLOCK_LEN, KeyStream, Segment, Vector};
use crate::{Packet, TAG_LEN};

/// What a backend does for such a packet.
pub(crate) trait Rows<const BLOCKS: usize>: Vector {
    /// Fills `out` with the key stream of one packet, from the segment's first block on.
    fn key_stream_in_rows(self, segment: &Segment<'_>, out: &mut KeyStream<BLOCKS>);
}

/// The longest text: the first block makes the authenticator's key.
pub(crate) const fn max_len(blocks: usize) -> usize {
    (blocks - 1) * BLOCK_LEN
}

/// See [`crate::seal`].
pub(crate) fn seal<const BLOCKS: usize>(vector: impl Rows<BLOCKS>, packet: &mut Packet<'_>) {
    let mut stream = KeyStream::new();
    vector.key_stream_in_rows(&stream::segment(packet, 0, 0, BLOCKS), &mut stream);
    apply(vector, packet, &stream);
    *packet.tag = tag(packet.text, &stream);
}

/// See [`crate::open`].
pub(crate) fn open<const BLOCKS: usize>(vector: impl Rows<BLOCKS>, packet: &mut Packet<'_>) {
    let mut stream = KeyStream::new();
    vector.key_stream_in_rows(&stream::segment(packet, 0, 0, BLOCKS), &mut stream);
    packet.authentic = stream::is_equal(packet.tag, &tag(packet.text, &stream)).into();
    if packet.authentic {
        apply(vector, packet, &stream);
    }
}

/// Encrypts or decrypts.
fn apply<const BLOCKS: usize>(vector: impl Vector, packet: &mut Packet<'_>, stream: &KeyStream<BLOCKS>) {
    vector.xor(packet.text, &stream.0[1..]);
}

/// The tag of a ciphertext.
fn tag<const BLOCKS: usize>(text: &[u8], stream: &KeyStream<BLOCKS>) -> [u8; TAG_LEN] {
    let (halves, _) = stream.0[0].as_chunks();
    let last = (u128::from(text.len() as u64) << 64).to_le_bytes();
    Scalar::new(&halves[0]).finish(text, &last)
}
