//! One short packet by itself, as it comes when the tunnel is nearly idle: few
//! blocks, and little code, for by then all of it has left the caches.

use zeroize::optimization_barrier;

use super::Avx2;
use super::rows::BLOCKS;
use super::scalar::Scalar;
use crate::stream::{self, BLOCK_LEN, Vector};
use crate::{Packet, TAG_LEN};

/// The longest text: the first block makes the authenticator's key.
pub(crate) const MAX_LEN: usize = (BLOCKS - 1) * BLOCK_LEN;

/// See [`crate::seal`].
pub(super) fn seal(vector: Avx2, packet: &mut Packet<'_>) {
    let mut stream = Stream::EMPTY;
    stream.fill(vector, packet);
    stream.apply(vector, packet);
    *packet.tag = stream.tag(packet.text);
}

/// See [`crate::open`].
pub(super) fn open(vector: Avx2, packet: &mut Packet<'_>) {
    let mut stream = Stream::EMPTY;
    stream.fill(vector, packet);
    packet.authentic = stream::is_equal(packet.tag, &stream.tag(packet.text)).into();
    if packet.authentic {
        stream.apply(vector, packet);
    }
}

/// The whole key stream of a packet.
struct Stream([u8; BLOCKS * BLOCK_LEN]);

impl Stream {
    const EMPTY: Stream = Stream([0; BLOCKS * BLOCK_LEN]);

    /// Where it is, and stays until it is wiped: whatever is moved leaves a copy behind.
    fn fill(&mut self, vector: Avx2, packet: &Packet<'_>) {
        vector.key_stream_in_rows(&stream::segment(packet, 0, 0, BLOCKS), &mut self.0);
    }

    /// Encrypts or decrypts.
    fn apply(&self, vector: Avx2, packet: &mut Packet<'_>) {
        let len = packet.text.len();
        vector.xor(packet.text, &self.0[BLOCK_LEN..][..len]);
    }

    /// The tag of a ciphertext.
    fn tag(&self, text: &[u8]) -> [u8; TAG_LEN] {
        let (halves, _) = self.0.as_chunks();
        let last = (u128::from(text.len() as u64) << 64).to_le_bytes();
        Scalar::new(&halves[0]).finish(text, &last)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What `Zeroize` does, but with vector stores instead of a byte at a time.
        self.0 = [0; BLOCKS * BLOCK_LEN];
        optimization_barrier(self);
    }
}
