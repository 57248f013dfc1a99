//! Adit and the other userspace implementations under floods, side by side; run by `cargo xtask floods`.
//!
//! Every kind of flood meets every implementation in turn, so that a machine whose speed drifts drifts for all of them.

// Like every program of this package it relies on panics that unwind, so it is not for the release profile.

mod measure;
mod report;
mod results;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use adit_tests::Implementation::{self, Adit, Boringtun, Gotatun, WireguardGo};
use adit_tests::measure::machine::Machine;
use adit_tests::measure::{interrupt, turn};
use adit_tests::{FloodKind, Rate};
use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::measure::Against;
use crate::results::{Results, Run};

/// Measures Adit and the other implementations under floods.
#[derive(Debug, Parser)]
#[command(name = "floods")]
struct Options {
    /// Datagrams a second, or `max`: as many as one core can send; several, separated by commas
    #[arg(long, value_delimiter = ',', default_value = RATE, value_parser = rate)]
    rate: Vec<Rate>,
    /// How often everything is measured; the report shows medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// For how many seconds TCP is measured before each flood, and under it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10))]
    secs: u32,
    /// The floods, separated by commas; all unless given
    #[arg(long, value_delimiter = ',', value_parser = against)]
    kinds: Vec<Against>,
    /// The implementations, separated by commas; all unless given
    #[arg(long, value_delimiter = ',', value_parser = implementation)]
    only: Vec<Implementation>,
    /// The folder of the report
    #[arg(long)]
    output: Option<PathBuf>,
    /// Keep the results that are in the folder already, and add to them
    #[arg(long)]
    add: bool,
    /// Measure nothing: write the report of the results that are in the folder already
    #[arg(long)]
    report_only: bool,
}

fn main() -> ExitCode {
    interrupt::exit_code(
        run(&Options::parse()),
        "interrupted; what was measured before is kept, `--add` goes on from there",
    )
}

fn run(options: &Options) -> Result<()> {
    let folder = folder(options)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let raw = folder.join("floods.json");
    let earlier = if options.report_only || (options.add && raw.exists()) { Some(Results::read(&raw)?) } else { None };
    let results = match earlier {
        Some(results) if options.report_only => results,
        earlier => {
            let results = measured(options, earlier, &raw)?;
            ensure!(results.has_figures(), "nothing could be measured");
            results
        }
    };
    let page = folder.join("floods.md");
    std::fs::write(&page, report::markdown(&results)).with_context(|| format!("cannot write {}", page.display()))?;
    eprintln!("the report is {}", page.display());
    Ok(())
}

fn measured(options: &Options, earlier: Option<Results>, raw: &Path) -> Result<Results> {
    interrupt::watch()?;
    let subjects = if options.only.is_empty() { ALL } else { &options.only };
    let every: Vec<Against> = Against::all().collect();
    let kinds = if options.kinds.is_empty() { &every } else { &options.kinds };
    let machine = Machine::read(ALL);
    let mut results = match earlier {
        Some(earlier) => {
            earlier.ensure_alike(&machine, options.secs)?;
            earlier
        }
        None => Results { machine, secs: options.secs, runs: Vec::new() },
    };
    for round in 0..options.rounds as usize {
        for (rate, kind) in options.rate.iter().flat_map(|rate| kinds.iter().map(move |kind| (*rate, *kind))) {
            for subject in turn(subjects, round) {
                let title = format!("round {} of {}, {subject}, {}", round + 1, options.rounds, kind.name());
                let measured = measure::run(subject, kind, rate, options.secs)?;
                let run = Run {
                    subject: subject.to_string(),
                    kind: kind.name().to_owned(),
                    rate: report::rate_name(rate),
                    measured,
                };
                eprintln!("{title}: {run}");
                results.runs.push(run);
                results.write(raw)?;
            }
        }
    }
    Ok(results)
}

/// The rate unless another is given, which is that of the repository's report.
const RATE: &str = "20000";

/// In the report's order.
const ALL: &[Implementation] = &[Adit, WireguardGo, Gotatun, Boringtun];

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "max" => Ok(Rate::Max),
        number => match number.parse() {
            Ok(rate) if rate > 0 => Ok(Rate::PerSecond(rate)),
            _ => Err("expected datagrams a second, or max".to_owned()),
        },
    }
}

fn implementation(text: &str) -> Result<Implementation, String> {
    let found = ALL.iter().find(|implementation| implementation.to_string() == text);
    found.copied().ok_or_else(|| "expected adit, wireguard-go, gotatun or boringtun".to_owned())
}

fn against(text: &str) -> Result<Against, String> {
    let names = || Against::all().map(Against::name).collect::<Vec<_>>().join(", ");
    Against::all().find(|kind| kind.name() == text).ok_or_else(|| format!("expected one of {}", names()))
}

impl Against {
    /// All there are, what a flood takes by itself first.
    fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Beside).chain(FloodKind::ALL.iter().copied().map(Self::Daemon))
    }
}

/// Where the report goes. That of the repository is of everything at one rate, so nothing else may take its place.
fn folder(options: &Options) -> Result<PathBuf> {
    let is_usual = options.kinds.is_empty() && options.only.is_empty() && options.rate.iter().all(is_usual_rate);
    ensure!(
        options.output.is_some() || is_usual,
        "with --kinds, --only or a --rate other than {RATE} the report is not the usual one, and must not take the \
         place of the one in benches/report: name another folder, for instance --output target/report"
    );
    Ok(options.output.clone().unwrap_or_else(adit_tests::measure::report_folder))
}

fn is_usual_rate(rate: &Rate) -> bool {
    report::rate_name(*rate) == RATE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(words: &[&str]) -> Result<PathBuf> {
        folder(&Options::try_parse_from([&["floods"], words].concat())?)
    }

    #[test]
    fn a_part_does_not_take_the_place_of_the_usual_report() {
        for part in [["--kinds", "replay"], ["--only", "adit"], ["--rate", "max"], ["--rate", "20000,max"]] {
            let error = folder_of(&part).unwrap_err().to_string();
            assert!(error.contains("--output"), "{error}");
            let elsewhere = [&part[..], &["--output", "elsewhere"]].concat();
            assert_eq!(folder_of(&elsewhere).unwrap(), Path::new("elsewhere"));
        }
        assert!(folder_of(&["--rate", "20000", "--add"]).unwrap().ends_with("benches/report"));
    }
}
