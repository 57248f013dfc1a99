//! `cargo xtask soak`: a daemon that runs for long under everything that can happen to it holds no more than before.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::run::target;
use crate::test::build_daemon;
use crate::{peers, setup};

/// What `soak` can be told.
#[derive(Debug, Args)]
pub(crate) struct SoakOptions {
    /// How long; the round that has begun by then is finished, and there are as many as it takes to judge
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u32,
    /// Make the same choices as an earlier run did
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write a report in Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Put the optimized daemon under test instead of the one with debug assertions
    #[arg(long)]
    release: bool,
    /// Install nothing: everything is there already
    #[arg(long)]
    no_setup: bool,
}

/// Builds the daemon and what drives it, then becomes the latter.
pub(crate) fn all(options: &SoakOptions) -> Result<()> {
    if !options.no_setup {
        setup::all("soak")?;
    }
    let daemon = build_daemon(options.release)?;
    // Not in release: there whatever fails, which is a panic, would be the end before anything is told.
    let program = target().join("debug").join("soak");
    let mut soak = Command::new(&program);
    soak.args(["--minutes", &options.minutes.to_string()]).env("ADIT_BIN", daemon).env("ADIT_PEERS", peers::binaries());
    if let Some(seed) = options.seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    if let Some(file) = &options.report {
        soak.arg("--report").arg(file);
    }
    // In this process's place, so that a signal to end it reaches what has to clean up.
    Err(soak.exec()).with_context(|| format!("cannot start {}", program.display()))
}
