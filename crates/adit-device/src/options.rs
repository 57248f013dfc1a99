//! How a device is to be started.

use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::confine::Confinement;
use crate::handover::Reload;
use crate::notify::Notifier;

/// Tells the caller of [`run`](crate::run) that the interface is there and the UAPI socket answers; the argument is the
/// interface's name as the kernel gave it.
pub type Ready = Box<dyn FnOnce(&str) + Send>;

/// How a device is to be started.
pub struct Options {
    /// The name of the interface.
    pub name: String,
    /// Worker threads.
    pub threads: NonZeroUsize,
    /// Let the kernel split and join packets where it can.
    pub offload: bool,
    /// How long a worker polls for packets before it sleeps: polling costs processor time, and saves the time that
    /// waking takes. Zero is never. `None`, the usual, is for 250 µs at most while packets go to and fro, few at a time
    /// and faster than that, and for 500 µs at most after a single request where replies usually come as soon, the
    /// latter for a sixteenth of the time at most.
    pub busy_poll: Option<Duration>,
    /// A TUN device opened by somebody else, instead of creating one.
    pub tun_fd: Option<OwnedFd>,
    /// A listening UAPI socket opened by somebody else, instead of creating one.
    pub uapi_fd: Option<OwnedFd>,
    /// A listening socket opened by somebody else on which reloads are asked for, instead of creating one.
    pub reload_fd: Option<OwnedFd>,
    /// What the calling thread, and those that it starts, give up for good once the device is set up.
    pub confinement: Confinement,
    /// The service manager, to be told of the beginning and the end.
    pub notifier: Option<Notifier>,
    /// Called once, when the device can be configured and used.
    pub ready: Option<Ready>,
    /// How this process can be replaced while it serves; `None` if it cannot.
    pub reload: Option<Reload>,
    /// A socket to a process that hands its device over, instead of making one; see [`handover`](crate::handover).
    pub handover: Option<OwnedFd>,
}

impl Options {
    /// The usual: a thread for each core, every offload the kernel has, nothing inherited, and nothing given up, since
    /// the process may be made for other things as well.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            offload: true,
            busy_poll: None,
            tun_fd: None,
            uapi_fd: None,
            reload_fd: None,
            confinement: Confinement::NONE,
            notifier: None,
            ready: None,
            reload: None,
            handover: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("name", &self.name)
            .field("threads", &self.threads)
            .field("offload", &self.offload)
            .field("busy_poll", &self.busy_poll)
            .field("tun_fd", &self.tun_fd)
            .field("uapi_fd", &self.uapi_fd)
            .field("reload_fd", &self.reload_fd)
            .field("confinement", &self.confinement)
            .field("reload", &self.reload)
            .field("handover", &self.handover)
            .finish_non_exhaustive()
    }
}

/// Why `name` cannot be that of an interface, or `None` if it can: 1 to 15 of the characters that `wg-quick(8)` allows.
pub fn name_refusal(name: &str) -> Option<String> {
    if matches!(name, "." | "..") {
        return Some(format!("found {name:?}, expected the name of an interface"));
    }
    if name.is_empty() || name.len() > 15 {
        return Some(format!("found {name:?}, expected a name of 1 to 15 characters"));
    }
    let stranger = name.chars().find(|c| !c.is_ascii_alphanumeric() && !"_=+.-".contains(*c))?;
    Some(format!("found {stranger:?} in {name:?}, expected letters, digits and any of _ = + . -"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_or_a_path_would_misread_are_refused() {
        for good in ["wg0", "a", "home-office.2_=", "fifteen-letters"] {
            assert_eq!(name_refusal(good), None);
        }
        for bad in ["", ".", "..", "../x", "a b", "wg%d", "sixteen-letters-", "a/b", "é"] {
            assert!(name_refusal(bad).is_some(), "{bad}");
        }
    }
}
