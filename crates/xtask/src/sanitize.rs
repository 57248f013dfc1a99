//! `cargo xtask sanitize`: tests under the sanitizers of the compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::run::{Scratch, cargo, output, run, target, tests_of};
use crate::{kernel, peers, setup};

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
    /// Only data races, in the whole daemon with the standard library, through the tests of whole systems. It takes the
    /// library's source: `rustup component add rust-src`
    #[arg(long, conflicts_with_all = ["thread", "address"])]
    whole: bool,
}

/// ThreadSanitizer over the device's tests, AddressSanitizer over the cipher's and the device's. The engine has neither
/// threads nor unsafe code.
pub(crate) fn all(options: &SanitizeOptions) -> Result<()> {
    if options.whole {
        return whole();
    }
    if !options.address {
        // A lock that is waited for is taken within the standard library, where ThreadSanitizer does not see it: what
        // it says of that once, it does not say each time.
        let filter = format!("not {CALLS} and not {UNSEEN} and not {ALONE}");
        under("thread", &["--package", "adit-device", "--lib", "--retries", "2", "-E", &filter])?;
    }
    if !options.thread {
        // A program that begins confined cannot read in /proc that it is not to look for leaks, nor can it look.
        let started = "test(/the_program_can_be_started_again|the_programs_folder_can_be_read_and_run/)";
        let filter = format!("not {started} and not {CALLS}");
        let cipher = tests_of("adit-aead")?;
        let mut arguments = vec!["--package", "adit-aead", "--package", "adit-device", "--lib", "-E", &filter];
        arguments.extend(cipher.iter().map(String::as_str));
        under("address", &arguments)?;
    }
    Ok(())
}

/// Hundreds of processes, each of which makes one system call: what there is to find, others find in less time.
const CALLS: &str = "test(/^confine::tests::calls/)";

/// What ThreadSanitizer cannot judge without the standard library: threads that do nothing but wait for a lock. With
/// `--whole` it sees the gate at work.
const UNSEEN: &str = "test(/^worker::gate::tests/)";

/// Tests of what has but one thread; those of the confinement start others only to see how they are confined.
const ALONE: &str = "test(/^(confine|conf|offload|quick|uapi::(request|reply|value))::/)";

/// What ThreadSanitizer is not to tell of: the test harness comes with the standard library, which is not instrumented,
/// so how it hands on a test's result looks like a race. Functions have names only where there is `llvm-symbolizer`.
const SUPPRESSIONS: &str = "race:CompletedTest\nrace:test::\n";

/// Instrumented code may call the standard library that the compiler comes with.
fn under(sanitizer: &str, arguments: &[&str]) -> Result<()> {
    // The same for each: what runs while building is built once.
    let folder = target().join("sanitized");
    fs::create_dir_all(&folder)?;
    let suppressions = folder.join("suppressions");
    fs::write(&suppressions, SUPPRESSIONS)?;
    run(unstable(&format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer"))
        .args(["nextest", "run", "--target", PLATFORM, "--target-dir"])
        .arg(&folder)
        .args(arguments)
        .env("TSAN_OPTIONS", format!("suppressions={}", suppressions.display())))
}

/// What is left out of the tests of whole systems: those of the confinement, without which the daemon runs here; those
/// of other machines and service managers; those that start it in the background, since a program that ThreadSanitizer
/// watches has a thread from the start, and does not get past its fork; and floods, which look at how much memory there
/// is, much of which is the sanitizer's.
const LEFT_OUT: &str =
    "binary(kernel) or binary(systemd) or binary(privileges) or binary(floods) or test(/background|demo|kernel/)";

/// The daemon and the standard library under ThreadSanitizer, beside the ordinary programs that drive it.
fn whole() -> Result<()> {
    setup::all("look for data races in the whole daemon")?;
    let library = standard_library()?;
    let folder = target().join("thread-whole");
    run(unstable("-Zsanitizer=thread")
        .args(["build", "--locked", "--package", "adit-cli", "-Zbuild-std", "--target", PLATFORM, "--target-dir"])
        .arg(&folder))
    .with_context(|| format!("with the standard library of {}", library.display()))?;
    let reports = Scratch::new(folder.join("reports"))?;
    let tests = run(cargo()
        // It is several times slower, so a packet is late now and then.
        .args(["nextest", "run", "--package", "adit-tests", "--no-fail-fast", "--retries", "2"])
        .args(["-E", &format!("not ({LEFT_OUT})")])
        .env("ADIT_BIN", folder.join(PLATFORM).join("debug").join("adit"))
        .env("ADIT_UNCONFINED", "1")
        .env("ADIT_PEERS", peers::binaries())
        .env("ADIT_KERNEL", kernel::folder())
        // The daemons are killed or detached, so their exit status tells nobody.
        .env("TSAN_OPTIONS", format!("log_path={}", reports.path().join("of").display())));
    let mut found = 0;
    for report in fs::read_dir(reports.path())? {
        eprintln!("{}", String::from_utf8_lossy(&fs::read(report?.path())?));
        found += 1;
    }
    ensure!(found == 0, "ThreadSanitizer reports something of {found} processes: see above");
    tests
}

/// Where the source of the standard library is.
fn standard_library() -> Result<PathBuf> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if !library.join("std/Cargo.toml").exists() {
        bail!(
            "{} is missing: the standard library is to be instrumented, too, which takes its source. \
             `rustup component add rust-src` installs it",
            library.display()
        );
    }
    Ok(library)
}

/// `cargo`, with flags for the compiler that are not stable, so that it must be told to let us.
fn unstable(flags: &str) -> Command {
    let mut command = cargo();
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", flags);
    command
}
