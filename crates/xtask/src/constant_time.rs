//! `cargo xtask constant-time`: whether timing tells of secrets.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::debian;
use crate::run::{cargo, run, target};

const PACKAGES: &[debian::Package] =
    &[debian::Package { name: "valgrind", why: "follows secrets to branches and addresses" }];

/// What `constant-time` can be told.
#[derive(Debug, Args)]
pub(crate) struct ConstantTimeOptions {
    /// Look with the clock instead of valgrind: prints figures and judges nothing, since a busy machine spoils them
    #[arg(long)]
    measure: bool,
    /// Show where what was computed from a secret decides openly, and may
    #[arg(long)]
    all_findings: bool,
    /// Install nothing: everything is there already
    #[arg(long)]
    no_setup: bool,
}

/// Builds the probes as the daemon is built, with AWS-LC and without, and runs them.
pub(crate) fn all(options: &ConstantTimeOptions) -> Result<()> {
    if !options.no_setup && !options.measure {
        debian::install(PACKAGES, "constant-time")?;
    }
    for features in [&["--no-default-features"][..], &[]] {
        run(cargo().args(["build", "--release", "--package", "adit-constant-time"]).args(features))?;
        let mut probes = Command::new(target().join("release").join("adit-constant-time"));
        if options.measure {
            probes.arg("measure");
        } else if options.all_findings {
            probes.arg("--all-findings");
        }
        run(&mut probes)?;
    }
    Ok(())
}
