//! Which backend does the work.

use crate::{Packet, portable};
#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512::Avx512, stream};

/// A way to do the work. [`crate::seal`] and [`crate::open`] choose by
/// themselves; tests and benchmarks force one with [`seal_with`] and [`open_with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// AVX-512 with IFMA: ChaCha20 sixteen blocks wide, Poly1305 in eight lanes.
    Avx512,
    /// AVX2: ChaCha20 eight blocks wide, Poly1305 in four lanes.
    Avx2,
    /// One packet at a time through a library, on any machine.
    Portable,
}

impl Backend {
    const ALL: [Backend; 3] = [Backend::Avx512, Backend::Avx2, Backend::Portable];

    /// The backends that work on this machine, best first.
    pub fn available() -> impl Iterator<Item = Backend> {
        Self::ALL
            .into_iter()
            .filter(|backend| backend.is_available())
    }

    /// Whether this machine has what the backend needs.
    pub fn is_available(self) -> bool {
        match self {
            Backend::Avx512 => Avx512::detect().is_some(),
            Backend::Avx2 => Avx2::detect().is_some(),
            Backend::Portable => true,
        }
    }

    pub(crate) fn best() -> Backend {
        Self::available().next().unwrap_or(Backend::Portable)
    }
}

/// [`crate::seal`] with a backend of the caller's choice, for tests and
/// benchmarks. A backend that is not available gives way to the portable one.
pub fn seal_with(backend: Backend, packets: &mut [Packet<'_>]) {
    match (backend, Avx512::detect(), Avx2::detect()) {
        (Backend::Avx512, Some(v), _) => stream::seal(v, packets),
        (Backend::Avx2, _, Some(v)) => stream::seal(v, packets),
        _ => packets.iter_mut().for_each(portable::seal),
    }
}

/// [`crate::open`] with a backend of the caller's choice, as [`seal_with`].
pub fn open_with(backend: Backend, packets: &mut [Packet<'_>]) {
    match (backend, Avx512::detect(), Avx2::detect()) {
        (Backend::Avx512, Some(v), _) => stream::open(v, packets),
        (Backend::Avx2, _, Some(v)) => stream::open(v, packets),
        _ => packets.iter_mut().for_each(portable::open),
    }
}
