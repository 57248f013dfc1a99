//! What the tests of the binary share.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The binary.
pub(crate) fn adit<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit"));
    command.args(arguments);
    quiet(command)
}

/// The reference's tool, which has to be installed (`cargo xtask setup`).
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

/// A path of this process's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("adit-cli-{}-{name}", std::process::id()))
}

/// The name of an interface of this process's own.
pub(crate) fn interface(letter: char) -> String {
    format!("a{letter}{}", std::process::id())
}

/// A test that does not run must not pass for one that did.
pub(crate) fn needs_root() {
    assert!(rustix::process::geteuid().is_root(), "this test makes interfaces: run it as root");
}

/// The environment must not tell what the tests tell.
fn quiet(mut command: Command) -> Command {
    for name in ["LOG_LEVEL", "WG_TUN_FD", "WG_UAPI_FD", "WG_PROCESS_FOREGROUND", "WG_HIDE_KEYS", "WG_COLOR_MODE"] {
        command.env_remove(name);
    }
    command
}
