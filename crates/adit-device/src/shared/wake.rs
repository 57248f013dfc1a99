//! Whether the control thread must be woken. It sleeps until the next deadline that it knows of. A worker's step with
//! the engine may leave it a handshake, an earlier deadline, or a source to be judged; only then is a system call spent
//! on waking it.

use std::sync::atomic::Ordering;

use adit::{Instant, Interface};

// The atomics are the standard library's; in `tests/wake.rs`, which includes this file, they are the model checker's.
use super::{AtomicBool, AtomicU64};

/// How the control thread sleeps.
///
/// What announces a sleep is written with the engine's lock held. So a worker that takes the lock later finds it, and
/// the work of one that held the lock earlier lies where the control thread has just looked.
pub(crate) struct ControlSleep {
    /// Until when, in the engine's nanoseconds; 0 while it is awake or being woken.
    until: AtomicU64,
    /// Whether it knows that there are sources to be judged, and will do so in time. A peer can make one of each
    /// packet, so it must not be woken for others.
    knows_of_sources: AtomicBool,
}

impl ControlSleep {
    pub(crate) fn new() -> Self {
        Self { until: AtomicU64::new(u64::MAX), knows_of_sources: AtomicBool::new(false) }
    }

    /// The control thread will sleep until `deadline`, or until it is woken. `held` shows that it still holds the lock
    /// under which it has found nothing to do; sources that are left there it knows of.
    pub(crate) fn set(&self, held: &Interface, deadline: Option<Instant>) {
        // A swap, though the old value is not needed: as every change reads the one before it, all threads see the
        // changes in one order without further argument, and so does the model checker.
        self.until.swap(deadline.map_or(u64::MAX, Instant::as_nanos), Ordering::Relaxed);
        self.knows_of_sources.store(held.has_sources(), Ordering::Relaxed);
    }

    /// The control thread is awake, and will look before it sleeps.
    pub(crate) fn is_awake(&self) {
        self.until.swap(0, Ordering::Relaxed);
    }

    /// Whether the control thread would sleep past something that it has to do; to be asked with the lock held.
    pub(crate) fn is_too_long(&self, interface: &Interface) -> bool {
        let until = Instant::from_nanos(self.until.load(Ordering::Relaxed));
        let has_new_sources = interface.has_sources() && !self.knows_of_sources.load(Ordering::Relaxed);
        interface.has_handshakes() || interface.may_be_due_before(until) || has_new_sources
    }

    /// Whether the caller must wake the control thread: true only once until the thread goes to sleep again.
    pub(crate) fn interrupt(&self) -> bool {
        self.until.swap(0, Ordering::Relaxed) != 0
    }
}
