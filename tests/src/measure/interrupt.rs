//! Ending early on Ctrl-C, with nothing left behind.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::measure::process::descendants;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// How a program ends whose work came out so; `interrupted` is what it says when it was told to end early.
pub fn exit_code(outcome: Result<()>, interrupted: &str) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if is_requested() => {
            eprintln!("{interrupted}");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends what runs, and makes [`check`] fail, as soon as a signal asks for it.
///
/// The namespaces and all that is in them go with their last process.
pub fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot wait for signals")?;
    std::thread::spawn(move || {
        let _which = signals.forever().next();
        REQUESTED.store(true, Ordering::Relaxed);
        // The measurement that is under way fails by this and is cleaned up after; it may start one more program.
        for _ in 0..100 {
            kill_descendants();
            std::thread::sleep(Duration::from_millis(100));
        }
        std::process::exit(130);
    });
    Ok(())
}

/// Whether a signal has asked for the end.
pub fn is_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Fails once a signal has asked for the end.
pub fn check() -> Result<()> {
    if is_requested() {
        bail!("interrupted");
    }
    Ok(())
}

fn kill_descendants() {
    for process in descendants(std::process::id()) {
        if let Ok(process) = process.try_into() {
            let _ended_by_itself = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
}
