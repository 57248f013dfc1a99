//! `cargo xtask floods`: Adit and the other implementations under floods, measured side by side.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::run::{cargo, run, target};
use crate::{peers, setup};

/// The rate of the report in `benches/report`.
const RATE: &str = "20000";

/// What `floods` can be told.
#[derive(Debug, Args)]
pub(crate) struct FloodsOptions {
    /// Datagrams a second, or `max`: as many as one core can send; several, separated by commas
    #[arg(long, value_name = "LIST", default_value = RATE)]
    rate: String,
    /// How often everything is measured; the report shows medians
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// For how many seconds TCP is measured before each flood, and under it
    #[arg(long, value_name = "N", default_value_t = 2)]
    secs: u32,
    /// Of beside (the daemon), random, forged-initiations, false-cookies, one-initiator, replay, cookie-replies,
    /// unknown-transport, live-transport, tiny, oversized, separated by commas; all unless given
    #[arg(long, value_name = "LIST")]
    kinds: Option<String>,
    /// Of adit, wireguard-go, gotatun, boringtun, separated by commas; all unless given
    #[arg(long, value_name = "LIST")]
    only: Option<String>,
    /// The folder of the report, `benches/report` unless given; needed with another rate, and with only some floods or
    /// implementations
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Keep the results that are in the folder already, and add to them
    #[arg(long)]
    add: bool,
    /// Measure nothing: write the report of the results that are in the folder already
    #[arg(long)]
    report_only: bool,
    /// Install nothing: everything is there already
    #[arg(long)]
    no_setup: bool,
}

/// Builds what is measured and what measures, then becomes the latter.
pub(crate) fn all(options: &FloodsOptions) -> Result<()> {
    let is_usual = options.kinds.is_none() && options.only.is_none() && options.rate == RATE;
    // It would refuse as well, but only once everything is built.
    ensure!(
        options.output.is_some() || is_usual,
        "--kinds, --only and a --rate other than {RATE} need --output, for instance --output target/report: without \
         it the report would take the place of the usual one in benches/report"
    );
    if !options.report_only {
        if !options.no_setup {
            setup::all("floods")?;
        }
        run(cargo().args(["build", "--release", "--package", "adit-cli"]))?;
    }
    // Not in release: there a failed measurement, which is a panic, would be the end of all.
    run(cargo().args(["build", "--package", "adit-tests", "--bin", "floods"]))?;
    let program = target().join("debug").join("floods");
    let mut floods = Command::new(&program);
    floods
        .args(["--rate", &options.rate])
        .args(["--rounds", &options.rounds.to_string(), "--secs", &options.secs.to_string()])
        .env("ADIT_BIN", target().join("release").join("adit"))
        .env("ADIT_PEERS", peers::binaries());
    for (flag, list) in [("--kinds", &options.kinds), ("--only", &options.only)] {
        if let Some(list) = list {
            floods.args([flag, list]);
        }
    }
    if let Some(folder) = &options.output {
        floods.arg("--output").arg(folder);
    }
    for (flag, is_given) in [("--add", options.add), ("--report-only", options.report_only)] {
        if is_given {
            floods.arg(flag);
        }
    }
    // In this process's place, so that a signal to end it reaches what has to clean up.
    Err(floods.exec()).with_context(|| format!("cannot start {}", program.display()))
}
