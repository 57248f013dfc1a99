//! What a daemon holds, and whether that stays as it is.

use std::fmt;
use std::fs;
use std::time::Duration;

use adit_tests::{Host, for_a_while};

/// The rounds before anything is compared: every kind of work has been done several times, so that what is allocated
/// once is there.
pub(crate) const WARM_UP: usize = 3;
/// The fewest rounds, those included, that say anything.
pub(crate) const FEWEST: usize = WARM_UP + 4;
/// How many rounds at either end of the series are taken together.
const END: usize = 3;
/// How much memory may seem to grow: what the allocator keeps in other places from round to round.
pub(crate) const MARGIN_KIB: u64 = 1024;
/// More rounds than these tell no more of a slope.
const MOST: usize = 500;
/// How long a daemon may take to let go of what it held for somebody who has gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is counted, and must not change at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) processes: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

/// What all processes of a host hold together, after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sample {
    pub(crate) counts: Counts,
    /// Memory that is no file's.
    pub(crate) anonymous_kib: u64,
    /// With the program's own pages.
    pub(crate) resident_kib: u64,
}

impl Sample {
    /// Looks until the counts are as expected, or the same twice in a row when nothing is expected, and hands back the
    /// last look if they never are.
    pub(crate) fn settled(host: &Host, expected: Option<Counts>) -> Self {
        let mut last = expected;
        let settled = for_a_while(PATIENCE, || {
            let now = Self::of(host);
            let is_settled = last == Some(now.counts);
            if expected.is_none() {
                last = Some(now.counts);
            }
            is_settled.then_some(now)
        });
        settled.unwrap_or_else(|| Self::of(host))
    }

    fn of(host: &Host) -> Self {
        let processes = host.processes();
        // One that has ended meanwhile holds nothing.
        let held = processes.into_iter().filter_map(Self::of_process);
        held.fold(Self::default(), |all, one| Self {
            counts: Counts {
                processes: all.counts.processes + one.counts.processes,
                descriptors: all.counts.descriptors + one.counts.descriptors,
                threads: all.counts.threads + one.counts.threads,
            },
            anonymous_kib: all.anonymous_kib + one.anonymous_kib,
            resident_kib: all.resident_kib + one.resident_kib,
        })
    }

    fn of_process(process: u32) -> Option<Self> {
        let descriptors = fs::read_dir(format!("/proc/{process}/fd")).ok()?.count();
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        Some(Self {
            counts: Counts {
                processes: 1,
                descriptors: descriptors.try_into().ok()?,
                threads: field(&status, "Threads:")?,
            },
            anonymous_kib: field(&status, "RssAnon:")?,
            resident_kib: field(&status, "VmRSS:")?,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { processes, descriptors, threads } = self.counts;
        let (anonymous, resident) = (self.anonymous_kib, self.resident_kib);
        write!(f, "{anonymous:>6} KiB ({resident:>6}), {descriptors} fds, {threads} threads, {processes} proc.")
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What is wrong with a series, one sample a round; nothing if it is flat.
pub(crate) fn problems(samples: &[Sample]) -> Vec<String> {
    let mut problems: Vec<String> = samples.get(..WARM_UP).map_or_else(Vec::new, |_| changed_counts(samples));
    if problems.is_empty() && samples.len() < FEWEST {
        problems.push(format!("{} rounds are too few: {FEWEST} are needed", samples.len()));
    }
    let growth = growth_kib(samples).into_iter().zip(["from its beginning to its end", "by its slope"]);
    for (kib, how) in growth.filter(|(kib, _)| samples.len() >= FEWEST && *kib > MARGIN_KIB as f64) {
        problems.push(format!("memory has grown by {kib:.0} KiB {how}, more than {MARGIN_KIB} KiB"));
    }
    problems
}

/// Compared with the end of the warm-up, so that what the first round after it loses is seen.
fn changed_counts(samples: &[Sample]) -> Vec<String> {
    let counts = |kind: fn(&Counts) -> u64| samples.iter().map(move |sample| kind(&sample.counts)).collect();
    let series: [(&str, Vec<u64>); 3] = [
        ("processes", counts(|counts| counts.processes)),
        ("descriptors", counts(|counts| counts.descriptors)),
        ("threads", counts(|counts| counts.threads)),
    ];
    let mut problems = Vec::new();
    for (kind, counts) in series {
        let expected = counts[WARM_UP - 1];
        if let Some(round) = (WARM_UP..counts.len()).find(|round| counts[*round] != expected) {
            problems.push(format!("{} {kind} after round {}, not {expected}", counts[round], round + 1));
        }
    }
    problems
}

/// How far the memory after the last rounds is above that after the first ones that are judged, and by the slope.
pub(crate) fn growth_kib(samples: &[Sample]) -> [f64; 2] {
    let judged = samples.get(WARM_UP..).unwrap_or_default();
    let memory: Vec<f64> = judged.iter().map(|sample| sample.anonymous_kib as f64).collect();
    [difference(&memory), slope_over_all(&memory)]
}

/// The smallest steady growth a round that so many rounds show, in which nothing but it changes the memory: what is
/// smaller stays within the margin from the first judged round to the last.
pub(crate) fn smallest_found_kib(rounds: usize) -> Option<f64> {
    let judged = rounds.checked_sub(WARM_UP).filter(|_| rounds >= FEWEST)?;
    let step = thinning(judged);
    Some(MARGIN_KIB as f64 / ((judged - 1) / step * step) as f64)
}

/// From the first rounds to the last.
fn difference(series: &[f64]) -> f64 {
    let end = END.min(series.len());
    median(series[series.len() - end..].to_vec()) - median(series[..end].to_vec())
}

/// The median of the slopes between every two values (Theil and Sen), which single bumps do not bend, from the first
/// value to the last.
fn slope_over_all(series: &[f64]) -> f64 {
    let thinned: Vec<f64> = series.iter().copied().step_by(thinning(series.len())).collect();
    let slopes = thinned.iter().enumerate().flat_map(|(at, value)| {
        let later = thinned.iter().enumerate().skip(at + 1);
        later.map(move |(later_at, later)| (later - value) / (later_at - at) as f64)
    });
    median(slopes.collect()) * thinned.len().saturating_sub(1) as f64
}

/// Of how many values one is looked at for the slope.
fn thinning(length: usize) -> usize {
    length.div_ceil(MOST).max(1)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Up to 255 KiB up and down, with no order in it.
    fn noise(round: usize) -> u64 {
        (round as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56
    }

    fn series(rounds: usize, memory: impl Fn(usize) -> u64) -> Vec<Sample> {
        let counts = Counts { processes: 1, descriptors: 21, threads: 5 };
        let sample = |round| Sample { counts, anonymous_kib: memory(round), resident_kib: 9000 };
        (0..rounds).map(sample).collect()
    }

    #[track_caller]
    fn assert_problem(samples: &[Sample], words: &str) {
        let problems = problems(samples);
        assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
    }

    #[test]
    fn a_flat_series_with_noise_passes() {
        for rounds in [7, 12, 100, 3000] {
            let samples = series(rounds, |round| 5000 + noise(round));
            assert_eq!(problems(&samples), [""; 0], "{rounds} rounds");
        }
    }

    #[test]
    fn memory_that_grows_every_round_fails() {
        let samples = series(12, |round| 5000 + 200 * round as u64 + noise(round));
        assert_problem(&samples, "from its beginning to its end");
        assert_problem(&samples, "by its slope");
    }

    #[test]
    fn a_slow_leak_fails_once_the_run_is_long_enough() {
        let leaking = |round| 5000 + 2 * round as u64 + noise(round);
        assert_eq!(problems(&series(100, leaking)), [""; 0]);
        assert_problem(&series(1000, leaking), "by its slope");
    }

    #[test]
    fn a_growth_is_seen_from_the_size_on_that_is_told() {
        assert_eq!(smallest_found_kib(FEWEST - 1), None);
        for rounds in [FEWEST, 8, 50, 700, 1504] {
            let smallest = smallest_found_kib(rounds).expect("enough rounds");
            let growing = |part: f64| series(rounds, |round| 50_000 + (part * smallest * round as f64).round() as u64);
            assert_eq!(problems(&growing(0.99)), [""; 0], "{rounds} rounds");
            assert_problem(&growing(1.01), "by its slope");
        }
    }

    #[test]
    fn memory_that_grows_once_and_stays_up_fails() {
        let samples = series(12, |round| if round < 9 { 5000 } else { 5000 + MARGIN_KIB + 1 });
        assert_problem(&samples, "from its beginning to its end");
    }

    #[test]
    fn what_grows_while_warming_up_passes() {
        let samples = series(12, |round| 5000 + 3000 * round.min(WARM_UP) as u64);
        assert_eq!(problems(&samples), [""; 0]);
    }

    #[test]
    fn a_bump_that_goes_away_passes() {
        let samples = series(12, |round| if round == 6 { 50_000 } else { 5000 });
        assert_eq!(problems(&samples), [""; 0]);
    }

    #[test]
    fn one_descriptor_thread_or_process_more_fails_wherever_it_is() {
        for round in [WARM_UP, WARM_UP + 2, 11] {
            let leaks: [fn(&mut Counts); 3] =
                [|counts| counts.descriptors += 1, |counts| counts.threads += 1, |counts| counts.processes += 1];
            for (leak, kind) in leaks.into_iter().zip(["descriptors", "threads", "processes"]) {
                let mut samples = series(12, |_| 5000);
                samples[round..].iter_mut().for_each(|sample| leak(&mut sample.counts));
                assert_problem(&samples, kind);
            }
        }
    }

    #[test]
    fn a_run_that_was_ended_for_a_lost_descriptor_says_so() {
        let mut samples = series(WARM_UP + 1, |_| 5000);
        samples[WARM_UP].counts.descriptors += 1;
        assert_eq!(problems(&samples), ["22 descriptors after round 4, not 21"]);
    }

    #[test]
    fn too_few_rounds_prove_nothing() {
        assert_problem(&series(FEWEST - 1, |_| 5000), "too few");
        assert_problem(&[], "too few");
    }

    #[test]
    fn this_process_holds_something() {
        let sample = Sample::of_process(std::process::id()).expect("this process");
        assert!(sample.counts.descriptors >= 3 && sample.counts.threads >= 1, "{sample}");
        assert!(sample.anonymous_kib > 0 && sample.resident_kib > sample.anonymous_kib, "{sample}");
    }
}
