//! The raw results, and what is derived from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use adit_tests::measure::figure::median;
use adit_tests::measure::machine::Machine;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::figures::Better;

/// The name of the implementation that is compared with the others.
pub(crate) const OURS: &str = "adit";
/// The name of the bare wire, which is a reference and no competitor.
pub(crate) const WIRE: &str = "veth";

/// Everything that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// The command that measures the same again.
    pub(crate) command: String,
    /// Who was measured, in the report's order.
    pub(crate) subjects: Vec<String>,
    /// In the order in which it was measured.
    pub(crate) runs: Vec<Run>,
}

/// One implementation in one round.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) round: u32,
    pub(crate) subject: String,
    #[serde(flatten)]
    pub(crate) measured: Measured,
}

/// What came of measuring an implementation once.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) figures: BTreeMap<String, f64>,
    /// What could not be measured, and why.
    pub(crate) missing: Vec<String>,
}

/// The best of the others, and how Adit compares with it.
#[derive(Debug, PartialEq)]
pub(crate) struct Ratio<'a> {
    pub(crate) best: &'a str,
    /// Adit's figure, divided by the other's of the same round.
    pub(crate) ratio: f64,
    /// How many rounds have both figures.
    pub(crate) rounds: usize,
}

impl Results {
    pub(crate) fn new(machine: Machine, command: String) -> Self {
        Self { machine, command, subjects: Vec::new(), runs: Vec::new() }
    }

    pub(crate) fn add(&mut self, round: u32, subject: impl ToString, measured: Measured) {
        self.runs.push(Run { round, subject: subject.to_string(), measured });
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no result of a comparison", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot write down the results")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whether anything at all was measured.
    pub(crate) fn has_figures(&self) -> bool {
        self.runs.iter().any(|run| !run.measured.figures.is_empty())
    }

    /// How many rounds there were.
    pub(crate) fn rounds(&self) -> u32 {
        self.runs.iter().map(|run| run.round).max().unwrap_or(0)
    }

    /// The median of a figure over the rounds that have it.
    pub(crate) fn median(&self, subject: &str, key: &str) -> Option<f64> {
        median(self.figures(subject, key))
    }

    /// A figure of all the rounds that have it.
    pub(crate) fn figures(&self, subject: &str, key: &str) -> Vec<f64> {
        let runs = self.runs.iter().filter(|run| run.subject == subject);
        runs.filter_map(|run| run.measured.figures.get(key).copied()).collect()
    }

    /// Adit against the best of the others: the median of the ratios of each round, in which both were measured
    /// shortly after each other.
    pub(crate) fn ratio(&self, key: &str, better: Better) -> Option<Ratio<'_>> {
        let others = self.subjects.iter().map(String::as_str).filter(|subject| *subject != OURS && *subject != WIRE);
        let others = others.filter_map(|subject| Some((subject, self.median(subject, key)?)));
        let (best, _) = match better {
            Better::Higher => others.max_by(|(_, a), (_, b)| a.total_cmp(b)),
            Better::Lower => others.min_by(|(_, a), (_, b)| a.total_cmp(b)),
            Better::Neither => None,
        }?;
        let ratio_of = |round| {
            let [ours, theirs] = [self.figure(round, OURS, key)?, self.figure(round, best, key)?];
            (theirs > 0.0).then(|| ours / theirs)
        };
        let ratios: Vec<f64> = (1..=self.rounds()).filter_map(ratio_of).collect();
        let rounds = ratios.len();
        Some(Ratio { best, ratio: median(ratios)?, rounds })
    }

    /// A figure of one round.
    fn figure(&self, round: u32, subject: &str, key: &str) -> Option<f64> {
        let run = self.runs.iter().find(|run| run.round == round && run.subject == subject)?;
        run.measured.figures.get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A subject's first figure is of the first round, and so on.
    fn results(figures: &[(&str, f64)]) -> Results {
        let mut results = Results::new(Machine::default(), String::new());
        for (subject, value) in figures {
            if !results.subjects.iter().any(|known| known == subject) {
                results.subjects.push((*subject).to_owned());
            }
            let number = 1 + results.runs.iter().filter(|run| run.subject == *subject).count() as u32;
            let figures = BTreeMap::from([("figure".to_owned(), *value)]);
            results.add(number, subject, Measured { figures, missing: Vec::new() });
        }
        results
    }

    #[test]
    fn rounds_without_the_figure_do_not_count() {
        let mut results = results(&[("adit", 3.0), ("adit", 5.0)]);
        results.add(3, "adit", Measured::default());
        assert_eq!(results.median("adit", "figure"), Some(4.0));
        assert_eq!(results.rounds(), 3);
    }

    #[test]
    fn the_best_other_is_the_highest_or_the_lowest_and_never_the_bare_wire() {
        let results = results(&[("adit", 6.0), ("slow", 1.0), ("fast", 3.0), ("veth", 15.0), ("veth", 0.1)]);
        assert_eq!(results.ratio("figure", Better::Higher), Some(Ratio { best: "fast", ratio: 2.0, rounds: 1 }));
        assert_eq!(results.ratio("figure", Better::Lower), Some(Ratio { best: "slow", ratio: 6.0, rounds: 1 }));
        assert_eq!(results.ratio("figure", Better::Neither), None);
    }

    #[test]
    fn a_ratio_is_the_median_of_those_of_the_rounds() {
        // The machine became ten times as fast, and slow again.
        let adit = [("adit", 3.0), ("adit", 30.0), ("adit", 2.0)];
        let other = [("other", 1.0), ("other", 10.0), ("other", 2.0)];
        let results = results(&[adit, other].concat());
        assert_eq!(results.ratio("figure", Better::Higher), Some(Ratio { best: "other", ratio: 3.0, rounds: 3 }));
    }

    #[test]
    fn there_is_no_ratio_without_both() {
        assert_eq!(results(&[("fast", 3.0)]).ratio("figure", Better::Higher), None);
        assert_eq!(results(&[("adit", 3.0)]).ratio("figure", Better::Higher), None);
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let written = results(&[("adit", 6.0), ("veth", 15.0)]);
        let text = serde_json::to_string(&written).unwrap();
        let read: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(read.median("veth", "figure"), Some(15.0));
        assert_eq!(read.subjects, written.subjects);
    }
}
