//! Network namespaces: hosts of their own inside this one.

use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic;
use std::thread;

use crate::sys;

/// The calling thread's own namespace. This is a link: its path stays the same while the namespace that it names
/// changes.
const OWN: &str = "/proc/thread-self/ns/net";

/// Makes a new network namespace. It has no name, and ends with the last of its file descriptors, sockets and
/// processes.
///
/// # Errors
/// EPERM without `CAP_SYS_ADMIN`.
pub fn create() -> io::Result<OwnedFd> {
    on_thread(|| {
        sys::unshare_network()?;
        current()
    })
}

/// The network namespace of the calling thread.
///
/// # Errors
/// `/proc` is not mounted.
pub fn current() -> io::Result<OwnedFd> {
    File::open(OWN).map(OwnedFd::from)
}

/// Runs `work` in another network namespace, on a thread of its own, so that the caller stays where it is. Sockets and
/// devices that `work` opens belong to that namespace for good.
///
/// # Errors
/// The namespace may not be entered. Then `work` has not run.
pub fn run_in<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_thread(|| {
        sys::enter(namespace)?;
        Ok(work())
    })
}

/// Moves the calling thread to another network namespace, with every thread that it starts from now on.
///
/// # Errors
/// The namespace may not be entered.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    sys::enter(namespace)
}

/// Makes an ordinary user's process the root of a user namespace and a network namespace of its own, in which it may
/// make interfaces and further network namespaces. What it does there vanishes with it.
///
/// # Errors
/// The process has more than one thread (EINVAL), or this kernel lets no ordinary user do so (EPERM, ENOSPC).
pub fn become_root_of_own() -> io::Result<()> {
    let (user, group) = sys::effective_ids();
    sys::unshare_user_and_network()?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|cause| panic::resume_unwind(cause))
    })
}
