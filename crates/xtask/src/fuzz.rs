//! `cargo xtask fuzz`: each target of `fuzz/` for a while, two at a time.
//!
//! The targets are laid out as `cargo fuzz` wants them, and whoever has it may use it. This chore does without: what
//! `cargo fuzz` adds is a few flags for the compiler and the places of corpus and crashes, while to install it costs a
//! build of its own on every machine that has no cache, and without the flag below it asks for a nightly compiler.
//! Sanitizer and coverage come with the stable compiler; `RUSTC_BOOTSTRAP` lets it take the flag for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::run::{cargo, output, root, run};

/// How many targets run side by side.
const AT_ONCE: usize = 2;

/// The most bytes of an input: scripts and packets of this length reach everything.
const MAX_LEN: usize = 2_048;

/// The compiler's flags, as `cargo fuzz` gives them: branches are counted, comparisons are told to the fuzzer, and
/// memory that is not one's own is not touched.
const FLAGS: &str = "--cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Zsanitizer=address";

/// What `fuzz` can be told.
#[derive(Debug, Args)]
pub(crate) struct FuzzOptions {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Begin with the same random choices as another run with this number, of which there are as many as the time
    /// allows; 0 is another one each time
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u32,
    /// Only this target; otherwise all
    #[arg(long)]
    target: Option<String>,
    /// Run this one input instead, to see a crash again
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Only build
    #[arg(long, conflicts_with = "input")]
    no_run: bool,
}

/// Builds the targets, runs them, and tells of each what it did.
pub(crate) fn all(options: &FuzzOptions) -> Result<()> {
    let all = targets()?;
    let chosen: Vec<String> = match &options.target {
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => bail!("no target {name:?}: there are {}", all.join(", ")),
        None => all,
    };
    let binaries = build(options.target.as_deref())?;
    if options.no_run {
        return Ok(());
    }
    if let (Some(input), [target]) = (&options.input, chosen.as_slice()) {
        let input = fs::canonicalize(input).with_context(|| format!("cannot find {}", input.display()))?;
        return run(command(&binaries, target).arg(input));
    }

    println!("{:14} {:>12} {:>10} {:>10}  result", "target", "executions", "edges", "corpus");
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(chosen.len()) {
            scope.spawn(|| {
                while let Some(target) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = fuzz(&binaries, target, options) {
                        failures.lock().unwrap_or_else(|lock| lock.into_inner()).push(error);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|lock| lock.into_inner());
    for failure in &failures {
        eprintln!("{failure:#}\n");
    }
    ensure!(failures.is_empty(), "{} of {} targets found something", failures.len(), chosen.len());
    Ok(())
}

/// The names of the targets, in order.
fn targets() -> Result<Vec<String>> {
    let folder = fuzz_folder().join("fuzz_targets");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names: Vec<String> = files
        .filter_map(|file| file.ok()?.path().file_name()?.to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Builds one target or all, and says where they are.
fn build(target: Option<&str>) -> Result<PathBuf> {
    let host = output(cargo().arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).context("cargo names no host")?;
    let folder = fuzz_folder().join("target");
    let mut build = cargo();
    build
        .args(["build", "--locked", "--release", "--target", host, "--manifest-path"])
        .arg(fuzz_folder().join("Cargo.toml"))
        // The tools that run while building are not measured: with a target named, the flags are not for them.
        .env("RUSTFLAGS", FLAGS)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &folder)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    match target {
        Some(target) => build.args(["--bin", target]),
        None => build.arg("--bins"),
    };
    run(&mut build)?;
    Ok(folder.join(host).join("release"))
}

/// Runs one target for so long, from its seeds and what earlier runs have found.
fn fuzz(binaries: &Path, target: &str, options: &FuzzOptions) -> Result<()> {
    let (corpus, artifacts) = (fuzz_folder().join("corpus").join(target), fuzz_folder().join("artifacts").join(target));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut command = command(binaries, target);
    command
        .arg(&corpus)
        .arg(fuzz_folder().join("seeds").join(target))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-seed={}", options.seed))
        .arg(format!("-max_total_time={}", options.seconds.max(1)))
        .args([format!("-max_len={MAX_LEN}"), "-timeout=20".into(), "-rss_limit_mb=2048".into()])
        // To weigh inputs by how rare is what they reach takes longer than to run most of them, and finds less.
        .args(["-entropic=0", "-print_final_stats=1", "-verbosity=1"]);
    let words = fuzz_folder().join("dictionaries").join(target);
    if words.exists() {
        command.arg(format!("-dict={}", words.display()));
    }
    let run = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start the target {target}"))?;
    let log = String::from_utf8_lossy(&run.stderr).into_owned();
    let told = Told::read(&log);
    let result = if run.status.success() { "nothing found" } else { "FOUND SOMETHING" };
    println!("{target:14} {:>12} {:>10} {:>10}  {result}", told.executions, told.edges, told.corpus);
    if run.status.success() { Ok(()) } else { Err(failure(target, &log, run.status)) }
}

/// A target, ready to be given arguments.
fn command(binaries: &Path, target: &str) -> Command {
    let mut command = Command::new(binaries.join(target));
    command.current_dir(root()).env("RUST_BACKTRACE", "1");
    command
}

/// What went wrong, and how to see it again.
fn failure(target: &str, log: &str, status: ExitStatus) -> anyhow::Error {
    let written = log.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file));
    // The last lines are statistics: what happened stands before them.
    let lines: Vec<&str> = log.lines().collect();
    let is_news = |line: &&str| line.contains("panicked at") || line.contains("ERROR: ");
    let begin = lines.iter().position(is_news).unwrap_or(lines.len().saturating_sub(20));
    let end = lines.len().min(begin + 40);
    let what = lines.get(begin..end).unwrap_or_default().join("\n");
    let again = match written {
        Some(file) => format!("see it again: cargo xtask fuzz --target {target} --input {}", in_workspace(file)),
        None => "no input was written".to_owned(),
    };
    anyhow::anyhow!("{target}: {status}\n{what}\n{again}")
}

/// The file as seen from the workspace's root, if it lies within.
fn in_workspace(file: &str) -> String {
    Path::new(file).strip_prefix(root()).unwrap_or(Path::new(file)).display().to_string()
}

/// What a fuzzer tells of its run.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    executions: u64,
    edges: u64,
    corpus: u64,
}

impl Told {
    /// Reads lines such as `#2097152 pulse  cov: 643 ft: 1890 corp: 171/12Kb exec/s: 34952 rss: 88Mb`: the last counts.
    fn read(log: &str) -> Self {
        let mut told = Self { executions: 0, edges: 0, corpus: 0 };
        for line in log.lines() {
            let mut words = line.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.strip_prefix('#')).and_then(leading_number) else {
                continue;
            };
            told.executions = told.executions.max(number);
            let words: Vec<&str> = words.collect();
            for pair in words.windows(2) {
                match pair {
                    ["cov:", edges] => told.edges = leading_number(edges).unwrap_or(told.edges),
                    ["corp:", inputs] => told.corpus = leading_number(inputs).unwrap_or(told.corpus),
                    _ => {}
                }
            }
        }
        told
    }
}

fn leading_number(word: &str) -> Option<u64> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    word.get(..digits)?.parse().ok()
}

fn fuzz_folder() -> PathBuf {
    root().join("fuzz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_run_tells_what_it_came_to() {
        let log = "INFO: Seed: 1\n#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 40Mb\n\
            #9000\tNEW    cov: 643 ft: 1890 corp: 171/12Kb lim: 4 exec/s: 3 rss: 88Mb L: 3/3 MS: 1 ShuffleBytes-\n\
            #9100\tDONE   cov: 643 ft: 1890 corp: 171/12Kb lim: 4 exec/s: 3 rss: 88Mb\nDone 9100 runs in 20 second(s)\n\
            stat::number_of_executed_units: 9100\n";
        assert_eq!(Told::read(log), Told { executions: 9_100, edges: 643, corpus: 171 });
        assert_eq!(Told::read("cannot start"), Told { executions: 0, edges: 0, corpus: 0 });
    }

    #[test]
    fn a_failure_tells_what_happened_and_how_to_see_it_again() {
        let file = root().join("fuzz/artifacts/conf/crash-12ab");
        let log = format!(
            "#9\tNEW cov: 3\nthread '<unnamed>' panicked at src/conf.rs:7:5:\nwritten and read\n\
             artifact_prefix='x'; Test unit written to {}\nBase64: AA==\n",
            file.display()
        );
        let error = failure("conf", &log, ExitStatus::default()).to_string();
        assert!(error.contains("panicked at src/conf.rs:7:5:\nwritten and read"), "{error}");
        assert!(error.ends_with("cargo xtask fuzz --target conf --input fuzz/artifacts/conf/crash-12ab"), "{error}");
    }

    #[test]
    fn every_target_has_seeds() {
        for target in targets().unwrap() {
            let seeds = fs::read_dir(fuzz_folder().join("seeds").join(&target));
            assert!(seeds.is_ok_and(|mut files| files.next().is_some()), "{target}");
        }
    }
}
