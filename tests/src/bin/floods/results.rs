//! The raw results.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use adit_tests::measure::figure::number;
use adit_tests::measure::machine::Machine;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Everything that was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// For how many seconds TCP was measured under each flood.
    pub(crate) secs: u32,
    /// In the order in which it was measured.
    pub(crate) runs: Vec<Run>,
}

/// One implementation under one flood, once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) subject: String,
    pub(crate) kind: String,
    pub(crate) rate: String,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// What came of measuring once.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) figures: BTreeMap<String, f64>,
    /// Adit's own counters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) drops: BTreeMap<String, u64>,
    /// What could not be measured, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<String>,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.measured.figures.iter().map(|(key, value)| format!("{key} {}", number(*value)));
        let drops = self.measured.drops.iter().map(|(key, count)| format!("{key} {count}"));
        let all: Vec<String> = figures.chain(drops).chain(self.measured.missing.iter().cloned()).collect();
        f.write_str(&all.join(", "))
    }
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no result of floods", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write down the results")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Fails unless what is measured on this machine and for so long can stand in one table with these results.
    pub(crate) fn ensure_alike(&self, machine: &Machine, secs: u32) -> Result<()> {
        const ADVICE: &str = "use the same again, or measure into another folder with --output";
        ensure!(
            self.secs == secs,
            "the earlier results are of --secs {}, these would be of --secs {secs}: {ADVICE}",
            self.secs
        );
        let (before, now) = (self.machine.table(), machine.table());
        let others: Vec<&str> = before.lines().filter(|line| !now.lines().any(|other| other == *line)).collect();
        ensure!(
            before == now,
            "the earlier results are of another machine or other versions; {ADVICE}. Of the earlier ones:\n{}",
            others.join("\n")
        );
        Ok(())
    }

    /// Whether anything at all was measured.
    pub(crate) fn has_figures(&self) -> bool {
        self.runs.iter().any(|run| !run.measured.figures.is_empty())
    }

    /// The runs of one implementation under one flood.
    pub(crate) fn of<'a>(&'a self, subject: &'a str, kind: &'a str, rate: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().filter(move |run| run.subject == subject && run.kind == kind && run.rate == rate)
    }

    /// A figure of all the runs that have it.
    pub(crate) fn figures(&self, subject: &str, kind: &str, rate: &str, key: &str) -> Vec<f64> {
        self.of(subject, kind, rate).filter_map(|run| run.measured.figures.get(key).copied()).collect()
    }

    /// The rates, in the order in which they came first.
    pub(crate) fn rates(&self) -> Vec<&str> {
        let mut rates: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !rates.contains(&run.rate.as_str()) {
                rates.push(&run.rate);
            }
        }
        rates
    }

    /// How often everything was measured.
    pub(crate) fn rounds(&self) -> usize {
        self.rates().into_iter().map(|rate| self.rounds_at(rate)).max().unwrap_or(0)
    }

    /// How often everything was measured at this rate.
    pub(crate) fn rounds_at(&self, rate: &str) -> usize {
        let of = |run: &Run| self.of(&run.subject, &run.kind, rate).count();
        self.runs.iter().map(of).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(kernel: &str) -> Machine {
        Machine { kernel: kernel.to_owned(), ..Machine::default() }
    }

    #[test]
    fn only_what_was_measured_alike_stands_in_one_table() {
        let earlier = Results { machine: machine("6.1"), secs: 3, runs: Vec::new() };
        earlier.ensure_alike(&machine("6.1"), 3).unwrap();
        let error = earlier.ensure_alike(&machine("6.1"), 2).unwrap_err().to_string();
        assert!(error.contains("of --secs 3, these would be of --secs 2"), "{error}");
        let error = earlier.ensure_alike(&machine("6.18"), 3).unwrap_err().to_string();
        assert!(error.ends_with(":\n| Kernel | 6.1 |"), "{error}");
        earlier.ensure_alike(&Machine { versions: vec![("wg".into(), "1".into())], ..machine("6.1") }, 3).unwrap_err();
    }
}
