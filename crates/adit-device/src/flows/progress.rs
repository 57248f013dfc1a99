//! How far a worker is with its queue, as far as others may know it.

use std::sync::atomic::Ordering;

// The atomics are the standard library's; in `tests/flows.rs`, which includes this file, they are the model checker's.
use super::{AtomicBool, AtomicU32};

/// After so many reads nothing is left of what waited in a queue, whose length is 500, or on its way from there.
pub(super) const READS: u32 = 1000;

/// In a cache line of its own, since it changes with every read.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Progress {
    /// Whether packets may be on their way from the queue.
    at_work: AtomicBool,
    reads: AtomicU32,
    /// How often all that was in the queue has been sent.
    turns: AtomicU32,
}

/// A moment in the progress of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    reads: u32,
    turns: u32,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { at_work: AtomicBool::new(false), reads: AtomicU32::new(0), turns: AtomicU32::new(0) }
    }

    /// The worker is about to read from its queue, or has sent all that it has read and rests. Of two workers that
    /// begin at the same time at least one sees that the other is at work.
    pub(crate) fn set_at_work(&self, is_at_work: bool) {
        self.at_work.store(is_at_work, Ordering::SeqCst);
    }

    pub(crate) fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::SeqCst)
    }

    /// The worker has read from its queue. Only itself says so.
    pub(crate) fn has_read(&self) {
        self.reads.store(self.reads.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// The worker has found its queue empty, and sent all that it had.
    pub(crate) fn has_sent_all(&self) {
        self.turns.fetch_add(1, Ordering::AcqRel);
    }

    /// This moment.
    pub(crate) fn mark(&self) -> Mark {
        // Adding nothing reads the latest value, where a load might read an older one.
        Mark { reads: self.reads.load(Ordering::Acquire), turns: self.turns.fetch_add(0, Ordering::AcqRel) }
    }

    /// Whether everything has left that was in the queue at that moment.
    pub(crate) fn is_past(&self, mark: Mark, queue_is_empty: impl FnOnce() -> bool) -> bool {
        // In this order: what is not in the queue any more is with a worker that is at work.
        (queue_is_empty() && !self.is_at_work())
            // The first of these turns may have begun before.
            || self.turns.load(Ordering::Acquire).wrapping_sub(mark.turns) >= 2
            || self.reads.load(Ordering::Acquire).wrapping_sub(mark.reads) >= READS
    }
}
