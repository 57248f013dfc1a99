//! The project's chores, run as `cargo xtask CHORE`.
//!
//! `setup` installs what the tests need, `test` runs every test of the workspace. `compare` measures Adit beside the
//! other implementations, `floods` the same under floods. `soak` looks for what a daemon does not give back. `fuzz`,
//! `supply-chain`, `repeatable`, `constant-time` and `sanitize` are the proofs that `SECURITY.md` rests on. What a
//! submission must pass is in `.ci/run`.

mod compare;
mod constant_time;
mod debian;
mod floods;
mod fuzz;
mod kernel;
mod peers;
mod repeatable;
mod run;
mod sanitize;
mod setup;
mod soak;
mod supply_chain;
mod test;

use clap::{Args, Parser, Subcommand};

fn main() -> anyhow::Result<()> {
    match Xtask::parse().chore {
        // What comes next.
        Chore::Setup => setup::all("test"),
        Chore::Test(options) => test::all(&options),
        Chore::Compare(options) => compare::all(&options),
        Chore::Floods(options) => floods::all(&options),
        Chore::Soak(options) => soak::all(&options),
        Chore::Fuzz(options) => fuzz::all(&options),
        Chore::SupplyChain => supply_chain::check(),
        Chore::Repeatable(options) => repeatable::all(&options),
        Chore::ConstantTime(options) => constant_time::all(&options),
        Chore::Sanitize(options) => sanitize::all(&options),
    }
}

/// The project's chores.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install what the tests need, and say what and why
    Setup,
    /// Set up, build once, then run every test of the workspace
    Test(TestOptions),
    /// Measure Adit and the other implementations side by side, and write the report with its charts
    Compare(compare::CompareOptions),
    /// Measure Adit and the other implementations under floods side by side, and write the report
    Floods(floods::FloodsOptions),
    /// Whether a daemon holds no more memory and descriptors after long and eventful use than before
    Soak(soak::SoakOptions),
    /// Give whatever Adit takes from outside to a coverage-guided fuzzer
    Fuzz(fuzz::FuzzOptions),
    /// Whether the dependencies keep the rules of deny.toml, and each has its reason in docs/dependencies.md
    SupplyChain,
    /// Build the release binary in two folders, and compare the bytes
    Repeatable(repeatable::RepeatableOptions),
    /// Whether timing tells of secrets
    ConstantTime(constant_time::ConstantTimeOptions),
    /// Tests under the compiler's sanitizers
    Sanitize(sanitize::SanitizeOptions),
}

/// What `test` can be told.
#[derive(Debug, Args)]
struct TestOptions {
    /// Leave out the tests that last through a rekey and those that boot a kernel
    #[arg(long)]
    fast: bool,
    /// Put the optimized daemon under test instead of the one with debug assertions
    #[arg(long)]
    release: bool,
    /// Install nothing: everything is there already
    #[arg(long)]
    no_setup: bool,
    /// Handed to `cargo nextest run`, for instance a part of a test's name
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}
