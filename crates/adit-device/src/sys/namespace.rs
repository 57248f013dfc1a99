//! Moving the calling thread or process to another namespace.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::{getegid, geteuid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::check;

/// Moves the calling thread, and no other, to the network namespace.
pub(crate) fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

/// Moves the calling thread, and no other, to a new network namespace.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare takes an integer only and touches no memory of ours; CLONE_NEWNET does not change what threads
    // share of their memory or file descriptors.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Moves the calling process, which must have one thread only, to a new user namespace and a new network namespace
/// owned by it.
pub(crate) fn unshare_user_and_network() -> io::Result<()> {
    // SAFETY: as above; the kernel itself refuses CLONE_NEWUSER to a process of several threads.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) }).map(drop)
}

/// The effective user and group of the process.
pub(crate) fn effective_ids() -> (u32, u32) {
    (geteuid().as_raw(), getegid().as_raw())
}
