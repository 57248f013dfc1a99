//! The WireGuard implementations that the tests run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A WireGuard daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// The one under test.
    Adit,
    /// The reference in userspace, in Go.
    WireguardGo,
    /// Cloudflare's, in Rust.
    Boringtun,
    /// Mullvad's, in Rust, a descendant of boringtun.
    Gotatun,
}

/// How a daemon is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Whether Adit uses segmentation offloads; the others do as they like.
    pub offloads: bool,
    /// Whether it logs everything it can. Under a flood the log would be all that is measured.
    pub verbose: bool,
}

impl Default for Launch {
    fn default() -> Self {
        Self { offloads: true, verbose: true }
    }
}

impl Launch {
    /// Adit without segmentation offloads.
    pub const NO_OFFLOAD: Self = Self { offloads: false, verbose: true };
    /// Only errors are logged.
    pub const QUIET: Self = Self { offloads: true, verbose: false };
}

impl Implementation {
    /// The command that runs the daemon in the foreground for the interface `name`, as `launch` says.
    pub fn launch(self, name: &str, launch: Launch) -> Command {
        let mut command = self.foreground(name);
        if !launch.verbose {
            command.env("LOG_LEVEL", "error");
        }
        if !launch.offloads && self.actual() == Self::Adit {
            command.arg("--no-offload");
        }
        command
    }

    /// The command that runs the daemon in the foreground for the interface `name`.
    pub fn foreground(self, name: &str) -> Command {
        let mut command = Command::new(self.binary());
        command.arg("-f").arg(name).env("LOG_LEVEL", "verbose");
        match self.actual() {
            Self::Adit | Self::WireguardGo => command.env("WG_PROCESS_FOREGROUND", "1"),
            Self::Boringtun | Self::Gotatun => command.arg("--disable-drop-privileges"),
        };
        // A daemon that a sanitizer watches makes system calls and opens files that are not its own.
        if self.actual() == Self::Adit && std::env::var_os("ADIT_UNCONFINED").is_some() {
            command.args(["--no-seccomp", "--no-landlock"]);
        }
        command
    }

    /// The daemon's program.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn binary(self) -> PathBuf {
        let name = match self.actual() {
            Self::Adit => return adit(),
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
            Self::Gotatun => "gotatun",
        };
        let folder = match std::env::var_os("ADIT_PEERS") {
            Some(folder) => PathBuf::from(folder),
            None => target().join("peers").join("bin"),
        };
        let binary = folder.join(name);
        assert!(binary.exists(), "{} is missing: run `cargo xtask setup`", binary.display());
        binary
    }

    /// What really runs: `ADIT_AS` puts another implementation in Adit's place, to try the tests themselves.
    pub fn actual(self) -> Self {
        if self != Self::Adit {
            return self;
        }
        match std::env::var("ADIT_AS").as_deref() {
            Ok("wireguard-go") => Self::WireguardGo,
            Ok("boringtun") => Self::Boringtun,
            Ok("gotatun") => Self::Gotatun,
            Ok(other) => panic!("ADIT_AS={other}: expected wireguard-go, boringtun or gotatun"),
            Err(_) => Self::Adit,
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Adit => "adit",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
        })
    }
}

/// The folder that cargo builds into.
pub(crate) fn target() -> PathBuf {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).expect("the tests are a package of a workspace");
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root.join(folder),
        None => root.join("target"),
    }
}

/// `ADIT_BIN`, or what was built last.
fn adit() -> PathBuf {
    if let Some(binary) = std::env::var_os("ADIT_BIN") {
        return binary.into();
    }
    let built = |profile: &str| {
        let path = target().join(profile).join("adit");
        let modified = path.metadata().and_then(|file| file.modified()).ok()?;
        Some((modified, path))
    };
    match ["debug", "release"].into_iter().filter_map(built).max() {
        Some((_, path)) => path,
        None => panic!("no daemon to test: run `cargo build -p adit-cli`, or the tests by `cargo xtask test`"),
    }
}
