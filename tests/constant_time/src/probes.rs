//! What is done with secrets under valgrind's eyes, and where each may show.

mod cipher;
mod controls;
mod keys;
mod tunnel;

/// One thing that is done with secrets.
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    pub(crate) run: fn(),
    /// Where something that was computed from a secret decides openly, and may.
    pub(crate) allowed: &'static [Allowed],
    pub(crate) expected: Expected,
}

/// What is expected of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// No finding but the allowed ones.
    Quiet,
    /// A leak that was put in is found: the function of this name is in the finding's stack.
    Leak(&'static str),
}

/// A place where a branch on something secret is meant: the line of source, and why.
#[derive(Debug)]
pub(crate) struct Allowed {
    /// The end of the file's name.
    pub(crate) place: &'static str,
    /// What the line holds or, where the source is not at hand, the function's name.
    pub(crate) line: &'static str,
    pub(crate) why: &'static str,
}

/// All of them.
pub(crate) fn all() -> Vec<&'static Probe> {
    [controls::PROBES, cipher::PROBES, keys::PROBES, tunnel::PROBES].concat()
}

/// Bytes that stand for a secret: any will do, since none is ever looked at.
fn bytes<const N: usize>(seed: u8) -> [u8; N] {
    core::array::from_fn(|i| (i as u8).wrapping_mul(73).wrapping_add(seed))
}
