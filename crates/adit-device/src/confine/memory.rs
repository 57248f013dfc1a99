//! Keeping what is in memory from ending up on a disk.

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall, munlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Why the process may lock as much as it will ever have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// It has no limit.
    Unlimited,
    /// `CAP_IPC_LOCK`, which must be kept.
    ByCapability,
}

/// Locks all memory, present and to come, as it is touched.
pub(super) fn lock() -> Result<Lock, String> {
    let no_limit = Rlimit { current: None, maximum: None };
    let limit = getrlimit(Resource::Memlock);
    let by = if limit.current.is_none() || setrlimit(Resource::Memlock, no_limit).is_ok() {
        Lock::Unlimited
    } else if capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK)) {
        Lock::ByCapability
    } else {
        return Err(format!("the limit is {} KiB, unlimited is needed", limit.current.unwrap_or(0) / 1024));
    };
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => Ok(by),
        // Linux before 4.4 has no ONFAULT, and would take all of it at once.
        Err(Errno::INVAL) => Err("not in this kernel".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The opposite of [`lock`].
pub(super) fn unlock() {
    // It can hardly fail, and would only leave more memory locked than is needed.
    let _ = munlockall();
}

/// Leaves no core dump. The limit alone would not do: it does not apply where the kernel gives dumps to a program.
pub(super) fn forbid_core_dumps() -> Result<(), String> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .map_err(|error| error.to_string())
}
