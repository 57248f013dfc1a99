//! Which backend does the work.

use core::sync::atomic::{AtomicU8, Ordering};

use crate::{Packet, known_answers, portable};
#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512::Avx512, stream};

/// A way to do the work. [`crate::seal`] and [`crate::open`] choose by
/// themselves; tests and benchmarks force one with `seal_with` and `open_with`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// AVX-512 with IFMA: ChaCha20 sixteen blocks wide, Poly1305 in eight lanes.
    Avx512,
    /// AVX2: ChaCha20 eight blocks wide.
    Avx2,
    /// One packet at a time through a library, on any machine.
    Portable,
}

impl Backend {
    const ALL: [Backend; 3] = [Backend::Avx512, Backend::Avx2, Backend::Portable];

    /// The backends that work on this machine, best first: those whose
    /// instructions the CPU has, and that give the known answers.
    pub fn available() -> impl Iterator<Item = Backend> {
        Self::supported().filter(|backend| backend.is_available())
    }

    /// The backends whose instructions the CPU has.
    pub(crate) fn supported() -> impl Iterator<Item = Backend> {
        Self::ALL.into_iter().filter(|backend| backend.is_supported())
    }

    /// Whether the backend works on this machine.
    pub fn is_available(self) -> bool {
        self.is_supported()
            && known_answers::are_given_by(|packets| seal_with(self, packets), |packets| open_with(self, packets))
    }

    /// The best that works; found out once, and then remembered.
    ///
    /// # Panics
    ///
    /// If no backend gives the known answers: there is then no way to encrypt
    /// on this machine, and to go on would be to send out who knows what.
    pub(crate) fn best() -> Backend {
        const UNKNOWN: u8 = u8::MAX;
        static BEST: AtomicU8 = AtomicU8::new(UNKNOWN);
        // Threads that come here at once find the same.
        if let Some(best) = Self::ALL.get(usize::from(BEST.load(Ordering::Relaxed))) {
            return *best;
        }
        let best = Self::ALL.iter().position(|backend| backend.is_available());
        let best = best.expect("a backend that gives the known answers");
        BEST.store(best as u8, Ordering::Relaxed);
        Self::ALL[best]
    }

    fn is_supported(self) -> bool {
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
}

/// [`crate::seal`] with a backend of the caller's choice, for tests and
/// benchmarks. What the CPU cannot do falls to the portable backend.
pub fn seal_with(backend: Backend, packets: &mut [Packet<'_>]) {
    #[cfg(target_arch = "x86_64")]
    match backend {
        Backend::Avx512 => {
            if let Some(vector) = Avx512::detect() {
                return stream::seal(vector, packets);
            }
        }
        Backend::Avx2 => {
            if let Some(avx2) = Avx2::detect() {
                return avx2.seal(packets);
            }
        }
        Backend::Portable => {}
    }
    packets.iter_mut().for_each(portable::seal);
}

/// [`crate::open`] with a backend of the caller's choice, as `seal_with`.
pub fn open_with(backend: Backend, packets: &mut [Packet<'_>]) {
    #[cfg(target_arch = "x86_64")]
    match backend {
        Backend::Avx512 => {
            if let Some(vector) = Avx512::detect() {
                return stream::open(vector, packets);
            }
        }
        Backend::Avx2 => {
            if let Some(avx2) = Avx2::detect() {
                return avx2.open(packets);
            }
        }
        Backend::Portable => {}
    }
    packets.iter_mut().for_each(portable::open);
}
