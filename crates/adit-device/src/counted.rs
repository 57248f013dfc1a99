//! How often a thread does what costs time, for tests of what a packet costs.

use std::cell::Cell;
use std::thread::LocalKey;

thread_local! {
    /// System calls to send.
    pub(crate) static SENDS: Cell<usize> = const { Cell::new(0) };
    /// Locks of the engine.
    pub(crate) static LOCKS: Cell<usize> = const { Cell::new(0) };
}

/// It is done once more.
pub(crate) fn add(what: &'static LocalKey<Cell<usize>>) {
    what.set(what.get() + 1);
}

/// How often `work` does it.
pub(crate) fn count(what: &'static LocalKey<Cell<usize>>, work: impl FnOnce()) -> usize {
    let before = what.get();
    work();
    what.get() - before
}
