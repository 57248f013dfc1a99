//! Whether timing tells of secrets: `adit-constant-time` runs itself under valgrind with secrets marked, and
//! `adit-constant-time measure` looks with the clock. `cargo xtask constant-time` builds it as the daemon is built and
//! runs both.

mod measure;
mod memcheck;
mod probes;
mod report;
mod verdict;

use std::num::NonZero;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use probes::Probe;
use verdict::Verdict;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => watch_all(false),
        ["--all-findings"] => watch_all(true),
        ["measure"] => {
            measure::all();
            ExitCode::SUCCESS
        }
        ["probe", name] if memcheck::is_watching() => match probes::all().iter().find(|probe| probe.name == name) {
            Some(probe) => {
                (probe.run)();
                ExitCode::SUCCESS
            }
            None => ExitCode::FAILURE,
        },
        _ => {
            eprintln!("usage: adit-constant-time [measure | --all-findings]");
            ExitCode::from(2)
        }
    }
}

/// Runs each probe under valgrind; fails if one shows what it should not, or does not show what it should.
fn watch_all(shows_allowed: bool) -> ExitCode {
    let mut failed = 0;
    for (probe, verdict) in probes::all().iter().zip(verdicts()) {
        match verdict {
            Ok(verdict) => {
                println!("{} {}: {verdict}", if verdict.is_good() { "ok  " } else { "FAIL" }, probe.name);
                verdict.print_findings(shows_allowed);
                failed += u32::from(!verdict.is_good());
            }
            Err(error) => {
                println!("FAIL {}: {error}", probe.name);
                failed += 1;
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What becomes of each probe, in their order. As many as there are cores are watched side by side.
fn verdicts() -> Vec<Result<Verdict, String>> {
    let (probes, next) = (probes::all(), AtomicUsize::new(0));
    let of_one_core = || -> Vec<_> {
        let mine =
            std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)).filter(|turn| *turn < probes.len()));
        mine.map(|turn| (turn, watch(probes[turn], turn))).collect()
    };
    let mut verdicts = thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let watchers: Vec<_> = (0..cores).map(|_| scope.spawn(of_one_core)).collect();
        watchers.into_iter().flat_map(|watcher| watcher.join().expect("nothing panics here")).collect::<Vec<_>>()
    });
    verdicts.sort_by_key(|(turn, _)| *turn);
    verdicts.into_iter().map(|(_, verdict)| verdict).collect()
}

fn watch(probe: &'static Probe, turn: usize) -> Result<Verdict, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let xml = own.with_file_name(format!("constant-time.{}.{turn}.xml", std::process::id()));
    let found = watch_into(&own, probe, &xml);
    let _ = std::fs::remove_file(&xml);
    Ok(Verdict::new(probe, report::findings(&found?)))
}

fn watch_into(own: &Path, probe: &Probe, xml: &Path) -> Result<String, String> {
    let output = Command::new("valgrind")
        .args(["--tool=memcheck", "--xml=yes", "--error-limit=no", "--leak-check=no", "--read-inline-info=yes"])
        .args(["--num-callers=40", "--read-var-info=no"])
        .arg(format!("--xml-file={}", xml.display()))
        .arg(own)
        .args(["probe", probe.name])
        .output()
        .map_err(|error| format!("valgrind cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    std::fs::read_to_string(xml).map_err(|error| error.to_string())
}
