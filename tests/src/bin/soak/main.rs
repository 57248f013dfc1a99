//! A daemon that runs for long under everything that can happen to it, and must hold as much afterwards as it did at
//! the beginning; run by `cargo xtask soak`.
//!
//! A round is every kind of work, in an order by chance, what is quick several times; then calm. After each, memory,
//! descriptors and threads of two daemons are looked at: A, which is never restarted, and C, which is reloaded in each
//! round.

// Like every program of this package it relies on panics that unwind, so it is not for the release profile.

mod sample;
mod work;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_tests::Implementation;
use adit_tests::measure::interrupt;
use adit_tests::measure::machine::Machine;
use adit_tests::measure::programs::guarded;
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use crate::sample::{FEWEST, MARGIN_KIB, Sample, WARM_UP, growth_kib, problems, smallest_found_kib};
use crate::work::{OFTEN, RENEWAL_AGE, UNDISTURBED, World};

/// Lets a daemon run under everything that can happen to it, and looks for what it does not give back.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Options {
    /// How long; the round that has begun by then is finished, and there are as many as it takes to judge
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Makes the same choices as an earlier run did
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write a report in Markdown
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt::is_requested() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A daemon, and what it held after each round.
struct Series {
    title: &'static str,
    samples: Vec<Sample>,
}

impl Series {
    /// Whether the last round has ended with other counts than the warm-up.
    fn is_broken(&self) -> bool {
        let last = self.samples.last().map(|sample| sample.counts);
        self.samples.get(WARM_UP - 1).is_some_and(|sample| Some(sample.counts) != last)
    }
}

/// What is known of a run, however it ends.
struct Record {
    seed: u64,
    elapsed: Duration,
    series: [Series; 2],
    /// How often A and C were found to have another session after a round, the last being old enough to be renewed and
    /// not ended by anything else.
    renewed: u32,
}

fn run(options: &Options) -> Result<()> {
    interrupt::watch()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let seed = options.seed.unwrap_or(now);
    let [a, c] = ["A, never restarted", "C, reloaded in each round"].map(|title| Series { title, samples: Vec::new() });
    let mut record = Record { seed, elapsed: Duration::ZERO, series: [a, c], renewed: 0 };
    println!("{} minutes, seed {seed}, {}", options.minutes, Implementation::Adit.binary().display());
    let time = Duration::from_secs(60) * options.minutes;
    let mut found: Vec<String> = match guarded(|| soak(time, &mut record)) {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("{error:#}")],
    };
    interrupt::check()?;
    found.extend(record.unrenewed());
    for Series { title, samples } in &record.series {
        found.extend(problems(samples).into_iter().map(|problem| format!("{title}: {problem}")));
    }
    print!("{}", record.summary(&found));
    if let Some(file) = &options.report {
        let report =
            format!("# Soak\n\n{}\n{}", Machine::read(&[Implementation::Adit]).table(), record.markdown(&found));
        std::fs::write(file, report).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !found.is_empty() {
        eprintln!("{}", record.table());
        bail!("not flat; `--seed {seed}` makes the same choices again");
    }
    Ok(())
}

/// One round after the other until the time is over.
fn soak(time: Duration, record: &mut Record) -> Result<()> {
    let mut world = World::new(record.seed);
    let process = world.arena.trio.a.daemon().id();
    let start = Instant::now();
    let mut session = 0;
    while start.elapsed() < time || record.series[0].samples.len() < FEWEST {
        let began = Instant::now();
        let done = world.round(interrupt::check)?;
        let trio = &mut world.arena.trio;
        let hosts = [&trio.a.host, &trio.c.host];
        for (series, host) in record.series.iter_mut().zip(hosts) {
            let expected = series.samples.get(WARM_UP - 1).map(|sample| sample.counts);
            series.samples.push(Sample::settled(host, expected));
        }
        record.elapsed = start.elapsed();
        let latest = trio.a.peer(&trio.c.keys).latest_handshake;
        if session != 0 && latest >= session + RENEWAL_AGE && !done.iter().any(|work| work == "cut") {
            record.renewed += 1;
        }
        session = latest;
        let [a, c] = &record.series;
        if let (Some(last_a), Some(last_c)) = (a.samples.last(), c.samples.last()) {
            let (count, at, lasted) = (a.samples.len(), record.elapsed.as_secs(), began.elapsed().as_secs_f64());
            println!("{count:>4} {at:>5} s ({lasted:>4.1}) A {last_a} | C {last_c} | {}", done.join(" "));
        }
        ensure!(trio.a.daemon().ended().is_none(), "A has ended");
        ensure!(trio.a.host.processes() == [process], "A is another process");
        // What is lost is lost, however long it goes on.
        if record.series.iter().any(Series::is_broken) {
            break;
        }
    }
    Ok(())
}

impl Record {
    /// That no session was renewed for its age, once a time in which A is left alone is over.
    fn unrenewed(&self) -> Option<String> {
        let is_due = self.elapsed >= 2 * UNDISTURBED;
        (is_due && self.renewed == 0).then(|| format!("no session was renewed in {} s", self.elapsed.as_secs()))
    }

    fn summary(&self, found: &[String]) -> String {
        let rounds = self.series[0].samples.len();
        let (seconds, seed, renewed) = (self.elapsed.as_secs(), self.seed, self.renewed);
        let mut text =
            format!("{rounds} rounds in {seconds} s, seed {seed}; {renewed} sessions renewed for their age\n");
        for Series { title, samples } in &self.series {
            if let (Some(first), Some(last)) = (samples.get(WARM_UP), samples.last()) {
                let [ends, slope] = growth_kib(samples);
                let _infallible = writeln!(
                    text,
                    "{title}: from {} to {} KiB, {ends:+.0} KiB from beginning to end and {slope:+.0} KiB by the slope, \
                     of {MARGIN_KIB} allowed; {} fds, {} threads",
                    first.anonymous_kib, last.anonymous_kib, last.counts.descriptors, last.counts.threads,
                );
            }
        }
        if let Some(kib) = smallest_found_kib(rounds) {
            let _infallible = writeln!(
                text,
                "in so many rounds a steady growth is seen from {kib:.0} KiB a round on, or {:.0} KiB each time for \
                 what is done {OFTEN} times a round; less is not seen",
                kib / f64::from(OFTEN),
            );
        }
        if found.is_empty() {
            text.push_str("flat\n");
        }
        for problem in found {
            let _infallible = writeln!(text, "broken: {problem}");
        }
        text
    }

    fn markdown(&self, found: &[String]) -> String {
        let summary: String = self.summary(found).lines().map(|line| format!("- {line}\n")).collect();
        format!("{summary}\nThe first {WARM_UP} rounds are not judged.\n\n{}", self.table())
    }

    fn table(&self) -> String {
        let mut text = String::from("| round |");
        for Series { title, .. } in &self.series {
            let name = title.split(',').next().unwrap_or_default();
            let _infallible = write!(text, " {name}: RssAnon, KiB | VmRSS, KiB | fds | threads | processes |");
        }
        text.push_str("\n|---|---|---|---|---|---|---|---|---|---|---|\n");
        let [a, c] = &self.series;
        for (round, samples) in a.samples.iter().zip(&c.samples).enumerate() {
            let _infallible = write!(text, "| {} |", round + 1);
            for sample in [samples.0, samples.1] {
                let (anonymous, resident, counts) = (sample.anonymous_kib, sample.resident_kib, sample.counts);
                let (descriptors, threads, processes) = (counts.descriptors, counts.threads, counts.processes);
                let _infallible = write!(text, " {anonymous} | {resident} | {descriptors} | {threads} | {processes} |");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_six_minutes_in_which_no_session_was_renewed_has_failed() {
        let run = |seconds, renewed| {
            let series = ["A", "C"].map(|title| Series { title, samples: Vec::new() });
            Record { seed: 0, elapsed: Duration::from_secs(seconds), series, renewed }.unrenewed()
        };
        assert_eq!(run(360, 0).as_deref(), Some("no session was renewed in 360 s"));
        assert_eq!((run(360, 1), run(359, 0)), (None, None));
    }
}
