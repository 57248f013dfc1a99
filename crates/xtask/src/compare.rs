//! `cargo xtask compare`: Adit and the other implementations, measured side by side.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::run::{cargo, run, target};
use crate::{peers, setup};

/// What `compare` can be told.
#[derive(Debug, Args)]
pub(crate) struct CompareOptions {
    /// How often everything is measured; the report shows medians
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// How long each transfer lasts, in seconds
    #[arg(long, value_name = "N", default_value_t = 5)]
    secs: u32,
    /// Of ping, ping-flood, busy-poll, tcp, tcp-reversed, tcp-four, cubic, slow-link, udp-64, udp-1372, peers,
    /// separated by commas; all unless given
    #[arg(long, value_name = "LIST")]
    tests: Option<String>,
    /// Of adit, wireguard-go, gotatun, boringtun, veth (no tunnel), separated by commas; all unless given
    #[arg(long, value_name = "LIST")]
    only: Option<String>,
    /// The folder of the report, `benches/report` unless given; needed with only some tests or implementations
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Measure nothing: write the report of the results that are in the folder already
    #[arg(long)]
    report_only: bool,
    /// Install nothing: everything is there already
    #[arg(long)]
    no_setup: bool,
}

/// Builds what is measured and what measures, then becomes the latter.
pub(crate) fn all(options: &CompareOptions) -> Result<()> {
    // It would refuse as well, but only once everything is built.
    ensure!(
        options.output.is_some() || (options.tests.is_none() && options.only.is_none()),
        "--tests and --only need --output, for instance --output target/report: without it the report would take the \
         place of the one of everything in benches/report"
    );
    if !options.report_only {
        if !options.no_setup {
            setup::all("compare")?;
        }
        run(cargo().args(["build", "--release", "--package", "adit-cli"]))?;
    }
    // Not in release: there a failed measurement, which is a panic, would be the end of all.
    run(cargo().args(["build", "--package", "adit-tests", "--bin", "compare"]))?;
    let program = target().join("debug").join("compare");
    let mut compare = Command::new(&program);
    compare
        .args(["--rounds", &options.rounds.to_string(), "--secs", &options.secs.to_string()])
        .env("ADIT_BIN", target().join("release").join("adit"))
        .env("ADIT_PEERS", peers::binaries());
    for (flag, list) in [("--tests", &options.tests), ("--only", &options.only)] {
        if let Some(list) = list {
            compare.args([flag, list]);
        }
    }
    if let Some(folder) = &options.output {
        compare.arg("--output").arg(folder);
    }
    if options.report_only {
        compare.arg("--report-only");
    }
    // In this process's place, so that a signal to end it reaches what has to clean up.
    Err(compare.exec()).with_context(|| format!("cannot start {}", program.display()))
}
