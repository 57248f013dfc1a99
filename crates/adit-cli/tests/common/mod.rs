//! What the tests of the binary share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io::Write as _;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The binary.
pub(crate) fn adit<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.args(arguments);
    quiet(command)
}

/// The reference implementation's tool, which has to be installed (`cargo xtask setup`).
pub(crate) fn wg<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new("wg");
    command.args(arguments);
    quiet(command)
}

/// Whether it ended well, and what it wrote.
pub(crate) fn output(mut command: Command, input: &str) -> (bool, String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // One that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.success(), stdout, stderr)
}

/// A folder of a test's own that everybody may read, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("adit-cli-{}-{number}", std::process::id()));
        // Left by a process with the same identifier that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder for the test's files");
        let folder = Self(path);
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).expect("permitted");
        folder
    }
}

impl Deref for Scratch {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) const NOBODY: u32 = 65_534;

/// A folder that everybody may read, with the program in it: the one of the build may be in a private place.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) Scratch);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(Scratch::new());
        fs::copy(env!("CARGO_BIN_EXE_adit"), folder.program()).expect("copied");
        fs::set_permissions(folder.program(), fs::Permissions::from_mode(0o755)).expect("permitted");
        folder
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.0.join("adit")
    }

    /// The program, to be run by an ordinary user.
    pub(crate) fn as_nobody(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).current_dir("/").uid(NOBODY).gid(NOBODY);
        quiet(command)
    }
}

/// Runs a shell script whose mounts nobody else sees, and which is given the folder.
pub(crate) fn in_mount_namespace(script: &str, folder: &Folder) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&*folder.0).current_dir("/");
    command.output().expect("unshare(1) of util-linux")
}

/// The name of an interface of this process's own.
pub(crate) fn interface(letter: char) -> String {
    format!("a{letter}{}", std::process::id())
}

/// A test that does not run must not pass for one that did.
pub(crate) fn needs_root() {
    assert!(rustix::process::geteuid().is_root(), "this test makes interfaces: run it as root");
}

/// The environment must not override what the tests set.
fn quiet(mut command: Command) -> Command {
    for name in ["LOG_LEVEL", "WG_TUN_FD", "WG_UAPI_FD", "WG_PROCESS_FOREGROUND", "WG_HIDE_KEYS", "WG_COLOR_MODE"] {
        command.env_remove(name);
    }
    command
}
