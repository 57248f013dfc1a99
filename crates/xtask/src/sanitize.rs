//! `cargo xtask sanitize`: tests under the sanitizers of the compiler.

use std::fs;

use anyhow::Result;
use clap::Args;

use crate::run::{cargo, run, target};

/// The flags are for this platform's programs alone, not for what runs while building.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What `sanitize` can be told.
#[derive(Debug, Args)]
pub(crate) struct SanitizeOptions {
    /// Only data races
    #[arg(long)]
    thread: bool,
    /// Only accesses outside of what was allocated
    #[arg(long, conflicts_with = "thread")]
    address: bool,
}

/// ThreadSanitizer over the device's tests, AddressSanitizer over the cipher's and the device's. The engine has neither
/// threads nor unsafe code.
pub(crate) fn all(options: &SanitizeOptions) -> Result<()> {
    if !options.address {
        // A lock that is waited for is taken within the standard library, where ThreadSanitizer does not see it: what it
        // says of that once, it does not say each time.
        under("thread", "adit-device", &["--lib", "--retries", "2", "-E", &format!("not {CALLS}")])?;
    }
    if !options.thread {
        under("address", "adit-aead", &[])?;
        // A program that begins confined cannot read in /proc that it is not to look for leaks, nor can it look.
        let started = "test(/the_program_can_be_started_again|the_programs_folder_can_be_read_and_run/)";
        let filter = format!("not {started} and not {CALLS}");
        under("address", "adit-device", &["--lib", "-E", &filter])?;
    }
    Ok(())
}

/// Hundreds of processes, each of which makes one system call: what there is to find, others find in less time.
const CALLS: &str = "test(/^confine::tests::calls/)";

/// What ThreadSanitizer is not to tell of: the test harness comes with the standard library, which is not instrumented, so
/// how it hands on a test's result looks like a race. Functions have names only where there is `llvm-symbolizer`.
const SUPPRESSIONS: &str = "race:CompletedTest\nrace:test::\n";

/// The sanitizers are not stable, so the compiler must be told to let us, and to let instrumented code call the standard
/// library that it comes with.
fn under(sanitizer: &str, package: &str, arguments: &[&str]) -> Result<()> {
    let folder = target().join(sanitizer);
    fs::create_dir_all(&folder)?;
    let suppressions = folder.join("suppressions");
    fs::write(&suppressions, SUPPRESSIONS)?;
    run(cargo()
        .args(["nextest", "run", "--target", PLATFORM, "--package", package, "--target-dir"])
        .arg(&folder)
        .args(arguments)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer"))
        .env("TSAN_OPTIONS", format!("suppressions={}", suppressions.display())))
}
