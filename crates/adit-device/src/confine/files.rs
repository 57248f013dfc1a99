//! Landlock: files and networks that a process may reach, beside what it has open.
//!
//! What is open already (the device, sockets, netlink, standard error) stays usable. What can still be opened is what a
//! start of the next version reads, and `/dev/null`. What can still be changed is the folder of the UAPI socket, from
//! which files can be removed. TCP is not permitted at all, and signals and abstract sockets reach no process outside.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest version whose rights are known here. A kernel enforces those of them that it has.
const KNOWN: ABI = ABI::V6;
/// What the dynamic loader reads before anything else.
pub(super) const LOADER_FILES: [&str; 2] = ["/etc/ld.so.cache", "/etc/ld.so.preload"];

/// How much of what was asked for the kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// To the extent that the process that started this one had it.
    Inherited,
    /// An older kernel: files, but not networks or signals.
    Part,
}

impl Extent {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Whole => "landlock",
            Self::Inherited => "landlock (inherited)",
            Self::Part => "landlock (as far as this kernel has it)",
        }
    }
}

/// Why there are no rules.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Rules(#[from] RulesetError),
    #[error("{}: {source}", path.display())]
    Path { path: PathBuf, source: io::Error },
}

/// Forbids all files and networks but those needed.
pub(super) fn restrict(socket: Option<&Path>, reload: bool) -> Result<Extent, String> {
    let folders = if reload { program_folders() } else { Ok(BTreeSet::new()) };
    // Under rules that lack these folders no program could be started.
    let folders = folders.map_err(|error| format!("/proc/self/maps: {error}"))?;
    let status = rules(socket, reload, folders).map_err(|error| error.to_string())?;
    match status {
        RulesetStatus::FullyEnforced => Ok(Extent::Whole),
        RulesetStatus::PartiallyEnforced => Ok(Extent::Part),
        RulesetStatus::NotEnforced => Err("not in this kernel, or not permitted".to_owned()),
    }
}

fn rules(socket: Option<&Path>, reload: bool, folders: BTreeSet<PathBuf>) -> Result<RulesetStatus, Error> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(scopes())?
        .create()?
        .add_rules(beneath(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(beneath(socket.and_then(Path::parent), AccessFs::RemoveFile))?;
    if reload {
        ruleset = ruleset
            .add_rules(beneath(folders, AccessFs::ReadFile | AccessFs::Execute))?
            .add_rules(beneath(LOADER_FILES, AccessFs::ReadFile))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// What is permitted at and beneath these paths. One that is not there is passed over, and one that may not be opened:
/// with or without rules nothing is reached by it. But if one cannot be opened for want of files, say, the rules would
/// lack what serving takes, and whoever is told that they are in force would not know.
fn beneath<P: AsRef<Path>>(
    paths: impl IntoIterator<Item = P>,
    access: impl Into<BitFlags<AccessFs>>,
) -> impl Iterator<Item = Result<PathBeneath<PathFd>, Error>> {
    let access = access.into();
    paths.into_iter().filter_map(move |path| match PathFd::new(path.as_ref()) {
        Ok(fd) => Some(Ok(PathBeneath::new(fd, access))),
        Err(PathFdError::OpenCall { source, path, .. }) => match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied => None,
            _ => Some(Err(Error::Path { path, source })),
        },
        Err(error) => Some(Err(Error::Path { path: path.as_ref().to_owned(), source: io::Error::other(error) })),
    })
}

fn scopes() -> BitFlags<Scope> {
    let manager = std::env::var_os("NOTIFY_SOCKET");
    // The next version must be able to reach a service manager with an abstract socket, too.
    if manager.is_some_and(|address| address.as_encoded_bytes().starts_with(b"@")) {
        Scope::Signal.into()
    } else {
        Scope::from_all(KNOWN)
    }
}

/// The folders of the program and of its libraries. The files alone would not do: the next version is another file.
fn program_folders() -> io::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped = maps.lines().filter_map(executable_file).filter_map(Path::parent).map(Path::to_owned);
    // The folder of the program as well, by the name that the kernel has for it: a reload looks for the program there.
    let program = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_owned()));
    Ok(mapped.chain(program).collect())
}

/// The file of a line such as `7f0-7f1 r-xp 00000000 fe:00 42   /usr/lib/libc.so.6`.
fn executable_file(line: &str) -> Option<&Path> {
    let mut fields = line.splitn(6, ' ');
    let rights = fields.nth(1)?;
    let path = fields.nth(3)?.trim_start();
    (rights.contains('x') && path.starts_with('/')).then(|| Path::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_map_only_files_that_are_run_count() {
        let line = "7fd1c000-7fd1d000 r-xp 00001000 fe:00 1234                       /usr/lib/a b.so";
        assert_eq!(executable_file(line), Some(Path::new("/usr/lib/a b.so")));
        for other in [
            "7fd1c000-7fd1d000 rw-p 00001000 fe:00 1234                       /usr/lib/libc.so.6",
            "7ffd000-7ffe000 r-xp 00000000 00:00 0                          [vdso]",
            "7ffd000-7ffe000 r-xp 00000000 00:00 0 ",
            "",
        ] {
            assert_eq!(executable_file(other), None, "{other}");
        }
    }

    #[test]
    fn the_folders_hold_this_program_and_the_c_library() {
        let folders = program_folders().unwrap();
        assert!(folders.contains(std::env::current_exe().unwrap().parent().unwrap()));
        assert!(folders.iter().all(|folder| folder.is_absolute() && folder != Path::new("/")), "{folders:?}");
    }
}
