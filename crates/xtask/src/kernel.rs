//! A Linux kernel with WireGuard for the tests to boot, unpacked beside the build and never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::debian;
use crate::run::{Scratch, move_file, target};

/// Where the kernel and its modules are unpacked.
pub(crate) fn folder() -> PathBuf {
    target().join("peers").join("kernel")
}

/// Unpacks the kernel that the machine's release of Debian has for amd64, the only machine that the tests boot.
pub(crate) fn install() -> Result<()> {
    if is_complete(&folder()) {
        return Ok(());
    }
    eprintln!("# a Debian kernel: a partner to interoperate with, booted in a machine of its own");
    debian::update()?;
    let package = debian::dependencies("linux-image-amd64")?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .context("Debian's package linux-image-amd64 names no kernel")?;
    // An unpacking that is cut off must not leave what looks complete.
    let unpacked = Scratch::new(target().join("peers").join("kernel-unpacked"))?;
    debian::unpack_own(&package, target().join("peers").join("download"), unpacked.path())?;
    let folder = folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    move_file(unpacked.path(), &folder)
}

fn is_complete(folder: &Path) -> bool {
    let has_kernel = fs::read_dir(folder.join("boot")).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("vmlinuz-")))
    });
    has_kernel && ["lib/modules", "usr/lib/modules"].iter().any(|modules| folder.join(modules).exists())
}
