//! The other implementations, which the tests talk to.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::debian::Release;
use crate::run::{Scratch, cargo, move_file, run, target};

/// Crates with a binary each: name, version, binary.
const CRATES: &[(&str, &str, &str)] =
    &[("boringtun-cli", "0.7.1", "boringtun-cli"), ("gotatun-cli", "0.10.2", "gotatun")];

/// The release of Debian whose wireguard-go has the offloads; the one before it has none.
const WIREGUARD_GO_RELEASE: &str = "trixie";

/// The folder of the other implementations' binaries.
pub(crate) fn binaries() -> PathBuf {
    folder().join("bin")
}

/// Installs those that are missing.
pub(crate) fn install() -> Result<()> {
    fs::create_dir_all(binaries())?;
    for (name, version, binary) in CRATES {
        install_crate(name, version, binary)?;
    }
    install_wireguard_go()
}

fn install_crate(name: &str, version: &str, binary: &str) -> Result<()> {
    let installed = fs::read_to_string(folder().join(".crates.toml")).unwrap_or_default();
    // Cargo's list does not tell of a binary that was removed by hand.
    if installed.contains(&format!("\"{name} {version} (")) && binaries().join(binary).exists() {
        return Ok(());
    }
    eprintln!("# {name} {version}: a partner to interoperate with; built in release, so it takes a minute or two");
    run(cargo()
        .args(["install", "--quiet", "--locked", "--force", "--version", version, name, "--root"])
        .arg(folder())
        .env("CARGO_TARGET_DIR", target().join("peers-build")))
}

fn install_wireguard_go() -> Result<()> {
    let binary = binaries().join("wireguard-go");
    if binary.exists() {
        return Ok(());
    }
    eprintln!("# wireguard-go of Debian {WIREGUARD_GO_RELEASE}: a partner to interoperate with");
    let unpacked = Scratch::new(folder().join("wireguard-go"))?;
    Release::open(folder().join("apt"), WIREGUARD_GO_RELEASE)?.unpack("wireguard-go", unpacked.path())?;
    move_file(&unpacked.path().join("usr/bin/wireguard-go"), &binary)
}

fn folder() -> PathBuf {
    target().join("peers")
}
