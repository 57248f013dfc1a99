//! The batch cipher: every backend that works here against the crate `chacha20poly1305`, over batches of any lengths
//! and keys, and packets that were changed on their way.

use adit_aead::{Backend, Key, Packet, TAG_LEN, open, open_with, seal, seal_with};
use arbitrary::{Result, Unstructured};
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};

const MAX_PACKETS: usize = 70;
const MAX_BYTES: usize = 48 << 10;

/// A batch, sealed and opened.
pub fn run(input: &[u8]) {
    // What is missing at the end of the input ends the batch.
    let batch = Batch::read(&mut Unstructured::new(input));
    let keys: Vec<Key> = batch.keys.iter().map(|&key| Key::new(key)).collect();
    let expected: Vec<Vec<u8>> = batch.parts.iter().map(|part| part.sealed(&batch.keys)).collect();
    let arriving: Vec<Arriving> = batch.parts.iter().zip(&expected).map(|(part, sealed)| part.sent(sealed)).collect();

    let chosen = std::iter::once(None).chain(Backend::available().map(Some));
    for backend in chosen {
        let mut bytes: Vec<Vec<u8>> = batch.parts.iter().map(Part::unsealed).collect();
        let mut packets = packets(&keys, batch.parts.iter().map(|part| (part.key, part.counter)), &mut bytes);
        match backend {
            None => seal(&mut packets),
            Some(backend) => seal_with(backend, &mut packets),
        }
        for ((sealed, expected), part) in bytes.iter().zip(&expected).zip(&batch.parts) {
            assert_eq!(sealed, expected, "{backend:?} sealed {} bytes", part.text.len());
        }

        let mut bytes: Vec<Vec<u8>> = arriving.iter().map(|arriving| arriving.bytes.clone()).collect();
        let mut packets = self::packets(&keys, arriving.iter().map(|a| (a.key, a.counter)), &mut bytes);
        match backend {
            None => open(&mut packets),
            Some(backend) => open_with(backend, &mut packets),
        }
        let authentic: Vec<bool> = packets.iter().map(Packet::is_authentic).collect();
        for (((opened, authentic), arriving), part) in bytes.iter().zip(authentic).zip(&arriving).zip(&batch.parts) {
            assert_eq!(authentic, !arriving.is_changed, "{backend:?} opened {} bytes", part.text.len());
            if authentic {
                assert_eq!(opened[..part.text.len()], part.text, "{backend:?} decrypted");
            } else {
                assert_eq!(opened, &arriving.bytes, "{backend:?}: what is not authentic stays as it came");
            }
        }
    }
}

/// Each packet in memory of just its length, so that the sanitizer sees whoever reaches beyond it.
fn packets<'a>(
    keys: &'a [Key],
    which: impl Iterator<Item = (usize, u64)>,
    bytes: &'a mut [Vec<u8>],
) -> Vec<Packet<'a>> {
    let packet = |((key, counter), bytes): ((usize, u64), &'a mut Vec<u8>)| Packet::new(&keys[key], counter, bytes);
    which.zip(bytes).map(|one| packet(one).expect("there is room for a tag")).collect()
}

struct Batch {
    keys: Vec<[u8; 32]>,
    parts: Vec<Part>,
}

struct Part {
    key: usize,
    counter: u64,
    text: Vec<u8>,
    change: Change,
}

enum Change {
    None,
    /// One bit, anywhere in text and tag.
    Bit(u32),
    Counter(u64),
    Key(usize),
}

/// What arrives of a packet.
struct Arriving {
    key: usize,
    counter: u64,
    bytes: Vec<u8>,
    is_changed: bool,
}

impl Batch {
    fn read(input: &mut Unstructured<'_>) -> Self {
        let count = input.int_in_range(1..=4).unwrap_or(1);
        let keys = (0..count).map(|number| read_key(input, number)).collect();
        let mut batch = Self { keys, parts: Vec::new() };
        let mut bytes = 0;
        while !input.is_empty() && batch.parts.len() < MAX_PACKETS && bytes < MAX_BYTES {
            let Ok(part) = Part::read(input, count.into()) else { break };
            bytes += part.text.len() + 64;
            batch.parts.push(part);
        }
        batch
    }
}

fn read_key(input: &mut Unstructured<'_>, number: u8) -> [u8; 32] {
    let mut key = [input.arbitrary().unwrap_or(0); 32];
    key[31] = number;
    key
}

impl Part {
    fn read(input: &mut Unstructured<'_>, keys: usize) -> Result<Self> {
        let shape: u8 = input.arbitrary()?;
        let key = usize::from(shape & 3) % keys;
        let small = u64::from(input.arbitrary::<u8>()?);
        let counter = match shape >> 2 & 3 {
            0 | 1 => small,
            2 => u64::from(u32::MAX) - 128 + small,
            _ => input.arbitrary()?,
        };
        let len = match shape >> 4 & 3 {
            0 => usize::from(input.arbitrary::<u8>()?),
            // About whole blocks of the two ciphers.
            1 => (usize::from(input.arbitrary::<u8>()?) * 16 + 15).saturating_sub(small as usize & 0x1f),
            2 => usize::from(input.arbitrary::<u16>()?) % 1_600,
            _ => usize::from(input.arbitrary::<u16>()?) % 9_100,
        };
        let fill: u8 = input.arbitrary()?;
        let text = match shape >> 6 {
            0 => vec![fill; len],
            1 => vec![0xff; len],
            _ => (0..len).map(|place| (place as u8).wrapping_mul(fill | 1) ^ (place >> 8) as u8).collect(),
        };
        let change = match input.arbitrary::<u8>()? {
            0..=0x9f => Change::None,
            0xa0..=0xdf => Change::Bit(u32::from(input.arbitrary::<u16>()?) ^ u32::from(fill) << 13),
            0xe0..=0xef => Change::Counter(1 << (small % 64)),
            _ => Change::Key(usize::from(fill) % keys),
        };
        Ok(Self { key, counter, text, change })
    }

    /// By the reference.
    fn sealed(&self, keys: &[[u8; 32]]) -> Vec<u8> {
        let mut nonce = Nonce::default();
        nonce[4..].copy_from_slice(&self.counter.to_le_bytes());
        let cipher = ChaCha20Poly1305::new(&keys[self.key].into());
        cipher.encrypt(&nonce, self.text.as_slice()).expect("a text that fits into memory is short enough")
    }

    /// As the caller lays it out; what stands where the tag will be does not matter.
    fn unsealed(&self) -> Vec<u8> {
        self.text.iter().copied().chain([0xa5; TAG_LEN]).collect()
    }

    fn sent(&self, sealed: &[u8]) -> Arriving {
        let (mut key, mut counter, mut bytes) = (self.key, self.counter, sealed.to_vec());
        match self.change {
            Change::None => {}
            Change::Bit(bit) => {
                let bit = bit as usize % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            Change::Counter(bits) => counter ^= bits,
            Change::Key(other) => key = other,
        }
        let is_changed = bytes != sealed || counter != self.counter || key != self.key;
        Arriving { key, counter, bytes, is_changed }
    }
}
