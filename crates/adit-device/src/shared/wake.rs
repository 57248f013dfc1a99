//! Whether the control thread must be woken. It sleeps until the next deadline that it knows of; a worker's step with the
//! engine may leave a handshake for it, or an earlier deadline, and only then is a system call spent on waking it.

use std::sync::atomic::Ordering;

use adit::{Instant, Interface};

// The standard library's; in `tests/wake.rs`, which includes this file, the model checker's.
use super::AtomicU64;

/// The moment until which the control thread sleeps, in the engine's nanoseconds; 0 while it is awake or being woken.
///
/// It is written with the engine's lock held when it says that the thread will sleep, so whoever takes the lock after
/// that finds it, and whoever took it before has left its work where the thread has just looked.
pub(crate) struct ControlSleep(AtomicU64);

impl ControlSleep {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// The control thread will sleep until `deadline`, or until it is woken: `_held` shows that the lock is held under which
    /// it has found nothing to do.
    pub(crate) fn set(&self, _held: &Interface, deadline: Option<Instant>) {
        // What was there is of no interest, but where every change reads the one before it, their order is one for all
        // threads without further argument, and the model checker sees it too.
        self.0.swap(deadline.map_or(u64::MAX, Instant::as_nanos), Ordering::Relaxed);
    }

    /// The control thread is awake, and will look before it sleeps.
    pub(crate) fn is_awake(&self) {
        self.0.swap(0, Ordering::Relaxed);
    }

    /// Whether the control thread would sleep beyond what there is for it to do; to be asked with the lock held.
    pub(crate) fn is_too_long(&self, interface: &Interface) -> bool {
        let until = Instant::from_nanos(self.0.load(Ordering::Relaxed));
        interface.has_handshakes() || interface.may_be_due_before(until)
    }

    /// Whether the caller must wake the control thread: true once until the thread has slept again.
    pub(crate) fn interrupt(&self) -> bool {
        self.0.swap(0, Ordering::Relaxed) != 0
    }
}
