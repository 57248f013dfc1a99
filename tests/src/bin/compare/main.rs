//! Adit and the other userspace implementations, measured side by side; run by `cargo xtask compare`.
//!
//! Every round measures every implementation once, on both ends of a wire between two network namespaces, so that a
//! machine whose speed drifts drifts for all of them. The report is Markdown with charts; the raw figures lie beside
//! it.

// Like every program of this package it relies on panics that unwind, so it is not for the release profile.

mod bench;
mod chart;
mod figures;
mod measure;
mod report;
mod results;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use adit_tests::Implementation;
use adit_tests::measure::machine::Machine;
use adit_tests::measure::{interrupt, turn};
use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::bench::Subject;
use crate::measure::Test;
use crate::results::Results;

/// Measures Adit and the other implementations side by side.
#[derive(Debug, Parser)]
#[command(name = "compare")]
struct Options {
    /// How often everything is measured; the report shows medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long each transfer lasts, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=60))]
    secs: u32,
    /// The tests, separated by commas; all unless given
    #[arg(long, value_enum, value_delimiter = ',')]
    tests: Vec<Test>,
    /// The implementations, separated by commas; all and the bare wire unless given
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// The folder of the report
    #[arg(long)]
    output: Option<PathBuf>,
    /// Measure nothing: write the report of the results that are in the folder already
    #[arg(long)]
    report_only: bool,
}

fn main() -> ExitCode {
    interrupt::exit_code(
        run(&Options::parse()),
        "interrupted; what was measured before is in results.json, `--report-only` makes a report of it",
    )
}

fn run(options: &Options) -> Result<()> {
    let folder = folder(options)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let raw = folder.join("results.json");
    let results = if options.report_only {
        Results::read(&raw)?
    } else {
        let results = measured(options, &raw)?;
        ensure!(results.has_figures(), "nothing could be measured");
        results
    };
    report::write(&results, &folder)?;
    eprintln!("the report is {}", folder.join("README.md").display());
    Ok(())
}

fn measured(options: &Options, raw: &Path) -> Result<Results> {
    interrupt::watch()?;
    let tests = if options.tests.is_empty() { Test::value_variants() } else { &options.tests };
    let subjects = if options.only.is_empty() { Subject::value_variants() } else { &options.only };
    let mut results = Results::new(Machine::read(&implementations(subjects)), command(options));
    results.subjects = subjects.iter().map(ToString::to_string).collect();
    for round in 0..options.rounds {
        let start = Instant::now();
        for subject in turn(subjects, round as usize) {
            let title = format!("round {} of {}, {subject}", round + 1, options.rounds);
            let run = measure::run(subject, tests, options.secs, &|line| eprintln!("{title}: {line}"))?;
            results.add(round + 1, subject, run);
            // Earlier results are worth more than empty ones.
            if results.has_figures() {
                results.write(raw)?;
            }
        }
        eprintln!("round {} of {} took {:.0} s", round + 1, options.rounds, start.elapsed().as_secs_f64());
    }
    Ok(results)
}

fn implementations(subjects: &[Subject]) -> Vec<Implementation> {
    let implementation = |subject: &Subject| match subject {
        Subject::Daemon(implementation) => Some(*implementation),
        Subject::Wire => None,
    };
    subjects.iter().filter_map(implementation).collect()
}

/// The command that measures the same again.
fn command(options: &Options) -> String {
    let mut command = format!("cargo xtask compare --rounds {} --secs {}", options.rounds, options.secs);
    let mut list = |flag: &str, names: Vec<String>| {
        if !names.is_empty() {
            command.push_str(&format!(" --{flag} {}", names.join(",")));
        }
    };
    list("tests", options.tests.iter().map(ToString::to_string).collect());
    list("only", options.only.iter().map(ToString::to_string).collect());
    command
}

/// Where the report goes. That of the repository is of everything, so nothing less may take its place.
fn folder(options: &Options) -> Result<PathBuf> {
    ensure!(
        options.output.is_some() || (options.tests.is_empty() && options.only.is_empty()),
        "with --tests or --only the report is not of everything, and must not take the place of the one in \
         benches/report: name another folder, for instance --output target/report"
    );
    Ok(options.output.clone().unwrap_or_else(adit_tests::measure::report_folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(words: &[&str]) -> Result<PathBuf> {
        folder(&Options::try_parse_from([&["compare"], words].concat())?)
    }

    #[test]
    fn a_part_does_not_take_the_place_of_the_report_of_everything() {
        for part in [["--tests", "ping"], ["--only", "adit"]] {
            let error = folder_of(&part).unwrap_err().to_string();
            assert!(error.contains("--output"), "{error}");
            let elsewhere = [&part[..], &["--output", "elsewhere"]].concat();
            assert_eq!(folder_of(&elsewhere).unwrap(), Path::new("elsewhere"));
        }
        assert!(folder_of(&["--rounds", "5"]).unwrap().ends_with("benches/report"));
    }
}
