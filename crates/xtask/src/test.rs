//! `cargo xtask test`: everything is built once, then every test of the workspace is run.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};

use crate::run::{cargo, output, root, run, target, tests_of};
use crate::{TestOptions, kernel, peers, setup};

/// A workspace of its own; without the fuzzer itself, it is built from what there is.
const FUZZ: &str = "fuzz/Cargo.toml";

/// Every test of the workspace.
pub(crate) fn all(options: &TestOptions) -> Result<()> {
    if !options.no_setup {
        setup::all("test")?;
    }
    tell_ciphers();
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
    // The daemon's features are on in the whole workspace; by themselves the cipher falls back to a library in pure
    // Rust, and the engine's primitives are from such.
    let alone = ["nextest", "run", "--package", "adit-aead", "--package", "adit", "--lib"];
    run(cargo().args(alone).args(tests_of("adit-aead")?))?;
    let seeds = ["nextest", "run", "--locked", "--manifest-path", FUZZ, "--no-default-features"];
    run(cargo().args(seeds).env("CARGO_TARGET_DIR", target()))?;
    run(cargo().args(["test", "--workspace", "--doc", "--quiet"]))
}

/// Tells which of the cipher's ways to do its work are tested on this machine: what its CPU cannot do is passed over by
/// the tests without a word. As `adit_aead::Backend` finds them.
fn tell_ciphers() {
    #[cfg(target_arch = "x86_64")]
    let (avx2, avx512) = (
        std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("bmi2"),
        std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512ifma"),
    );
    #[cfg(not(target_arch = "x86_64"))]
    let (avx2, avx512) = (false, false);
    let ways = [("portable", true), ("AVX2", avx2), ("AVX-512", avx512)];
    let names = |tested: bool| -> Vec<_> { ways.iter().filter(|way| way.1 == tested).map(|way| way.0).collect() };
    eprintln!("The cipher is tested with: {}", names(true).join(", "));
    let missing = names(false);
    if !missing.is_empty() {
        eprintln!("NOT TESTED, for want of a CPU that has the instructions: {}", missing.join(", "));
    }
}

/// Builds the daemon that the tests drive, and says where it is. With debug assertions it is built along with all
/// tests: by itself it would be built once more, since fewer packages ask for fewer features of what they share.
pub(crate) fn build_daemon(release: bool) -> Result<PathBuf> {
    run(cargo().args(["test", "--workspace", "--no-run", "--quiet"]))?;
    if release {
        run(cargo().args(["build", "--release", "--package", "adit-cli"]))?;
    }
    Ok(target().join(if release { "release" } else { "debug" }).join("adit"))
}

/// Builds the engine into a program for a machine that has no standard library; then, to show that this proves
/// something, with its feature `std`, which must fail.
fn prove_no_std() -> Result<()> {
    let build = || {
        let mut build = cargo();
        build.args(["build", "--locked", "--manifest-path"]).arg(root().join("tests/no_std/Cargo.toml"));
        build.env("CARGO_TARGET_DIR", target().join("no_std"));
        build
    };
    run(&mut build())?;
    match output(build().args(["--features", "std"])) {
        Ok(_) => bail!("tests/no_std builds with the standard library too: that it builds without proves nothing"),
        // Each of the two has an answer to a panic.
        Err(error) => ensure!(
            format!("{error:#}").contains("panic_impl"),
            "tests/no_std with the standard library fails for another reason than having two panic handlers: {error:#}"
        ),
    }
    Ok(())
}
