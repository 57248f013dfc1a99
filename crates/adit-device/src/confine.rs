//! Least privilege: once a device is set up, its process keeps what serving it takes, and gives the rest up for good.
//!
//! | measure | what is left | why |
//! |---|---|---|
//! | capabilities | `CAP_NET_ADMIN` and `CAP_NET_BIND_SERVICE`, as far as the process had them | a firewall mark, large socket buffers and the link's state take the first; a port below 1024 the second; `CAP_IPC_LOCK` stays only where nothing else lets memory be locked |
//! | `no_new_privs` | | no program started from here gains a right by its file |
//! | seccomp | the system calls of serving, and those that starting this program again takes | see [`filter`] |
//! | Landlock | reading this program and its libraries, `/dev/null`, and removing the UAPI socket; no TCP | see [`files`] |
//! | core dumps | none, and no debugger of the same user | memory holds keys |
//! | locked memory | all of it | keys do not reach the disk by way of swap |
//!
//! Capabilities, filters and rules belong to threads: [`give_up`] is to be called while the process has the one thread
//! from which all others will be started.
//!
//! Memory is locked as it is touched (`MCL_ONFAULT`), so that the process is no larger for it. It is locked only where
//! no limit applies: under a limit, some allocation would fail one day and end the tunnel.
//!
//! # The next version
//!
//! A reload starts the program that is on disk by then, as a child, which inherits everything here: filters and rules
//! can never be taken off. So what starting it takes stays permitted: the calls of the dynamic loader, and `execve` of
//! files in the folders that hold this program and its libraries, to which Landlock confines it. The kept capabilities
//! are made ambient, so that an ordinary user's process does not lose them by `execve`. Nothing else is needed: device,
//! sockets and listener are handed over open. A program so started confines itself too, but adds no filters and rules
//! if they are there already: each further layer would cost time, and Linux permits 16. A version
//! that needs more than the old one's filter permits cannot be reloaded to: it fails to start, and the old one goes on.
//! To have no program started from here at all there is [`Confinement::reload`].

mod capabilities;
mod files;
mod filter;
mod memory;
#[cfg(test)]
mod tests;

use std::path::Path;

use rustix::thread::CapabilitySet;

/// What a process is to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Drop every capability but those that serving takes.
    pub drop_capabilities: bool,
    /// Never gain a right by starting a program. The kernel requires it for `seccomp` and `landlock`.
    pub no_new_privileges: bool,
    /// Permit only the system calls that are needed.
    pub seccomp: bool,
    /// Permit only the files that are needed, and no TCP, where the kernel has Landlock.
    pub landlock: bool,
    /// Leave no core dump, and let no debugger of the same user in.
    pub no_core_dumps: bool,
    /// Keep memory from being written to swap.
    pub lock_memory: bool,
    /// Keep what starting the next version of this program takes.
    pub reload: bool,
}

impl Confinement {
    /// Everything is given up that can be.
    pub const FULL: Self = Self {
        drop_capabilities: true,
        no_new_privileges: true,
        seccomp: true,
        landlock: true,
        no_core_dumps: true,
        lock_memory: true,
        reload: true,
    };

    /// Nothing is given up: for a process that does other things as well.
    pub const NONE: Self = Self {
        drop_capabilities: false,
        no_new_privileges: false,
        seccomp: false,
        landlock: false,
        no_core_dumps: false,
        lock_memory: false,
        reload: true,
    };
}

/// What is in force, as the kernel reported it afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// All of it, in words.
    pub(crate) words: String,
    /// Whether Landlock is: the next version has to be told, since nothing that it is permitted shows it.
    pub(crate) landlock: bool,
}

/// Shows that memory is protected, as far as that is wanted and possible: keys may be received.
#[derive(Debug)]
pub(crate) struct Protected(());

/// The part of [`give_up`] that concerns memory, for a process that is about to be given keys.
pub(crate) fn protect_memory(wanted: &Confinement) -> Protected {
    // `give_up` reports what could not be had.
    let _ = wanted.lock_memory.then(memory::lock);
    let _ = wanted.no_core_dumps.then(memory::forbid_core_dumps);
    Protected(())
}

/// Gives up what only serving took, in a process that has handed over and waits.
pub(crate) fn give_up_rest(wanted: &Confinement) {
    // There are no keys any more, and without the capability that some lock by, memory that is locked could not grow.
    memory::unlock();
    if wanted.drop_capabilities
        && let Err(why) = capabilities::keep_only(CapabilitySet::empty())
    {
        tracing::warn!(why, "capabilities kept");
    }
}

/// Gives up what is not needed from now on, for the calling thread and those that it will start. `socket` is the file
/// to be removed at the end. `has_landlock` says whether the process that started this one has passed on its rules.
///
/// A measure that the kernel lacks or refuses is skipped: a less confined tunnel is better than none, and the report
/// tells.
pub(crate) fn give_up(wanted: &Confinement, socket: Option<&Path>, has_landlock: bool) -> Report {
    let mut words = Words(Vec::new());
    let mut kept = capabilities::NEEDED;
    let locked = wanted.lock_memory.then(memory::lock);
    if let Some(Ok(memory::Lock::ByCapability)) = &locked {
        kept |= CapabilitySet::IPC_LOCK;
    }
    let undumpable = wanted.no_core_dumps.then(memory::forbid_core_dumps);

    let dropped = wanted.drop_capabilities.then(|| capabilities::keep_only(kept));
    words.add("capabilities kept", dropped, |left| format!("capabilities dropped ({left} kept)"));
    let bound = wanted.no_new_privileges.then(|| rustix::thread::set_no_new_privs(true));
    let bound = bound.map(|result| result.map_err(|error| error.to_string()));
    words.add("new privileges possible", bound, |()| "no_new_privs".to_owned());

    // Both need no_new_privs, and would set it even for a user who asked to do without.
    let landlock = (wanted.landlock && wanted.no_new_privileges).then(|| match has_landlock {
        true => Ok(files::Extent::Inherited),
        false => files::restrict(socket, wanted.reload),
    });
    let has_landlock = has_landlock || matches!(landlock, Some(Ok(_)));
    words.add("no landlock", landlock, |extent| extent.word().to_owned());
    let seccomp = (wanted.seccomp && wanted.no_new_privileges).then(|| match inherits_seccomp() {
        true => Ok(()),
        false => {
            let has_manager = std::env::var_os("NOTIFY_SOCKET").is_some_and(|address| !address.is_empty());
            filter::install(filter::Situation { reload: wanted.reload, has_landlock, has_manager })
        }
    });
    words.add("no seccomp", seccomp, |()| "seccomp".to_owned());
    words.add("core dumps possible", undumpable, |()| "no core dumps".to_owned());
    words.add("memory not locked", locked, |_| "locked memory".to_owned());
    let report = words.0.join(", ");
    tracing::info!(in_force = report, "confined");
    Report { words: report, landlock: has_landlock }
}

/// Whether the process that started this one has passed on its filters. They cannot be read back, but ours give an
/// answer that no kernel gives.
fn inherits_seccomp() -> bool {
    crate::sys::answer_to_mark() == Some(filter::MARK_ANSWER)
}

struct Words(Vec<String>);

impl Words {
    /// What became of a measure: `None` if it was not wanted.
    fn add<T>(&mut self, without: &str, result: Option<Result<T, String>>, word: impl FnOnce(T) -> String) {
        self.0.push(match result {
            None => without.to_owned(),
            Some(Ok(done)) => word(done),
            Some(Err(why)) => {
                tracing::info!(why, "{without}");
                format!("{without} ({why})")
            }
        });
    }
}
