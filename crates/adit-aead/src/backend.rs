//! Which backend does the work.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::{Packet, known_answers, portable};
#[cfg(all(target_arch = "x86_64", feature = "aws-lc-rs"))]
use crate::{avx2, short};
#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512::Avx512};

/// What is known of a backend.
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// A way to do the work. [`crate::seal`] and [`crate::open`] choose by
/// themselves; tests and benchmarks force one with `seal_with` and `open_with`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// AVX-512 with IFMA: ChaCha20 sixteen blocks wide, two such at a time, Poly1305 in
    /// eight lanes; a short packet by itself, eight blocks at a time.
    Avx512,
    /// AVX2: ChaCha20 eight blocks wide, with Poly1305 in eight lanes or, for long packets, in general registers beside
    /// it; a short packet by itself, four blocks at a time.
    Avx2,
    /// One packet at a time through a library, on any machine.
    Portable,
}

impl Backend {
    const ALL: [Backend; 3] = [Backend::Avx512, Backend::Avx2, Backend::Portable];

    /// The backends that work on this machine, best first.
    pub fn available() -> impl Iterator<Item = Backend> {
        Self::ALL.into_iter().filter(|backend| backend.is_available())
    }

    /// Whether the backend works on this machine: the CPU has its instructions,
    /// and it gives the known answers. That is found out once.
    pub fn is_available(self) -> bool {
        static FOUND: [AtomicU8; 3] = [const { AtomicU8::new(UNKNOWN) }; 3];
        self.find_out_once(&FOUND[self as usize], Backend::gives_known_answers)
    }

    /// What was `found` out before, or else whether the CPU has the instructions and `is_right` says so too.
    fn find_out_once(self, found: &AtomicU8, is_right: impl FnOnce(Backend) -> bool) -> bool {
        // Threads that come here at the same time find the same, and no other memory depends on it.
        if found.load(Ordering::Relaxed) == UNKNOWN {
            let works = self.is_supported() && is_right(self);
            found.store(if works { YES } else { NO }, Ordering::Relaxed);
        }
        found.load(Ordering::Relaxed) == YES
    }

    /// The backend for a batch.
    ///
    /// # Panics
    ///
    /// If no backend gives the known answers: then this machine cannot encrypt, and there is no telling what would be
    /// sent if it went on.
    pub(crate) fn best_for(packets: &[Packet<'_>]) -> Backend {
        let best = Self::available().next();
        match best.expect("no implementation of ChaCha20-Poly1305 works on this machine") {
            // A single packet does not fill the lanes unless it is long. If it is not, AWS-LC, which authenticates
            // while it decrypts, is faster, except for short packets, because it is slow to begin.
            Backend::Avx2 if is_for_aws_lc(packets) && Backend::Portable.is_available() => Backend::Portable,
            best => best,
        }
    }

    pub(crate) fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Avx2::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx512 | Backend::Avx2 => false,
            Backend::Portable => true,
        }
    }

    pub(crate) fn gives_known_answers(self) -> bool {
        let in_lanes = self != Backend::Portable;
        known_answers::are_given_by(|packets| seal_with(self, packets), |packets| open_with(self, packets), in_lanes)
    }
}

/// Whether AWS-LC is there and is faster with these packets than AVX2: a packet
/// by itself that is neither short nor long.
#[cfg(all(target_arch = "x86_64", feature = "aws-lc-rs"))]
fn is_for_aws_lc(packets: &[Packet<'_>]) -> bool {
    let lengths = short::max_len(avx2::rows::BLOCKS) + 1..=portable::ROOM;
    matches!(packets, [packet] if lengths.contains(&packet.text.len()))
}

#[cfg(not(all(target_arch = "x86_64", feature = "aws-lc-rs")))]
fn is_for_aws_lc(_: &[Packet<'_>]) -> bool {
    false
}

/// [`crate::seal`] with a backend of the caller's choice, for tests and
/// benchmarks. What the CPU cannot do falls to the portable backend.
pub fn seal_with(backend: Backend, packets: &mut [Packet<'_>]) {
    #[cfg(target_arch = "x86_64")]
    match backend {
        Backend::Avx512 => {
            if let Some(avx512) = Avx512::detect() {
                return avx512.seal(packets);
            }
        }
        Backend::Avx2 => {
            if let Some(avx2) = Avx2::detect() {
                return avx2.seal(packets);
            }
        }
        Backend::Portable => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = backend;
    packets.iter_mut().for_each(portable::seal);
}

/// [`crate::open`] with a backend of the caller's choice, as `seal_with`.
pub fn open_with(backend: Backend, packets: &mut [Packet<'_>]) {
    #[cfg(target_arch = "x86_64")]
    match backend {
        Backend::Avx512 => {
            if let Some(avx512) = Avx512::detect() {
                return avx512.open(packets);
            }
        }
        Backend::Avx2 => {
            if let Some(avx2) = Avx2::detect() {
                return avx2.open(packets);
            }
        }
        Backend::Portable => {}
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = backend;
    packets.iter_mut().for_each(portable::open);
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::{Key, TAG_LEN};

    #[test]
    fn a_backend_that_does_not_give_the_known_answers_is_not_available() {
        for backend in Backend::ALL {
            let found = AtomicU8::new(UNKNOWN);
            assert!(!backend.find_out_once(&found, |_| false), "{backend:?}");
            assert!(!backend.find_out_once(&found, |_| panic!("asked again")), "{backend:?}");
        }
    }

    #[test]
    fn a_backend_that_gives_the_known_answers_is_available_where_the_cpu_has_its_instructions() {
        for backend in Backend::ALL {
            let found = AtomicU8::new(UNKNOWN);
            assert_eq!(backend.find_out_once(&found, |_| true), backend.is_supported(), "{backend:?}");
            assert_eq!(backend.find_out_once(&found, |_| panic!("asked again")), backend.is_supported(), "{backend:?}");
        }
    }

    #[test]
    fn packets_are_given_to_the_fastest_backend_of_this_machine() {
        let best = if Backend::Avx512.is_supported() {
            Backend::Avx512
        } else if Backend::Avx2.is_supported() {
            Backend::Avx2
        } else {
            Backend::Portable
        };
        // AVX2 is slower than AWS-LC with a single packet that is not short.
        let has_aws_lc = cfg!(all(target_arch = "x86_64", feature = "aws-lc-rs"));
        let single = if best == Backend::Avx2 && has_aws_lc { Backend::Portable } else { best };
        for (count, length, expected) in [(1, 64, best), (1, 1_440, single), (8, 1_440, best)] {
            let key = Key::new([7; 32]);
            let mut bytes = vec![vec![0; length + TAG_LEN]; count];
            let packets: Vec<_> = bytes.iter_mut().map(|bytes| Packet::new(&key, 0, bytes).unwrap()).collect();
            assert_eq!(Backend::best_for(&packets), expected, "{count} packets of {length} bytes");
        }
    }
}
