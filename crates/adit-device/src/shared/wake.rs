//! Whether the control thread must be woken. It sleeps until the next deadline that it knows of. A worker's step with
//! the engine may leave it a handshake or an earlier deadline; only then is a system call spent on waking it.

use std::sync::atomic::Ordering;

use adit::{Instant, Interface};

// The atomic is the standard library's; in `tests/wake.rs`, which includes this file, it is the model checker's.
use super::AtomicU64;

/// The moment until which the control thread sleeps, in the engine's nanoseconds; 0 while it is awake or being woken.
///
/// The value that announces a sleep is written with the engine's lock held. So a worker that takes the lock later finds
/// it, and the work of one that held the lock earlier lies where the control thread has just looked.
pub(crate) struct ControlSleep(AtomicU64);

impl ControlSleep {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// The control thread will sleep until `deadline`, or until it is woken. `_held` shows that it still holds the lock
    /// under which it has found nothing to do.
    pub(crate) fn set(&self, _held: &Interface, deadline: Option<Instant>) {
        // A swap, though the old value is not needed: as every change reads the one before it, all threads see the
        // changes in one order without further argument, and so does the model checker.
        self.0.swap(deadline.map_or(u64::MAX, Instant::as_nanos), Ordering::Relaxed);
    }

    /// The control thread is awake, and will look before it sleeps.
    pub(crate) fn is_awake(&self) {
        self.0.swap(0, Ordering::Relaxed);
    }

    /// Whether the control thread would sleep past something that it has to do; to be asked with the lock held.
    pub(crate) fn is_too_long(&self, interface: &Interface) -> bool {
        let until = Instant::from_nanos(self.0.load(Ordering::Relaxed));
        interface.has_handshakes() || interface.may_be_due_before(until)
    }

    /// Whether the caller must wake the control thread: true only once until the thread goes to sleep again.
    pub(crate) fn interrupt(&self) -> bool {
        self.0.swap(0, Ordering::Relaxed) != 0
    }
}
