//! Who takes part in the benchmarks of the cipher.

use std::hint::black_box;
use std::time::{Duration, Instant};

use adit_aead::{Backend, Key, Packet, TAG_LEN, open_with, seal_with};
use aws_lc_rs::aead as aws_lc;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
use ring::aead as ring;

const KEY: [u8; 32] = [0x27; 32];

/// Who takes part.
#[derive(Debug)]
pub enum Contestant {
    /// A backend of ours.
    Adit(Backend, Key),
    /// `ring`.
    Ring(Box<ring::LessSafeKey>),
    /// AWS-LC.
    AwsLc(aws_lc::LessSafeKey),
    /// The `chacha20poly1305` crate.
    RustCrypto(ChaCha20Poly1305),
}

/// A batch as the contestant takes it.
#[derive(Debug)]
pub enum Batch<'a> {
    /// All at once.
    Packets(Vec<Packet<'a>>),
    /// One after the other, each with room for its tag.
    Buffers(Vec<&'a mut [u8]>),
}

impl Contestant {
    /// All that can run here, ours first.
    pub fn all() -> impl Iterator<Item = Contestant> {
        let ring_key = ring::UnboundKey::new(&ring::CHACHA20_POLY1305, &KEY).expect("32 bytes");
        let aws_lc_key = aws_lc::UnboundKey::new(&aws_lc::CHACHA20_POLY1305, &KEY).expect("32 bytes");
        let ours = Backend::available().filter(|backend| *backend != Backend::Portable);
        ours.map(|backend| Contestant::Adit(backend, Key::new(KEY))).chain([
            Contestant::Ring(Box::new(ring::LessSafeKey::new(ring_key))),
            Contestant::AwsLc(aws_lc::LessSafeKey::new(aws_lc_key)),
            Contestant::RustCrypto(ChaCha20Poly1305::new(&KEY.into())),
        ])
    }

    /// What reports call it.
    pub fn name(&self) -> &'static str {
        match self {
            Contestant::Adit(Backend::Avx512, _) => "adit AVX-512",
            Contestant::Adit(Backend::Avx2, _) => "adit AVX2",
            Contestant::Adit(Backend::Portable, _) => "adit portable",
            Contestant::Ring(_) => "ring",
            Contestant::AwsLc(_) => "aws-lc-rs",
            Contestant::RustCrypto(_) => "chacha20poly1305",
        }
    }

    /// The time that the work takes in so many turns. Several batches that fit
    /// into the first cache are prepared at a time, so that looking at the
    /// clock costs next to nothing.
    pub fn time(
        &self,
        length: usize,
        count: usize,
        turns: u64,
        prepare: fn(&Contestant, &mut Batch<'_>),
        work: fn(&Contestant, &mut Batch<'_>),
    ) -> Duration {
        let room = length + TAG_LEN;
        let batches = (16_384 / (count * room)).max(1);
        let mut memory = vec![0x5a; batches * count * room];
        let mut batches: Vec<Batch<'_>> =
            memory.chunks_mut(count * room).map(|memory| self.batch(memory.chunks_mut(room))).collect();
        let mut time = Duration::ZERO;
        let mut left = turns as usize;
        while left > 0 {
            let now = left.min(batches.len());
            let batches = &mut batches[..now];
            batches.iter_mut().for_each(|batch| prepare(self, batch));
            let start = Instant::now();
            for batch in batches {
                work(self, black_box(batch));
            }
            time += start.elapsed();
            left -= now;
        }
        time
    }

    fn batch<'a>(&'a self, buffers: impl Iterator<Item = &'a mut [u8]>) -> Batch<'a> {
        match self {
            Contestant::Adit(_, key) => {
                let packet = |(i, buffer)| Packet::new(key, i as u64, buffer).expect("room for a tag");
                Batch::Packets(buffers.enumerate().map(packet).collect())
            }
            _ => Batch::Buffers(buffers.collect()),
        }
    }

    /// Seals all packets, numbered from 0.
    pub fn seal(&self, batch: &mut Batch<'_>) {
        match (self, batch) {
            (Contestant::Adit(backend, _), Batch::Packets(packets)) => seal_with(*backend, packets),
            (_, Batch::Buffers(buffers)) => {
                for (i, buffer) in buffers.iter_mut().enumerate() {
                    self.seal_one(nonce(i), buffer);
                }
            }
            _ => unreachable!("a batch is made for its contestant"),
        }
    }

    /// Opens all packets, which must be authentic.
    pub fn open(&self, batch: &mut Batch<'_>) {
        match (self, batch) {
            (Contestant::Adit(backend, _), Batch::Packets(packets)) => {
                open_with(*backend, packets);
                assert!(packets.iter().all(Packet::is_authentic));
            }
            (_, Batch::Buffers(buffers)) => {
                for (i, buffer) in buffers.iter_mut().enumerate() {
                    self.open_one(nonce(i), buffer);
                }
            }
            _ => unreachable!("a batch is made for its contestant"),
        }
    }

    fn seal_one(&self, nonce: [u8; 12], buffer: &mut [u8]) {
        let (text, room) = buffer.split_last_chunk_mut::<TAG_LEN>().expect("room for a tag");
        match self {
            Contestant::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, ring::Aad::empty(), text);
                room.copy_from_slice(tag.expect("short enough").as_ref());
            }
            Contestant::AwsLc(key) => {
                let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, aws_lc::Aad::empty(), text);
                room.copy_from_slice(tag.expect("short enough").as_ref());
            }
            Contestant::RustCrypto(cipher) => {
                let tag = cipher.encrypt_inout_detached(&nonce.into(), &[], InOutBuf::from(text));
                *room = tag.expect("short enough").into();
            }
            Contestant::Adit(..) => unreachable!("takes a batch"),
        }
    }

    fn open_one(&self, nonce: [u8; 12], buffer: &mut [u8]) {
        match self {
            Contestant::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, ring::Aad::empty(), buffer).expect("authentic");
            }
            Contestant::AwsLc(key) => {
                let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, aws_lc::Aad::empty(), buffer).expect("authentic");
            }
            Contestant::RustCrypto(cipher) => {
                let (text, tag) = buffer.split_last_chunk_mut::<TAG_LEN>().expect("a tag");
                let tag = (*tag).into();
                cipher.decrypt_inout_detached(&nonce.into(), &[], InOutBuf::from(text), &tag).expect("authentic");
            }
            Contestant::Adit(..) => unreachable!("takes a batch"),
        }
    }
}

fn nonce(counter: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(counter as u64).to_le_bytes());
    nonce
}
