//! `cargo xtask test` and the checks before it.

use std::path::PathBuf;

use anyhow::Result;

use crate::run::{cargo, root, run, target};
use crate::{TestOptions, kernel, peers, setup};

/// A workspace of its own; without the fuzzer itself, it is built from what there is.
const FUZZ: &str = "fuzz/Cargo.toml";

/// Formatting, lints and documentation.
pub(crate) fn lint() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo()
        .args(["clippy", "--manifest-path", FUZZ, "--no-default-features", "--all-targets", "--", "-D", "warnings"])
        .env("CARGO_TARGET_DIR", target()))?;
    run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Every test of the workspace.
pub(crate) fn all(options: &TestOptions) -> Result<()> {
    if !options.no_setup {
        setup::all()?;
    }
    prove_no_std()?;
    let daemon = build_daemon(options.release)?;
    let mut nextest = cargo();
    nextest
        .args(["nextest", "run", "--workspace"])
        .env("ADIT_BIN", daemon)
        .env("ADIT_PEERS", peers::binaries())
        .env("ADIT_KERNEL", kernel::folder());
    if options.fast {
        nextest.args(["--profile", "fast"]);
    }
    run(nextest.args(&options.nextest))?;
    // The daemon's features are on in the whole workspace; by themselves the cipher falls back to a library in pure Rust,
    // and the engine's primitives are from such.
    run(cargo().args(["nextest", "run", "--package", "adit-aead"]))?;
    run(cargo().args(["nextest", "run", "--package", "adit", "--lib"]))?;
    let seeds = ["nextest", "run", "--manifest-path", FUZZ, "--no-default-features"];
    run(cargo().args(seeds).env("CARGO_TARGET_DIR", target()))?;
    run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))
}

/// Builds the daemon that the tests drive, and says where it is.
pub(crate) fn build_daemon(release: bool) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--package", "adit-cli"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(target().join(if release { "release" } else { "debug" }).join("adit"))
}

/// Builds the engine into a program for a machine that has no standard library.
fn prove_no_std() -> Result<()> {
    let manifest = root().join("tests/no_std/Cargo.toml");
    if !manifest.exists() {
        return Ok(());
    }
    run(cargo().args(["build", "--manifest-path"]).arg(manifest).env("CARGO_TARGET_DIR", target().join("no_std")))
}
