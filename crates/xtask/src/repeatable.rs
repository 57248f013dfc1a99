//! `cargo xtask repeatable`: the release binary, built so that it has nothing of the folder in which it was built, and
//! the proof: two folders, the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::run::{Scratch, cargo, output, root, run, target};

/// What `repeatable` can be told.
#[derive(Debug, Args)]
pub(crate) struct RepeatableOptions {
    /// Build once, here, to compare with somebody else's sum or to hand out
    #[arg(long)]
    once: bool,
}

/// Builds twice in copies of the work tree and compares, or once in the work tree itself.
pub(crate) fn all(options: &RepeatableOptions) -> Result<()> {
    let folder = target().join("repeatable");
    if options.once {
        let binary = build(&root(), &folder.join("here"))?;
        return run(Command::new("sha256sum").arg(binary));
    }
    // Names of different lengths: where a path is in the binary, all that comes after it would move.
    let trees = [
        Scratch::new(folder.join("a"))?,
        Scratch::new(folder.join("a folder with a longer name").join("and another one"))?,
    ];
    let mut binaries = Vec::new();
    for tree in &trees {
        copy_work_tree(tree.path())?;
        binaries.push(build(tree.path(), &tree.path().join("target"))?);
    }
    run(Command::new("sha256sum").args(&binaries))?;
    // Names the first byte that differs.
    run(Command::new("cmp").args(&binaries))?;
    eprintln!("the same bytes from two folders");
    Ok(())
}

/// Builds the daemon of the work tree `tree` into `target`; says where the binary is.
fn build(tree: &Path, target: &Path) -> Result<PathBuf> {
    let home = cargo_home()?;
    // The last that fits is taken: the folder of the build lies in the work tree.
    let names = [(home.as_path(), "/cargo"), (tree, "/adit"), (target, "/target")];
    let rust = names.map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
    let c = names.map(|(path, name)| format!("'-ffile-prefix-map={}={name}'", path.display()));
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "--package", "adit-cli", "--target-dir"])
        .arg(target)
        .current_dir(tree)
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"))
        .env("CFLAGS", c.join(" "))
        .env("CC_SHELL_ESCAPED_FLAGS", "1")
        // What would otherwise come in from whoever builds.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env("SOURCE_DATE_EPOCH", "0")
        .env("LC_ALL", "C");
    run(&mut build)?;
    Ok(target.join("release").join("adit"))
}

/// Copies what git has or would have: no ignored files.
fn copy_work_tree(to: &Path) -> Result<()> {
    let listed = output(Command::new("git").current_dir(root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root().join(name), to.join(name));
        // A file that was removed and not committed yet.
        if !from.exists() {
            continue;
        }
        fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

fn cargo_home() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    home.context("neither CARGO_HOME nor HOME is set")
}
