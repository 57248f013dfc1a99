//! What the kernel says of the calling process.

use std::io;

/// The errno by which the kernel, or a filter of system calls, answers `prctl` with this operation and no arguments;
/// `None` if it succeeds. To be called only with operations that do not exist.
pub(crate) fn answer_to_prctl(operation: u32) -> Option<i32> {
    // SAFETY: the operation does not exist, and is asked for only to learn whether a filter knows it; every argument is
    // 0, so that the kernel has no pointer to follow.
    let result = unsafe { libc::prctl(operation as libc::c_int, 0, 0, 0, 0) };
    if result < 0 { io::Error::last_os_error().raw_os_error() } else { None }
}
