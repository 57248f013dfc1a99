//! The project's chores, run as `cargo xtask CHORE`.
//!
//! `setup` installs what the tests need, `test` runs every test of the workspace, `ci` is what a submission must pass.
//! `compare` measures Adit beside the other implementations.

mod compare;
mod debian;
mod kernel;
mod peers;
mod run;
mod setup;
mod test;

use clap::{Args, Parser, Subcommand};

fn main() -> anyhow::Result<()> {
    match Xtask::parse().chore {
        Chore::Setup => setup::all(),
        Chore::Test(options) => test::all(&options),
        Chore::Compare(options) => compare::all(&options),
        Chore::Ci(options) => {
            test::lint()?;
            test::all(&options)
        }
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
    /// Formatting, clippy and documentation with warnings denied, then `test`
    Ci(TestOptions),
}

/// What `test` and `ci` can be told.
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
